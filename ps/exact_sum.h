#ifndef SHOAL_PS_EXACT_SUM_H_
#define SHOAL_PS_EXACT_SUM_H_

#include <array>
#include <cstdint>
#include <span>

#include "base/status.h"

namespace shoal::ps {

// A sum of finite doubles >= 0 without rounding, so that it is the same in any
// order and however its terms were divided: a fixed-point number of all bits
// that doubles have, and room for 2^64 of the largest. Thread-compatible.
class ExactSum {
 public:
  // Words of 64 bits; bit 0 of the first is 2^-1074.
  static constexpr int kWords = 35;

  ExactSum() = default;
  // Errors: kInvalidArgument (more than kWords words). Missing ones are zero.
  static StatusOr<ExactSum> FromWords(std::span<const uint64_t> words);

  // `term` is finite and >= 0.
  void Add(double term);
  // Wraps around, as no sum of fewer than 2^64 terms does.
  void Add(const ExactSum& other);

  // The nearest double or its neighbour; infinite beyond the largest.
  double value() const;
  std::span<const uint64_t> words() const { return words_; }

 private:
  void AddWord(int at, uint64_t word);

  std::array<uint64_t, kWords> words_ = {};  // least first
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_EXACT_SUM_H_
