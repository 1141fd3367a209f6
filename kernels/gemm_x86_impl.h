#ifndef SHOAL_KERNELS_GEMM_X86_IMPL_H_
#define SHOAL_KERNELS_GEMM_X86_IMPL_H_

// The matrix product over the vectors of one instruction set: Vector, Mask,
// kVector (lanes), kTileRows, Load, Store, Broadcast, Fma, Transpose and so on
// come from gemm_avx2_vector.h or gemm_avx512_vector.h, included before. All in
// anonymous namespaces or forced inline, so that it is never linked into code
// for another instruction set.
#include <cstdint>
#include <utility>

#include "kernels/gemm.h"

namespace shoal {
namespace {

constexpr int kTileVectors = 2;
constexpr int kTileColumns = kTileVectors * kVector;

// The right factor of a tile: a packed panel, whose rows are padded, or lines
// that lie side by side where they are (`right_stride` floats between rows).
struct TileArgs {
  int64_t depth;
  const float* left;
  const float* right;
  int64_t right_stride;
  bool first;
  Mask mask;  // lanes of the last vector that exist
  float* c;
  int64_t c_stride;
};

// c[kRows, kVectors vectors] (+)= left panel * right factor, over `depth`.
template <int kRows, int kVectors, bool kPacked>
void Tile(const TileArgs& args) {
  const int64_t depth = args.depth;
  const float* left = args.left;
  const float* right = args.right;
  const int64_t right_stride = kPacked ? kTileColumns : args.right_stride;
  const bool first = args.first;
  const Mask mask = args.mask;
  float* const c = args.c;
  const int64_t stride = args.c_stride;
  Vector acc[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    float* const row = c + r * stride;
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      if (first) {
        // The store at the end should not wait for the line.
        __builtin_prefetch(row + v * kVector, 1);
        acc[r][v] = Zero();
      } else {
        acc[r][v] = v + 1 == kVectors ? Load(row + v * kVector, mask)
                                      : Load(row + v * kVector);
      }
    }
  }
  for (int64_t p = 0; p < depth; ++p) {
    Vector b[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      b[v] = !kPacked && v + 1 == kVectors ? Load(right + v * kVector, mask)
                                           : Load(right + v * kVector);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vector a = Broadcast(left + r);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        acc[r][v] = Fma(a, b[v], acc[r][v]);
      }
    }
    left += kTileRows;
    right += right_stride;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    float* const row = c + r * stride;
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      if (v + 1 == kVectors) {
        Store(row + v * kVector, mask, acc[r][v]);
      } else {
        Store(row + v * kVector, acc[r][v]);
      }
    }
  }
}

using TileFn = void (*)(const TileArgs&);

struct TileTable {
  TileFn tile[kTileRows][kTileVectors];
};

template <bool kPacked, int... kRow>
constexpr TileTable MakeTiles(std::integer_sequence<int, kRow...> /*rows*/) {
  static_assert(kTileVectors == 2);
  return {{{&Tile<kRow + 1, 1, kPacked>, &Tile<kRow + 1, 2, kPacked>}...}};
}

constexpr auto kTileRowCounts = std::make_integer_sequence<int, kTileRows>();
constexpr TileTable kPackedTiles = MakeTiles<true>(kTileRowCounts);
constexpr TileTable kUnpackedTiles = MakeTiles<false>(kTileRowCounts);

// `panel` is the distance between panels of the right factor.
void MultiplyTiles(const TileTable& tiles, const GemmSize& size, TileArgs args,
                   int64_t panel) {
  const float* const left = args.left;
  float* const c = args.c;
  for (int64_t j = 0; j < size.n; j += kTileColumns) {
    const int64_t columns =
        size.n - j < kTileColumns ? size.n - j : kTileColumns;
    const int64_t vectors = (columns + kVector - 1) / kVector;
    args.mask = FirstLanes(columns - (vectors - 1) * kVector);
    for (int64_t i = 0; i < size.m; i += kTileRows) {
      const int64_t rows = size.m - i < kTileRows ? size.m - i : kTileRows;
      args.left = left + i * size.k;
      args.c = c + i * args.c_stride + j;
      tiles.tile[rows - 1][vectors - 1](args);
    }
    args.right += panel;
  }
}

void Multiply(const GemmSize& size, const float* left, const float* right,
              bool first, float* c, int64_t stride) {
  MultiplyTiles(kPackedTiles, size,
                {.depth = size.k,
                 .left = left,
                 .right = right,
                 .right_stride = kTileColumns,
                 .first = first,
                 .mask = FirstLanes(0),
                 .c = c,
                 .c_stride = stride},
                kTileColumns * size.k);
}

void MultiplyUnpacked(const GemmSize& size, const float* left,
                      const GemmFactor& right, bool first, float* c,
                      int64_t stride) {
  MultiplyTiles(kUnpackedTiles, size,
                {.depth = size.k,
                 .left = left,
                 .right = right.data,
                 .right_stride = right.depth_stride,
                 .first = first,
                 .mask = FirstLanes(0),
                 .c = c,
                 .c_stride = stride},
                kTileColumns);
}

// Lines that are contiguous across: copies rows of the panel.
template <int kWidth>
SHOAL_HOST_DEVICE void PackAcross(const GemmFactor& factor, int64_t lines,
                                  int64_t depth, float* to) {
  constexpr int kVectors = (kWidth + kVector - 1) / kVector;
  Mask in[kVectors];
  Mask out[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const int64_t left = lines - v * kVector;
    in[v] = FirstLanes(left < 0 ? 0 : left);
    out[v] = FirstLanes(kWidth - v * kVector);
  }
  for (int64_t p = 0; p < depth; ++p) {
    const float* const from = factor.data + p * factor.depth_stride;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      Store(to + p * kWidth + v * kVector, out[v],
            Load(from + v * kVector, in[v]));
    }
  }
}

