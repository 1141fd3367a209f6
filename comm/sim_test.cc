#include "comm/sim.h"

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/strcat.h"
#include "comm/comm_testing.h"

namespace shoal::comm {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Le;
using ::testing::Lt;

constexpr Duration kHour = std::chrono::hours(1);

// What a node does and has seen. The test keeps it, also when the node is gone.
struct SimActor {
  std::function<void(NodeContext&)> on_start;
  std::function<void(EndpointId, const Message&)> on_message;
  std::function<void(EndpointId)> on_peer_down;

  NodeContext* context = nullptr;  // stays as long as the world
  int num_destroyed = 0;
  struct Seen {
    Time at;
    EndpointId peer;
    uint64_t request = 0;  // none for the end of a connection
    bool down = false;
  };
  std::vector<Seen> seen;
  std::vector<Status> reasons;  // of the ends of connections
  std::vector<Time> sendable;

  std::vector<uint64_t> Requests() const {
    std::vector<uint64_t> requests;
    for (const Seen& one : seen) {
      if (!one.down) {
        requests.push_back(one.request);
      }
    }
    return requests;
  }
  std::vector<Time> Downs(EndpointId peer) const {
    std::vector<Time> downs;
    for (const Seen& one : seen) {
      if (one.down && one.peer == peer) {
        downs.push_back(one.at);
      }
    }
    return downs;
  }
};

class SimActorNode : public Node {
 public:
  explicit SimActorNode(SimActor& actor) : actor_(actor) {}
  ~SimActorNode() override { ++actor_.num_destroyed; }
  void OnStart(NodeContext& context) override {
    actor_.context = &context;
    if (actor_.on_start) {
      actor_.on_start(context);
    }
  }
  void OnMessage(EndpointId from, Message message) override {
    actor_.seen.push_back(
        {actor_.context->Now(), from, message.header.request, false});
    if (actor_.on_message) {
      actor_.on_message(from, message);
    }
  }
  void OnPeerDown(EndpointId peer, const Status& why) override {
    actor_.seen.push_back({actor_.context->Now(), peer, 0, true});
    actor_.reasons.push_back(why);
    if (actor_.on_peer_down) {
      actor_.on_peer_down(peer);
    }
  }
  void OnSendable(EndpointId) override {
    actor_.sendable.push_back(actor_.context->Now());
  }

 private:
  SimActor& actor_;
};

SimWorld::NodeFactory Play(SimActor& actor) {
  return [&actor] { return std::make_unique<SimActorNode>(actor); };
}

// Every message takes 10 ms and the loss of a connection is seen after 50 ms.
SimOptions ExactOptions() {
  SimOptions options;
  options.delay_min = options.delay_max = 10ms;
  options.long_delay_chance = 0;
  options.detect_min = options.detect_max = 50ms;
  options.storage_min = options.storage_max = 20ms;
  options.compute_min = options.compute_max = 7ms;
  return options;
}

// Two nodes that have exchanged a message each, so that both know the other.
struct SimPair {
  explicit SimPair(uint64_t seed = 1,
                   const SimOptions& options = ExactOptions())
      : world(seed, options) {
    world.AddNode("a", Play(a));
    world.AddNode("b", Play(b));
    world.RunFor(0ns);
    Connect();
    Send(a, "b", 1000);
    world.RunFor(1s);
    Send(b, "a", 1000);
    world.RunFor(1s);
    EXPECT_THAT(a.Requests(), ElementsAre(1000));
    EXPECT_THAT(b.Requests(), ElementsAre(1000));
    a.seen.clear();
    b.seen.clear();
  }

  void Connect() {
    EXPECT_TRUE(a.context->Connect(world.id("b"), world.address("b")).ok());
  }
  void Send(SimActor& from, const std::string& to, uint64_t request,
            Lane lane = Lane::kUrgent) {
    const Status sent =
        from.context->Send(world.id(to), lane, TestMessage(request));
    EXPECT_TRUE(sent.ok()) << sent;
  }

  SimActor a, b;
  SimWorld world;
};

// --- Replay. ---

// Four nodes that do all that a node can, with lost connections, a crash and a
// restart; one line for each callback.
struct SimStory {
  std::vector<std::string> lines;
  uint64_t trace_hash = 0;
  int64_t num_events = 0;
};

class SimStoryTeller {
 public:
  explicit SimStoryTeller(uint64_t seed) : world_(seed, Options()) {}

  SimStory Tell() {
    for (int i = 0; i < 4; ++i) {
      const std::string name = StrCat("node ", i);
      names_.push_back(name);
      world_.AddNode(name, Play(Actor(name)));
    }
    const Time start = world_.Now();
    world_.At(start + 300ms, [this] { world_.CrashNode("node 2"); });
    world_.At(start + 400ms,
              [this] { world_.RestartNode("node 2", Play(Actor("node 2"))); });
    world_.RunFor(1s);
    return {std::move(lines_), world_.trace_hash(), world_.num_events()};
  }

 private:
  static SimOptions Options() {
    SimOptions options;
    options.loss_every = 50ms;
    return options;
  }

  void Line(const std::string& name, const std::string& what) {
    lines_.push_back(
        StrCat(world_.Now().time_since_epoch().count(), " ", name, " ", what));
  }

  SimActor& Actor(const std::string& name) {
    actors_.push_back(std::make_unique<SimActor>());
    SimActor& actor = *actors_.back();
    actor.on_start = [this, name, &actor](NodeContext& context) {
      Line(name, StrCat("starts as ", context.self()));
      Round(name, actor);
    };
    actor.on_message = [this, name](EndpointId from, const Message& message) {
      Line(name, StrCat(from, " says ", message.header.request));
    };
    actor.on_peer_down = [this, name](EndpointId peer) {
      Line(name, StrCat("lost ", peer));
    };
    return actor;
  }

