#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "tests/cuda/shim/cuda_runtime.h"

using Work = std::vector<std::function<cudaError_t()>>;

// How much of each stream's work comes before.
using Clock = std::map<const void*, int64_t>;

// A graph in the making, which streams and events share.
struct Capture {
  Work work;
  Clock done;  // of each stream, entering the capture included
  bool ended = false;
};

struct Captured {
  std::shared_ptr<Capture> capture;
  Clock before;  // as far as it is ordered after them

  bool is_capturing() const { return capture != nullptr && !capture->ended; }
};
struct CUstream_st : Captured {
  int device = 0;
};
struct CUevent_st : Captured {
  int device = 0;
};
struct CUgraph_st {
  Work work;
};
struct CUgraphExec_st {
  Work work;
};

struct CUmemPoolHandle_st {
  int device = 0;
  uint64_t used_max = 0;
};

namespace {

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  // Tests set it before they use what reads it.
  const char* const text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
  return text == nullptr ? otherwise : std::atoll(text);
}

constexpr int kRuntime = 13000;

int64_t Driver() { return FromEnvironment("SHOAL_SHIM_DRIVER", kRuntime); }
int64_t MemoryBytes() {
  return FromEnvironment("SHOAL_SHIM_MEMORY_BYTES", int64_t{4} << 30);
}

struct Device {
  std::mutex mutex;
  std::map<void*, size_t> allocations;
  size_t used = 0;
  // Of a kernel that failed: nothing works afterwards.
  cudaError_t sticky = cudaSuccess;
  std::string sticky_text;
};

constexpr int kDevicesMax = 16;

Device& DeviceOf(int number) {
  static Device devices[kDevicesMax];
  return devices[number];
}

thread_local cudaError_t t_last = cudaSuccess;
thread_local int t_device = 0;  // cudaSetDevice()'s

Device& TheDevice() { return DeviceOf(t_device); }

cudaError_t Result(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) {
    t_last = error;
  }
  return error;
}

cudaError_t Health() {
  Device& device = TheDevice();
  const std::lock_guard lock(device.mutex);
  return Result(device.sticky);
}

cudaError_t CheckDevice(int device) {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count);
      error != cudaSuccess) {
    return error;
  }
  return Result(device >= 0 && device < count ? cudaSuccess
                                              : cudaErrorInvalidDevice);
}

// Filled with what is NaN as f32 and far out as an index, so that what reads
// memory before it writes it shows.
cudaError_t Allocate(void** data, size_t bytes) {
  Device& device = TheDevice();
  const std::lock_guard lock(device.mutex);
  constexpr size_t kAlignment = 256;
  if (device.used + bytes > static_cast<size_t>(MemoryBytes()) ||
      posix_memalign(data, kAlignment, std::max<size_t>(bytes, 1)) != 0) {
    return Result(cudaErrorMemoryAllocation);
  }
  std::memset(*data, 0xff, bytes);
  device.allocations[*data] = bytes;
  device.used += bytes;
  return Result(device.sticky);
}

// The number of the GPU whose memory it is; -1: it is the host's.
int OwnerOf(const void* data) {
  for (int i = 0; i < kDevicesMax; ++i) {
    Device& device = DeviceOf(i);
    const std::lock_guard lock(device.mutex);
    auto it = device.allocations.upper_bound(const_cast<void*>(data));
    if (it != device.allocations.begin() &&
        static_cast<const char*>(data) <
            static_cast<const char*>((--it)->first) +
                std::max<size_t>(it->second, 1)) {
      return i;
    }
  }
  return -1;
}

// Of any device, whichever is current.
cudaError_t Free(void* data) {
  const int owner = OwnerOf(data);
  if (owner < 0) {
    return Result(data == nullptr ? cudaSuccess : cudaErrorInvalidValue);
  }
  Device& device = DeviceOf(owner);
  const std::lock_guard lock(device.mutex);
  const auto it = device.allocations.find(data);
  if (it == device.allocations.end()) {
    return Result(cudaErrorInvalidValue);
  }
  device.used -= it->second;
  device.allocations.erase(it);
  std::free(data);
  return Result(device.sticky);
}

