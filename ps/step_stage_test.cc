#include "ps/step_stage.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/random.h"
#include "ps/protocol.pb.h"
#include "ps/slots.h"
#include "ps/wire.h"

namespace shoal::ps {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kDim = 2;
constexpr int64_t kDense = 3;

ModelSpec StageModel() {
  ModelSpec model;
  model.tables.push_back({.name = "embedding", .dim = kDim});
  model.groups = {{0}};
  return model;
}

// Gradients of one virtual worker: rows by id, and the dense part.
struct Leaf {
  std::map<uint64_t, std::vector<float>> rows;
  std::vector<float> dense;
};

Leaf RandomLeaf(Random& random) {
  Leaf leaf;
  for (uint64_t id = 0; id < 20; ++id) {
    if (random.Below(2) == 0) {
      for (int64_t j = 0; j < kDim; ++j) {
        leaf.rows[id].push_back(static_cast<float>(random.Uniform() - 0.5));
      }
    }
  }
  for (int64_t j = 0; j < kDense; ++j) {
    leaf.dense.push_back(static_cast<float>(random.Uniform() - 0.5));
  }
  return leaf;
}

// The sum along the tree as the words say it: left plus right, absent skipped.
// By recursion over ranges of a power of two, without StepTree.
Leaf TreeSum(const std::vector<Leaf>& leaves, size_t begin, size_t width) {
  if (width == 1) {
    return leaves[begin];
  }
  Leaf left = TreeSum(leaves, begin, width / 2);
  if (begin + width / 2 >= leaves.size()) {
    return left;
  }
  const Leaf right = TreeSum(leaves, begin + width / 2, width / 2);
  for (const auto& [id, row] : right.rows) {
    const auto [it, is_new] = left.rows.emplace(id, row);
    for (size_t j = 0; !is_new && j < row.size(); ++j) {
      it->second[j] = it->second[j] + row[j];
    }
  }
  for (size_t j = 0; j < left.dense.size(); ++j) {
    left.dense[j] = left.dense[j] + right.dense[j];
  }
  return left;
}

// A push message of these pieces, as Client writes it.
comm::Message PushOf(int64_t step,
                     const std::vector<std::pair<int64_t, Leaf>>& pieces) {
  wire::Push head;
  head.set_step(step);
  std::vector<Buffer> arrays;
  for (const auto& [node, leaf] : pieces) {
    head.add_nodes(node);
    std::vector<uint64_t> ids;
    for (const auto& [id, row] : leaf.rows) {
      ids.push_back(id);
    }
    std::sort(ids.begin(), ids.end(),
              [](uint64_t a, uint64_t b) { return IdHash(a) < IdHash(b); });
    std::vector<float> rows;
    for (const uint64_t id : ids) {
      const std::vector<float>& row = leaf.rows.at(id);
      rows.insert(rows.end(), row.begin(), row.end());
    }
    arrays.push_back(
        Buffer::CopyOf(ids.data(), static_cast<int64_t>(ids.size() * 8)));
    arrays.push_back(
        Buffer::CopyOf(rows.data(), static_cast<int64_t>(rows.size() * 4)));
    arrays.push_back(Buffer::CopyOf(
        leaf.dense.data(), static_cast<int64_t>(leaf.dense.size() * 4)));
  }
  comm::Message message;
  message.frames.push_back(Encode(head));
  message.frames.insert(message.frames.end(), arrays.begin(), arrays.end());
  return message;
}

class StepStageTest : public ::testing::Test {
 protected:
  PushShape Shape() const { return {.model = &model_, .portion = &all_}; }
  // Slots of which some do not belong to it; three dense elements.
  static Portion Slots(const std::function<bool(int64_t)>& has) {
    Portion portion = DenseLayout(ModelSpec()).PortionOf(10, false, has);
    portion.chunks = {{.variable = 0, .first = 0, .count = kDense}};
    portion.dense_elements = kDense;
    return portion;
  }
  const ModelSpec model_ = StageModel();
  const Portion all_ = Slots([](int64_t) { return true; });
};

TEST_F(StepStageTest, SumIsTheTreeSumWhoeverSendsWhichPieces) {
  Random random(3);
  for (int leaves = 1; leaves <= 6; ++leaves) {
    std::vector<Leaf> all;
    for (int i = 0; i < leaves; ++i) {
      all.push_back(RandomLeaf(random));
    }
    size_t width = 1;
    while (width < all.size()) {
      width *= 2;
    }
    const Leaf want = TreeSum(all, 0, width);
    const StepTree tree(leaves);
    StepStage stage(model_, leaves);
    // Each leaf on its own, in a shuffled order.
    std::vector<int> order(static_cast<size_t>(leaves));
    for (int i = 0; i < leaves; ++i) {
      order[static_cast<size_t>(i)] = i;
    }
    std::shuffle(order.begin(), order.end(), random);
    for (const int leaf : order) {
      EXPECT_FALSE(stage.complete());
      StatusOr<PushParts> push = ReadPush(
          PushOf(0, {{tree.Leaf(leaf), all[static_cast<size_t>(leaf)]}}),
          Shape());
      ASSERT_TRUE(push.ok()) << push.status();
      Piece again = push->pieces[0];
      ASSERT_TRUE(stage.Add(std::move(push->pieces[0])).ok());
      ASSERT_TRUE(stage.Add(std::move(again)).ok());  // a repeat
    }
    ASSERT_TRUE(stage.complete());
    const Piece sum = stage.Sum();
    ASSERT_EQ(sum.groups[0].ids.size(), want.rows.size());
    for (size_t i = 0; i < sum.groups[0].ids.size(); ++i) {
      const std::vector<float>& row = want.rows.at(sum.groups[0].ids[i]);
      for (size_t j = 0; j < row.size(); ++j) {
        ASSERT_EQ(sum.groups[0].tables[0][i * kDim + j], row[j]);
      }
    }
    for (size_t j = 0; j < want.dense.size(); ++j) {
      ASSERT_EQ(sum.dense[j], want.dense[j]);
    }
  }
}

TEST_F(StepStageTest, NamesTheVirtualWorkersThatAreMissing) {
  Random random(4);
  StepStage stage(model_, 4);
  EXPECT_THAT(stage.MissingVirtualWorkers(), ElementsAre(0, 1, 2, 3));
  StatusOr<PushParts> push =
      ReadPush(PushOf(0, {{2, RandomLeaf(random)}}), Shape());
  ASSERT_TRUE(push.ok());
  ASSERT_TRUE(stage.Add(std::move(push->pieces[0])).ok());
  EXPECT_THAT(stage.MissingVirtualWorkers(), ElementsAre(2, 3));
  // What a part of it sends again is covered; what overlaps it is not.
  push = ReadPush(PushOf(0, {{4, RandomLeaf(random)}, {1, RandomLeaf(random)}}),
                  Shape());
  ASSERT_TRUE(push.ok());
  EXPECT_TRUE(stage.Add(std::move(push->pieces[0])).ok());
  EXPECT_EQ(stage.Add(std::move(push->pieces[1])).code(),
            StatusCode::kInvalidArgument);
  Piece no_node;
  no_node.node = 99;
  EXPECT_EQ(stage.Add(no_node).code(), StatusCode::kInvalidArgument);
}

TEST_F(StepStageTest, PushesThatAreNotWholeAreRefused) {
  Random random(5);
  const Leaf leaf = RandomLeaf(random);
  const comm::Message good = PushOf(0, {{1, leaf}});
  ASSERT_TRUE(ReadPush(good, Shape()).ok());

  comm::Message bad = good;
  bad.frames.pop_back();
  EXPECT_EQ(ReadPush(bad, Shape()).status().code(),
            StatusCode::kInvalidArgument);

  bad = good;
  bad.frames.push_back(Buffer::CopyOf("more"));
  EXPECT_EQ(ReadPush(bad, Shape()).status().code(),
            StatusCode::kInvalidArgument);

  bad = good;
  bad.frames[2] = bad.frames[2].Slice(0, bad.frames[2].size() - 4);
  EXPECT_THAT(ReadPush(bad, Shape()).status().message(),
              HasSubstr("gradient of table 'embedding'"));

  bad = good;
  bad.frames[0] = Buffer::CopyOf("\xff\xff\xff");
  EXPECT_EQ(ReadPush(bad, Shape()).status().code(),
            StatusCode::kInvalidArgument);

  for (const float value : {std::numeric_limits<float>::quiet_NaN(),
                            -std::numeric_limits<float>::infinity()}) {
    Leaf diverged = leaf;
    diverged.dense[1] = value;
    EXPECT_THAT(
        ReadPush(PushOf(0, {{1, diverged}}), Shape()).status().message(),
        HasSubstr("dense gradient is not finite"));
  }
}

TEST_F(StepStageTest, IdsMustRiseAndBelongToTheShard) {
  std::vector<uint64_t> ids = {1, 2, 3, 4};
  std::sort(ids.begin(), ids.end(),
            [](uint64_t a, uint64_t b) { return IdHash(a) < IdHash(b); });
  EXPECT_TRUE(CheckIds(ids, Shape()).ok());
  std::swap(ids[0], ids[1]);
  EXPECT_EQ(CheckIds(ids, Shape()).code(), StatusCode::kInvalidArgument);
  const std::vector<uint64_t> twice = {7, 7};
  EXPECT_EQ(CheckIds(twice, Shape()).code(), StatusCode::kInvalidArgument);

  const uint64_t id = 5;
  const int64_t slot = SlotOfHash(IdHash(id), 10);
  const Portion others = Slots([&](int64_t s) { return s != slot; });
  PushShape other = Shape();
  other.portion = &others;
  EXPECT_EQ(CheckIds({&id, 1}, other).code(), StatusCode::kInvalidArgument);
}

TEST_F(StepStageTest, SelectTakesTheRowsAndChunksOfThePortion) {
  ModelSpec model = StageModel();
  model.variables = {{"a", {16384 + 2}, {}}, {"b", {3}, {}}};
  const DenseLayout layout(model);
  ASSERT_EQ(layout.chunks().size(), 3U);
  const auto slots = [&](const std::function<bool(int64_t)>& has) {
    return layout.PortionOf(10, false, has);
  };
  Random random(5);
  for (int round = 0; round < 50; ++round) {
    // Slots by the bits of random numbers; the first three have chunks.
    const uint64_t from_key = random.Below(1U << 20);
    const uint64_t to_key = random.Below(1U << 20);
    const auto in = [](uint64_t key, int64_t slot) {
      return HashKey(key, static_cast<uint64_t>(slot)) % 3 != 0;
    };
    const Portion from =
        slots([&](int64_t slot) { return in(from_key, slot); });
    const Portion to = slots(
        [&](int64_t slot) { return in(from_key, slot) && in(to_key, slot); });
    std::vector<uint64_t> ids;
    for (uint64_t id = 0; id < 200; ++id) {
      if (from.Has(SlotOfHash(IdHash(id), 10))) {
        ids.push_back(id);
      }
    }
    std::sort(ids.begin(), ids.end(),
              [](uint64_t a, uint64_t b) { return IdHash(a) < IdHash(b); });
    std::vector<float> rows;
    for (const uint64_t id : ids) {
      rows.push_back(static_cast<float>(id));
      rows.push_back(-static_cast<float>(id));
    }
    std::vector<float> dense;
    for (const DenseChunk& chunk : from.chunks) {
      for (int64_t i = 0; i < chunk.count; ++i) {
        dense.push_back(static_cast<float>(chunk.offset + i));
      }
    }
    Piece piece;
    piece.groups = {{.ids = ids, .tables = {rows}}};
    piece.dense = dense;
    std::vector<float> values;
    for (const float value : dense) {
      values.push_back(value + 0.5F);
    }
    if (round % 2 == 0) {
      piece.computed_from = values;
    }
    const Piece selected = Select(piece, model, 10, from, to);
    // What is there belongs, and nothing that belongs is missing.
    size_t expected = 0;
    for (const uint64_t id : ids) {
      expected += to.Has(SlotOfHash(IdHash(id), 10)) ? 1 : 0;
    }
    ASSERT_EQ(selected.groups[0].ids.size(), expected);
    const PushShape shape = {.model = &model, .portion = &to};
    ASSERT_TRUE(CheckIds(selected.groups[0].ids, shape).ok());
    for (size_t i = 0; i < expected; ++i) {
      const auto id = static_cast<float>(selected.groups[0].ids[i]);
      ASSERT_EQ(selected.groups[0].tables[0][2 * i], id);
      ASSERT_EQ(selected.groups[0].tables[0][2 * i + 1], -id);
    }
    ASSERT_EQ(static_cast<int64_t>(selected.dense.size()), to.dense_elements);
    ASSERT_EQ(selected.computed_from.size(),
              round % 2 == 0 ? selected.dense.size() : 0);
    for (size_t i = 0; i < selected.computed_from.size(); ++i) {
      ASSERT_EQ(selected.computed_from[i], selected.dense[i] + 0.5F);
    }
    size_t at = 0;
    for (const DenseChunk& chunk : to.chunks) {
      for (int64_t i = 0; i < chunk.count; ++i) {
        ASSERT_EQ(selected.dense[at++], static_cast<float>(chunk.offset + i));
      }
    }
  }
}

}  // namespace
}  // namespace shoal::ps
