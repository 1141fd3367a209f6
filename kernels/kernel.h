#ifndef SHOAL_KERNELS_KERNEL_H_
#define SHOAL_KERNELS_KERNEL_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "base/device.h"
#include "base/dtype.h"
#include "base/registry.h"
#include "base/status.h"
#include "kernels/shape.h"

namespace shoal {

// Memory that somebody else owns, seen as a dense row-major tensor.
struct TensorView {
  void* data = nullptr;
  Shape shape;
  DType dtype = DType::kF32;

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  int64_t num_elements() const { return shape.num_elements(); }
};

// What a kernel gets: plain memory, sizes and numbers, nothing of the graph.
// Shapes and dtypes are those that the op's shape rule allows; a kernel does
// not check them again. The meaning of `ints` and `floats` is the op's (see its
// OpDef in graph/ops).
struct KernelArgs {
  std::span<const TensorView> inputs;
  std::span<const TensorView> outputs;
  std::span<const int64_t> ints;
  std::span<const double> floats;
  std::span<std::byte> workspace;  // as many bytes as WorkspaceBytes() asked
  // Before the text of an error that the data shows only later; lives as long
  // as the kernel may run. May be null.
  const char* label = nullptr;
};

// Enqueues the work on `stream` and may return before it is done. Never
// allocates. Outputs do not overlap inputs unless the op allows it.
// Errors: kInvalidArgument for what only the data shows (an index out of
// range), naming element and bound; outputs are then unspecified. Where kernels
// end later, Synchronize() gives it, after the label.
using KernelFn = std::function<Status(const KernelArgs& args, Stream& stream)>;

// Scratch memory for the largest shapes of a plan; null when none is needed.
using WorkspaceFn = std::function<int64_t(
    std::span<const TensorView> inputs, std::span<const TensorView> outputs,
    std::span<const int64_t> ints, int num_threads)>;

struct Kernel {
  KernelFn run;
  WorkspaceFn workspace_bytes;
};

// Kernels that are linked in, by "device/Op": "cpu/MatMul".
Registry<Kernel>& KernelRegistry();

using KernelMap = std::map<std::string, Kernel, std::less<>>;  // by op

// Adds the kernels of a device that is found at run time (of a plug-in, or made
// of those of another device). They stay; a second call for a device changes
// nothing. Thread-safe.
void AddKernels(std::string_view device, KernelMap kernels);

// A kernel of either kind, which lives as long as the program. Thread-safe.
// Errors: kNotFound.
StatusOr<const Kernel*> FindKernel(std::string_view device,
                                   std::string_view op);

#define SHOAL_REGISTER_KERNEL(device, op, ...)                        \
  [[maybe_unused]] static const bool SHOAL_CONCAT(kernel_registered_, \
                                                  __COUNTER__) =      \
      ::shoal::KernelRegistry().Add(device "/" #op,                   \
                                    ::shoal::Kernel{__VA_ARGS__}, __FILE__)

}  // namespace shoal

#endif  // SHOAL_KERNELS_KERNEL_H_
