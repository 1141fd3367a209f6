#include "ps/optimizers/row_loop.h"

namespace shoal::ps {
namespace {

struct SgdFn {
  float rate;
  SHOAL_ROW_FN(float* __restrict row, const float* __restrict gradient,
               int64_t dim)
  const {
    for (int64_t j = 0; j < dim; ++j) {
      row[j] -= rate * gradient[j];
    }
  }
};

// w -= rate g.
class Sgd : public Optimizer {
 public:
  explicit Sgd(const OptimizerConfig& config) : rate_(config.learning_rate) {}
  int64_t StateFloats(int64_t /*dim*/) const override { return 0; }
  void InitState(float* /*state*/, int64_t /*dim*/) const override {}
  void Apply(const ApplyBatch& batch) const override {
    RunRowLoop(SgdFn{static_cast<float>(rate_ * batch.learning_rate_factor)},
               batch);
  }

 private:
  double rate_;
};

StatusOr<std::unique_ptr<Optimizer>> CreateSgd(const OptimizerConfig& config) {
  return std::unique_ptr<Optimizer>(std::make_unique<Sgd>(config));
}

SHOAL_REGISTER_OPTIMIZER(&CreateSgd, "sgd");

}  // namespace
}  // namespace shoal::ps