// As on GPUs that can't reach each other's memory.
bool CanReach(int device, const void* data) {
  const int owner = OwnerOf(data);
  return owner < 0 || owner == device;
}

}  // namespace

namespace shim {

cudaError_t Enqueue(cudaStream_t stream, std::function<cudaError_t()> work) {
  if (stream->device != t_device) {
    return Result(cudaErrorInvalidResourceHandle);
  }
  if (stream->is_capturing()) {
    stream->capture->work.push_back(std::move(work));
    stream->before[stream] = ++stream->capture->done[stream];
    return cudaSuccess;
  }
  if (const cudaError_t error = Health(); error != cudaSuccess) {
    return error;
  }
  return Result(work());
}

void Launch(cudaStream_t stream, const char* name, int64_t blocks, int threads,
            std::function<void()> body) {
  Enqueue(stream, [=, body = std::move(body)] {
    std::string error = RunGrid(name, blocks, threads, body);
    if (error.empty()) {
      return cudaSuccess;
    }
    Device& device = TheDevice();
    const std::lock_guard lock(device.mutex);
    device.sticky = cudaErrorLaunchFailure;
    device.sticky_text = "unspecified launch failure: " + std::move(error);
    return cudaErrorLaunchFailure;
  });
}

}  // namespace shim

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorLaunchFailure: {
      // Set once.
      const std::lock_guard lock(TheDevice().mutex);
      return TheDevice().sticky_text.c_str();
    }
    case cudaErrorNotSupported:
      return "operation not supported";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureUnjoined:
      return "capturing stream has unjoined work";
  }
  return "unrecognized error code";
}

cudaError_t cudaGetLastError() {
  const cudaError_t last = std::exchange(t_last, cudaSuccess);
  Health();
  return last;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = static_cast<int>(Driver());
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kRuntime;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  if (Driver() < kRuntime) {
    return Result(cudaErrorInsufficientDriver);
  }
  *count = static_cast<int>(
      std::min<int64_t>(kDevicesMax, FromEnvironment("SHOAL_SHIM_DEVICES", 1)));
  return cudaSuccess;
}

// Few multiprocessors, so that matrices of moderate size are enough for large
// tiles.
constexpr int kMultiprocessors = 2;

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (const cudaError_t error = CheckDevice(device); error != cudaSuccess) {
    return error;
  }
  *properties = {"stand-in GPU (the host)", 9, 0, kMultiprocessors, {}};
  properties->uuid.bytes[0] = static_cast<char>(device);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute,
                                   int device) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? kMultiprocessors : 1;
  return CheckDevice(device);
}

cudaError_t cudaInitDevice(int device, unsigned /*device_flags*/,
                           unsigned /*flags*/) {
  return CheckDevice(device);
}

cudaError_t cudaSetDevice(int device) {
  const cudaError_t error = CheckDevice(device);
  if (error == cudaSuccess) {
    t_device = device;
  }
  return error;
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool,
                              const cudaMemPoolProps* properties) {
  *pool = new CUmemPoolHandle_st{.device = properties->location.id};
  return CheckDevice(properties->location.id);
}

cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  delete pool;
  return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t /*pool*/,
                                    cudaMemPoolAttr /*attribute*/,
                                    void* /*value*/) {
  return cudaSuccess;
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool,
                                    cudaMemPoolAttr attribute, void* value) {
  Device& device = DeviceOf(pool->device);
  const std::lock_guard lock(device.mutex);
  const bool high = attribute == cudaMemPoolAttrReservedMemHigh ||
                    attribute == cudaMemPoolAttrUsedMemHigh;
  const uint64_t bytes = high ? pool->used_max : device.used;
  std::memcpy(value, &bytes, sizeof(bytes));
  return cudaSuccess;
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t /*pool*/, size_t /*bytes*/) {
  return cudaSuccess;
}

