#include "comm/pump.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/mutex.h"
#include "comm/comm_testing.h"
#include "comm/transport.h"

namespace shoal::comm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Ends a test that would wait for ever. Much longer than any of them takes, and
// several of a pump's idle waits, so that a lost wake-up counts.
constexpr Duration kPumpTestLimit = 60s;

// Does what the test says. A node that nobody stops stops itself with
// kDeadlineExceeded.
class PumpedNode : public Node {
 public:
  explicit PumpedNode(std::function<void(NodeContext&)> on_start)
      : on_start_(std::move(on_start)) {}

  void OnStart(NodeContext& context) override {
    context_ = &context;
    thread_ = std::this_thread::get_id();
    context.SetTimer(context.Now() + kPumpTestLimit, [this] {
      context_->Stop(DeadlineExceededError("the test took too long"));
    });
    on_start_(context);
  }
  void OnMessage(EndpointId from, Message message) override {
    CheckThread();
    if (on_message) {
      on_message(from, message);
    }
  }
  void OnPeerDown(EndpointId peer, const Status& why) override {
    CheckThread();
    if (on_peer_down) {
      on_peer_down(peer, why);
    }
  }

  NodeContext& context() { return *context_; }
  bool OnItsThread() const { return std::this_thread::get_id() == thread_; }
  void CheckThread() const { EXPECT_TRUE(OnItsThread()); }

  std::function<void(EndpointId, const Message&)> on_message;
  std::function<void(EndpointId, const Status&)> on_peer_down;

 private:
  std::function<void(NodeContext&)> on_start_;
  NodeContext* context_ = nullptr;
  std::thread::id thread_;
};

