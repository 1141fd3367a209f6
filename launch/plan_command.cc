#include "launch/plan_command.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <system_error>
#include <unordered_set>
#include <utility>

#include "base/strcat.h"
#include "ps/client.h"
#include "ps/dense_layout.h"
#include "ps/memory_plan.h"
#include "ps/optimizer.h"
#include "ps/route.h"
#include "ps/slots.h"
#include "ps/sparse_table.h"
#include "worker/consistency.h"
#include "worker/input/examples.h"
#include "worker/input/prepare.h"
#include "worker/job.h"
#include "worker/job.pb.h"
#include "worker/model.h"
#include "worker/step_input.h"

namespace shoal::launch {
namespace {

namespace fs = std::filesystem;

// A row's share of the index, whose buckets are from a half to full
// (benchmarks/sparse_table.md, at rest).
constexpr int64_t kIndexBytes = 24;

// Prepared data, gone with the command.
class ScratchFolder {
 public:
  ScratchFolder()
      : path_(fs::temp_directory_path() / StrCat("shoal-plan-", getpid())) {}
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  std::string path() const { return path_.string(); }

 private:
  fs::path path_;
};

// As the coordinator's first route has them.
ps::RouteTable FirstRoute(const worker::ClusterSpec& cluster) {
  std::vector<ps::ShardPlace> places;
  for (int server = 0; server < cluster.servers(); ++server) {
    for (int shard = 0; shard < cluster.shards(); ++shard) {
      places.push_back(
          {.shard = server * cluster.shards() + shard, .server = server});
    }
  }
  ps::RouteTable route;
  route.slot_bits = ps::SlotBitsFor(static_cast<int>(places.size()));
  route.shards.resize(places.size());
  route.SetChains(
      ps::FirstChains(route.num_slots(), places, cluster.replicas()));
  return route;
}

// The distinct ids that training looks up in each group of tables, by slot.
StatusOr<std::vector<std::vector<int64_t>>> CountIds(
    const worker::JobSpec& job, const worker::PreparedData& data,
    const worker::ModelGraph& model, const ps::RouteTable& route) {
  SHOAL_ASSIGN_OR_RETURN(
      worker::Examples train,
      worker::Examples::Open(data.train.path, data.train.rows));
  worker::StepSource source({.train = std::move(train),
                             .seed = job.seed(),
                             .shuffle = false,
                             .batch_size = job.train().batch_size(),
                             .groups = model.groups});
  const auto heads = ps::SlotHeads::Of(route);
  std::vector<std::unordered_set<uint64_t>> seen(model.groups.size());
  std::vector<std::vector<int64_t>> counts(
      model.groups.size(),
      std::vector<int64_t>(static_cast<size_t>(route.num_slots())));
  worker::StepInput input;
  for (int64_t step = 0; step < source.steps_per_epoch(); ++step) {
    SHOAL_RETURN_IF_ERROR(source.FillTrain(step, heads, input));
    for (size_t g = 0; g < counts.size(); ++g) {
      for (const uint64_t id : input.groups[g].ids) {
        if (seen[g].insert(id).second) {
          ++counts[g][static_cast<size_t>(
              ps::SlotOfHash(ps::IdHash(id), route.slot_bits))];
        }
      }
    }
  }
  return counts;
}

std::string Mebibytes(double bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f MiB", bytes / (1 << 20));
  return text;
}

}  // namespace

Status RunPlan(const std::string& job_path,
               const std::vector<std::string>& overrides) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<worker::JobSpec> job,
                         worker::LoadJob(job_path, overrides));
  const ScratchFolder scratch;
  const auto threads =
      static_cast<int>(std::max<long>(1, sysconf(_SC_NPROCESSORS_ONLN)));
  SHOAL_ASSIGN_OR_RETURN(
      const worker::PreparedData data,
      worker::Prepare(*job, scratch.path(), nullptr, threads));
  SHOAL_ASSIGN_OR_RETURN(
      const worker::ModelGraph model,
      worker::BuildModel(*job, data.schema, data.label_mean));
  const worker::ClusterSpec& cluster = job->cluster();
  const ps::RouteTable route = FirstRoute(cluster);
  SHOAL_ASSIGN_OR_RETURN(const auto counts, CountIds(*job, data, model, route));
  const bool on_workers = worker::ChooseConsistency(*job, model.spec).dense !=
                          ps::DensePlace::kShards;

  std::printf(
      "%s: %lld training examples; %d server%s of %d shard%s, %lld "
      "slots with %d replica%s each\n",
      job->name().c_str(), static_cast<long long>(data.train.num_rows),
      cluster.servers(), cluster.servers() == 1 ? "" : "s", cluster.shards(),
      cluster.shards() == 1 ? "" : "s",
      static_cast<long long>(route.num_slots()), cluster.replicas(),
      cluster.replicas() == 1 ? "" : "s");

  // Tables: the same ids in all of a group.
  SHOAL_ASSIGN_OR_RETURN(const auto tables,
                         ps::MakeTables(model.spec, route.slot_bits));
  std::vector<double> slot_bytes(static_cast<size_t>(route.num_slots()));
  std::vector<int64_t> slot_rows(slot_bytes.size());
  bool rules = false;
  for (size_t g = 0; g < counts.size(); ++g) {
    for (const int index : model.spec.groups[g]) {
      const ps::SparseTable& table = *tables[static_cast<size_t>(index)];
      const int64_t row_bytes =
          8 + table.value_bytes() + table.state_floats() * 4;
      int64_t rows = 0;
      for (size_t slot = 0; slot < slot_bytes.size(); ++slot) {
        rows += counts[g][slot];
        slot_rows[slot] += counts[g][slot];
        slot_bytes[slot] += static_cast<double>(
            counts[g][slot] * (table.row_bytes() + kIndexBytes));
      }
      const ps::RowRules& kept =
          model.spec.tables[static_cast<size_t>(index)].rules;
      const bool fewer = kept.counts() || kept.evicts() || kept.probability < 1;
      rules = rules || fewer;
      std::printf("table %s: %s%lld rows of %lld bytes (%lld of values)\n",
                  table.name().c_str(), fewer ? "at most " : "",
                  static_cast<long long>(rows),
                  static_cast<long long>(row_bytes),
                  static_cast<long long>(table.value_bytes()));
    }
  }

  // Dense variables, by whoever holds them.
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<ps::Optimizer> optimizer,
                         ps::CreateOptimizer(model.spec.dense_optimizer));
  const ps::DenseLayout layout(model.spec);
  const auto dense_bytes = [&](const std::function<bool(int64_t)>& has_slot,
                               bool held_by_workers) {
    int64_t bytes = 0;
    for (const ps::DenseChunk& chunk :
         layout.PortionOf(route.slot_bits, held_by_workers, has_slot).chunks) {
      bytes += 4 * (chunk.count + optimizer->StateFloats(chunk.count));
    }
    return bytes;
  };
  const int64_t all_dense = dense_bytes([](int64_t) { return true; }, false);
  std::printf("dense variables: %s with the optimizer's state, on the %s\n",
              Mebibytes(static_cast<double>(all_dense)).c_str(),
              on_workers ? "workers, each of which has them" : "servers");

  double largest = 0;  // shard
  std::printf("%-10s %12s %14s %14s\n", "server", "rows", "tables", "dense");
  for (int server = 0; server < cluster.servers(); ++server) {
    int64_t rows = 0;
    double of_tables = 0;
    double of_dense = 0;
    for (int i = 0; i < cluster.shards(); ++i) {
      const int shard = server * cluster.shards() + i;
      const auto holds = [&](int64_t slot) {
        return route.ChainOf(slot).HasMember(shard);
      };
      double bytes = 0;
      for (int64_t slot = 0; slot < route.num_slots(); ++slot) {
        if (holds(slot)) {
          rows += slot_rows[static_cast<size_t>(slot)];
          bytes += slot_bytes[static_cast<size_t>(slot)];
        }
      }
      const auto dense = static_cast<double>(dense_bytes(holds, on_workers));
      largest = std::max(largest, bytes + dense);
      of_tables += bytes;
      of_dense += dense;
    }
    std::printf("%-10d %12lld %14s %14s\n", server,
                static_cast<long long>(rows), Mebibytes(of_tables).c_str(),
                Mebibytes(of_dense).c_str());
  }
  const auto bound = static_cast<double>(cluster.memory_per_server()) /
                     static_cast<double>(cluster.shards());
  if (bound > 0 && largest > bound) {
    std::printf(
        "The largest shard has %s, more than the %s that "
        "cluster.memory_per_server leaves it: rows beyond that go to disk "
        "where tables.*.tier says so, and end the job where it does not.\n",
        Mebibytes(largest).c_str(), Mebibytes(bound).c_str());
  }
  std::printf(
      "Not counted: the program itself, messages under way, rows of a "
      "checkpoint that is restored%s.\n",
      rules ? "; what admission and eviction keep out" : "");
  return OkStatus();
}

}  // namespace shoal::launch
