// A whole cluster in one thread under a virtual clock: whatever connections
// break and workers crash, `sync` gives the bits of the undisturbed run. And
// bugs of the kind that only such runs show, planted on purpose, are found.

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/strcat.h"
#include "ps/protocol.pb.h"
#include "ps/wire.h"
#include "tests/simulation/cluster_world.h"
#include "tests/simulation/forwarding.h"

namespace shoal::simulation {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

uint64_t NumberFromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

constexpr uint64_t kFewer = kShare > 1 ? 5 : 1;  // where each is of more kinds

class SimulationTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    StatusOr<std::unique_ptr<SimulatedJob>> made = SimulatedJob::Create();
    ASSERT_TRUE(made.ok()) << made.status();
    job = made->release();
    made = SimulatedJob::Create({"checkpoint.full_every=3"});
    ASSERT_TRUE(made.ok()) << made.status();
    incremental_job = made->release();
    const RunResult calm = RunJob(*job, {.faults = false, .crashes = 0});
    ASSERT_TRUE(calm.status.ok()) << calm.status;
    undisturbed_digest = calm.digest;
    undisturbed_digests = calm.digests;
    ASSERT_EQ(undisturbed_digest.size(), 32U);
    ASSERT_EQ(undisturbed_digests.size(), 3U);  // Of steps 20, 40 and 50.
  }
  static void TearDownTestSuite() {
    delete job;
    delete incremental_job;
    job = incremental_job = nullptr;
  }

  static SimulatedJob* job;
  static SimulatedJob* incremental_job;  // the same, but for its checkpoints
  static std::string undisturbed_digest;
  static std::map<int64_t, std::string> undisturbed_digests;

  // Runs `seeds` clusters, or as many as the environment says; each must end
  // well, with the bits of the undisturbed run, and what `count` counts must
  // have come about more than once in each, as a mean.
  static void ExpectBits(uint64_t seeds,
                         const std::function<RunPlan(int seed)>& plan_of,
                         int RunResult::*count) {
    seeds = NumberFromEnvironment("SHOAL_SIMULATION_SEEDS", seeds);
    const uint64_t first =
        NumberFromEnvironment("SHOAL_SIMULATION_FIRST_SEED", 1);
    int64_t events = 0;
    int counted = 0;
    int faults = 0;
    double repair = 0;
    for (uint64_t seed = first; seed < first + seeds; ++seed) {
      RunPlan plan = plan_of(static_cast<int>(seed));
      plan.seed = seed;
      plan.digests = undisturbed_digests;
      const RunResult result =
          RunJob(seed % 3 == 0 ? *incremental_job : *job, plan);
      ASSERT_TRUE(result.status.ok())
          << "seed " << seed << ": " << result.status;
      ASSERT_EQ(result.digest, undisturbed_digest) << "seed " << seed;
      ASSERT_EQ(result.violation, "") << "seed " << seed;
      ASSERT_GE(result.faults, 5) << "seed " << seed;
      events += result.num_events;
      counted += count == nullptr ? 0 : result.*count;
      faults += result.faults;
      repair = std::max(repair, result.repair_seconds);
    }
    std::cout << "seeds " << first << " to " << first + seeds - 1 << ": "
              << events << " events, " << faults << " faults, repaired within "
              << repair << " s";
    if (count != nullptr) {
      std::cout << ", of what is tried here " << counted;
      EXPECT_GT(counted, static_cast<int>(seeds));
    }
    std::cout << "\n";
  }

  // Runs seeds until one shows that something is wrong; whether any did.
  static bool Finds(const Decorate& decorate, uint64_t seeds) {
    for (uint64_t seed = 1; seed <= seeds; ++seed) {
      const RunResult result =
          RunJob(*job, {.seed = seed, .decorate = decorate});
      if (!result.ended || !result.status.ok() ||
          result.digest != undisturbed_digest || !result.violation.empty()) {
        std::cout << "found with seed " << seed << ": "
                  << (result.status.ok() ? "another digest"
                                         : result.status.ToString())
                  << "\n";
        return true;
      }
    }
    return false;
  }
};

SimulatedJob* SimulationTest::job = nullptr;
SimulatedJob* SimulationTest::incremental_job = nullptr;
std::string SimulationTest::undisturbed_digest;
std::map<int64_t, std::string> SimulationTest::undisturbed_digests;

