#include "worker/report/html_text.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace shoal::worker {
namespace {

TEST(HtmlTextTest, MarkupIsEscaped) {
  EXPECT_EQ(EscapeHtml("<a href=\"x\">'&amp;'</a>\n\t."),
            "&lt;a href=&quot;x&quot;&gt;&#39;&amp;amp;&#39;&lt;/a&gt;\n\t.");
  EXPECT_EQ(EscapeHtml(""), "");
}

TEST(HtmlTextTest, Utf8StaysAndWhatIsNoneIsReplaced) {
  // Two, three and four bytes.
  EXPECT_EQ(EscapeHtml("ü€😀"), "ü€😀");
  const std::string r = "\xef\xbf\xbd";
  EXPECT_EQ(EscapeHtml("a\xff"
                       "b"),
            "a" + r + "b");
  EXPECT_EQ(EscapeHtml("a\xe2\x82"), "a" + r + r);           // cut off
  EXPECT_EQ(EscapeHtml("\xc0\x80"), r + r);                  // not the shortest
  EXPECT_EQ(EscapeHtml("\xe0\x80\x80"), r + r + r);          // the same
  EXPECT_EQ(EscapeHtml("\xed\xa0\x80"), r + r + r);          // a surrogate
  EXPECT_EQ(EscapeHtml("\xf4\x90\x80\x80"), r + r + r + r);  // beyond Unicode
  EXPECT_EQ(EscapeHtml(std::string_view("\0\x1b\x7f", 3)), r + r + r);
}

TEST(HtmlTextTest, NumbersReadWell) {
  EXPECT_EQ(FormatNumber(0.8125), "0.8125");
  EXPECT_EQ(FormatNumber(1234567.0), "1.23457e+06");
  EXPECT_EQ(FormatNumber(0.1 + 0.2), "0.3");
  EXPECT_EQ(FormatNumber(std::nan("")), "nan");
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(1000), "1,000");
  EXPECT_EQ(FormatCount(-123456), "-123,456");
  EXPECT_EQ(FormatCount(1347105), "1,347,105");
  EXPECT_EQ(FormatCount(std::numeric_limits<int64_t>::min()),
            "-9,223,372,036,854,775,808");
}

}  // namespace
}  // namespace shoal::worker
