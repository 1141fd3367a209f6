// The table of kernels/cuda/table.h: contexts, memory, streams, events, graphs.
#include <new>
#include <string>

#include "kernels/cuda/nccl.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/runtime.cuh"

namespace shoal::cuda {
namespace {

// What happened on this thread last, beside the bare error.
struct LastError {
  int error = 0;
  std::string detail;
  std::string text;
};

LastError& OfThisThread() {
  thread_local LastError last;
  return last;
}

std::string VersionText(int version) {
  return std::to_string(version / 1000) + "." +
         std::to_string(version % 1000 / 10);
}

std::string TextOf(int error) {
  if (error >= kBlasError) {
    return std::string("cuBLASLt: ") + BlasErrorText(error - kBlasError);
  }
  if (error == kArgumentsError) {
    return "bad arguments";
  }
  if (error == kNcclError) {
    return "NCCL failed";
  }
  const std::string number = " (error " + std::to_string(error) + ")";
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0;
    int runtime = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
      return "no CUDA driver" + number + ": install NVIDIA's driver";
    }
    cudaRuntimeGetVersion(&runtime);
    return "the CUDA driver is for CUDA " + VersionText(driver) +
           " at most, this plug-in needs " + VersionText(runtime) + number +
           ": install a newer driver";
  }
  return cudaGetErrorString(static_cast<cudaError_t>(error)) + number;
}

std::string MegabytesText(int64_t bytes) {
  return std::to_string(bytes / 1000000) + " MB";
}

}  // namespace

int Fail(int error, std::string detail) {
  OfThisThread().error = error;
  OfThisThread().detail = std::move(detail);
  return error;
}

FaultSlot::~FaultSlot() {
  // A destructor has nobody to tell of an error; close() will meet it again.
  if (claimed != nullptr) {
    cudaFree(claimed);
  }
  if (record != nullptr) {
    cudaFreeHost(record);
  }
}

