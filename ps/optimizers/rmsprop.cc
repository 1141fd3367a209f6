#include <algorithm>
#include <cmath>

#include "ps/optimizers/row_loop.h"

namespace shoal::ps {
namespace {

template <bool kCentered, bool kMomentum>
struct RmspropFn {
  float rate;
  double rho;
  float momentum;
  float epsilon;
  SHOAL_ROW_FN(float* __restrict row, const float* __restrict gradient,
               int64_t dim)
  const {
    float* __restrict squares = row + dim;
    float* __restrict mean = squares + dim;
    float* __restrict velocity = kCentered ? mean + dim : mean;
    const auto keep = static_cast<float>(rho);
    const auto take = static_cast<float>(1 - rho);
    for (int64_t j = 0; j < dim; ++j) {
      const float g = gradient[j];
      squares[j] = keep * squares[j] + take * (g * g);
      float variance = squares[j];
      if constexpr (kCentered) {
        mean[j] = keep * mean[j] + take * g;
        variance -= mean[j] * mean[j];
        // Rounding may take it below zero, where there is no root.
        variance = variance > 0 ? variance : 0.0F;
      }
      float change = g / (std::sqrt(variance) + epsilon);
      if constexpr (kMomentum) {
        velocity[j] = momentum * velocity[j] + change;
        change = velocity[j];
      }
      row[j] -= rate * change;
    }
  }
};

// RMSProp (Tieleman and Hinton 2012, lecture 6.5), also centered and with
// momentum (Graves 2013, equations 38 to 42), in PyTorch's form, whose epsilon
// is outside of the root. State: the mean of squared gradients; centered, their
// mean; with momentum, the velocity.
class Rmsprop : public Optimizer {
 public:
  explicit Rmsprop(const OptimizerConfig& config) : config_(config) {}
  int64_t StateFloats(int64_t dim) const override {
    return (1 + (config_.centered ? 1 : 0) + (config_.momentum > 0 ? 1 : 0)) *
           dim;
  }
  void InitState(float* state, int64_t dim) const override {
    std::fill(state, state + StateFloats(dim), 0.0F);
  }
  void Apply(const ApplyBatch& batch) const override {
    if (config_.centered) {
      config_.momentum > 0 ? Run<true, true>(batch) : Run<true, false>(batch);
    } else {
      config_.momentum > 0 ? Run<false, true>(batch) : Run<false, false>(batch);
    }
  }

 private:
  template <bool kCentered, bool kMomentum>
  void Run(const ApplyBatch& batch) const {
    RunRowLoop(
        RmspropFn<kCentered, kMomentum>{
            static_cast<float>(config_.learning_rate *
                               batch.learning_rate_factor),
            config_.rho, static_cast<float>(config_.momentum),
            static_cast<float>(config_.epsilon)},
        batch);
  }

  OptimizerConfig config_;
};

StatusOr<std::unique_ptr<Optimizer>> CreateRmsprop(
    const OptimizerConfig& config) {
  if (config.rho >= 1 || config.epsilon == 0) {
    return InvalidArgumentError(
        "optimizer 'rmsprop': rho must be below 1 and epsilon above 0");
  }
  return std::unique_ptr<Optimizer>(std::make_unique<Rmsprop>(config));
}

SHOAL_REGISTER_OPTIMIZER(&CreateRmsprop, "rmsprop");

}  // namespace
}  // namespace shoal::ps