TEST_F(SimulationTest, FaultsLeaveTheBitsOfTheUndisturbedRun) {
  ExpectBits(
      std::getenv("SHOAL_NIGHTLY") == nullptr ? 500 / kShare : 10000,
      [](int seed) {
        return RunPlan{.partitions = seed % 3, .slow_processes = seed % 2};
      },
      nullptr);
}

// The network parts for a while, one way or both, somewhere or around one
// process: of those whose replicas are elsewhere some are given up, and come
// back; others are slow.
TEST_F(SimulationTest, PartitionsLeaveTheBitsOfTheUndisturbedRun) {
  ExpectBits(
      200 / kShare,
      [](int seed) {
        const int replicas = 1 + seed % 3;
        return RunPlan{.crashes = 1,
                       .replicas = replicas,
                       .server_crashes = replicas > 1 ? 1 : 0,
                       .coordinator_crashes = seed % 2,
                       .scales = seed % 4 == 0 ? 1 : 0,
                       .partitions = 4,
                       .slow_processes = 2};
      },
      &RunResult::partitioned);
}

// Servers are killed while everything else goes wrong too, each as soon as all
// slots have their replicas again.
TEST_F(SimulationTest, LostServersLeaveTheBitsOfTheUndisturbedRun) {
  ExpectBits(
      300 / kShare,
      [](int seed) {
        return RunPlan{.replicas = 2 + seed % 2,
                       .server_crashes = 3,
                       .slow_processes = seed % 2};
      },
      &RunResult::crashed);
}

// The coordinator is killed at any moment, before, while and after servers and
// workers are, and another goes on from its file.
TEST_F(SimulationTest, LostCoordinatorsLeaveTheBitsOfTheUndisturbedRun) {
  ExpectBits(
      300 / kShare,
      [](int seed) {
        const int replicas = 1 + seed % 3;
        return RunPlan{.crashes = 1,
                       .replicas = replicas,
                       .server_crashes = replicas > 1 ? 2 : 0,
                       .coordinator_crashes = 3,
                       .scales = seed % 4 == 0 ? 2 : 0};
      },
      &RunResult::coordinators_crashed);
}

// The coordinator that leads is killed, or cut off from etcd for so long that
// another one leads, and comes to itself while that one does.
TEST_F(SimulationTest, LostLeadersLeaveTheBitsOfTheUndisturbedRun) {
  ExpectBits(
      300 / kShare,
      [](int seed) {
        const int replicas = 1 + seed % 3;
        return RunPlan{.crashes = 1,
                       .replicas = replicas,
                       .server_crashes = replicas > 1 ? 2 : 0,
                       .coordinator_crashes = 2,
                       .coordinators = 2 + seed % 2,
                       .cut_offs = 2,
                       .scales = seed % 4 == 0 ? 2 : 0};
      },
      &RunResult::leaders_changed);
}

// Members come and go on command, while servers are killed and all else goes
// wrong.
TEST_F(SimulationTest, OtherNumbersOfMembersLeaveTheBitsOfTheUndisturbedRun) {
  ExpectBits(
      200 / kShare,
      [](int seed) {
        const int replicas = 1 + seed % 3;
        return RunPlan{.crashes = 1,
                       .replicas = replicas,
                       .server_crashes = replicas > 1 ? 1 : 0,
                       .scales = 3};
      },
      &RunResult::scaled);
}

// Workers that are late, slow all the time or lost, have others compute the
// same beside them; who is first changes nothing.
TEST_F(SimulationTest, BackupWorkersLeaveTheBitsOfTheUndisturbedRun) {
  ExpectBits(
      200 / kShare,
      [](int seed) {
        const int replicas = 1 + seed % 3;
        const int backups = 1 + seed % 2;
        return RunPlan{.workers = 2 + backups + seed % 3,
                       .backup_workers = backups,
                       .replicas = replicas,
                       .server_crashes = replicas > 1 ? 1 : 0,
                       .coordinator_crashes = seed % 2,
                       .scales = seed % 5 == 0 ? 1 : 0,
                       .slow_processes = 2,
                       .slows_worker = seed % 4 == 0 ? 1.0 : 20.0};
      },
      &RunResult::stood_in);
}

