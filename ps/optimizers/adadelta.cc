#include <algorithm>
#include <cmath>

#include "ps/optimizers/row_loop.h"

namespace shoal::ps {
namespace {

struct AdadeltaFn {
  float rate;
  double rho;
  float epsilon;
  SHOAL_ROW_FN(float* __restrict row, const float* __restrict gradient,
               int64_t dim)
  const {
    float* __restrict squares = row + dim;
    float* __restrict changes = squares + dim;
    const auto keep = static_cast<float>(rho);
    const auto take = static_cast<float>(1 - rho);
    for (int64_t j = 0; j < dim; ++j) {
      const float g = gradient[j];
      squares[j] = keep * squares[j] + take * (g * g);
      const float change =
          std::sqrt(changes[j] + epsilon) / std::sqrt(squares[j] + epsilon) * g;
      changes[j] = keep * changes[j] + take * (change * change);
      row[j] -= rate * change;
    }
  }
};

// ADADELTA (Zeiler 2012, algorithm 1), with a rate on its change, which the
// paper leaves at 1. State: the means of squared gradients and changes.
class Adadelta : public Optimizer {
 public:
  explicit Adadelta(const OptimizerConfig& config) : config_(config) {}
  int64_t StateFloats(int64_t dim) const override { return 2 * dim; }
  void InitState(float* state, int64_t dim) const override {
    std::fill(state, state + StateFloats(dim), 0.0F);
  }
  void Apply(const ApplyBatch& batch) const override {
    RunRowLoop(AdadeltaFn{static_cast<float>(config_.learning_rate *
                                             batch.learning_rate_factor),
                          config_.rho, static_cast<float>(config_.epsilon)},
               batch);
  }

 private:
  OptimizerConfig config_;
};

StatusOr<std::unique_ptr<Optimizer>> CreateAdadelta(
    const OptimizerConfig& config) {
  if (config.rho >= 1 || config.epsilon == 0) {
    return InvalidArgumentError(
        "optimizer 'adadelta': rho must be below 1 and epsilon above 0");
  }
  return std::unique_ptr<Optimizer>(std::make_unique<Adadelta>(config));
}

SHOAL_REGISTER_OPTIMIZER(&CreateAdadelta, "adadelta");

}  // namespace
}  // namespace shoal::ps
