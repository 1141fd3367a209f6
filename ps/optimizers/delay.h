#ifndef SHOAL_PS_OPTIMIZERS_DELAY_H_
#define SHOAL_PS_OPTIMIZERS_DELAY_H_

#include <memory>

#include "ps/optimizer.h"

namespace shoal::ps {

// Delay compensation with an adaptive lambda (DC-ASGD-a, Zheng et al. 2017,
// algorithm 2 and equation 14), in front of `optimizer`, which is given
//   g + lambda g^2 (w - b),  lambda = delay_compensation / sqrt(s + 1e-7),
// where b are the values that g was computed from (ApplyBatch::computed_from)
// and s = m s + (1 - m) g^2 with m = delay_decay. State: the optimizer's, then
// s, from 0. Returns `optimizer` itself where there is none to do.
std::unique_ptr<Optimizer> WithDelayCompensation(
    const OptimizerConfig& config, std::unique_ptr<Optimizer> optimizer);

}  // namespace shoal::ps

#endif  // SHOAL_PS_OPTIMIZERS_DELAY_H_
