#include "ps/initializer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "base/random.h"

namespace shoal::ps {
namespace {

// The random bits of value number `n`.
uint64_t Bits(uint64_t key, int64_t n) {
  return Mix64(key + static_cast<uint64_t>(n + 1) * 0x9e3779b97f4a7c15ULL);
}

// In [0, 1), multiples of 2^-24.
float Unit(uint64_t bits) {
  return static_cast<float>(bits >> 40) * 0x1.0p-24F;
}

// Logarithms and cosines from IEEE operations alone: those of the C library
// differ in the last bit between its versions and between processors. Errors
// are below 1e-9, far below the f32 that they end in.

// log(x), x > 0 and normal: x = 2^e m with m in [sqrt(1/2), sqrt(2)), and
// log(m) = 2 artanh(s) with s = (m - 1) / (m + 1), |s| < 0.172.
double Log(double x) {
  const auto bits = std::bit_cast<uint64_t>(x);
  constexpr uint64_t kSqrtHalf = 0x3fe6a09e667f3bcdULL;
  const int64_t e = static_cast<int64_t>(bits - kSqrtHalf) >> 52;
  const auto m = std::bit_cast<double>(bits - (static_cast<uint64_t>(e) << 52));
  const double s = (m - 1) / (m + 1);
  const double s2 = s * s;
  double sum = 1.0 / 13;
  for (const double term :
       {1.0 / 11, 1.0 / 9, 1.0 / 7, 1.0 / 5, 1.0 / 3, 1.0}) {
    sum = sum * s2 + term;
  }
  return static_cast<double>(e) * std::numbers::ln2 + 2 * s * sum;
}

struct Point {
  double cos;
  double sin;
};

// Of the angle `turn` * 2 pi, turn in [0, 1): series in [-pi/4, pi/4] around
// the nearest quarter.
Point OnCircle(double turn) {
  const auto quarter = static_cast<int64_t>(4 * turn + 0.5);
  const double x =
      (turn - 0.25 * static_cast<double>(quarter)) * (2 * std::numbers::pi);
  const double x2 = x * x;
  double sin = -1.0 / 39916800;
  for (const double term :
       {1.0 / 362880, -1.0 / 5040, 1.0 / 120, -1.0 / 6, 1.0}) {
    sin = sin * x2 + term;
  }
  sin *= x;
  double cos = 1.0 / 479001600;
  for (const double term :
       {-1.0 / 3628800, 1.0 / 40320, -1.0 / 720, 1.0 / 24, -1.0 / 2, 1.0}) {
    cos = cos * x2 + term;
  }
  switch (quarter & 3) {
    case 0:
      return {cos, sin};
    case 1:
      return {-sin, cos};
    case 2:
      return {-cos, -sin};
    default:
      return {sin, -cos};
  }
}

// Values number 2 * pair and 2 * pair + 1 (Box and Muller, 1958).
Point NormalPair(uint64_t key, int64_t pair) {
  const uint64_t bits = Bits(key, pair);
  const double u = (static_cast<double>(bits >> 32) + 0.5) * 0x1.0p-32;
  const double v = static_cast<double>(bits & 0xffffffffU) * 0x1.0p-32;
  const double radius = std::sqrt(-2 * Log(u));
  const Point point = OnCircle(v);
  return {radius * point.cos, radius * point.sin};
}

void FillNormal(uint64_t key, int64_t first, double scale,
                std::span<float> out) {
  size_t i = 0;
  if (first % 2 != 0 && !out.empty()) {
    out[i++] = static_cast<float>(NormalPair(key, first / 2).sin * scale);
  }
  for (; i < out.size(); i += 2) {
    const Point pair = NormalPair(key, (first + static_cast<int64_t>(i)) / 2);
    out[i] = static_cast<float>(pair.cos * scale);
    if (i + 1 < out.size()) {
      out[i + 1] = static_cast<float>(pair.sin * scale);
    }
  }
}

}  // namespace

void Initializer::Fill(uint64_t key, int64_t first,
                       std::span<float> out) const {
  const auto scale_f = static_cast<float>(scale);
  switch (kind) {
    case Kind::kZero:
      std::fill(out.begin(), out.end(), 0.0F);
      return;
    case Kind::kConstant:
      std::fill(out.begin(), out.end(), scale_f);
      return;
    case Kind::kUniform:
      for (float& value : out) {
        value = (Unit(Bits(key, first++)) * 2 - 1) * scale_f;
      }
      return;
    case Kind::kNormal:
      FillNormal(key, first, scale, out);
      return;
  }
}

}  // namespace shoal::ps
