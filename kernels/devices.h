#ifndef SHOAL_KERNELS_DEVICES_H_
#define SHOAL_KERNELS_DEVICES_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/device.h"
#include "base/status.h"

namespace shoal {

struct DeviceOptions {
  // "cpu", "cuda" (the GPU number `rank` modulo their number), "cuda:1",
  // "shadow", or "auto": a GPU where one can be used, else the CPU.
  std::string name = "cpu";
  int rank = 0;  // of this process among those of its host
  bool fast_math = false;
  uint64_t seed = 0;  // of shadow's delays
};

// `pool` must outlive the device; "shadow" makes its own of the same size.
// Errors: kInvalidArgument (a name that is none of these), those of
// OpenCudaDevice().
StatusOr<std::unique_ptr<Device>> OpenDevice(const DeviceOptions& options,
                                             ThreadPool& pool);

// Errors: kInvalidArgument.
Status CheckDeviceName(const std::string& name);

}  // namespace shoal

#endif  // SHOAL_KERNELS_DEVICES_H_
