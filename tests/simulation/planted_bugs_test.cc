// Bugs of exactly once, of commits, of checkpoints and of clocks, planted one
// at a time. Those of chains and of the coordinator's restart are in
// chain_bugs_test.cc, those of what is decided of all gradients in
// global_phase_test.cc, and the simplest in simulation_test.cc.

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

#include "base/storage.h"
#include "comm/rpc.h"
#include "comm/torn_storage.h"
#include "ps/protocol.pb.h"
#include "ps/wire.h"
#include "tests/simulation/cluster_world.h"
#include "tests/simulation/forwarding.h"
#include "tests/simulation/planted_bug.h"

namespace shoal::simulation {
namespace {

using ps::Method;

class PlantedBugsTest : public PlantedBugTest {
 protected:
  static RunPlan Everything() {
    return {.crashes = 1,
            .replicas = 2,
            .server_crashes = 2,
            .coordinator_crashes = 1,
            .partitions = 2};
  }
};

// A message whose head `change` changes, where it is one of `method`.
template <typename Head, typename Change>
bool Rewrite(comm::Message& message, Method method, const Change& change) {
  Head head;
  if (Is(message, method) && ps::Decode(message, head).ok()) {
    change(head);
    message.frames[0] = ps::Encode(head);
  }
  return true;
}

TEST_F(PlantedBugsTest, FindsNothingWhereNothingIsPlanted) {
  for (const RunPlan& plan : {Plan(ps::Mode::kBounded, 2), Everything()}) {
    RunPlan calm = plan;
    calm.faults = false;
    calm.crashes = calm.server_crashes = calm.coordinator_crashes = 0;
    calm.partitions = 0;
    const RunResult want = RunJob(*job, calm);
    RunPlan run = plan;
    run.digests = want.digests;
    run.decorate = Around("", [](std::unique_ptr<comm::Node> node) {
      return std::make_unique<NodeInContext<ForwardingContext>>(
          std::move(node));
    });
    for (run.seed = 1; run.seed <= 30; ++run.seed) {
      const RunResult result = RunJob(*job, run);
      ASSERT_TRUE(result.status.ok())
          << "seed " << run.seed << ": " << result.status;
      ASSERT_EQ(result.digest, want.digest) << "seed " << run.seed;
      ASSERT_EQ(result.violation, "") << "seed " << run.seed;
    }
  }
}

// --- Exactly once ----------------------------------------------------------

TEST_F(PlantedBugsTest, FindsAPushAcknowledgedBeforeTheTailHasIt) {
  EXPECT_TRUE(Finds(Plan(ps::Mode::kBounded, 2), "server", [] {
    return [](comm::NodeContext& context, comm::EndpointId from,
              comm::Message& message) {
      if (Is(message, Method::kPush)) {
        (void)context.Send(
            from, comm::Lane::kBulk,
            comm::MakeReply(message, {ps::Encode(ps::wire::PushReply())}));
      }
      return true;
    };
  }));
}

// Who sends a push again is told nothing of the first; the head takes it for
// the next.
TEST_F(PlantedBugsTest, FindsARetryThatIsAppliedAsANewPush) {
  EXPECT_TRUE(Finds(Plan(ps::Mode::kBounded, 2), "server", [] {
    return [seen = std::set<std::pair<uint64_t, uint64_t>>()](
               comm::NodeContext&, comm::EndpointId from,
               comm::Message& message) mutable {
      return Rewrite<ps::wire::Push>(
          message, Method::kPush, [&](ps::wire::Push& push) {
            if (!seen.emplace(from.value, push.sequence()).second) {
              push.set_sequence(push.sequence() + 1);
            }
          });
    };
  }));
}

// Every 20th push that a replica has taken it does not say to have: the room
// that the head keeps for it is never free again.
class LeaksCreditContext : public ForwardingContext {
 public:
  using ForwardingContext::ForwardingContext;
  Status Send(comm::EndpointId peer, comm::Lane lane,
              comm::Message message) override {
    if (IsReply(message, Method::kApply) && ++replies_ % 20 == 0) {
      return OkStatus();
    }
    return ForwardingContext::Send(peer, lane, std::move(message));
  }