// A state that one thread reaches and another waits for.
class Signal {
 public:
  void Give() {
    const MutexLock lock(mutex_);
    given_ = true;
    changed_.NotifyAll();
  }
  // False when it does not come in time.
  bool Wait() {
    const Time end = std::chrono::steady_clock::now() + kPumpTestLimit;
    const MutexLock lock(mutex_);
    while (!given_ && std::chrono::steady_clock::now() < end) {
      changed_.WaitFor(mutex_, end - std::chrono::steady_clock::now());
    }
    return given_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool given_ SHOAL_GUARDED_BY(mutex_) = false;
};

std::unique_ptr<Pump> MakePump(const std::string& transport = "inproc",
                               Storage* storage = nullptr) {
  Pump::Options options;
  options.transport = transport;
  options.storage = storage;
  options.close_within = 20s;
  StatusOr<std::unique_ptr<Pump>> pump = Pump::Create(options);
  SHOAL_CHECK(pump.ok());
  return *std::move(pump);
}

// Runs a node that only starts and goes on from there; it must end with OK.
void RunToTheEnd(const std::function<void(PumpedNode&)>& on_start,
                 Storage* storage = nullptr) {
  const std::unique_ptr<Pump> pump = MakePump("inproc", storage);
  PumpedNode* self = nullptr;
  PumpedNode node([&](NodeContext&) { on_start(*self); });
  self = &node;
  EXPECT_EQ(pump->Run(node).ToString(), "OK");
}

// --- The beginning and the end. ---

TEST(PumpTest, KnowsItsNameAndAddressBeforeItRuns) {
  Pump::Options options;  // transport "auto"
  const auto drawn = Pump::Create(options);
  ASSERT_TRUE(drawn.ok()) << drawn.status();
  EXPECT_GT((*drawn)->self().value, kCoordinator.value);
  EXPECT_THAT((*drawn)->address(), HasSubstr("tcp://"));
  options.endpoint.self = kCoordinator;
  const auto named = Pump::Create(options);
  ASSERT_TRUE(named.ok()) << named.status();
  EXPECT_EQ((*named)->self(), kCoordinator);
  PumpedNode node([&](NodeContext& context) {
    EXPECT_EQ(context.self(), kCoordinator);
    EXPECT_EQ(context.address(), (*named)->address());
    context.Stop(OkStatus());
  });
  EXPECT_TRUE((*named)->Run(node).ok());
}

TEST(PumpTest, CreateHasTheErrorsOfItsEndpoint) {
  EXPECT_EQ(Pump::Create({.transport = "pigeon"}).status().code(),
            StatusCode::kNotFound);
  const std::unique_ptr<Pump> first = MakePump();
  Pump::Options options;
  options.transport = "inproc";
  options.endpoint.listen = first->address();
  EXPECT_EQ(Pump::Create(options).status().code(), StatusCode::kUnavailable);
}

TEST(PumpTest, StopEndsRunAfterTheCallbackWithItsFirstReason) {
  for (const Status& why : {OkStatus(), DataLossError("no checkpoint")}) {
    const std::unique_ptr<Pump> pump = MakePump();
    std::vector<std::string> calls;
    PumpedNode node([&](NodeContext& context) {
      context.Post([&] {
        context.Stop(why);
        context.Stop(InternalError("too late"));
        calls.emplace_back("stopping");
      });
      context.Post([&] { calls.emplace_back("post after the stop"); });
      context.SetTimer(context.Now(), [&] { calls.emplace_back("timer"); });
    });
    EXPECT_EQ(pump->Run(node).ToString(), why.ToString());
    EXPECT_THAT(calls, ElementsAre("stopping"));
  }
}

TEST(PumpTest, StopFromOnStartEndsRun) {
  RunToTheEnd([](PumpedNode& node) {
    node.context().Post([] { ADD_FAILURE() << "it has stopped"; });
    node.context().Stop(OkStatus());
  });
}

TEST(PumpTest, InterruptFromAnotherThreadEndsAWaitWithItsStatus) {
  const std::unique_ptr<Pump> pump = MakePump();
  Signal started;
  std::thread interrupter([&] {
    EXPECT_TRUE(started.Wait());
    pump->Interrupt(CancelledError("a signal came"));
    pump->Interrupt(InternalError("too late"));
  });
  PumpedNode node([&](NodeContext&) { started.Give(); });
  EXPECT_EQ(pump->Run(node).ToString(),
            CancelledError("a signal came").ToString());
  interrupter.join();
}

TEST(PumpTest, PostedTasksRunOnTheNodesThreadAlsoBeforeItStarts) {
  const std::unique_ptr<Pump> pump = MakePump();
  std::vector<int> order;
  std::thread::id ran_on;
  pump->Post([&] { order.push_back(1); });
  PumpedNode node([&](NodeContext& context) {
    order.push_back(2);
    std::thread other([&] {
      pump->Post([&] {
        order.push_back(3);
        ran_on = std::this_thread::get_id();
        context.Stop(OkStatus());
      });
    });
    other.join();
  });
  EXPECT_TRUE(pump->Run(node).ok());
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(ran_on, std::this_thread::get_id());
}

TEST(PumpTest, InterruptBeforeRunEndsItBeforeTheNodeStarts) {
  const std::unique_ptr<Pump> pump = MakePump();
  pump->Interrupt(CancelledError("a signal came"));
  PumpedNode node([](NodeContext&) { ADD_FAILURE() << "it started"; });
  EXPECT_EQ(pump->Run(node).code(), StatusCode::kCancelled);
}

TEST(PumpTest, InterruptAfterRunDoesNothing) {
  const std::unique_ptr<Pump> pump = MakePump();
  PumpedNode node([](NodeContext& context) { context.Stop(OkStatus()); });
  EXPECT_TRUE(pump->Run(node).ok());
  pump->Interrupt(CancelledError("a signal came"));
}

TEST(PumpTest, ContextOfANodeThatEndedDoesNothing) {
  const std::unique_ptr<Pump> pump = MakePump();
  PumpedNode node([](NodeContext& context) { context.Stop(OkStatus()); });
  EXPECT_TRUE(pump->Run(node).ok());
  NodeContext& context = node.context();
  const auto fail = [] { ADD_FAILURE() << "it has ended"; };
  EXPECT_EQ(context.SetTimer(context.Now(), fail), TimerId::kNone);
  context.CancelTimer(TimerId::kNone);
  context.Post(fail);
  context.StartCompute(0, fail, fail);
  context.StartStorage(
      [&](Storage&) {
        fail();
        return StatusOr<Buffer>(Buffer());
      },
      [&](const StatusOr<Buffer>&) { fail(); });
  EXPECT_EQ(context.Send(EndpointId{7}, Lane::kUrgent, TestMessage(1)).code(),
            StatusCode::kFailedPrecondition);
}

TEST(PumpTest, StoppedNodeDoesNotHearOfItsPeersEnd) {
  const std::unique_ptr<Pump> pump = MakePump();
  const std::unique_ptr<Pump> peer = MakePump();
  PumpedNode sender([&](NodeContext& context) {
    EXPECT_TRUE(context.Connect(pump->self(), pump->address()).ok());
    EXPECT_TRUE(context.Send(pump->self(), Lane::kUrgent, TestMessage(1)).ok());
    context.Stop(OkStatus());
  });
  EXPECT_EQ(peer->Run(sender).ToString(), "OK");
  // The message and the end lie there together.
  PumpedNode receiver([](NodeContext&) {});
  receiver.on_message = [&](EndpointId, const Message&) {
    receiver.context().Stop(OkStatus());
  };
  receiver.on_peer_down = [](EndpointId, const Status&) {
    ADD_FAILURE() << "it has stopped";
  };
  EXPECT_EQ(pump->Run(receiver).ToString(), "OK");
}

// --- Posts and timers. ---

TEST(PumpTest, PostsRunInOrderOnTheNodesThreadAndNeverInsideTheCall) {
  RunToTheEnd([](PumpedNode& node) {
    auto order = std::make_shared<std::vector<int>>();
    for (int i = 0; i < 100; ++i) {
      node.context().Post([&node, order, i] {
        node.CheckThread();
        order->push_back(i);
        if (i == 99) {
          std::vector<int> want(100);
          std::iota(want.begin(), want.end(), 0);
          EXPECT_EQ(*order, want);
          node.context().Stop(OkStatus());
        }
      });
    }
    EXPECT_THAT(*order, IsEmpty());
  });
}

TEST(PumpTest, EveryPostFromAnotherThreadEndsAWait) {
  // One that was not heard would cost an idle wait of the pump; twenty of these
  // are longer than the test may take.
  const std::unique_ptr<Pump> pump = MakePump();
  Signal started;
  PumpedNode node([&](NodeContext&) { started.Give(); });
  std::thread poster([&] {
    EXPECT_TRUE(started.Wait());
    for (int i = 0; i < 20; ++i) {
      auto heard = std::make_shared<Signal>();
      node.context().Post([heard] { heard->Give(); });
      EXPECT_TRUE(heard->Wait());
    }
    node.context().Post([&] { node.context().Stop(OkStatus()); });
  });
  EXPECT_EQ(pump->Run(node).ToString(), "OK");
  poster.join();
}

TEST(PumpTest, TimersFireOnceInTheOrderOfTheirTimesAndNeverEarly) {
  RunToTheEnd([](PumpedNode& node) {
    NodeContext& context = node.context();
    const Time start = context.Now();
    auto order = std::make_shared<std::vector<int>>();
    // Those of one time fire in the order in which they were set.
    constexpr int kTimes[] = {5, 3, 9, 3, 1, 7, 3, 9, 0, 2};
    for (int i = 0; i < 10; ++i) {
      const Time at = start + kTimes[i] * 1ms;
      context.SetTimer(at, [&node, order, at, i] {
        node.CheckThread();
        EXPECT_GE(node.context().Now(), at);
        order->push_back(i);
      });
    }
    context.SetTimer(start + 10ms, [&node, order] {
      EXPECT_THAT(*order, ElementsAre(8, 4, 9, 1, 3, 6, 0, 5, 2, 7));
      node.context().Stop(OkStatus());
    });
    EXPECT_THAT(*order, IsEmpty());
  });
}

TEST(PumpTest, EveryTimerEndsAWait) {
  // As above: none waits for the pump to look by chance.
  int rounds = 0;
  std::function<void()> again;
  RunToTheEnd([&](PumpedNode& node) {
    NodeContext& context = node.context();
    again = [&] {
      if (++rounds == 20) {
        context.Stop(OkStatus());
      }
      context.SetTimer(context.Now() + 1ms, again);
    };
    again();
  });
}

TEST(PumpTest, CancelledTimerNeverFires) {
  RunToTheEnd([](PumpedNode& node) {
    NodeContext& context = node.context();
    const Time at = context.Now() + 2ms;
    const auto fail = [] { ADD_FAILURE() << "it was cancelled"; };
    context.CancelTimer(context.SetTimer(at, fail));
    // By one that is due with it, and before it.
    auto later = std::make_shared<TimerId>(TimerId::kNone);
    auto self = std::make_shared<TimerId>(TimerId::kNone);
    *self = context.SetTimer(at, [&node, later, self] {
      node.context().CancelTimer(*later);
      node.context().CancelTimer(*self);  // Has fired: no effect.
      node.context().CancelTimer(TimerId::kNone);
    });
    *later = context.SetTimer(at, fail);
    context.SetTimer(at, [&node] { node.context().Stop(OkStatus()); });
  });
}

TEST(PumpTest, ManyCancelledTimersLeaveTheOthersInOrder) {
  RunToTheEnd([](PumpedNode& node) {
    NodeContext& context = node.context();
    constexpr int kCount = 2000;
    const Time start = context.Now();
    auto order = std::make_shared<std::vector<int>>();
    std::vector<TimerId> timers;
    for (int i = 0; i < kCount; ++i) {
      // Times go back and forth.
      timers.push_back(context.SetTimer(
          start + ((i * 7919) % kCount) * 1us,
          [order, i] { order->push_back((i * 7919) % kCount); }));
    }
    for (int i = 0; i < kCount; ++i) {
      if (i % 50 != 0) {
        context.CancelTimer(timers[static_cast<size_t>(i)]);
      }
    }
    context.SetTimer(start + kCount * 1us, [&node, order] {
      EXPECT_EQ(order->size(), 40U);
      EXPECT_TRUE(std::is_sorted(order->begin(), order->end()));
      node.context().Stop(OkStatus());
    });
  });
}

TEST(PumpTest, TimerThatRepeatsAtAPastTimeLeavesTheOthersTheirTurn) {
  int rounds = 0;
  std::function<void()> again;
  RunToTheEnd([&](PumpedNode& node) {
    NodeContext& context = node.context();
    again = [&] {
      if (++rounds == 10'000) {
        context.Stop(InternalError("the others never fire"));
      }
      context.SetTimer(Time(), again);
    };
    again();
    context.SetTimer(context.Now(), [&] { context.Stop(OkStatus()); });
  });
}

TEST(PumpTest, PostsGetTheirTurnBetweenTimersThatSetTimers) {
  int rounds = 0;
  std::function<void()> again;
  RunToTheEnd([&](PumpedNode& node) {
    NodeContext& context = node.context();
    again = [&] {
      if (++rounds == 10'000) {
        context.Stop(InternalError("posts never run"));
      }
      if (rounds == 1) {
        context.Post([&] { context.Stop(OkStatus()); });
      }
      context.SetTimer(context.Now(), again);
    };
    context.SetTimer(context.Now(), again);
  });
}

// --- Works. ---

TEST(PumpTest, ComputeRunsBesideTheNodeAndItsEndOnTheNodesThread) {
  RunToTheEnd([](PumpedNode& node) {
    auto order = std::make_shared<std::vector<std::string>>();
    auto computed = std::make_shared<std::vector<int>>();
    for (int i = 0; i < 50; ++i) {
      node.context().StartCompute(
          0,
          [&node, computed, i] {
            EXPECT_FALSE(node.OnItsThread());
            computed->push_back(i);
          },
          [&node, order, computed, i] {
            node.CheckThread();
            order->push_back(std::to_string(i));
            if (i == 49) {
              std::vector<int> want(50);
              std::iota(want.begin(), want.end(), 0);
              EXPECT_EQ(*computed, want);
              EXPECT_EQ(order->size(), 50U);
              EXPECT_TRUE(node.context().Now() > Time());
              node.context().Stop(OkStatus());
            }
          });
    }
    node.context().StartCompute(
        1, [] {}, nullptr);  // Nobody asks for its end.
    EXPECT_THAT(*order, IsEmpty());
  });
}

TEST(PumpTest, LanesOfComputeAndStorageRunBesideEachOther) {
  static_assert(NodeContext::kNumComputeLanes == 2);
  RunToTheEnd([](PumpedNode& node) {
    // Each waits for the others, so that it hangs if one must end first.
    struct Meeting {
      Signal first, second, third;
      int num_done = 0;
    };
    auto meeting = std::make_shared<Meeting>();
    const auto done = [&node, meeting] {
      node.CheckThread();
      if (++meeting->num_done == 3) {
        node.context().Stop(OkStatus());
      }
    };
    const auto meet = [meeting](Signal& mine) {
      mine.Give();
      EXPECT_TRUE(meeting->first.Wait());
      EXPECT_TRUE(meeting->second.Wait());
      EXPECT_TRUE(meeting->third.Wait());
    };
    node.context().StartCompute(
        0, [=] { meet(meeting->first); }, done);
    node.context().StartCompute(
        1, [=] { meet(meeting->second); }, done);
    node.context().StartStorage(
        [=](Storage&) {
          meet(meeting->third);
          return StatusOr<Buffer>(Buffer());
        },
        [=](const StatusOr<Buffer>&) { done(); });
  });
}

TEST(PumpTest, StorageWorksInOrderAndBringsItsResultToTheNodesThread) {
  MemoryStorage storage;
  RunToTheEnd(
      [&storage](PumpedNode& node) {
        NodeContext& context = node.context();
        context.StartStorage(
            [&](Storage& given) -> StatusOr<Buffer> {
              EXPECT_FALSE(node.OnItsThread());
              EXPECT_EQ(&given, &storage);
              const Buffer text = Buffer::CopyOf("seventeen");
              SHOAL_RETURN_IF_ERROR(given.PublishFile("a/b", {&text, 1}));
              return Buffer::CopyOf("written");
            },
            [&](const StatusOr<Buffer>& result) {
              node.CheckThread();
              ASSERT_TRUE(result.ok()) << result.status();
              EXPECT_EQ((*result).text(), "written");
            });
        // Nobody asks for the end of this one.
        context.StartStorage([](Storage& given) { return given.ReadFile("x"); },
                             nullptr);
        context.StartStorage(
            [](Storage& given) { return given.ReadFile("a/c"); },
            [&](const StatusOr<Buffer>& result) {
              node.CheckThread();
              EXPECT_EQ(result.status().code(), StatusCode::kNotFound);
            });
        context.StartStorage(
            [](Storage& given) { return given.ReadFile("a/b"); },
            [&](const StatusOr<Buffer>& result) {
              ASSERT_TRUE(result.ok()) << result.status();
              EXPECT_EQ((*result).text(), "seventeen");
              node.context().Stop(OkStatus());
            });
      },
      &storage);
}

// Part of a callback: calls `action` when the callback is destroyed.
class Remains {
 public:
  explicit Remains(std::function<void()> action) : action_(std::move(action)) {}
  ~Remains() { action_(); }
  Remains(const Remains&) = delete;
  Remains& operator=(const Remains&) = delete;

