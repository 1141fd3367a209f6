#include <algorithm>
#include <cmath>

#include "base/strcat.h"
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

struct RowwiseAdagradFn {
  float rate;
  float epsilon;
  SHOAL_ROW_FN(float* __restrict row, const float* __restrict gradient,
               int64_t dim)
  const {
    float& sum = row[dim];
    sum += static_cast<float>(SumOfSquares(gradient, dim) /
                              static_cast<double>(dim));
    const float scale = rate / (std::sqrt(sum) + epsilon);
    for (int64_t j = 0; j < dim; ++j) {
      row[j] -= scale * gradient[j];
    }
  }
};

// Diagonal Adagrad (Duchi, Hazan, Singer 2011, figure 1): s += g^2;
// w -= rate g / (sqrt(s) + epsilon). State: s, from `initial_accumulator`.
// Row-wise, all elements share the mean of their s (Gupta et al. 2014): state
// of one number per row, for wide rows of large tables.
class Adagrad : public Optimizer {
 public:
  explicit Adagrad(const OptimizerConfig& config)
      : rate_(config.learning_rate),
        initial_(static_cast<float>(config.initial_accumulator)),
        epsilon_(static_cast<float>(config.epsilon)),
        rowwise_(config.kind == "rowwise_adagrad") {}
  int64_t StateFloats(int64_t dim) const override { return rowwise_ ? 1 : dim; }
  void InitState(float* state, int64_t dim) const override {
    std::fill(state, state + StateFloats(dim), initial_);
  }
  void Apply(const ApplyBatch& batch) const override {
    const auto rate = static_cast<float>(rate_ * batch.learning_rate_factor);
    if (rowwise_) {
      RunRowLoop(RowwiseAdagradFn{rate, epsilon_}, batch);
    } else {
      RunRowLoop(AdagradFn{rate, epsilon_}, batch);
    }
  }

 private:
  double rate_;
  float initial_;
  float epsilon_;
  bool rowwise_;
};

StatusOr<std::unique_ptr<Optimizer>> CreateAdagrad(
    const OptimizerConfig& config) {
  if (config.initial_accumulator == 0 && config.epsilon == 0) {
    return InvalidArgumentError(
        StrCat("optimizer '", config.kind,
               "': with initial_accumulator 0, epsilon must be above 0"));
  }
  return std::unique_ptr<Optimizer>(std::make_unique<Adagrad>(config));
}

SHOAL_REGISTER_OPTIMIZER(&CreateAdagrad, "adagrad", "rowwise_adagrad");

}  // namespace
}  // namespace shoal::ps