  void Round(const std::string& name, SimActor& actor) {
    NodeContext& context = *actor.context;
    const std::string& peer = names_[context.random().Below(names_.size())];
    if (peer != name) {
      (void)context.Connect(world_.id(peer), world_.address(peer));
      (void)context.Send(world_.id(peer), Lane::kUrgent,
                         TestMessage(context.random().Below(1000)));
    }
    context.StartCompute(
        0, [this, name] { Line(name, "computes"); },
        [this, name] { Line(name, "computed"); });
    context.StartStorage(
        [this, name](Storage&) {
          Line(name, "stores");
          return StatusOr<Buffer>(Buffer());
        },
        [this, name](const StatusOr<Buffer>&) { Line(name, "stored"); });
    context.Post([this, name] { Line(name, "posted"); });
    context.SetTimer(context.Now() + Duration(static_cast<int64_t>(
                                         context.random().Below(20'000'000))),
                     [this, name, &actor] { Round(name, actor); });
  }

  std::vector<std::string> names_;
  std::vector<std::string> lines_;
  std::vector<std::unique_ptr<SimActor>> actors_;
  SimWorld world_;
};

TEST(SimTest, SameSeedReplaysEveryEventAndAnotherSeedDoesNot) {
  const SimStory once = SimStoryTeller(1).Tell();
  const SimStory again = SimStoryTeller(1).Tell();
  EXPECT_EQ(once.lines, again.lines);
  EXPECT_EQ(once.trace_hash, again.trace_hash);
  EXPECT_EQ(once.num_events, again.num_events);

  const SimStory other = SimStoryTeller(2).Tell();
  EXPECT_NE(once.lines, other.lines);
  EXPECT_NE(once.trace_hash, other.trace_hash);

  // It was not an empty story.
  for (const char* const what : {"starts", "says", "lost", "computes",
                                 "computed", "stores", "stored", "posted"}) {
    EXPECT_GE(std::count_if(once.lines.begin(), once.lines.end(),
                            [&](const std::string& line) {
                              return line.find(what) != std::string::npos;
                            }),
              5)
        << what;
  }
}

TEST(SimTest, TraceHashSeesWhatIsSentAndWhen) {
  const auto hash = [](const Message& message, Lane lane = Lane::kBulk,
                       Duration timer = 1ms, uint64_t seed = 1) {
    SimPair pair(seed);
    EXPECT_TRUE(pair.a.context->Send(pair.world.id("b"), lane, message).ok());
    pair.a.context->SetTimer(pair.world.Now() + timer, [] {});
    pair.world.RunFor(1s);
    return pair.world.trace_hash();
  };
  const auto text = [](const std::vector<std::string>& frames,
                       uint64_t request = 1) {
    Message message = TestMessage(request);
    for (const std::string& frame : frames) {
      message.frames.push_back(Buffer::CopyOf(frame));
    }
    return message;
  };
  const Message plain = text({"0123456789", "ab"});
  std::set<uint64_t> hashes = {
      hash(plain),
      hash(text({"0123456789", "ab"}, 2)),
      hash(text({"0123456789", "aB"})),
      hash(text({"1023456789", "ab"})),
      hash(text({"0123456789a", "b"})),
      hash(text({"0123456789", "ab", ""})),
      hash(plain, Lane::kUrgent),
      hash(plain, Lane::kBulk, 2ms),
      hash(plain, Lane::kBulk, 1ms, 2),
  };
  EXPECT_EQ(hashes.size(), 9U);
  EXPECT_TRUE(hashes.contains(hash(text({"0123456789", "ab"}))));
}

TEST(SimTest, NamesAndRandomNumbersComeFromTheSeed) {
  const auto draw = [](uint64_t seed) {
    SimActor a, b;
    SimWorld world(seed);
    world.AddNode("a", Play(a));
    world.AddNode("b", Play(b));
    EXPECT_EQ(world.seed(), seed);
    EXPECT_EQ(world.AddNode("c", Play(b), EndpointId{17}).value, 17U);
    EXPECT_EQ(world.address("c"), "sim:11");
    world.RunFor(0ns);
    std::set<uint64_t> drawn = {world.id("a").value, world.id("b").value,
                                a.context->random()(), b.context->random()()};
    EXPECT_EQ(drawn.size(), 4U);
    return drawn;
  };
  EXPECT_EQ(draw(1), draw(1));
  std::set<uint64_t> drawn = draw(1);
  drawn.merge(draw(2));
  EXPECT_EQ(drawn.size(), 8U);
}

// --- The clock. ---

TEST(SimTest, ClockGoesByTheEventsAloneAndNotByTheWall) {
  SimActor actor;
  SimWorld world(1, ExactOptions());
  const Time start = world.Now();
  int hours = 0;
  std::function<void()> again = [&] {
    EXPECT_EQ(world.Now(), start + hours * kHour);
    EXPECT_EQ(actor.context->Now(), world.Now());
    if (hours < 100'000) {
      ++hours;
      actor.context->SetTimer(start + hours * kHour, again);
    }
  };
  actor.on_start = [&](NodeContext&) { again(); };
  world.AddNode("a", Play(actor));
  // Eleven years.
  EXPECT_TRUE(
      world.Run([&] { return hours == 100'000; }, 100'000 * kHour).ok());
  EXPECT_EQ(world.Now(), start + 99'999 * kHour);
  world.RunFor(1000 * kHour);
  EXPECT_EQ(world.Now(), start + 100'999 * kHour);
}

TEST(SimTest, TimersFireAtTheirTimesInTheOrderOfTheirMaking) {
  SimActor actor;
  SimWorld world(1);
  std::vector<std::pair<Duration, int>> fired;
  const Time start = world.Now();
  actor.on_start = [&](NodeContext& context) {
    constexpr Duration kTimes[] = {5ms, 3ms, 9ms, 3ms, -7ms, 0ms, 3ms};
    for (int i = 0; i < 7; ++i) {
      context.SetTimer(start + kTimes[i],
                       [&, i] { fired.emplace_back(world.Now() - start, i); });
    }
    EXPECT_THAT(fired, IsEmpty());
  };
  world.AddNode("a", Play(actor));
  world.RunFor(1s);
  // One that has passed fires now.
  EXPECT_THAT(fired, ElementsAre(std::pair(0ms, 4), std::pair(0ms, 5),
                                 std::pair(3ms, 1), std::pair(3ms, 3),
                                 std::pair(3ms, 6), std::pair(5ms, 0),
                                 std::pair(9ms, 2)));
}

TEST(SimTest, CancelledTimerNeverFires) {
  SimActor actor;
  SimWorld world(1);
  int num_fired = 0;
  TimerId self = TimerId::kNone;
  TimerId later = TimerId::kNone;
  const auto fail = [] { ADD_FAILURE() << "it was cancelled"; };
  actor.on_start = [&](NodeContext& context) {
    const Time at = world.Now() + 1ms;
    context.CancelTimer(context.SetTimer(at, fail));
    self = context.SetTimer(at, [&] {
      context.CancelTimer(later);  // Due at the same time.
      context.CancelTimer(self);
      context.CancelTimer(TimerId::kNone);
      ++num_fired;
    });
    later = context.SetTimer(at, fail);
    context.SetTimer(at, [&] { ++num_fired; });
  };
  world.AddNode("a", Play(actor));
  world.RunFor(1s);
  EXPECT_EQ(num_fired, 2);
}

TEST(SimTest, WorksTakeTheirTimeOneAfterAnotherAndLanesBesideEachOther) {
  SimActor actor;
  SimWorld world(1, ExactOptions());
  std::vector<std::string> order;
  const Time start = world.Now();
  const auto note = [&](const std::string& what) {
    order.push_back(StrCat(what, " at ", (world.Now() - start) / 1ms));
  };
  actor.on_start = [&](NodeContext& context) {
    for (const char* const name : {"x", "y"}) {
      context.StartCompute(
          0, [&, name] { note(StrCat(name, " begins")); },
          [&, name] { note(StrCat(name, " ends")); });
    }
    context.StartCompute(
        1, [&] { note("z begins"); }, [&] { note("z ends"); });
    context.StartCompute(
        1, [] {}, nullptr);
    const Buffer text = Buffer::CopyOf("seventeen");
    context.StartStorage(
        [&, text](Storage& storage) -> StatusOr<Buffer> {
          note("write begins");
          SHOAL_RETURN_IF_ERROR(storage.PublishFile("a/b", {&text, 1}));
          return Buffer();
        },
        [&](const StatusOr<Buffer>& result) {
          EXPECT_TRUE(result.ok()) << result.status();
          note("write ends");
        });
    context.StartStorage(
        [&](Storage& storage) {
          note("read begins");
          return storage.ReadFile("a/b");
        },
        [&](const StatusOr<Buffer>& result) {
          note(StrCat("read ends with ",
                      result.ok() ? (*result).text() : "nothing"));
        });
    EXPECT_THAT(order, IsEmpty());
  };
  world.AddNode("a", Play(actor));
  world.RunFor(1s);
  EXPECT_THAT(order, ElementsAre("x begins at 0", "z begins at 0",
                                 "write begins at 0", "x ends at 7",
                                 "y begins at 7", "z ends at 7", "y ends at 14",
                                 "write ends at 20", "read begins at 20",
                                 "read ends with seventeen at 40"));
  EXPECT_TRUE(world.storage().ReadFile("a/b").ok());
}

TEST(SimTest, RunEndsWhenItHoldsAtItsLimitOrWhenNothingIsLeft) {
  SimActor actor;
  SimOptions options;
  options.loss_every = 1ms;  // Losses alone do not keep the world going.
  SimWorld world(17, options);
  const Time start = world.Now();
  int num_fired = 0;
  actor.on_start = [&](NodeContext& context) {
    for (int i = 1; i <= 3; ++i) {
      context.SetTimer(start + i * 1s, [&] { ++num_fired; });
    }
  };
  world.AddNode("a", Play(actor));
  EXPECT_TRUE(world.Run([] { return true; }, 0ns).ok());
  EXPECT_EQ(world.num_events(), 0);
  EXPECT_TRUE(world.Run([&] { return num_fired == 1; }, 1s).ok());
  EXPECT_EQ(world.Now(), start + 1s);
  const Status late = world.Run([&] { return num_fired == 2; }, 900ms);
  EXPECT_EQ(late.code(), StatusCode::kDeadlineExceeded);
  EXPECT_THAT(late.message(), HasSubstr("seed 17"));
  EXPECT_EQ(world.Now(), start + 1900ms);
  const Status rest = world.Run([&] { return num_fired == 4; }, kHour);
  EXPECT_EQ(rest.code(), StatusCode::kUnavailable);
  EXPECT_THAT(rest.message(), HasSubstr("seed 17"));
  EXPECT_EQ(num_fired, 3);
  EXPECT_EQ(world.Now(), start + 3s);
}

TEST(SimTest, ActionsComeAtTheirTimesOrNow) {
  SimWorld world(1);
  const Time start = world.Now();
  std::vector<Duration> at;
  const auto note = [&] { at.push_back(world.Now() - start); };
  world.At(start + 2s, note);
  world.At(start + 1s, note);
  world.At(start - 1s, note);
  world.RunFor(1500ms);
  EXPECT_THAT(at, ElementsAre(0s, 1s));
  world.RunFor(500ms);
  EXPECT_THAT(at, ElementsAre(0s, 1s, 2s));
}

// --- Messages. ---

TEST(SimTest, OrderHoldsWithinAPairAndALaneAndOnlyThere) {
  SimOptions options;
  options.long_delay_chance = 0.2;
  bool lanes_mixed = false;
  bool senders_mixed = false;
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SimActor a, b, c;
    SimWorld world(seed, options);
    world.AddNode("c", Play(c));
    for (SimActor* const actor : {&a, &b}) {
      actor->on_start = [&world](NodeContext& context) {
        EXPECT_TRUE(context.Connect(world.id("c"), world.address("c")).ok());
        for (uint64_t i = 0; i < 60; ++i) {
          EXPECT_TRUE(context
                          .Send(world.id("c"),
                                i % 2 == 0 ? Lane::kUrgent : Lane::kBulk,
                                TestMessage(i))
                          .ok());
        }
      };
    }
    world.AddNode("a", Play(a));
    world.AddNode("b", Play(b));
    world.RunFor(10s);
    ASSERT_EQ(c.seen.size(), 120U) << "seed " << seed;
    std::map<std::pair<EndpointId, uint64_t>, uint64_t> next;
    std::map<EndpointId, uint64_t> num_seen;
    for (const SimActor::Seen& seen : c.seen) {
      const uint64_t lane = seen.request % 2;
      uint64_t& expected = next[{seen.peer, lane}];
      ASSERT_EQ(seen.request, 2 * expected + lane) << "seed " << seed;
      ++expected;
      // Had all come in the order of sending, from this sender or from both:
      lanes_mixed |= seen.request != num_seen[seen.peer]++;
      senders_mixed |=
          num_seen[world.id("a")] < 60 && num_seen[world.id("b")] > 0;
    }
  }
  EXPECT_TRUE(lanes_mixed);
  EXPECT_TRUE(senders_mixed);
}

TEST(SimTest, MessagesTakeFromTheirShortestToTheirLongestTime) {
  const auto spread = [](const SimOptions& options) {
    SimPair pair(1, options);
    // Far apart, so that none waits for one before it.
    std::vector<Time> sent;
    for (uint64_t i = 0; i < 300; ++i) {
      sent.push_back(pair.world.Now());
      pair.Send(pair.a, "b", i);
      pair.world.RunFor(1s);
    }
    std::vector<Duration> took;
    for (size_t i = 0; i < pair.b.seen.size(); ++i) {
      took.push_back(pair.b.seen[i].at - sent[i]);
    }
    EXPECT_EQ(took.size(), sent.size());
    return took;
  };
  SimOptions options;
  options.delay_min = 3ms;
  options.delay_max = 5ms;
  options.long_delay_chance = 0;
  const std::vector<Duration> even = spread(options);
  EXPECT_THAT(even, Each(::testing::AllOf(Ge(3ms), Le(5ms))));
  EXPECT_THAT(even, ::testing::Contains(Lt(3200us)));
  EXPECT_THAT(even, ::testing::Contains(Ge(4800us)));
  options.long_delay_chance = 0.1;
  const std::vector<Duration> mixed = spread(options);
  EXPECT_THAT(mixed, Each(::testing::AllOf(Ge(3ms), Le(300ms))));
  const auto num_long = std::count_if(mixed.begin(), mixed.end(),
                                      [](Duration one) { return one > 5ms; });
  // 30 are expected, with a deviation of about 5.
  EXPECT_GT(num_long, 5);
  EXPECT_LT(num_long, 55);
}

TEST(SimTest, FullQueueRefusesAndSaysWhenThereIsRoom) {
  SimOptions options = ExactOptions();
  options.send_queue_bytes_max = 1000;
  SimPair pair(1, options);
  const auto send = [&](int64_t size) {
    return pair.a.context->Send(pair.world.id("b"), Lane::kBulk,
                                TestMessage(1, {Buffer::Allocate(size)}));
  };
  const Time start = pair.world.Now();
  EXPECT_TRUE(send(200).ok());
  pair.world.RunFor(2ms);
  EXPECT_TRUE(send(200).ok());
  pair.world.RunFor(2ms);
  EXPECT_TRUE(send(400).ok());
  EXPECT_EQ(send(400).code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(pair.a.sendable, IsEmpty());
  pair.world.RunFor(1s);
  // Half of it is free when the second arrives, after 12 ms, and the news takes
  // the shortest way back.
  EXPECT_THAT(pair.a.sendable, ElementsAre(start + 22ms));
  EXPECT_EQ(pair.b.seen.size(), 3U);
  // One that is bigger than the queue passes alone.
  EXPECT_TRUE(send(5000).ok());
  EXPECT_EQ(send(1).code(), StatusCode::kResourceExhausted);
  pair.world.RunFor(1s);
  EXPECT_EQ(pair.a.sendable.size(), 2U);
  EXPECT_EQ(pair.b.seen.size(), 4U);
  EXPECT_EQ(pair.a.context
                ->Send(pair.world.id("b"), Lane::kBulk,
                       TestMessage(1, std::vector<Buffer>(kMessageFramesMax + 1,
                                                          Buffer())))
                .code(),
            StatusCode::kInvalidArgument);
}

TEST(SimTest, PeerIsConnectedByItsAddressAlone) {
  SimPair pair;
  SimActor c;
  pair.world.AddNode("c", Play(c));
  pair.world.RunFor(0ns);
  const EndpointId b = pair.world.id("b");
  for (const std::string& address :
       {std::string(), std::string("sim:"), std::string("sim:xyz"),
        std::string("tcp://1.2.3.4:5"), pair.world.address("b") + "0",
        pair.world.address("b") + "z", pair.world.address("a")}) {
    EXPECT_EQ(c.context->Connect(b, address).code(),
              StatusCode::kInvalidArgument)
        << address;
  }
  EXPECT_EQ(c.context->Send(b, Lane::kUrgent, TestMessage(1)).code(),
            StatusCode::kUnavailable);
  // There is nobody of that name, which shows later.
  const EndpointId nobody{4242};
  const Time start = pair.world.Now();
  EXPECT_TRUE(c.context->Connect(nobody, "sim:1092").ok());
  EXPECT_TRUE(c.context->Send(nobody, Lane::kUrgent, TestMessage(1)).ok());
  pair.world.RunFor(1s);
  EXPECT_THAT(c.Downs(nobody), ElementsAre(start + 50ms));
  EXPECT_EQ(c.context->Send(nobody, Lane::kUrgent, TestMessage(1)).code(),
            StatusCode::kUnavailable);
}

TEST(SimTest, ForgottenPeerIsNotHeardUntilItIsConnectedAgain) {
  SimPair pair;
  const EndpointId a = pair.world.id("a");
  const EndpointId b = pair.world.id("b");
  pair.Send(pair.a, "b", 1);
  pair.b.context->Disconnect(a);
  EXPECT_EQ(pair.b.context->Send(a, Lane::kUrgent, TestMessage(2)).code(),
            StatusCode::kUnavailable);
  pair.Send(pair.a, "b", 3);  // It does not know yet.
  pair.world.RunFor(1s);
  EXPECT_EQ(pair.a.Downs(b).size(), 1U);
  // It calls again and is not heard.
  pair.Connect();
  pair.Send(pair.a, "b", 4);
  pair.world.RunFor(1s);
  EXPECT_EQ(pair.a.Downs(b).size(), 2U);
  EXPECT_THAT(pair.b.seen, IsEmpty());
  // Until b wants it back.
  EXPECT_TRUE(pair.b.context->Connect(a, pair.world.address("a")).ok());
  pair.Send(pair.b, "a", 5);
  pair.world.RunFor(1s);
  pair.Send(pair.a, "b", 6);
  pair.world.RunFor(1s);
  EXPECT_THAT(pair.a.Requests(), ElementsAre(5));
  EXPECT_THAT(pair.b.Requests(), ElementsAre(6));
  EXPECT_THAT(pair.b.Downs(a), IsEmpty());
}

// --- Lost connections. ---

TEST(SimTest, LostConnectionIsToldToBothAndWhatWasUnderWayIsGone) {
  SimPair pair;
  const EndpointId a = pair.world.id("a");
  const EndpointId b = pair.world.id("b");
  const Time start = pair.world.Now();
  pair.Send(pair.a, "b", 1);
  pair.Send(pair.a, "b", 2, Lane::kBulk);
  pair.Send(pair.b, "a", 3);
  pair.world.RunFor(5ms);
  pair.world.LoseConnection("a", "b");
  pair.Send(pair.a, "b", 4);  // It does not know yet.
  pair.world.RunFor(1s);
  EXPECT_THAT(pair.a.Requests(), IsEmpty());
  EXPECT_THAT(pair.b.Requests(), IsEmpty());
  EXPECT_THAT(pair.a.Downs(b), ElementsAre(start + 55ms));
  EXPECT_THAT(pair.b.Downs(a), ElementsAre(start + 55ms));
  EXPECT_EQ(pair.a.reasons.at(0).code(), StatusCode::kUnavailable);
  // Now it knows.
  EXPECT_EQ(pair.a.context->Send(b, Lane::kUrgent, TestMessage(5)).code(),
            StatusCode::kUnavailable);
  // There is none to lose.
  pair.world.LoseConnection("a", "b");
  pair.world.RunFor(1s);
  EXPECT_EQ(pair.a.seen.size(), 1U);
  // A new one has nothing of the old.
  pair.Connect();
  pair.Send(pair.a, "b", 6);
  pair.world.RunFor(1s);
  EXPECT_THAT(pair.b.Requests(), ElementsAre(6));
  pair.Send(pair.b, "a", 7);
  pair.world.RunFor(1s);
  EXPECT_THAT(pair.a.Requests(), ElementsAre(7));
  EXPECT_EQ(pair.a.Downs(b).size(), 1U);
  EXPECT_EQ(pair.b.Downs(a).size(), 1U);
}

// One end may hear of the loss and be back before the other has heard of it.
// The other hears of it before anything of the new connection.
TEST(SimTest, LossComesBeforeTheFirstMessageOfTheNextConnection) {
  SimOptions options = ExactOptions();
  options.detect_min = 0ms;
  options.detect_max = 200ms;
  int num_early = 0;
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SimPair pair(seed, options);
    pair.a.on_peer_down = [&](EndpointId) {
      pair.Connect();
      pair.Send(pair.a, "b", 1);
    };
    const Time start = pair.world.Now();
    pair.world.LoseConnection("a", "b");
    pair.world.RunFor(1s);
    ASSERT_EQ(pair.b.seen.size(), 2U) << "seed " << seed;
    EXPECT_TRUE(pair.b.seen[0].down) << "seed " << seed;
    EXPECT_EQ(pair.b.seen[1].request, 1U) << "seed " << seed;
    EXPECT_THAT(pair.a.Downs(pair.world.id("b")),
                ElementsAre(::testing::AllOf(Ge(start), Le(start + 200ms))));
    num_early += pair.b.seen[0].at == pair.b.seen[1].at ? 1 : 0;
    // The connection stands.
    pair.Send(pair.b, "a", 2);
    pair.world.RunFor(1s);
    EXPECT_THAT(pair.a.Requests(), ElementsAre(2)) << "seed " << seed;
  }
  EXPECT_GE(num_early, 5);
  EXPECT_LE(num_early, 25);
}

TEST(SimTest, PeerThatIsForgottenWhenItsLossIsToldIsNotHeard) {
  SimOptions options = ExactOptions();
  options.detect_min = 0ms;
  options.detect_max = 200ms;
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SimPair pair(seed, options);
    const EndpointId a = pair.world.id("a");
    const EndpointId b = pair.world.id("b");
    pair.a.on_peer_down = [&](EndpointId) {
      if (pair.a.Downs(b).size() == 1) {
        pair.Connect();
        pair.Send(pair.a, "b", 1);
      }
    };
    pair.b.on_peer_down = [&](EndpointId) { pair.b.context->Disconnect(a); };
    pair.world.LoseConnection("a", "b");
    pair.world.RunFor(1s);
    // Whichever of the two heard of the loss first:
    ASSERT_EQ(pair.b.Downs(a).size(), 1U) << "seed " << seed;
    EXPECT_THAT(pair.b.Requests(), IsEmpty()) << "seed " << seed;
    EXPECT_EQ(pair.a.Downs(b).size(), 2U) << "seed " << seed;
    EXPECT_EQ(pair.b.context->Send(a, Lane::kUrgent, TestMessage(1)).code(),
              StatusCode::kUnavailable)
        << "seed " << seed;
  }
}

// --- Crashes and stops. ---

TEST(SimTest, CrashDestroysTheNodeAndAllThatItBegan) {
  SimPair pair;
  const EndpointId a = pair.world.id("a");
  const EndpointId b = pair.world.id("b");
  const Time start = pair.world.Now();
  NodeContext& context = *pair.a.context;
  const auto never = [] { ADD_FAILURE() << "it has crashed"; };
  const auto begin = [&] {
    context.SetTimer(start, never);
    context.Post(never);
    context.StartCompute(0, never, never);
    context.StartStorage(
        [&](Storage&) {
          never();
          return StatusOr<Buffer>(Buffer());
        },
        [&](const StatusOr<Buffer>&) { never(); });
  };
  pair.Send(pair.a, "b", 1);
  pair.Send(pair.b, "a", 2);
  begin();
  pair.world.CrashNode("a");
  EXPECT_EQ(pair.a.num_destroyed, 1);
  EXPECT_EQ(pair.world.node("a"), nullptr);
  EXPECT_FALSE(pair.world.stopped("a").has_value());
  pair.world.CrashNode("a");  // It is down: no effect.
  pair.world.CrashNode("nobody");
  // Its context is still there and does nothing.
  begin();
  EXPECT_EQ(context.SetTimer(start, never), TimerId::kNone);
  EXPECT_EQ(context.Send(b, Lane::kUrgent, TestMessage(1)).code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(context.Connect(b, pair.world.address("b")).code(),
            StatusCode::kFailedPrecondition);
  pair.Send(pair.b, "a", 3);  // It does not know yet.
  pair.world.RunFor(1s);
  EXPECT_THAT(pair.a.seen, IsEmpty());
  EXPECT_THAT(pair.b.Requests(), IsEmpty());
  EXPECT_THAT(pair.b.Downs(a), ElementsAre(start + 50ms));
}

TEST(SimTest, NodeThatCrashesItselfEndsItsCallbackFirst) {
  SimPair pair;
  const EndpointId a = pair.world.id("a");
  bool ended = false;
  pair.a.on_message = [&](EndpointId, const Message&) {
    pair.world.CrashNode("a");
    EXPECT_EQ(pair.a.num_destroyed, 0);
    pair.Send(pair.a, "b", 2);
    pair.a.context->Stop(OkStatus());
    ended = true;
  };
  pair.Send(pair.b, "a", 1);
  pair.Send(pair.b, "a", 2);
  EXPECT_TRUE(pair.world.Run([&] { return ended; }, 1s).ok());
  EXPECT_EQ(pair.a.num_destroyed, 1);
  pair.world.RunFor(1s);
  EXPECT_THAT(pair.a.Requests(), ElementsAre(1));
  EXPECT_THAT(pair.b.Requests(), IsEmpty());
  EXPECT_EQ(pair.b.Downs(a).size(), 1U);
  EXPECT_FALSE(pair.world.stopped("a").has_value());
}

TEST(SimTest, RestartedNodeIsANewEndpointWithTheOldFiles) {
  SimPair pair;
  const EndpointId old = pair.world.id("b");
  const std::string old_address = pair.world.address("b");
  const Buffer text = Buffer::CopyOf("seventeen");
  EXPECT_TRUE(pair.world.storage().PublishFile("x", {&text, 1}).ok());
  pair.world.CrashNode("b");
  SimActor again;
  std::string found;
  again.on_start = [&](NodeContext& context) {
    context.StartStorage([](Storage& storage) { return storage.ReadFile("x"); },
                         [&](const StatusOr<Buffer>& result) {
                           ASSERT_TRUE(result.ok()) << result.status();
                           found = (*result).text();
                         });
  };
  const EndpointId id = pair.world.RestartNode("b", Play(again));
  EXPECT_NE(id, old);
  EXPECT_EQ(pair.world.id("b"), id);
  EXPECT_NE(pair.world.node("b"), nullptr);
  // What is for the old one does not reach the new one.
  EXPECT_TRUE(pair.a.context->Send(old, Lane::kUrgent, TestMessage(1)).ok());
  pair.world.RunFor(1s);
  EXPECT_EQ(found, "seventeen");
  EXPECT_EQ(pair.a.Downs(old).size(), 1U);
  EXPECT_TRUE(pair.a.context->Connect(old, old_address).ok());
  EXPECT_TRUE(pair.a.context->Send(old, Lane::kUrgent, TestMessage(2)).ok());
  pair.world.RunFor(1s);
  EXPECT_EQ(pair.a.Downs(old).size(), 2U);
  EXPECT_THAT(again.seen, IsEmpty());
  pair.Connect();
  pair.Send(pair.a, "b", 3);
  pair.world.RunFor(1s);
  EXPECT_THAT(again.Requests(), ElementsAre(3));
  EXPECT_THAT(pair.b.seen, IsEmpty());
}

TEST(SimTest, StoppedNodeIsThereToLookAtAndItsFirstReasonToo) {
  SimPair pair;
  SimActor again;
  NodeContext& context = *pair.a.context;
  const auto never = [] { ADD_FAILURE() << "it has stopped"; };
  pair.a.on_message = [&](EndpointId, const Message&) {
    context.Stop(DataLossError("no checkpoint"));
    context.Stop(OkStatus());
    context.SetTimer(pair.world.Now(), never);
    context.Post(never);
    context.StartCompute(0, never, never);
  };
  EXPECT_FALSE(pair.world.stopped("a").has_value());
  pair.Send(pair.b, "a", 1);
  pair.Send(pair.b, "a", 2);
  pair.world.RunFor(1s);
  EXPECT_THAT(pair.a.Requests(), ElementsAre(1));
  EXPECT_EQ(pair.a.num_destroyed, 0);
  EXPECT_NE(pair.world.node("a"), nullptr);
  ASSERT_TRUE(pair.world.stopped("a").has_value());
  EXPECT_EQ(pair.world.stopped("a")->code(), StatusCode::kDataLoss);
  EXPECT_EQ(context.SetTimer(pair.world.Now(), never), TimerId::kNone);
  pair.world.CrashNode("a");  // It is down: no effect.
  EXPECT_EQ(pair.a.num_destroyed, 0);
  pair.world.RestartNode("a", Play(again));
  EXPECT_EQ(pair.a.num_destroyed, 1);
  EXPECT_FALSE(pair.world.stopped("a").has_value());
}

TEST(SimTest, WhatANodeSentBeforeItStoppedArrivesAndThenItsEnd) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SimOptions options;
    options.long_delay_chance = 0.3;
    SimPair pair(seed, options);
    const EndpointId a = pair.world.id("a");
    pair.a.context->Post([&] {
      for (uint64_t i = 0; i < 10; ++i) {
        pair.Send(pair.a, "b", i, i % 2 == 0 ? Lane::kUrgent : Lane::kBulk);
      }
      pair.a.context->Stop(OkStatus());
    });
    pair.world.RunFor(10s);
    ASSERT_EQ(pair.b.seen.size(), 11U) << "seed " << seed;
    EXPECT_TRUE(pair.b.seen.back().down) << "seed " << seed;
    EXPECT_EQ(pair.b.context->Send(a, Lane::kUrgent, TestMessage(1)).code(),
              StatusCode::kUnavailable);
  }
}

TEST(SimTest, StopIsToldToAPeerThatTheNodeHasNotHeardOf) {
  SimActor a, b;
  SimWorld world(1, ExactOptions());
  world.AddNode("a", Play(a));
  world.AddNode("b", Play(b));
  world.RunFor(0ns);
  EXPECT_TRUE(a.context->Connect(world.id("b"), world.address("b")).ok());
  b.context->Post([&] { b.context->Stop(OkStatus()); });
  world.RunFor(1s);
  (void)a.context->Send(world.id("b"), Lane::kUrgent, TestMessage(1));
  world.RunFor(1s);
  EXPECT_EQ(a.Downs(world.id("b")).size(), 1U);
}

TEST(SimTest, WorldGoesWithNodesThatStillCallTheirContexts) {
  struct Owner {
    NodeContext* context;
    ~Owner() {
      context->CancelTimer(TimerId{1});
      (void)context->Send(EndpointId{1}, Lane::kUrgent, TestMessage(1));
      context->Post([] {});
    }
  };
  std::unique_ptr<Owner> owner;
  // The node destroys the owner while it is destroyed itself.
  class OwningNode : public SimActorNode {
   public:
    OwningNode(SimActor& actor, std::unique_ptr<Owner>& owner)
        : SimActorNode(actor), owner_(owner) {}
    ~OwningNode() override { owner_.reset(); }

   private:
    std::unique_ptr<Owner>& owner_;
  };
  SimActor actor;
  for (const bool crash : {false, true}) {
    SimWorld world(1);
    actor.on_start = [&](NodeContext& context) {
      owner.reset(new Owner{&context});
      context.SetTimer(world.Now() + 1s, [] {});
    };
    world.AddNode("a",
                  [&] { return std::make_unique<OwningNode>(actor, owner); });
    world.RunFor(1ms);
    if (crash) {
      world.CrashNode("a");
      EXPECT_EQ(owner, nullptr);
    }
    world.RunFor(1ms);
  }
  EXPECT_EQ(actor.num_destroyed, 2);
}

// --- All of it together. ---

// "a" and "b" send to each other all the time while their connection is lost
// now and then and "b" crashes, or stops, and comes back.
class SimTraffic {
 public:
  struct Sent {
    Time at;
    EndpointId from, to;
    uint64_t request;  // odd ones on the bulk lane
  };