cudaError_t cudaMallocFromPoolAsync(void** data, size_t bytes,
                                    cudaMemPool_t pool, cudaStream_t stream) {
  if (stream->device != t_device || pool->device != t_device) {
    return Result(cudaErrorInvalidResourceHandle);
  }
  const cudaError_t error = Allocate(data, bytes);
  Device& device = TheDevice();
  const std::lock_guard lock(device.mutex);
  pool->used_max = std::max<uint64_t>(pool->used_max, device.used);
  return error;
}

cudaError_t cudaFreeAsync(void* data, cudaStream_t /*stream*/) {
  return Free(data);
}

cudaError_t cudaMalloc(void** data, size_t bytes) {
  return Allocate(data, bytes);
}

cudaError_t cudaFree(void* data) { return Free(data); }

cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned /*flags*/) {
  *data = std::malloc(bytes);
  return Result(*data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}

cudaError_t cudaFreeHost(void* data) {
  std::free(data);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  Device& device = TheDevice();
  const std::lock_guard lock(device.mutex);
  *total = static_cast<size_t>(MemoryBytes());
  *free = *total - std::min(*total, device.used);
  return cudaSuccess;
}

cudaError_t cudaMemset(void* data, int value, size_t bytes) {
  std::memset(data, value, bytes);
  return Health();
}

cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes,
                            cudaStream_t stream) {
  return shim::Enqueue(stream, [=] {
    if (bytes > 0) {
      std::memset(data, value, bytes);
    }
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes,
                            cudaMemcpyKind /*kind*/, cudaStream_t stream) {
  if (!CanReach(stream->device, to) || !CanReach(stream->device, from)) {
    return Result(cudaErrorInvalidValue);
  }
  return shim::Enqueue(stream, [=] {
    if (bytes > 0) {
      std::memcpy(to, from, bytes);
    }
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream,
                                      unsigned /*flags*/) {
  *stream = new CUstream_st;
  (*stream)->device = t_device;
  return Health();
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream == nullptr) {
    return Health();  // The default one, on which all is done at once.
  }
  return stream->is_capturing() ? Result(cudaErrorStreamCaptureUnsupported)
                                : Health();
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event) {
  if (event->is_capturing()) {
    if (!stream->is_capturing()) {
      stream->capture = event->capture;
      stream->before = {{stream, ++stream->capture->done[stream]}};
    }
    for (const auto& [other, count] : event->before) {
      stream->before[other] = std::max(stream->before[other], count);
    }
  }
  return Health();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned /*flags*/) {
  *event = new CUevent_st;
  (*event)->device = t_device;
  return Health();
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (event->device != stream->device) {
    return Result(cudaErrorInvalidResourceHandle);
  }
  event->capture = stream->capture;
  event->before = stream->before;
  return Health();
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return event->is_capturing() ? Result(cudaErrorStreamCaptureUnsupported)
                               : Health();
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return cudaEventQuery(event);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream,
                                   cudaStreamCaptureMode /*mode*/) {
  stream->capture = std::make_shared<Capture>();
  stream->before = {};
  return Health();
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  stream->capture->ended = true;
  for (const auto& [other, count] : stream->capture->done) {
    if (stream->before[other] < count) {
      return Result(cudaErrorStreamCaptureUnjoined);
    }
  }
  *graph = new CUgraph_st{std::move(stream->capture->work)};
  return Health();
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream,
                                  cudaStreamCaptureStatus* status) {
  *status = stream->is_capturing() ? cudaStreamCaptureStatusActive
                                   : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long /*flags*/) {
  *exec = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const auto& work : exec->work) {
    if (const cudaError_t error = shim::Enqueue(stream, work);
        error != cudaSuccess) {
      return error;
    }
  }
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
