#include "ps/caller.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "ps/ps_testing.h"

namespace shoal::ps {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class CallerTest : public ::testing::Test {
 protected:
  CallerTest() {
    caller_.emplace(context_);
    caller_->AddPeer(kPeer, "fake:peer", "server 1 shard 0");
    caller_->AddPeer(kOther, "fake:other", "server 2 shard 0");
  }

  void Start(comm::EndpointId peer = kPeer, Duration deadline = 10s) {
    const size_t results = results_.size();
    caller_->Start(peer, comm::Lane::kBulk, 17, "rows of step 3", deadline,
                   {Buffer::CopyOf("question")},
                   [this](StatusOr<comm::Message> result) {
                     results_.push_back(std::move(result));
                   });
    EXPECT_THAT(results_, SizeIs(results)) << "`done` ran inside Start()";
  }
  comm::Message Request(size_t index) const {
    return context_.sent.at(index).message;
  }
  void Reply(size_t index, const std::string& text,
             comm::EndpointId from = kPeer) {
    caller_->OnReply(from,
                     comm::MakeReply(Request(index), {Buffer::CopyOf(text)}));
  }
  void ReplyError(size_t index, const Status& status) {
    caller_->OnReply(kPeer, comm::MakeErrorReply(Request(index), status));
  }

