#include "ps/staleness.h"

#include "gtest/gtest.h"

#include "ps/protocol.pb.h"

namespace shoal::ps {
namespace {

Portion Slots(std::vector<bool> slots) {
  Portion portion{.slots = std::move(slots)};
  for (const bool slot : portion.slots) {
    portion.num_slots += slot ? 1 : 0;
  }
  return portion;
}

// Three workers, whose clients are 100, 101 and 102, and two slots.
class WorkerClocksTest : public ::testing::Test {
 protected:
  WorkerClocksTest() { clocks_.Begin(0, 3); }

  // Worker's next push arrives in the slots that `in` names.
  void Push(uint64_t client, int64_t step,
            std::vector<bool> in = {true, true}) {
    std::vector<uint64_t>& last = sequences_[client];
    last.resize(2);
    const uint64_t sequence = ++pushed_[client];
    for (size_t slot = 0; slot < 2; ++slot) {
      last[slot] = in[slot] ? sequence : last[slot];
    }
    clocks_.OnPush(client, sequence, step);
  }
  int64_t Staleness(int64_t step, std::vector<bool> of = {true, true}) {
    return clocks_.Staleness(step, sequences_, Slots(std::move(of)));
  }

  WorkerClocks clocks_;
  WorkerClocks::Sequences sequences_;
  std::unordered_map<uint64_t, uint64_t> pushed_;
};

TEST_F(WorkerClocksTest, CountsClocksOfTheWorkerThatIsMissedMost) {
  EXPECT_EQ(Staleness(0), 0);
  EXPECT_EQ(Staleness(2), 0);  // All of clock 0.
  EXPECT_EQ(Staleness(3), 1);  // Clock 1, and nothing of clock 0 is there.
  Push(100, 0);
  Push(101, 1);
  EXPECT_EQ(Staleness(3), 1);  // Step 2 is missing.
  Push(102, 2);
  EXPECT_EQ(Staleness(3), 0);
  // The others run ahead: it is of no matter how far.
  for (int64_t step = 3; step < 15; step += 3) {
    Push(100, step);
    Push(101, step + 1);
  }
  EXPECT_EQ(Staleness(15), 4);
  EXPECT_EQ(Staleness(5), 0);
  EXPECT_EQ(Staleness(3), 0);
}

TEST_F(WorkerClocksTest, AWorkerInPlaceOfALostOneGoesOnWithItsClock) {
  for (int64_t step = 0; step < 6; ++step) {
    Push(100 + static_cast<uint64_t>(step % 3), step);
  }
  EXPECT_EQ(Staleness(6), 0);
  EXPECT_EQ(Staleness(9), 1);
  Push(100, 6);
  Push(101, 7);
  Push(202, 8);  // Another client of the third worker; its first push.
  EXPECT_EQ(Staleness(9), 0);
}

TEST_F(WorkerClocksTest, CountsOnlyTheSlotsThatAreMeant) {
  Push(100, 0);
  Push(101, 1);
  Push(102, 2, {true, false});
  EXPECT_EQ(Staleness(3, {true, false}), 0);
  clocks_.Invalidate();
  EXPECT_EQ(Staleness(3), 1);
}

TEST_F(WorkerClocksTest, BeginsWhereAJobGoesOn) {
  clocks_.Begin(20, 3);  // Workers 0 and 1 have done 7 steps, worker 2 six.
  EXPECT_EQ(Staleness(20), 0);
  EXPECT_EQ(Staleness(21), 1);
  Push(102, 20);
  EXPECT_EQ(Staleness(21), 0);
  Push(100, 21);
  EXPECT_EQ(Staleness(24), 1);
}

TEST_F(WorkerClocksTest, LearnsFromAnotherShard) {
  Push(100, 0);
  Push(101, 1);
  Push(102, 2);
  WorkerClocks other;
  other.Begin(0, 3);
  const auto all = Slots({true, true});
  EXPECT_EQ(other.Staleness(3, sequences_, all), 1);
  for (const uint64_t client : {100, 101, 102}) {
    ASSERT_TRUE(clocks_.OriginOf(client).has_value());
    other.OnSlots(client, *clocks_.OriginOf(client));
  }
  EXPECT_EQ(other.Staleness(3, sequences_, all), 0);
  EXPECT_FALSE(clocks_.OriginOf(7).has_value());
}

TEST_F(WorkerClocksTest, NumbersOfPeersDoNoHarm) {
  clocks_.OnPush(100, 5, -7);
  clocks_.OnSlots(101, {.worker = 3, .offset = 0});
  clocks_.OnSlots(102, {.worker = -1, .offset = 0});
  EXPECT_EQ(Staleness(0), 0);
  EXPECT_EQ(Staleness(-1), 0);
}

TEST(HistogramWireTest, IsReadAsItWasWrittenOrRefused) {
  Histogram histogram;
  histogram.Add(2);
  histogram.Add(77);
  wire::Histogram message;
  ToWire(histogram, message);
  const StatusOr<Histogram> read = FromWire(message);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->ToString(), histogram.ToString());
  message.add_buckets(1);
  EXPECT_EQ(FromWire(message).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal::ps
