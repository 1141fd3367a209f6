// The way of a step through norms, decision and optimizer, against Optax.

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"

#include "ps/dense_layout.h"
#include "ps/dense_store.h"
#include "ps/global_phase.h"
#include "ps/step_norms.h"

namespace shoal::ps {
namespace {

struct OptaxCase {
  std::string name;
  OptimizerConfig config;
  double clip_norm = 0;
  std::vector<double> after;  // all values after each step
};

#include "ps/optax_cases.inc"

TEST(OptaxTest, StepsAreThoseOfOptax) {
  for (const OptaxCase& tested : kOptaxCases) {
    SCOPED_TRACE(tested.name);
    ModelSpec model;
    model.variables = {{.name = "a", .dims = {kOptaxSizes[0]}},
                       {.name = "b", .dims = {kOptaxSizes[1]}}};
    model.dense_optimizer = tested.config;
    const auto phase =
        GlobalPhase::Create(model, {.global = {.clip_norm = tested.clip_norm}});
    ASSERT_TRUE(phase.ok()) << phase.status();
    const DenseLayout layout(model);
    const Portion all =
        layout.PortionOf(10, false, [](int64_t) { return true; });
    const auto store = DenseStore::Create(model, layout.chunks());
    ASSERT_TRUE(store.ok()) << store.status();
    const std::vector<float> state((*store)->state(0).begin(),
                                   (*store)->state(0).end());
    (*store)->Load(0, kOptaxFirst, state);

    constexpr int64_t kSize = kOptaxSizes[0] + kOptaxSizes[1];
    for (int64_t t = 0; t < kOptaxSteps; ++t) {
      const Piece piece = {
          .dense = {kOptaxGradients + t * kSize, static_cast<size_t>(kSize)}};
      const auto decision =
          (*phase)->Decide(t, 1, NormsOf(piece, all, **store, 1));
      ASSERT_TRUE(decision.ok()) << decision.status();
      const Piece scaled = Scaled(piece, decision->gradient_scale);
      (*store)->Apply(all.chunks, scaled.dense, 1, decision->trust_ratios);
      for (int64_t i = 0; i < kSize; ++i) {
        const double want = tested.after[static_cast<size_t>(t * kSize + i)];
        const bool second = i >= kOptaxSizes[0];
        const double got = (*store)->values(
            second ? 1
                   : 0)[static_cast<size_t>(second ? i - kOptaxSizes[0] : i)];
        // As in optimizer_test.cc: a step is four units in the last place.
        const double tolerance = static_cast<double>(t + 1) * 4 * 0x1.0p-24 *
                                 std::max(1.0, std::fabs(want));
        EXPECT_TRUE(std::fabs(got - want) <= tolerance)
            << "step " << t << " element " << i << ": " << got << " is not "
            << want;
      }
    }
  }
}

}  // namespace
}  // namespace shoal::ps
