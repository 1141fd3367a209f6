#ifndef SHOAL_WORKER_REPORT_HTML_TEXT_H_
#define SHOAL_WORKER_REPORT_HTML_TEXT_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace shoal::worker {

// `text` as it may stand in HTML, between tags or in a quoted attribute. Bytes
// that are no text (control characters but tab and newline, broken UTF-8)
// become U+FFFD.
std::string EscapeHtml(std::string_view text);

// With at most `digits` significant digits and no needless zeros: "0.8125".
std::string FormatNumber(double value, int digits = 6);

// "1,053".
std::string FormatCount(int64_t value);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_REPORT_HTML_TEXT_H_
