#include "ps/coordinator.h"

#include <algorithm>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "google/protobuf/message_lite.h"
#include "gtest/gtest.h"

#include "base/strcat.h"
#include "ps/checkpoint_format.h"
#include "ps/protocol.pb.h"
#include "ps/ps_testing.h"
#include "ps/staleness.h"
#include "ps/wire.h"

namespace shoal::ps {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

class WatchingObserver : public JobObserver {
 public:
  Status OnStarted(int64_t step) override {
    started.push_back(step);
    return may_start;
  }
  Status OnRecovered(int64_t step, const std::string& state) override {
    recovered.emplace_back(step, state);
    return OkStatus();
  }
  std::string State() override {
    return StrCat(evaluated.size(), " evaluations");
  }
  void OnProgress(int64_t step, int64_t window, double loss_sum,
                  int64_t examples) override {
    progress.emplace_back(step, window, loss_sum, examples);
  }
  void OnStaleness(const Histogram& all) override { staleness = all; }
  void OnModeChanged(int64_t step, const std::string& text) override {
    modes.emplace_back(step, text);
  }
  StatusOr<bool> OnEvaluated(int64_t step, std::span<const float> s,
                             std::span<const float> l) override {
    evaluated.push_back(step);
    scores.assign(s.begin(), s.end());
    labels.assign(l.begin(), l.end());
    return verdict;
  }
  std::map<std::string, std::string> CheckpointTexts() override {
    return texts;
  }
  void OnNotSaved(const Status& why) override { not_saved.push_back(why); }
  void OnSaved(int64_t step, const std::string& folder,
               bool /*stopped*/) override {
    saved.emplace_back(step, folder);
  }

  std::vector<int64_t> started;
  std::vector<std::pair<int64_t, std::string>> recovered;
  std::vector<std::tuple<int64_t, int64_t, double, int64_t>> progress;
  Histogram staleness;
  std::vector<std::pair<int64_t, std::string>> modes;
  std::vector<int64_t> evaluated;
  std::vector<float> scores;
  std::vector<float> labels;
  Status may_start;
  StatusOr<bool> verdict = false;
  std::map<std::string, std::string> texts;
  std::vector<std::pair<int64_t, std::string>> saved;
  std::vector<Status> not_saved;
};

Buffer FloatsFrame(const std::vector<float>& values) {
  return Buffer::CopyOf(values.data(), static_cast<int64_t>(values.size()) * 4);
}

// Two servers of one shard each and two workers, played by the test. A job of
// ten steps without a test part unless a test says otherwise.
class CoordinatorTest : public ::testing::Test {
 protected:
  CoordinatorTest() {
    options_.model.tables.push_back({.name = "embedding", .dim = 2});
    options_.model.groups = {{0}};
    options_.plan = {.virtual_workers = 5, .timeout = 20s};
    options_.train = {
        .total_steps = 10, .steps_per_epoch = 10, .has_test = false};
    options_.num_servers = 2;
    options_.num_workers = 2;
    options_.job_text = "name: test";
    options_.setup = Buffer::CopyOf("setup");
    options_.observer = &observer_;
  }

  void Start() {
    coordinator_ = std::make_unique<Coordinator>(options_);
    coordinator_->OnStart(context_);
  }
  void StartAndJoin() {
    Start();
    JoinAll();
  }
  // The same where that is kept.
  void StartKeeping() {
    Start();
    context_.RunStorage();
    JoinAll();
    context_.RunStorage();
  }
  void JoinAll() {
    JoinShard(0);
    JoinShard(1);
    JoinWorker(0);
    JoinWorker(1);
  }
  ~CoordinatorTest() override { coordinator_.reset(); }

  static comm::EndpointId Shard(int index) {
    return comm::EndpointId{100 + static_cast<uint64_t>(index)};
  }
  static comm::EndpointId Worker(int index) {
    return comm::EndpointId{200 + static_cast<uint64_t>(index)};
  }
  static constexpr comm::EndpointId kStranger{999};

  // Hands a request to the coordinator; its number is for ReplyTo().
  uint64_t Ask(comm::EndpointId from, Method method,
               std::vector<Buffer> frames) {
    comm::Message message;
    message.header.request = next_request_++;
    message.header.method = static_cast<uint16_t>(method);
    message.header.kind = comm::MessageKind::kRequest;
    message.frames = std::move(frames);
    const uint64_t request = message.header.request;
    askers_[request] = from;
    coordinator_->OnMessage(from, std::move(message));
    return request;
  }
  uint64_t Ask(comm::EndpointId from, Method method,
               const google::protobuf::MessageLite& head) {
    return Ask(from, method, std::vector<Buffer>{Encode(head)});
  }
  void Tell(comm::EndpointId from, Method method, std::vector<Buffer> frames) {
    comm::Message message;
    message.header.method = static_cast<uint16_t>(method);
    message.frames = std::move(frames);
    coordinator_->OnMessage(from, std::move(message));
  }

  uint64_t JoinShard(int server, comm::EndpointId from = {}) {
    wire::Join join;
    join.set_role(wire::Join::SHARD);
    join.set_server(server);
    join.set_address(StrCat("fake:server-", server));
    join.set_host(StrCat("server-host-", server));
    join.set_pid(1000 + server);
    return Ask(from.value == 0 ? Shard(server) : from, Method::kJoin, join);
  }
  uint64_t JoinWorker(int worker, comm::EndpointId from = {}) {
    wire::Join join;
    join.set_role(wire::Join::WORKER);
    join.set_worker(worker);
    join.set_host(StrCat("worker-host-", worker % worker_hosts_));
    join.set_pid(2000 + worker);
    return Ask(from.value == 0 ? Worker(worker) : from, Method::kJoin, join);
  }
  uint64_t AskOrder(int worker, int64_t done_order) {
    wire::AskOrder ask;
    ask.set_done_order(done_order);
    return Ask(Worker(worker), Method::kAskOrder, ask);
  }
  uint64_t Prepared(comm::EndpointId from, int64_t step) {
    wire::Prepared prepared;
    prepared.set_step(step);
    prepared.set_version(1);
    return Ask(from, Method::kPrepared, prepared);
  }
  uint64_t Clock(int worker, int64_t clock, int64_t wait_for) {
    wire::Clock report;
    report.set_clock(clock);
    report.set_wait_for(wait_for);
    return Ask(Worker(worker), Method::kClock, report);
  }

  int64_t NumReplies(uint64_t request) const {
    return std::count_if(
        context_.sent.begin(), context_.sent.end(), [&](const auto& sent) {
          return sent.message.header.kind == comm::MessageKind::kReply &&
                 sent.message.header.request == request &&
                 sent.to == askers_.at(request);
        });
  }
  // The only one; there must be one.
  comm::Message ReplyTo(uint64_t request) const {
    EXPECT_EQ(NumReplies(request), 1) << "request " << request;
    for (const auto& sent : context_.sent) {
      if (sent.message.header.kind == comm::MessageKind::kReply &&
          sent.message.header.request == request) {
        return sent.message;
      }
    }
    return {};
  }
  template <typename Head>
  Head GoodReplyTo(uint64_t request) const {
    const comm::Message reply = ReplyTo(request);
    EXPECT_EQ(reply.header.status, 0) << ErrorOf(reply);
    Head head;
    EXPECT_TRUE(Decode(reply, head).ok());
    return head;
  }
  Status ErrorReplyTo(uint64_t request) const {
    const comm::Message reply = ReplyTo(request);
    EXPECT_NE(reply.header.status, 0);
    return ErrorOf(reply);
  }

  // What the coordinator asked of a member, of one method.
  std::vector<comm::Message> AskedOf(comm::EndpointId member,
                                     Method method) const {
    std::vector<comm::Message> asked;
    for (const auto& sent : context_.sent) {
      if (sent.to == member &&
          sent.message.header.kind != comm::MessageKind::kReply &&
          sent.message.header.method == static_cast<uint16_t>(method)) {
        asked.push_back(sent.message);
      }
    }
    return asked;
  }
  void Answer(comm::EndpointId from, const comm::Message& request,
              std::vector<Buffer> frames) {
    coordinator_->OnMessage(from, comm::MakeReply(request, std::move(frames)));
  }
  void AnswerError(comm::EndpointId from, const comm::Message& request,
                   const Status& status) {
    coordinator_->OnMessage(from, comm::MakeErrorReply(request, status));
  }

  // Lets time pass in which these members give signs of life.
  void PassAlive(Duration length,
                 const std::vector<comm::EndpointId>& members) {
    for (Duration passed{0}; passed < length; passed += 1s) {
      for (const comm::EndpointId member : members) {
        Tell(member, Method::kAlive, {});
      }
      context_.Advance(1s);
    }
  }
  static std::vector<comm::EndpointId> Everyone() {
    return {Shard(0), Shard(1), Worker(0), Worker(1)};
  }

  // Both workers have done an order; they ask for the next.
  std::pair<uint64_t, uint64_t> BothDone(int64_t order) {
    return {AskOrder(0, order), AskOrder(1, order)};
  }

