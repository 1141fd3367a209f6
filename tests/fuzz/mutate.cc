#include "tests/fuzz/mutate.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>

namespace shoal::fuzz {
namespace {

using std::string_view_literals::operator""sv;

constexpr std::string_view kTokens[] = {
    "18446744073709551616"sv,
    "-9223372036854775809"sv,
    "4294967296"sv,
    "-1"sv,
    "1e999"sv,
    "nan"sv,
    "-inf"sv,
    "0x7f"sv,
    "\0"sv,
    "\""sv,
    "\"\""sv,
    "'"sv,
    "\r\n"sv,
    "\n\n"sv,
    "\xef\xbb\xbf"sv,
    "\xff\xfe"sv,
    ":"sv,
    ": "sv,
    ","sv,
    "\t"sv,
    "#"sv,
    "[[[[[[[["sv,
    "{a: "sv,
    "&a *a"sv,
    "\xff\xff\xff\xff\xff\xff\xff\x7f"sv,
    "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"sv,
};

void Change(std::string& text, Random& random) {
  if (text.empty()) {
    text = kTokens[random.Below(std::size(kTokens))];
    return;
  }
  const size_t at = random.Below(text.size());
  const size_t length = std::min<size_t>(1 + random.Below(1 + random.Below(64)),
                                         text.size() - at);
  switch (random.Below(7)) {
    case 0:
      text[at] = static_cast<char>(text[at] ^ (1 << random.Below(8)));
      return;
    case 1:
      text[at] = static_cast<char>(random.Below(256));
      return;
    case 2:
      text.erase(at, length);
      return;
    case 3:
      text.insert(random.Below(text.size() + 1), text.substr(at, length));
      return;
    case 4:
      text.resize(at);
      return;
    default:
      text.insert(at, kTokens[random.Below(std::size(kTokens))]);
      return;
  }
}

}  // namespace

std::string Mutate(std::string_view sample, Random& random) {
  std::string text(sample);
  for (uint64_t n = 1 + random.Below(4); n > 0; --n) {
    Change(text, random);
  }
  return text;
}

uint64_t Runs(uint64_t otherwise) {
  if (const char* runs = std::getenv("SHOAL_FUZZ_RUNS"); runs != nullptr) {
    return std::strtoull(runs, nullptr, 10);
  }
  return std::getenv("SHOAL_NIGHTLY") == nullptr ? otherwise : 50 * otherwise;
}

}  // namespace shoal::fuzz
