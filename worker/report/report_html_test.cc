#include "worker/report/report_html.h"

#include <cmath>
#include <regex>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal::worker {
namespace {

using testing::HasSubstr;
using testing::Not;

// Empty, or which tag is not closed as XML would have it. Style sheets and
// texts may not hold '<'.
std::string BalanceError(const std::string& html) {
  std::vector<std::string> open;
  static const std::regex kTag("<(/?)([a-z0-9]+)([^<>]*)>");
  size_t tags = 0;
  for (std::sregex_iterator it(html.begin(), html.end(), kTag), end; it != end;
       ++it) {
    ++tags;
    const std::string name = (*it)[2];
    if ((*it)[1] == "/") {
      if (open.empty() || open.back() != name) {
        return "</" + name + "> closes " +
               (open.empty() ? "nothing" : open.back());
      }
      open.pop_back();
    } else if (!(*it)[3].str().ends_with('/')) {
      open.push_back(name);
    }
  }
  if (!open.empty()) {
    return open.back() + " stays open";
  }
  // All '<' but that of the doctype belong to a tag.
  size_t signs = 0;
  for (const char c : html) {
    signs += c == '<' ? 1 : 0;
  }
  return signs == tags + 1 ? "" : "a '<' is in no tag";
}

TrainingSummary ReportedSummary() {
  TrainingSummary summary;
  summary.job = "flights";
  summary.model = "deepfm";
  summary.task = "binary";
  summary.mode = "sync";
  summary.outcome = "finished";
  summary.examples = 1347105;
  summary.steps = 2634;
  summary.steps_per_epoch = 527;
  summary.epochs = 5;
  summary.seconds = 9.8;
  summary.train_loss = 0.3514;
  for (int i = 1; i <= 100; ++i) {
    summary.losses.push_back({i * 10, 0.3 + 1.0 / i});
  }
  for (int e = 1; e <= 3; ++e) {
    EvalResult result;
    result.count = 67355;
    result.auc = 0.8 + 0.001 * e;
    result.log_loss = 0.4 - 0.01 * e;
    summary.history.push_back({.step = e * 527,
                               .epoch = 1.0 * e,
                               .seconds = 2.0 * e,
                               .result = result});
  }
  summary.test = summary.history.back().result;
  summary.checkpoint = "out/step-2634";
  summary.digest = "00ff";
  summary.cluster = {{"servers", "2"}, {"workers", "2"}};
  summary.timings = {{"start", "0.4 s"}};
  summary.job_yaml = "name: flights\nseed: 1\n";
  return summary;
}

TEST(ReportHtmlTest, ShowsWhatWasDone) {
  const std::string html = ReportHtml(ReportedSummary());
  EXPECT_EQ(BalanceError(html), "");
  for (const char* text :
       {"flights", "deepfm", "test AUC", "0.8030", "0.3514", "1,347,105",
        "137,460", "Train loss", "Test log loss", "out/step-2634", "00ff",
        "servers", "0.4 s", "name: flights\nseed: 1", "0.80300"}) {
    EXPECT_THAT(html, HasSubstr(text));
  }
  size_t curves = 0;
  for (size_t at = 0; (at = html.find("<svg", at)) != std::string::npos; ++at) {
    ++curves;
  }
  EXPECT_EQ(curves, 3U);
}

TEST(ReportHtmlTest, ShowsHowStaleGradientsWere) {
  TrainingSummary summary = ReportedSummary();
  const char* const heading = "Clocks missing in the values of a gradient";
  EXPECT_THAT(ReportHtml(summary), Not(HasSubstr(heading)));
  for (const int64_t clocks : {0, 0, 0, 5}) {
    summary.staleness.Add(clocks);
  }
  const std::string html = ReportHtml(summary);
  EXPECT_EQ(BalanceError(html), "");
  for (const char* text : {heading, "3 gradients, 75.0 %", "5 to 6", "1.25"}) {
    EXPECT_THAT(html, HasSubstr(text));
  }
}

TEST(ReportHtmlTest, NeedsNothingButItself) {
  const std::string html = ReportHtml(ReportedSummary());
  for (const char* outside : {"<script", "<link", "<img", "<iframe",
                              "src=", "href=", "url(", "@import", "//"}) {
    EXPECT_THAT(html, Not(HasSubstr(outside))) << outside;
  }
  EXPECT_THAT(html, HasSubstr("prefers-color-scheme: dark"));
  EXPECT_THAT(html, HasSubstr("charset=\"utf-8\""));
}

TEST(ReportHtmlTest, TextsFromOutsideAreEscaped) {
  const std::string evil = "</title><script>alert('x')</script>\"&\xff";
  TrainingSummary summary = ReportedSummary();
  for (std::string* text :
       {&summary.job, &summary.model, &summary.task, &summary.mode,
        &summary.started, &summary.outcome, &summary.digest,
        &summary.checkpoint, &summary.job_yaml}) {
    *text = evil;
  }
  summary.cluster = {{evil, evil}};
  summary.timings = {{evil, evil}};
  const std::string html = ReportHtml(summary);
  EXPECT_EQ(BalanceError(html), "");
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("\xff")));
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;"));
}

TEST(ReportHtmlTest, NothingTrainedIsStillAPage) {
  const std::string html = ReportHtml({});
  EXPECT_EQ(BalanceError(html), "");
  EXPECT_THAT(html, HasSubstr("Shoal training"));
  EXPECT_THAT(html, Not(HasSubstr("<svg")));
}

TEST(ReportHtmlTest, DivergedAndMissingValuesDoNotBreakIt) {
  TrainingSummary summary = ReportedSummary();
  summary.train_loss = std::nan("");
  summary.seconds = INFINITY;
  summary.losses[3].loss = INFINITY;
  summary.history[0].result.auc.reset();  // one class only
  summary.history[1].result.log_loss = 1e308;
  EXPECT_EQ(BalanceError(ReportHtml(summary)), "");
  summary.seconds = 1e-300;  // more examples/s than an integer holds
  EXPECT_EQ(BalanceError(ReportHtml(summary)), "");
}

TEST(ReportHtmlTest, LongHistoriesAreCutInTheTableOnly) {
  TrainingSummary summary = ReportedSummary();
  const EvalPoint last = summary.history.back();
  summary.history.assign(2000, last);
  for (size_t i = 0; i < summary.history.size(); ++i) {
    summary.history[i].step = static_cast<int64_t>(i) + 1;
  }
  const std::string html = ReportHtml(summary);
  EXPECT_LT(html.size(), 200000U);
  EXPECT_THAT(html, HasSubstr("<td class=\"number\">2,000</td>"));
}

TEST(ReportHtmlTest, IsPublishedWhole) {
  MemoryStorage storage;
  const TrainingSummary summary = ReportedSummary();
  ASSERT_TRUE(WriteReportHtml(storage, "out/report.html", summary).ok());
  const StatusOr<Buffer> file = storage.ReadFile("out/report.html");
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->text(), ReportHtml(summary));
  storage.SetCapacity(1);
  EXPECT_EQ(WriteReportHtml(storage, "report.html", summary).code(),
            StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace shoal::worker