  SimTraffic(uint64_t seed, bool crash) : world_(seed, Options()) {
    quiet_from_ = world_.Now() + 3s;
    world_.AddNode("a", Play(Actor("b")));
    world_.AddNode("b", Play(Actor("a")));
    for (int i = 1; i <= 5; ++i) {
      const Time at = world_.Now() + i * 500ms;
      world_.At(at, [this, crash] {
        NodeContext& context = *actors_.back()->context;
        gone_.insert(context.self());
        if (crash) {
          world_.CrashNode("b");
        } else {
          context.Post([&context] { context.Stop(OkStatus()); });
        }
      });
      world_.At(at + 30ms,
                [this] { world_.RestartNode("b", Play(Actor("a"))); });
    }
    world_.RunFor(10s);
  }

  // What was sent is delivered, or its sender is told afterwards.
  void ExpectNoSilentLoss() const {
    int num_lost = 0;
    for (const Sent& sent : sent_) {
      const SimActor* const to = Find(sent.to);
      ASSERT_NE(to, nullptr);
      const auto arrived = std::count_if(
          to->seen.begin(), to->seen.end(), [&](const SimActor::Seen& seen) {
            return !seen.down && seen.request == sent.request;
          });
      ASSERT_LE(arrived, 1) << sent.request;
      if (arrived == 0 && !gone_.contains(sent.from)) {
        ++num_lost;
        const std::vector<Time> downs = Find(sent.from)->Downs(sent.to);
        ASSERT_THAT(downs, ::testing::Contains(Ge(sent.at)))
            << sent.from << " to " << sent.to << ": " << sent.request;
      }
    }
    EXPECT_GT(num_lost, 0);
    EXPECT_GT(sent_.size(), 1000U);
  }