namespace {

const char* ErrorText(int error) {
  LastError& last = OfThisThread();
  last.text =
      last.error == error && !last.detail.empty() ? last.detail : TextOf(error);
  return last.text.c_str();
}

int Versions(int* driver, int* runtime) {
  *driver = 0;
  *runtime = 0;
  SHOAL_CUDA_TRY(cudaRuntimeGetVersion(runtime));
  SHOAL_CUDA_TRY(cudaDriverGetVersion(driver));
  return 0;
}

int DeviceCount(int* count) {
  *count = 0;
  return cudaGetDeviceCount(count);
}

int DeviceInfo(int device, ShoalCudaInfo* info) {
  cudaDeviceProp properties;
  SHOAL_CUDA_TRY(cudaGetDeviceProperties(&properties, device));
  SHOAL_CUDA_TRY(cudaSetDevice(device));
  size_t free = 0;
  size_t total = 0;
  SHOAL_CUDA_TRY(cudaMemGetInfo(&free, &total));
  *info = {};
  const std::string name(properties.name);
  name.copy(info->name, sizeof(info->name) - 1);
  info->major = properties.major;
  info->minor = properties.minor;
  info->multiprocessors = properties.multiProcessorCount;
  info->memory_bytes = static_cast<int64_t>(total);
  info->free_bytes = static_cast<int64_t>(free);
  return 0;
}

void DestroyStream(ShoalCudaStream* stream);

void Close(ShoalCudaContext* context) {
  if (context == nullptr) {
    return;
  }
  cudaSetDevice(context->device);
  while (!context->streams.empty()) {
    DestroyStream(context->streams.back());
  }
  if (context->releasing != nullptr) {
    cudaStreamSynchronize(context->releasing);
    cudaStreamDestroy(context->releasing);
  }
  if (context->allocating != nullptr) {
    cudaStreamDestroy(context->allocating);
  }
  if (context->mark != nullptr) {
    cudaEventDestroy(context->mark);
  }
  if (context->pool != nullptr) {
    cudaMemPoolDestroy(context->pool);
  }
  delete context;
}

int OpenInto(ShoalCudaContext& context) {
  // Waiting threads give up their core.
  SHOAL_CUDA_TRY(cudaInitDevice(context.device, cudaDeviceScheduleBlockingSync,
                                cudaInitDeviceFlagsAreValid));
  SHOAL_CUDA_TRY(cudaSetDevice(context.device));
  int has_pools = 0;
  SHOAL_CUDA_TRY(cudaDeviceGetAttribute(
      &has_pools, cudaDevAttrMemoryPoolsSupported, context.device));
  if (has_pools == 0) {
    return Fail(cudaErrorNotSupported,
                "this GPU or its driver has no memory pools");
  }
  SHOAL_CUDA_TRY(cudaDeviceGetAttribute(&context.multiprocessors,
                                        cudaDevAttrMultiProcessorCount,
                                        context.device));
  cudaMemPoolProps properties = {};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = context.device;
  SHOAL_CUDA_TRY(cudaMemPoolCreate(&context.pool, &properties));
  // Nothing goes back to the driver on its own account, and an allocation
  // never waits for a release that is still to come: it takes new memory.
  uint64_t kept = UINT64_MAX;
  SHOAL_CUDA_TRY(cudaMemPoolSetAttribute(
      context.pool, cudaMemPoolAttrReleaseThreshold, &kept));
  int dependencies = 0;
  SHOAL_CUDA_TRY(cudaMemPoolSetAttribute(
      context.pool, cudaMemPoolReuseAllowInternalDependencies, &dependencies));
  SHOAL_CUDA_TRY(
      cudaStreamCreateWithFlags(&context.allocating, cudaStreamNonBlocking));
  SHOAL_CUDA_TRY(
      cudaStreamCreateWithFlags(&context.releasing, cudaStreamNonBlocking));
  return cudaEventCreateWithFlags(&context.mark, cudaEventDisableTiming);
}

int Open(int device, ShoalCudaContext** context) {
  auto made = std::make_unique<ShoalCudaContext>();
  made->device = device;
  if (const int error = OpenInto(*made); error != 0) {
    Close(made.release());
    return error;
  }
  *context = made.release();
  return 0;
}

int AllocateOnce(ShoalCudaContext* context, int64_t size_bytes, void** data) {
  SHOAL_CUDA_TRY(cudaMallocFromPoolAsync(data, static_cast<size_t>(size_bytes),
                                         context->pool, context->allocating));
  return cudaStreamSynchronize(context->allocating);
}

int Allocate(ShoalCudaContext* context, int64_t size_bytes, void** data) {
  *data = nullptr;
  if (size_bytes <= 0) {
    return 0;
  }
  SHOAL_CUDA_TRY(cudaSetDevice(context->device));
  int error = AllocateOnce(context, size_bytes, data);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    // What was released may still be in use; afterwards it is free and may be
    // put together anew.
    SHOAL_CUDA_TRY(cudaStreamSynchronize(context->releasing));
    SHOAL_CUDA_TRY(cudaMemPoolTrimTo(context->pool, 0));
    error = AllocateOnce(context, size_bytes, data);
  }
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    *data = nullptr;
    uint64_t used = 0;
    size_t free = 0;
    size_t total = 0;
    SHOAL_CUDA_TRY(cudaMemPoolGetAttribute(
        context->pool, cudaMemPoolAttrUsedMemCurrent, &used));
    SHOAL_CUDA_TRY(cudaMemGetInfo(&free, &total));
    return Fail(error,
                "out of memory (error " + std::to_string(error) + "): GPU " +
                    std::to_string(context->device) + " cannot give " +
                    MegabytesText(size_bytes) + "; this process uses " +
                    MegabytesText(static_cast<int64_t>(used)) + ", " +
                    MegabytesText(static_cast<int64_t>(free)) + " of " +
                    MegabytesText(static_cast<int64_t>(total)) + " are free");
  }
  return error;
}

// Whether what is enqueued on the stream becomes part of a graph.
int IsCapturing(cudaStream_t stream, bool* capturing) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  SHOAL_CUDA_TRY(cudaStreamIsCapturing(stream, &status));
  *capturing = status != cudaStreamCaptureStatusNone;
  return 0;
}

int Release(ShoalCudaContext* context, void* data) {
  if (data == nullptr) {
    return 0;
  }
  SHOAL_CUDA_TRY(cudaSetDevice(context->device));
  const std::lock_guard lock(context->mutex);
  for (const ShoalCudaStream* stream : context->streams) {
    bool capturing = false;
    SHOAL_CUDA_TRY(IsCapturing(stream->stream, &capturing));
    if (!capturing) {
      SHOAL_CUDA_TRY(cudaEventRecord(context->mark, stream->stream));
      SHOAL_CUDA_TRY(cudaStreamWaitEvent(context->releasing, context->mark));
    }
  }
  return cudaFreeAsync(data, context->releasing);
}

int AllocateHost(ShoalCudaContext* context, int64_t size_bytes, void** data) {
  *data = nullptr;
  if (size_bytes <= 0) {
    return 0;
  }
  SHOAL_CUDA_TRY(cudaSetDevice(context->device));
  return cudaHostAlloc(data, static_cast<size_t>(size_bytes),
                       cudaHostAllocPortable);
}