// A job goes at the pace of the others where one of its workers is slow.
TEST_F(SimulationTest, BackupWorkerTakesTheTimeOfASlowOne) {
  RunPlan plan = {.faults = false, .crashes = 0, .slows_worker = 20};
  const RunResult slow = RunJob(*job, plan);
  plan.workers = 4;
  plan.backup_workers = 1;
  const RunResult backed = RunJob(*job, plan);
  plan.slows_worker = 1;
  const RunResult calm = RunJob(*job, plan);
  for (const RunResult& result : {slow, backed, calm}) {
    ASSERT_TRUE(result.status.ok()) << result.status;
    EXPECT_EQ(result.digest, undisturbed_digest);
  }
  EXPECT_GT(backed.stood_in, 25);
  EXPECT_LT(backed.seconds, 0.5 * slow.seconds)
      << slow.seconds << " s, and " << calm.seconds << " s where none is slow";
}

// One worker that waits for its pushes leaves no choice of an order: whatever
// is sent twice is applied once, and what a lost server had acknowledged is not
// lost.
TEST_F(SimulationTest, OutsideSyncEveryPushIsAppliedOnce) {
  RunPlan plan{.mode = ps::Mode::kBounded, .workers = 1, .crashes = 0};
  plan.faults = false;
  const RunResult calm = RunJob(*job, plan);
  ASSERT_TRUE(calm.status.ok()) << calm.status;
  plan.faults = true;
  int crashed = 0;
  for (plan.seed = 1; plan.seed <= 400 / kShare; ++plan.seed) {
    plan.replicas = 1 + static_cast<int>(plan.seed % 3);
    plan.server_crashes = plan.replicas > 1 ? 3 : 0;
    const RunResult result = RunJob(*job, plan);
    ASSERT_TRUE(result.status.ok())
        << "seed " << plan.seed << ": " << result.status;
    ASSERT_EQ(result.digest, calm.digest) << "seed " << plan.seed;
    crashed += result.crashed;
  }
  EXPECT_GT(static_cast<uint64_t>(crashed), 300 / kShare);
}

TEST_F(SimulationTest, OutsideSyncWorkersNeverWaitForEver) {
  for (const ps::Mode mode : {ps::Mode::kBounded, ps::Mode::kAsync}) {
    for (uint64_t seed = 1; seed <= 50 / kFewer; ++seed) {
      const RunPlan plan{.seed = seed,
                         .mode = mode,
                         .staleness = static_cast<int64_t>(seed % 3),
                         .workers = 2 + static_cast<int>(seed % 4),
                         .crashes = 0};
      const RunResult result = RunJob(*job, plan);
      ASSERT_TRUE(result.status.ok())
          << "seed " << seed << ": " << result.status;
      ASSERT_EQ(result.digest.size(), 32U) << "seed " << seed;
    }
  }
}

// What workers measure, whoever is lost on the way: in bounded no gradient is
// staler than the mode allows, with either placement of the dense variables.
TEST_F(SimulationTest, GradientsAreAsStaleAsTheirModeAllows) {
  for (const int64_t staleness : {0, 1, 3}) {
    Histogram all;
    for (uint64_t seed = 1; seed <= 60 / kFewer; ++seed) {
      const bool on_workers = seed % 4 == 0;
      const int replicas = on_workers ? 1 : 1 + static_cast<int>(seed % 3);
      const RunResult result =
          RunJob(*job, {.seed = seed,
                        .mode = ps::Mode::kBounded,
                        .staleness = staleness,
                        .workers = 2 + static_cast<int>(seed % 3),
                        .dense = on_workers ? ps::DensePlace::kWorkers
                                            : ps::DensePlace::kShards,
                        .faults = !on_workers,
                        .crashes = on_workers ? 0 : 2,
                        .replicas = replicas,
                        .server_crashes = replicas > 1 ? 2 : 0,
                        .coordinator_crashes = on_workers ? 0 : 1});
      ASSERT_TRUE(result.status.ok())
          << "seed " << seed << ": " << result.status;
      ASSERT_LE(result.staleness.max(), staleness) << "seed " << seed;
      all.Merge(result.staleness);
    }
    // A report that is lost with its connection leaves a gap; most are there.
    EXPECT_GT(all.count(), static_cast<int64_t>(60 / kFewer * 30));
    EXPECT_EQ(all.max(), staleness) << all.ToString();
  }
  Histogram async;
  for (uint64_t seed = 1; seed <= 20 / kFewer; ++seed) {
    const RunResult result =
        RunJob(*job, {.seed = seed, .mode = ps::Mode::kAsync, .crashes = 0});
    ASSERT_TRUE(result.status.ok()) << "seed " << seed << ": " << result.status;
    async.Merge(result.staleness);
  }
  EXPECT_GT(async.max(), 1) << async.ToString();
  EXPECT_TRUE(RunJob(*job, {.seed = 1}).staleness.empty()) << "in sync";
}