 private:
  const std::function<void()> action_;
};

// When a node stops, the work that runs is waited for, those behind it are
// dropped, and no end of a work runs any more. What the ends hold is of the
// node's thread, and is destroyed there before Run() returns.
TEST(PumpTest, NodeThatStopsBeforeItsWorksEndsCleanly) {
  constexpr int kLanes = NodeContext::kNumComputeLanes;
  Signal running[kLanes + 1];
  Signal dropped[kLanes + 1];  // the work behind the one that runs
  bool finished[kLanes + 1] = {};
  int num_ends_destroyed = 0;
  const std::unique_ptr<Pump> pump = MakePump();
  PumpedNode node([&](NodeContext& context) {
    const auto never = [] { ADD_FAILURE() << "the node has stopped"; };
    const auto start = [&](int lane, std::function<void()> work) {
      const auto end = [never, remains = std::make_shared<Remains>([&] {
                                 node.CheckThread();
                                 ++num_ends_destroyed;
                               })] { never(); };
      if (lane < kLanes) {
        context.StartCompute(lane, std::move(work), end);
      } else {
        context.StartStorage(
            [work = std::move(work)](Storage&) {
              work();
              return StatusOr<Buffer>(Buffer());
            },
            [end](const StatusOr<Buffer>&) { end(); });
      }
    };
    for (int lane = 0; lane <= kLanes; ++lane) {
      start(lane, [&, lane] {
        running[lane].Give();
        EXPECT_TRUE(dropped[lane].Wait());
        finished[lane] = true;
      });
      start(lane, [never, remains = std::make_shared<Remains>([&, lane] {
                            dropped[lane].Give();
                          })] { never(); });
    }
    context.Post([&] {
      for (Signal& signal : running) {
        EXPECT_TRUE(signal.Wait());
      }
      context.Stop(OkStatus());
    });
  });
  EXPECT_EQ(pump->Run(node).ToString(), "OK");
  EXPECT_THAT(finished, ::testing::Each(true));
  EXPECT_EQ(num_ends_destroyed, 2 * (kLanes + 1));
}

TEST(PumpTest, PumpThatNeverRanIsDestroyedCleanly) {
  const std::unique_ptr<Pump> pump = MakePump();
  pump->Interrupt(CancelledError("a signal came"));
}

TEST(PumpTest, ManyPumpsComeAndGoWithEverythingUnderWay) {
  for (int round = 0; round < 30; ++round) {
    const std::unique_ptr<Pump> pump = MakePump("auto");
    const std::unique_ptr<Pump> peer = MakePump("auto");
    PumpedNode node([&](NodeContext& context) {
      EXPECT_TRUE(context.Connect(peer->self(), peer->address()).ok());
      for (int i = 0; i < 20; ++i) {
        context.StartCompute(
            i % 2, [] {}, [] {});
        context.StartStorage(
            [](Storage&) { return StatusOr<Buffer>(Buffer()); },
            [](const StatusOr<Buffer>&) {});
        context.SetTimer(context.Now() + i * 10us, [] {});
        // The peer may be gone after the first.
        (void)context.Send(peer->self(), Lane::kBulk,
                           TestMessage(1, {Buffer::CopyOf("x")}));
      }
    });
    PumpedNode other([](NodeContext&) {});
    other.on_message = [&](EndpointId, const Message&) {
      other.context().Stop(OkStatus());
    };
    std::thread thread([&] { EXPECT_TRUE(peer->Run(other).ok()); });
    node.on_peer_down = [&](EndpointId, const Status&) {
      pump->Interrupt(CancelledError("the peer went"));
    };
    EXPECT_EQ(pump->Run(node).code(), StatusCode::kCancelled);
    thread.join();
  }
}

// --- Messages, on every transport. ---

class PumpTransportTest : public ::testing::TestWithParam<std::string> {};

TEST_P(PumpTransportTest, MessagesFromOnStartArriveAndAreAnswered) {
  const std::unique_ptr<Pump> pump = MakePump(GetParam());
  const std::unique_ptr<Pump> peer = MakePump(GetParam());
  PumpedNode server([](NodeContext&) {});
  server.on_message = [&](EndpointId from, const Message& message) {
    EXPECT_EQ(from, pump->self());
    EXPECT_TRUE(server.context().Send(from, Lane::kUrgent, message).ok());
    if (message.header.request == 99) {
      server.context().Stop(OkStatus());
    }
  };
  std::thread thread([&] { EXPECT_EQ(peer->Run(server).ToString(), "OK"); });

  std::vector<uint64_t> answers;
  PumpedNode client([&](NodeContext& context) {
    EXPECT_TRUE(context.Connect(peer->self(), peer->address()).ok());
    for (uint64_t i = 0; i < 100; ++i) {
      EXPECT_TRUE(
          context.Send(peer->self(), Lane::kUrgent, TestMessage(i)).ok());
    }
  });
  client.on_message = [&](EndpointId from, const Message& message) {
    EXPECT_EQ(from, peer->self());
    answers.push_back(message.header.request);
  };
  // The server stops with its last answer sent: that comes first.
  client.on_peer_down = [&](EndpointId gone, const Status& why) {
    EXPECT_EQ(gone, peer->self());
    EXPECT_EQ(why.code(), StatusCode::kUnavailable);
    client.context().Stop(OkStatus());
  };
  EXPECT_EQ(pump->Run(client).ToString(), "OK");
  thread.join();
  std::vector<uint64_t> want(100);
  std::iota(want.begin(), want.end(), 0);
  EXPECT_EQ(answers, want);
}

TEST_P(PumpTransportTest, WhatIsSentRightBeforeStopArrives) {
  const std::unique_ptr<Pump> pump = MakePump(GetParam());
  const std::unique_ptr<Pump> peer = MakePump(GetParam());
  std::thread thread([&] {
    PumpedNode sender([&](NodeContext& context) {
      EXPECT_TRUE(context.Connect(pump->self(), pump->address()).ok());
      EXPECT_TRUE(context
                      .Send(pump->self(), Lane::kBulk,
                            TestMessage(1, {TestBytes(3 << 20, 1)}))
                      .ok());
      context.Stop(OkStatus());
    });
    EXPECT_EQ(peer->Run(sender).ToString(), "OK");
  });
  int num_received = 0;
  PumpedNode receiver([](NodeContext&) {});
  receiver.on_message = [&](EndpointId from, const Message& message) {
    EXPECT_EQ(from, peer->self());
    EXPECT_TRUE(message.frames.at(0).text() == TestBytes(3 << 20, 1).text());
    ++num_received;
  };
  receiver.on_peer_down = [&](EndpointId gone, const Status&) {
    EXPECT_EQ(gone, peer->self());
    receiver.context().Stop(OkStatus());
  };
  EXPECT_EQ(pump->Run(receiver).ToString(), "OK");
  thread.join();
  EXPECT_EQ(num_received, 1);
}

TEST_P(PumpTransportTest, StoppedNodeHearsNothingMore) {
  const std::unique_ptr<Pump> pump = MakePump(GetParam());
  const std::unique_ptr<Pump> peer = MakePump(GetParam());
  PumpedNode sender([&](NodeContext& context) {
    EXPECT_TRUE(context.Connect(peer->self(), peer->address()).ok());
    for (uint64_t i = 0; i < 200; ++i) {
      // The receiver may be gone after the first.
      (void)context.Send(peer->self(), Lane::kUrgent, TestMessage(i));
    }
  });
  sender.on_peer_down = [&](EndpointId gone, const Status&) {
    EXPECT_EQ(gone, peer->self());
    sender.context().Stop(OkStatus());
  };
  int num_calls = 0;
  PumpedNode receiver([](NodeContext&) {});
  receiver.on_message = [&](EndpointId, const Message&) {
    ++num_calls;
    receiver.context().Stop(OkStatus());
  };
  receiver.on_peer_down = [&](EndpointId, const Status&) { ++num_calls; };
  std::thread thread([&] { EXPECT_EQ(peer->Run(receiver).ToString(), "OK"); });
  EXPECT_EQ(pump->Run(sender).ToString(), "OK");
  thread.join();
  EXPECT_EQ(num_calls, 1);
}

INSTANTIATE_TEST_SUITE_P(All, PumpTransportTest,
                         ::testing::ValuesIn(TransportsHere()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace shoal::comm