int ReleaseHost(ShoalCudaContext* context, void* data) {
  if (data == nullptr) {
    return 0;
  }
  SHOAL_CUDA_TRY(cudaSetDevice(context->device));
  return cudaFreeHost(data);
}

int Memory(ShoalCudaContext* context, ShoalCudaMemory* memory) {
  const auto get = [&](cudaMemPoolAttr attribute, int64_t* to) {
    uint64_t bytes = 0;
    SHOAL_CUDA_TRY(cudaMemPoolGetAttribute(context->pool, attribute, &bytes));
    *to = static_cast<int64_t>(bytes);
    return 0;
  };
  SHOAL_CUDA_TRY(get(cudaMemPoolAttrUsedMemCurrent, &memory->used_bytes));
  SHOAL_CUDA_TRY(get(cudaMemPoolAttrUsedMemHigh, &memory->used_bytes_max));
  SHOAL_CUDA_TRY(
      get(cudaMemPoolAttrReservedMemCurrent, &memory->reserved_bytes));
  return get(cudaMemPoolAttrReservedMemHigh, &memory->reserved_bytes_max);
}

// On the current device.
int CreateFaults(std::shared_ptr<FaultSlot>* slot) {
  auto made = std::make_shared<FaultSlot>();
  void* record = nullptr;
  SHOAL_CUDA_TRY(cudaHostAlloc(&record, sizeof(FaultRecord),
                               cudaHostAllocMapped | cudaHostAllocPortable));
  made->record = new (record) FaultRecord{};
  void* claimed = nullptr;
  SHOAL_CUDA_TRY(cudaMalloc(&claimed, sizeof(int)));
  made->claimed = static_cast<int*>(claimed);
  // Streams of this plug-in do not wait for the default one.
  SHOAL_CUDA_TRY(cudaMemset(claimed, 0, sizeof(int)));
  SHOAL_CUDA_TRY(cudaStreamSynchronize(nullptr));
  *slot = std::move(made);
  return 0;
}

void DestroyStream(ShoalCudaStream* stream) {
  if (stream == nullptr) {
    return;
  }
  ShoalCudaContext& context = *stream->context;
  cudaSetDevice(context.device);
  {
    const std::lock_guard lock(context.mutex);
    std::erase(context.streams, stream);
    if (stream->capture != nullptr) {
      std::erase(stream->capture->streams, stream);
    }
  }
  if (stream->stream != nullptr) {
    cudaStreamSynchronize(stream->stream);
    cudaStreamDestroy(stream->stream);
  }
  if (stream->reached != nullptr) {
    cudaEventDestroy(stream->reached);
  }
  DestroyBlas(stream->blas);
  delete stream;
}

int CreateStreamInto(ShoalCudaStream& stream) {
  SHOAL_CUDA_TRY(
      cudaStreamCreateWithFlags(&stream.stream, cudaStreamNonBlocking));
  SHOAL_CUDA_TRY(cudaEventCreateWithFlags(
      &stream.reached, cudaEventDisableTiming | cudaEventBlockingSync));
  return CreateFaults(&stream.faults);
}

int CreateStream(ShoalCudaContext* context, ShoalCudaMath math,
                 ShoalCudaStream** stream) {
  SHOAL_CUDA_TRY(cudaSetDevice(context->device));
  auto made = std::make_unique<ShoalCudaStream>();
  made->context = context;
  made->math = math;
  if (const int error = CreateStreamInto(*made); error != 0) {
    DestroyStream(made.release());
    return error;
  }
  const std::lock_guard lock(context->mutex);
  context->streams.push_back(made.get());
  *stream = made.release();
  return 0;
}

int Copy(ShoalCudaStream* stream, void* to, const void* from,
         int64_t size_bytes) {
  if (size_bytes <= 0) {
    return 0;
  }
  SHOAL_CUDA_TRY(cudaSetDevice(stream->context->device));
  return cudaMemcpyAsync(to, from, static_cast<size_t>(size_bytes),
                         cudaMemcpyDefault, stream->stream);
}

// Hands over the slot's fault, if it has one and none was found before, and
// makes room for the next.
int TakeFault(ShoalCudaStream* stream, const FaultSlot& slot,
              ShoalCudaFault* fault) {
  FaultRecord& record = *slot.record;
  if (record.set == 0) {
    return 0;
  }
  if (fault->op == nullptr) {
    *fault = {.label = record.label,
              .op = record.op,
              .what = record.what,
              .position = record.position,
              .value = record.value,
              .bound = record.bound,
              .low = record.low};
  }
  record = {};
  return cudaMemsetAsync(slot.claimed, 0, sizeof(int), stream->stream);
}

