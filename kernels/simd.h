#ifndef SHOAL_KERNELS_SIMD_H_
#define SHOAL_KERNELS_SIMD_H_

#include <string_view>

#include "base/status.h"

namespace shoal {

// The instruction sets that the CPU kernels are compiled for. All give the
// same bits; they differ in speed alone.
enum class SimdPath { kScalar = 0, kAvx2 = 1, kAvx512 = 2 };
inline constexpr int kNumSimdPaths = 3;

std::string_view Name(SimdPath path);  // "scalar", "avx2", "avx512"

// Whether this machine can run it.
bool IsSupported(SimdPath path);

// What the kernels use: the widest that this machine has, or what the
// environment variable SHOAL_SIMD names (scalar, avx2, avx512). A value that
// is unknown or that this machine lacks is logged once and ignored.
// Thread-safe.
SimdPath ActiveSimdPath();

// Overrides it for the whole process, for tests and benchmarks. Not while a
// kernel runs. Errors: kUnimplemented (this machine lacks it).
Status SetSimdPath(SimdPath path);

// "avx2" and so on. Errors: kInvalidArgument, with the known names.
StatusOr<SimdPath> ParseSimdPath(std::string_view name);

}  // namespace shoal

#endif  // SHOAL_KERNELS_SIMD_H_
