#include <algorithm>
#include <cmath>
#include <cstring>

#include "ps/optimizers/row_loop.h"

namespace shoal::ps {
namespace {

// base^n by squaring, n >= 1: plain multiplications, so that it has the same
// bits everywhere, which std::pow() promises nobody.
[[gnu::always_inline]] inline double WholePower(double base, uint32_t n) {
  double power = 1;
  for (; n > 0; n >>= 1) {
    power = (n & 1) != 0 ? power * base : power;
    base *= base;
  }
  return power;
}

struct AdamFn {
  double rate;
  double beta1;
  double beta2;
  float epsilon;
  SHOAL_ROW_FN(float* __restrict row, const float* __restrict gradient,
               int64_t dim)
  const {
    float* __restrict m = row + dim;
    float* __restrict v = m + dim;
    float* count_at = v + dim;
    // Bits, not a float: it stays exact however long a job runs.
    uint32_t count;
    std::memcpy(&count, count_at, sizeof(count));
    ++count;
    std::memcpy(count_at, &count, sizeof(count));
    const auto b1 = static_cast<float>(beta1);
    const auto b2 = static_cast<float>(beta2);
    const auto c1 = static_cast<float>(1 - beta1);
    const auto c2 = static_cast<float>(1 - beta2);
    // The corrections of the two moments, moved to the rate and to v (the end
    // of section 2 of the paper keeps them apart from the moments too).
    const auto step_rate =
        static_cast<float>(rate / (1 - WholePower(beta1, count)));
    const auto root_scale =
        static_cast<float>(1 / std::sqrt(1 - WholePower(beta2, count)));
    for (int64_t j = 0; j < dim; ++j) {
      const float g = gradient[j];
      m[j] = b1 * m[j] + c1 * g;
      v[j] = b2 * v[j] + c2 * (g * g);
      row[j] -= step_rate * m[j] / (std::sqrt(v[j]) * root_scale + epsilon);
    }
  }
};

// Adam (Kingma and Ba 2015, algorithm 1). State: m, v, and the number of
// updates of the row, so that rows of tables are corrected by their own time.
class Adam : public Optimizer {
 public:
  explicit Adam(const OptimizerConfig& config) : config_(config) {}
  int64_t StateFloats(int64_t dim) const override { return 2 * dim + 1; }
  void InitState(float* state, int64_t dim) const override {
    std::fill(state, state + StateFloats(dim), 0.0F);
  }
  void Apply(const ApplyBatch& batch) const override {
    RunRowLoop(AdamFn{config_.learning_rate * batch.learning_rate_factor,
                      config_.beta1, config_.beta2,
                      static_cast<float>(config_.epsilon)},
               batch);
  }

 private:
  OptimizerConfig config_;
};

StatusOr<std::unique_ptr<Optimizer>> CreateAdam(const OptimizerConfig& config) {
  if (config.beta1 >= 1 || config.beta2 >= 1) {
    return InvalidArgumentError(
        "optimizer 'adam': beta1 and beta2 must be below 1");
  }
  if (config.epsilon == 0) {
    return InvalidArgumentError("optimizer 'adam': epsilon must be above 0");
  }
  return std::unique_ptr<Optimizer>(std::make_unique<Adam>(config));
}

SHOAL_REGISTER_OPTIMIZER("adam", &CreateAdam);

}  // namespace
}  // namespace shoal::ps
