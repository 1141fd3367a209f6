#ifndef SHOAL_KERNELS_DEVICES_H_
#define SHOAL_KERNELS_DEVICES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/device.h"
#include "base/status.h"

namespace shoal {

struct DeviceOptions {
  // "cpu", "cuda" (the GPU number `rank` times `count`, modulo their number),
  // "cuda:1", "shadow", or "auto": a GPU where one can be used, else the CPU.
  std::string name = "cpu";
  int rank = 0;   // of this process among those of its host
  int count = 1;  // of GPUs, whose numbers follow one another
  bool fast_math = false;
  uint64_t seed = 0;  // of shadow's delays
};

// `count` devices, but one where it is the CPU. `pool` must outlive them;
// "shadow" makes its own of the same size.
// Errors: kInvalidArgument (a name that is none of these; fewer GPUs than
// `count`), those of OpenCudaDevice().
StatusOr<std::vector<std::unique_ptr<Device>>> OpenDevices(
    const DeviceOptions& options, ThreadPool& pool);

// Errors: kInvalidArgument.
Status CheckDeviceName(const std::string& name);

}  // namespace shoal

#endif  // SHOAL_KERNELS_DEVICES_H_
