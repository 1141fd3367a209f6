#ifndef SHOAL_WORKER_INPUT_FEATURE_FIT_H_
#define SHOAL_WORKER_INPUT_FEATURE_FIT_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "worker/input/feature_plan.h"

namespace shoal::worker {

// Learns means, quantiles and vocabularies from the training rows, which are
// shown to it in order, `num_stages()` times over. The result depends on the
// rows and their order alone.
class FeatureFit {
 public:
  // `plan` must outlive this object.
  explicit FeatureFit(const FeaturePlan& plan);
  ~FeatureFit();

  int num_stages() const;  // 0 .. 2

  // `train[i]`: whether row i of the block is a training row.
  void AddBlock(const RawBlock& block, const std::vector<uint8_t>& train,
                ThreadPool& pool);

  // Between the passes over the rows, and after the last.
  // Errors: kResourceExhausted (a vocabulary outgrew its bound).
  Status EndStage();

  const FittedTransforms& fitted() const { return fitted_; }

 private:
  struct Learner;

  const FeaturePlan& plan_;
  int stage_ = 0;
  std::vector<std::unique_ptr<Learner>> learners_;  // by node, or null
  FittedTransforms fitted_;
  std::unique_ptr<FeatureTransforms> transforms_;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_FEATURE_FIT_H_
