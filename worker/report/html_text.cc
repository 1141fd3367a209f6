#include "worker/report/html_text.h"

#include <cstdio>

namespace shoal::worker {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

// The length of the UTF-8 character that `text` starts with, which is not
// ASCII; 0 if it is none (the shortest form is asked for, no surrogates).
size_t LengthOfCharacter(std::string_view text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const unsigned first = byte(0);
  const size_t size = first >= 0xf0   ? 4
                      : first >= 0xe0 ? 3
                      : first >= 0xc2 ? 2
                                      : 0;
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0U) != 0x80) {
      return 0;
    }
  }
  const unsigned second = byte(1);
  const bool wrong = first > 0xf4 || (first == 0xe0 && second < 0xa0) ||
                     (first == 0xed && second > 0x9f) ||
                     (first == 0xf0 && second < 0x90) ||
                     (first == 0xf4 && second > 0x8f);
  return wrong ? 0 : size;
}

std::string_view EscapedAscii(const char& c) {
  switch (c) {
    case '&':
      return "&amp;";
    case '<':
      return "&lt;";
    case '>':
      return "&gt;";
    case '"':
      return "&quot;";
    case '\'':
      return "&#39;";
    default:
      break;
  }
  const bool control =
      (c >= 0 && c < ' ' && c != '\n' && c != '\t') || c == 127;
  return control ? kReplacement : std::string_view(&c, 1);
}

}  // namespace

std::string EscapeHtml(std::string_view text) {
  std::string escaped;
  escaped.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      escaped += EscapedAscii(text[i]);
      ++i;
      continue;
    }
    const size_t size = LengthOfCharacter(text.substr(i));
    escaped += size == 0 ? kReplacement : text.substr(i, size);
    i += size == 0 ? 1 : size;
  }
  return escaped;
}

std::string FormatNumber(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.*g", digits, value);
  return text;
}

std::string FormatCount(int64_t value) {
  std::string text = std::to_string(value);
  const size_t first = value < 0 ? 1 : 0;
  for (size_t i = text.size(); i > first + 3; i -= 3) {
    text.insert(i - 3, ",");
  }
  return text;
}

}  // namespace shoal::worker
