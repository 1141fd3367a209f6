#ifndef SHOAL_PS_OPTIMIZERS_ROW_LOOP_H_
#define SHOAL_PS_OPTIMIZERS_ROW_LOOP_H_

#include <cstdint>

#include "kernels/simd.h"
#include "ps/optimizer.h"

// The loops over rows and elements that all optimizers share. An optimizer is a
// functor with
//   void operator()(float* row, const float* gradient, int64_t dim) const
// (always inlined) whose loops are plain and independent per element, so that
// the compiler may use vectors of any width without changing a bit. They are
// compiled three times and chosen by ActiveSimdPath().

// GCC vectorizes loops of unknown length only from -O3 on.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif

namespace shoal::ps {

// The sum of x[j]^2, in an order that no width of vectors changes: x[j] goes to
// sum j modulo 8, and those are added up in turn.
[[gnu::always_inline]] inline double SumOfSquares(const float* x, int64_t n) {
  constexpr int64_t kSums = 8;
  double sums[kSums] = {};
  int64_t j = 0;
  for (; j + kSums <= n; j += kSums) {
    for (int64_t k = 0; k < kSums; ++k) {
      const double value = x[j + k];
      sums[k] += value * value;
    }
  }
  for (int64_t k = 0; j < n; ++j, ++k) {
    const double value = x[j];
    sums[k] += value * value;
  }
  double sum = 0;
  for (const double part : sums) {
    sum += part;
  }
  return sum;
}

template <typename Fn>
[[gnu::always_inline]] inline void RowLoop(const Fn& fn,
                                           const ApplyBatch& batch) {
  // Rows lie anywhere in a table: those ahead are fetched meanwhile.
  constexpr int64_t kAhead = 8;
  for (int64_t i = 0; i < batch.num_rows; ++i) {
    if (i + kAhead < batch.num_rows) {
      const auto* next = reinterpret_cast<const char*>(batch.rows[i + kAhead]);
      __builtin_prefetch(next, 1);
      __builtin_prefetch(next + 64, 1);
    }
    fn(batch.rows[i], batch.gradients + i * batch.dim, batch.dim);
  }
}

#if defined(__x86_64__)
template <typename Fn>
__attribute__((target("avx2"))) void RowLoopAvx2(const Fn& fn,
                                                 const ApplyBatch& batch) {
  RowLoop(fn, batch);
}
template <typename Fn>
__attribute__((target("avx512f,avx512vl,avx512dq"))) void RowLoopAvx512(
    const Fn& fn, const ApplyBatch& batch) {
  RowLoop(fn, batch);
}
#endif

template <typename Fn>
void RunRowLoop(const Fn& fn, const ApplyBatch& batch) {
#if defined(__x86_64__)
  switch (ActiveSimdPath()) {
    case SimdPath::kAvx512:
      return RowLoopAvx512(fn, batch);
    case SimdPath::kAvx2:
      return RowLoopAvx2(fn, batch);
    case SimdPath::kScalar:
      break;
  }
#endif
  RowLoop(fn, batch);
}

// How a functor declares its call, so that it becomes part of each loop.
#define SHOAL_ROW_FN [[gnu::always_inline]] void operator()

}  // namespace shoal::ps

#endif  // SHOAL_PS_OPTIMIZERS_ROW_LOOP_H_
