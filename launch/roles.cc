#include "launch/roles.h"

#include <thread>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/strcat.h"
#include "base/trace.h"
#include "comm/listen.h"
#include "comm/pump.h"
#include "ps/shard.h"
#include "worker/open_worker.h"
#include "worker/worker_node.h"

namespace shoal::launch {
namespace {

// Nodes of one role, each pumped by a thread of its own.
class NodesRole : public Role {
 public:
  // `name`: of its thread in the timeline.
  Status Add(const RoleOptions& role, std::string name,
             std::unique_ptr<comm::Node> node) {
    comm::Pump::Options options;
    options.transport = role.transport;
    SHOAL_ASSIGN_OR_RETURN(options.endpoint.listen,
                           comm::ListenFacing(role.coordinator.address));
    options.endpoint.self = comm::EndpointId{EntropySeed()};
    SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<comm::Pump> pump,
                           comm::Pump::Create(options));
    parts_.push_back(
        {std::move(name), std::move(pump), std::move(node), OkStatus()});
    return OkStatus();
  }

  Status Run() override {
    std::vector<std::thread> threads;
    for (size_t i = 1; i < parts_.size(); ++i) {
      threads.emplace_back([this, i] { RunPart(parts_[i]); });
    }
    RunPart(parts_[0]);
    for (std::thread& thread : threads) {
      thread.join();
    }
    for (const Part& part : parts_) {
      if (!part.status.ok()) {
        return part.status;
      }
    }
    return OkStatus();
  }

  void Interrupt(const Status& why) override {
    for (Part& part : parts_) {
      part.pump->Interrupt(why);
    }
  }

 private:
  struct Part {
    std::string name;
    std::unique_ptr<comm::Pump> pump;
    std::unique_ptr<comm::Node> node;
    Status status;
  };

  // One that fails takes the others with it.
  void RunPart(Part& part) {
    SetTraceThreadName(part.name);
    part.status = part.pump->Run(*part.node);
    if (!part.status.ok()) {
      Interrupt(CancelledError(StrCat("another part of this process failed: ",
                                      part.status.message())));
    }
  }

  std::vector<Part> parts_;
};

ps::ReportFn ShardReport(StatusBoard* board, int shard) {
  if (board == nullptr) {
    return nullptr;
  }
  return [board, shard, labels = StrCat("shard=\"", shard, "\"")](
             const ps::MemberReport& report) {
    board->SetReady(shard, report.ready);
    board->Set("shoal_step", labels, static_cast<double>(report.step));
    board->Set("shoal_table_rows", labels,
               static_cast<double>(report.table_rows));
    board->Set("shoal_rows_on_disk", labels,
               static_cast<double>(report.rows_on_disk));
    board->Set("shoal_rows_fetched_total", labels,
               static_cast<double>(report.rows_fetched));
    board->Set("shoal_table_bytes", labels,
               static_cast<double>(report.table_bytes));
    board->Set("shoal_table_candidates", labels,
               static_cast<double>(report.candidates));
    board->Set("shoal_rows_admitted_total", labels,
               static_cast<double>(report.rows_admitted));
    board->Set("shoal_rows_evicted_total", labels,
               static_cast<double>(report.rows_evicted));
  };
}

ps::ReportFn WorkerReport(StatusBoard* board) {
  if (board == nullptr) {
    return nullptr;
  }
  return [board](const ps::MemberReport& report) {
    board->SetReady(0, report.ready);
    board->Set("shoal_step", "", static_cast<double>(report.step));
    board->Set("shoal_examples_total", "",
               static_cast<double>(report.examples));
    board->Set("shoal_dense_bytes", "",
               static_cast<double>(report.dense_bytes));
    board->Set("shoal_steps_stood_in_total", "",
               static_cast<double>(report.stood_in));
    if (!report.staleness.empty()) {
      board->Set("shoal_staleness_clocks", "", report.staleness);
    }
  };
}

}  // namespace

StatusOr<std::unique_ptr<Role>> Role::CreateServer(const RoleOptions& options) {
  auto role = std::make_unique<NodesRole>();
  if (options.board != nullptr) {
    options.board->SetParts(options.shards);
  }
  for (int shard = 0; shard < options.shards; ++shard) {
    SHOAL_RETURN_IF_ERROR(
        role->Add(options, StrCat("shard ", shard),
                  std::make_unique<ps::Shard>(ps::Shard::Options{
                      .coordinator = options.coordinator,
                      .find_coordinator = options.find_coordinator,
                      .server = options.index,
                      .shard = shard,
                      .join_within = options.join_within,
                      .report = ShardReport(options.board, shard)})));
  }
  return std::unique_ptr<Role>(std::move(role));
}

StatusOr<std::unique_ptr<Role>> Role::CreateWorker(const RoleOptions& options) {
  auto role = std::make_unique<NodesRole>();
  SHOAL_RETURN_IF_ERROR(role->Add(
      options, "node",
      std::make_unique<worker::WorkerNode>(worker::WorkerNode::Options{
          .coordinator = options.coordinator,
          .find_coordinator = options.find_coordinator,
          .worker = options.index,
          .join_within = options.join_within,
          .open = &worker::OpenWorker,
          .open_device = &worker::OpenWorkerDevice,
          .report = WorkerReport(options.board)})));
  return std::unique_ptr<Role>(std::move(role));
}

}  // namespace shoal::launch
