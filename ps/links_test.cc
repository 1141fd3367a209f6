#include "ps/links.h"

#include <memory>
#include <optional>
#include <vector>

#include "gtest/gtest.h"

#include "comm/rpc.h"
#include "ps/caller.h"
#include "ps/ps_testing.h"

namespace shoal::ps {
namespace {

constexpr comm::EndpointId kSelf{10};
constexpr comm::EndpointId kOther{11};
constexpr comm::EndpointId kStranger{12};

RouteTable RouteOf(uint64_t version) {
  RouteTable route = {.version = version,
                      .slot_bits = 1,
                      .shards = {{kSelf, "fake:self", "server 0 shard 0"},
                                 {kOther, "fake:other", "server 1 shard 0"}}};
  route.SetChains({{.members = {0, 1}}, {.members = {1, 0}}});
  return route;
}

class LinksTest : public ::testing::Test {
 protected:
  LinksTest() { links_.Adopt(RouteOf(3)); }

  std::optional<Links::Ticket> Take(uint64_t number, uint64_t version = 3,
                                    comm::EndpointId from = kOther) {
    comm::Message message;
    message.header.request = ++request_;
    message.header.kind = comm::MessageKind::kRequest;
    message.frames = {Buffer::CopyOf("head")};
    return links_.Take(from, message, version, number);
  }
  // The answers to the last request that was taken: their status.
  std::vector<int> Answers(uint64_t request) const {
    std::vector<int> answers;
    for (const auto& sent : context_.sent) {
      if (sent.message.header.kind == comm::MessageKind::kReply &&
          sent.message.header.request == request) {
        answers.push_back(sent.message.header.status);
      }
    }
    return answers;
  }

  FakeContext context_{kSelf};
  Caller caller_{context_};
  Status failed_;
  Links links_{context_, caller_, 10s,
               [this](const Status& why) { failed_ = why; }};
  uint64_t request_ = 0;
};

TEST_F(LinksTest, EachMessageIsTakenOnceAndInOrder) {
  const auto unavailable = static_cast<int>(StatusCode::kUnavailable);
  EXPECT_FALSE(Take(2).has_value()) << "the first has not come";
  EXPECT_EQ(Answers(request_), std::vector<int>{unavailable});
  const auto first = Take(1);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->shard, 1);
  const uint64_t asked = request_;
  EXPECT_TRUE(Take(2).has_value()) << "whether the first is answered or not";
  EXPECT_FALSE(Take(1).has_value()) << "it is being handled";
  EXPECT_TRUE(Answers(request_).empty());
  links_.Answer(*first);
  EXPECT_TRUE(Answers(asked).empty()) << "its sender has given it up";
  EXPECT_EQ(Answers(request_), std::vector<int>{0});
  EXPECT_FALSE(Take(1).has_value()) << "the answer was lost";
  EXPECT_EQ(Answers(request_), std::vector<int>{0});
  EXPECT_FALSE(Take(4).has_value());
  EXPECT_EQ(Answers(request_), std::vector<int>{unavailable});
  EXPECT_TRUE(Take(3).has_value());
}

TEST_F(LinksTest, OtherVersionsAndStrangersAreRefused) {
  for (const uint64_t version : {2U, 4U}) {
    EXPECT_FALSE(Take(1, version).has_value());
    EXPECT_EQ(Answers(request_),
              std::vector<int>{static_cast<int>(StatusCode::kUnavailable)});
  }
  EXPECT_FALSE(Take(1, 3, kStranger).has_value());
  EXPECT_EQ(
      Answers(request_),
      std::vector<int>{static_cast<int>(StatusCode::kFailedPrecondition)});
  EXPECT_TRUE(Take(1).has_value());
  // Under a new route it all begins again.
  links_.Adopt(RouteOf(4));
  EXPECT_FALSE(Take(2, 3).has_value());
  EXPECT_TRUE(Take(1, 4).has_value());
}

TEST_F(LinksTest, WhatIsUnderWayIsForgottenUnderANewRoute) {
  int done = 0;
  EXPECT_EQ(links_.NextNumber(1), 1U);
  links_.Send(1, Method::kPrepare, "a part", {Buffer::CopyOf("1")},
              [&] { ++done; });
  EXPECT_EQ(links_.NextNumber(1), 2U);
  const comm::Message sent = context_.sent.back().message;
  links_.Adopt(RouteOf(4));
  EXPECT_EQ(links_.NextNumber(1), 1U);
  caller_.OnReply(kOther, comm::MakeReply(sent, {}));
  EXPECT_EQ(done, 0) << "an answer to what nobody asks any more";
  links_.Send(1, Method::kPrepare, "a part", {Buffer::CopyOf("1")},
              [&] { ++done; });
  caller_.OnReply(kOther, comm::MakeReply(context_.sent.back().message, {}));
  EXPECT_EQ(done, 1);
  EXPECT_TRUE(failed_.ok());
}

TEST_F(LinksTest, WhoDoesNotAnswerIsNamed) {
  context_.refuse_sends = UnavailableError("no such peer");
  links_.Send(1, Method::kPrepare, "a part", {Buffer::CopyOf("1")}, [] {});
  context_.Advance(9s);
  EXPECT_TRUE(failed_.ok());
  context_.Advance(2s);
  EXPECT_EQ(failed_.code(), StatusCode::kDeadlineExceeded);
  EXPECT_NE(failed_.message().find("server 1 shard 0"), std::string::npos);
}

}  // namespace
}  // namespace shoal::ps
