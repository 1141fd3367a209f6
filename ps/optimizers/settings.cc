#include "ps/optimizers/settings.h"

#include <cmath>
#include <utility>
#include <vector>

#include "ps/optimizers/row_loop.h"

namespace shoal::ps {
namespace {

struct SettingsFn {
  const float* from;  // the gradients of the first row
  float* to;          // as many
  float clip_value;
  double clip_norm;
  float coupled;
  float decoupled;
  SHOAL_ROW_FN(float* __restrict row, const float* __restrict gradient,
               int64_t dim)
  const {
    float* __restrict out = to + (gradient - from);
    for (int64_t j = 0; j < dim; ++j) {
      out[j] = gradient[j];
    }
    if (clip_value > 0) {
      for (int64_t j = 0; j < dim; ++j) {
        const float high = out[j] > clip_value ? clip_value : out[j];
        out[j] = high < -clip_value ? -clip_value : high;
      }
    }
    if (clip_norm > 0) {
      const double norm = std::sqrt(SumOfSquares(out, dim));
      if (norm > clip_norm) {
        const auto scale = static_cast<float>(clip_norm / norm);
        for (int64_t j = 0; j < dim; ++j) {
          out[j] *= scale;
        }
      }
    }
    if (coupled > 0) {
      for (int64_t j = 0; j < dim; ++j) {
        out[j] += coupled * row[j];
      }
    }
    if (decoupled > 0) {
      for (int64_t j = 0; j < dim; ++j) {
        row[j] -= decoupled * row[j];
      }
    }
  }
};

class Settings : public Optimizer {
 public:
  Settings(const OptimizerConfig& config, std::unique_ptr<Optimizer> optimizer)
      : config_(config), optimizer_(std::move(optimizer)) {}
  int64_t StateFloats(int64_t dim) const override {
    return optimizer_->StateFloats(dim);
  }
  void InitState(float* state, int64_t dim) const override {
    optimizer_->InitState(state, dim);
  }
  void Apply(const ApplyBatch& batch) const override {
    // Of the thread, since an optimizer has none of its own to change.
    thread_local std::vector<float> gradients;
    gradients.resize(static_cast<size_t>(batch.num_rows * batch.dim));
    const double decay = config_.weight_decay;
    const double rate = config_.learning_rate * batch.learning_rate_factor;
    RunRowLoop(
        SettingsFn{
            .from = batch.gradients,
            .to = gradients.data(),
            .clip_value = static_cast<float>(config_.clip_value),
            .clip_norm = config_.clip_norm,
            .coupled = config_.decoupled ? 0.0F : static_cast<float>(decay),
            .decoupled =
                config_.decoupled ? static_cast<float>(rate * decay) : 0.0F},
        batch);
    ApplyBatch changed = batch;
    changed.gradients = gradients.data();
    optimizer_->Apply(changed);
  }

 private:
  OptimizerConfig config_;
  std::unique_ptr<Optimizer> optimizer_;
};

}  // namespace

std::unique_ptr<Optimizer> WithSettings(const OptimizerConfig& config,
                                        std::unique_ptr<Optimizer> optimizer) {
  if (config.weight_decay == 0 && config.clip_value == 0 &&
      config.clip_norm == 0) {
    return optimizer;
  }
  return std::make_unique<Settings>(config, std::move(optimizer));
}

}  // namespace shoal::ps
