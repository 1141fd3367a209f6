#include <algorithm>
#include <cmath>

#include "ps/optimizers/row_loop.h"

namespace shoal::ps {
namespace {

struct AdagradFn {
  float rate;
  float epsilon;
  SHOAL_ROW_FN(float* __restrict row, const float* __restrict gradient,
               int64_t dim)
  const {
    float* __restrict sum = row + dim;
    for (int64_t j = 0; j < dim; ++j) {
      sum[j] += gradient[j] * gradient[j];
      row[j] -= rate * gradient[j] / (std::sqrt(sum[j]) + epsilon);
    }
  }
};

// Diagonal Adagrad (Duchi, Hazan, Singer 2011, figure 1): s += g^2;
// w -= rate g / (sqrt(s) + epsilon). State: s, from `initial_accumulator`.
class Adagrad : public Optimizer {
 public:
  explicit Adagrad(const OptimizerConfig& config)
      : rate_(config.learning_rate),
        initial_(static_cast<float>(config.initial_accumulator)),
        epsilon_(static_cast<float>(config.epsilon)) {}
  int64_t StateFloats(int64_t dim) const override { return dim; }
  void InitState(float* state, int64_t dim) const override {
    std::fill(state, state + dim, initial_);
  }
  void Apply(const ApplyBatch& batch) const override {
    RunRowLoop(AdagradFn{static_cast<float>(rate_ * batch.learning_rate_factor),
                         epsilon_},
               batch);
  }

 private:
  double rate_;
  float initial_;
  float epsilon_;
};

StatusOr<std::unique_ptr<Optimizer>> CreateAdagrad(
    const OptimizerConfig& config) {
  if (config.initial_accumulator == 0 && config.epsilon == 0) {
    return InvalidArgumentError(
        "optimizer 'adagrad': with initial_accumulator 0, epsilon must be "
        "above 0");
  }
  return std::unique_ptr<Optimizer>(std::make_unique<Adagrad>(config));
}

SHOAL_REGISTER_OPTIMIZER("adagrad", &CreateAdagrad);

}  // namespace
}  // namespace shoal::ps