 private:
  int replies_ = 0;
};

TEST_F(PlantedBugsTest, FindsCreditThatIsNotGivenBack) {
  EXPECT_TRUE(FindsContext<LeaksCreditContext>(Plan(ps::Mode::kBounded, 2),
                                               "server 1"));
}

// What it gets from workers it takes for sent under its own route.
TEST_F(PlantedBugsTest, FindsAShardThatTakesPushesOfAnyRoute) {
  EXPECT_TRUE(Finds(Plan(ps::Mode::kSync, 2), "server", [] {
    return [version = uint64_t{1}](comm::NodeContext&, comm::EndpointId,
                                   comm::Message& message) mutable {
      ps::wire::RouteChange change;
      if (Is(message, Method::kRouteChange) &&
          ps::Decode(message, change).ok()) {
        version = change.route().version();
      }
      return Rewrite<ps::wire::Push>(
          message, Method::kPush,
          [&](ps::wire::Push& push) { push.set_version(version); });
    };
  }));
}

// --- Commits ---------------------------------------------------------------

// Who asks again for the commit of a step gets another one.
class DecidesTwiceContext : public ForwardingContext {
 public:
  using ForwardingContext::ForwardingContext;
  Status Send(comm::EndpointId peer, comm::Lane lane,
              comm::Message message) override {
    ps::wire::Commit commit;
    if (IsReply(message, Method::kPrepared) && message.header.status == 0 &&
        ps::Decode(message, commit).ok() &&
        !decided_.emplace(peer.value, commit.step()).second) {
      commit.set_learning_rate_factor(commit.learning_rate_factor() / 2);
      message.frames[0] = ps::Encode(commit);
    }
    return ForwardingContext::Send(peer, lane, std::move(message));
  }

 private:
  std::set<std::pair<uint64_t, int64_t>> decided_;
};

TEST_F(PlantedBugsTest, FindsACommitThatIsDecidedTwice) {
  EXPECT_TRUE(FindsContext<DecidesTwiceContext>({.crashes = 0}, "coordinator"));
}

// A worker in place of a lost one begins a step late.
class SkipsAStepContext : public ForwardingContext {
 public:
  using ForwardingContext::ForwardingContext;
  Status Send(comm::EndpointId peer, comm::Lane lane,
              comm::Message message) override {
    ps::wire::Order order;
    if (IsReply(message, Method::kAskOrder) && message.header.status == 0 &&
        ps::Decode(message, order).ok() &&
        order.kind() == ps::wire::Order::TRAIN && order.from_step() % 10 != 0) {
      order.set_from_step(order.from_step() + 1);
      message.frames[0] = ps::Encode(order);
    }
    return ForwardingContext::Send(peer, lane, std::move(message));
  }
};

TEST_F(PlantedBugsTest, FindsAWorkerThatBeginsAStepLate) {
  EXPECT_TRUE(FindsContext<SkipsAStepContext>({}, "coordinator"));
}

// --- Files -----------------------------------------------------------------

// Says that its part of a checkpoint is written, and writes it a while later.
class SavesLateContext : public ForwardingContext {
 public:
  using ForwardingContext::ForwardingContext;
  void StartStorage(std::function<StatusOr<Buffer>(Storage&)> work,
                    std::function<void(StatusOr<Buffer>)> done) override {
    // A work runs once: into a memory of its own first.
    const auto written = std::make_shared<MemoryStorage>();
    StatusOr<Buffer> result = work(*written);
    Post(
        [done = std::move(done), result = std::move(result)] { done(result); });
    SetTimer(Now() + 30ms, [this, written] {
      ForwardingContext::StartStorage(
          [written](Storage& storage) -> StatusOr<Buffer> {
            for (const auto& [path, bytes] :
                 comm::FilesIn(*written, kCheckpoints)) {
              SHOAL_RETURN_IF_ERROR(storage.PublishFile(path, {&bytes, 1}));
            }
            return Buffer();
          },
          [](const StatusOr<Buffer>&) {});
    });
  }
};

TEST_F(PlantedBugsTest, FindsAManifestBeforeItsData) {
  EXPECT_TRUE(FindsContext<SavesLateContext>(Everything(), "server"));
}

// Writes over what was there instead of beside it.
class InPlaceStorage : public Storage {
 public:
  explicit InPlaceStorage(Storage& to) : to_(to) {}
  StatusOr<Buffer> ReadFile(const std::string& path) override {
    return to_.ReadFile(path);
  }
  Status PublishFile(const std::string& path,
                     std::span<const Buffer> pieces) override {
    if (!pieces.empty()) {
      const Buffer half = pieces[0].Slice(0, pieces[0].size() / 2);
      SHOAL_RETURN_IF_ERROR(to_.PublishFile(path, {&half, 1}));
    }
    return to_.PublishFile(path, pieces);
  }
  StatusOr<std::vector<std::string>> ListFolder(
      const std::string& path) override {
    return to_.ListFolder(path);
  }
  Status Remove(const std::string& path) override { return to_.Remove(path); }
  Status MoveFolder(const std::string& from, const std::string& to) override {
    return to_.MoveFolder(from, to);
  }