  Coordinator::Options options_;
  int worker_hosts_ = 1 << 10;
  WatchingObserver observer_;
  FakeContext context_{comm::kCoordinator};
  std::unique_ptr<Coordinator> coordinator_;
  uint64_t next_request_ = 1;
  std::map<uint64_t, comm::EndpointId> askers_;
};

// --- Joining ---------------------------------------------------------------

TEST_F(CoordinatorTest, WorkersAreNumberedWithinTheirHosts) {
  options_.num_workers = 5;
  worker_hosts_ = 2;
  Start();
  std::vector<uint64_t> joins(5);
  for (const int worker : {3, 0, 4, 1, 2}) {
    joins[static_cast<size_t>(worker)] = JoinWorker(worker);
  }
  JoinShard(0);
  JoinShard(1);
  std::vector<int> local;
  for (const uint64_t join : joins) {
    local.push_back(GoodReplyTo<wire::JoinReply>(join).local_index());
  }
  EXPECT_THAT(local, ElementsAre(0, 0, 1, 1, 2));
}

TEST_F(CoordinatorTest, JoinsAreAnsweredWhenAllAreThere) {
  Start();
  const std::vector<uint64_t> early = {JoinWorker(1), JoinShard(1),
                                       JoinWorker(0)};
  for (const uint64_t request : early) {
    EXPECT_EQ(NumReplies(request), 0);
  }
  EXPECT_THAT(observer_.started, IsEmpty());
  const uint64_t last = JoinShard(0);
  EXPECT_THAT(observer_.started, ElementsAre(0));

  const auto worker = GoodReplyTo<wire::JoinReply>(early[0]);
  EXPECT_EQ(worker.index(), 1);
  EXPECT_EQ(worker.num_workers(), 2);
  EXPECT_EQ(worker.job_text(), "name: test");
  EXPECT_EQ(worker.plan().virtual_workers(), 5);
  EXPECT_EQ(worker.model().tables(0).name(), "embedding");
  ASSERT_THAT(ReplyTo(early[0]).frames, SizeIs(2));
  EXPECT_EQ(ReplyTo(early[0]).frames[1].text(), "setup");
  ASSERT_EQ(worker.route().shards_size(), 2);
  EXPECT_EQ(worker.route().shards(1).endpoint(), Shard(1).value);
  EXPECT_EQ(worker.route().shards(1).address(), "fake:server-1");
  EXPECT_EQ(worker.route().shards(1).name(), "server 1 shard 0");

  EXPECT_EQ(GoodReplyTo<wire::JoinReply>(early[1]).index(), 1);
  EXPECT_EQ(GoodReplyTo<wire::JoinReply>(last).index(), 0);
  EXPECT_THAT(ReplyTo(last).frames, SizeIs(1)) << "no setup for shards";

  // In sync the virtual workers are dealt without a gap.
  const auto first = GoodReplyTo<wire::JoinReply>(early[2]);
  EXPECT_EQ(first.virtual_begin(), 0);
  EXPECT_EQ(first.virtual_end(), worker.virtual_begin());
  EXPECT_EQ(worker.virtual_end(), 5);
  EXPECT_FALSE(context_.stopped.has_value());
}

TEST_F(CoordinatorTest, OutsideSyncWorkersShareStepsIfTheyHoldDenseVariables) {
  options_.plan.mode = Mode::kAsync;
  options_.plan.dense = DensePlace::kWorkers;
  Start();
  JoinShard(0);
  JoinShard(1);
  const std::pair<uint64_t, uint64_t> joins = {JoinWorker(0), JoinWorker(1)};
  const auto first = GoodReplyTo<wire::JoinReply>(joins.first);
  const auto second = GoodReplyTo<wire::JoinReply>(joins.second);
  EXPECT_EQ(first.virtual_begin(), 0);
  EXPECT_EQ(first.virtual_end(), second.virtual_begin());
  EXPECT_EQ(second.virtual_end(), 5);
  EXPECT_EQ(first.route().workers_size(), 2);
}

TEST_F(CoordinatorTest, OutsideSyncEveryWorkerRunsAllVirtualWorkers) {
  options_.plan.mode = Mode::kAsync;
  Start();
  JoinShard(0);
  JoinShard(1);
  const std::pair<uint64_t, uint64_t> joins = {JoinWorker(0), JoinWorker(1)};
  for (const uint64_t join : {joins.first, joins.second}) {
    const auto reply = GoodReplyTo<wire::JoinReply>(join);
    EXPECT_EQ(reply.virtual_begin(), 0);
    EXPECT_EQ(reply.virtual_end(), 5);
  }
}

TEST_F(CoordinatorTest, JoinThatDoesNotFitTheJobIsRefused) {
  Start();
  const auto join = [](wire::Join::Role role, int server, int shard,
                       int worker) {
    wire::Join head;
    head.set_role(role);
    head.set_server(server);
    head.set_shard(shard);
    head.set_worker(worker);
    return head;
  };
  for (const wire::Join& head :
       {join(wire::Join::SHARD, 2, 0, 0), join(wire::Join::SHARD, -1, 0, 0),
        join(wire::Join::SHARD, 0, 1, 0), join(wire::Join::SHARD, 0, -1, 0),
        join(wire::Join::WORKER, 0, 0, 2)}) {
    EXPECT_EQ(ErrorReplyTo(Ask(kStranger, Method::kJoin, head)).code(),
              StatusCode::kFailedPrecondition)
        << head.ShortDebugString();
  }
  for (const std::vector<Buffer>& frames :
       {std::vector<Buffer>{}, {Buffer::CopyOf("\xff\xff")}}) {
    EXPECT_EQ(ErrorReplyTo(Ask(kStranger, Method::kJoin, frames)).code(),
              StatusCode::kInvalidArgument);
  }
  // None of them counts as there.
  JoinShard(0);
  JoinShard(1);
  JoinWorker(0);
  EXPECT_THAT(observer_.started, IsEmpty());
  EXPECT_EQ(ErrorReplyTo(Prepared(kStranger, 0)).code(),
            StatusCode::kFailedPrecondition);
  JoinWorker(1);
  EXPECT_THAT(observer_.started, ElementsAre(0));
}

TEST_F(CoordinatorTest, PlaceOfALivingMemberIsNotGivenAway) {
  Start();
  JoinWorker(1);
  const comm::EndpointId other{300};
  const Status taken = ErrorReplyTo(JoinWorker(1, other));
  EXPECT_EQ(taken.code(), StatusCode::kUnavailable) << "it may ask again";
  EXPECT_THAT(taken.message(),
              AllOf(HasSubstr("worker 1"), HasSubstr("worker-host-1"),
                    HasSubstr("2001")));

  // When the first one's connection ends, its place is free.
  coordinator_->OnPeerDown(Worker(1), UnavailableError("connection reset"));
  const uint64_t join = JoinWorker(1, other);
  EXPECT_EQ(ErrorReplyTo(AskOrder(1, 0)).code(),
            StatusCode::kFailedPrecondition)
      << "another has taken its place";
  JoinWorker(0);
  JoinShard(0);
  JoinShard(1);
  EXPECT_EQ(GoodReplyTo<wire::JoinReply>(join).index(), 1);
  PassAlive(5s, {Shard(0), Shard(1), Worker(0), other});
  EXPECT_FALSE(context_.stopped.has_value());
}

TEST_F(CoordinatorTest, MissingMembersAreNamedAtTheDeadline) {
  options_.join_within = 10s;
  Start();
  JoinShard(1);
  JoinWorker(0);
  PassAlive(9s, {Shard(1), Worker(0)});
  EXPECT_FALSE(context_.stopped.has_value());
  PassAlive(1s, {Shard(1), Worker(0)});
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_EQ(context_.stopped->code(), StatusCode::kDeadlineExceeded);
  EXPECT_THAT(context_.stopped->message(),
              AllOf(HasSubstr("server 0 shard 0"), HasSubstr("worker 1"),
                    Not(HasSubstr("server 1")), Not(HasSubstr("worker 0"))));
  EXPECT_THAT(AskedOf(Worker(0), Method::kAbort), SizeIs(1));
}

TEST_F(CoordinatorTest, DeadlineForJoiningEndsWhenAllAreThere) {
  options_.join_within = 10s;
  StartAndJoin();
  PassAlive(60s, Everyone());
  EXPECT_FALSE(context_.stopped.has_value());
}

// A join is sent again when its connection is lost.
TEST_F(CoordinatorTest, WorkerForAnyPlaceKeepsTheOneItHas) {
  Start();
  JoinShard(0);
  JoinShard(1);
  const comm::EndpointId first{300};
  const comm::EndpointId second{301};
  JoinWorker(-1, first);
  coordinator_->OnPeerDown(first, UnavailableError("connection reset"));
  const uint64_t again = JoinWorker(-1, first);
  EXPECT_THAT(observer_.started, IsEmpty()) << "one worker is missing";
  const uint64_t join = JoinWorker(-1, second);
  EXPECT_THAT(observer_.started, ElementsAre(0));
  EXPECT_EQ(GoodReplyTo<wire::JoinReply>(again).index(), 0);
  EXPECT_EQ(GoodReplyTo<wire::JoinReply>(join).index(), 1);
  // And when all places are taken.
  const uint64_t late = JoinWorker(-1, first);
  EXPECT_EQ(GoodReplyTo<wire::JoinReply>(late).index(), 0);
  EXPECT_EQ(ErrorReplyTo(JoinWorker(-1, comm::EndpointId{302})).code(),
            StatusCode::kFailedPrecondition);
}

TEST_F(CoordinatorTest, WorkerForAnyPlaceMakesRoomForOneThatAsksForIt) {
  options_.num_workers = 3;
  Start();
  JoinShard(0);
  const uint64_t any = JoinWorker(-1, comm::EndpointId{300});
  const uint64_t asks = JoinWorker(0, comm::EndpointId{301});
  EXPECT_EQ(NumReplies(asks), 0) << "not refused";
  const uint64_t again = JoinWorker(-1, comm::EndpointId{300});
  JoinWorker(1, comm::EndpointId{302});
  JoinShard(1);
  EXPECT_EQ(GoodReplyTo<wire::JoinReply>(asks).index(), 0);
  EXPECT_EQ(GoodReplyTo<wire::JoinReply>(any).index(), 2);
  EXPECT_EQ(GoodReplyTo<wire::JoinReply>(again).index(), 2);
  // Now all know their places.
  EXPECT_EQ(ErrorReplyTo(JoinWorker(2, comm::EndpointId{303})).code(),
            StatusCode::kUnavailable);
}

TEST_F(CoordinatorTest, MemberHasOnePlace) {
  Start();
  JoinShard(0);
  EXPECT_EQ(ErrorReplyTo(JoinWorker(0, Shard(0))).code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(ErrorReplyTo(JoinShard(1, Shard(0))).code(),
            StatusCode::kFailedPrecondition);
  JoinShard(1);
  JoinWorker(0);
  EXPECT_EQ(ErrorReplyTo(JoinWorker(1, Worker(0))).code(),
            StatusCode::kFailedPrecondition);
  // Its loss frees what it had, and nothing else breaks.
  coordinator_->OnPeerDown(Shard(0), UnavailableError("connection reset"));
  const uint64_t join = JoinShard(0, comm::EndpointId{300});
  JoinWorker(1);
  EXPECT_EQ(GoodReplyTo<wire::JoinReply>(join).index(), 0);
}

TEST_F(CoordinatorTest, LostShardIsNotReplacedOnceTrainingHasBegun) {
  options_.replace_within = 30s;
  StartAndJoin();
  coordinator_->OnPeerDown(Shard(1), UnavailableError("connection reset"));
  const Status refused = ErrorReplyTo(JoinShard(1, comm::EndpointId{300}));
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.message(), HasSubstr("checkpoint"));
}

TEST_F(CoordinatorTest, WorkerThatHeldDenseVariablesIsNotReplaced) {
  options_.replace_within = 30s;
  options_.plan.dense = DensePlace::kWorkers;
  StartAndJoin();
  coordinator_->OnPeerDown(Worker(1), UnavailableError("connection reset"));
  const Status refused = ErrorReplyTo(JoinWorker(1, comm::EndpointId{300}));
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.message(), HasSubstr("checkpoint"));
  PassAlive(2s, {Shard(0), Shard(1), Worker(0)});
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_THAT(context_.stopped->message(), HasSubstr("worker 1"));
}

// --- Restoring -------------------------------------------------------------

TEST_F(CoordinatorTest, OrdersComeWhenAllShardsHaveLoaded) {
  options_.restore_folder = "out/step-4";
  options_.restore_step = 4;
  Start();
  const uint64_t worker = JoinWorker(0);
  JoinWorker(1);
  const uint64_t shard = JoinShard(0);
  JoinShard(1);
  EXPECT_EQ(NumReplies(shard), 1) << "a shard must be in to load";
  EXPECT_EQ(NumReplies(worker), 1) << "its deadline is not for the loading";
  const uint64_t asking = AskOrder(0, 0);
  const auto first = AskedOf(Shard(0), Method::kLoad);
  const auto second = AskedOf(Shard(1), Method::kLoad);
  ASSERT_THAT(first, SizeIs(1));
  ASSERT_THAT(second, SizeIs(1));
  wire::Load load;
  ASSERT_TRUE(Decode(first[0], load).ok());
  EXPECT_EQ(load.folder(), "out/step-4");
  EXPECT_EQ(load.step(), 4);

  Answer(Shard(0), first[0], {});
  Answer(Shard(0), first[0], {});  // twice is not two shards
  EXPECT_EQ(NumReplies(JoinWorker(1)), 1) << "after a lost connection";
  PassAlive(300s, {Shard(0), Shard(1), Worker(0), Worker(1)});
  EXPECT_FALSE(context_.stopped.has_value()) << "large tables load for long";
  EXPECT_EQ(NumReplies(asking), 0);
  EXPECT_THAT(observer_.started, IsEmpty());
  Answer(Shard(1), second[0], {});
  EXPECT_THAT(observer_.started, ElementsAre(4));
  const auto order = GoodReplyTo<wire::Order>(asking);
  EXPECT_EQ(order.from_step(), 4);
  EXPECT_EQ(order.until_step(), 10);
}

TEST_F(CoordinatorTest, ObserverMayRefuseTheStart) {
  observer_.may_start = UnavailableError("no room for reports");
  StartAndJoin();
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_EQ(context_.stopped->message(), "no room for reports");
  EXPECT_EQ(NumReplies(AskOrder(0, 0)), 0);
}

TEST_F(CoordinatorTest, CalledOffBeforeItStartsItNeverDoes) {
  coordinator_ = std::make_unique<Coordinator>(options_);
  coordinator_->Abort(CancelledError("stopped by signal 15"));
  coordinator_->OnStart(context_);
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_THAT(context_.stopped->message(), HasSubstr("signal 15"));
}

TEST_F(CoordinatorTest, FailedLoadEndsTheJobNamingTheShard) {
  options_.restore_folder = "out/step-4";
  options_.restore_step = 4;
  StartAndJoin();
  AnswerError(Shard(1), AskedOf(Shard(1), Method::kLoad).at(0),
              DataLossError("part-1.safetensors is damaged"));
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_EQ(context_.stopped->code(), StatusCode::kDataLoss);
  EXPECT_THAT(context_.stopped->message(),
              AllOf(HasSubstr("server 1 shard 0"), HasSubstr("is damaged")));
  Answer(Shard(0), AskedOf(Shard(0), Method::kLoad).at(0), {});
  EXPECT_THAT(observer_.started, IsEmpty());
}

// --- Orders ----------------------------------------------------------------

TEST_F(CoordinatorTest, OrdersComeOnlyWhenAllHaveJoined) {
  Start();
  JoinWorker(0);
  const uint64_t early = AskOrder(0, 0);
  JoinWorker(1);
  JoinShard(0);
  EXPECT_EQ(NumReplies(early), 0);
  JoinShard(1);
  const auto order = GoodReplyTo<wire::Order>(early);
  EXPECT_EQ(order.kind(), wire::Order::TRAIN);
  EXPECT_EQ(order.number(), 1);
  EXPECT_EQ(order.from_step(), 0);
  EXPECT_EQ(order.until_step(), 10);
  // Asked again, because the reply was lost: the same order.
  EXPECT_EQ(GoodReplyTo<wire::Order>(AskOrder(0, 0)).number(), 1);
}

