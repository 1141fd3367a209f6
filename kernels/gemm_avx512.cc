#if defined(__x86_64__)
#include "kernels/gemm.h"

// GCC 12 takes the undefined operands inside its own intrinsics for mistakes
// (its bug 105593).
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

// A tile is 14 rows x 32 columns: 28 of the 32 registers hold outputs, two hold
// a row of the right panel, one the broadcast element of the left.
#include "kernels/gemm_avx512_vector.h"
#include "kernels/gemm_x86_impl.h"

namespace shoal {

const GemmKernels& Avx512Gemm() { return kGemmKernels; }

}  // namespace shoal
#endif  // __x86_64__
