// Bugs in chains, planted one at a time by changing what a node gets or sends:
// runs with killed servers find each.

#include <cstdint>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"

#include "comm/rpc.h"
#include "ps/protocol.pb.h"
#include "ps/wire.h"
#include "tests/simulation/cluster_world.h"

namespace shoal::simulation {
namespace {

using ps::Method;

bool Is(const comm::Message& message, Method method) {
  return message.header.kind == comm::MessageKind::kRequest &&
         message.header.method == static_cast<uint16_t>(method);
}

// Changes messages on their way to a node; false drops one.
class ChangingNode : public ForwardingNode {
 public:
  using Change =
      std::function<bool(comm::NodeContext&, comm::EndpointId, comm::Message&)>;
  ChangingNode(std::unique_ptr<comm::Node> to, Change change)
      : ForwardingNode(std::move(to)), change_(std::move(change)) {}
  void OnMessage(comm::EndpointId from, comm::Message message) override {
    if (change_(*context_, from, message)) {
      ForwardingNode::OnMessage(from, std::move(message));
    }
  }

 private:
  Change change_;
};

// What a message would get that was handled well.
void Pretend(comm::NodeContext& context, comm::EndpointId from,
             const comm::Message& message) {
  (void)context.Send(from, comm::Lane::kBulk, comm::MakeReply(message, {}));
}

class ChainBugsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    StatusOr<std::unique_ptr<SimulatedJob>> made = SimulatedJob::Create();
    ASSERT_TRUE(made.ok()) << made.status();
    job = made->release();
  }
  static void TearDownTestSuite() {
    delete job;
    job = nullptr;
  }

  static RunPlan Plan(ps::Mode mode, int replicas) {
    const bool sync = mode == ps::Mode::kSync;
    return {.mode = mode,
            .workers = sync ? 3 : 1,  // One leaves no choice of an order.
            .crashes = 0,
            .replicas = replicas,
            .server_crashes = 3};
  }

  // Whether a run with the bug ends otherwise than one without it: as it should
  // end without the bug is shown first.
  static bool Finds(const RunPlan& plan, const std::string& where,
                    const std::function<ChangingNode::Change()>& change) {
    return Finds(
        plan,
        [&](const std::string& name,
            std::unique_ptr<comm::Node> node) -> std::unique_ptr<comm::Node> {
          if (!name.starts_with(where)) {
            return node;
          }
          return std::make_unique<ChangingNode>(std::move(node), change());
        });
  }
  static bool Finds(RunPlan plan, const Decorate& decorate) {
    RunPlan calm = plan;
    calm.faults = false;
    calm.crashes = calm.server_crashes = calm.coordinator_crashes = 0;
    const std::string digest = RunJob(*job, calm).digest;
    EXPECT_EQ(digest.size(), 32U);
    EXPECT_EQ(RunJob(*job, plan).digest, digest) << "without the bug";
    plan.decorate = decorate;
    for (plan.seed = 1; plan.seed <= 500; ++plan.seed) {
      const RunResult result = RunJob(*job, plan);
      if (!result.ended || !result.status.ok() || result.digest != digest) {
        std::cout << "found with seed " << plan.seed << ": "
                  << (result.status.ok() ? "another digest"
                                         : result.status.ToString())
                  << "\n";
        return true;
      }
    }
    return false;
  }

  static SimulatedJob* job;
};

SimulatedJob* ChainBugsTest::job = nullptr;

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

class WritesLateNode : public ForwardingNode {
 public:
  using ForwardingNode::ForwardingNode;
  void OnStart(comm::NodeContext& context) override {
    late_ = std::make_unique<WritesLateContext>(context);
    ForwardingNode::OnStart(*late_);
  }
  ~WritesLateNode() override { to_.reset(); }

 private:
  std::unique_ptr<WritesLateContext> late_;
};

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
