#ifndef SHOAL_PS_TRAIN_PLAN_H_
#define SHOAL_PS_TRAIN_PLAN_H_

#include <cstdint>
#include <vector>

namespace shoal::ps {

// Factor on every learning rate as a function of the step.
struct Schedule {
  enum class Kind : uint8_t {
    kConstant,
    kPolynomial,
    kCosine,
    kStep,
    kExponential
  };
  Kind kind = Kind::kConstant;
  int64_t warmup_steps = 0;  // in which it rises linearly from 0
  double final_factor = 0;   // kPolynomial, kCosine: at the last step
  double power = 1;          // kPolynomial; 1 is linear
  // kStep, kExponential: times `gamma` in `every_steps`; 0: an epoch.
  double gamma = 0.5;
  int64_t every_steps = 0;
};

// What happens at which step; a function of the job and its data alone.
struct TrainPlan {
  int64_t total_steps = 0;
  int64_t steps_per_epoch = 1;
  bool has_test = true;  // there is a test part to evaluate on
  bool eval_every_epoch = true;
  int64_t eval_every_steps = 0;        // 0: no
  int64_t checkpoint_every_steps = 0;  // 0: only at the end
  Schedule schedule;

  bool EvaluatesAt(int64_t step) const;
  bool SavesAt(int64_t step) const;
  // The first step after `step` at which anything but training happens.
  int64_t NextBoundary(int64_t step) const;
  double LearningRateFactor(int64_t step) const;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_TRAIN_PLAN_H_
