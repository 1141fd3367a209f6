#include "ps/slot_states.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

#include "ps/checkpoint_testing.h"

namespace shoal::ps {
namespace {

// All that a shard's tables and chunks hold, in bytes.
std::string ContentsOf(const CheckpointShard& shard) {
  const Portion all =
      DenseLayout(shard.model).PortionOf(10, false, [&](int64_t slot) {
        return shard.slots[static_cast<size_t>(slot)];
      });
  std::string contents;
  Portion held = all;
  held.chunks.assign(shard.dense->chunks().begin(),
                     shard.dense->chunks().end());
  for (const Buffer& frame : CopySlots(shard.tables, *shard.dense, held)) {
    contents += frame.text();
    contents += '|';
  }
  return contents;
}

class SlotStatesTest : public ::testing::Test {
 protected:
  // A third of the slots of one that has trained.
  void SetUp() override {
    for (uint64_t t = 1; t < 6; ++t) {
      from_.Train(t);
    }
    portion_ = DenseLayout(model_).PortionOf(
        10, false, [](int64_t slot) { return slot % 3 == 1; });
    message_.frames = {Buffer::CopyOf("head")};
    for (Buffer& frame : CopySlots(from_.tables, *from_.dense, portion_)) {
      message_.frames.push_back(std::move(frame));
    }
  }
  Status Take(CheckpointShard& to, const comm::Message& message) const {
    return TakeSlots(message, portion_, 10, to.tables, *to.dense);
  }

  const ModelSpec model_ = CheckpointModel("adam");
  CheckpointShard from_{model_, 0, 1};
  Portion portion_;
  comm::Message message_;
};

TEST_F(SlotStatesTest, WhatIsTakenHasTheBitsOfWhatWasCopied) {
  ASSERT_FALSE(portion_.chunks.empty());
  ASSERT_GT(message_.frames[1].size(), 100) << "too few rows to mean anything";
  // One that has other rows of the same slots, and of others.
  CheckpointShard to(model_, 0, 1);
  to.Train(3);
  to.Train(50);
  ASSERT_TRUE(Take(to, message_).ok());
  const std::vector<Buffer> taken = CopySlots(to.tables, *to.dense, portion_);
  for (size_t f = 0; f < taken.size(); ++f) {
    EXPECT_EQ(taken[f].text(), message_.frames[f + 1].text()) << "frame " << f;
  }
  // The others are as they were.
  CheckpointShard untouched(model_, 0, 1);
  untouched.Train(3);
  untouched.Train(50);
  const Portion rest = DenseLayout(model_).PortionOf(
      10, false, [](int64_t slot) { return slot % 3 != 1; });
  const std::vector<Buffer> kept = CopySlots(to.tables, *to.dense, rest);
  const std::vector<Buffer> were =
      CopySlots(untouched.tables, *untouched.dense, rest);
  for (size_t f = 0; f < kept.size(); ++f) {
    EXPECT_EQ(kept[f].text(), were[f].text()) << "frame " << f;
  }
  // And both go on alike.
  DropSlots(rest, to.tables, *to.dense);
  DropSlots(rest, from_.tables, *from_.dense);
  EXPECT_EQ(ContentsOf(to), ContentsOf(from_));
}

TEST_F(SlotStatesTest, WhatDoesNotFitIsRefusedAndChangesNothing) {
  CheckpointShard to(model_, 0, 1);
  to.Train(2);
  to.dense->Remove(portion_.chunks[0]);
  const std::string before = ContentsOf(to);
  for (size_t f = 1; f < message_.frames.size(); ++f) {
    for (const int64_t less : {1, 4, 8}) {
      comm::Message cut = message_;
      cut.frames[f] = cut.frames[f].Slice(
          0, std::max<int64_t>(cut.frames[f].size() - less, 0));
      if (cut.frames[f].size() == message_.frames[f].size()) {
        continue;  // Nothing to cut: SGD has no state.
      }
      EXPECT_EQ(Take(to, cut).code(), StatusCode::kInvalidArgument)
          << "frame " << f << " less " << less;
      EXPECT_EQ(ContentsOf(to), before);
    }
  }
  comm::Message fewer = message_;
  fewer.frames.pop_back();
  EXPECT_EQ(Take(to, fewer).code(), StatusCode::kInvalidArgument);
  // Rows of another slot.
  comm::Message others = message_;
  others.frames[1] =
      CopySlots(from_.tables, *from_.dense,
                DenseLayout(model_).PortionOf(
                    10, false, [](int64_t slot) { return slot % 3 == 0; }))[0];
  EXPECT_EQ(Take(to, others).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ContentsOf(to), before);
  EXPECT_TRUE(Take(to, message_).ok());
  EXPECT_NE(ContentsOf(to), before);
}

TEST(SlotBitsTest, NameTheSlotsAndNoOthers) {
  Portion portion =
      DenseLayout(ModelSpec()).PortionOf(4, false, [](int64_t slot) {
        return slot == 0 || slot == 7 || slot == 8;
      });
  const std::string bits = SlotBits(portion);
  EXPECT_EQ(bits, std::string("\x81\x01", 2));
  const StatusOr<std::vector<bool>> slots = SlotsOfBits(bits, 16);
  ASSERT_TRUE(slots.ok());
  EXPECT_EQ(*slots, portion.slots);
  EXPECT_EQ(SlotsOfBits(bits, 32).status().code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal::ps
