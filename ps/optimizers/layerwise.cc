#include <algorithm>
#include <cmath>
#include <vector>

#include "base/strcat.h"
#include "ps/optimizers/row_loop.h"
#include "ps/optimizers/update_count.h"

namespace shoal::ps {
namespace {

// What LAMB does at a time t of a row.
struct LambTerms {
  float b1;
  float b2;
  float c1;
  float c2;
  float epsilon;
  float decay;
  float first_scale;  // 1 / (1 - beta1^t)
  float root_scale;   // 1 / sqrt(1 - beta2^t)

  LambTerms(const OptimizerConfig& config, uint64_t t)
      : b1(static_cast<float>(config.beta1)),
        b2(static_cast<float>(config.beta2)),
        c1(static_cast<float>(1 - config.beta1)),
        c2(static_cast<float>(1 - config.beta2)),
        epsilon(static_cast<float>(config.epsilon)),
        decay(static_cast<float>(config.weight_decay)),
        first_scale(static_cast<float>(1 / (1 - WholePower(config.beta1, t)))),
        root_scale(static_cast<float>(
            1 / std::sqrt(1 - WholePower(config.beta2, t)))) {}

  [[gnu::always_inline]] float First(float m, float g) const {
    return b1 * m + c1 * g;
  }
  [[gnu::always_inline]] float Second(float v, float g) const {
    return b2 * v + c2 * (g * g);
  }
  [[gnu::always_inline]] float Update(float m, float v, float w) const {
    return first_scale * m / (std::sqrt(v) * root_scale + epsilon) + decay * w;
  }
};

struct LambFn {
  const OptimizerConfig& config;
  float rate;  // times the ratio
  SHOAL_ROW_FN(float* __restrict row, const float* __restrict gradient,
               int64_t dim)
  const {
    float* __restrict m = row + dim;
    float* __restrict v = m + dim;
    const LambTerms terms(config, CountUpdate(v + dim, 0));
    for (int64_t j = 0; j < dim; ++j) {
      m[j] = terms.First(m[j], gradient[j]);
      v[j] = terms.Second(v[j], gradient[j]);
      row[j] -= rate * terms.Update(m[j], v[j], row[j]);
    }
  }
};

struct LambNormsFn {
  const OptimizerConfig& config;
  float* updates;  // [dim]
  RowNorms* out;
  SHOAL_ROW_FN(float* __restrict row, const float* __restrict gradient,
               int64_t dim)
  const {
    const float* __restrict m = row + dim;
    const float* __restrict v = m + dim;
    float* __restrict u = updates;
    const LambTerms terms(config, UpdateCount(v + dim) + 1);
    for (int64_t j = 0; j < dim; ++j) {
      u[j] = terms.Update(terms.First(m[j], gradient[j]),
                          terms.Second(v[j], gradient[j]), row[j]);
    }
    *out = {.values = SumOfSquares(row, dim), .updates = SumOfSquares(u, dim)};
  }
};

// Adam for large batches (You et al. 2020, algorithm 2, with phi(z) = z): a
// variable's update r + lambda w goes by the ratio of the variable's norm to
// its own. Where one of them is 0 the ratio is 1, so that what begins at zero
// learns at all. State: two moments and the number of updates.
class Lamb : public Optimizer, public NormPhase {
 public:
  explicit Lamb(const OptimizerConfig& config) : config_(config) {}
  int64_t StateFloats(int64_t dim) const override { return 2 * dim + 1; }
  void InitState(float* state, int64_t dim) const override {
    std::fill(state, state + StateFloats(dim), 0.0F);
  }
  void Apply(const ApplyBatch& batch) const override {
    RunRowLoop(LambFn{config_, static_cast<float>(config_.learning_rate *
                                                  batch.learning_rate_factor *
                                                  batch.trust_ratio)},
               batch);
  }
  const NormPhase* norm_phase() const override { return this; }

  RowNorms Norms(const float* row, const float* gradient,
                 int64_t dim) const override {
    // Of the thread, since an optimizer has none of its own to change.
    thread_local std::vector<float> updates;
    updates.resize(static_cast<size_t>(dim));
    RowNorms norms;
    float* const unchanged = const_cast<float*>(row);
    RunRowLoop(
        LambNormsFn{config_, updates.data(), &norms},
        {.rows = &unchanged, .gradients = gradient, .num_rows = 1, .dim = dim});
    return norms;
  }
  double TrustRatio(double values, double updates) const override {
    return values > 0 && updates > 0 ? values / updates : 1;
  }

 private:
  OptimizerConfig config_;
};

struct LarsFn {
  float rate;  // times the ratio
  float momentum;
  float decay;
  SHOAL_ROW_FN(float* __restrict row, const float* __restrict gradient,
               int64_t dim)
  const {
    float* __restrict velocity = row + dim;
    for (int64_t j = 0; j < dim; ++j) {
      velocity[j] =
          momentum * velocity[j] + rate * (gradient[j] + decay * row[j]);
      row[j] -= velocity[j];
    }
  }
};

struct LarsNormsFn {
  RowNorms* out;
  SHOAL_ROW_FN(float* __restrict row, const float* __restrict gradient,
               int64_t dim)
  const {
    *out = {.values = SumOfSquares(row, dim),
            .updates = SumOfSquares(gradient, dim)};
  }
};

// Momentum for large batches (You, Gitman, Ginsburg 2017, algorithm 1): the
// rate of a variable goes by eta |w| / (|g| + beta |w|), where beta is the
// weight decay. That is 1 where |w| or the divisor is 0, so that what begins at
// zero learns at all. State: the velocity, which the rate is part of.
class Lars : public Optimizer, public NormPhase {
 public:
  explicit Lars(const OptimizerConfig& config) : config_(config) {}
  int64_t StateFloats(int64_t dim) const override { return dim; }
  void InitState(float* state, int64_t dim) const override {
    std::fill(state, state + dim, 0.0F);
  }
  void Apply(const ApplyBatch& batch) const override {
    RunRowLoop(LarsFn{static_cast<float>(config_.learning_rate *
                                         batch.learning_rate_factor *
                                         batch.trust_ratio),
                      static_cast<float>(config_.momentum),
                      static_cast<float>(config_.weight_decay)},
               batch);
  }
  const NormPhase* norm_phase() const override { return this; }

  RowNorms Norms(const float* row, const float* gradient,
                 int64_t dim) const override {
    RowNorms norms;
    float* const unchanged = const_cast<float*>(row);
    RunRowLoop(
        LarsNormsFn{&norms},
        {.rows = &unchanged, .gradients = gradient, .num_rows = 1, .dim = dim});
    return norms;
  }
  double TrustRatio(double values, double updates) const override {
    const double divisor = updates + config_.weight_decay * values;
    return values > 0 && divisor > 0
               ? config_.trust_coefficient * values / divisor
               : 1;
  }

 private:
  OptimizerConfig config_;
};

StatusOr<std::unique_ptr<Optimizer>> CreateLayerwise(
    const OptimizerConfig& config) {
  if (config.kind == "lars") {
    return std::unique_ptr<Optimizer>(std::make_unique<Lars>(config));
  }
  if (config.beta1 >= 1 || config.beta2 >= 1 || config.epsilon == 0) {
    return InvalidArgumentError(
        StrCat("optimizer '", config.kind,
               "': beta1 and beta2 must be below 1, epsilon above 0"));
  }
  return std::unique_ptr<Optimizer>(std::make_unique<Lamb>(config));
}

SHOAL_REGISTER_OPTIMIZER(&CreateLayerwise, "lamb", "lars");

}  // namespace
}  // namespace shoal::ps
