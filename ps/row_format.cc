#include "ps/row_format.h"

#include <bit>
#include <cstring>

#include "base/random.h"
#include "base/status.h"

namespace shoal::ps {
namespace {

constexpr uint32_t kInfinity = 0x7f800000U;

uint16_t ToBf16(float value, uint32_t random16) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & kInfinity) == kInfinity) {
    // A NaN must not become infinite by losing its low bits.
    return static_cast<uint16_t>((bits >> 16) |
                                 ((bits & 0x7fffffU) != 0 ? 0x40U : 0U));
  }
  const uint32_t rounded = bits + random16;
  return (rounded & kInfinity) == kInfinity
             ? static_cast<uint16_t>(((bits >> 16) & 0x8000U) | 0x7f7fU)
             : static_cast<uint16_t>(rounded >> 16);
}

float FromBf16(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

uint16_t ToF16(float value, uint32_t random16) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000U;
  const uint32_t size = bits & 0x7fffffffU;
  constexpr uint32_t kLeastNormal = 0x38800000U;  // 2^-14
  uint32_t half = 0;
  if (size >= kInfinity) {
    half = size > kInfinity ? 0x7e00U : 0x7c00U;
  } else if (size >= kLeastNormal) {
    // 13 bits of the fraction go, and the exponent starts elsewhere.
    half = (size + (random16 & 0x1fffU) - 0x38000000U) >> 13;
    half = half >= 0x7c00U ? 0x7bffU : half;
  } else {
    // Multiples of 2^-24. All of this is exact.
    const float scaled = std::bit_cast<float>(size) * 0x1p24F;
    half = static_cast<uint32_t>(scaled);
    const float rest = scaled - static_cast<float>(half);
    const float draw = (static_cast<float>(random16) + 0.5F) * 0x1p-16F;
    half += rest > draw ? 1 : 0;
  }
  return static_cast<uint16_t>(sign | half);
}

float FromF16(uint16_t half) {
  const uint32_t sign = (uint32_t{half} & 0x8000U) << 16;
  const uint32_t size = half & 0x7fffU;
  if (size < 0x400U) {
    return std::bit_cast<float>(
        sign | std::bit_cast<uint32_t>(static_cast<float>(size) * 0x1p-24F));
  }
  const uint32_t exponent = size >= 0x7c00U ? 0x70000000U : 0x38000000U;
  return std::bit_cast<float>(sign | ((size << 13) + exponent));
}

// Sixteen random bits for each place.
uint32_t Random16(uint64_t key, size_t place) {
  const uint64_t four = Mix64(key + (place / 4 + 1) * 0x9e3779b97f4a7c15ULL);
  return static_cast<uint32_t>(four >> (16 * (place % 4))) & 0xffffU;
}

uint16_t Narrow(DType format, float value, uint32_t random16) {
  return format == DType::kBF16 ? ToBf16(value, random16)
                                : ToF16(value, random16);
}

float Widen(DType format, uint16_t bits) {
  return format == DType::kBF16 ? FromBf16(bits) : FromF16(bits);
}

}  // namespace

void WidenValues(DType format, const void* from, std::span<float> values) {
  if (format == DType::kF32) {
    std::memcpy(values.data(), from, values.size_bytes());
    return;
  }
  const auto* bits = static_cast<const uint16_t*>(from);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = Widen(format, bits[i]);
  }
}

void RoundValues(DType format, uint64_t key, std::span<const float> values,
                 void* to) {
  if (format == DType::kF32) {
    std::memcpy(to, values.data(), values.size_bytes());
    return;
  }
  auto* bits = static_cast<uint16_t*>(to);
  for (size_t i = 0; i < values.size(); ++i) {
    bits[i] = Narrow(format, values[i], Random16(key, i));
  }
}

void RoundInPlace(DType format, uint64_t key, std::span<float> values) {
  if (format == DType::kF32) {
    return;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = Widen(format, Narrow(format, values[i], Random16(key, i)));
  }
}

}  // namespace shoal::ps
