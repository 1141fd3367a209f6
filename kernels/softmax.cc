#include <algorithm>

#include "base/strcat.h"
#include "base/thread_pool.h"
#include "kernels/kernel.h"
#include "kernels/loops.h"

namespace shoal {
namespace {

int64_t RowsPerTask(int64_t classes) {
  return std::max<int64_t>(1, 8192 / std::max<int64_t>(1, classes));
}

// Errors: kInvalidArgument, naming the first label that is no class.
Status CheckLabels(const char* op, const TensorView& labels, int64_t classes) {
  const float* const label = labels.as<const float>();
  for (int64_t r = 0; r < labels.num_elements(); ++r) {
    // NaN fails the first comparison; what passes fits an int64.
    if (!(label[r] >= 0.0F && label[r] < static_cast<float>(classes)) ||
        static_cast<float>(static_cast<int64_t>(label[r])) != label[r]) {
      return InvalidArgumentError(StrCat(op, ": labels[", r, "] is ", label[r],
                                         ", not a class in [0, ", classes,
                                         ")"));
    }
  }
  return OkStatus();
}

Status Softmax(const KernelArgs& args, Stream& stream) {
  const int64_t classes = args.inputs[0].shape.dim(1);
  const float* const logits = args.inputs[0].as<const float>();
  float* const y = args.outputs[0].as<float>();
  const Loops& loops = ActiveLoops();
  stream.pool()->ParallelFor(args.inputs[0].shape.dim(0), RowsPerTask(classes),
                             [&](int64_t begin, int64_t end) {
                               loops.softmax(logits, classes, begin, end, y);
                             });
  return OkStatus();
}

Status SoftmaxCrossEntropy(const KernelArgs& args, Stream& stream) {
  const int64_t classes = args.inputs[0].shape.dim(1);
  SHOAL_RETURN_IF_ERROR(
      CheckLabels("SoftmaxCrossEntropy", args.inputs[1], classes));
  const float* const logits = args.inputs[0].as<const float>();
  const float* const labels = args.inputs[1].as<const float>();
  float* const loss = args.outputs[0].as<float>();
  const Loops& loops = ActiveLoops();
  stream.pool()->ParallelFor(args.inputs[0].shape.dim(0), RowsPerTask(classes),
                             [&](int64_t begin, int64_t end) {
                               loops.softmax_loss(logits, labels, classes,
                                                  begin, end, loss);
                             });
  return OkStatus();
}

Status SoftmaxCrossEntropyGrad(const KernelArgs& args, Stream& stream) {
  const int64_t classes = args.inputs[0].shape.dim(1);
  SHOAL_RETURN_IF_ERROR(
      CheckLabels("SoftmaxCrossEntropyGrad", args.inputs[1], classes));
  const float* const logits = args.inputs[0].as<const float>();
  const float* const labels = args.inputs[1].as<const float>();
  const float* const dloss = args.inputs[2].as<const float>();
  float* const dlogits = args.outputs[0].as<float>();
  const Loops& loops = ActiveLoops();
  stream.pool()->ParallelFor(args.inputs[0].shape.dim(0), RowsPerTask(classes),
                             [&](int64_t begin, int64_t end) {
                               loops.softmax_loss_grad(logits, labels, dloss,
                                                       classes, begin, end,
                                                       dlogits);
                             });
  return OkStatus();
}

SHOAL_REGISTER_KERNEL("cpu", Softmax, .run = &Softmax);
SHOAL_REGISTER_KERNEL("cpu", SoftmaxCrossEntropy, .run = &SoftmaxCrossEntropy);
SHOAL_REGISTER_KERNEL("cpu", SoftmaxCrossEntropyGrad,
                      .run = &SoftmaxCrossEntropyGrad);

}  // namespace
}  // namespace shoal
