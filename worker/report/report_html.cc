#include "worker/report/report_html.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string_view>
#include <vector>

#include "base/strcat.h"
#include "worker/report/curve_svg.h"
#include "worker/report/html_text.h"
#include "worker/report/report_style.h"

namespace shoal::worker {
namespace {

// Evaluations that the table shows; of more, every n-th and the last.
constexpr size_t kHistoryRowsMax = 60;

std::string_view TitleOf(std::string_view metric) {
  if (metric == "auc") {
    return "AUC";
  }
  if (metric == "log_loss") {
    return "log loss";
  }
  if (metric == "rmse") {
    return "RMSE";
  }
  return metric;
}

// "4.2 s", "3 min 20 s", "2 h 5 min".
std::string TimeText(double seconds) {
  char text[64];
  if (!(seconds >= 60)) {
    std::snprintf(text, sizeof(text), "%.1f s", seconds);
    return text;
  }
  const auto whole = static_cast<int64_t>(std::min(seconds, 1e12));
  return whole < 3600 ? StrCat(whole / 60, " min ", whole % 60, " s")
                      : StrCat(whole / 3600, " h ", whole / 60 % 60, " min");
}

std::string FixedText(double value, int places) {
  char text[400];  // the longest double with four places
  std::snprintf(text, sizeof(text), "%.*f", places, value);
  return text;
}

// A metric where it stands beside others: "0.8125".
std::string MetricText(double value) {
  return value > -1e5 && value < 1e5 ? FixedText(value, 4)
                                     : FormatNumber(value);
}

class ReportPage {
 public:
  explicit ReportPage(const TrainingSummary& summary) : summary_(summary) {
    // Those of any evaluation, each once.
    for (const EvalPoint& point : summary.history) {
      AddMetricsOf(point.result);
    }
    if (summary.test.has_value()) {
      AddMetricsOf(*summary.test);
    }
  }

  std::string Write() {
    const std::string title =
        EscapeHtml(summary_.job.empty() ? "Shoal training" : summary_.job);
    html_ = StrCat(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n"
        "<meta charset=\"utf-8\"/>\n"
        "<meta name=\"viewport\" "
        "content=\"width=device-width, initial-scale=1\"/>\n<title>",
        title, "</title>\n<style>", kReportStyle,
        "</style>\n</head>\n<body>\n<main>\n<header>\n<h1>", title, "</h1>\n");
    AddChips();
    html_ += "</header>\n";
    AddCards();
    AddCurves();
    AddHistory();
    AddDetails();
    AddJob();
    html_ +=
        "<footer>Written by Shoal. The same numbers are in "
        "<code>metrics.json</code>.</footer>\n</main>\n</body>\n</html>\n";
    return html_;
  }

 private:
  void AddMetricsOf(const EvalResult& result) {
    for (const auto& [name, value] : NamedMetrics(result)) {
      if (std::find(metrics_.begin(), metrics_.end(), name) == metrics_.end()) {
        metrics_.push_back(name);
      }
    }
  }

  void AddChips() {
    html_ += "<div class=\"chips\">";
    const bool one_mode =
        summary_.dense.empty() || summary_.dense == summary_.mode;
    const std::string mode =
        one_mode ? summary_.mode
                 : StrCat(summary_.mode, ", dense ", summary_.dense);
    for (const std::string& text : {summary_.model, summary_.task, mode}) {
      if (!text.empty()) {
        html_ += StrCat("<span class=\"chip\">", EscapeHtml(text), "</span>");
      }
    }
    for (const std::string& text : {summary_.outcome, summary_.started}) {
      if (!text.empty()) {
        html_ += StrCat("<span class=\"muted\">", EscapeHtml(text), "</span>");
      }
    }
    html_ += "</div>\n";
  }

  void AddCard(std::string_view name, const std::string& value,
               bool main = false) {
    html_ += StrCat("<div class=\"card", main ? " main" : "",
                    "\"><div class=\"name\">", EscapeHtml(name),
                    "</div><div class=\"value\">", EscapeHtml(value),
                    "</div></div>\n");
  }

