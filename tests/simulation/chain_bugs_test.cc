// Bugs in chains, planted one at a time by changing what a node gets or sends:
// runs with killed servers find each.

#include <cstdint>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"

#include "ps/protocol.pb.h"
#include "ps/wire.h"
#include "tests/simulation/cluster_world.h"
#include "tests/simulation/forwarding.h"
#include "tests/simulation/planted_bug.h"

namespace shoal::simulation {
namespace {

using ps::Method;

class ChainBugsTest : public PlantedBugTest {};

// Every 50th message of `method` is acknowledged and not kept.
ChangingNode::Change Loses(Method method) {
  return [method, seen = 0](comm::NodeContext& context, comm::EndpointId from,
                            comm::Message& message) mutable {
    if (!Is(message, method) || ++seen % 50 != 0) {
      return true;
    }
    Pretend(context, from, message);
    return false;
  };
}

// Each frame of slot states of which `spoils` says so holds zeros.
ChangingNode::Change Zeros(const std::function<bool(size_t, size_t)>& spoils) {
  return [spoils](comm::NodeContext&, comm::EndpointId,
                  comm::Message& message) {
    for (size_t f = 1;
         Is(message, Method::kSlotStates) && f < message.frames.size(); ++f) {
      if (spoils(f, message.frames.size())) {
        const auto size = static_cast<size_t>(message.frames[f].size());
        message.frames[f] = Buffer::CopyOf(std::string(size, '\0'));
      }
    }
    return true;
  };
}

TEST_F(ChainBugsTest, FindsAReplicaThatDidNotKeepAStep) {
  EXPECT_TRUE(Finds(Plan(ps::Mode::kSync, 2), "server 1",
                    [] { return Loses(Method::kPrepare); }));
}

TEST_F(ChainBugsTest, FindsAReplicaThatDidNotKeepAPush) {
  EXPECT_TRUE(Finds(Plan(ps::Mode::kBounded, 2), "server",
                    [] { return Loses(Method::kApply); }));
}

TEST_F(ChainBugsTest, FindsAShardThatJoinsWithoutTheSlots) {
  EXPECT_TRUE(Finds(Plan(ps::Mode::kSync, 2), "server", [] {
    return [](comm::NodeContext& context, comm::EndpointId from,
              comm::Message& message) {
      if (!Is(message, Method::kSlotStates)) {
        return true;
      }
      Pretend(context, from, message);
      return false;
    };
  }));
}

TEST_F(ChainBugsTest, FindsSlotsWithoutTheOptimizersState) {
  EXPECT_TRUE(Finds(Plan(ps::Mode::kSync, 2), "server", [] {
    return Zeros([](size_t frame, size_t frames) {
      return frame + 1 < frames && frame % 3 == 0;
    });
  }));
}

TEST_F(ChainBugsTest, FindsSlotsWithoutTheirChunks) {
  EXPECT_TRUE(Finds(Plan(ps::Mode::kSync, 2), "server", [] {
    return Zeros(
        [](size_t frame, size_t frames) { return frame + 1 == frames; });
  }));
}

TEST_F(ChainBugsTest, FindsSequencesThatDidNotMove) {
  EXPECT_TRUE(Finds(Plan(ps::Mode::kBounded, 2), "server", [] {
    return [](comm::NodeContext&, comm::EndpointId, comm::Message& message) {
      ps::wire::SlotStates states;
      if (Is(message, Method::kSlotStates) &&
          ps::Decode(message, states).ok()) {
        states.clear_clients();
        message.frames[0] = ps::Encode(states);
      }
      return true;
    };
  }));
}

TEST_F(ChainBugsTest, FindsACommitThatARouteForgets) {
  EXPECT_TRUE(Finds(Plan(ps::Mode::kSync, 2), "server", [] {
    return [](comm::NodeContext&, comm::EndpointId, comm::Message& message) {
      ps::wire::RouteChange change;
      if (Is(message, Method::kRouteChange) &&
          ps::Decode(message, change).ok() && change.committed() > 0) {
        change.set_committed(change.committed() - 1);
        message.frames[0] = ps::Encode(change);
      }
      return true;
    };
  }));
}

TEST_F(ChainBugsTest, FindsAWorkerThatDoesNotHearOfRoutes) {
  EXPECT_TRUE(Finds(Plan(ps::Mode::kSync, 2), "worker 1", [] {
    return [](comm::NodeContext& context, comm::EndpointId from,
              comm::Message& message) {
      if (!Is(message, Method::kRouteChange)) {
        return true;
      }
      Pretend(context, from, message);
      return false;
    };
  }));
}

// The tail has acknowledged before it looked at the version.
TEST_F(ChainBugsTest, FindsAReplicaThatAnswersUnderAnyRoute) {
  EXPECT_TRUE(Finds(Plan(ps::Mode::kBounded, 2), "server", [] {
    return [version = uint64_t{1}](comm::NodeContext& context,
                                   comm::EndpointId from,
                                   comm::Message& message) mutable {
      ps::wire::RouteChange change;
      ps::wire::Push push;
      if (Is(message, Method::kRouteChange) &&
          ps::Decode(message, change).ok()) {
        version = change.route().version();
      }
      if (Is(message, Method::kApply) && ps::Decode(message, push).ok() &&
          push.version() != version) {
        Pretend(context, from, message);
        return false;
      }
      return true;
    };
  }));
}

// --- The coordinator's restart ---------------------------------------------

RunPlan LostCoordinators() { return {.crashes = 1, .coordinator_crashes = 3}; }

// What is to be kept is said to be, and written a while later; not towards the
// end, where the last checkpoint is written.
class WritesLateContext : public ForwardingContext {
 public:
  using ForwardingContext::ForwardingContext;
  void StartStorage(std::function<StatusOr<Buffer>(Storage&)> work,
                    std::function<void(StatusOr<Buffer>)> done) override {
    // The first work reads what the coordinator before it left.
    if (std::exchange(first_, false) || Now() - began_ > 400ms) {
      ForwardingContext::StartStorage(std::move(work), std::move(done));
      return;
    }
    SetTimer(Now() + 100ms, [this, work = std::move(work)] {
      ForwardingContext::StartStorage(work, [](const StatusOr<Buffer>&) {});
    });
    Post([done = std::move(done)] { done(Buffer()); });
  }

 private:
  bool first_ = true;
  const Time began_ = to_.Now();
};

using WritesLateNode = NodeInContext<WritesLateContext>;

TEST_F(ChainBugsTest, FindsAnOrderThatWasGivenBeforeItWasKept) {
  EXPECT_TRUE(Finds(
      LostCoordinators(),
      [](const std::string& name,
         std::unique_ptr<comm::Node> node) -> std::unique_ptr<comm::Node> {
        if (name != "coordinator") {
          return node;
        }
        return std::make_unique<WritesLateNode>(std::move(node));
      }));
}

TEST_F(ChainBugsTest, FindsMembersThatDoNotSayHowFarTheyAre) {
  EXPECT_TRUE(Finds(LostCoordinators(), "", [] {
    return [](comm::NodeContext& context, comm::EndpointId from,
              comm::Message& message) {
      if (!Is(message, Method::kRecover)) {
        return true;
      }
      (void)context.Send(
          from, comm::Lane::kUrgent,
          comm::MakeReply(message, {ps::Encode(ps::wire::RecoverReply())}));
      return false;
    };
  }));
}

}  // namespace
}  // namespace shoal::simulation