// With one worker that waits for its pushes, bounded trains what sync does: so
// whatever is switched when, and whoever is lost on the way, the bits stay.
TEST_F(SimulationTest, OtherModesLeaveTheBitsWhereTheyMeanTheSame) {
  ExpectBits(
      300 / kShare,
      [](int seed) {
        const int replicas = 1 + seed % 3;
        return RunPlan{.workers = 1,
                       .crashes = 0,
                       .replicas = replicas,
                       .server_crashes = replicas > 1 ? 2 : 0,
                       .coordinator_crashes = seed % 2,
                       .modes = {"bounded:0", "sync", "bounded:0", "sync"}};
      },
      &RunResult::switched);
}

// Among workers that are not at one clock when they are told.
TEST_F(SimulationTest, ModesChangeWhileMembersAreLost) {
  int switched = 0;
  for (uint64_t seed = 1; seed <= 120 / kShare; ++seed) {
    const bool on_workers = seed % 4 == 0;
    const int replicas = on_workers ? 1 : 1 + static_cast<int>(seed % 3);
    const RunResult result = RunJob(
        *job,
        {.seed = seed,
         .workers = 2 + static_cast<int>(seed % 3),
         .dense =
             on_workers ? ps::DensePlace::kWorkers : ps::DensePlace::kShards,
         .faults = !on_workers,
         .crashes = on_workers ? 0 : 2,
         .replicas = replicas,
         .server_crashes = replicas > 1 ? 2 : 0,
         .coordinator_crashes = on_workers ? 0 : static_cast<int>(seed % 2),
         .modes = {"bounded:1", "async", "sync", "bounded:2", "sync"}});
    ASSERT_TRUE(result.status.ok()) << "seed " << seed << ": " << result.status;
    ASSERT_EQ(result.digest.size(), 32U) << "seed " << seed;
    switched += result.switched;
  }
  EXPECT_GT(switched, static_cast<int>(2 * 120 / kShare));
}

// Routes come late to a server, and to a worker by nobody but its orders.
class HearsRoutesLate : public ForwardingNode {
 public:
  HearsRoutesLate(std::unique_ptr<comm::Node> to, bool never)
      : ForwardingNode(std::move(to)), never_(never) {}
  void OnMessage(comm::EndpointId from, comm::Message message) override {
    if (message.header.kind != comm::MessageKind::kRequest ||
        message.header.method !=
            static_cast<uint16_t>(ps::Method::kRouteChange)) {
      ForwardingNode::OnMessage(from, std::move(message));
    } else if (never_) {
      (void)context_->Send(from, comm::Lane::kUrgent,
                           comm::MakeReply(message, {}));
    } else {
      context_->SetTimer(context_->Now() + 40ms, [this, from, message] {
        ForwardingNode::OnMessage(from, message);
      });
    }
  }

 private:
  const bool never_;
};

// A worker must not push in one mode to a shard that is still in the other.
TEST_F(SimulationTest, AnOrderOfAnotherModeWaitsForTheShards) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    const RunResult result =
        RunJob(*job, {.seed = seed,
                      .workers = 1,
                      .faults = false,
                      .crashes = 0,
                      .modes = {"bounded:0", "sync", "bounded:0", "sync"},
                      .decorate = [](const std::string& name,
                                     std::unique_ptr<comm::Node> node)
                          -> std::unique_ptr<comm::Node> {
                        if (name == "coordinator") {
                          return node;
                        }
                        return std::make_unique<HearsRoutesLate>(
                            std::move(node), name.starts_with("worker"));
                      }});
    ASSERT_TRUE(result.status.ok()) << "seed " << seed << ": " << result.status;
    ASSERT_EQ(result.digest, undisturbed_digest) << "seed " << seed;
    EXPECT_GE(result.switched, 2) << "seed " << seed;
  }
}

