#include "ps/member.h"

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "ps/protocol.pb.h"
#include "ps/ps_testing.h"
#include "ps/wire.h"

namespace shoal::ps {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// What a coordinator answers that lets worker 1 in.
wire::JoinReply LetIn() {
  wire::JoinReply reply;
  reply.set_index(1);
  reply.set_num_workers(3);
  reply.set_local_index(2);
  reply.set_virtual_begin(2);
  reply.set_virtual_end(4);
  reply.set_job_text("name: test");
  ModelSpec model;
  model.tables.push_back({.name = "embedding", .dim = 8});
  model.groups = {{0}};
  model.seed = 42;
  ToWire(model, *reply.mutable_model());
  ToWire(ClusterPlan{.mode = Mode::kBounded,
                     .dense = DensePlace::kWorkerParts,
                     .staleness = 3,
                     .virtual_workers = 6,
                     .timeout = 2s},
         *reply.mutable_plan());
  RouteTable route = {.version = 5,
                      .slot_bits = 11,
                      .shards = {{comm::EndpointId{9}, "fake:9", "server 0"}}};
  route.SetChains(std::vector<Chain>(2048, Chain{.members = {0}}));
  ToWire(route, *reply.mutable_route());
  return reply;
}

comm::Message MemberMessage(Method method, std::vector<Buffer> frames = {}) {
  comm::Message message;
  message.header.method = static_cast<uint16_t>(method);
  message.frames = std::move(frames);
  return message;
}

comm::Message AbortMessage(int code, const std::string& text) {
  wire::Abort abort;
  abort.set_code(code);
  abort.set_text(text);
  return MemberMessage(Method::kAbort, {Encode(abort)});
}

class MemberTest : public ::testing::Test {
 protected:
  void Start(Member::Options options = {.is_worker = true}) {
    options.coordinator = {
        .endpoint = kChief, .address = "fake:chief", .epoch = 3};
    member_.emplace(
        context_, caller_, options,
        [this](StatusOr<JoinResult> joined) {
          joined_.push_back(std::move(joined));
        },
        [this](const Status& why) { ended_.push_back(why); });
    member_->Start();
    EXPECT_THAT(joined_, IsEmpty());
  }
  void Answer(std::vector<Buffer> frames) {
    caller_.OnReply(kChief, comm::MakeReply(context_.sent.back().message,
                                            std::move(frames)));
  }
  void AnswerError(const Status& status) {
    caller_.OnReply(kChief,
                    comm::MakeErrorReply(context_.sent.back().message, status));
  }
  void Join() {
    Start();
    Answer({Encode(LetIn())});
    ASSERT_THAT(joined_, SizeIs(1));
    ASSERT_TRUE(joined_[0].ok()) << joined_[0].status();
    context_.sent.clear();
  }
  wire::Join SentJoin() {
    wire::Join join;
    EXPECT_EQ(context_.sent.back().to, kChief);
    EXPECT_EQ(context_.sent.back().message.header.method,
              static_cast<uint16_t>(Method::kJoin));
    EXPECT_TRUE(Decode(context_.sent.back().message, join).ok());
    return join;
  }

