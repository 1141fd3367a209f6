#include <algorithm>
#include <cmath>

#include "base/strcat.h"
#include "ps/optimizers/row_loop.h"

namespace shoal::ps {
namespace {

template <bool kGroup>
struct FtrlFn {
  float inverse_rate;
  float l1;
  float l2;
  float beta;
  double l21;
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
      row[j] = -std::copysign(shrunk, z[j]);
      if constexpr (!kGroup) {
        row[j] /= (beta + new_root) * inverse_rate + l2;
      }
    }
    if constexpr (kGroup) {
      const double norm = std::sqrt(SumOfSquares(row, dim));
      const double cut = std::sqrt(static_cast<double>(dim)) * l21;
      const auto kept =
          static_cast<float>(norm > cut ? (norm - cut) / norm : 0.0);
      for (int64_t j = 0; j < dim; ++j) {
        row[j] = kept * row[j] / ((beta + std::sqrt(n[j])) * inverse_rate + l2);
      }
    }
  }
};

// FTRL-proximal (McMahan et al. 2013, algorithm 1, per-coordinate rates), and
// Group FTRL (Yue et al. 2020, algorithm 2, "Adaptive Optimizers with Sparse
// Group Lasso", whose row is the group), which makes whole rows zero. State: z,
// n. A row's first value is made of its z only after its first update, as in
// the paper.
class Ftrl : public Optimizer {
 public:
  explicit Ftrl(const OptimizerConfig& config)
      : config_(config), group_(config.kind == "group_ftrl") {}
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
    group_ ? Run<true>(batch, rate) : Run<false>(batch, rate);
  }

 private:
  template <bool kGroup>
  void Run(const ApplyBatch& batch, double rate) const {
    RunRowLoop(FtrlFn<kGroup>{static_cast<float>(1 / rate),
                              static_cast<float>(config_.l1),
                              static_cast<float>(config_.l2),
                              static_cast<float>(config_.beta), config_.l21},
               batch);
  }

  OptimizerConfig config_;
  bool group_;
};

StatusOr<std::unique_ptr<Optimizer>> CreateFtrl(const OptimizerConfig& config) {
  if (config.beta == 0 && config.l2 == 0 && config.initial_accumulator == 0) {
    return InvalidArgumentError(
        StrCat("optimizer '", config.kind,
               "': one of beta, l2 and initial_accumulator must be above 0"));
  }
  if (config.weight_decay > 0) {
    // It makes the values anew from z, which no decay of them would reach.
    return InvalidArgumentError(
        StrCat("optimizer '", config.kind,
               "': has no weight_decay; its l2 is the same penalty"));
  }
  return std::unique_ptr<Optimizer>(std::make_unique<Ftrl>(config));
}

SHOAL_REGISTER_OPTIMIZER(&CreateFtrl, "ftrl", "group_ftrl");

}  // namespace
}  // namespace shoal::ps