// Pushes with the values that they were computed from, along chains that break.
TEST_F(SimulationTest, CompensatedDelaysGoOnWhenServersAreLost) {
  const auto delayed = SimulatedJob::Create(
      {"consistency.mode=async",
       "dense={kind: adagrad, learning_rate: 0.05, delay_compensation: 1}"});
  ASSERT_TRUE(delayed.ok()) << delayed.status();
  int crashed = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const RunResult result =
        RunJob(**delayed,
               {.seed = seed,
                .mode = seed % 2 == 0 ? ps::Mode::kAsync : ps::Mode::kBounded,
                .staleness = 2,
                .replicas = 2 + static_cast<int>(seed % 2),
                .server_crashes = 2});
    ASSERT_TRUE(result.status.ok()) << "seed " << seed << ": " << result.status;
    ASSERT_EQ(result.digest.size(), 32U) << "seed " << seed;
    crashed += result.crashed;
  }
  EXPECT_GT(crashed, 20);
}

// Whatever order their messages come in, workers that hold the dense variables,
// with all of the optimizer's state or a part, end with the bits of the
// servers; also beside tables whose rows may be behind by no step. A lost
// connection ends a collective, and with it the job, naming who was lost.
TEST_F(SimulationTest, DenseVariablesOnWorkersHaveTheBitsOfTheServers) {
  const std::vector<RunPlan> kinds = {
      {.dense = ps::DensePlace::kWorkers},
      {.dense = ps::DensePlace::kWorkerParts},
      {.mode = ps::Mode::kBounded, .dense = ps::DensePlace::kWorkers},
      {.mode = ps::Mode::kBounded, .dense = ps::DensePlace::kWorkerParts}};
  for (size_t kind = 0; kind < kinds.size(); ++kind) {
    int lost = 0;
    for (uint64_t seed = 1; seed <= 30 / kFewer; ++seed) {
      SCOPED_TRACE(StrCat("kind ", kind, ", seed ", seed));
      RunPlan plan = kinds[kind];
      plan.seed = seed;
      const RunResult faulty = RunJob(*job, plan);
      ASSERT_TRUE(faulty.ended) << faulty.status;
      if (faulty.status.ok()) {
        EXPECT_EQ(faulty.digest, undisturbed_digest);
      } else {
        EXPECT_THAT(faulty.status.message(), HasSubstr("worker"));
        EXPECT_LT(faulty.seconds, 30);
        ++lost;
      }
      plan.faults = false;
      plan.crashes = 0;
      plan.workers = 1 + static_cast<int>(seed % 4);
      const RunResult result = RunJob(*job, plan);
      ASSERT_TRUE(result.status.ok()) << result.status;
      ASSERT_EQ(result.digest, undisturbed_digest);
    }
    EXPECT_GT(lost, 0) << "nothing was tried";
  }
}

// Looks at how many steps the rows that pulls bring are behind the step that
// they are for.
class LagContext : public ForwardingContext {
 public:
  LagContext(comm::NodeContext& to, std::map<uint64_t, int64_t>& pulls)
      : ForwardingContext(to), pulls_(pulls) {}
  Status Send(comm::EndpointId peer, comm::Lane lane,
              comm::Message message) override {
    ps::wire::Pull pull;
    if (message.header.kind == comm::MessageKind::kRequest &&
        message.header.method == static_cast<uint16_t>(ps::Method::kPull) &&
        ps::Decode(message, pull).ok()) {
      pulls_[message.header.request] = pull.step();
    }
    return ForwardingContext::Send(peer, lane, std::move(message));
  }

 private:
  std::map<uint64_t, int64_t>& pulls_;
};

class LagNode : public ForwardingNode {
 public:
  // `lags` counts pulls by the step that they are for and their lag.
  LagNode(std::unique_ptr<comm::Node> to,
          std::map<std::pair<int64_t, int64_t>, int>& lags)
      : ForwardingNode(std::move(to)), lags_(lags) {}
  ~LagNode() override { to_.reset(); }
  void OnStart(comm::NodeContext& context) override {
    watched_ = std::make_unique<LagContext>(context, pulls_);
    ForwardingNode::OnStart(*watched_);
  }
  void OnMessage(comm::EndpointId from, comm::Message message) override {
    const auto pull = pulls_.find(message.header.request);
    ps::wire::PullReply reply;
    if (message.header.kind == comm::MessageKind::kReply &&
        message.header.status == 0 && pull != pulls_.end() &&
        ps::Decode(message, reply).ok()) {
      ++lags_[{pull->second, pull->second - reply.step()}];
    }
    ForwardingNode::OnMessage(from, std::move(message));
  }

