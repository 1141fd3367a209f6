#include "ps/optimizers/delay.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "ps/optimizers/row_loop.h"

namespace shoal::ps {
namespace {

struct DelayFn {
  const float* from;           // the gradients of the first row
  const float* computed_from;  // and the values that they are of; or none
  float* to;                   // as many
  int64_t squares_at;          // floats from a row to its s
  float strength;
  double decay;
  SHOAL_ROW_FN(float* __restrict row, const float* __restrict gradient,
               int64_t dim)
  const {
    constexpr float kEpsilon = 1e-7F;
    constexpr float kLargest = std::numeric_limits<float>::max();
    float* __restrict squares = row + squares_at;
    float* __restrict out = to + (gradient - from);
    const float* __restrict before =
        computed_from == nullptr ? row : computed_from + (gradient - from);
    const auto keep = static_cast<float>(decay);
    const auto take = static_cast<float>(1 - decay);
    for (int64_t j = 0; j < dim; ++j) {
      const float g = gradient[j];
      // One whose square is no number is left as it is.
      const float square = g * g <= kLargest ? g * g : 0.0F;
      squares[j] = keep * squares[j] + take * square;
      const float lambda = strength / std::sqrt(squares[j] + kEpsilon);
      out[j] = g + lambda * square * (row[j] - before[j]);
    }
  }
};

class DelayCompensated : public Optimizer {
 public:
  DelayCompensated(const OptimizerConfig& config,
                   std::unique_ptr<Optimizer> optimizer)
      : strength_(static_cast<float>(config.delay_compensation)),
        decay_(config.delay_decay),
        optimizer_(std::move(optimizer)) {}
  int64_t StateFloats(int64_t dim) const override {
    return optimizer_->StateFloats(dim) + dim;
  }
  void InitState(float* state, int64_t dim) const override {
    optimizer_->InitState(state, dim);
    std::fill_n(state + optimizer_->StateFloats(dim), dim, 0.0F);
  }
  void Apply(const ApplyBatch& batch) const override {
    // Of the thread, since an optimizer has none of its own to change.
    thread_local std::vector<float> gradients;
    gradients.resize(static_cast<size_t>(batch.num_rows * batch.dim));
    RunRowLoop(
        DelayFn{.from = batch.gradients,
                .computed_from = batch.computed_from,
                .to = gradients.data(),
                .squares_at = batch.dim + optimizer_->StateFloats(batch.dim),
                .strength = strength_,
                .decay = decay_},
        batch);
    ApplyBatch changed = batch;
    changed.gradients = gradients.data();
    optimizer_->Apply(changed);
  }

 private:
  float strength_;
  double decay_;
  std::unique_ptr<Optimizer> optimizer_;
};

}  // namespace

std::unique_ptr<Optimizer> WithDelayCompensation(
    const OptimizerConfig& config, std::unique_ptr<Optimizer> optimizer) {
  if (config.delay_compensation == 0) {
    return optimizer;
  }
  return std::make_unique<DelayCompensated>(config, std::move(optimizer));
}

}  // namespace shoal::ps
