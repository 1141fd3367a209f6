#include <algorithm>
#include <cmath>

#include "base/strcat.h"
#include "ps/optimizers/row_loop.h"

namespace shoal::ps {
namespace {

struct FtrlFn {
  float inverse_rate;
  float l1;
  float l2;
  float beta;
  SHOAL_ROW_FN(float* __restrict row, const float* __restrict gradient,
               int64_t dim)
  const {
    float* __restrict z = row + dim;
    float* __restrict n = z + dim;
    for (int64_t j = 0; j < dim; ++j) {
      const float g = gradient[j];
      const float root = std::sqrt(n[j]);
      n[j] += g * g;
      const float new_root = std::sqrt(n[j]);
      const float sigma = (new_root - root) * inverse_rate;
      z[j] += g - sigma * row[j];
      const float shrunk =
          std::fabs(z[j]) - l1 > 0 ? std::fabs(z[j]) - l1 : 0.0F;
      row[j] = -std::copysign(shrunk, z[j]) /
               ((beta + new_root) * inverse_rate + l2);
    }
  }
};

// FTRL-proximal (McMahan et al. 2013, algorithm 1, per-coordinate rates).
// State: z, n. A row's first value is made of its z only after its first
// update, as in the paper.
class Ftrl : public Optimizer {
 public:
  explicit Ftrl(const OptimizerConfig& config) : config_(config) {}
  int64_t StateFloats(int64_t dim) const override { return 2 * dim; }
  void InitState(float* state, int64_t dim) const override {
    std::fill(state, state + dim, 0.0F);
    std::fill(state + dim, state + 2 * dim,
              static_cast<float>(config_.initial_accumulator));
  }
  void Apply(const ApplyBatch& batch) const override {
    const double rate = config_.learning_rate * batch.learning_rate_factor;
    if (rate <= 0) {
      return;  // A schedule that has come down to zero changes nothing.
    }
    RunRowLoop(
        FtrlFn{static_cast<float>(1 / rate), static_cast<float>(config_.l1),
               static_cast<float>(config_.l2),
               static_cast<float>(config_.beta)},
        batch);
  }

 private:
  OptimizerConfig config_;
};

StatusOr<std::unique_ptr<Optimizer>> CreateFtrl(const OptimizerConfig& config) {
  if (config.beta == 0 && config.l2 == 0 && config.initial_accumulator == 0) {
    return InvalidArgumentError(
        "optimizer 'ftrl': one of beta, l2 and initial_accumulator must be "
        "above 0");
  }
  return std::unique_ptr<Optimizer>(std::make_unique<Ftrl>(config));
}

SHOAL_REGISTER_OPTIMIZER("ftrl", &CreateFtrl);

}  // namespace
}  // namespace shoal::ps
