#include <cmath>

#include "kernels/gemm.h"

// For machines without AVX2, and the plain statement of what the other two
// compute: std::fma is exact everywhere, if slow where it is a library call.
namespace shoal {
namespace {

constexpr int kTile = 4;

void Pack(const GemmFactor& factor, int64_t lines, int64_t depth, float* to) {
  for (int64_t first = 0; first < lines; first += kTile) {
    for (int64_t p = 0; p < depth; ++p) {
      for (int64_t l = first; l < first + kTile; ++l) {
        *to++ =
            l < lines
                ? factor.data[l * factor.line_stride + p * factor.depth_stride]
                : 0.0F;
      }
    }
  }
}

void Multiply(const GemmSize& size, const float* left, const float* right,
              bool first, float* c, int64_t stride) {
  for (int64_t i = 0; i < size.m; ++i) {
    const float* const a = left + i / kTile * kTile * size.k + i % kTile;
    for (int64_t j = 0; j < size.n; ++j) {
      const float* const b = right + j / kTile * kTile * size.k + j % kTile;
      float acc = first ? 0.0F : c[i * stride + j];
      for (int64_t p = 0; p < size.k; ++p) {
        acc = std::fma(a[p * kTile], b[p * kTile], acc);
      }
      c[i * stride + j] = acc;
    }
  }
}

void MultiplyUnpacked(const GemmSize& size, const float* left,
                      const GemmFactor& right, bool first, float* c,
                      int64_t stride) {
  for (int64_t i = 0; i < size.m; ++i) {
    const float* const a = left + i / kTile * kTile * size.k + i % kTile;
    for (int64_t j = 0; j < size.n; ++j) {
      float acc = first ? 0.0F : c[i * stride + j];
      for (int64_t p = 0; p < size.k; ++p) {
        acc =
            std::fma(a[p * kTile], right.data[j + p * right.depth_stride], acc);
      }
      c[i * stride + j] = acc;
    }
  }
}

void RowTimes(const float* x, const GemmFactor& b, int64_t lines, int64_t k,
              float* y) {
  for (int64_t j = 0; j < lines; ++j) {
    float acc = 0.0F;
    for (int64_t p = 0; p < k; ++p) {
      acc = std::fma(x[p], b.data[j * b.line_stride + p * b.depth_stride], acc);
    }
    y[j] = acc;
  }
}

constexpr GemmKernels kKernels = {.rows = kTile,
                                  .columns = kTile,
                                  .pack_left = &Pack,
                                  .pack_right = &Pack,
                                  .multiply = &Multiply,
                                  .multiply_unpacked = &MultiplyUnpacked,
                                  .row_times = &RowTimes};

}  // namespace

const GemmKernels& ScalarGemm() { return kKernels; }

}  // namespace shoal