 private:
  std::map<uint64_t, int64_t> pulls_;
  std::unique_ptr<LagContext> watched_;
  std::map<std::pair<int64_t, int64_t>, int>& lags_;
};

// Tables in bounded or async beside dense variables that are reduced each step:
// rows are behind by what the mode allows and no more, and by nothing where the
// job evaluates or saves.
TEST_F(SimulationTest, RowsBesideAllReduceAreAsFreshAsTheirModeSays) {
  // A worker has at most three steps whose pushes are not acknowledged.
  const std::vector<std::pair<ps::Mode, int64_t>> modes = {
      {ps::Mode::kBounded, 0},
      {ps::Mode::kBounded, 1},
      {ps::Mode::kBounded, 4},
      {ps::Mode::kAsync, 0}};
  for (const auto& [mode, staleness] : modes) {
    const int64_t most =
        mode == ps::Mode::kAsync ? 3 : std::min<int64_t>(staleness, 3);
    std::map<std::pair<int64_t, int64_t>, int> lags;
    int late = 0;
    for (uint64_t seed = 1; seed <= 50 / kFewer; ++seed) {
      SCOPED_TRACE(StrCat("staleness ", staleness, ", seed ", seed));
      const RunResult result = RunJob(
          *job, {.seed = seed,
                 .mode = mode,
                 .staleness = staleness,
                 .workers = 1 + static_cast<int>(seed % 4),
                 .dense = seed % 2 == 0 ? ps::DensePlace::kWorkers
                                        : ps::DensePlace::kWorkerParts,
                 // Connections are lost where a worker has none to another one.
                 .faults = seed % 4 == 0,
                 .crashes = 0,
                 .decorate = [&lags](const std::string& name,
                                     std::unique_ptr<comm::Node> node)
                     -> std::unique_ptr<comm::Node> {
                   if (!name.starts_with("worker")) {
                     return node;
                   }
                   return std::make_unique<LagNode>(std::move(node), lags);
                 }});
      ASSERT_TRUE(result.status.ok()) << result.status;
      ASSERT_EQ(result.digest.size(), 32U);
    }
    for (const auto& [pull, count] : lags) {
      const auto [step, lag] = pull;
      const bool boundary =
          step == 20 || step == 30 || step == 40 || step == 50;
      EXPECT_GE(lag, 0) << "at step " << step;
      EXPECT_LE(lag, boundary ? 0 : most) << "at step " << step;
      late += lag > 0 ? count : 0;
    }
    EXPECT_EQ(late > 0, most > 0) << "staleness " << staleness;
  }
}

TEST_F(SimulationTest, SeedReplaysExactly) {
  for (const uint64_t seed : {3U, 17U}) {
    const RunResult once = RunJob(*job, {.seed = seed});
    const RunResult again = RunJob(*job, {.seed = seed});
    EXPECT_EQ(once.trace_hash, again.trace_hash) << "seed " << seed;
    EXPECT_EQ(once.num_events, again.num_events) << "seed " << seed;
  }
  EXPECT_NE(RunJob(*job, {.seed = 3}).trace_hash,
            RunJob(*job, {.seed = 17}).trace_hash);
}

TEST_F(SimulationTest, LostServerEndsTheJobNamingIt) {
  const RunResult result =
      RunJob(*job, {.seed = 5, .crashes = 0, .crash_a_server = true});
  ASSERT_TRUE(result.ended);
  EXPECT_THAT(result.status.ToString(), HasSubstr("server 1 shard 1"));
  EXPECT_LT(result.seconds, 60);
  EXPECT_EQ(result.digest, "");
}

// --- Planted bugs ----------------------------------------------------------

bool IsPush(const comm::Message& message) {
  return Is(message, ps::Method::kPush);
}

