#ifndef SHOAL_KERNELS_CUDA_NCCL_API_H_
#define SHOAL_KERNELS_CUDA_NCCL_API_H_

// What is used of NCCL's C interface, declared here so that neither the build
// nor the plug-in needs NCCL. tests/nccl compares it with nccl.h where there is
// one.
#include <cstddef>

namespace shoal::cuda {

struct NcclComm;

struct NcclId {
  char internal[128];
};

// ncclConfig_t as of 2.14, which every later version reads as what it was then.
struct NcclConfig {
  size_t size = sizeof(NcclConfig);
  unsigned magic = 0xcafebeef;
  unsigned version = 21400;
  int blocking = 0;
};

// ncclResult_t
inline constexpr int kNcclSuccess = 0;
inline constexpr int kNcclSystemError = 2;
inline constexpr int kNcclRemoteError = 6;
inline constexpr int kNcclInProgress = 7;

// ncclDataType_t
inline constexpr int kNcclInt32 = 2;
inline constexpr int kNcclInt64 = 4;
inline constexpr int kNcclUint64 = 5;
inline constexpr int kNcclFloat16 = 6;
inline constexpr int kNcclFloat32 = 7;
inline constexpr int kNcclFloat64 = 8;
inline constexpr int kNcclBfloat16 = 9;

// ncclRedOp_t
inline constexpr int kNcclSum = 0;

// X(member, symbol, arguments): `Stream` is cudaStream_t. What a member of a
// group that does not block can do came with 2.14; it is to be trusted since
// kNcclVersionMin.
inline constexpr int kNcclVersionMin = 21800;

#define SHOAL_NCCL_FUNCTIONS(X, Stream)                                 \
  X(get_unique_id, ncclGetUniqueId, (NcclId*))                          \
  X(init_rank, ncclCommInitRankConfig,                                  \
    (NcclComm**, int, NcclId, int, NcclConfig*))                        \
  X(get_async_error, ncclCommGetAsyncError, (NcclComm*, int*))          \
  X(finalize, ncclCommFinalize, (NcclComm*))                            \
  X(destroy, ncclCommDestroy, (NcclComm*))                              \
  X(abort, ncclCommAbort, (NcclComm*))                                  \
  X(group_start, ncclGroupStart, ())                                    \
  X(group_end, ncclGroupEnd, ())                                        \
  X(all_reduce, ncclAllReduce,                                          \
    (const void*, void*, size_t, int, int, NcclComm*, Stream))          \
  X(reduce, ncclReduce,                                                 \
    (const void*, void*, size_t, int, int, int, NcclComm*, Stream))     \
  X(reduce_scatter, ncclReduceScatter,                                  \
    (const void*, void*, size_t, int, int, NcclComm*, Stream))          \
  X(all_gather, ncclAllGather,                                          \
    (const void*, void*, size_t, int, NcclComm*, Stream))               \
  X(broadcast, ncclBroadcast,                                           \
    (const void*, void*, size_t, int, int, NcclComm*, Stream))          \
  X(send, ncclSend, (const void*, size_t, int, int, NcclComm*, Stream)) \
  X(recv, ncclRecv, (void*, size_t, int, int, NcclComm*, Stream))

// The first two return no result, and the last tells what there can be.
using NcclGetErrorStringFn = const char* (*)(int);
using NcclGetLastErrorFn = const char* (*)(NcclComm*);
using NcclGetVersionFn = int (*)(int*);

}  // namespace shoal::cuda

#endif  // SHOAL_KERNELS_CUDA_NCCL_API_H_
