#include "worker/input/number.h"

#include <charconv>
#include <cmath>

namespace shoal::worker {
namespace {

bool IsBlank(char c) { return c == ' ' || c == '\t'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

std::string_view Trim(std::string_view text) {
  while (!text.empty() && IsBlank(text.front())) {
    text.remove_prefix(1);
  }
  while (!text.empty() && IsBlank(text.back())) {
    text.remove_suffix(1);
  }
  return text;
}

// Exact in f64, and so are integers of up to 15 digits: one division of the
// two rounds correctly (Clinger's fast path).
constexpr double kPowersOfTen[] = {1e0,  1e1,  1e2,  1e3, 1e4,  1e5,
                                   1e6,  1e7,  1e8,  1e9, 1e10, 1e11,
                                   1e12, 1e13, 1e14, 1e15};
constexpr int kExactDigits = 15;

bool ParseShort(std::string_view text, double* out) {
  const bool negative = text.front() == '-';
  size_t at = negative ? 1 : 0;
  if (text.size() - at > kExactDigits + 1) {
    return false;
  }
  uint64_t mantissa = 0;
  int digits = 0;
  int fraction = 0;
  bool point = false;
  for (; at < text.size(); ++at) {
    const char c = text[at];
    if (IsDigit(c)) {
      mantissa = mantissa * 10 + static_cast<uint64_t>(c - '0');
      ++digits;
      fraction += point ? 1 : 0;
    } else if (c == '.' && !point) {
      point = true;
    } else {
      return false;
    }
  }
  if (digits == 0 || digits > kExactDigits) {
    return false;
  }
  const double value = static_cast<double>(mantissa) / kPowersOfTen[fraction];
  *out = negative ? -value : value;
  return true;
}

bool ParseWhole(std::string_view text, int base, uint64_t* out) {
  uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value, base);
  if (error != std::errc() || stop != end) {
    return false;
  }
  *out = value;
  return true;
}

}  // namespace

bool ParseNumber(std::string_view text, double* out) {
  if (text.empty()) {
    return false;
  }
  if (ParseShort(text, out)) {
    return true;
  }
  text = Trim(text);
  if (text.size() > 1 && text.front() == '+' && text[1] != '-') {
    text.remove_prefix(1);
  }
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] =
      std::from_chars(text.data(), end, value, std::chars_format::general);
  // A number too small for f64 is 0, as every other reader has it.
  if (error == std::errc::result_out_of_range && stop == end) {
    const size_t exponent = text.find_first_of("eE");
    const bool tiny =
        exponent == std::string_view::npos
            ? text.substr(text.front() == '-' ? 1 : 0, 2) == "0."
            : exponent + 1 < text.size() && text[exponent + 1] == '-';
    if (!tiny) {
      return false;
    }
    *out = 0;
    return true;
  }
  if (error != std::errc() || stop != end || !std::isfinite(value)) {
    return false;
  }
  *out = value;
  return true;
}

bool ParseFloat(std::string_view text, float* out) {
  double value = 0;
  if (!ParseNumber(text, &value) || !std::isfinite(static_cast<float>(value))) {
    return false;
  }
  *out = static_cast<float>(value);
  return true;
}

bool ParseDecimal(std::string_view text, uint64_t* out) {
  return ParseWhole(text, 10, out);
}

bool ParseHexadecimal(std::string_view text, uint64_t* out) {
  return ParseWhole(text, 16, out);
}

}  // namespace shoal::worker