  void AddCards() {
    html_ += "<section class=\"cards\">\n";
    if (summary_.test.has_value()) {
      bool first = true;
      for (const auto& [name, value] : NamedMetrics(*summary_.test)) {
        AddCard(StrCat("test ", TitleOf(name)), MetricText(value), first);
        first = false;
      }
    }
    if (summary_.train_loss.has_value()) {
      AddCard("train loss", MetricText(*summary_.train_loss));
    }
    AddCard("examples/s", FormatCount(ToCount(summary_.examples_per_second())));
    AddCard("time", TimeText(summary_.seconds));
    html_ += "</section>\n";
  }

  static int64_t ToCount(double value) {
    return value < 1e18 ? static_cast<int64_t>(value + 0.5) : 0;
  }

  void AddCurve(const Curve& curve, std::string_view heading,
                std::string_view note) {
    html_ += StrCat("<div class=\"box\"><h3>", EscapeHtml(heading), "</h3>\n",
                    CurveSvg(curve));
    if (!note.empty()) {
      html_ += StrCat("<p class=\"note\">", EscapeHtml(note), "</p>");
    }
    html_ += "</div>\n";
  }

  void AddCurves() {
    if (summary_.losses.empty() && summary_.history.empty()) {
      return;
    }
    html_ += "<h2>Curves</h2>\n<section class=\"grid\">\n";
    if (!summary_.losses.empty()) {
      Curve curve{.title = "train loss by step",
                  .x_label = "step",
                  .points = {},
                  .smooth = true};
      for (const LossPoint& point : summary_.losses) {
        curve.points.push_back({static_cast<double>(point.step), point.loss});
      }
      AddCurve(curve, "Train loss",
               curve.points.size() < 24
                   ? ""
                   : "Pale: means over the steps between two points. Strong: "
                     "their running mean.");
    }
    for (const std::string_view metric : metrics_) {
      AddMetricCurve(metric);
    }
    html_ += "</section>\n";
  }

  void AddMetricCurve(std::string_view metric) {
    // By epoch where that is what evaluations follow, else by step.
    const bool by_epoch = summary_.steps_per_epoch > 0;
    const std::string_view unit = by_epoch ? "epoch" : "step";
    Curve curve{.title = StrCat("test ", TitleOf(metric), " by ", unit),
                .x_label = std::string(unit),
                .points = {},
                .best = GreaterIsBetter(metric) ? Curve::Best::kGreatest
                                                : Curve::Best::kLeast};
    for (const EvalPoint& point : summary_.history) {
      const StatusOr<double> value = MetricOf(point.result, metric);
      if (value.ok()) {
        curve.points.push_back(
            {by_epoch ? point.epoch : static_cast<double>(point.step), *value});
      }
    }
    if (!curve.points.empty()) {
      AddCurve(curve, StrCat("Test ", TitleOf(metric)), "");
    }
  }

  // The best value of a metric over all evaluations.
  double BestOf(std::string_view metric) const {
    std::optional<double> best;
    for (const EvalPoint& point : summary_.history) {
      const StatusOr<double> value = MetricOf(point.result, metric);
      if (value.ok() &&
          (!best.has_value() ||
           (GreaterIsBetter(metric) ? *value > *best : *value < *best))) {
        best = *value;
      }
    }
    return best.value_or(0);
  }

  void AddHistory() {
    if (summary_.history.empty()) {
      return;
    }
    html_ +=
        "<h2>Evaluations</h2>\n<div class=\"box\"><table><thead><tr>"
        "<th class=\"number\">step</th><th class=\"number\">epoch</th>"
        "<th class=\"number\">seconds</th>";
    std::vector<double> best;
    for (const std::string_view metric : metrics_) {
      best.push_back(BestOf(metric));
      html_ += StrCat("<th class=\"number\">", TitleOf(metric), "</th>");
    }
    html_ += "</tr></thead><tbody>\n";
    const size_t size = summary_.history.size();
    const size_t every = (size + kHistoryRowsMax - 1) / kHistoryRowsMax;
    for (size_t i = 0; i < size; ++i) {
      if (i % every == 0 || i + 1 == size) {
        AddHistoryRow(summary_.history[i], best);
      }
    }
    html_ += "</tbody></table></div>\n";
  }

