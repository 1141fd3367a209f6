#ifndef SHOAL_KERNELS_REDUCE_IMPL_H_
#define SHOAL_KERNELS_REDUCE_IMPL_H_

#include <cstdint>

#include "kernels/lanes_impl.h"

// Included by loops_impl.h alone.
namespace shoal {
namespace {

float SumRow(const float* x, int64_t n) {
  Lanes acc;
  Clear(acc);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      acc.lane[l] += x[i + l];
    }
  }
  for (int64_t l = 0; i + l < n; ++l) {
    acc.lane[l] += x[i + l];
  }
  return SumOfLanes(acc);
}

float DotRow(const float* a, const float* b, int64_t n) {
  Lanes acc;
  Clear(acc);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      acc.lane[l] += a[i + l] * b[i + l];
    }
  }
  for (int64_t l = 0; i + l < n; ++l) {
    acc.lane[l] += a[i + l] * b[i + l];
  }
  return SumOfLanes(acc);
}

constexpr int64_t kColumnTile = 64;
constexpr int64_t kRowBlock = 64;

template <typename Count>
SHOAL_HOST_DEVICE void SumRowBlock(const float* x, int64_t rows, int64_t n,
                                   Count width, float* acc) {
  const int64_t columns = width.count();
  for (int64_t c = 0; c < columns; ++c) {
    acc[c] = 0.0F;
  }
  for (int64_t r = 0; r < rows; ++r) {
    const float* const row = x + r * n;
    for (int64_t c = 0; c < columns; ++c) {
      acc[c] += row[c];
    }
  }
}

// Block sums wait in `partial`, one per level of a binary tree, as the bits of
// a counter of blocks: block i joins with those of its set low bits.
void ColumnSumTile(const float* x, int64_t m, int64_t n, int64_t width,
                   float* y) {
  constexpr int kLevelsMax = 58;
  float partial[kLevelsMax][kColumnTile];
  float acc[kColumnTile];
  int64_t blocks = 0;
  for (int64_t r = 0; r < m; r += kRowBlock, ++blocks) {
    const int64_t rows = Smaller(kRowBlock, m - r);
    if (width == kColumnTile) {
      SumRowBlock(x + r * n, rows, n, Width<kColumnTile>{}, acc);
    } else {
      SumRowBlock(x + r * n, rows, n, AnyWidth{width}, acc);
    }
    int level = 0;
    for (; ((blocks >> level) & 1) != 0; ++level) {
      for (int64_t c = 0; c < width; ++c) {
        acc[c] = partial[level][c] + acc[c];
      }
    }
    for (int64_t c = 0; c < width; ++c) {
      partial[level][c] = acc[c];
    }
  }
  for (int64_t c = 0; c < width; ++c) {
    y[c] = 0.0F;
  }
  for (int level = 0; (blocks >> level) != 0; ++level) {
    if (((blocks >> level) & 1) != 0) {
      for (int64_t c = 0; c < width; ++c) {
        y[c] = partial[level][c] + y[c];
      }
    }
  }
}

void ColumnSumRange(const float* x, int64_t m, int64_t n, int64_t begin,
                    int64_t end, float* y) {
  for (int64_t c = begin; c < end; c += kColumnTile) {
    ColumnSumTile(x + c, m, n, Smaller(kColumnTile, end - c), y + c);
  }
}

uint32_t MaxIndex(const int32_t* index, int64_t n) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto value = static_cast<uint32_t>(index[i]);
    largest = value > largest ? value : largest;
  }
  return largest;
}

}  // namespace
}  // namespace shoal

#endif  // SHOAL_KERNELS_REDUCE_IMPL_H_
