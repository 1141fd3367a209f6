#ifndef SHOAL_PS_ROW_FORMAT_H_
#define SHOAL_PS_ROW_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/dtype.h"

namespace shoal::ps {

// The formats that a table's values may be kept in: kF32, kBF16, kF16.
constexpr bool IsRowFormat(DType format) {
  return format == DType::kF32 || format == DType::kBF16 ||
         format == DType::kF16;
}

// `values.size()` values that lie at `from` in `format`.
void WidenValues(DType format, const void* from, std::span<float> values);

// Rounds stochastically: up or down to a neighbour in `format`, with the
// probability that makes the mean the value itself, drawn from (key, place).
// What the format has stays; a finite value beyond its range becomes the
// largest; f32 is copied. So small updates are not lost as they would be by
// rounding to the nearest.
void RoundValues(DType format, uint64_t key, std::span<const float> values,
                 void* to);

// The same, back in f32: what WidenValues() gives after RoundValues().
void RoundInPlace(DType format, uint64_t key, std::span<float> values);

}  // namespace shoal::ps

#endif  // SHOAL_PS_ROW_FORMAT_H_