// Acknowledges pushes before they are staged, and now and then something comes
// in between.
class AcknowledgesEarly : public ForwardingNode {
 public:
  using ForwardingNode::ForwardingNode;
  void OnMessage(comm::EndpointId from, comm::Message message) override {
    if (IsPush(message)) {
      (void)context_->Send(
          from, comm::Lane::kBulk,
          comm::MakeReply(message, {ps::Encode(ps::wire::PushReply())}));
      if (++pushes_ % 64 == 0) {
        return;
      }
    }
    ForwardingNode::OnMessage(from, std::move(message));
  }

 private:
  int pushes_ = 0;
};

TEST_F(SimulationTest, FindsAPushAcknowledgedBeforeItIsStaged) {
  EXPECT_TRUE(Finds(
      [](const std::string& name,
         std::unique_ptr<comm::Node> node) -> std::unique_ptr<comm::Node> {
        if (name != "server 0 shard 0") {
          return node;
        }
        return std::make_unique<AcknowledgesEarly>(std::move(node));
      },
      3));
}

// Believes that the slowest worker is three clocks further than it is.
class HurriesNode : public ForwardingNode {
 public:
  using ForwardingNode::ForwardingNode;
  void OnMessage(comm::EndpointId from, comm::Message message) override {
    ps::wire::ClockReply reply;
    if (message.header.kind == comm::MessageKind::kReply &&
        message.header.status == 0 &&
        message.header.method == static_cast<uint16_t>(ps::Method::kClock) &&
        ps::Decode(message, reply).ok()) {
      reply.set_minimum(reply.minimum() + 3);
      message.frames[0] = ps::Encode(reply);
    }
    ForwardingNode::OnMessage(from, std::move(message));
  }
};

TEST_F(SimulationTest, FindsAGateThatLetsWorkersThroughEarly) {
  int64_t worst = 0;
  for (uint64_t seed = 1; seed <= 20 && worst <= 1; ++seed) {
    const RunResult result =
        RunJob(*job, {.seed = seed,
                      .mode = ps::Mode::kBounded,
                      .staleness = 1,
                      .crashes = 0,
                      .decorate = [](const std::string& name,
                                     std::unique_ptr<comm::Node> node)
                          -> std::unique_ptr<comm::Node> {
                        if (name != "worker 1") {
                          return node;
                        }
                        return std::make_unique<HurriesNode>(std::move(node));
                      }});
    ASSERT_TRUE(result.status.ok()) << "seed " << seed << ": " << result.status;
    worst = std::max(worst, result.staleness.max());
  }
  EXPECT_GT(worst, 1);
}

// Keeps what it acknowledged with the connection, and drops it with that.
class StagesPerConnection : public ForwardingNode {
 public:
  using ForwardingNode::ForwardingNode;
  void OnMessage(comm::EndpointId from, comm::Message message) override {
    if (!IsPush(message)) {
      ForwardingNode::OnMessage(from, std::move(message));
      return;
    }
    (void)context_->Send(
        from, comm::Lane::kBulk,
        comm::MakeReply(message, {ps::Encode(ps::wire::PushReply())}));
    staged_.emplace(next_, std::make_pair(from, std::move(message)));
    context_->SetTimer(context_->Now() + 40ms, [this, at = next_] {
      const auto it = staged_.find(at);
      if (it != staged_.end()) {
        auto [peer, push] = std::move(it->second);
        staged_.erase(it);
        ForwardingNode::OnMessage(peer, std::move(push));
      }
    });
    ++next_;
  }
  void OnPeerDown(comm::EndpointId peer, const Status& why) override {
    std::erase_if(staged_, [peer](const auto& entry) {
      return entry.second.first == peer;
    });
    ForwardingNode::OnPeerDown(peer, why);
  }

 private:
  int next_ = 0;
  std::map<int, std::pair<comm::EndpointId, comm::Message>> staged_;
};

TEST_F(SimulationTest, FindsAStagedPushLostOnReconnect) {
  EXPECT_TRUE(Finds(
      [](const std::string& name,
         std::unique_ptr<comm::Node> node) -> std::unique_ptr<comm::Node> {
        if (!name.starts_with("server")) {
          return node;
        }
        return std::make_unique<StagesPerConnection>(std::move(node));
      },
      20));
}