  static constexpr comm::EndpointId kPeer{100};
  static constexpr comm::EndpointId kOther{101};
  FakeContext context_{comm::EndpointId{7}};
  std::optional<Caller> caller_;
  std::vector<StatusOr<comm::Message>> results_;
};

TEST_F(CallerTest, ReplyEndsTheCallOnce) {
  Start();
  ASSERT_THAT(context_.sent, SizeIs(1));
  EXPECT_EQ(context_.sent[0].to, kPeer);
  EXPECT_EQ(context_.sent[0].lane, comm::Lane::kBulk);
  EXPECT_EQ(Request(0).header.method, 17);
  EXPECT_EQ(Request(0).header.kind, comm::MessageKind::kRequest);
  EXPECT_EQ(Request(0).frames.at(0).text(), "question");
  ASSERT_THAT(context_.connected, SizeIs(1));
  EXPECT_EQ(context_.connected[0].address, "fake:peer");
  EXPECT_EQ(caller_->num_pending(), 1);

  Reply(0, "answer");
  Reply(0, "again");
  caller_->OnPeerDown(kPeer, UnavailableError("connection reset"));
  context_.Advance(60s);
  ASSERT_THAT(results_, SizeIs(1));
  ASSERT_TRUE(results_[0].ok()) << results_[0].status();
  EXPECT_EQ(results_[0]->frames.at(0).text(), "answer");
  EXPECT_EQ(caller_->num_pending(), 0);
  EXPECT_EQ(context_.num_timers(), 0);
  EXPECT_THAT(context_.sent, SizeIs(1));
}

TEST_F(CallerTest, LostConnectionSendsTheSameCallAgain) {
  Start();
  caller_->OnPeerDown(kPeer, UnavailableError("connection reset"));
  EXPECT_THAT(context_.sent, SizeIs(1)) << "again only after a pause";
  context_.Advance(1s);
  ASSERT_THAT(context_.sent, SizeIs(2));
  EXPECT_THAT(context_.connected, SizeIs(2)) << "on a new connection";
  EXPECT_EQ(Request(1).header.method, 17);
  EXPECT_EQ(Request(1).frames.at(0).text(), "question");
  EXPECT_NE(Request(1).header.request, Request(0).header.request);

  // What the first try brings is late: only one of the two may count.
  Reply(0, "late");
  EXPECT_THAT(results_, IsEmpty());
  Reply(1, "answer");
  Reply(1, "repeated");
  Reply(0, "late");
  ASSERT_THAT(results_, SizeIs(1));
  ASSERT_TRUE(results_[0].ok());
  EXPECT_EQ(results_[0]->frames.at(0).text(), "answer");
}

TEST_F(CallerTest, WhatIsNoAddressIsNotTriedAgain) {
  context_.refuse_connects = InvalidArgumentError("'nonsense' is no address");
  Start();
  EXPECT_THAT(results_, IsEmpty()) << "never inside Start()";
  context_.Advance(1ms);
  ASSERT_THAT(results_, SizeIs(1));
  EXPECT_THAT(results_[0].status().message(), HasSubstr("is no address"));
  EXPECT_THAT(context_.sent, IsEmpty());
  EXPECT_EQ(context_.num_timers(), 0);
}

TEST_F(CallerTest, LostConnectionConcernsOnlyItsPeer) {
  Start(kPeer);
  Start(kOther);
  caller_->OnPeerDown(kOther, UnavailableError("connection reset"));
  context_.Advance(1s);
  ASSERT_THAT(context_.sent, SizeIs(3));
  EXPECT_EQ(context_.sent[2].to, kOther);
  Reply(1, "of the lost connection", kOther);
  EXPECT_THAT(results_, IsEmpty());
  Reply(0, "answer");
  EXPECT_THAT(results_, SizeIs(1));
}

TEST_F(CallerTest, ReplyFromAnotherPeerIsIgnored) {
  Start();
  Reply(0, "made up", kOther);
  EXPECT_THAT(results_, IsEmpty());
  EXPECT_EQ(caller_->num_pending(), 1);
}

TEST_F(CallerTest, RefusedSendsAreTriedAgainAfterPausesThatDouble) {
  for (const Status& refusal : {ResourceExhaustedError("the queue is full"),
                                UnavailableError("no such peer")}) {
    context_.refuse_sends = refusal;
    context_.refused.clear();
    context_.sent.clear();
    results_.clear();
    Start();
    context_.Advance(5s);
    EXPECT_THAT(results_, IsEmpty());
    const std::vector<Time>& tries = context_.refused;
    ASSERT_GE(tries.size(), 8U);
    Duration pause = tries[1] - tries[0];
    EXPECT_GT(pause, 0ns);
    EXPECT_EQ(tries[2] - tries[1], pause * 2);
    bool at_most = false;  // They stop growing somewhere.
    for (size_t i = 2; i < tries.size(); ++i) {
      const Duration next = tries[i] - tries[i - 1];
      if (next != pause * 2) {
        EXPECT_TRUE(at_most || next < pause * 2) << "try " << i;
        EXPECT_GE(next, pause) << "try " << i;
        at_most = true;
      }
      pause = next;
    }
    EXPECT_LT(pause, 2s);

    context_.refuse_sends = OkStatus();
    context_.Advance(2s);
    ASSERT_THAT(context_.sent, SizeIs(1));
    EXPECT_EQ(Request(0).frames.at(0).text(), "question");
    Reply(0, "answer");
    ASSERT_THAT(results_, SizeIs(1));
    EXPECT_TRUE(results_[0].ok());
  }
}

TEST_F(CallerTest, BusyPeerIsAskedAgainAndItsOtherErrorsAreFinal) {
  Start();
  ReplyError(0, UnavailableError("has not joined the job yet"));
  context_.Advance(1s);
  ASSERT_THAT(context_.sent, SizeIs(2));
  ReplyError(1, ResourceExhaustedError("no room"));
  context_.Advance(1s);
  ASSERT_THAT(context_.sent, SizeIs(3));
  EXPECT_THAT(results_, IsEmpty());
  ReplyError(2, AbortedError("the slot has moved"));
  ASSERT_THAT(results_, SizeIs(1));
  EXPECT_EQ(results_[0].status().code(), StatusCode::kAborted);
  EXPECT_THAT(results_[0].status().message(),
              AllOf(HasSubstr("server 1 shard 0"), HasSubstr("has moved")));

  for (const StatusCode code :
       {StatusCode::kInvalidArgument, StatusCode::kFailedPrecondition,
        StatusCode::kNotFound, StatusCode::kDeadlineExceeded,
        StatusCode::kInternal, StatusCode::kDataLoss}) {
    results_.clear();
    context_.sent.clear();
    Start();
    ReplyError(0, Status(code, "no"));
    ASSERT_THAT(results_, SizeIs(1)) << StatusCodeName(code);
    EXPECT_EQ(results_[0].status().code(), code);
    context_.Advance(20s);
    EXPECT_THAT(context_.sent, SizeIs(1)) << StatusCodeName(code);
  }
}

TEST_F(CallerTest, SilentPeerEndsTheCallAtItsDeadlineNamed) {
  Start(kPeer, 3s);
  context_.Advance(3s - 1ms);
  EXPECT_THAT(results_, IsEmpty());
  context_.Advance(1ms);
  ASSERT_THAT(results_, SizeIs(1));
  EXPECT_EQ(results_[0].status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_THAT(
      results_[0].status().message(),
      AllOf(HasSubstr("server 1 shard 0"), HasSubstr("rows of step 3")));
  Reply(0, "late");
  context_.Advance(60s);
  EXPECT_THAT(results_, SizeIs(1));
  EXPECT_THAT(context_.sent, SizeIs(1));
}

TEST_F(CallerTest, DeadlineCountsFromTheFirstTry) {
  Start(kPeer, 3s);
  context_.Advance(2s);
  caller_->OnPeerDown(kPeer, UnavailableError("connection reset"));
  context_.Advance(500ms);
  ASSERT_THAT(context_.sent, SizeIs(2));
  EXPECT_THAT(results_, IsEmpty());
  context_.Advance(500ms);
  ASSERT_THAT(results_, SizeIs(1));
  EXPECT_EQ(results_[0].status().code(), StatusCode::kDeadlineExceeded);
}

TEST_F(CallerTest, DeadlineOfAPeerThatStaysDownNamesTheLastFailure) {
  const Time begin = context_.Now();
  Start(kPeer, 2s);
  for (int i = 0; i < 100 && results_.empty(); ++i) {
    caller_->OnPeerDown(kPeer, UnavailableError("connection refused"));
    context_.Advance(50ms);
  }
  ASSERT_THAT(results_, SizeIs(1));
  EXPECT_LE(context_.Now() - begin, 2s + 50ms);
  EXPECT_GT(context_.sent.size(), 3U);
  EXPECT_EQ(results_[0].status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_THAT(results_[0].status().message(),
              AllOf(HasSubstr("server 1 shard 0"), HasSubstr("rows of step 3"),
                    HasSubstr("connection refused")));
  const size_t sends = context_.sent.size();
  context_.Advance(60s);
  EXPECT_THAT(context_.sent, SizeIs(sends));
  EXPECT_THAT(results_, SizeIs(1));
}

TEST_F(CallerTest, UnknownPeerIsNamedByItsEndpoint) {
  context_.refuse_sends = UnavailableError("no such peer");
  Start(comm::EndpointId{0xabc}, 1s);
  context_.Advance(1s);
  ASSERT_THAT(results_, SizeIs(1));
  EXPECT_EQ(results_[0].status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_THAT(results_[0].status().message(), HasSubstr("endpoint-abc"));
}

TEST_F(CallerTest, DoneMayStartTheNextCall) {
  caller_->Start(kPeer, comm::Lane::kBulk, 17, "rows of step 3", 1s, {},
                 [this](const StatusOr<comm::Message>&) { Start(); });
  context_.Advance(1s);
  ASSERT_THAT(context_.sent, SizeIs(2));
  EXPECT_EQ(caller_->num_pending(), 1);
  Reply(1, "answer");
  EXPECT_THAT(results_, SizeIs(1));
}

TEST_F(CallerTest, DestroyedCallerLeavesNothingBehind) {
  Start(kPeer);
  Start(kOther);
  caller_->OnPeerDown(kPeer, UnavailableError("connection reset"));
  caller_.reset();
  EXPECT_EQ(context_.num_timers(), 0);
  context_.Advance(60s);
  EXPECT_THAT(results_, IsEmpty());
  EXPECT_THAT(context_.sent, SizeIs(2));
}

}  // namespace
}  // namespace shoal::ps