  // A lane has its order, and who misses a message is told before the next.
  void ExpectNoSilentGap() const {
    for (const auto& to : actors_) {
      for (const auto& from : actors_) {
        for (const uint64_t lane : {0U, 1U}) {
          ExpectNoSilentGap(*from, *to, lane);
        }
      }
    }
  }

 private:
  static SimOptions Options() {
    SimOptions options;
    options.loss_every = 100ms;
    return options;
  }

  SimActor& Actor(const std::string& peer) {
    actors_.push_back(std::make_unique<SimActor>());
    SimActor& actor = *actors_.back();
    actor.on_start = [this, peer](NodeContext& context) {
      Round(context, peer);
    };
    return actor;
  }

  void Round(NodeContext& context, const std::string& peer) {
    const EndpointId to = world_.id(peer);
    EXPECT_TRUE(context.Connect(to, world_.address(peer)).ok());
    const Lane lane = next_ % 2 == 0 ? Lane::kUrgent : Lane::kBulk;
    if (context.Send(to, lane, TestMessage(next_)).ok()) {
      sent_.push_back({world_.Now(), context.self(), to, next_});
    }
    next_ += 1 + context.random().Below(2);
    if (world_.Now() < quiet_from_) {
      context.SetTimer(world_.Now() + 1ms,
                       [this, &context, peer] { Round(context, peer); });
    }
  }