// Commits a step to each shard as soon as that one is prepared.
class CommitsEarly : public ForwardingNode {
 public:
  using ForwardingNode::ForwardingNode;
  void OnMessage(comm::EndpointId from, comm::Message message) override {
    if (message.header.method == static_cast<uint16_t>(ps::Method::kPrepared)) {
      ps::wire::Prepared prepared;
      if (ps::Decode(message, prepared).ok()) {
        ps::wire::Commit commit;
        commit.set_step(prepared.step());
        commit.set_learning_rate_factor(1);
        (void)context_->Send(from, comm::Lane::kUrgent,
                             comm::MakeReply(message, {ps::Encode(commit)}));
      }
    }
    ForwardingNode::OnMessage(from, std::move(message));
  }
};

TEST_F(SimulationTest, FindsACommitAppliedEarly) {
  EXPECT_TRUE(Finds(
      [](const std::string& name,
         std::unique_ptr<comm::Node> node) -> std::unique_ptr<comm::Node> {
        if (name != "coordinator") {
          return node;
        }
        return std::make_unique<CommitsEarly>(std::move(node));
      },
      20));
}

// Never arms a timer once the job is under way.
class NoTimersContext : public ForwardingContext {
 public:
  using ForwardingContext::ForwardingContext;
  comm::TimerId SetTimer(Time at, std::function<void()> fire) override {
    if (Now() - first_ > 300ms) {
      return comm::TimerId::kNone;
    }
    return ForwardingContext::SetTimer(at, std::move(fire));
  }

 private:
  Time first_ = to_.Now();
};

using NoTimersNode = NodeInContext<NoTimersContext>;

// Its threads hang from the `works`-th work on, while the node goes on.
class HangsContext : public ForwardingContext {
 public:
  HangsContext(comm::NodeContext& to, int works)
      : ForwardingContext(to), left_(works) {}
  void StartCompute(int lane, std::function<void()> compute,
                    std::function<void()> done) override {
    if (left_-- > 0) {
      ForwardingContext::StartCompute(lane, std::move(compute),
                                      std::move(done));
    }
  }

 private:
  int left_;
};

using HangsNode = NodeInContext<HangsContext>;

// Wherever it hangs: in training, or in an evaluation.
TEST_F(SimulationTest, WorkerWhoseThreadsHangIsNamed) {
  int in_evaluation = 0;
  for (const ps::Mode mode :
       {ps::Mode::kSync, ps::Mode::kBounded, ps::Mode::kAsync}) {
    for (const int works : {1, 7, 30, 61, 62, 63, 64, 65}) {
      const RunResult result = RunJob(
          *job, {.seed = static_cast<uint64_t>(works) + 1,
                 .mode = mode,
                 .faults = false,
                 .crashes = 0,
                 .decorate = [works](const std::string& name,
                                     std::unique_ptr<comm::Node> node)
                     -> std::unique_ptr<comm::Node> {
                   if (name != "worker 1") {
                     return node;
                   }
                   return std::make_unique<HangsNode>(
                       std::move(node), [works](comm::NodeContext& context) {
                         return std::make_unique<HangsContext>(context, works);
                       });
                 }});
      ASSERT_TRUE(result.ended) << works << " works";
      ASSERT_FALSE(result.status.ok()) << works << " works";
      EXPECT_THAT(result.status.message(),
                  AnyOf(HasSubstr("worker 1"), HasSubstr("workers 1")))
          << works << " works";
      EXPECT_LT(result.seconds, 30) << works << " works";
      in_evaluation += static_cast<int>(
          result.status.message().find("of the evaluation at step") !=
          std::string::npos);
    }
  }
  EXPECT_GT(in_evaluation, 0) << "none of them hung there";
}

TEST_F(SimulationTest, FindsADeadlineNeverArmed) {
  // With its deadlines the job ends after a server is lost (see above).
  const RunResult result =
      RunJob(*job, {.seed = 5,
                    .faults = false,
                    .crashes = 0,
                    .crash_a_server = true,
                    .decorate = [](const std::string& /*name*/,
                                   std::unique_ptr<comm::Node> node)
                        -> std::unique_ptr<comm::Node> {
                      return std::make_unique<NoTimersNode>(std::move(node));
                    }});
  EXPECT_FALSE(result.ended) << result.status;
}

}  // namespace
}  // namespace shoal::simulation
