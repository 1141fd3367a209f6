#ifndef SHOAL_KERNELS_FUNCTORS_MATH_H_
#define SHOAL_KERNELS_FUNCTORS_MATH_H_

#include <cstdint>

#include "kernels/functors/host_device.h"

// Elementary functions from IEEE additions, multiplications and divisions
// alone: the same bits on every machine, loops over them vectorize, NaN passes
// through. f32; the errors are bounds over the whole range, in units in the
// last place (math_test.cc measures them). Polynomials are those of Cephes
// (S. Moshier, single precision).
namespace shoal::functors {

SHOAL_HOST_DEVICE float FromBits(int32_t bits) {
  return __builtin_bit_cast(float, bits);
}
SHOAL_HOST_DEVICE int32_t ToBits(float value) {
  return __builtin_bit_cast(int32_t, value);
}
SHOAL_HOST_DEVICE float Abs(float x) {
  return FromBits(ToBits(x) & 0x7fffffff);
}

// e^x, 2 ulp (in subnormals: 1 of theirs). 0 and infinity beyond the range.
SHOAL_HOST_DEVICE float Exp(float x) {
  // Beyond these the result is 0 or infinity whatever the rest is; what the
  // comparison does with NaN is undone at the end.
  const float above = x > -104.0F ? x : -104.0F;
  const float z = above < 89.0F ? above : 89.0F;
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  constexpr float kRound = 12582912.0F;
  const float shifted = z * 1.44269504088896341F + kRound;
  const int32_t n = ToBits(shifted) - ToBits(kRound);
  const float whole = shifted - kRound;
  // ln 2 in two parts; the first has so few bits that whole * it is exact.
  const float r = (z - whole * 0.693359375F) - whole * -2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  const float e = 1.0F + (r + r * r * p);
  // 2^n as a product, since n may lie outside the exponents of f32.
  const int32_t half = n >> 1;
  const float y = e * FromBits((half + 127) << 23);
  const float scaled = y * FromBits((n - half + 127) << 23);
  return x != x ? x : scaled;
}

// The natural logarithm, 2 ulp. -infinity at 0, NaN below.
SHOAL_HOST_DEVICE float Log(float x) {
  constexpr float kInfinity = __builtin_inff();
  // Selects take numbers that are computed in any case, here and below:
  // compilers do not vectorize what they would have to compute on a branch.
  const bool tiny = x < 1.17549435e-38F;
  const float normal = x * (tiny ? 8388608.0F : 1.0F);
  const float exponent_shift = tiny ? -23.0F : 0.0F;
  // Mantissa in [sqrt(1/2), sqrt(2)): subtract the bits of sqrt(1/2) first.
  const auto bits =
      static_cast<int32_t>(static_cast<uint32_t>(ToBits(normal)) - 0x3f3504f3U);
  const float exponent = static_cast<float>(bits >> 23) + exponent_shift;
  const float m = FromBits((bits & 0x007fffff) + 0x3f3504f3) - 1.0F;
  float p = 7.0376836292e-2F;
  p = p * m + -1.1514610310e-1F;
  p = p * m + 1.1676998740e-1F;
  p = p * m + -1.2420140846e-1F;
  p = p * m + 1.4249322787e-1F;
  p = p * m + -1.6668057665e-1F;
  p = p * m + 2.0000714765e-1F;
  p = p * m + -2.4999993993e-1F;
  p = p * m + 3.3333331174e-1F;
  const float square = m * m;
  float y = m * square * p;
  y = y + exponent * -2.12194440e-4F;
  y = y - 0.5F * square;
  y = (m + y) + exponent * 0.693359375F;
  // Infinity and NaN stay as they are, whatever is added; 0 / 0 is NaN.
  y = y + (x < kInfinity ? 0.0F : x);
  y = y + (x == 0.0F ? -kInfinity : 0.0F);
  return y + (x < 0.0F ? __builtin_nanf("") : 0.0F);
}

// log(1 + x), 3 ulp.
SHOAL_HOST_DEVICE float Log1p(float x) {
  const float u = 1.0F + x;
  // What the addition above rounded away, to first order.
  const float lost = (x - (u - 1.0F)) / (u > 0.0F ? u : 1.0F);
  // Where u is infinite that is NaN, and no part of the result.
  const float correction = u < __builtin_inff() ? lost : 0.0F;
  return Log(u) + correction;
}

// 1 / (1 + e^-x), 4 ulp.
SHOAL_HOST_DEVICE float Sigmoid(float x) {
  const float e = Exp(-Abs(x));
  const float top = x < 0.0F ? e : 1.0F;
  return top / (1.0F + e);
}

// 4 ulp.
SHOAL_HOST_DEVICE float Tanh(float x) {
  const float magnitude = Abs(x);
  const float square = x * x;
  float p = -5.70498872745e-3F;
  p = p * square + 2.06390887954e-2F;
  p = p * square + -5.37397155531e-2F;
  p = p * square + 1.33314422036e-1F;
  p = p * square + -3.33332819422e-1F;
  const float near = x + x * square * p;
  const float far = 1.0F - 2.0F / (Exp(2.0F * magnitude) + 1.0F);
  const float signed_far = x < 0.0F ? -far : far;
  return magnitude < 0.625F ? near : signed_far;
}

}  // namespace shoal::functors

#endif  // SHOAL_KERNELS_FUNCTORS_MATH_H_
