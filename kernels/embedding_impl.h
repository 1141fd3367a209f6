#ifndef SHOAL_KERNELS_EMBEDDING_IMPL_H_
#define SHOAL_KERNELS_EMBEDDING_IMPL_H_

#include <cstddef>
#include <cstdint>

#include "kernels/lanes_impl.h"

// Included by loops_impl.h alone. Rows of 8, 16 and 32 numbers get loops of
// their own, the others a general one with the same additions in the same
// order.
namespace shoal {
namespace {

// Rows lie anywhere: ask for them this many positions ahead.
constexpr int64_t kAhead = 16;

template <typename Dim>
SHOAL_HOST_DEVICE void PrefetchRow(const float* rows, Dim dim,
                                   const int32_t* index, int64_t j, int64_t n) {
  if (j + kAhead < n) {
    const char* const row = reinterpret_cast<const char*>(
        rows + int64_t{index[j + kAhead]} * dim.count());
    const int64_t bytes = Smaller(dim.count() * 4, 256);
    for (int64_t b = 0; b < bytes; b += 64) {
      __builtin_prefetch(row + b);
    }
  }
}

// Calls body(Width<dim>) where there is one.
template <typename Body>
SHOAL_HOST_DEVICE void WithDim(int64_t dim, const Body& body) {
  switch (dim) {
    case 8:
      return body(Width<8>{});
    case 16:
      return body(Width<16>{});
    case 32:
      return body(Width<32>{});
    default:
      return body(AnyWidth{dim});
  }
}

void GatherRows(const float* rows, int64_t dim, const int32_t* index, int64_t n,
                float* y) {
  WithDim(dim, [&](auto d) {
    for (int64_t j = 0; j < n; ++j) {
      PrefetchRow(rows, d, index, j, n);
      __builtin_memcpy(y + j * d.count(), rows + int64_t{index[j]} * d.count(),
                       static_cast<size_t>(d.count()) * sizeof(float));
    }
  });
}

SHOAL_HOST_DEVICE const float* Source(const RowGradients& g, int64_t j) {
  return g.dy + (g.segments == nullptr ? j : g.segments[j]) * g.dim;
}

// row += weight * source of position j.
template <typename Dim>
SHOAL_HOST_DEVICE void AddPosition(const RowGradients& g, Dim d, int64_t j,
                                   float* row) {
  // A factor of 1 changes no bit.
  const float weight = g.weights == nullptr ? 1.0F : g.weights[j];
  AddScaled(d, weight, Source(g, j), row);
}

SHOAL_HOST_DEVICE uint32_t ShareOf(int32_t row, uint32_t mask) {
  return (static_cast<uint32_t>(row) / uint32_t{kRowsTogether}) & mask;
}

template <typename Dim>
SHOAL_HOST_DEVICE void ClearRows(const RowShare& share, Dim d, int64_t rows,
                                 float* drows) {
  for (int64_t r = share.number * kRowsTogether; r < rows;
       r += share.count * kRowsTogether) {
    const int64_t n = Smaller(kRowsTogether, rows - r) * d.count();
    float* const to = drows + r * d.count();
    for (int64_t k = 0; k < n; ++k) {
      to[k] = 0.0F;
    }
  }
}

void ScatterAdd(const RowGradients& g, const RowShare& share, int64_t n,
                int64_t rows, float* drows) {
  WithDim(g.dim, [&](auto d) {
    ClearRows(share, d, rows, drows);
    if (share.count == 1) {
      for (int64_t j = 0; j < n; ++j) {
        PrefetchRow(drows, d, g.index, j, n);
        AddPosition(g, d, j, drows + int64_t{g.index[j]} * d.count());
      }
      return;
    }
    // The positions of the share first, without a branch that would be guessed
    // wrong half the time.
    constexpr int64_t kPiece = 1024;
    int32_t mine[kPiece];
    const auto mask = static_cast<uint32_t>(share.count - 1);
    const auto number = static_cast<uint32_t>(share.number);
    for (int64_t begin = 0; begin < n; begin += kPiece) {
      const int64_t end = Smaller(n, begin + kPiece);
      uint32_t shares[kPiece];
      for (int64_t j = begin; j < end; ++j) {
        shares[j - begin] = ShareOf(g.index[j], mask);
      }
      uint32_t num_mine = 0;
      for (int64_t j = begin; j < end; ++j) {
        mine[num_mine] = static_cast<int32_t>(j);
        num_mine += shares[j - begin] == number ? 1 : 0;
      }
      for (uint32_t i = 0; i < num_mine; ++i) {
        if (i + kAhead < num_mine) {
          const int64_t later = mine[i + kAhead];
          __builtin_prefetch(Source(g, later));
          __builtin_prefetch(drows + int64_t{g.index[later]} * d.count(), 1);
        }
        const int64_t j = mine[i];
        AddPosition(g, d, j, drows + int64_t{g.index[j]} * d.count());
      }
    }
  });
}

template <typename Dim>
SHOAL_HOST_DEVICE void PoolBag(const Bags& bags, Dim d, int64_t begin,
                               int64_t end, int64_t last, float* y) {
  const int64_t dim = d.count();
  SHOAL_INDEPENDENT_ITERATIONS
  for (int64_t k = 0; k < dim; ++k) {
    y[k] = 0.0F;
  }
  for (int64_t j = begin; j < end; ++j) {
    PrefetchRow(bags.rows, d, bags.index, j, last);
    const float* const row = bags.rows + int64_t{bags.index[j]} * d.count();
    AddScaled(d, bags.weights[j], row, y);
  }
  if (bags.mean && end > begin) {
    const auto count = static_cast<float>(end - begin);
    SHOAL_INDEPENDENT_ITERATIONS
    for (int64_t k = 0; k < dim; ++k) {
      y[k] = y[k] / count;
    }
  }
}

void BagPoolRange(const Bags& bags, int64_t begin, int64_t end, float* y) {
  WithDim(bags.dim, [&](auto d) {
    const int64_t last = bags.offsets[end];
    for (int64_t s = begin; s < end; ++s) {
      PoolBag(bags, d, bags.offsets[s], bags.offsets[s + 1], last,
              y + s * d.count());
    }
  });
}

}  // namespace
}  // namespace shoal

#endif  // SHOAL_KERNELS_EMBEDDING_IMPL_H_
