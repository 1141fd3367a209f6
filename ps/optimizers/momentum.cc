#include <algorithm>

#include "ps/optimizers/row_loop.h"

namespace shoal::ps {
namespace {

template <bool kNesterov>
struct MomentumFn {
  float rate;
  float momentum;
  SHOAL_ROW_FN(float* __restrict row, const float* __restrict gradient,
               int64_t dim)
  const {
    float* __restrict velocity = row + dim;
    for (int64_t j = 0; j < dim; ++j) {
      velocity[j] = momentum * velocity[j] + gradient[j];
      const float ahead =
          kNesterov ? gradient[j] + momentum * velocity[j] : velocity[j];
      row[j] -= rate * ahead;
    }
  }
};

// Heavy ball (Polyak 1964), in the form that keeps the rate outside of the
// velocity: v = mu v + g; w -= rate v. With Nesterov's momentum (Sutskever et
// al. 2013, in the form that keeps w where the gradient is taken) w -=
// rate (g + mu v). State: v.
template <bool kNesterov>
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
        MomentumFn<kNesterov>{
            static_cast<float>(rate_ * batch.learning_rate_factor), momentum_},
        batch);
  }

 private:
  double rate_;
  float momentum_;
};

StatusOr<std::unique_ptr<Optimizer>> CreateMomentum(
    const OptimizerConfig& config) {
  if (config.kind == "nesterov") {
    return std::unique_ptr<Optimizer>(std::make_unique<Momentum<true>>(config));
  }
  return std::unique_ptr<Optimizer>(std::make_unique<Momentum<false>>(config));
}

SHOAL_REGISTER_OPTIMIZER(&CreateMomentum, "momentum", "nesterov");

}  // namespace
}  // namespace shoal::ps
