#include <algorithm>

#include "ps/optimizers/row_loop.h"

namespace shoal::ps {
namespace {

struct MomentumFn {
  float rate;
  float momentum;
  SHOAL_ROW_FN(float* __restrict row, const float* __restrict gradient,
               int64_t dim)
  const {
    float* __restrict velocity = row + dim;
    for (int64_t j = 0; j < dim; ++j) {
      velocity[j] = momentum * velocity[j] + gradient[j];
      row[j] -= rate * velocity[j];
    }
  }
};

// Heavy ball (Polyak 1964), in the form that keeps the rate outside of the
// velocity: v = mu v + g; w -= rate v. State: v.
class Momentum : public Optimizer {
 public:
  explicit Momentum(const OptimizerConfig& config)
      : rate_(config.learning_rate),
        momentum_(static_cast<float>(config.momentum)) {}
  int64_t StateFloats(int64_t dim) const override { return dim; }
  void InitState(float* state, int64_t dim) const override {
    std::fill(state, state + dim, 0.0F);
  }
  void Apply(const ApplyBatch& batch) const override {
    RunRowLoop(
        MomentumFn{static_cast<float>(rate_ * batch.learning_rate_factor),
                   momentum_},
        batch);
  }

 private:
  double rate_;
  float momentum_;
};

StatusOr<std::unique_ptr<Optimizer>> CreateMomentum(
    const OptimizerConfig& config) {
  return std::unique_ptr<Optimizer>(std::make_unique<Momentum>(config));
}

SHOAL_REGISTER_OPTIMIZER("momentum", &CreateMomentum);

}  // namespace
}  // namespace shoal::ps
