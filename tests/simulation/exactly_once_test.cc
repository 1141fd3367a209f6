// Outside `sync`, with several workers: what servers hold at the end is told
// from what workers sent and were answered alone. The optimizer of the tables
// counts the updates of each row, so that a push that was lost or applied twice
// shows in the checkpoint, whatever the order was.

#include <bit>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "gtest/gtest.h"

#include "base/strcat.h"
#include "comm/rpc.h"
#include "ps/checkpoint_scan.h"
#include "ps/protocol.pb.h"
#include "ps/wire.h"
#include "tests/simulation/cluster_world.h"
#include "tests/simulation/forwarding.h"
#include "tests/simulation/push_watch.h"

namespace shoal::simulation {
namespace {

constexpr Duration kTimeout = std::chrono::seconds(4);  // of the simulated job

class ExactlyOnceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made =
        SimulatedJob::Create({"tables.linear={optimizer: {kind: "
                              "lazy_adam, learning_rate: 0.01}}",
                              "tables.embedding={optimizer: {kind: "
                              "lazy_adam, learning_rate: 0.01}}"});
    ASSERT_TRUE(made.ok()) << made.status();
    job_ = *std::move(made);
  }

  // Each row of the checkpoint at the end, against what workers saw. Gives the
  // first that is wrong, or nothing.
  std::string WrongRow(const RunResult& result, const PushWatch& watch) {
    const ps::ModelSpec model = job_->CoordinatorOptions().model;
    const auto counts = watch.CountsOfIds();
    const auto scan = ps::ScanCheckpoint(
        *result.files, StrCat(kCheckpoints, "/step-", SimulatedJob::kSteps));
    EXPECT_TRUE(scan.ok()) << scan.status();
    std::string wrong;
    size_t rows = 0;
    for (size_t g = 0; g < model.groups.size(); ++g) {
      for (const int table : model.groups[g]) {
        const ps::TableSpec& spec = model.tables[static_cast<size_t>(table)];
        const Status walked = ps::WalkRows(
            *result.files, std::span(&*scan, 1), spec.name,
            [&](uint64_t id, const ps::SlotSet&,
                std::span<const ps::RowRef> row) {
              ++rows;
              // Two moments, then the number of updates.
              const int64_t updates = std::bit_cast<uint32_t>(
                  row[0].state[static_cast<size_t>(2 * spec.dim)]);
              const auto count = counts.find({static_cast<int>(g), id});
              const PushWatch::Count want =
                  count == counts.end() ? PushWatch::Count() : count->second;
              if (updates < want.acknowledged || updates > want.sent) {
                wrong = StrCat(spec.name, " ", id, " was updated ", updates,
                               " times; ", want.acknowledged,
                               " pushes of it were acknowledged, ", want.sent,
                               " sent");
              }
              return OkStatus();
            });
        EXPECT_TRUE(walked.ok()) << walked;
      }
    }
    EXPECT_GT(rows, 100U);
    return wrong;
  }

  static RunPlan Plan(uint64_t seed) {
    return {.seed = seed,
            .mode = seed % 2 == 0 ? ps::Mode::kAsync : ps::Mode::kBounded,
            .staleness = static_cast<int64_t>(seed % 3),
            .workers = 2 + static_cast<int>(seed % 3),
            .crashes = 0,
            .replicas = 2 + static_cast<int>(seed % 2),
            .server_crashes = 2,
            .coordinator_crashes = static_cast<int>(seed / 2 % 2),
            .scales = static_cast<int>(seed / 4 % 2),
            .partitions = 2,
            .slow_processes = 1};
  }

  std::unique_ptr<SimulatedJob> job_;
};