TEST_F(CoordinatorTest, NextOrderComesWhenAllWorkersAreDone) {
  options_.train.checkpoint_every_steps = 5;  // a boundary; nothing is written
  StartAndJoin();
  const uint64_t first = AskOrder(0, 1);
  const uint64_t again = AskOrder(0, 1);  // its connection was lost
  EXPECT_EQ(NumReplies(first) + NumReplies(again), 0);
  const uint64_t second = AskOrder(1, 1);
  EXPECT_EQ(GoodReplyTo<wire::Order>(again).from_step(), 5);
  const auto order = GoodReplyTo<wire::Order>(second);
  EXPECT_EQ(order.number(), 2);
  EXPECT_EQ(order.until_step(), 10);
}

TEST_F(CoordinatorTest, OrderThatWasNeverGivenCannotBeDone) {
  StartAndJoin();
  EXPECT_EQ(ErrorReplyTo(AskOrder(0, 7)).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(GoodReplyTo<wire::Order>(AskOrder(0, 0)).number(), 1)
      << "the worker must not be taken for done";
}

TEST_F(CoordinatorTest, JobEndsWhenWorkersAndShardsHaveStopped) {
  StartAndJoin();
  BothDone(1);
  const auto order = GoodReplyTo<wire::Order>(AskOrder(0, 1));
  EXPECT_EQ(order.kind(), wire::Order::STOP);
  EXPECT_THAT(AskedOf(Shard(0), Method::kFinish), IsEmpty());
  const auto [first, second] = BothDone(order.number());
  EXPECT_EQ(GoodReplyTo<wire::Order>(first).kind(), wire::Order::STOP);
  EXPECT_EQ(GoodReplyTo<wire::Order>(second).kind(), wire::Order::STOP);
  Answer(Shard(0), AskedOf(Shard(0), Method::kFinish).at(0), {});
  EXPECT_FALSE(context_.stopped.has_value());
  Answer(Shard(1), AskedOf(Shard(1), Method::kFinish).at(0), {});
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_TRUE(context_.stopped->ok()) << *context_.stopped;
}

TEST_F(CoordinatorTest, ShardThatNeverSaysItFinishedDoesNotHoldTheJob) {
  StartAndJoin();
  BothDone(1);
  BothDone(2);
  ASSERT_THAT(AskedOf(Shard(0), Method::kFinish), SizeIs(1));
  // Members go as they please now.
  coordinator_->OnPeerDown(Worker(0), UnavailableError("it ended"));
  Answer(Shard(0), AskedOf(Shard(0), Method::kFinish).at(0), {});
  PassAlive(21s, {Shard(0)});
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_TRUE(context_.stopped->ok()) << *context_.stopped;
}

TEST_F(CoordinatorTest, EvaluationGathersAllWorkers) {
  options_.train.has_test = true;
  StartAndJoin();
  BothDone(1);
  const auto order = GoodReplyTo<wire::Order>(AskOrder(0, 1));
  ASSERT_EQ(order.kind(), wire::Order::EVALUATE);
  wire::AskOrder done;
  done.set_done_order(order.number());
  const auto send = [&](int worker, std::vector<float> scores,
                        std::vector<float> labels) {
    return Ask(Worker(worker), Method::kAskOrder,
               {Encode(done), FloatsFrame(scores), FloatsFrame(labels)});
  };
  send(0, {0.5F, 0.25F}, {1, 0});
  send(0, {0.5F, 0.25F}, {1, 0});  // a repeat adds nothing
  EXPECT_THAT(observer_.evaluated, IsEmpty());
  const uint64_t last = send(1, {0.75F}, {1});
  EXPECT_THAT(observer_.evaluated, ElementsAre(10));
  EXPECT_THAT(observer_.scores, UnorderedElementsAre(0.5F, 0.25F, 0.75F));
  EXPECT_THAT(observer_.labels, UnorderedElementsAre(1, 0, 1));
  EXPECT_EQ(GoodReplyTo<wire::Order>(last).kind(), wire::Order::STOP);
}

TEST_F(CoordinatorTest, ObserverMayEndTheTrainingEarly) {
  options_.train.has_test = true;
  options_.train.eval_every_steps = 2;
  StartAndJoin();
  BothDone(1);
  observer_.verdict = true;
  const auto [first, second] = BothDone(2);
  EXPECT_EQ(GoodReplyTo<wire::Order>(first).kind(), wire::Order::STOP);
  EXPECT_EQ(GoodReplyTo<wire::Order>(second).kind(), wire::Order::STOP);
  EXPECT_FALSE(context_.stopped.has_value());
}

TEST_F(CoordinatorTest, EvaluationThatFailsEndsTheJob) {
  options_.train.has_test = true;
  options_.train.eval_every_steps = 2;
  StartAndJoin();
  BothDone(1);
  observer_.verdict = InvalidArgumentError("labels are not classes");
  BothDone(2);
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_THAT(context_.stopped->message(),
              AllOf(HasSubstr("step 2"), HasSubstr("labels are not classes")));
}

TEST_F(CoordinatorTest, ProgressReachesTheObserver) {
  StartAndJoin();
  wire::Progress progress;
  progress.set_step(6);
  progress.set_window(1);
  progress.set_loss_sum(2.5);
  progress.set_examples(64);
  Tell(Worker(0), Method::kProgress, {Encode(progress)});
  Tell(Worker(0), Method::kProgress, {Buffer::CopyOf("\xff")});
  // Numbers that no worker of this job has: the observer makes room by them.
  for (const int64_t window : {int64_t{-1}, int64_t{7}, int64_t{1} << 60}) {
    progress.set_window(window);
    Tell(Worker(0), Method::kProgress, {Encode(progress)});
  }
  progress.set_window(1);
  progress.set_step(11);
  Tell(Worker(0), Method::kProgress, {Encode(progress)});
  Tell(kStranger, Method::kProgress, {Encode(progress)});
  EXPECT_THAT(observer_.progress, ElementsAre(std::tuple(6, 1, 2.5, 64)));
}

TEST_F(CoordinatorTest, StalenessOfAllWorkersIsAddedUp) {
  StartAndJoin();
  wire::Progress progress;
  progress.set_step(6);
  Histogram one;
  one.Add(3);
  ToWire(one, *progress.mutable_staleness());
  Tell(Worker(0), Method::kProgress, {Encode(progress)});
  Tell(Worker(1), Method::kProgress, {Encode(progress)});
  progress.mutable_staleness()->add_buckets(7);  // No histogram.
  Tell(Worker(1), Method::kProgress, {Encode(progress)});
  one.Add(3);
  EXPECT_EQ(observer_.staleness.ToString(), one.ToString());
}

// --- Modes -----------------------------------------------------------------

class ModeTest : public CoordinatorTest {
 protected:
  ModeTest() {
    options_.plan_for = [](const ClusterPlan& now, const std::string& tables,
                           const std::string& dense) -> StatusOr<ClusterPlan> {
      ClusterPlan plan = now;
      if (tables != dense) {
        return InvalidArgumentError("give both the same");
      }
      plan.mode = tables == "sync" ? Mode::kSync : Mode::kAsync;
      return plan;
    };
  }
  uint64_t SetMode(const std::string& tables, const std::string& dense) {
    wire::SetMode ask;
    ask.set_tables(tables);
    ask.set_dense(dense);
    return Ask(kStranger, Method::kSetMode, ask);
  }
  wire::CutOrder LastCut(int worker, size_t number) {
    const std::vector<comm::Message> cuts =
        AskedOf(Worker(worker), Method::kCutOrder);
    EXPECT_THAT(cuts, SizeIs(number));
    wire::CutOrder cut;
    EXPECT_TRUE(!cuts.empty() && Decode(cuts.back(), cut).ok());
    return cut;
  }
  void AnswerCut(int worker, int64_t begun_until) {
    wire::CutReply reply;
    reply.set_begun_until(begun_until);
    Answer(Worker(worker), AskedOf(Worker(worker), Method::kCutOrder).back(),
           {Encode(reply)});
  }
};

TEST_F(ModeTest, ChangesBehindTheLastStepThatAnyWorkerHasBegun) {
  StartAndJoin();
  BothDone(0);
  const uint64_t asked = SetMode("async", "async");
  EXPECT_EQ(GoodReplyTo<wire::CommandReply>(asked).text(),
            "from sync to async at the next clock that all workers have come "
            "to");
  for (const int worker : {0, 1}) {
    EXPECT_TRUE(LastCut(worker, 1).hold());
    EXPECT_EQ(LastCut(worker, 1).number(), 1);
  }
  AnswerCut(0, 3);
  // One in place of a lost one waits until it is known where the order ends.
  coordinator_->OnPeerDown(Worker(1), UnavailableError("gone"));
  const comm::EndpointId spare{300};
  JoinWorker(1, spare);
  wire::AskOrder ask;
  const uint64_t order = Ask(spare, Method::kAskOrder, ask);
  // The lost one did not say how far it was: nobody waits for that.
  EXPECT_EQ(GoodReplyTo<wire::Order>(order).until_step(), 3);
  EXPECT_FALSE(LastCut(0, 2).hold());
  EXPECT_EQ(LastCut(0, 2).until_step(), 3);
  AnswerCut(0, 0);
  EXPECT_THAT(AskedOf(spare, Method::kCutOrder), IsEmpty());
  for (int64_t step = 0; step < 3; ++step) {
    Prepared(Shard(0), step);
    Prepared(Shard(1), step);
  }
  const uint64_t first = AskOrder(0, 1);
  EXPECT_EQ(NumReplies(first), 0) << "the other has not done it";
  ask.set_done_order(1);
  const uint64_t second = Ask(spare, Method::kAskOrder, ask);

  // Every replica takes it with a version of the route of its own.
  for (const int shard : {0, 1}) {
    const auto changes = AskedOf(Shard(shard), Method::kRouteChange);
    ASSERT_THAT(changes, SizeIs(1));
    wire::RouteChange change;
    ASSERT_TRUE(Decode(changes.front(), change).ok());
    EXPECT_EQ(change.route().version(), 2U);
    EXPECT_EQ(change.committed(), 3);
    EXPECT_EQ(change.last().step(), 2);
    EXPECT_EQ(change.mode().number(), 1);
    EXPECT_EQ(change.mode().mode(), static_cast<int>(Mode::kAsync));
    EXPECT_EQ(change.mode().from_step(), 3);
    EXPECT_EQ(change.mode().num_workers(), 2);
  }
  const auto next = GoodReplyTo<wire::Order>(first);
  EXPECT_EQ(next.from_step(), 4) << "its next own";
  EXPECT_EQ(next.until_step(), 10);
  EXPECT_EQ(next.mode().number(), 1);
  EXPECT_EQ(next.route().version(), 2U);
  EXPECT_EQ(GoodReplyTo<wire::Order>(second).from_step(), 3);
  EXPECT_THAT(observer_.modes, ElementsAre(std::pair(3, "async")));
}

TEST_F(ModeTest, AnOrderThatNobodyHasBegunEndsWhereItBegan) {
  options_.plan.mode = Mode::kAsync;
  options_.checkpoint_folder = "checkpoints";
  options_.train.checkpoint_every_steps = 5;
  StartAndJoin();
  BothDone(0);
  SetMode("sync", "sync");
  AnswerCut(0, -1);
  AnswerCut(1, 0);
  EXPECT_EQ(LastCut(1, 2).until_step(), 0);
  AnswerCut(0, 0);
  AnswerCut(1, 0);
  const auto [first, second] = BothDone(1);
  const auto next = GoodReplyTo<wire::Order>(second);
  EXPECT_EQ(next.from_step(), 0);
  EXPECT_EQ(next.until_step(), 5);
  EXPECT_EQ(next.mode().mode(), static_cast<int>(Mode::kSync));
  EXPECT_THAT(observer_.saved, IsEmpty());
}

TEST_F(ModeTest, WhatWorkersHaveDoneIsNotDoneAgain) {
  options_.plan.mode = Mode::kAsync;
  options_.train.total_steps = 100;
  StartAndJoin();
  BothDone(0);
  Clock(1, 6, 0);  // Its steps up to 11; then it is lost.
  SetMode("sync", "sync");
  coordinator_->OnPeerDown(Worker(1), UnavailableError("gone"));
  JoinWorker(1, comm::EndpointId{300});
  AnswerCut(0, 5);
  EXPECT_EQ(LastCut(0, 2).until_step(), 12);
}

TEST_F(ModeTest, RefusesWhatCanNotBe) {
  Start();
  EXPECT_THAT(ErrorReplyTo(SetMode("async", "async")).message(),
              HasSubstr("has not started"));
  JoinShard(0);
  JoinShard(1);
  JoinWorker(0);
  JoinWorker(1);
  BothDone(0);
  EXPECT_THAT(ErrorReplyTo(SetMode("async", "sync")).message(),
              HasSubstr("give both the same"));
  EXPECT_EQ(GoodReplyTo<wire::CommandReply>(SetMode("sync", "sync")).text(),
            "nothing changes: it is sync");
  EXPECT_THAT(AskedOf(Worker(0), Method::kCutOrder), IsEmpty());
  GoodReplyTo<wire::CommandReply>(SetMode("async", "async"));
  EXPECT_THAT(ErrorReplyTo(SetMode("sync", "sync")).message(),
              HasSubstr("a change to async is under way"));
  for (const auto& [servers, workers, drain] :
       {std::tuple(0, 1, -1), std::tuple(3, 0, -1), std::tuple(0, 0, 1)}) {
    EXPECT_THAT(coordinator_->Scale(servers, workers, drain).status().message(),
                HasSubstr("a change of the mode is under way"));
  }
}

// Beside dense variables on the workers a shard applies each step as it comes:
// one that is sent slots meanwhile would lack what the other gets.
TEST_F(ModeTest, NothingMovesBesideDenseVariablesOnWorkersOutsideSync) {
  options_.plan.dense = DensePlace::kWorkers;
  StartAndJoin();
  BothDone(0);
  ASSERT_TRUE(coordinator_->Scale(3, 0, -1).ok());
  EXPECT_THAT(ErrorReplyTo(SetMode("async", "async")).message(),
              HasSubstr("slots move"))
      << "a server is to come";
  JoinShard(2);
  EXPECT_THAT(ErrorReplyTo(SetMode("async", "async")).message(),
              HasSubstr("slots move"));
}

TEST_F(ModeTest, ServersStayBesideDenseVariablesOnWorkersOutsideSync) {
  options_.plan.dense = DensePlace::kWorkers;
  options_.plan.mode = Mode::kAsync;
  StartAndJoin();
  BothDone(0);
  for (const auto& [servers, drain] : {std::pair(3, -1), std::pair(0, 1)}) {
    EXPECT_THAT(coordinator_->Scale(servers, 0, drain).status().message(),
                HasSubstr("servers come and go in sync"));
  }
}

// A rule that only the coordinator's own check knows.
TEST_F(ModeTest, RefusesWhatNeedsAllGradientsOfAStep) {
  options_.plan.global.clip_norm = 1;
  StartAndJoin();
  BothDone(0);
  EXPECT_THAT(ErrorReplyTo(SetMode("async", "async")).message(),
              HasSubstr("only in sync"));
}

// --- Steps -----------------------------------------------------------------

TEST_F(CoordinatorTest, CommitComesWhenAllShardsArePrepared) {
  options_.train.schedule = {.kind = Schedule::Kind::kPolynomial,
                             .warmup_steps = 2};
  StartAndJoin();
  for (int64_t step = 0; step < 3; ++step) {
    const uint64_t first = Prepared(Shard(step % 2 == 0 ? 0 : 1), step);
    EXPECT_EQ(NumReplies(first), 0);
    const uint64_t second = Prepared(Shard(step % 2 == 0 ? 1 : 0), step);
    for (const uint64_t request : {first, second}) {
      const auto commit = GoodReplyTo<wire::Commit>(request);
      EXPECT_EQ(commit.step(), step);
      EXPECT_EQ(commit.learning_rate_factor(),
                options_.train.LearningRateFactor(step));
    }
  }
}

TEST_F(CoordinatorTest, PreparedTwiceCountsOnce) {
  StartAndJoin();
  const uint64_t lost = Prepared(Shard(0), 0);
  const uint64_t again = Prepared(Shard(0), 0);
  EXPECT_EQ(NumReplies(lost) + NumReplies(again), 0);
  const uint64_t second = Prepared(Shard(1), 0);
  EXPECT_EQ(NumReplies(lost), 0) << "nobody waits for that one";
  EXPECT_EQ(GoodReplyTo<wire::Commit>(again).step(), 0);
  EXPECT_EQ(GoodReplyTo<wire::Commit>(second).step(), 0);

  // The commit was lost on its way: the same again, and no step more.
  const auto repeated = GoodReplyTo<wire::Commit>(Prepared(Shard(1), 0));
  EXPECT_EQ(repeated.step(), 0);
  EXPECT_EQ(repeated.learning_rate_factor(),
            options_.train.LearningRateFactor(0));
  EXPECT_EQ(NumReplies(Prepared(Shard(1), 1)), 0);
  EXPECT_EQ(GoodReplyTo<wire::Commit>(Prepared(Shard(0), 1)).step(), 1);
}

TEST_F(CoordinatorTest, PreparedThatMakesNoSenseIsRefusedAndDoesNotCount) {
  StartAndJoin();
  const uint64_t first = Prepared(Shard(0), 0);
  EXPECT_EQ(ErrorReplyTo(Prepared(Shard(1), 1)).code(), StatusCode::kInternal);
  EXPECT_EQ(ErrorReplyTo(Prepared(Shard(1), -1)).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorReplyTo(Prepared(Worker(0), 0)).code(),
            StatusCode::kInvalidArgument)
      << "only shards prepare";
  EXPECT_EQ(ErrorReplyTo(Prepared(kStranger, 0)).code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(
      ErrorReplyTo(Ask(Shard(1), Method::kPrepared, {Buffer::CopyOf("\xff")}))
          .code(),
      StatusCode::kInvalidArgument);
  EXPECT_EQ(NumReplies(first), 0);
  Prepared(Shard(1), 0);
  EXPECT_EQ(GoodReplyTo<wire::Commit>(first).step(), 0);
}

// --- Clocks ----------------------------------------------------------------

TEST_F(CoordinatorTest, CommitSaysWhatTheNormsOfAllShardsSay) {
  options_.plan.global = {.clip_norm = 1,
                          .loss_scale = 2,
                          .dynamic_scale = true,
                          .growth_interval = 1};
  StartAndJoin();
  const auto prepared = [this](int shard, int64_t step, double square,
                               bool finite = true) {
    StepNorms norms = {.finite = finite};
    norms.gradients.Add(square);
    wire::Prepared prepared;
    prepared.set_step(step);
    prepared.set_version(1);
    ToWire(norms, *prepared.mutable_norms());
    return Ask(Shard(shard), Method::kPrepared, prepared);
  };
  EXPECT_EQ(ErrorReplyTo(Prepared(Shard(0), 0)).code(), StatusCode::kInternal)
      << "without norms";
  // |2 g|^2 = 64, so that |g| = 4.
  const uint64_t first = prepared(0, 0, 60);
  const uint64_t second = prepared(1, 0, 4);
  for (const uint64_t request : {first, second}) {
    const auto commit = GoodReplyTo<wire::Commit>(request);
    EXPECT_FALSE(commit.skip());
    EXPECT_EQ(commit.gradient_scale(), 0.125);
    EXPECT_EQ(commit.next_loss_scale(), 4);
  }
  // Asked again after a lost reply, it is the same, and decided once.
  EXPECT_EQ(GoodReplyTo<wire::Commit>(prepared(1, 0, 4)).SerializeAsString(),
            GoodReplyTo<wire::Commit>(first).SerializeAsString());
  const uint64_t other = prepared(1, 1, 0);
  const uint64_t not_finite = prepared(0, 1, 0, false);
  for (const uint64_t request : {other, not_finite}) {
    const auto commit = GoodReplyTo<wire::Commit>(request);
    EXPECT_TRUE(commit.skip());
    EXPECT_EQ(commit.next_loss_scale(), 2);
  }
  const auto status = GoodReplyTo<wire::ClusterStatus>(
      Ask(kStranger, Method::kStatus, wire::AskStatus()));
  EXPECT_EQ(status.loss_scale(), 2);
  EXPECT_EQ(status.steps_skipped(), 1);
  // Nobody has prepared step 0 any more.
  EXPECT_EQ(ErrorReplyTo(prepared(0, 0, 60)).code(), StatusCode::kInternal);
}

TEST_F(CoordinatorTest, NormsThatNobodyAskedForAreRefused) {
  StartAndJoin();
  wire::Prepared prepared;
  prepared.set_step(0);
  prepared.set_version(1);
  prepared.mutable_norms();
  EXPECT_EQ(ErrorReplyTo(Ask(Shard(0), Method::kPrepared, prepared)).code(),
            StatusCode::kInternal);
}

TEST_F(CoordinatorTest, WhatNeedsAllGradientsIsRefusedOutsideSync) {
  options_.plan.mode = Mode::kAsync;
  options_.plan.global.clip_norm = 1;
  Start();
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_EQ(context_.stopped->code(), StatusCode::kInvalidArgument);
}

TEST_F(CoordinatorTest, ClockIsAnsweredWhenTheSlowestIsThere) {
  options_.plan = {.mode = Mode::kBounded, .staleness = 2};
  StartAndJoin();
  // To start its clock 3 with staleness 2 a worker needs a minimum of 1.
  const uint64_t waits = Clock(0, 3, 1);
  EXPECT_EQ(NumReplies(waits), 0);
  EXPECT_EQ(GoodReplyTo<wire::ClockReply>(Clock(1, 0, 0)).minimum(), 0);
  EXPECT_EQ(NumReplies(waits), 0);
  EXPECT_EQ(GoodReplyTo<wire::ClockReply>(Clock(1, 1, 0)).minimum(), 1);
  EXPECT_EQ(GoodReplyTo<wire::ClockReply>(waits).minimum(), 1);
  // A clock does not go back: an old report was only late.
  EXPECT_EQ(GoodReplyTo<wire::ClockReply>(Clock(1, 0, 0)).minimum(), 1);
  EXPECT_EQ(NumReplies(Clock(0, 4, 2)), 0);
}

TEST_F(CoordinatorTest, FinishedOrderCountsAsItsClock) {
  options_.plan = {.mode = Mode::kBounded, .staleness = 1};
  options_.train.total_steps = 6;  // three for each of two workers
  StartAndJoin();
  const uint64_t waits = Clock(0, 2, 3);
  AskOrder(1, 1);
  EXPECT_EQ(NumReplies(waits), 0) << "itself is at 2";
  const uint64_t newer = Clock(0, 3, 3);
  EXPECT_EQ(GoodReplyTo<wire::ClockReply>(newer).minimum(), 3);
}

TEST_F(CoordinatorTest, RestoredJobGoesOnAtItsClocks) {
  options_.plan = {.mode = Mode::kBounded, .staleness = 0};
  options_.restore_folder = "out/step-4";
  options_.restore_step = 4;
  StartAndJoin();
  for (int i = 0; i < 2; ++i) {
    Answer(Shard(i), AskedOf(Shard(i), Method::kLoad).at(0), {});
  }
  EXPECT_EQ(GoodReplyTo<wire::ClockReply>(Clock(0, 2, 2)).minimum(), 2);
}

// Five steps over two workers, in two orders of three and two steps: worker 0
// has 0, 2 and 4, worker 1 has 1 and 3.
TEST_F(CoordinatorTest, ClocksCountTheStepsThatAreAWorkersOwn) {
  options_.plan = {.mode = Mode::kBounded, .staleness = 0};
  options_.train.total_steps = 5;
  options_.train.steps_per_epoch = 3;
  options_.train.has_test = true;
  StartAndJoin();
  BothDone(1);  // trained to step 3
  EXPECT_EQ(GoodReplyTo<wire::ClockReply>(Clock(0, 2, 1)).minimum(), 1)
      << "worker 1 has done step 1 alone; its next is 3";
  EXPECT_EQ(NumReplies(Clock(0, 2, 2)), 0);
}

// --- What does not belong --------------------------------------------------

TEST_F(CoordinatorTest, EveryForeignRequestIsAnsweredWithAnError) {
  StartAndJoin();
  const Buffer garbage = Buffer::CopyOf("\xff\xff\xff\xff");
  for (const comm::EndpointId from : {Shard(0), Worker(0), kStranger}) {
    for (uint16_t method = 0; method < 40; ++method) {
      if (static_cast<Method>(method) == Method::kAlive ||
          static_cast<Method>(method) == Method::kProgress ||
          static_cast<Method>(method) == Method::kSlotLoads ||
          static_cast<Method>(method) == Method::kAbort) {
        continue;  // One way: no request.
      }
      for (const std::vector<Buffer>& frames :
           {std::vector<Buffer>{}, {garbage}, {garbage, garbage}}) {
        EXPECT_FALSE(
            ErrorReplyTo(Ask(from, static_cast<Method>(method), frames)).ok())
            << "method " << method;
      }
    }
  }
  EXPECT_EQ(
      ErrorReplyTo(Ask(Shard(0), Method::kAskOrder, wire::AskOrder())).code(),
      StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorReplyTo(Ask(Shard(0), Method::kClock, wire::Clock())).code(),
            StatusCode::kInvalidArgument);
  // One way, and replies to nothing: nobody waits for an answer.
  const size_t sent = context_.sent.size();
  for (uint16_t method = 0; method < 40; ++method) {
    Tell(kStranger, static_cast<Method>(method), {garbage});
    comm::Message request;
    request.header = {.request = 12345, .method = method};
    Answer(kStranger, request, {garbage});
    Answer(Shard(0), request, {garbage});
  }
  for (size_t i = sent; i < context_.sent.size(); ++i) {
    EXPECT_EQ(context_.sent[i].message.header.request, 0U);
  }
  EXPECT_FALSE(context_.stopped.has_value());
  Prepared(Shard(0), 0);
  EXPECT_EQ(GoodReplyTo<wire::Commit>(Prepared(Shard(1), 0)).step(), 0);
}

// --- Losses ----------------------------------------------------------------

TEST_F(CoordinatorTest, LostWorkerEndsTheJobNamed) {
  StartAndJoin();
  coordinator_->OnPeerDown(Worker(1), UnavailableError("connection reset"));
  PassAlive(20s, {Shard(0), Shard(1), Worker(0)});
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_EQ(context_.stopped->code(), StatusCode::kUnavailable);
  EXPECT_THAT(context_.stopped->message(),
              AllOf(HasSubstr("worker 1"), HasSubstr("worker-host-1"),
                    HasSubstr("2001"), HasSubstr("connection reset")));
  for (const comm::EndpointId member : {Shard(0), Shard(1), Worker(0)}) {
    const auto aborts = AskedOf(member, Method::kAbort);
    ASSERT_THAT(aborts, SizeIs(1));
    wire::Abort abort;
    ASSERT_TRUE(Decode(aborts[0], abort).ok());
    EXPECT_THAT(abort.text(), HasSubstr("worker 1"));
    EXPECT_NE(abort.code(), 0);
  }
}

TEST_F(CoordinatorTest, LostConnectionAloneIsNotALostMember) {
  StartAndJoin();
  coordinator_->OnPeerDown(Shard(1), UnavailableError("connection reset"));
  coordinator_->OnPeerDown(kStranger, UnavailableError("connection reset"));
  context_.Advance(500ms);
  PassAlive(30s, Everyone());
  EXPECT_FALSE(context_.stopped.has_value());
}

TEST_F(CoordinatorTest, LostWorkerIsReplacedAndTheJobGoesOnWhereItIs) {
  options_.replace_within = 10s;
  StartAndJoin();
  for (int64_t step = 0; step < 3; ++step) {
    Prepared(Shard(0), step);
    Prepared(Shard(1), step);
  }
  coordinator_->OnPeerDown(Worker(1), UnavailableError("connection reset"));
  PassAlive(8s, {Shard(0), Shard(1), Worker(0)});
  const comm::EndpointId other{300};
  const auto joined = GoodReplyTo<wire::JoinReply>(JoinWorker(1, other));
  EXPECT_EQ(joined.index(), 1);
  EXPECT_EQ(joined.virtual_end(), 5);
  const auto order =
      GoodReplyTo<wire::Order>(Ask(other, Method::kAskOrder, wire::AskOrder()));
  EXPECT_EQ(order.from_step(), 3);
  EXPECT_EQ(order.until_step(), 10);
  EXPECT_EQ(ErrorReplyTo(AskOrder(1, 0)).code(),
            StatusCode::kFailedPrecondition)
      << "the lost one has no place any more";
  PassAlive(30s, {Shard(0), Shard(1), Worker(0), other});
  EXPECT_FALSE(context_.stopped.has_value());
}

TEST_F(CoordinatorTest, ReplacedWorkerGoesOnAtTheClockOfTheLostOne) {
  options_.plan = {.mode = Mode::kBounded, .staleness = 2};
  options_.replace_within = 10s;
  StartAndJoin();
  Clock(0, 4, 0);
  Clock(1, 3, 0);
  const uint64_t waits = Clock(0, 4, 4);
  coordinator_->OnPeerDown(Worker(1), UnavailableError("connection reset"));
  const comm::EndpointId other{300};
  JoinWorker(1, other);
  EXPECT_EQ(NumReplies(waits), 0);
  EXPECT_EQ(GoodReplyTo<wire::ClockReply>(Clock(0, 4, 3)).minimum(), 3)
      << "the place has done what the lost one had done";
  const auto order =
      GoodReplyTo<wire::Order>(Ask(other, Method::kAskOrder, wire::AskOrder()));
  EXPECT_EQ(order.from_step(), 7) << "its own after 1, 3 and 5";
}

// The two come in any order when both are sent again.
TEST_F(CoordinatorTest, OlderReportOfAClockDoesNotTakeThePlaceOfANewer) {
  options_.plan = {.mode = Mode::kBounded, .staleness = 1};
  StartAndJoin();
  const uint64_t newer = Clock(0, 4, 3);
  const uint64_t older = Clock(0, 3, 2);
  EXPECT_EQ(GoodReplyTo<wire::ClockReply>(older).minimum(), 0);
  EXPECT_EQ(NumReplies(newer), 0);
  Clock(1, 3, 0);
  EXPECT_EQ(GoodReplyTo<wire::ClockReply>(newer).minimum(), 3);
}

TEST_F(CoordinatorTest, WaitForAReplacementEndsInTime) {
  options_.replace_within = 10s;
  StartAndJoin();
  coordinator_->OnPeerDown(Worker(1), UnavailableError("connection reset"));
  PassAlive(9s, {Shard(0), Shard(1), Worker(0)});
  EXPECT_FALSE(context_.stopped.has_value());
  PassAlive(2s, {Shard(0), Shard(1), Worker(0)});
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_THAT(context_.stopped->message(), HasSubstr("worker 1"));
}

TEST_F(CoordinatorTest, EveryLossIsGivenItsWholeTime) {
  options_.replace_within = 10s;
  StartAndJoin();
  coordinator_->OnPeerDown(Worker(1), UnavailableError("connection reset"));
  PassAlive(1s, Everyone());  // it is back
  PassAlive(8s, Everyone());
  coordinator_->OnPeerDown(Worker(1), UnavailableError("connection reset"));
  PassAlive(9s, {Shard(0), Shard(1), Worker(0)});
  EXPECT_FALSE(context_.stopped.has_value()) << *context_.stopped;
  PassAlive(2s, {Shard(0), Shard(1), Worker(0)});
  EXPECT_TRUE(context_.stopped.has_value());
}

TEST_F(CoordinatorTest, SilentMemberIsNamedAndOthersAreSpokenTo) {
  StartAndJoin();  // with a timeout of 20 s
  context_.sent.clear();
  PassAlive(19s, {Shard(0), Worker(0), Worker(1)});
  EXPECT_FALSE(context_.stopped.has_value());
  for (const comm::EndpointId member : Everyone()) {
    EXPECT_GE(AskedOf(member, Method::kAlive).size(), 3U);
  }
  PassAlive(6s, {Shard(0), Worker(0), Worker(1)});
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_EQ(context_.stopped->code(), StatusCode::kUnavailable);
  EXPECT_THAT(context_.stopped->message(),
              AllOf(HasSubstr("server 1 shard 0"), HasSubstr("server-host-1"),
                    HasSubstr("1001"), HasSubstr("20")));
}

TEST_F(CoordinatorTest, HungMemberIsNamedByWhoWaitedForIt) {
  StartAndJoin();  // with a timeout of 20 s
  wire::Abort abort;
  abort.set_code(static_cast<int>(StatusCode::kDeadlineExceeded));
  abort.set_text("waited 18 s for rows of step 3 from server 0 shard 0");
  PassAlive(18s, {Shard(0), Worker(0), Worker(1)});
  Tell(Worker(0), Method::kAbort, {Encode(abort)});
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_THAT(context_.stopped->message(),
              AllOf(HasSubstr("server 1 shard 0 (host server-host-1, pid "
                              "1001) has said nothing for 18"),
                    HasSubstr("worker 0"), HasSubstr("waited 18 s for rows"),
                    Not(HasSubstr("worker 1"))));
}

TEST_F(CoordinatorTest, ShardThatHoldsUpAStepIsNamed) {
  StartAndJoin();
  Prepared(Shard(1), 0);
  wire::Abort abort;
  abort.set_code(static_cast<int>(StatusCode::kDeadlineExceeded));
  abort.set_text("step 0 is complete here but not committed");
  PassAlive(18s, Everyone());
  Tell(Worker(0), Method::kAbort, {Encode(abort)});
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_THAT(context_.stopped->message(),
              HasSubstr("server 0 shard 0 has not prepared step 0; worker 0"));
}

TEST_F(CoordinatorTest, MemberCallsTheJobOffForItsReason) {
  StartAndJoin();
  wire::Abort abort;
  abort.set_code(static_cast<int>(StatusCode::kInvalidArgument));
  abort.set_text("line 7 has no label");
  Tell(kStranger, Method::kAbort, {Encode(abort)});
  Tell(Worker(0), Method::kAbort, {Buffer::CopyOf("\xff")});
  EXPECT_FALSE(context_.stopped.has_value());
  Tell(Worker(0), Method::kAbort, {Encode(abort)});
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_EQ(context_.stopped->code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(context_.stopped->message(),
              AllOf(HasSubstr("worker 0"), HasSubstr("line 7 has no label")));
  EXPECT_THAT(AskedOf(Shard(1), Method::kAbort), SizeIs(1));
  // The first reason counts, and nobody is told twice.
  coordinator_->Abort(InternalError("another reason"));
  EXPECT_EQ(context_.stopped->code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(AskedOf(Shard(1), Method::kAbort), SizeIs(1));
}

TEST_F(CoordinatorTest, MemberThatCallsTheJobOffNeverEndsItWell) {
  StartAndJoin();
  wire::Abort abort;
  abort.set_code(256);  // which a byte would cut to OK
  abort.set_text("line 7 has no label");
  Tell(Worker(0), Method::kAbort, {Encode(abort)});
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_EQ(context_.stopped->code(), StatusCode::kInternal);
  EXPECT_THAT(context_.stopped->message(), HasSubstr("line 7 has no label"));
}

// --- Checkpoints -----------------------------------------------------------

class CoordinatorSaveTest : public CoordinatorTest {
 protected:
  CoordinatorSaveTest() { options_.checkpoint_folder = "out"; }

  // Trains to the end of the job; the shards are asked to save.
  void Train() {
    StartAndJoin();
    BothDone(1);
    ASSERT_THAT(AskedOf(Shard(0), Method::kSave), SizeIs(1));
    ASSERT_THAT(AskedOf(Shard(1), Method::kSave), SizeIs(1));
  }
  wire::Save SaveOf(int shard) const {
    wire::Save save;
    EXPECT_TRUE(Decode(AskedOf(Shard(shard), Method::kSave).at(0), save).ok());
    return save;
  }
  // What a shard without rows does when it is asked.
  void SaveAndAnswer(int shard) {
    const wire::Save save = SaveOf(shard);
    std::vector<std::unique_ptr<SparseTable>> tables;
    tables.push_back(*SparseTable::Create({.name = "embedding", .dim = 2}));
    const std::unique_ptr<DenseStore> dense =
        *DenseStore::Create(options_.model, {});
    const StatusOr<std::vector<std::string>> parts = SaveParts(
        context_.storage, save.folder(), save.name(),
        {.model = &options_.model, .tables = tables, .dense = dense.get()});
    ASSERT_TRUE(parts.ok()) << parts.status();
    wire::PartsReply reply;
    reply.mutable_parts()->Assign(parts->begin(), parts->end());
    Cut(shard);
    Answer(Shard(shard), AskedOf(Shard(shard), Method::kParts).at(0),
           {Encode(reply)});
  }
  void Cut(int shard) {
    Answer(Shard(shard), AskedOf(Shard(shard), Method::kSave).at(0), {});
  }
  bool HasManifest() {
    return ReadManifest(context_.storage, "out/step-10").ok();
  }
  std::vector<std::string> Files() {
    const auto files = context_.storage.ListFolder("out/step-10");
    return files.ok() ? *files : std::vector<std::string>{};
  }
};

TEST_F(CoordinatorSaveTest, OneWorkerIsAskedForWhatAllOfThemHold) {
  options_.plan.dense = DensePlace::kWorkers;
  Train();
  EXPECT_THAT(AskedOf(Worker(0), Method::kSave), SizeIs(1));
  EXPECT_THAT(AskedOf(Worker(1), Method::kSave), IsEmpty());
}

TEST_F(CoordinatorSaveTest, EveryWorkerIsAskedForItsPart) {
  options_.plan.dense = DensePlace::kWorkerParts;
  Train();
  EXPECT_THAT(AskedOf(Worker(0), Method::kSave), SizeIs(1));
  EXPECT_THAT(AskedOf(Worker(1), Method::kSave), SizeIs(1));
}

// It would be waited for until storage is given up.
TEST_F(CoordinatorSaveTest, ServerThatEndsMeanwhileIsNotAskedForItsPart) {
  StartAndJoin();
  ASSERT_TRUE(coordinator_->Scale(1, 0, -1).ok());
  BothDone(1);
  ASSERT_THAT(AskedOf(Shard(0), Method::kSave), SizeIs(1));
  ASSERT_THAT(AskedOf(Shard(1), Method::kSave), SizeIs(1));
  wire::CaughtUp caught_up;
  caught_up.set_version(coordinator_->route_version());
  caught_up.set_joining(0);
  Ask(Shard(1), Method::kCaughtUp, caught_up);
  EXPECT_THAT(AskedOf(Shard(1), Method::kFinish), SizeIs(1));
  EXPECT_THAT(AskedOf(Shard(0), Method::kSave), SizeIs(2));
  EXPECT_THAT(AskedOf(Shard(1), Method::kSave), SizeIs(1));
}

TEST_F(CoordinatorSaveTest, ManifestComesAfterAllParts) {
  observer_.texts = {{"job", "name: test"}};
  Train();
  EXPECT_EQ(SaveOf(0).folder(), "out/step-10");
  EXPECT_EQ(SaveOf(0).step(), 10);
  EXPECT_NE(SaveOf(0).name(), SaveOf(1).name());

  SaveAndAnswer(1);
  SaveAndAnswer(1);  // twice is not two parts
  context_.RunStorage();
  EXPECT_FALSE(HasManifest());
  SaveAndAnswer(0);
  EXPECT_THAT(observer_.saved, IsEmpty());
  const uint64_t early = AskOrder(0, 1);
  EXPECT_EQ(NumReplies(early), 0) << "nothing may run while it is written";
  context_.RunStorage();
  const StatusOr<Manifest> manifest =
      ReadManifest(context_.storage, "out/step-10");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->step, 10);
  EXPECT_THAT(manifest->parts, SizeIs(2));
  EXPECT_EQ(manifest->texts, observer_.texts);
  EXPECT_TRUE(VerifyCheckpoint(context_.storage, "out/step-10").ok());
  EXPECT_THAT(observer_.saved,
              ElementsAre(std::pair(int64_t{10}, std::string("out/step-10"))));
  EXPECT_EQ(GoodReplyTo<wire::Order>(early).kind(), wire::Order::STOP);
}

// A job that saves every two steps, in which both shards have made the first
// cut.
class AsynchronousSaveTest : public CoordinatorSaveTest {
 protected:
  AsynchronousSaveTest() { options_.train.checkpoint_every_steps = 2; }

  // To the first boundary at which it saves.
  void TrainTo(uint64_t order) {
    StartAndJoin();
    BothDone(order);
  }
};

TEST_F(AsynchronousSaveTest, TrainingGoesOnAtTheCut) {
  observer_.texts = {{"job", "of step 2"}};
  TrainTo(1);
  const uint64_t next = AskOrder(0, 1);
  Cut(0);
  EXPECT_EQ(NumReplies(next), 0) << "the other shard may be behind";
  Cut(1);
  EXPECT_EQ(GoodReplyTo<wire::Order>(next).kind(), wire::Order::TRAIN);
  observer_.texts = {{"job", "of a later step"}};
  EXPECT_THAT(observer_.saved, IsEmpty());
  SaveAndAnswer(0);
  SaveAndAnswer(1);
  context_.RunStorage();
  EXPECT_THAT(observer_.saved,
              ElementsAre(std::pair(int64_t{2}, std::string("out/step-2"))));
  const StatusOr<Manifest> manifest =
      ReadManifest(context_.storage, "out/step-2");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->texts.at("job"), "of step 2");
}

TEST_F(AsynchronousSaveTest, NextOneWaitsForTheOneBefore) {
  TrainTo(1);
  Cut(0);
  Cut(1);
  BothDone(2);
  EXPECT_THAT(AskedOf(Shard(0), Method::kSave), SizeIs(1));
  SaveAndAnswer(0);
  SaveAndAnswer(1);
  context_.RunStorage();
  ASSERT_THAT(AskedOf(Shard(0), Method::kSave), SizeIs(2));
  wire::Save second;
  ASSERT_TRUE(Decode(AskedOf(Shard(0), Method::kSave)[1], second).ok());
  EXPECT_EQ(second.step(), 4);
}

TEST_F(AsynchronousSaveTest, OneThatIsGivenUpEndsNothingAndTheNextOneStops) {
  TrainTo(1);
  Cut(0);
  Cut(1);
  AnswerError(Shard(0), AskedOf(Shard(0), Method::kParts).at(0),
              AbortedError("too much has changed"));
  SaveAndAnswer(1);
  context_.RunStorage();
  EXPECT_FALSE(context_.stopped.has_value());
  EXPECT_THAT(observer_.saved, IsEmpty());
  ASSERT_THAT(observer_.not_saved, SizeIs(1));
  EXPECT_THAT(observer_.not_saved[0].message(),
              AllOf(HasSubstr("step 2"), HasSubstr("server 0 shard 0"),
                    HasSubstr("too much has changed")));
  EXPECT_FALSE(context_.storage.ListFolder("out/step-2").ok());

  BothDone(2);
  const uint64_t next = AskOrder(0, 2);
  for (int shard = 0; shard < 2; ++shard) {
    ASSERT_THAT(AskedOf(Shard(shard), Method::kSave), SizeIs(2));
    Answer(Shard(shard), AskedOf(Shard(shard), Method::kSave)[1], {});
  }
  EXPECT_EQ(NumReplies(next), 0);
}

class IncrementalSaveTest : public AsynchronousSaveTest {
 protected:
  void SetUp() override {
    AsynchronousSaveTest::SetUp();
    options_.full_checkpoint_every = 3;
    options_.plan.incremental_checkpoints = true;
    StartAndJoin();
  }

  // The base that shards are told of in that of the next boundary, or -1.
  int64_t Save(bool given_up = false) {
    BothDone(asked_ + 1);
    wire::Save save;
    for (int shard = 0; shard < 2; ++shard) {
      const auto asked_of = AskedOf(Shard(shard), Method::kSave);
      EXPECT_THAT(asked_of, SizeIs(asked_ + 1));
      EXPECT_TRUE(Decode(asked_of.back(), save).ok());
      Answer(Shard(shard), asked_of.back(), {});
    }
    for (int shard = 0; shard < 2; ++shard) {
      const comm::Message parts = AskedOf(Shard(shard), Method::kParts).back();
      if (given_up) {
        AnswerError(Shard(shard), parts, AbortedError("too much has changed"));
      } else {
        Answer(Shard(shard), parts, {Encode(wire::PartsReply())});
      }
    }
    context_.RunStorage();
    ++asked_;
    return save.has_base() ? save.base() : -1;
  }

  size_t asked_ = 0;
};

// Of those that were published, every third is full; what was given up is
// nothing's base.
TEST_F(IncrementalSaveTest, AreBasedOnWhatWasPublished) {
  EXPECT_EQ(Save(/*given_up=*/true), -1);
  EXPECT_EQ(Save(), -1);  // of step 4
  EXPECT_EQ(Save(true), 4);
  EXPECT_EQ(Save(), 4);  // of step 8
  const StatusOr<Manifest> manifest =
      ReadManifest(context_.storage, "out/step-8");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  ASSERT_TRUE(manifest->base.has_value());
  EXPECT_EQ(manifest->base->step, 4);
  EXPECT_EQ(manifest->base->checksum,
            ReadManifest(context_.storage, "out/step-4")->checksum);
  EXPECT_EQ(Save(), 8);  // of step 10, the last
}

TEST_F(IncrementalSaveTest, NoneIsPublishedThatIsBasedOnNothing) {
  EXPECT_EQ(Save(), -1);
  ASSERT_TRUE(context_.storage.Remove("out/step-2").ok());
  EXPECT_EQ(Save(), 2);
  ASSERT_THAT(observer_.not_saved, SizeIs(1));
  EXPECT_THAT(observer_.not_saved[0].message(),
              AllOf(HasSubstr("step 4"), HasSubstr("step-2, which it is")));
  EXPECT_FALSE(context_.storage.ListFolder("out/step-4").ok());
  EXPECT_EQ(Save(), -1) << "full";
  EXPECT_EQ(Save(), 6);
}

// Its slots are others' by then, but not what they were at the cut.
TEST_F(AsynchronousSaveTest, ServerThatIsToGoWritesItsPartFirst) {
  StartAndJoin();
  ASSERT_TRUE(coordinator_->Scale(1, 0, -1).ok());
  BothDone(1);
  Cut(0);
  Cut(1);
  wire::CaughtUp caught_up;
  caught_up.set_version(coordinator_->route_version());
  caught_up.set_joining(0);
  Ask(Shard(1), Method::kCaughtUp, caught_up);
  ASSERT_GT(coordinator_->route_version(), caught_up.version());
  EXPECT_THAT(AskedOf(Shard(1), Method::kFinish), IsEmpty());
  SaveAndAnswer(0);
  SaveAndAnswer(1);
  context_.RunStorage();
  EXPECT_THAT(observer_.saved,
              ElementsAre(std::pair(int64_t{2}, std::string("out/step-2"))));
  EXPECT_THAT(AskedOf(Shard(1), Method::kFinish), SizeIs(1));
}

TEST_F(AsynchronousSaveTest, WriterLostBeforeAllHaveCutIsNotWaitedFor) {
  options_.replicas = 2;
  options_.state_file = "out/coordinator.state";
  StartKeeping();
  BothDone(1);
  context_.RunStorage();
  Cut(1);
  // The route without it is kept before the other is asked anew.
  coordinator_->ProcessEnded("server 1", UnavailableError("killed"));
  Cut(0);
  EXPECT_THAT(AskedOf(Shard(0), Method::kSave), SizeIs(1));
  context_.RunStorage();
  ASSERT_THAT(AskedOf(Shard(0), Method::kSave), SizeIs(2));
  Answer(Shard(0), AskedOf(Shard(0), Method::kSave)[1], {});
  context_.RunStorage();
  const uint64_t next = AskOrder(0, 1);
  context_.RunStorage();
  EXPECT_EQ(GoodReplyTo<wire::Order>(next).kind(), wire::Order::TRAIN);
}

TEST_F(AsynchronousSaveTest, WriterLostAfterTheCutGivesItUp) {
  options_.replicas = 2;
  TrainTo(1);
  Cut(0);
  Cut(1);
  coordinator_->ProcessEnded("server 1", UnavailableError("killed"));
  EXPECT_FALSE(context_.stopped.has_value());
  SaveAndAnswer(0);
  context_.RunStorage();
  EXPECT_FALSE(context_.stopped.has_value());
  ASSERT_THAT(observer_.not_saved, SizeIs(1));
  EXPECT_THAT(observer_.not_saved[0].message(), HasSubstr("server 1 shard 0"));
  EXPECT_FALSE(context_.storage.ListFolder("out/step-2").ok());
}

TEST_F(AsynchronousSaveTest, FailedPartEndsTheJobThoughItHasGoneOn) {
  TrainTo(1);
  Cut(0);
  Cut(1);
  AnswerError(Shard(0), AskedOf(Shard(0), Method::kParts).at(0),
              FailedPreconditionError("the disk is full"));
  SaveAndAnswer(1);
  context_.RunStorage();
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_THAT(context_.stopped->message(), HasSubstr("the disk is full"));
}

TEST_F(CoordinatorSaveTest, LossScaleIsPartOfTheCheckpoint) {
  options_.plan.global = {.loss_scale = 64, .dynamic_scale = true};
  options_.restore_global_phase =
      R"({"loss_scale":16,"good_steps":3,"steps_skipped":2,)"
      R"("skipped_in_turn":0})";
  Train();
  SaveAndAnswer(0);
  SaveAndAnswer(1);
  context_.RunStorage();
  const StatusOr<Manifest> manifest =
      ReadManifest(context_.storage, "out/step-10");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  const std::string text = manifest->texts.at(kGlobalPhaseText);
  for (const char* part :
       {"16.0", R"("good_steps":3)", R"("steps_skipped":2)"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST_F(CoordinatorSaveTest, JobThatEndsEarlyIsSavedAndNoOtherBoundaryIs) {
  options_.train.has_test = true;
  options_.train.eval_every_steps = 2;
  StartAndJoin();
  BothDone(1);
  BothDone(2);
  EXPECT_THAT(observer_.evaluated, ElementsAre(2));
  EXPECT_THAT(AskedOf(Shard(0), Method::kSave), IsEmpty());
  BothDone(3);
  observer_.verdict = true;
  BothDone(4);
  EXPECT_EQ(SaveOf(0).folder(), "out/step-4");
  EXPECT_EQ(SaveOf(1).step(), 4);
}

TEST_F(CoordinatorSaveTest, FailedPartGivesNoManifest) {
  Train();
  SaveAndAnswer(0);
  AnswerError(Shard(1), AskedOf(Shard(1), Method::kSave).at(0),
              FailedPreconditionError("the disk is full"));
  context_.RunStorage();
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_THAT(context_.stopped->message(),
              AllOf(HasSubstr("step 10"), HasSubstr("server 1 shard 0"),
                    HasSubstr("the disk is full")));
  EXPECT_FALSE(HasManifest());
  EXPECT_THAT(Files(), IsEmpty()) << "the unfinished folder is removed";
  EXPECT_THAT(observer_.saved, IsEmpty());
}

TEST_F(CoordinatorSaveTest, PartAfterAFailedOneGivesNoManifestEither) {
  Train();
  AnswerError(Shard(1), AskedOf(Shard(1), Method::kSave).at(0),
              FailedPreconditionError("the disk is full"));
  context_.RunStorage();
  EXPECT_FALSE(context_.stopped.has_value()) << "the other still writes there";
  SaveAndAnswer(0);
  context_.RunStorage();
  EXPECT_THAT(Files(), IsEmpty());
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_FALSE(context_.stopped->ok());
  EXPECT_FALSE(HasManifest());
  EXPECT_THAT(observer_.saved, IsEmpty());
}

TEST_F(CoordinatorSaveTest, PartThatIsNoneGivesNoManifest) {
  Train();
  SaveAndAnswer(0);
  wire::PartsReply reply;
  reply.add_parts("not an entry");
  Cut(1);
  Answer(Shard(1), AskedOf(Shard(1), Method::kParts).at(0), {Encode(reply)});
  context_.RunStorage();
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_THAT(context_.stopped->message(), HasSubstr("step 10"));
  EXPECT_FALSE(HasManifest());
  EXPECT_THAT(observer_.saved, IsEmpty());
}

TEST_F(CoordinatorSaveTest, ManifestThatCannotBeWrittenEndsTheJob) {
  Train();
  SaveAndAnswer(0);
  SaveAndAnswer(1);
  context_.storage.SetCapacity(1);
  context_.RunStorage();
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_EQ(context_.stopped->code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(context_.stopped->message(), HasSubstr("step 10"));
  EXPECT_THAT(Files(), IsEmpty()) << "the unfinished folder is removed";
  EXPECT_THAT(observer_.saved, IsEmpty());
}

// --- Rebalancing -----------------------------------------------------------

class CoordinatorRebalanceTest : public CoordinatorTest {
 protected:
  // Of the slots that `shard` is head of under the last route: all alike.
  void Report(int shard, int64_t bytes_per_slot) {
    const RouteTable route = LastRoute(shard);
    wire::SlotLoads loads;
    loads.set_version(route.version);
    loads.set_period_ns(500'000'000);
    for (int64_t slot = 0; slot < route.num_slots(); ++slot) {
      if (route.HeadOf(slot) == shard) {
        loads.add_bytes(bytes_per_slot);
        loads.add_pulled(0);
        loads.add_pushed(0);
      }
    }
    Tell(Shard(shard), Method::kSlotLoads, {Encode(loads)});
  }
  void Join() {
    Start();
    const uint64_t join = JoinShard(0);
    JoinShard(1);
    JoinWorker(0);
    JoinWorker(1);
    first_ = *FromWire(GoodReplyTo<wire::JoinReply>(join).route());
    BothDone(0);
  }
  int64_t RoutesSent() const {
    return static_cast<int64_t>(AskedOf(Shard(0), Method::kRouteChange).size());
  }
  RouteTable LastRoute(int shard) const {
    const auto asked = AskedOf(Shard(shard), Method::kRouteChange);
    if (asked.empty()) {
      return first_;
    }
    wire::RouteChange change;
    EXPECT_TRUE(Decode(asked.back(), change).ok());
    return *FromWire(change.route());
  }
  void CaughtUp(int tail, int joining) {
    wire::CaughtUp caught_up;
    caught_up.set_version(LastRoute(0).version);
    caught_up.set_joining(joining);
    Ask(Shard(tail), Method::kCaughtUp, caught_up);
  }
  wire::ClusterStatus ClusterStatus() {
    return GoodReplyTo<wire::ClusterStatus>(
        Ask(kStranger, Method::kStatus, wire::AskStatus()));
  }
  // Slots of which `shard` is a member, times what each holds.
  static int64_t Held(const RouteTable& route, int shard) {
    int64_t held = 0;
    for (int64_t slot = 0; slot < route.num_slots(); ++slot) {
      held += route.ChainOf(slot).HasMember(shard) ? 1 : 0;
    }
    return held;
  }

  RouteTable first_;
};

TEST_F(CoordinatorRebalanceTest, UnevenBytesMoveAndAreThenEven) {
  Join();
  context_.Advance(1s);
  Report(1, 10'000);
  EXPECT_EQ(RoutesSent(), 0) << "of the other nothing is known";
  Report(0, 30'000);
  ASSERT_EQ(RoutesSent(), 1);
  const RouteTable moving = LastRoute(0);
  int64_t moves = 0;
  for (int64_t slot = 0; slot < moving.num_slots(); ++slot) {
    const Chain& chain = moving.ChainOf(slot);
    moves += chain.joining >= 0 ? 1 : 0;
    if (chain.joining >= 0) {
      ASSERT_EQ(chain, (Chain{.members = {0}, .joining = 1, .leaving = 0}));
    }
  }
  // 512 of 34,096 against 512 of 14,096: a quarter of the difference is 150.
  EXPECT_GT(moves, 130);
  EXPECT_LE(moves, 151);
  wire::ClusterStatus status = ClusterStatus();
  EXPECT_TRUE(status.loads_known());
  EXPECT_EQ(status.shards(0).bytes(), 512 * 30'000);
  EXPECT_EQ(status.shards(1).bytes(), 512 * 10'000);
  EXPECT_EQ(status.shards(1).to_come(), moves * 30'000);
  EXPECT_EQ(status.moved(), 0);
  // Nothing more is planned while they are on their way.
  context_.Advance(2s);
  Report(0, 90'000);
  Report(1, 10'000);
  EXPECT_EQ(RoutesSent(), 1);
  Report(0, 30'000);
  CaughtUp(0, 1);
  ASSERT_EQ(RoutesSent(), 2);
  const RouteTable even = LastRoute(0);
  EXPECT_EQ(Held(even, 1), 512 + moves);
  EXPECT_EQ(Held(even, 0), 512 - moves);
  status = ClusterStatus();
  EXPECT_EQ(status.moved(), moves * 30'000);
  EXPECT_EQ(status.shards(0).bytes() + status.shards(1).bytes(), 512 * 40'000);
  // It stays so.
  for (int i = 0; i < 5; ++i) {
    context_.Advance(2s);
    Report(0, 30'000);
    EXPECT_EQ(RoutesSent(), 2);
  }
}

TEST_F(CoordinatorRebalanceTest, NothingMovesWhereItIsOff) {
  options_.rebalance = RebalanceBy::kOff;
  Join();
  for (int i = 0; i < 5; ++i) {
    context_.Advance(1s);
    Report(0, 30'000);
    Report(1, 10'000);
  }
  EXPECT_EQ(RoutesSent(), 0);
}

// Of a server that comes the slots' bytes count, not their number.
TEST_F(CoordinatorRebalanceTest, NewServersGetTheirShareOfBytes) {
  Join();
  context_.Advance(1s);
  Report(0, 50'000);
  Report(1, 50'000);
  ASSERT_EQ(RoutesSent(), 0);
  ASSERT_TRUE(coordinator_->Scale(3, 0, -1).ok());
  JoinShard(2);
  ASSERT_EQ(RoutesSent(), 1);
  int64_t from_first = 0;
  int64_t from_second = 0;
  const RouteTable route = LastRoute(0);
  for (int64_t slot = 0; slot < route.num_slots(); ++slot) {
    const Chain& chain = route.ChainOf(slot);
    if (chain.joining >= 0) {
      EXPECT_EQ(chain.joining, 2);
      from_first += chain.leaving == 0 ? 1 : 0;
      from_second += chain.leaving == 1 ? 1 : 0;
    }
  }
  // A third of them, but for half of the tolerance.
  EXPECT_NEAR(static_cast<double>(from_first + from_second), 341, 18);
  EXPECT_LE(from_first + from_second, 342);
  EXPECT_NEAR(static_cast<double>(from_first - from_second), 0, 18);
}

// A server is in the route when all its shards are there.
TEST_F(CoordinatorRebalanceTest,
       ShardThatWaitsForOthersOfItsServerHoldsNothing) {
  options_.num_servers = 1;
  options_.shards_per_server = 2;
  Start();
  const auto join = [this](int server, int shard) {
    wire::Join join;
    join.set_role(wire::Join::SHARD);
    join.set_server(server);
    join.set_shard(shard);
    join.set_address("fake:shard");
    join.set_host("host");
    return Ask(Shard(server * 2 + shard), Method::kJoin, join);
  };
  const uint64_t joined = join(0, 0);
  join(0, 1);
  JoinWorker(0);
  JoinWorker(1);
  first_ = *FromWire(GoodReplyTo<wire::JoinReply>(joined).route());
  BothDone(0);
  ASSERT_TRUE(coordinator_->Scale(2, 0, -1).ok());
  join(1, 0);
  Report(2, 1000);
  const wire::ClusterStatus status = ClusterStatus();
  ASSERT_EQ(status.shards_size(), 3);
  EXPECT_EQ(status.shards(2).bytes(), 0);
  EXPECT_EQ(RoutesSent(), 0);
  join(1, 1);
  EXPECT_EQ(RoutesSent(), 1);
}

// --- A restart -------------------------------------------------------------

class RestartTest : public CoordinatorTest {
 protected:
  RestartTest() { options_.state_file = "out/coordinator.state"; }

  // Both workers have the order to train; three steps are committed.
  void TrainThreeSteps() {
    StartKeeping();
    BothDone(0);
    for (int step = 0; step < 3; ++step) {
      Prepared(Shard(0), step);
      Prepared(Shard(1), step);
    }
  }
  // As kill -9 and another start.
  void Restart() {
    coordinator_.reset();
    context_.ForgetNode();
    context_.sent.clear();
    context_.stopped.reset();
    Start();
    context_.RunStorage();
  }
  void AnswerRecover(comm::EndpointId from, int64_t step) {
    wire::RecoverReply reply;
    reply.set_step(step);
    const std::vector<comm::Message> asked = AskedOf(from, Method::kRecover);
    ASSERT_FALSE(asked.empty());
    Answer(from, asked.back(), {Encode(reply)});
  }
  // How many steps the last route says are committed.
  int64_t CommittedOfRoute(comm::EndpointId to) const {
    const std::vector<comm::Message> asked = AskedOf(to, Method::kRouteChange);
    wire::RouteChange change;
    return !asked.empty() && Decode(asked.back(), change).ok()
               ? change.committed()
               : -1;
  }
};

TEST_F(RestartTest, OrdersAreGivenWhenTheyAreKept) {
  Start();
  context_.RunStorage();
  JoinShard(0);
  JoinShard(1);
  JoinWorker(0);
  const uint64_t join = JoinWorker(1);
  EXPECT_EQ(NumReplies(join), 0) << "its place is not kept yet";
  context_.RunStorage();
  EXPECT_EQ(NumReplies(join), 1);
  BothDone(0);
  for (int step = 0; step < 10; ++step) {
    Prepared(Shard(0), step);
    Prepared(Shard(1), step);
  }
  BothDone(1);
  // The checkpoint is written by nobody here; the stop comes without one.
  const uint64_t next = AskOrder(0, 1);
  EXPECT_EQ(NumReplies(next), 0) << "the next order is not kept yet";
  context_.RunStorage();
  EXPECT_EQ(NumReplies(next), 1);
}

TEST_F(RestartTest, TheNextGoesOnWhereTheMembersAre) {
  TrainThreeSteps();
  Restart();
  EXPECT_EQ(ErrorReplyTo(JoinShard(0, kStranger)).code(),
            StatusCode::kUnavailable)
      << "not before all have answered";
  // The commit of step 3 has reached one of them.
  AnswerRecover(Shard(0), 4);
  AnswerRecover(Shard(1), 3);
  AnswerRecover(Worker(0), 3);
  EXPECT_EQ(CommittedOfRoute(Shard(0)), -1);
  AnswerRecover(Worker(1), 3);
  context_.RunStorage();
  EXPECT_EQ(CommittedOfRoute(Shard(0)), 4);
  EXPECT_EQ(CommittedOfRoute(Shard(1)), 4);
  EXPECT_EQ(CommittedOfRoute(Worker(0)), 4);
  EXPECT_THAT(observer_.recovered,
              ElementsAre(std::pair<int64_t, std::string>(4, "0 evaluations")));
  EXPECT_THAT(observer_.started, ElementsAre(0)) << "by the first only";
  // A worker whose order was lost on the way to it gets it again.
  const auto order = GoodReplyTo<wire::Order>(AskOrder(0, 0));
  EXPECT_EQ(order.number(), 1);
  EXPECT_EQ(order.from_step(), 4);
  EXPECT_EQ(order.until_step(), 10);
}

TEST_F(RestartTest, CommitThatOnlyAWorkerHasSeenCounts) {
  TrainThreeSteps();
  Restart();
  AnswerRecover(Shard(0), 3);
  AnswerRecover(Shard(1), 3);
  AnswerRecover(Worker(0), 4);
  AnswerRecover(Worker(1), 3);
  context_.RunStorage();
  EXPECT_EQ(CommittedOfRoute(Shard(1)), 4);
}

TEST_F(RestartTest, ServerThatIsNotThereEndsTheJobNamingIt) {
  TrainThreeSteps();
  Restart();
  AnswerRecover(Shard(0), 3);
  AnswerRecover(Worker(0), 3);
  AnswerRecover(Worker(1), 3);
  context_.Advance(options_.plan.timeout);
  context_.RunStorage();
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_THAT(context_.stopped->message(),
              AllOf(HasSubstr("server 1 shard 0"), HasSubstr("started again")));
  EXPECT_FALSE(context_.storage.ReadFile(options_.state_file).ok())
      << "nobody is to go on with it";
}

TEST_F(RestartTest, ServerThatCantBeReachedForAWhileIsWaitedFor) {
  TrainThreeSteps();
  Restart();
  AnswerRecover(Shard(0), 3);
  AnswerRecover(Worker(0), 3);
  AnswerRecover(Worker(1), 3);
  coordinator_->OnPeerDown(Shard(1), UnavailableError("nobody takes calls"));
  context_.Advance(options_.plan.timeout / 2 - 100ms);
  EXPECT_FALSE(context_.stopped.has_value());
  AnswerRecover(Shard(1), 3);
  context_.RunStorage();
  EXPECT_EQ(CommittedOfRoute(Shard(1)), 3);
  EXPECT_FALSE(context_.stopped.has_value());
}

TEST_F(RestartTest, ServerThatIsNotThereIsDroppedIfThereAreReplicas) {
  options_.replicas = 2;
  TrainThreeSteps();
  Restart();
  AnswerRecover(Shard(0), 3);
  AnswerRecover(Worker(0), 3);
  AnswerRecover(Worker(1), 3);
  coordinator_->OnPeerDown(Shard(1), UnavailableError("nobody takes calls"));
  context_.Advance(1s);
  context_.RunStorage();
  EXPECT_FALSE(context_.stopped.has_value());
  EXPECT_EQ(CommittedOfRoute(Shard(0)), 3);
  EXPECT_FALSE(coordinator_->replicated());
  Prepared(Shard(0), 3);
}

// A launcher may see it end while the members are asked.
TEST_F(RestartTest, ServerThatIsSeenToEndMeanwhileIsDroppedAfterwards) {
  options_.replicas = 2;
  TrainThreeSteps();
  Restart();
  EXPECT_EQ(coordinator_->ProcessEnded("server 1", UnavailableError("killed")),
            Coordinator::Ended::kReplace);
  AnswerRecover(Shard(0), 3);
  AnswerRecover(Worker(0), 3);
  AnswerRecover(Worker(1), 3);
  coordinator_->OnPeerDown(Shard(1), UnavailableError("nobody takes calls"));
  context_.Advance(options_.plan.timeout);
  context_.RunStorage();
  EXPECT_FALSE(context_.stopped.has_value());
  EXPECT_EQ(CommittedOfRoute(Shard(0)), 3);
}

TEST_F(RestartTest, StateOfAnotherJobIsRefusedAndStays) {
  TrainThreeSteps();
  options_.job_text = "name: another";
  Restart();
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_EQ(context_.stopped->code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(context_.stopped->message(), HasSubstr(options_.state_file));
  EXPECT_TRUE(context_.storage.ReadFile(options_.state_file).ok());
}

TEST_F(RestartTest, StateOfAnotherRunIsOfNobody) {
  options_.run = "first";
  TrainThreeSteps();
  options_.run = "second";
  options_.job_text = "name: another";
  Restart();
  EXPECT_FALSE(context_.stopped.has_value());
  EXPECT_THAT(AskedOf(Shard(0), Method::kRecover), IsEmpty());
  EXPECT_EQ(NumReplies(JoinShard(0)), 0) << "the others are waited for";
}

// A place that others may have by now, as an election has it.
class FakeSeat : public StateStore {
 public:
  const std::string& name() const override { return name_; }
  StatusOr<Buffer> Read(Storage& /*storage*/) override {
    return kept.empty() ? StatusOr<Buffer>(NotFoundError(name_)) : kept;
  }
  Status Write(Storage& /*storage*/, const Buffer& state) override {
    if (lost) {
      return AbortedError("another one leads");
    }
    kept = state;
    return OkStatus();
  }
  Status Remove(Storage& /*storage*/, const Status& why) override {
    if (!lost) {
      kept = Buffer();
      ended = why;
    }
    return OkStatus();
  }
  uint64_t epoch() const override { return 17; }
  bool leads() const override { return sure && !lost; }

  Buffer kept;
  std::optional<Status> ended;
  bool sure = true;
  bool lost = false;

 private:
  const std::string name_ = "the seat";
};

class SeatTest : public RestartTest {
 protected:
  SeatTest() {
    options_.state_file.clear();
    options_.state_store = seat_;
  }
  const std::shared_ptr<FakeSeat> seat_ = std::make_shared<FakeSeat>();
};

TEST_F(SeatTest, StepsWaitWhileItDoesNotKnowWhetherItLeads) {
  TrainThreeSteps();
  const uint64_t before = Prepared(Shard(0), 3);
  seat_->sure = false;
  EXPECT_EQ(ErrorReplyTo(Prepared(Shard(1), 3)).code(),
            StatusCode::kUnavailable);
  context_.Advance(1s);
  EXPECT_EQ(NumReplies(before), 0) << "it was committed";
  EXPECT_EQ(ErrorReplyTo(AskOrder(0, 1)).code(), StatusCode::kUnavailable);
  seat_->sure = true;
  const uint64_t after = Prepared(Shard(1), 3);
  EXPECT_EQ(GoodReplyTo<wire::Commit>(before).step(), 3);
  EXPECT_EQ(GoodReplyTo<wire::Commit>(after).step(), 3);
}

// With replicas the loss of a shard completes a step, and so does a timer.
TEST_F(SeatTest, OneThatLostItsSeatTellsNobodyAndLeavesTheStateToOthers) {
  for (const bool writes : {false, true}) {
    seat_->lost = false;
    context_.stopped.reset();
    TrainThreeSteps();
    context_.sent.clear();
    if (writes) {
      // It learns of it when it keeps the end of an order.
      for (int step = 3; step < 10; ++step) {
        Prepared(Shard(0), step);
        Prepared(Shard(1), step);
      }
      seat_->sure = true;
      BothDone(1);
      seat_->lost = true;
    } else {
      seat_->sure = false;
      coordinator_->Abort(UnavailableError("worker 1 was lost"));
      seat_->sure = true;
    }
    context_.RunStorage();
    ASSERT_TRUE(context_.stopped.has_value());
    EXPECT_FALSE(context_.stopped->ok());
    for (const comm::EndpointId id : Everyone()) {
      EXPECT_THAT(AskedOf(id, Method::kAbort), IsEmpty());
    }
    EXPECT_FALSE(seat_->kept.empty());
    EXPECT_FALSE(seat_->ended.has_value());
    coordinator_.reset();
    context_.ForgetNode();
    seat_->kept = Buffer();
  }
}

TEST_F(SeatTest, TheNextSaysWhichInTheRowItIs) {
  TrainThreeSteps();
  Restart();
  for (const comm::EndpointId id : Everyone()) {
    const std::vector<comm::Message> asked = AskedOf(id, Method::kRecover);
    ASSERT_FALSE(asked.empty());
    wire::Recover recover;
    ASSERT_TRUE(Decode(asked.back(), recover).ok());
    EXPECT_EQ(recover.epoch(), 17U);
    EXPECT_EQ(recover.address(), context_.address());
  }
  coordinator_->Abort(CancelledError("stopped by hand"));
  context_.RunStorage();
  ASSERT_TRUE(seat_->ended.has_value());
  EXPECT_THAT(seat_->ended->message(), HasSubstr("stopped by hand"));
}

// Killed when all of it had ended, before its file was removed.
TEST_F(RestartTest, JobThatHasEndedEnds) {
  TrainThreeSteps();
  for (int step = 3; step < 10; ++step) {
    Prepared(Shard(0), step);
    Prepared(Shard(1), step);
  }
  BothDone(1);
  context_.RunStorage();
  Restart();
  for (const comm::EndpointId id : Everyone()) {
    coordinator_->OnPeerDown(id, UnavailableError("nobody takes calls"));
  }
  context_.Advance(1s);
  context_.RunStorage();
  ASSERT_TRUE(context_.stopped.has_value());
  EXPECT_TRUE(context_.stopped->ok()) << context_.stopped->ToString();
  EXPECT_FALSE(context_.storage.ReadFile(options_.state_file).ok());
}

TEST_F(RestartTest, KilledWhileServersLoadAllLoadAgain) {
  options_.restore_folder = "out/checkpoints/step-5";
  options_.restore_step = 5;
  StartKeeping();
  ASSERT_THAT(AskedOf(Shard(0), Method::kLoad), SizeIs(1));
  Restart();
  AnswerRecover(Shard(0), 5);  // It has loaded; the other has not.
  AnswerRecover(Shard(1), 0);
  AnswerRecover(Worker(0), 0);
  // One that has not even had its answer to the join.
  const uint64_t join = JoinWorker(1);
  context_.RunStorage();
  EXPECT_FALSE(context_.stopped.has_value());
  EXPECT_EQ(ErrorReplyTo(join).code(), StatusCode::kUnavailable);
  const uint64_t again = JoinShard(1);
  context_.RunStorage();
  EXPECT_TRUE(GoodReplyTo<wire::JoinReply>(again).restores());
  for (const int shard : {0, 1}) {
    const auto loads = AskedOf(Shard(shard), Method::kLoad);
    ASSERT_FALSE(loads.empty());
    Answer(Shard(shard), loads.back(), {});
  }
  context_.RunStorage();
  const auto order = GoodReplyTo<wire::Order>(AskOrder(0, 0));
  EXPECT_EQ(order.from_step(), 5);
}

TEST_F(RestartTest, WorkersThatCameForAnotherNumberGo) {
  TrainThreeSteps();
  ASSERT_TRUE(coordinator_->Scale(0, 4, -1).ok());
  JoinWorker(2);
  JoinWorker(3);
  context_.RunStorage();
  ASSERT_TRUE(coordinator_->Scale(0, 2, -1).ok());
  context_.RunStorage();
  Restart();
  EXPECT_FALSE(context_.stopped.has_value()) << context_.stopped->ToString();
  for (const comm::EndpointId id : Everyone()) {
    AnswerRecover(id, 3);
  }
  AnswerRecover(Worker(2), 0);
  AnswerRecover(Worker(3), 0);
  context_.RunStorage();
  EXPECT_EQ(GoodReplyTo<wire::Order>(AskOrder(3, 0)).kind(), wire::Order::STOP);
  EXPECT_EQ(GoodReplyTo<wire::Order>(AskOrder(0, 0)).from_step(), 3);
}

TEST_F(RestartTest, ServerThatFailsMeanwhileIsDroppedAfterwards) {
  options_.replicas = 2;
  TrainThreeSteps();
  Restart();
  AnswerRecover(Shard(1), 3);
  Tell(Shard(1), Method::kAbort,
       AbortMessage(StatusCode::kUnavailable, "its link broke").frames);
  AnswerRecover(Shard(0), 4);
  AnswerRecover(Worker(0), 3);
  EXPECT_THAT(AskedOf(Shard(0), Method::kRouteChange), IsEmpty())
      << "not before all have answered";
  AnswerRecover(Worker(1), 3);
  context_.Advance(1s);
  context_.RunStorage();
  EXPECT_FALSE(context_.stopped.has_value());
  EXPECT_EQ(CommittedOfRoute(Shard(0)), 4);
}

TEST_F(RestartTest, JobThatIsCalledOffLeavesNothing) {
  TrainThreeSteps();
  EXPECT_TRUE(context_.storage.ReadFile(options_.state_file).ok());
  coordinator_->Abort(CancelledError("enough"));
  context_.RunStorage();
  EXPECT_EQ(context_.stopped->message(), "enough");
  EXPECT_FALSE(context_.storage.ReadFile(options_.state_file).ok());
}

}  // namespace
}  // namespace shoal::ps
