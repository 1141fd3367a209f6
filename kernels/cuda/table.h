#ifndef SHOAL_KERNELS_CUDA_TABLE_H_
#define SHOAL_KERNELS_CUDA_TABLE_H_

#include <cstdint>

// What the program uses of CUDA, as a C table that the plug-in `shoal_cuda`
// hands over: the program itself links nothing of CUDA, and runs where there is
// no driver, no toolkit and no plug-in.
//
// Functions that return int return 0 or an error, whose text is error_text().
// A context is one GPU; everything made of it belongs to it. Functions may be
// called from any thread, those of one stream from one thread at a time.

#define SHOAL_CUDA_TABLE_VERSION 2

extern "C" {

struct ShoalCudaContext;
struct ShoalCudaStream;
struct ShoalCudaEvent;
struct ShoalCudaGraph;

// A dense row-major tensor in the memory of a GPU. `dtype` has the numbers of
// shoal::DType.
struct ShoalCudaTensor {
  void* data;
  int64_t dims[4];
  int32_t rank;
  int32_t dtype;
};

// The arguments of a kernel: those of shoal::KernelArgs.
struct ShoalCudaArgs {
  const ShoalCudaTensor* inputs;
  int32_t num_inputs;
  const ShoalCudaTensor* outputs;
  int32_t num_outputs;
  const int64_t* ints;
  int32_t num_ints;
  const double* floats;
  int32_t num_floats;
  void* workspace;
  int64_t workspace_bytes;
  // Comes back with a fault; lives as long as the kernel may run. May be null.
  const char* label;
};

struct ShoalCudaKernel {
  const char* op;
  // Enqueues the work.
  int (*run)(const ShoalCudaArgs* args, ShoalCudaStream* stream);
  // Null where none is needed. The tensors have shapes and no memory.
  int64_t (*workspace_bytes)(const ShoalCudaArgs* args);
};

// What a kernel found wrong with its data, such as "index[17] is 99, outside
// [0, 40)": of the first kernel of a stream that found something since the last
// synchronize(), one of the places. `op` and `what` live as long as the
// plug-in; both are null when nothing was wrong.
struct ShoalCudaFault {
  const char* label;  // of its arguments
  const char* op;     // "Gather"
  const char* what;   // "index"
  int64_t position;
  double value;
  double bound;  // the value is not in [low, bound)
  double low;
};

struct ShoalCudaInfo {
  char name[256];
  int32_t major;  // compute capability
  int32_t minor;
  int32_t multiprocessors;
  int64_t memory_bytes;
  int64_t free_bytes;
};

// Of the caching allocator: what callers hold, what it keeps from the driver,
// and the most of both.
struct ShoalCudaMemory {
  int64_t used_bytes;
  int64_t used_bytes_max;
  int64_t reserved_bytes;
  int64_t reserved_bytes_max;
};

// How matrix products are computed. Exact: the chain of fused multiply-adds of
// kernels/gemm.h, with the bits of the CPU. Fast: by cuBLASLt in f32.
enum ShoalCudaMath { SHOAL_CUDA_EXACT = 0, SHOAL_CUDA_FAST = 1 };

// One member of a group of GPUs that NCCL joins.
struct ShoalNccl;

#define SHOAL_NCCL_ID_BYTES 128

// Those of shoal::DeviceCollectiveCall, whose numbers `kind` has.
struct ShoalNcclCall {
  int32_t kind;
  int32_t dtype;
  void* data;
  const void* from;
  int64_t count;
  int32_t root;
};

struct ShoalCudaTable {
  int version;

  // Lives until this thread's next call.
  const char* (*error_text)(int error);
  // 12040 is 12.4; 0: no driver.
  int (*versions)(int* driver, int* runtime);
  int (*device_count)(int* count);
  int (*device_info)(int device, ShoalCudaInfo* info);

  int (*open)(int device, ShoalCudaContext** context);
  void (*close)(ShoalCudaContext* context);
  // Aligned to 256 bytes. release() needs no idle stream: the memory is used
  // again once what was enqueued on all streams of the context is done.
  int (*allocate)(ShoalCudaContext* context, int64_t size_bytes, void** data);
  int (*release)(ShoalCudaContext* context, void* data);
  // Host memory that copies need not go through the driver's own for.
  int (*allocate_host)(ShoalCudaContext* context, int64_t size_bytes,
                       void** data);
  int (*release_host)(ShoalCudaContext* context, void* data);
  int (*memory)(ShoalCudaContext* context, ShoalCudaMemory* memory);

  int (*create_stream)(ShoalCudaContext* context, ShoalCudaMath math,
                       ShoalCudaStream** stream);
  void (*destroy_stream)(ShoalCudaStream* stream);
  // Either way or within the device. The host's side is of allocate_host().
  int (*copy)(ShoalCudaStream* stream, void* to, const void* from,
              int64_t size_bytes);
  // Waits without spinning. `fault` is filled in and forgotten.
  int (*synchronize)(ShoalCudaStream* stream, ShoalCudaFault* fault);

  int (*record)(ShoalCudaStream* stream, ShoalCudaEvent** event);
  int (*wait)(ShoalCudaStream* stream, const ShoalCudaEvent* event);
  int (*done)(const ShoalCudaEvent* event, int* done);
  void (*destroy_event)(ShoalCudaEvent* event);

  // What is enqueued between the two, kernels and copies, becomes a graph
  // instead of running; wait() and record() join other streams to it.
  int (*begin_capture)(ShoalCudaStream* stream);
  int (*end_capture)(ShoalCudaStream* stream, ShoalCudaGraph** graph);
  int (*launch)(ShoalCudaStream* stream, const ShoalCudaGraph* graph);
  void (*destroy_graph)(ShoalCudaGraph* graph);

  // One for every op.
  const ShoalCudaKernel* kernels;
  int num_kernels;

  // NCCL, which the plug-in loads when it is asked for first: SHOAL_NCCL names
  // another library than libnccl.so.2. 22809 is 2.28.9. Errors: why it can't be
  // used.
  int (*nccl_version)(int* version);
  int (*nccl_device_id)(ShoalCudaContext* context, char id[16]);
  int (*nccl_group_id)(char id[SHOAL_NCCL_ID_BYTES]);
  // Nothing waits for other members: see shoal::DeviceCollective. Functions of
  // one member are called by one thread at a time.
  int (*nccl_join)(ShoalCudaContext* context, const char* group_id, int rank,
                   int size, ShoalNccl** nccl);
  // `lost`: whether an error is that of another member or of the way to it.
  int (*nccl_ready)(ShoalNccl* nccl, int* ready, int* lost);
  int (*nccl_enqueue)(ShoalNccl* nccl, const ShoalNcclCall* call,
                      ShoalCudaStream* stream);
  int (*nccl_finish)(ShoalNccl* nccl);
  // Aborts what is under way unless the member has finished, and is ready.
  void (*nccl_close)(ShoalNccl* nccl);
};

// The only symbol of the plug-in.
const ShoalCudaTable* ShoalCudaTableV1();
}

#endif  // SHOAL_KERNELS_CUDA_TABLE_H_
