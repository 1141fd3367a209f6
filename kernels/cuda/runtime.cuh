#ifndef SHOAL_KERNELS_CUDA_RUNTIME_CUH_
#define SHOAL_KERNELS_CUDA_RUNTIME_CUH_

// What the plug-in's parts share: contexts, streams, faults, launches. Compiled
// by nvcc, and by g++ against the stand-in cuda_runtime.h of tests/cuda/shim.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/table.h"

namespace shoal::cuda {

// Errors that are not cudaError_t. Those of cuBLASLt are kBlasError + status.
inline constexpr int kArgumentsError = 1000001;
inline constexpr int kNcclError = 1000002;  // comes with a text of its own
inline constexpr int kBlasError = 2000000;

#define SHOAL_CUDA_TRY(expression)                          \
  if (const int shoal_error = static_cast<int>(expression); \
      shoal_error != 0) {                                   \
    return shoal_error;                                     \
  }

// Keeps `detail` for error_text(error) on this thread and gives `error` back.
int Fail(int error, std::string detail);

// A fault in host memory that the GPU writes.
struct FaultRecord {
  const char* label;
  const char* op;
  const char* what;
  int64_t position;
  double value;
  double low;
  double bound;
  int32_t set;
};

// What a kernel reports a fault to. The names are the host's, which the GPU
// only passes on.
struct FaultSink {
  FaultRecord* record;
  int* claimed;  // in the memory of the GPU
  const char* label;
  const char* op;
  const char* what;
};

// One of the threads that find something is the one that reports.
__device__ __forceinline__ void Report(const FaultSink& sink, int64_t position,
                                       double value, double low, double bound) {
  if (atomicCAS(sink.claimed, 0, 1) != 0) {
    return;
  }
  *sink.record = {sink.label, sink.op, sink.what, position,
                  value,      low,     bound,     1};
}

// A record and its flag. A graph has its own, since it runs on other streams
// than it was captured on.
struct FaultSlot {
  ~FaultSlot();
  FaultRecord* record = nullptr;
  int* claimed = nullptr;
};

// A graph in the making, and the streams that joined it.
struct Capture {
  std::shared_ptr<FaultSlot> faults;
  std::vector<ShoalCudaStream*> streams;
};

}  // namespace shoal::cuda

struct ShoalCudaContext {
  int device = 0;
  int multiprocessors = 1;
  cudaMemPool_t pool = nullptr;
  // Idle but for allocations, so that one that has returned is usable on any
  // stream at once.
  cudaStream_t allocating = nullptr;
  // Waits for what all streams were to do before a release.
  cudaStream_t releasing = nullptr;
  cudaEvent_t mark = nullptr;

  // Guards the following, and streams from entering or leaving a capture while
  // a release marks what they have to do.
  std::mutex mutex;
  std::vector<ShoalCudaStream*> streams;
};

struct ShoalCudaStream {
  ShoalCudaContext* context = nullptr;
  ShoalCudaMath math = SHOAL_CUDA_EXACT;
  cudaStream_t stream = nullptr;
  cudaEvent_t reached = nullptr;      // for synchronize()
  shoal::cuda::Blas* blas = nullptr;  // of fast streams
  std::shared_ptr<shoal::cuda::FaultSlot> faults;
  // Of the graphs launched since the last synchronize().
  std::vector<std::shared_ptr<shoal::cuda::FaultSlot>> faults_of_graphs;
  std::shared_ptr<shoal::cuda::Capture> capture;
  const char* op = "";  // enqueued last
  const char* label = nullptr;
};

struct ShoalCudaEvent {
  ShoalCudaContext* context = nullptr;
  cudaEvent_t event = nullptr;
  std::shared_ptr<shoal::cuda::Capture> capture;
};

struct ShoalCudaGraph {
  ShoalCudaContext* context = nullptr;
  cudaGraphExec_t exec = nullptr;
  std::shared_ptr<shoal::cuda::FaultSlot> faults;
};

namespace shoal::cuda {

inline FaultSink Sink(const ShoalCudaStream& stream, const char* what) {
  const FaultSlot& slot =
      stream.capture != nullptr ? *stream.capture->faults : *stream.faults;
  return {slot.record, slot.claimed, stream.label, stream.op, what};
}

template <typename T>
T* As(const ShoalCudaTensor& tensor) {
  return static_cast<T*>(tensor.data);
}

inline int64_t NumElements(const ShoalCudaTensor& tensor) {
  int64_t n = 1;
  for (int axis = 0; axis < tensor.rank; ++axis) {
    n *= tensor.dims[axis];
  }
  return n;
}

// As of shoal::Shape.
inline int64_t Last(const ShoalCudaTensor& tensor) {
  return tensor.rank == 0 ? 1 : tensor.dims[tensor.rank - 1];
}
inline int64_t NumRows(const ShoalCudaTensor& tensor) {
  return tensor.rank == 0
             ? 1
             : NumElements(tensor) / std::max<int64_t>(1, Last(tensor));
}

__host__ __device__ constexpr int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
__host__ __device__ constexpr int64_t AlignUp(int64_t bytes) {
  return CeilDiv(bytes, 256) * 256;
}

inline constexpr int kThreads = 256;

// Kernels go through what is beyond the grid in strides, so that none is too
// large.
inline int64_t Blocks(int64_t items, int64_t items_per_block = kThreads) {
  constexpr int64_t kBlocksMax = int64_t{1} << 20;
  return std::min(CeilDiv(items, items_per_block), kBlocksMax);
}

// Enqueues `kernel`; nothing if there are no blocks.
template <typename... Parameters, typename... Arguments>
int Launch(ShoalCudaStream& stream, int64_t blocks, int threads,
           void (*kernel)(Parameters...), Arguments... arguments) {
  if (blocks <= 0) {
    return 0;
  }
  // The error of an earlier call, which its caller was told, is not this one's.
  cudaGetLastError();
#if defined(__CUDACC__)
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), 0,
           stream.stream>>>(static_cast<Parameters>(arguments)...);
#else
  shim::Launch(stream.stream, stream.op, blocks, threads,
               [=] { kernel(static_cast<Parameters>(arguments)...); });
#endif
  return cudaGetLastError();
}

// This thread's first item and the step to its next one.
__device__ __forceinline__ int64_t FirstItem() {
  return int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t ItemStep() {
  return int64_t{gridDim.x} * blockDim.x;
}

struct RowColumn {
  int64_t row;
  int64_t column;
};

// Dividing 64 bits takes several times as long as 32.
__device__ __forceinline__ RowColumn Split(int64_t i, int64_t n) {
  if (((i | n) >> 32) == 0) {
    const auto small = static_cast<uint32_t>(i);
    const uint32_t row = small / static_cast<uint32_t>(n);
    return {row, small - row * static_cast<uint32_t>(n)};
  }
  return {i / n, i % n};
}

}  // namespace shoal::cuda

#endif  // SHOAL_KERNELS_CUDA_RUNTIME_CUH_