int Synchronize(ShoalCudaStream* stream, ShoalCudaFault* fault) {
  *fault = {};
  SHOAL_CUDA_TRY(cudaSetDevice(stream->context->device));
  if (stream->capture != nullptr) {
    return Fail(kArgumentsError,
                "a stream that is being captured has nothing "
                "to wait for");
  }
  int error = cudaEventRecord(stream->reached, stream->stream);
  if (error == 0) {
    error = cudaEventSynchronize(stream->reached);
  }
  if (error != 0) {
    return Fail(error, TextOf(error) + ", after " + stream->op +
                           " was enqueued; CUDA_LAUNCH_BLOCKING=1 shows "
                           "which kernel it was");
  }
  SHOAL_CUDA_TRY(TakeFault(stream, *stream->faults, fault));
  for (const auto& slot : stream->faults_of_graphs) {
    SHOAL_CUDA_TRY(TakeFault(stream, *slot, fault));
  }
  stream->faults_of_graphs.clear();
  return 0;
}

int Record(ShoalCudaStream* stream, ShoalCudaEvent** event) {
  SHOAL_CUDA_TRY(cudaSetDevice(stream->context->device));
  auto made = std::make_unique<ShoalCudaEvent>();
  made->context = stream->context;
  made->capture = stream->capture;
  SHOAL_CUDA_TRY(cudaEventCreateWithFlags(
      &made->event, cudaEventDisableTiming | cudaEventBlockingSync));
  if (const int error = cudaEventRecord(made->event, stream->stream);
      error != 0) {
    cudaEventDestroy(made->event);
    return error;
  }
  *event = made.release();
  return 0;
}

int Wait(ShoalCudaStream* stream, const ShoalCudaEvent* event) {
  ShoalCudaContext& context = *stream->context;
  SHOAL_CUDA_TRY(cudaSetDevice(context.device));
  const std::lock_guard lock(context.mutex);
  SHOAL_CUDA_TRY(cudaStreamWaitEvent(stream->stream, event->event));
  if (event->capture != nullptr && stream->capture == nullptr) {
    stream->capture = event->capture;
    stream->capture->streams.push_back(stream);
  }
  return 0;
}

int Done(const ShoalCudaEvent* event, int* done) {
  const cudaError_t error = cudaEventQuery(event->event);
  *done = error == cudaSuccess ? 1 : 0;
  if (error == cudaErrorNotReady) {
    cudaGetLastError();
    return 0;
  }
  return error;
}

void DestroyEvent(ShoalCudaEvent* event) {
  if (event != nullptr) {
    cudaEventDestroy(event->event);
    delete event;
  }
}

int BeginCapture(ShoalCudaStream* stream) {
  ShoalCudaContext& context = *stream->context;
  SHOAL_CUDA_TRY(cudaSetDevice(context.device));
  if (stream->capture != nullptr) {
    return Fail(kArgumentsError, "the stream is being captured already");
  }
  auto capture = std::make_shared<Capture>();
  SHOAL_CUDA_TRY(CreateFaults(&capture->faults));
  const std::lock_guard lock(context.mutex);
  // Relaxed: memory may be allocated meanwhile, since that is no part of it.
  SHOAL_CUDA_TRY(
      cudaStreamBeginCapture(stream->stream, cudaStreamCaptureModeRelaxed));
  capture->streams.push_back(stream);
  stream->capture = std::move(capture);
  return 0;
}

int EndCapture(ShoalCudaStream* stream, ShoalCudaGraph** graph) {
  ShoalCudaContext& context = *stream->context;
  SHOAL_CUDA_TRY(cudaSetDevice(context.device));
  cudaGraph_t captured = nullptr;
  auto made = std::make_unique<ShoalCudaGraph>();
  made->context = &context;
  {
    const std::lock_guard lock(context.mutex);
    if (stream->capture == nullptr) {
      return Fail(kArgumentsError, "the stream is not being captured");
    }
    const std::shared_ptr<Capture> capture = stream->capture;
    made->faults = capture->faults;
    for (ShoalCudaStream* const joined : capture->streams) {
      joined->capture = nullptr;
    }
    SHOAL_CUDA_TRY(cudaStreamEndCapture(stream->stream, &captured));
  }
  const int error = cudaGraphInstantiate(&made->exec, captured, 0);
  SHOAL_CUDA_TRY(cudaGraphDestroy(captured));
  SHOAL_CUDA_TRY(error);
  *graph = made.release();
  return 0;
}

