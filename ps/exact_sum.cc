#include "ps/exact_sum.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/strcat.h"

namespace shoal::ps {
namespace {

constexpr int kLowestExponent = -1074;  // of a bit of a double
constexpr int kWordBits = 64;

}  // namespace

StatusOr<ExactSum> ExactSum::FromWords(std::span<const uint64_t> words) {
  if (words.size() > kWords) {
    return InvalidArgumentError(StrCat(
        "a sum has ", words.size(), " words, at most ", kWords, " make sense"));
  }
  ExactSum sum;
  std::copy(words.begin(), words.end(), sum.words_.begin());
  return sum;
}

void ExactSum::Add(double term) {
  SHOAL_CHECK(std::isfinite(term) && term >= 0);
  constexpr int kMantissaBits = 52;
  constexpr uint64_t kMantissa = (uint64_t{1} << kMantissaBits) - 1;
  const auto bits = std::bit_cast<uint64_t>(term);
  const auto exponent = static_cast<int>(bits >> kMantissaBits);
  // Subnormal numbers have no hidden bit, and the exponent of 1.
  const uint64_t mantissa =
      (bits & kMantissa) | (exponent == 0 ? 0 : kMantissa + 1);
  const int shift = std::max(exponent, 1) - 1;
  const int word = shift / kWordBits;
  const int in_word = shift % kWordBits;
  AddWord(word, mantissa << in_word);
  if (in_word > 0) {
    AddWord(word + 1, mantissa >> (kWordBits - in_word));
  }
}

void ExactSum::AddWord(int at, uint64_t word) {
  for (auto i = static_cast<size_t>(at); word != 0 && i < kWords; ++i) {
    words_[i] += word;
    word = words_[i] < word ? 1 : 0;  // the carry
  }
}

void ExactSum::Add(const ExactSum& other) {
  for (int i = 0; i < kWords; ++i) {
    AddWord(i, other.words_[static_cast<size_t>(i)]);
  }
}

double ExactSum::value() const {
  int top = kWords - 1;
  while (top > 0 && words_[static_cast<size_t>(top)] == 0) {
    --top;
  }
  const uint64_t high = words_[static_cast<size_t>(top)];
  if (top == 0) {
    return std::ldexp(static_cast<double>(high), kLowestExponent);
  }
  // The 64 bits from the highest one on; what is below can't change more than
  // the last bit of a double.
  const int unused = std::countl_zero(high);
  const uint64_t low = words_[static_cast<size_t>(top) - 1];
  const uint64_t window =
      unused == 0 ? high : high << unused | low >> (kWordBits - unused);
  return std::ldexp(static_cast<double>(window),
                    kLowestExponent + top * kWordBits - unused);
}

}  // namespace shoal::ps