  static constexpr comm::EndpointId kChief{77};
  static constexpr comm::EndpointId kStranger{78};
  FakeContext context_{comm::EndpointId{50}};
  Caller caller_{context_};
  std::optional<Member> member_;
  std::vector<StatusOr<JoinResult>> joined_;
  std::vector<Status> ended_;
};

TEST_F(MemberTest, ShardAndWorkerSayWhoTheyAre) {
  Start({.server = 2, .shard = 3});
  wire::Join join = SentJoin();
  EXPECT_EQ(join.role(), wire::Join::SHARD);
  EXPECT_EQ(join.server(), 2);
  EXPECT_EQ(join.shard(), 3);
  EXPECT_EQ(join.address(), context_.address());
  EXPECT_GT(join.pid(), 0);
  ASSERT_THAT(context_.connected, SizeIs(1));
  EXPECT_EQ(context_.connected[0].address, "fake:chief");

  Start({.is_worker = true, .worker = 4});
  join = SentJoin();
  EXPECT_EQ(join.role(), wire::Join::WORKER);
  EXPECT_EQ(join.worker(), 4);

  Start({.is_worker = true});
  EXPECT_EQ(SentJoin().worker(), -1) << "any that is free";
}

TEST_F(MemberTest, JoinBringsWhatTheCoordinatorSays) {
  Start();
  Answer({Encode(LetIn()), Buffer::CopyOf("setup")});
  ASSERT_THAT(joined_, SizeIs(1));
  ASSERT_TRUE(joined_[0].ok()) << joined_[0].status();
  const JoinResult& joined = *joined_[0];
  EXPECT_EQ(joined.index, 1);
  EXPECT_EQ(joined.num_workers, 3);
  EXPECT_EQ(joined.local_index, 2);
  EXPECT_EQ(joined.virtual_begin, 2);
  EXPECT_EQ(joined.virtual_end, 4);
  EXPECT_EQ(joined.job_text, "name: test");
  EXPECT_EQ(joined.setup.text(), "setup");
  EXPECT_EQ(joined.model.tables.at(0).dim, 8);
  EXPECT_EQ(joined.model.seed, 42U);
  EXPECT_EQ(joined.plan.mode, Mode::kBounded);
  EXPECT_EQ(joined.plan.dense, DensePlace::kWorkerParts);
  EXPECT_EQ(joined.plan.staleness, 3);
  EXPECT_EQ(joined.plan.timeout, 2s);
  EXPECT_EQ(joined.route.version, 5U);
  EXPECT_EQ(joined.route.slot_bits, 11);
  EXPECT_EQ(joined.route.shards.at(0).endpoint, comm::EndpointId{9});
  EXPECT_EQ(joined.route.shards.at(0).address, "fake:9");
}

TEST_F(MemberTest, RefusalEndsTheJoinNamingTheCoordinator) {
  Start();
  AnswerError(FailedPreconditionError("worker 9 is one too many"));
  ASSERT_THAT(joined_, SizeIs(1));
  EXPECT_EQ(joined_[0].status().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(joined_[0].status().message(),
              AllOf(HasSubstr("fake:chief"), HasSubstr("one too many")));
  context_.Advance(60s);
  EXPECT_THAT(joined_, SizeIs(1));
  EXPECT_THAT(ended_, IsEmpty());
}

TEST_F(MemberTest, PlaceThatIsStillTakenIsAskedForAgain) {
  Start({.is_worker = true, .join_within = 5s});
  AnswerError(UnavailableError("worker 0 still counts as running"));
  EXPECT_THAT(joined_, IsEmpty());
  context_.Advance(1s);
  ASSERT_THAT(context_.sent, SizeIs(2));
  Answer({Encode(LetIn())});
  ASSERT_THAT(joined_, SizeIs(1));
  EXPECT_TRUE(joined_[0].ok());
}

TEST_F(MemberTest, NoAnswerEndsTheJoinInTimeNamingTheCoordinator) {
  Start({.is_worker = true, .join_within = 5s});
  context_.Advance(5s - 1ms);
  EXPECT_THAT(joined_, IsEmpty());
  context_.Advance(1ms);
  ASSERT_THAT(joined_, SizeIs(1));
  EXPECT_EQ(joined_[0].status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_THAT(joined_[0].status().message(), HasSubstr("fake:chief"));
  // A late answer lets nobody in.
  Answer({Encode(LetIn())});
  context_.Advance(60s);
  EXPECT_THAT(joined_, SizeIs(1));
  EXPECT_THAT(ended_, IsEmpty());
}

TEST_F(MemberTest, AnswerThatMakesNoSenseEndsTheJoin) {
  using Change = std::function<void(wire::JoinReply&)>;
  const std::vector<Change> changes = {
      [](wire::JoinReply& r) { r.mutable_plan()->set_mode(3); },
      [](wire::JoinReply& r) { r.mutable_plan()->set_mode(-1); },
      [](wire::JoinReply& r) { r.mutable_plan()->set_timeout_ns(0); },
      [](wire::JoinReply& r) { r.mutable_plan()->set_virtual_workers(0); },
      [](wire::JoinReply& r) { r.mutable_route()->clear_shards(); },
      [](wire::JoinReply& r) { r.mutable_route()->set_slot_bits(64); },
      [](wire::JoinReply& r) {
        r.mutable_model()->mutable_tables(0)->set_dim(-8);
      },
      [](wire::JoinReply& r) {
        r.mutable_model()->add_groups()->add_tables(0);
      },
      [](wire::JoinReply& r) {
        r.mutable_model()->add_groups()->add_tables(1);
      },
      [](wire::JoinReply& r) {
        r.mutable_model()->mutable_dense_optimizer()->add_numbers(1);
      }};
  std::vector<std::vector<Buffer>> answers = {{}, {Buffer::CopyOf("\xff")}};
  for (const Change& change : changes) {
    wire::JoinReply reply = LetIn();
    change(reply);
    answers.push_back({Encode(reply)});
  }
  for (size_t i = 0; i < answers.size(); ++i) {
    joined_.clear();
    Start();
    Answer(answers[i]);
    ASSERT_THAT(joined_, SizeIs(1)) << i;
    EXPECT_EQ(joined_[0].status().code(), StatusCode::kInvalidArgument) << i;
  }
  context_.Advance(600s);
  EXPECT_THAT(ended_, IsEmpty()) << "one that is not in watches nobody";
}

TEST_F(MemberTest, SignOfLifeIsAnswered) {
  Join();
  EXPECT_TRUE(member_->OnMessage(kChief, MemberMessage(Method::kAlive)));
  ASSERT_THAT(context_.sent, SizeIs(1));
  EXPECT_EQ(context_.sent[0].to, kChief);
  EXPECT_EQ(context_.sent[0].message.header.method,
            static_cast<uint16_t>(Method::kAlive));

  EXPECT_FALSE(member_->OnMessage(kStranger, MemberMessage(Method::kAlive)));
  EXPECT_FALSE(member_->OnMessage(kChief, MemberMessage(Method::kSave)));
  EXPECT_THAT(context_.sent, SizeIs(1));
}

TEST_F(MemberTest, SilentCoordinatorIsLostOnceAndNamed) {
  Join();  // with a timeout of 2 s
  for (int i = 0; i < 20; ++i) {
    context_.Advance(1900ms);
    ASSERT_THAT(ended_, IsEmpty());
    // Whatever it says shows that it lives.
    member_->OnMessage(
        kChief, MemberMessage(i % 2 == 0 ? Method::kAlive : Method::kSave));
  }
  for (int i = 0; i < 19; ++i) {
    context_.Advance(100ms);
    // Others do not speak for it.
    member_->OnMessage(kStranger, MemberMessage(Method::kAlive));
  }
  EXPECT_THAT(ended_, IsEmpty());
  context_.Advance(1s);
  ASSERT_THAT(ended_, SizeIs(1));
  EXPECT_EQ(ended_[0].code(), StatusCode::kUnavailable);
  EXPECT_THAT(ended_[0].message(), HasSubstr("fake:chief"));
  context_.Advance(60s);
  EXPECT_THAT(ended_, SizeIs(1));
}

TEST_F(MemberTest, AbortEndsWithItsReasonOnce) {
  Join();
  const int cancelled = static_cast<int>(StatusCode::kCancelled);
  EXPECT_FALSE(
      member_->OnMessage(kStranger, AbortMessage(cancelled, "made up")));
  EXPECT_THAT(ended_, IsEmpty());
  EXPECT_TRUE(
      member_->OnMessage(kChief, AbortMessage(cancelled, "worker 1 was lost")));
  ASSERT_THAT(ended_, SizeIs(1));
  EXPECT_EQ(ended_[0].code(), StatusCode::kCancelled);
  EXPECT_THAT(ended_[0].message(), HasSubstr("worker 1 was lost"));
  EXPECT_TRUE(member_->OnMessage(kChief, AbortMessage(cancelled, "again")));
  context_.Advance(60s);
  EXPECT_THAT(ended_, SizeIs(1));
}

TEST_F(MemberTest, AbortWhileJoiningEnds) {
  Start();
  member_->OnMessage(kChief,
                     AbortMessage(static_cast<int>(StatusCode::kCancelled),
                                  "server 1 is missing"));
  ASSERT_THAT(ended_, SizeIs(1));
  EXPECT_THAT(ended_[0].message(), HasSubstr("server 1 is missing"));
}

// A job that is called off has not gone well, whatever the number says: codes
// that this program does not know, that are none, and that a byte cuts to OK.
TEST_F(MemberTest, AbortIsNeverASuccess) {
  for (const int code : {0, 99, 256, -1}) {
    ended_.clear();
    joined_.clear();
    Join();
    member_->OnMessage(kChief, AbortMessage(code, "the disk is full"));
    ASSERT_THAT(ended_, SizeIs(1)) << code;
    EXPECT_EQ(ended_[0].code(), StatusCode::kInternal) << code;
    EXPECT_THAT(ended_[0].message(), HasSubstr("the disk is full")) << code;
  }
}

TEST_F(MemberTest, LostConnectionIsMadeAnewAndNotYetTheEnd) {
  Join();
  context_.connected.clear();
  member_->OnPeerDown(kStranger);
  EXPECT_THAT(context_.connected, IsEmpty());
  EXPECT_THAT(context_.sent, IsEmpty());
  member_->OnPeerDown(kChief);
  member_->OnPeerDown(kChief);
  context_.Advance(100ms);
  ASSERT_THAT(context_.connected, SizeIs(1)) << "one that is not there is not "
                                                "called without a pause";
  EXPECT_EQ(context_.connected[0].peer, kChief);
  EXPECT_EQ(context_.connected[0].address, "fake:chief");
  ASSERT_THAT(context_.sent, SizeIs(1)) << "it must hear who is back";
  EXPECT_EQ(context_.sent[0].message.header.method,
            static_cast<uint16_t>(Method::kAlive));
  EXPECT_THAT(ended_, IsEmpty());
}

comm::Message RecoverMessage(uint64_t epoch, const std::string& address) {
  wire::Recover recover;
  recover.set_epoch(epoch);
  recover.set_address(address);
  comm::Message message = MemberMessage(Method::kRecover, {Encode(recover)});
  message.header.kind = comm::MessageKind::kRequest;
  return message;
}

// Two coordinators can't both lead it: an earlier one is never heard again.
TEST_F(MemberTest, LaterCoordinatorIsFollowedAndAnEarlierOneIsNot) {
  Start({.find_coordinator = [] { return UnavailableError("nobody leads"); },
         .is_worker = true});
  Answer({Encode(LetIn())});
  for (const uint64_t epoch : {0, 2, 3}) {
    EXPECT_FALSE(
        member_->OnMessage(kStranger, RecoverMessage(epoch, "fake:s")));
    EXPECT_EQ(member_->coordinator(), kChief);
  }
  int answers = 0;
  caller_.Start(kChief, comm::Lane::kUrgent,
                static_cast<uint16_t>(Method::kAskOrder), "an order", 60s,
                {Buffer::CopyOf("ask")},
                [&answers](const StatusOr<comm::Message>& reply) {
                  answers += reply.ok() ? 1 : 100;
                });
  const comm::Message to_chief = context_.sent.back().message;
  constexpr comm::EndpointId kNext{80};
  EXPECT_FALSE(member_->OnMessage(kStranger, RecoverMessage(9, "")));
  EXPECT_EQ(member_->coordinator(), kChief) << "it is nowhere";
  EXPECT_FALSE(member_->OnMessage(kNext, RecoverMessage(4, "fake:next")));
  EXPECT_EQ(member_->coordinator(), kNext);
  EXPECT_THAT(context_.disconnected, testing::Contains(kChief));
  EXPECT_EQ(context_.connected.back().address, "fake:next");
  // What waits for an answer is asked of the later one, and the earlier one's
  // comes too late.
  const comm::Message to_next = context_.sent.back().message;
  EXPECT_EQ(context_.sent.back().to, kNext);
  EXPECT_EQ(to_next.frames.at(0).text(), "ask");
  caller_.OnReply(kChief, comm::MakeReply(to_chief, {}));
  EXPECT_EQ(answers, 0);
  caller_.OnReply(kNext, comm::MakeReply(to_next, {}));
  EXPECT_EQ(answers, 1);

  EXPECT_FALSE(member_->OnMessage(kChief, MemberMessage(Method::kAlive)));
  EXPECT_FALSE(member_->OnMessage(kChief, RecoverMessage(4, "fake:chief")));
  member_->OnMessage(
      kChief, AbortMessage(static_cast<int>(StatusCode::kCancelled), "late"));
  EXPECT_THAT(ended_, IsEmpty());
  EXPECT_EQ(member_->coordinator(), kNext);
  context_.sent.clear();
  EXPECT_TRUE(member_->OnMessage(kNext, MemberMessage(Method::kAlive)));
  EXPECT_EQ(context_.sent.back().to, kNext);
}

TEST_F(MemberTest, NobodyIsFollowedWhereTheCoordinatorIsNeverElsewhere) {
  Join();
  EXPECT_FALSE(member_->OnMessage(kStranger, RecoverMessage(9, "fake:s")));
  EXPECT_EQ(member_->coordinator(), kChief);
}

TEST_F(MemberTest, LostCoordinatorIsLookedForWhileItIsNotThere) {
  StatusOr<CoordinatorPlace> place = UnavailableError("nobody leads");
  int looks = 0;
  Start({.find_coordinator =
             [&] {
               ++looks;
               return place;
             },
         .is_worker = true});
  // One that wants to join looks too: nobody knows of it.
  context_.RunStorage();
  EXPECT_EQ(looks, 1);
  Answer({Encode(LetIn())});
  context_.Advance(500ms);
  context_.RunStorage();
  EXPECT_EQ(looks, 1) << "it hears from it";
  member_->OnPeerDown(kChief);
  for (int i = 0; i < 8; ++i) {
    context_.Advance(40ms);
    member_->OnPeerDown(kChief);
    context_.RunStorage();
  }
  EXPECT_GT(looks, 1);
  place = CoordinatorPlace{kChief, "fake:chief", 3};
  context_.Advance(300ms);
  member_->OnPeerDown(kChief);
  context_.RunStorage();
  EXPECT_EQ(member_->coordinator(), kChief) << "the one that it has";
  place = CoordinatorPlace{comm::EndpointId{80}, "fake:next", 4};
  for (int i = 0; i < 10; ++i) {
    context_.Advance(40ms);
    member_->OnPeerDown(kChief);
    context_.RunStorage();
  }
  EXPECT_EQ(member_->coordinator(), comm::EndpointId{80});
  EXPECT_THAT(ended_, IsEmpty());
}

TEST_F(MemberTest, DestroyedMemberLeavesNoTimer) {
  Join();
  EXPECT_GT(context_.num_timers(), 0);
  member_.reset();
  EXPECT_EQ(context_.num_timers(), 0);
}

}  // namespace
}  // namespace shoal::ps
