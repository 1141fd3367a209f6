#ifndef SHOAL_PS_OPTIMIZERS_SETTINGS_H_
#define SHOAL_PS_OPTIMIZERS_SETTINGS_H_

#include <memory>

#include "ps/optimizer.h"

namespace shoal::ps {

// What every optimizer can be given beside its own numbers. A row and its
// gradient are changed before `optimizer` sees them, in this order:
//   clip_value      g = g, at least -clip_value and at most clip_value
//   clip_norm       g = g min(1, clip_norm / |g|), |g| over the row
//   weight_decay    g = g + weight_decay w; if `decoupled`, instead
//                   w = w - rate weight_decay w (Loshchilov and Hutter 2019)
// Rows of tables decay when they are updated, no others. Returns `optimizer`
// itself where none is set.
std::unique_ptr<Optimizer> WithSettings(const OptimizerConfig& config,
                                        std::unique_ptr<Optimizer> optimizer);

}  // namespace shoal::ps

#endif  // SHOAL_PS_OPTIMIZERS_SETTINGS_H_
