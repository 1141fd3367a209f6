#include "ps/pace.h"

#include "gtest/gtest.h"

#include "ps/ps_testing.h"

namespace shoal::ps {
namespace {

// Pieces that are sent as fast as the pace lets them go.
struct Sender {
  explicit Sender(FakeContext& context)
      : pace(context, [this] { Send(); }), to_send(0) {}
  void Send() {
    while (to_send > 0 && pace.MaySend()) {
      pace.Sent(1000);
      --to_send;
      ++sent;
    }
  }
  Pace pace;
  int to_send;
  int sent = 0;
};

TEST(PaceTest, WhatIsSentTakesItsTime) {
  FakeContext context(comm::EndpointId{1});
  context.Advance(10s);
  Sender sender(context);
  sender.pace.SetBytesPerSecond(100'000);  // A piece takes 10 ms.
  sender.to_send = 1000;
  sender.Send();
  EXPECT_EQ(sender.sent, 6);  // 50 ms made up for, and one.
  context.Advance(1s);
  EXPECT_NEAR(sender.sent, 106, 1);
  EXPECT_EQ(context.num_timers(), 1);
  context.Advance(2s);
  EXPECT_NEAR(sender.sent, 306, 1);
}

TEST(PaceTest, OfTimeThatPassedOnlyALittleIsMadeUpFor) {
  FakeContext context(comm::EndpointId{1});
  context.Advance(10s);
  Sender sender(context);
  sender.pace.SetBytesPerSecond(100'000);
  sender.to_send = 6;
  sender.Send();
  context.Advance(60s);
  sender.to_send = 1000;
  sender.Send();
  EXPECT_EQ(sender.sent, 12);
}

TEST(PaceTest, WithoutABoundAllGoesAtOnce) {
  FakeContext context(comm::EndpointId{1});
  Sender sender(context);
  sender.to_send = 1000;
  sender.Send();
  EXPECT_EQ(sender.sent, 1000);
  EXPECT_EQ(context.num_timers(), 0);
}

}  // namespace
}  // namespace shoal::ps
