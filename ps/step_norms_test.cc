#include "ps/step_norms.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/random.h"
#include "ps/slots.h"

namespace shoal::ps {
namespace {

constexpr int kSlotBits = 10;

// Two tables that are looked up together, and variables of one chunk, of three
// and of one.
ModelSpec NormsModel() {
  const Initializer normal = {.kind = Initializer::Kind::kNormal, .scale = 1};
  ModelSpec model;
  model.tables = {{.name = "a", .dim = 3}, {.name = "b", .dim = 1}};
  model.groups = {{0, 1}};
  model.variables = {{.name = "x", .dims = {70}, .initializer = normal},
                     {.name = "y", .dims = {40000}, .initializer = normal},
                     {.name = "z", .dims = {1}}};
  model.dense_optimizer = {.kind = "lamb", .weight_decay = 0.1};
  return model;
}

// The gradients of a step, and a store of all chunks that has had some steps.
class StepNormsTest : public ::testing::Test {
 protected:
  StepNormsTest()
      : layout_(model_), all_(PortionOf([](int64_t) { return true; })) {
    Random random(3);
    for (int i = 0; i < 500; ++i) {
      ids_.push_back(random.Below(~uint64_t{0}));
    }
    std::sort(ids_.begin(), ids_.end(),
              [](uint64_t a, uint64_t b) { return IdHash(a) < IdHash(b); });
    Fill(random, 1500, a_);
    Fill(random, 500, b_);
    Fill(random, all_.dense_elements, dense_);
    store_ = *DenseStore::Create(model_, layout_.chunks());
    std::vector<float> gradients;
    for (int step = 0; step < 3; ++step) {
      gradients.clear();
      Fill(random, all_.dense_elements, gradients);
      store_->Apply(all_.chunks, gradients, 1);
    }
  }

  Portion PortionOf(const std::function<bool(int64_t)>& has) const {
    return layout_.PortionOf(kSlotBits, /*dense_on_workers=*/false, has);
  }
  // Of very different sizes.
  static void Fill(Random& random, int64_t n, std::vector<float>& out) {
    for (int64_t i = 0; i < n; ++i) {
      out.push_back(std::ldexp(static_cast<float>(random.Uniform()) - 0.5F,
                               static_cast<int>(random.Below(40)) - 20));
    }
  }
  Piece All() const {
    return {.node = 1,
            .groups = {{.ids = ids_, .tables = {a_, b_}}},
            .dense = dense_};
  }
  // As the shards of a cluster, each of the slots with its remainder.
  StepNorms OfCluster(int shards, double scale = 1) const {
    StepNorms sum;
    for (int shard = shards - 1; shard >= 0; --shard) {
      const Portion portion =
          PortionOf([&](int64_t slot) { return slot * 7 % shards == shard; });
      sum.Add(NormsOf(Select(All(), model_, kSlotBits, all_, portion), portion,
                      *store_, scale));
    }
    return sum;
  }

  ModelSpec model_ = NormsModel();
  DenseLayout layout_;
  Portion all_;
  std::vector<uint64_t> ids_;
  std::vector<float> a_;
  std::vector<float> b_;
  std::vector<float> dense_;
  std::unique_ptr<DenseStore> store_;
};

double SquaresOf(const std::vector<float>& values) {
  long double sum = 0;
  for (const float value : values) {
    sum += static_cast<long double>(value) * value;
  }
  return static_cast<double>(sum);
}

TEST_F(StepNormsTest, SumsAreThoseOfAllRowsAndChunks) {
  const StepNorms norms = NormsOf(All(), all_, *store_, 1);
  EXPECT_TRUE(norms.finite);
  const double want = SquaresOf(a_) + SquaresOf(b_) + SquaresOf(dense_);
  EXPECT_NEAR(norms.gradients.value() / want, 1, 1e-13);

  ASSERT_EQ(norms.layers.size(), 3U);
  for (size_t v = 0; v < 3; ++v) {
    std::vector<float> values;
    for (size_t c = 0; c < store_->chunks().size(); ++c) {
      if (store_->chunks()[c].variable == static_cast<int>(v)) {
        const auto of_chunk = store_->values(c);
        values.insert(values.end(), of_chunk.begin(), of_chunk.end());
      }
    }
    EXPECT_NEAR(norms.layers[v].values.value() / SquaresOf(values), 1, 1e-13);
    EXPECT_GT(norms.layers[v].updates.value(), 0);
  }
}

TEST_F(StepNormsTest, NoClusterShowsInThem) {
  const StepNorms one = OfCluster(1);
  for (const int shards : {2, 3, 6}) {
    const StepNorms many = OfCluster(shards);
    EXPECT_THAT(many.gradients.words(),
                ::testing::ElementsAreArray(one.gradients.words()));
    ASSERT_EQ(many.layers.size(), one.layers.size());
    for (size_t v = 0; v < one.layers.size(); ++v) {
      EXPECT_THAT(many.layers[v].values.words(),
                  ::testing::ElementsAreArray(one.layers[v].values.words()));
      EXPECT_THAT(many.layers[v].updates.words(),
                  ::testing::ElementsAreArray(one.layers[v].updates.words()));
    }
  }
}

TEST_F(StepNormsTest, RatiosAreOfGradientsWithoutTheLossScale) {
  const StepNorms plain = NormsOf(All(), all_, *store_, 1);
  const StepNorms scaled = NormsOf(Scaled(All(), 256), all_, *store_, 256);
  EXPECT_EQ(scaled.gradients.value(), 65536 * plain.gradients.value());
  for (size_t v = 0; v < plain.layers.size(); ++v) {
    EXPECT_EQ(scaled.layers[v].updates.value(),
              plain.layers[v].updates.value());
  }
}

TEST_F(StepNormsTest, AnyGradientThatIsNotFiniteShows) {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(),
                       std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity()};
  size_t next = 0;
  for (std::vector<float>* values : {&a_, &b_, &dense_}) {
    for (const size_t at :
         {size_t{0}, values->size() / 2, values->size() - 1}) {
      const float before = std::exchange((*values)[at], bad[next++ % 3]);
      EXPECT_FALSE(OfCluster(3).finite);
      (*values)[at] = before;
    }
  }
  // The largest that f32 has is not too large.
  std::fill(dense_.begin(), dense_.end(), std::numeric_limits<float>::max());
  EXPECT_TRUE(OfCluster(3).finite);
}

TEST_F(StepNormsTest, ValuesThatAreNotFiniteShowToo) {
  std::vector<float> values(70, std::numeric_limits<float>::infinity());
  const std::vector<float> state(store_->state(0).begin(),
                                 store_->state(0).end());
  store_->Load(0, values, state);
  EXPECT_FALSE(NormsOf(All(), all_, *store_, 1).finite);
}

TEST_F(StepNormsTest, ScaledHasTheSameIdsAndAllElementsTimesTheFactor) {
  const Piece piece = All();
  const Piece scaled = Scaled(piece, 1.0 / 3);
  EXPECT_EQ(scaled.node, piece.node);
  EXPECT_EQ(scaled.groups[0].ids.data(), ids_.data());
  const auto expect = [](std::span<const float> got,
                         const std::vector<float>& from) {
    ASSERT_EQ(got.size(), from.size());
    for (size_t i = 0; i < from.size(); ++i) {
      ASSERT_EQ(got[i], from[i] * static_cast<float>(1.0 / 3));
    }
  };
  expect(scaled.groups[0].tables[0], a_);
  expect(scaled.groups[0].tables[1], b_);
  expect(scaled.dense, dense_);
}

}  // namespace
}  // namespace shoal::ps