 private:
  Storage& to_;
};

class InPlaceContext : public ForwardingContext {
 public:
  using ForwardingContext::ForwardingContext;
  void StartStorage(std::function<StatusOr<Buffer>(Storage&)> work,
                    std::function<void(StatusOr<Buffer>)> done) override {
    ForwardingContext::StartStorage(
        [work = std::move(work)](Storage& storage) {
          InPlaceStorage in_place(storage);
          return work(in_place);
        },
        std::move(done));
  }
};

TEST_F(PlantedBugsTest, FindsAStateThatIsWrittenInPlace) {
  EXPECT_TRUE(FindsContext<InPlaceContext>(
      {.crashes = 1, .coordinator_crashes = 3}, "coordinator"));
}

// Its last step may still be on its way.
TEST_F(PlantedBugsTest, FindsACheckpointThatDoesNotWaitForItsStep) {
  EXPECT_TRUE(Finds(Everything(), "server", [] {
    return [](comm::NodeContext&, comm::EndpointId, comm::Message& message) {
      return Rewrite<ps::wire::Save>(
          message, Method::kSave,
          [](ps::wire::Save& save) { save.set_step(0); });
    };
  }));
}

// One that was cut off from etcd goes on beside the one in its place.
TEST_F(PlantedBugsTest, FindsACoordinatorThatAlwaysLeads) {
  EXPECT_TRUE(Finds({.crashes = 2,
                     .coordinator_crashes = 0,
                     .coordinators = 3,
                     .cut_offs = 12,
                     .scales = 3},
                    [](RunPlan& with) { with.always_leads = true; }));
}

// --- Clocks ----------------------------------------------------------------

// Deadlines travel as times of the sender's clock.
class AbsoluteDeadlineContext : public ForwardingContext {
 public:
  using ForwardingContext::ForwardingContext;
  Status Send(comm::EndpointId peer, comm::Lane lane,
              comm::Message message) override {
    Rewrite<ps::wire::Pull>(message, Method::kPull, [&](ps::wire::Pull& pull) {
      pull.set_deadline_ns(pull.deadline_ns() +
                           Now().time_since_epoch().count());
    });
    return ForwardingContext::Send(peer, lane, std::move(message));
  }
};

TEST_F(PlantedBugsTest, FindsADeadlineOfAnothersClock) {
  EXPECT_TRUE(Finds(
      {.crashes = 0},
      [](const std::string& name,
         std::unique_ptr<comm::Node> node) -> std::unique_ptr<comm::Node> {
        if (name.starts_with("worker")) {
          return std::make_unique<NodeInContext<AbsoluteDeadlineContext>>(
              std::move(node));
        }
        if (name == "coordinator") {
          return node;
        }
        return std::make_unique<ChangingNode>(
            std::move(node), [](comm::NodeContext& context, comm::EndpointId,
                                comm::Message& message) {
              return Rewrite<ps::wire::Pull>(
                  message, Method::kPull, [&](ps::wire::Pull& pull) {
                    pull.set_deadline_ns(
                        pull.deadline_ns() -
                        context.Now().time_since_epoch().count());
                  });
            });
      }));
}

}  // namespace
}  // namespace shoal::simulation
