#ifndef SHOAL_KERNELS_GEMM_AVX2_VECTOR_H_
#define SHOAL_KERNELS_GEMM_AVX2_VECTOR_H_

#include <immintrin.h>

#include <cstdint>

#include "kernels/functors/host_device.h"

// What gemm_x86_impl.h needs of an instruction set; see there.
namespace shoal {
namespace {

using Vector = __m256;
using Mask = __m256i;
constexpr int kVector = 8;
constexpr int kTileRows = 6;

SHOAL_HOST_DEVICE Mask FirstLanes(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(
      _mm256_set1_epi32(static_cast<int>(n < kVector ? n : kVector)), lane);
}
SHOAL_HOST_DEVICE Vector Zero() { return _mm256_setzero_ps(); }
SHOAL_HOST_DEVICE Vector Load(const float* p) { return _mm256_loadu_ps(p); }
SHOAL_HOST_DEVICE Vector Load(const float* p, Mask m) {
  return _mm256_maskload_ps(p, m);
}
SHOAL_HOST_DEVICE void Store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
SHOAL_HOST_DEVICE void Store(float* p, Mask m, Vector v) {
  _mm256_maskstore_ps(p, m, v);
}
SHOAL_HOST_DEVICE Vector Broadcast(const float* p) {
  return _mm256_broadcast_ss(p);
}
SHOAL_HOST_DEVICE Vector Fma(Vector a, Vector b, Vector c) {
  return _mm256_fmadd_ps(a, b, c);
}

// Transposes v[8], a square: within 2 x 2, within 4 x 4, then blocks of 4.
SHOAL_HOST_DEVICE void Transpose(Vector* v) {
  Vector t[kVector];
#pragma GCC unroll 8
  for (int i = 0; i < kVector; i += 4) {
    const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(v[i], v[i + 1]));
    const __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(v[i], v[i + 1]));
    const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(v[i + 2], v[i + 3]));
    const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(v[i + 2], v[i + 3]));
    t[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
    t[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
    t[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
    t[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
  }
#pragma GCC unroll 8
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
  }
}

}  // namespace
}  // namespace shoal

#endif  // SHOAL_KERNELS_GEMM_AVX2_VECTOR_H_
