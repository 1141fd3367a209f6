#if defined(__x86_64__)
#include "kernels/gemm.h"

// A tile is 6 rows x 16 columns: 12 of the 16 registers hold outputs.
#include "kernels/gemm_avx2_vector.h"
#include "kernels/gemm_x86_impl.h"

namespace shoal {

const GemmKernels& Avx2Gemm() { return kGemmKernels; }

}  // namespace shoal
#endif  // __x86_64__