int LaunchGraph(ShoalCudaStream* stream, const ShoalCudaGraph* graph) {
  SHOAL_CUDA_TRY(cudaSetDevice(stream->context->device));
  if (stream->capture != nullptr) {
    return Fail(kArgumentsError, "a graph cannot be launched into a graph");
  }
  stream->op = "a graph";
  SHOAL_CUDA_TRY(cudaGraphLaunch(graph->exec, stream->stream));
  auto& watched = stream->faults_of_graphs;
  if (std::find(watched.begin(), watched.end(), graph->faults) ==
      watched.end()) {
    watched.push_back(graph->faults);
  }
  return 0;
}

void DestroyGraph(ShoalCudaGraph* graph) {
  if (graph != nullptr) {
    cudaGraphExecDestroy(graph->exec);
    delete graph;
  }
}

using Launcher = int (*)(const ShoalCudaArgs&, ShoalCudaStream&);
using WorkspaceOf = int64_t (*)(const ShoalCudaArgs&);

template <typename Name, Launcher kLauncher>
int Run(const ShoalCudaArgs* args, ShoalCudaStream* stream) {
  SHOAL_CUDA_TRY(cudaSetDevice(stream->context->device));
  stream->op = Name::kName;
  stream->label = args->label;
  const int error = kLauncher(*args, *stream);
  // kArgumentsError comes with the op in its text.
  return error == 0 || error == kArgumentsError
             ? error
             : Fail(error, std::string(Name::kName) + ": " + TextOf(error));
}

template <WorkspaceOf kWorkspace>
int64_t Workspace(const ShoalCudaArgs* args) {
  return kWorkspace(*args);
}

#define SHOAL_CUDA_OP(op)                     \
  struct op##Name {                           \
    static constexpr const char* kName = #op; \
  };
#define SHOAL_CUDA_OP_WITH_WORKSPACE(op) SHOAL_CUDA_OP(op)
#define SHOAL_ELEMENTWISE(op, fn, inputs, outputs) SHOAL_CUDA_OP(op)
#define SHOAL_ELEMENTWISE_FLOAT(op, fn, inputs) SHOAL_CUDA_OP(op)
#define SHOAL_ELEMENTWISE_SCALAR(op, fn, inputs) SHOAL_CUDA_OP(op)
#include "kernels/cuda/ops.inc"
#include "kernels/elementwise_ops.inc"
#undef SHOAL_CUDA_OP
#undef SHOAL_CUDA_OP_WITH_WORKSPACE
#define SHOAL_CUDA_OP(op) {#op, &Run<op##Name, &op>, nullptr},
#define SHOAL_CUDA_OP_WITH_WORKSPACE(op) \
  {#op, &Run<op##Name, &op>, &Workspace<&op##Workspace>},

constexpr ShoalCudaKernel kKernels[] = {
#include "kernels/cuda/ops.inc"
#include "kernels/elementwise_ops.inc"
};

constexpr ShoalCudaTable kTable = {
    .version = SHOAL_CUDA_TABLE_VERSION,
    .error_text = &ErrorText,
    .versions = &Versions,
    .device_count = &DeviceCount,
    .device_info = &DeviceInfo,
    .open = &Open,
    .close = &Close,
    .allocate = &Allocate,
    .release = &Release,
    .allocate_host = &AllocateHost,
    .release_host = &ReleaseHost,
    .memory = &Memory,
    .create_stream = &CreateStream,
    .destroy_stream = &DestroyStream,
    .copy = &Copy,
    .synchronize = &Synchronize,
    .record = &Record,
    .wait = &Wait,
    .done = &Done,
    .destroy_event = &DestroyEvent,
    .begin_capture = &BeginCapture,
    .end_capture = &EndCapture,
    .launch = &LaunchGraph,
    .destroy_graph = &DestroyGraph,
    .kernels = kKernels,
    .num_kernels = sizeof(kKernels) / sizeof(kKernels[0]),
    .nccl_version = &NcclVersion,
    .nccl_device_id = &NcclDeviceId,
    .nccl_group_id = &NcclGroupId,
    .nccl_join = &NcclJoin,
    .nccl_ready = &NcclReady,
    .nccl_enqueue = &NcclEnqueue,
    .nccl_finish = &NcclFinish,
    .nccl_close = &NcclClose,
};

}  // namespace
}  // namespace shoal::cuda

extern "C" __attribute__((visibility("default"))) const ShoalCudaTable*
ShoalCudaTableV1() {
  return &shoal::cuda::kTable;
}