  void AddHistoryRow(const EvalPoint& point, const std::vector<double>& best) {
    html_ += StrCat("<tr><td class=\"number\">", FormatCount(point.step),
                    "</td><td class=\"number\">", FormatNumber(point.epoch, 4),
                    "</td><td class=\"number\">", FixedText(point.seconds, 1),
                    "</td>");
    for (size_t m = 0; m < metrics_.size(); ++m) {
      const StatusOr<double> value = MetricOf(point.result, metrics_[m]);
      html_ += StrCat("<td class=\"number",
                      value.ok() && *value == best[m] ? " good" : "", "\">",
                      value.ok() ? FixedText(*value, 5) : "", "</td>");
    }
    html_ += "</tr>\n";
  }

  void AddTable(std::string_view heading, const TrainingSummary::Rows& rows) {
    if (rows.empty()) {
      return;
    }
    html_ += StrCat("<div class=\"box\"><h3>", EscapeHtml(heading),
                    "</h3><table><tbody>\n");
    for (const auto& [name, value] : rows) {
      html_ += StrCat("<tr><th>", EscapeHtml(name), "</th><td class=\"text\">",
                      EscapeHtml(value), "</td></tr>\n");
    }
    html_ += "</tbody></table></div>\n";
  }

  TrainingSummary::Rows StalenessRows() const {
    const Histogram& staleness = summary_.staleness;
    TrainingSummary::Rows rows;
    const auto count = static_cast<double>(staleness.count());
    for (size_t i = 0; i < Histogram::kBuckets; ++i) {
      const int64_t gradients = staleness.buckets()[i];
      if (gradients > 0) {
        rows.emplace_back(
            Histogram::BucketText(i),
            StrCat(FormatCount(gradients), " gradients, ",
                   FixedText(static_cast<double>(gradients) / count * 100, 1),
                   " %"));
      }
    }
    if (!rows.empty()) {
      rows.emplace_back("mean", FixedText(staleness.mean(), 2));
      rows.emplace_back("most", FormatCount(staleness.max()));
    }
    return rows;
  }

  void AddDetails() {
    TrainingSummary::Rows result = {
        {"examples", FormatCount(summary_.examples)},
        {"steps", FormatCount(summary_.steps)},
        {"epochs", FormatNumber(summary_.epochs, 4)},
        {"bad rows left out", FormatCount(summary_.bad_rows)}};
    if (summary_.test.has_value()) {
      result.emplace_back("test examples", FormatCount(summary_.test->count));
    }
    if (!summary_.checkpoint.empty()) {
      result.emplace_back("checkpoint", summary_.checkpoint);
    }
    if (!summary_.digest.empty()) {
      result.emplace_back("digest", summary_.digest);
    }
    html_ += "<h2>Details</h2>\n<section class=\"grid\">\n";
    AddTable("Result", result);
    AddTable("Cluster", summary_.cluster);
    AddTable("Timings", summary_.timings);
    AddTable("Clocks missing in the values of a gradient", StalenessRows());
    html_ += "</section>\n";
  }

  void AddJob() {
    if (summary_.job_yaml.empty()) {
      return;
    }
    html_ += StrCat(
        "<h2>Job</h2>\n<div class=\"box\"><details><summary>The job file with "
        "its defaults filled in</summary><pre>",
        EscapeHtml(summary_.job_yaml), "</pre></details></div>\n");
  }

  const TrainingSummary& summary_;
  std::vector<std::string_view> metrics_;
  std::string html_;
};

}  // namespace

std::string ReportHtml(const TrainingSummary& summary) {
  return ReportPage(summary).Write();
}

Status WriteReportHtml(Storage& storage, const std::string& path,
                       const TrainingSummary& summary) {
  const Buffer text = Buffer::CopyOf(ReportHtml(summary));
  return storage.PublishFile(path, {&text, 1});
}

}  // namespace shoal::worker
