#ifndef SHOAL_KERNELS_CUDA_DEVICE_H_
#define SHOAL_KERNELS_CUDA_DEVICE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/device.h"
#include "base/status.h"

namespace shoal {

// What there is of CUDA on this machine.
struct CudaReport {
  struct Gpu {
    std::string name;
    int major = 0;  // compute capability
    int minor = 0;
    int multiprocessors = 0;
    int64_t memory_bytes = 0;
    int64_t free_bytes = 0;
  };

  // Why no GPU can be used, and what to do. OK: `gpus` has one or more.
  Status status;
  std::string plugin;   // its path
  int driver = 0;       // 12040 is 12.4; 0: none
  int runtime = 0;      // of the toolkit that the plug-in was loaded with
  bool loaded = false;  // the plug-in
  std::vector<Gpu> gpus;
  // "NCCL 2.28.9", or why it can't be used.
  StatusOr<std::string> nccl =
      FailedPreconditionError("the plug-in does not load");
};

// Loads the plug-in unless it is loaded: SHOAL_CUDA_PLUGIN names another than
// libshoal_cuda.so beside the program. Thread-safe.
CudaReport ProbeCuda();

// Of this machine, one or more. Errors: kUnavailable (as CudaReport::status).
StatusOr<int> CountGpus();

struct CudaOptions {
  int gpu = 0;
  bool wrap = false;  // `gpu` modulo their number
  // Matrix products by cuBLASLt: faster, and with other bits than the CPU's.
  // Otherwise every kernel has the bits of its CPU twin.
  bool fast_math = false;
};

// A device "cuda" whose kernels are the plug-in's.
// Errors: kFailedPrecondition (why no GPU can be used: see CudaReport::status),
// kInvalidArgument (no such GPU: says how many there are).
StatusOr<std::unique_ptr<Device>> OpenCudaDevice(const CudaOptions& options);

}  // namespace shoal

#endif  // SHOAL_KERNELS_CUDA_DEVICE_H_
