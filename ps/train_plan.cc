#include "ps/train_plan.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace shoal::ps {

bool TrainPlan::EvaluatesAt(int64_t step) const {
  return has_test &&
         (step == total_steps ||
          (eval_every_epoch && step > 0 && step % steps_per_epoch == 0) ||
          (eval_every_steps > 0 && step > 0 && step % eval_every_steps == 0));
}

bool TrainPlan::SavesAt(int64_t step) const {
  return step == total_steps || (checkpoint_every_steps > 0 && step > 0 &&
                                 step % checkpoint_every_steps == 0);
}

int64_t TrainPlan::NextBoundary(int64_t step) const {
  int64_t next = total_steps;
  const auto consider = [&](int64_t every) {
    if (every > 0) {
      next = std::min(next, (step / every + 1) * every);
    }
  };
  consider(has_test && eval_every_epoch ? steps_per_epoch : 0);
  consider(has_test ? eval_every_steps : 0);
  consider(checkpoint_every_steps);
  return next;
}

double TrainPlan::LearningRateFactor(int64_t step) const {
  double factor = 1;
  const double progress =
      total_steps > 1 ? static_cast<double>(std::min(step, total_steps - 1)) /
                            static_cast<double>(total_steps - 1)
                      : 0;
  const int64_t every =
      schedule.every_steps > 0 ? schedule.every_steps : steps_per_epoch;
  const double fall = 1 - schedule.final_factor;
  switch (schedule.kind) {
    case Schedule::Kind::kConstant:
      break;
    case Schedule::Kind::kPolynomial:
      factor =
          schedule.final_factor + fall * std::pow(1 - progress, schedule.power);
      break;
    case Schedule::Kind::kCosine:
      factor = schedule.final_factor +
               fall * (1 + std::cos(std::numbers::pi * progress)) / 2;
      break;
    case Schedule::Kind::kStep:
      factor = std::pow(schedule.gamma, static_cast<double>(step / every));
      break;
    case Schedule::Kind::kExponential:
      factor = std::pow(schedule.gamma,
                        static_cast<double>(step) / static_cast<double>(every));
      break;
  }
  if (step < schedule.warmup_steps) {
    factor *= static_cast<double>(step + 1) /
              static_cast<double>(schedule.warmup_steps);
  }
  return factor;
}

}  // namespace shoal::ps
