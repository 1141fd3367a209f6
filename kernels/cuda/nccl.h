#ifndef SHOAL_KERNELS_CUDA_NCCL_H_
#define SHOAL_KERNELS_CUDA_NCCL_H_

#include "kernels/cuda/table.h"

namespace shoal::cuda {

// The functions of the table's that are named alike.
int NcclVersion(int* version);
int NcclDeviceId(ShoalCudaContext* context, char id[16]);
int NcclGroupId(char id[SHOAL_NCCL_ID_BYTES]);
int NcclJoin(ShoalCudaContext* context, const char* group_id, int rank,
             int size, ShoalNccl** nccl);
int NcclReady(ShoalNccl* nccl, int* ready, int* lost);
int NcclEnqueue(ShoalNccl* nccl, const ShoalNcclCall* call,
                ShoalCudaStream* stream);
int NcclFinish(ShoalNccl* nccl);
void NcclClose(ShoalNccl* nccl);

}  // namespace shoal::cuda

#endif  // SHOAL_KERNELS_CUDA_NCCL_H_
