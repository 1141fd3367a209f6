#ifndef SHOAL_KERNELS_INTERACTION_IMPL_H_
#define SHOAL_KERNELS_INTERACTION_IMPL_H_

#include <cstdint>

#include "kernels/lanes_impl.h"

// Included by loops_impl.h alone.
namespace shoal {
namespace {

void FmRange(const FieldVectors& v, int64_t begin, int64_t end, float* y) {
  for (int64_t e = begin; e < end; ++e) {
    const float* const x = v.x + e * v.fields * v.dim;
    Lanes terms;
    Clear(terms);
    ForChunks(v.dim, [&](int64_t k, auto width) {
      const int64_t n = width.count();
      Lanes sum;
      Lanes squares;
      Clear(sum);
      Clear(squares);
      for (int64_t f = 0; f < v.fields; ++f) {
        const float* const from = x + f * v.dim + k;
        for (int64_t l = 0; l < n; ++l) {
          sum.lane[l] += from[l];
          squares.lane[l] += from[l] * from[l];
        }
      }
      for (int64_t l = 0; l < n; ++l) {
        terms.lane[l] += sum.lane[l] * sum.lane[l] - squares.lane[l];
      }
    });
    y[e] = 0.5F * SumOfLanes(terms);
  }
}

void FmGradRange(const FieldVectors& v, const float* dy, int64_t begin,
                 int64_t end, float* dx) {
  for (int64_t e = begin; e < end; ++e) {
    const float* const x = v.x + e * v.fields * v.dim;
    float* const out = dx + e * v.fields * v.dim;
    const float slope = dy[e];
    ForChunks(v.dim, [&](int64_t k, auto width) {
      const int64_t n = width.count();
      Lanes sum;
      Clear(sum);
      for (int64_t f = 0; f < v.fields; ++f) {
        const float* const from = x + f * v.dim + k;
        for (int64_t l = 0; l < n; ++l) {
          sum.lane[l] += from[l];
        }
      }
      for (int64_t f = 0; f < v.fields; ++f) {
        const float* const from = x + f * v.dim + k;
        float* const to = out + f * v.dim + k;
        SHOAL_INDEPENDENT_ITERATIONS
        for (int64_t l = 0; l < n; ++l) {
          to[l] = slope * (sum.lane[l] - from[l]);
        }
      }
    });
  }
}

// Products of one example, for 16 columns j at a time: the columns are
// transposed, so that the lanes are outputs and no sum crosses lanes. Each
// output is one chain over dimensions; between pieces of kDepth it waits in y.
constexpr int64_t kDepth = 64;

// y[i, j0 + l] for l in [0, n) gains the products over `depth` dimensions.
SHOAL_HOST_DEVICE void DotColumns(const float* xi,
                                  const float (*columns)[kLanes], int64_t depth,
                                  int64_t n, bool first, float* y) {
  LaneVector acc = {};
  if (!first) {
    Lanes before;
    for (int64_t l = 0; l < kLanes; ++l) {
      before.lane[l] = l < n ? y[l] : 0.0F;
    }
    __builtin_memcpy(&acc, before.lane, sizeof(acc));
  }
  for (int64_t k = 0; k < depth; ++k) {
    LaneVector column;
    __builtin_memcpy(&column, columns[k], sizeof(column));
    acc += xi[k] * column;
  }
  if (n == kLanes) {
    __builtin_memcpy(y, &acc, sizeof(acc));
    return;
  }
  Lanes after;
  __builtin_memcpy(after.lane, &acc, sizeof(acc));
  for (int64_t l = 0; l < n; ++l) {
    y[l] = after.lane[l];
  }
}

void DotInteractionRange(const FieldVectors& v, int64_t begin, int64_t end,
                         float* y) {
  const int64_t pairs = v.fields * (v.fields - 1) / 2;
  float columns[kDepth][kLanes];
  for (int64_t e = begin; e < end; ++e) {
    const float* const x = v.x + e * v.fields * v.dim;
    float* const out = y + e * pairs;
    for (int64_t k0 = 0; k0 < v.dim || k0 == 0; k0 += kDepth) {
      const int64_t depth = Smaller(kDepth, v.dim - k0);
      for (int64_t j0 = 0; j0 + 1 < v.fields; j0 += kLanes) {
        const int64_t width = Smaller(kLanes, v.fields - j0);
        for (int64_t l = 0; l < kLanes; ++l) {
          const float* const from = x + (j0 + (l < width ? l : 0)) * v.dim + k0;
          for (int64_t k = 0; k < depth; ++k) {
            columns[k][l] = from[k];
          }
        }
        for (int64_t i = j0 + 1; i < v.fields; ++i) {
          DotColumns(x + i * v.dim + k0, columns, depth, Smaller(width, i - j0),
                     k0 == 0, out + i * (i - 1) / 2 + j0);
        }
      }
    }
  }
}

void DotInteractionGradRange(const FieldVectors& v, const float* dy,
                             int64_t begin, int64_t end, float* dx) {
  const int64_t pairs = v.fields * (v.fields - 1) / 2;
  for (int64_t e = begin; e < end; ++e) {
    const float* const x = v.x + e * v.fields * v.dim;
    const float* const slopes = dy + e * pairs;
    float* const out = dx + e * v.fields * v.dim;
    ForChunks(v.dim, [&](int64_t k, auto width) {
      const int64_t n = width.count();
      for (int64_t i = 0; i < v.fields; ++i) {
        Lanes acc;
        Clear(acc);
        const float* slope = slopes + i * (i - 1) / 2;
        const float* from = x + k;
        for (int64_t j = 0; j < i; ++j, from += v.dim) {
          const float s = slope[j];
          for (int64_t l = 0; l < n; ++l) {
            acc.lane[l] += s * from[l];
          }
        }
        for (int64_t j = i + 1; j < v.fields; ++j) {
          from += v.dim;
          const float s = slopes[j * (j - 1) / 2 + i];
          for (int64_t l = 0; l < n; ++l) {
            acc.lane[l] += s * from[l];
          }
        }
        float* const to = out + i * v.dim + k;
        for (int64_t l = 0; l < n; ++l) {
          to[l] = acc.lane[l];
        }
      }
    });
  }
}

}  // namespace
}  // namespace shoal

#endif  // SHOAL_KERNELS_INTERACTION_IMPL_H_