// A square of `lines` lines from `depth` elements each, transposed; what is
// missing is 0.
SHOAL_HOST_DEVICE void LoadSquare(const float* from, int64_t stride,
                                  int64_t lines, int64_t depth,
                                  Vector* square) {
  if (lines >= kVector && depth >= kVector) {
#pragma GCC unroll 16
    for (int i = 0; i < kVector; ++i) {
      square[i] = Load(from + i * stride);
    }
  } else {
    const Mask in = FirstLanes(depth);
#pragma GCC unroll 16
    for (int i = 0; i < kVector; ++i) {
      square[i] = i < lines ? Load(from + i * stride, in) : Zero();
    }
  }
  Transpose(square);
}

// Lines that are contiguous along the depth: transposes squares.
template <int kWidth>
SHOAL_HOST_DEVICE void PackAlong(const GemmFactor& factor, int64_t lines,
                                 int64_t depth, float* to) {
  for (int64_t w = 0; w < kWidth; w += kVector) {
    const Mask out = FirstLanes(kWidth - w);
    for (int64_t p = 0; p < depth; p += kVector) {
      Vector square[kVector];
      LoadSquare(factor.data + w * factor.line_stride + p, factor.line_stride,
                 lines - w, depth - p, square);
      if (p + kVector <= depth) {
#pragma GCC unroll 16
        for (int i = 0; i < kVector; ++i) {
          Store(to + (p + i) * kWidth + w, out, square[i]);
        }
      } else {
        for (int i = 0; p + i < depth; ++i) {
          Store(to + (p + i) * kWidth + w, out, square[i]);
        }
      }
    }
  }
}

template <int kWidth>
void Pack(const GemmFactor& factor, int64_t lines, int64_t depth, float* to) {
  for (int64_t line = 0; line < lines; line += kWidth) {
    const GemmFactor panel = {factor.data + line * factor.line_stride,
                              factor.line_stride, factor.depth_stride};
    const int64_t width = lines - line < kWidth ? lines - line : kWidth;
    if (factor.line_stride == 1) {
      PackAcross<kWidth>(panel, width, depth, to + line * depth);
    } else {
      PackAlong<kWidth>(panel, width, depth, to + line * depth);
    }
  }
}

// The lanes are outputs, whose lines lie side by side. Eight chains hide the
// latency of an addition.
void RowTimesAcross(const float* x, const GemmFactor& b, int64_t lines,
                    int64_t k, float* y) {
  constexpr int kVectors = 8;
  for (int64_t j = 0; j < lines; j += kVectors * kVector) {
    Mask mask[kVectors];
    Vector acc[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const int64_t left = lines - j - v * kVector;
      mask[v] = FirstLanes(left < 0 ? 0 : left);
      acc[v] = Zero();
    }
    const float* from = b.data + j;
    for (int64_t p = 0; p < k; ++p, from += b.depth_stride) {
      const Vector a = Broadcast(x + p);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        acc[v] = Fma(a, Load(from + v * kVector, mask[v]), acc[v]);
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      Store(y + j + v * kVector, mask[v], acc[v]);
    }
  }
}

// The lanes are outputs, whose lines lie one after the other: squares of them
// are transposed on the way. Two chains share the wait for additions.
void RowTimesAlong(const float* x, const GemmFactor& b, int64_t lines,
                   int64_t k, float* y) {
  constexpr int kChains = 2;
  for (int64_t j = 0; j < lines; j += kChains * kVector) {
    Vector acc[kChains] = {Zero(), Zero()};
    for (int64_t p = 0; p < k; p += kVector) {
#pragma GCC unroll 2
      for (int g = 0; g < kChains; ++g) {
        const int64_t line = j + g * kVector;
        if (line >= lines) {
          continue;
        }
        Vector square[kVector];
        LoadSquare(b.data + line * b.line_stride + p, b.line_stride,
                   lines - line, k - p, square);
        if (p + kVector <= k) {
#pragma GCC unroll 16
          for (int i = 0; i < kVector; ++i) {
            acc[g] = Fma(Broadcast(x + p + i), square[i], acc[g]);
          }
        } else {
          for (int i = 0; p + i < k; ++i) {
            acc[g] = Fma(Broadcast(x + p + i), square[i], acc[g]);
          }
        }
      }
    }
    for (int g = 0; g < kChains; ++g) {
      const int64_t left = lines - j - g * kVector;
      if (left > 0) {
        Store(y + j + g * kVector, FirstLanes(left), acc[g]);
      }
    }
  }
}

void RowTimes(const float* x, const GemmFactor& b, int64_t lines, int64_t k,
              float* y) {
  if (b.line_stride == 1) {
    RowTimesAcross(x, b, lines, k, y);
  } else {
    RowTimesAlong(x, b, lines, k, y);
  }
}

constexpr GemmKernels kGemmKernels = {.rows = kTileRows,
                                      .columns = kTileColumns,
                                      .pack_left = &Pack<kTileRows>,
                                      .pack_right = &Pack<kTileColumns>,
                                      .multiply = &Multiply,
                                      .multiply_unpacked = &MultiplyUnpacked,
                                      .row_times = &RowTimes};

}  // namespace
}  // namespace shoal

#endif  // SHOAL_KERNELS_GEMM_X86_IMPL_H_
