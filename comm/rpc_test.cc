#include "comm/rpc.h"

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "comm/sim.h"

namespace shoal::comm {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Answers as `answer` says; without it, never.
class AnsweringNode : public Node {
 public:
  using Answer = std::function<Message(const Message&)>;
  explicit AnsweringNode(Answer answer) : answer_(std::move(answer)) {}
  void OnStart(NodeContext& context) override { context_ = &context; }
  void OnMessage(EndpointId from, Message message) override {
    if (answer_) {
      (void)context_->Send(from, Lane::kUrgent, answer_(message));
    }
  }
  void OnPeerDown(EndpointId, const Status&) override {}
  void OnSendable(EndpointId) override {}

 private:
  Answer answer_;
  NodeContext* context_ = nullptr;
};

// Makes one call and keeps every result that it gets.
class CallingNode : public Node {
 public:
  CallingNode(EndpointId peer, std::string address)
      : peer_(peer), address_(std::move(address)) {}
  void OnStart(NodeContext& context) override {
    rpc_ = std::make_unique<RpcClient>(context);
    (void)context.Connect(peer_, address_);
    rpc_->Start({.peer = peer_,
                 .peer_name = "server 1 shard 0",
                 .what = "rows of step 17",
                 .deadline = 2s},
                {Buffer::CopyOf("question")}, [this](StatusOr<Message> result) {
                  results.push_back(std::move(result));
                });
    EXPECT_TRUE(results.empty());  // Never inside Start().
  }
  void OnMessage(EndpointId from, Message message) override {
    rpc_->OnReply(from, std::move(message));
  }
  void OnPeerDown(EndpointId peer, const Status& why) override {
    rpc_->OnPeerDown(peer, why);
  }
  void OnSendable(EndpointId) override {}

  std::vector<StatusOr<Message>> results;

 private:
  EndpointId peer_;
  std::string address_;
  std::unique_ptr<RpcClient> rpc_;
};

class RpcTest : public ::testing::Test {
 protected:
  CallingNode& Run(AnsweringNode::Answer answer, bool crash = false) {
    world_.AddNode("server", [&] {
      return std::make_unique<AnsweringNode>(std::move(answer));
    });
    world_.AddNode("caller", [&] {
      return std::make_unique<CallingNode>(world_.id("server"),
                                           world_.address("server"));
    });
    if (crash) {
      world_.At(world_.Now() + 100ms, [this] { world_.CrashNode("server"); });
    }
    world_.RunFor(10s);
    return static_cast<CallingNode&>(*world_.node("caller"));
  }
  SimWorld world_{1};
};

TEST_F(RpcTest, ReplyBringsItsFrames) {
  CallingNode& caller = Run([](const Message& request) {
    return MakeReply(request, {request.frames[0], Buffer::CopyOf("answer")});
  });
  ASSERT_EQ(caller.results.size(), 1U);
  ASSERT_TRUE(caller.results[0].ok());
  EXPECT_EQ(caller.results[0]->frames[0].text(), "question");
  EXPECT_EQ(caller.results[0]->frames[1].text(), "answer");
}

TEST_F(RpcTest, ErrorOfThePeerComesWithItsCodeAndName) {
  CallingNode& caller = Run([](const Message& request) {
    return MakeErrorReply(request, AbortedError("the slot has moved"));
  });
  ASSERT_EQ(caller.results.size(), 1U);
  EXPECT_EQ(caller.results[0].status().code(), StatusCode::kAborted);
  EXPECT_THAT(
      caller.results[0].status().message(),
      AllOf(HasSubstr("server 1 shard 0"), HasSubstr("the slot has moved")));
}

TEST_F(RpcTest, DeadlineNamesThePeerAndWhatWasWaitedFor) {
  CallingNode& caller = Run(nullptr);
  ASSERT_EQ(caller.results.size(), 1U);
  EXPECT_EQ(caller.results[0].status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_THAT(
      caller.results[0].status().message(),
      AllOf(HasSubstr("server 1 shard 0"), HasSubstr("rows of step 17")));
}

TEST_F(RpcTest, LostPeerEndsTheCallOnce) {
  CallingNode& caller = Run(nullptr, /*crash=*/true);
  ASSERT_EQ(caller.results.size(), 1U);
  EXPECT_EQ(caller.results[0].status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(caller.results[0].status().message(),
              HasSubstr("server 1 shard 0"));
}

}  // namespace
}  // namespace shoal::comm
