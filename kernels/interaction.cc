#include <algorithm>

#include "base/thread_pool.h"
#include "kernels/kernel.h"
#include "kernels/loops.h"

namespace shoal {
namespace {

FieldVectors VectorsOf(const TensorView& x) {
  return {.x = x.as<const float>(),
          .fields = x.shape.dim(1),
          .dim = x.shape.dim(2)};
}

// Splits the examples so that a task does about `kWork` multiplications.
template <typename Body>
void ForExamples(int64_t examples, int64_t work_per_example, Stream& stream,
                 const Body& body) {
  constexpr int64_t kWork = 65536;
  const int64_t grain =
      std::max<int64_t>(1, kWork / std::max<int64_t>(1, work_per_example));
  stream.pool()->ParallelFor(examples, grain, body);
}

Status FmInteraction(const KernelArgs& args, Stream& stream) {
  const FieldVectors v = VectorsOf(args.inputs[0]);
  float* const y = args.outputs[0].as<float>();
  const Loops& loops = ActiveLoops();
  ForExamples(args.inputs[0].shape.dim(0), 2 * v.fields * v.dim, stream,
              [&](int64_t begin, int64_t end) { loops.fm(v, begin, end, y); });
  return OkStatus();
}

Status FmInteractionGrad(const KernelArgs& args, Stream& stream) {
  const FieldVectors v = VectorsOf(args.inputs[0]);
  const float* const dy = args.inputs[1].as<const float>();
  float* const dx = args.outputs[0].as<float>();
  const Loops& loops = ActiveLoops();
  ForExamples(args.inputs[0].shape.dim(0), 2 * v.fields * v.dim, stream,
              [&](int64_t begin, int64_t end) {
                loops.fm_grad(v, dy, begin, end, dx);
              });
  return OkStatus();
}

Status DotInteraction(const KernelArgs& args, Stream& stream) {
  const FieldVectors v = VectorsOf(args.inputs[0]);
  float* const y = args.outputs[0].as<float>();
  const Loops& loops = ActiveLoops();
  ForExamples(args.inputs[0].shape.dim(0), v.fields * v.fields * v.dim, stream,
              [&](int64_t begin, int64_t end) {
                loops.dot_interaction(v, begin, end, y);
              });
  return OkStatus();
}

Status DotInteractionGrad(const KernelArgs& args, Stream& stream) {
  const FieldVectors v = VectorsOf(args.inputs[0]);
  const float* const dy = args.inputs[1].as<const float>();
  float* const dx = args.outputs[0].as<float>();
  const Loops& loops = ActiveLoops();
  ForExamples(args.inputs[0].shape.dim(0), v.fields * v.fields * v.dim, stream,
              [&](int64_t begin, int64_t end) {
                loops.dot_interaction_grad(v, dy, begin, end, dx);
              });
  return OkStatus();
}

SHOAL_REGISTER_KERNEL("cpu", FmInteraction, .run = &FmInteraction);
SHOAL_REGISTER_KERNEL("cpu", FmInteractionGrad, .run = &FmInteractionGrad);
SHOAL_REGISTER_KERNEL("cpu", DotInteraction, .run = &DotInteraction);
SHOAL_REGISTER_KERNEL("cpu", DotInteractionGrad, .run = &DotInteractionGrad);

}  // namespace
}  // namespace shoal
