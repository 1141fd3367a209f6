#ifndef SHOAL_PS_STEP_NORMS_H_
#define SHOAL_PS_STEP_NORMS_H_

#include "ps/dense_layout.h"
#include "ps/dense_store.h"
#include "ps/global_phase.h"
#include "ps/step_stage.h"

namespace shoal::ps {

// A shard's part of what the step leader needs to know of a step: `sum` is of
// the slots of `portion`, whose chunks `dense` has at the values before the
// step; gradients are `loss_scale` times what they say. A function of these
// alone, so that who prepares a step again says the same.
StepNorms NormsOf(const Piece& sum, const Portion& portion,
                  const DenseStore& dense, double loss_scale);

// All gradients times `factor`, which is taken to f32 first; ids are shared.
Piece Scaled(const Piece& piece, double factor);

}  // namespace shoal::ps

#endif  // SHOAL_PS_STEP_NORMS_H_
