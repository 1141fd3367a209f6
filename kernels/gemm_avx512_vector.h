#ifndef SHOAL_KERNELS_GEMM_AVX512_VECTOR_H_
#define SHOAL_KERNELS_GEMM_AVX512_VECTOR_H_

#include <immintrin.h>

#include <cstdint>

#include "kernels/functors/host_device.h"

// What gemm_x86_impl.h needs of an instruction set; see there.
namespace shoal {
namespace {

using Vector = __m512;
using Mask = __mmask16;
constexpr int kVector = 16;
constexpr int kTileRows = 14;

SHOAL_HOST_DEVICE Mask FirstLanes(int64_t n) {
  return static_cast<Mask>(n >= kVector ? 0xffff : (1 << n) - 1);
}
SHOAL_HOST_DEVICE Vector Zero() { return _mm512_setzero_ps(); }
SHOAL_HOST_DEVICE Vector Load(const float* p) { return _mm512_loadu_ps(p); }
SHOAL_HOST_DEVICE Vector Load(const float* p, Mask m) {
  return _mm512_maskz_loadu_ps(m, p);
}
SHOAL_HOST_DEVICE void Store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
SHOAL_HOST_DEVICE void Store(float* p, Mask m, Vector v) {
  _mm512_mask_storeu_ps(p, m, v);
}
SHOAL_HOST_DEVICE Vector Broadcast(const float* p) {
  return _mm512_set1_ps(*p);
}
SHOAL_HOST_DEVICE Vector Fma(Vector a, Vector b, Vector c) {
  return _mm512_fmadd_ps(a, b, c);
}

// Transposes v[16], a square: within 2 x 2, within 4 x 4, then blocks of 4.
SHOAL_HOST_DEVICE void Transpose(Vector* v) {
  Vector t[kVector];
#pragma GCC unroll 16
  for (int i = 0; i < kVector; i += 4) {
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(v[i], v[i + 1]));
    const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(v[i], v[i + 1]));
    const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(v[i + 2], v[i + 3]));
    const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(v[i + 2], v[i + 3]));
    t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {
    // Blocks 0 and 2, then 1 and 3, of two rows of blocks.
    const Vector a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88);
    const Vector b = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
    const Vector c = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88);
    const Vector d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
    v[i] = _mm512_shuffle_f32x4(a, c, 0x88);
    v[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
    v[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
    v[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}

}  // namespace
}  // namespace shoal

#endif  // SHOAL_KERNELS_GEMM_AVX512_VECTOR_H_
