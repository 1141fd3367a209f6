#ifndef SHOAL_KERNELS_LOOPS_IMPL_H_
#define SHOAL_KERNELS_LOOPS_IMPL_H_

// The inner loops, compiled once for each instruction set. Everything is in an
// anonymous namespace or forced inline, so that code for one instruction set is
// never linked into another's; for the same reason nothing from std is called.
//
// The includer defines SHOAL_LOOPS_FUNCTION.
#include <cstdint>

#include "kernels/lanes_impl.h"
#include "kernels/loops.h"

// After lanes_impl.h, which they use.
#include "kernels/elementwise_impl.h"
#include "kernels/embedding_impl.h"
#include "kernels/interaction_impl.h"
#include "kernels/reduce_impl.h"
#include "kernels/softmax_impl.h"

namespace shoal {
namespace {

constexpr Loops kLoops = {
    .elementwise =
        {
#define SHOAL_ELEMENTWISE(op, fn, inputs, outputs) \
  &ElementwiseRange<functors::fn, inputs, false, outputs>,
#define SHOAL_ELEMENTWISE_FLOAT(op, fn, inputs) \
  &ElementwiseRange<functors::fn, inputs, true, 1>,
#define SHOAL_ELEMENTWISE_SCALAR(op, fn, inputs) \
  &ElementwiseRange<functors::fn, inputs, true, 1>,
#include "kernels/elementwise_ops.inc"
#undef SHOAL_ELEMENTWISE
#undef SHOAL_ELEMENTWISE_FLOAT
#undef SHOAL_ELEMENTWISE_SCALAR
        },
    .add_n = &AddNRange,
    .bias_add = &BiasAddRows,
    .dropout = &DropoutRange,
    .sum = &SumRow,
    .dot = &DotRow,
    .column_sum = &ColumnSumRange,
    .max_index = &MaxIndex,
    .gather = &GatherRows,
    .scatter_add = &ScatterAdd,
    .bag_pool = &BagPoolRange,
    .fm = &FmRange,
    .fm_grad = &FmGradRange,
    .dot_interaction = &DotInteractionRange,
    .dot_interaction_grad = &DotInteractionGradRange,
    .softmax = &SoftmaxRows,
    .softmax_loss = &SoftmaxLossRows,
    .softmax_loss_grad = &SoftmaxLossGradRows,
};

}  // namespace

const Loops& SHOAL_LOOPS_FUNCTION() { return kLoops; }

}  // namespace shoal

#endif  // SHOAL_KERNELS_LOOPS_IMPL_H_
