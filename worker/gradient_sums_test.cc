#include "worker/gradient_sums.h"

#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/random.h"
#include "base/strcat.h"

namespace shoal::worker {
namespace {

using ::testing::HasSubstr;

constexpr int kRows = 5;
constexpr int kDim = 3;

ps::ModelSpec SmallModel() {
  ps::ModelSpec model;
  model.variables = {{"a", {70}, {}}, {"b", {7}, {}}, {"c", {3, 9}, {}}};
  model.tables.resize(2);
  for (ps::TableSpec& table : model.tables) {
    table.dim = kDim;
  }
  return model;
}

float LeafGradient(int leaf, int part, int64_t i) {
  const uint64_t key =
      HashKey(HashKey(static_cast<uint64_t>(leaf), static_cast<uint64_t>(part)),
              static_cast<uint64_t>(i));
  return static_cast<float>(key % 2001) / 1000 - 1;
}

// Gives gradients that only depend on the leaf, which a share's size names.
class FakeRunner : public ModelRunner {
 public:
  StatusOr<double> Train(const ShareInput& share, const PulledValues& /*v*/,
                         Gradients& out, const ShareInput* next,
                         const ReadyFn& ready) override {
    const auto leaf = static_cast<int>(share.batch.size);
    leaves.push_back(leaf);
    nexts.push_back(next == nullptr ? -1 : static_cast<int>(next->batch.size));
    // What it has not written yet must not count.
    out.dense.assign(static_cast<size_t>(layout.size()), std::nanf(""));
    out.rows.assign(2, std::vector<float>(kRows * kDim));
    for (int t = 0; t < 2; ++t) {
      for (int i = 0; i < kRows * kDim; ++i) {
        out.rows[static_cast<size_t>(t)][static_cast<size_t>(i)] =
            LeafGradient(leaf, 10 + t, i);
      }
    }
    for (const int v : order) {
      const int64_t n = model.variables[static_cast<size_t>(v)].num_elements();
      for (int64_t i = 0; i < n; ++i) {
        out.dense[static_cast<size_t>(layout.offset(v) + i)] =
            LeafGradient(leaf, v, i);
      }
      if (ready && v != silent) {
        ready(v);
      }
    }
    return loss;
  }
  Status Score(const ShareInput&, const PulledValues&,
               std::vector<float>&) override {
    return OkStatus();
  }

  ps::ModelSpec model = SmallModel();
  ps::DenseLayout layout{model};
  std::vector<int> order = {2, 0, 1};
  int silent = -1;
  double loss = 1;
  std::vector<int> leaves;
  std::vector<int> nexts;
};

float SumAt(const StepTree& tree, int64_t node, int part, int64_t i) {
  const int first = tree.Range(node).first;
  if (node == tree.Leaf(first)) {
    return LeafGradient(first, part, i);
  }
  const float left = SumAt(tree, 2 * node, part, i);
  return tree.IsNode(2 * node + 1) ? left + SumAt(tree, 2 * node + 1, part, i)
                                   : left;
}

struct Case {
  int leaves;
  int begin;
  int end;
};
class GradientSumsTest : public testing::TestWithParam<Case> {
 protected:
  std::vector<float> Dense(const std::vector<Gradients>& sums, int v) const {
    std::vector<float> all;
    for (const Gradients& sum : sums) {
      const float* const begin = sum.dense.data() + runner_.layout.offset(v);
      all.insert(
          all.end(), begin,
          begin +
              runner_.model.variables[static_cast<size_t>(v)].num_elements());
    }
    return all;
  }

  FakeRunner runner_;
};

TEST_P(GradientSumsTest, GoAlongTheStepTreeAndAreWholeWhenReady) {
  const auto [leaves, begin, end] = GetParam();
  runner_.silent = 1;
  GradientSums sums(runner_.model, runner_.layout, runner_, leaves, begin, end);
  std::vector<ShareInput> shares(static_cast<size_t>(end - begin));
  for (size_t i = 0; i < shares.size(); ++i) {
    shares[i].batch.size = begin + static_cast<int>(i);
  }
  const StepTree tree(leaves);
  ASSERT_EQ(sums.nodes(), tree.Cover(begin, end));
  std::vector<Gradients> out(sums.nodes().size());
  std::map<int, std::vector<float>> at_ready;
  for (int step = 0; step < 2; ++step) {  // Into memory that was used before.
    at_ready.clear();
    const StatusOr<double> loss = sums.Run(
        step, shares, {}, out, [&](int v) { at_ready[v] = Dense(out, v); });
    ASSERT_TRUE(loss.ok()) << loss.status();
    EXPECT_EQ(*loss, end - begin);
  }
  for (size_t n = 0; n < out.size(); ++n) {
    for (int v = 0; v < 3; ++v) {
      const int64_t count =
          runner_.model.variables[static_cast<size_t>(v)].num_elements();
      for (int64_t i = 0; i < count; ++i) {
        ASSERT_EQ(
            out[n].dense[static_cast<size_t>(runner_.layout.offset(v) + i)],
            SumAt(tree, sums.nodes()[n], v, i))
            << "node " << sums.nodes()[n] << " variable " << v << " at " << i;
      }
    }
    for (int t = 0; t < 2; ++t) {
      for (int i = 0; i < kRows * kDim; ++i) {
        ASSERT_EQ(out[n].rows[static_cast<size_t>(t)][static_cast<size_t>(i)],
                  SumAt(tree, sums.nodes()[n], 10 + t, i));
      }
    }
  }
  EXPECT_EQ(at_ready.size(), 2U);
  for (const auto& [v, values] : at_ready) {
    EXPECT_NE(v, runner_.silent);
    EXPECT_EQ(values, Dense(out, v)) << "variable " << v;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Ranges, GradientSumsTest,
    testing::Values(Case{1, 0, 1}, Case{2, 0, 2}, Case{4, 0, 4}, Case{4, 1, 4},
                    Case{6, 0, 6}, Case{6, 3, 6}, Case{6, 4, 6}, Case{6, 1, 5},
                    Case{7, 0, 7}, Case{13, 0, 13}, Case{13, 5, 12}));

TEST_F(GradientSumsTest, SharesFollowOneAnother) {
  GradientSums sums(runner_.model, runner_.layout, runner_, 4, 1, 4);
  std::vector<ShareInput> shares(3);
  for (int i = 0; i < 3; ++i) {
    shares[static_cast<size_t>(i)].batch.size = 1 + i;
  }
  std::vector<Gradients> out(sums.nodes().size());
  ASSERT_TRUE(sums.Run(0, shares, {}, out, {}).ok());
  EXPECT_THAT(runner_.leaves, testing::ElementsAre(1, 2, 3));
  EXPECT_THAT(runner_.nexts, testing::ElementsAre(2, 3, -1));
}

TEST_F(GradientSumsTest, ALossThatIsNotFiniteNamesTheStep) {
  runner_.loss = std::nan("");
  GradientSums sums(runner_.model, runner_.layout, runner_, 2, 0, 2);
  const std::vector<ShareInput> shares(2);
  std::vector<Gradients> out(1);
  const Status status = sums.Run(17, shares, {}, out, {}).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("the loss of step 17 is nan"));
}

}  // namespace
}  // namespace shoal::worker
