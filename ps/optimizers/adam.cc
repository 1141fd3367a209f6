#include <algorithm>
#include <cmath>

#include "base/strcat.h"
#include "ps/optimizers/row_loop.h"
#include "ps/optimizers/update_count.h"

namespace shoal::ps {
namespace {

template <bool kAmsgrad>
struct AdamFn {
  double rate;
  double beta1;
  double beta2;
  float epsilon;
  uint64_t step;  // 0: the row's own
  SHOAL_ROW_FN(float* __restrict row, const float* __restrict gradient,
               int64_t dim)
  const {
    float* __restrict m = row + dim;
    float* __restrict v = m + dim;
    float* __restrict highest = v + dim + 1;
    const uint64_t t = CountUpdate(v + dim, step);
    const auto b1 = static_cast<float>(beta1);
    const auto b2 = static_cast<float>(beta2);
    const auto c1 = static_cast<float>(1 - beta1);
    const auto c2 = static_cast<float>(1 - beta2);
    // The corrections of the two moments, moved to the rate and to v (the end
    // of section 2 of the paper keeps them apart from the moments too).
    const auto step_rate =
        static_cast<float>(rate / (1 - WholePower(beta1, t)));
    const auto root_scale =
        static_cast<float>(1 / std::sqrt(1 - WholePower(beta2, t)));
    for (int64_t j = 0; j < dim; ++j) {
      const float g = gradient[j];
      m[j] = b1 * m[j] + c1 * g;
      v[j] = b2 * v[j] + c2 * (g * g);
      float square = v[j];
      if constexpr (kAmsgrad) {
        highest[j] = highest[j] > square ? highest[j] : square;
        square = highest[j];
      }
      row[j] -= step_rate * m[j] / (std::sqrt(square) * root_scale + epsilon);
    }
  }
};

struct AdamaxFn {
  double rate;
  double beta1;
  float beta2;
  float epsilon;
  uint64_t step;  // 0: the row's own
  SHOAL_ROW_FN(float* __restrict row, const float* __restrict gradient,
               int64_t dim)
  const {
    float* __restrict m = row + dim;
    float* __restrict u = m + dim;
    const uint64_t t = CountUpdate(u + dim, step);
    const auto b1 = static_cast<float>(beta1);
    const auto c1 = static_cast<float>(1 - beta1);
    const auto step_rate =
        static_cast<float>(rate / (1 - WholePower(beta1, t)));
    for (int64_t j = 0; j < dim; ++j) {
      const float g = gradient[j];
      m[j] = b1 * m[j] + c1 * g;
      const float faded = beta2 * u[j];
      const float size = std::fabs(g) + epsilon;
      u[j] = faded > size ? faded : size;
      row[j] -= step_rate * m[j] / u[j];
    }
  }
};

// Adam and Adamax (Kingma and Ba 2015, algorithms 1 and 2; Adamax with
// PyTorch's epsilon) and AMSGrad (Reddi et al. 2018, with Adam's corrections).
// State: two moments, the number of updates of the row, and AMSGrad's highest
// v. On tables `lazy_adam` corrects a row by its own number of updates, the
// others by that of the job; moments of rows that are not updated stay as they
// are.
class Adam : public Optimizer {
 public:
  explicit Adam(const OptimizerConfig& config)
      : config_(config),
        lazy_(config.kind == "lazy_adam"),
        adamax_(config.kind == "adamax"),
        amsgrad_(config.kind == "amsgrad") {}
  int64_t StateFloats(int64_t dim) const override {
    return (amsgrad_ ? 3 : 2) * dim + 1;
  }
  void InitState(float* state, int64_t dim) const override {
    std::fill(state, state + StateFloats(dim), 0.0F);
  }
  void Apply(const ApplyBatch& batch) const override {
    const double rate = config_.learning_rate * batch.learning_rate_factor;
    const auto epsilon = static_cast<float>(config_.epsilon);
    const auto step = static_cast<uint64_t>(lazy_ ? 0 : batch.step);
    if (adamax_) {
      RunRowLoop(AdamaxFn{rate, config_.beta1,
                          static_cast<float>(config_.beta2), epsilon, step},
                 batch);
    } else if (amsgrad_) {
      RunRowLoop(
          AdamFn<true>{rate, config_.beta1, config_.beta2, epsilon, step},
          batch);
    } else {
      RunRowLoop(
          AdamFn<false>{rate, config_.beta1, config_.beta2, epsilon, step},
          batch);
    }
  }

 private:
  OptimizerConfig config_;
  bool lazy_;
  bool adamax_;
  bool amsgrad_;
};

StatusOr<std::unique_ptr<Optimizer>> CreateAdam(const OptimizerConfig& config) {
  if (config.beta1 >= 1 || config.beta2 >= 1) {
    return InvalidArgumentError(StrCat("optimizer '", config.kind,
                                       "': beta1 and beta2 must be below 1"));
  }
  if (config.epsilon == 0) {
    return InvalidArgumentError(
        StrCat("optimizer '", config.kind, "': epsilon must be above 0"));
  }
  return std::unique_ptr<Optimizer>(std::make_unique<Adam>(config));
}

SHOAL_REGISTER_OPTIMIZER(&CreateAdam, "adam", "lazy_adam", "amsgrad", "adamax");

}  // namespace
}  // namespace shoal::ps