TEST_F(ExactlyOnceTest, RowsHaveEveryPushThatWasAcknowledgedOnce) {
  int crashed = 0;
  int64_t repeated = 0;
  for (uint64_t seed = 1; seed <= 100 / kShare; ++seed) {
    SCOPED_TRACE(StrCat("seed ", seed));
    RunPlan plan = Plan(seed);
    PushWatch watch(job_->CoordinatorOptions().model, plan, kTimeout);
    plan.decorate = watch.Around();
    const RunResult result = RunJob(*job_, plan);
    ASSERT_TRUE(result.status.ok()) << result.status;
    ASSERT_EQ(result.violation, "");
    ASSERT_GE(result.faults, 5);
    EXPECT_EQ(watch.num_pushes(), SimulatedJob::kSteps);
    ASSERT_EQ(WrongRow(result, watch), "");
    for (const std::string& violation : watch.violations()) {
      FAIL() << violation;
    }
    crashed += result.crashed;
    repeated += watch.num_repeated();
  }
  EXPECT_GT(static_cast<uint64_t>(crashed), 100 / kShare);
  EXPECT_GT(static_cast<uint64_t>(repeated), 50 / kShare);
}

// Shows that the watch sees what it is for: a push that is sent again is taken
// for the next one, of which the worker then sends another.
TEST_F(ExactlyOnceTest, FindsPushesThatAreAppliedTwice) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    RunPlan plan = Plan(seed);
    PushWatch watch(job_->CoordinatorOptions().model, plan, kTimeout);
    plan.decorate =
        [around = watch.Around()](
            const std::string& name,
            std::unique_ptr<comm::Node> node) -> std::unique_ptr<comm::Node> {
      if (!name.starts_with("server")) {
        return around(name, std::move(node));
      }
      return std::make_unique<ChangingNode>(
          std::move(node), [seen = std::set<std::pair<uint64_t, uint64_t>>()](
                               comm::NodeContext&, comm::EndpointId from,
                               comm::Message& message) mutable {
            ps::wire::Push push;
            if (Is(message, ps::Method::kPush) &&
                ps::Decode(message, push).ok() &&
                !seen.emplace(from.value, push.sequence()).second) {
              push.set_sequence(push.sequence() + 1);
              message.frames[0] = ps::Encode(push);
            }
            return true;
          });
    };
    const RunResult result = RunJob(*job_, plan);
    if (result.status.ok() && !WrongRow(result, watch).empty()) {
      return;
    }
  }
  FAIL() << "not found";
}

// A worker that dies may leave a push that was not acknowledged, applied
// somewhere and not elsewhere: but nothing twice, and none that was.
TEST_F(ExactlyOnceTest, AlsoWhenWorkersAreLost) {
  int64_t pushes = 0;
  for (uint64_t seed = 1; seed <= 60 / kShare; ++seed) {
    SCOPED_TRACE(StrCat("seed ", seed));
    RunPlan plan = Plan(seed * 2);  // async
    plan.crashes = 2;
    PushWatch watch(job_->CoordinatorOptions().model, plan, kTimeout);
    plan.decorate = watch.Around();
    const RunResult result = RunJob(*job_, plan);
    ASSERT_TRUE(result.status.ok()) << result.status;
    ASSERT_EQ(WrongRow(result, watch), "");
    pushes += watch.num_pushes();
  }
  EXPECT_GT(pushes, static_cast<int64_t>(50 * (60 / kShare)));
}

// In `sync` the rows of a pull are those of its step, whoever is lost.
TEST_F(ExactlyOnceTest, SyncPullsGetTheirStep) {
  for (uint64_t seed = 1; seed <= 20 / kShare; ++seed) {
    RunPlan plan = {.seed = seed,
                    .replicas = 2,
                    .server_crashes = 2,
                    .coordinator_crashes = 1,
                    .partitions = 2};
    PushWatch watch(job_->CoordinatorOptions().model, plan, kTimeout);
    plan.decorate = watch.Around();
    const RunResult result = RunJob(*job_, plan);
    ASSERT_TRUE(result.status.ok()) << "seed " << seed << result.status;
    for (const std::string& violation : watch.violations()) {
      FAIL() << "seed " << seed << ": " << violation;
    }
  }
}

}  // namespace
}  // namespace shoal::simulation