  const SimActor* Find(EndpointId id) const {
    for (const auto& actor : actors_) {
      if (actor->context->self() == id) {
        return actor.get();
      }
    }
    return nullptr;
  }

  void ExpectNoSilentGap(const SimActor& from, const SimActor& to,
                         uint64_t lane) const {
    const EndpointId sender = from.context->self();
    std::vector<uint64_t> sent;
    for (const Sent& one : sent_) {
      if (one.from == sender && one.to == to.context->self() &&
          one.request % 2 == lane) {
        sent.push_back(one.request);
      }
    }
    size_t next = 0;
    bool told = true;  // before the first it knows of no connection
    for (const SimActor::Seen& seen : to.seen) {
      if (seen.peer != sender) {
        continue;
      }
      if (seen.down) {
        told = true;
      } else if (seen.request % 2 == lane) {
        const size_t expected = next;
        while (next < sent.size() && sent[next] != seen.request) {
          ++next;
        }
        ASSERT_LT(next, sent.size()) << "out of order: " << seen.request;
        ASSERT_TRUE(next == expected || told)
            << "missing before " << seen.request;
        ++next;
        told = false;
      }
    }
  }

  std::vector<std::unique_ptr<SimActor>> actors_;
  std::set<EndpointId> gone_;
  std::vector<Sent> sent_;
  uint64_t next_ = 0;
  Time quiet_from_;
  SimWorld world_;
};

TEST(SimTest, NoLossIsSilent) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(StrCat("seed ", seed));
    const SimTraffic traffic(seed, /*crash=*/seed % 2 == 0);
    traffic.ExpectNoSilentLoss();
    traffic.ExpectNoSilentGap();
    if (::testing::Test::HasFailure()) {
      return;
    }
  }
}

}  // namespace
}  // namespace shoal::comm
