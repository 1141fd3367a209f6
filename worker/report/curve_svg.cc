#include "worker/report/curve_svg.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string_view>

#include "base/strcat.h"
#include "worker/report/html_text.h"

namespace shoal::worker {
namespace {

using Points = std::vector<Curve::Point>;

constexpr double kWidth = 560;
constexpr double kHeight = 280;
constexpr double kLeft = 62;
constexpr double kRight = 18;
constexpr double kTop = 16;
constexpr double kBottom = 40;
constexpr size_t kDotsMax = 40;
constexpr size_t kSmoothFrom = 24;
// Far from where differences overflow; nothing sensible is that large.
constexpr double kGreatest = 1e100;

std::string Coordinate(double value) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.1f", value);
  return text;
}

// From one value to another, with round values to label between.
struct Axis {
  double from = 0;
  double to = 1;
  double step = 1;
  double first = 0;
  int num_ticks = 0;

  double tick(int i) const { return first + i * step; }
  double Share(double value) const { return (value - from) / (to - from); }
};

// `to` >= `from`. Steps are 1, 2 or 5 times a power of ten.
Axis MakeAxis(double from, double to, int ticks_wanted) {
  // A range that is lost in rounding is none.
  const double least = std::max(std::abs(from), std::abs(to)) * 1e-9;
  if (to - from <= least) {
    const double half = from == 0 && to == 0 ? 0.5 : std::abs(to) * 0.05;
    from -= half;
    to += half;
  }
  Axis axis{.from = from, .to = to};
  const double raw = (to - from) / ticks_wanted;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  const double digit = raw / power;
  axis.step = power * (digit < 1.5   ? 1
                       : digit < 3.5 ? 2
                       : digit < 7.5 ? 5
                                     : 10);
  axis.first = std::ceil(from / axis.step) * axis.step;
  axis.num_ticks = std::clamp(
      static_cast<int>(std::floor((to - axis.first) / axis.step + 1e-6)) + 1, 0,
      2 * ticks_wanted + 2);
  return axis;
}

// "2k", "1.5M" for large numbers; else as many digits as the steps need.
std::string TickLabel(double value, double step) {
  if (std::abs(value) < step * 1e-6) {
    return "0";
  }
  if (std::abs(value) >= 1e4 && std::abs(value) < 1e15) {
    const auto [unit, name] = std::abs(value) >= 1e9   ? std::pair(1e9, "G")
                              : std::abs(value) >= 1e6 ? std::pair(1e6, "M")
                                                       : std::pair(1e3, "k");
    return FormatNumber(value / unit, 9) + name;
  }
  return FormatNumber(value, 9);
}

Points FinitePoints(const Points& points) {
  Points finite;
  for (const Curve::Point& point : points) {
    if (std::abs(point.x) <= kGreatest && std::abs(point.y) <= kGreatest) {
      finite.push_back(point);
    }
  }
  return finite;
}

Points Thinned(const Points& points) {
  const auto max = static_cast<size_t>(kCurvePointsMax);
  const size_t group = (points.size() + max - 1) / max;
  if (group <= 1) {
    return points;
  }
  Points thinned;
  for (size_t begin = 0; begin < points.size(); begin += group) {
    const size_t end = std::min(begin + group, points.size());
    Curve::Point mean;
    for (size_t i = begin; i < end; ++i) {
      mean.x += points[i].x / static_cast<double>(end - begin);
      mean.y += points[i].y / static_cast<double>(end - begin);
    }
    thinned.push_back(mean);
  }
  return thinned;
}

// Means over a window that shrinks towards the ends, so that both ends are
// kept.
Points RunningMean(const Points& points) {
  const size_t reach = std::max<size_t>(1, points.size() / 24);
  Points means;
  for (size_t i = 0; i < points.size(); ++i) {
    const size_t here = std::min({reach, i, points.size() - 1 - i});
    double sum = 0;
    for (size_t j = i - here; j <= i + here; ++j) {
      sum += points[j].y;
    }
    means.push_back({points[i].x, sum / static_cast<double>(2 * here + 1)});
  }
  return means;
}

class CurveDrawing {
 public:
  explicit CurveDrawing(const Curve& curve)
      : curve_(curve), points_(Thinned(FinitePoints(curve.points))) {
    const auto [low, high] = std::minmax_element(
        points_.begin(), points_.end(),
        [](const auto& a, const auto& b) { return a.y < b.y; });
    if (!points_.empty()) {
      const double pad = (high->y - low->y) * 0.06;
      x_ = MakeAxis(points_.front().x,
                    std::max(points_.front().x, points_.back().x), 6);
      y_ = MakeAxis(low->y - pad, high->y + pad, 5);
    }
  }

  std::string Draw() {
    svg_ = StrCat("<svg viewBox=\"0 0 ", kWidth, " ", kHeight,
                  "\" role=\"img\" aria-label=\"", EscapeHtml(curve_.title),
                  "\">\n");
    if (points_.empty()) {
      AddText(kWidth / 2, kHeight / 2, "middle", "no data", "tick");
      return svg_ + "</svg>\n";
    }
    AddAxes();
    const bool smooth = curve_.smooth && points_.size() >= kSmoothFrom;
    if (smooth) {
      AddLine("pale", points_);
      AddLine("line", RunningMean(points_));
    } else {
      AddLine("line", points_);
    }
    if (points_.size() <= kDotsMax) {
      for (const Curve::Point& point : points_) {
        AddDot("dot", point, 3);
      }
    }
    AddBest();
    return svg_ + "</svg>\n";
  }

 private:
  double X(double x) const {
    return kLeft + x_.Share(x) * (kWidth - kLeft - kRight);
  }
  double Y(double y) const {
    return kHeight - kBottom - y_.Share(y) * (kHeight - kTop - kBottom);
  }

  void AddText(double x, double y, std::string_view anchor,
               std::string_view text, std::string_view css) {
    svg_ += StrCat("<text class=\"", css, "\" x=\"", Coordinate(x), "\" y=\"",
                   Coordinate(y), "\" text-anchor=\"", anchor, "\">",
                   EscapeHtml(text), "</text>\n");
  }

  void AddSegment(std::string_view css, double x1, double y1, double x2,
                  double y2) {
    svg_ += StrCat("<path class=\"", css, "\" d=\"M", Coordinate(x1), ",",
                   Coordinate(y1), "L", Coordinate(x2), ",", Coordinate(y2),
                   "\"/>\n");
  }

  void AddAxes() {
    const double bottom = kHeight - kBottom;
    for (int i = 0; i < y_.num_ticks; ++i) {
      const double y = Y(y_.tick(i));
      AddSegment("rule", kLeft, y, kWidth - kRight, y);
      AddText(kLeft - 8, y + 4, "end", TickLabel(y_.tick(i), y_.step), "tick");
    }
    AddSegment("axis", kLeft, bottom, kWidth - kRight, bottom);
    for (int i = 0; i < x_.num_ticks; ++i) {
      const double x = X(x_.tick(i));
      AddSegment("axis", x, bottom, x, bottom + 4);
      AddText(x, bottom + 17, "middle", TickLabel(x_.tick(i), x_.step), "tick");
    }
    AddText((kLeft + kWidth - kRight) / 2, kHeight - 5, "middle",
            curve_.x_label, "tick");
  }

  void AddLine(std::string_view css, const Points& points) {
    std::string path;
    for (const Curve::Point& point : points) {
      path += StrCat(path.empty() ? "M" : "L", Coordinate(X(point.x)), ",",
                     Coordinate(Y(point.y)));
    }
    svg_ += StrCat("<path class=\"", css, "\" d=\"", path, "\"/>\n");
  }

  void AddDot(std::string_view css, const Curve::Point& point, double radius) {
    svg_ += StrCat(
        "<circle class=\"", css, "\" cx=\"", Coordinate(X(point.x)), "\" cy=\"",
        Coordinate(Y(point.y)), "\" r=\"", radius, "\"><title>",
        EscapeHtml(StrCat(curve_.x_label, " ", FormatNumber(point.x, 9), ": ",
                          FormatNumber(point.y))),
        "</title></circle>\n");
  }

  void AddBest() {
    if (curve_.best == Curve::Best::kNone) {
      return;
    }
    const auto by_y = [](const auto& a, const auto& b) { return a.y < b.y; };
    const Curve::Point best =
        curve_.best == Curve::Best::kGreatest
            ? *std::max_element(points_.begin(), points_.end(), by_y)
            : *std::min_element(points_.begin(), points_.end(), by_y);
    AddDot("best", best, 5);
    // Above the point, or below where there is no room; inside the chart.
    const bool above = Y(best.y) > kTop + 16;
    const double x = X(best.x);
    const bool right = x > kWidth - kRight - 40;
    const bool left = x < kLeft + 40;
    AddText(x, Y(best.y) + (above ? -10 : 20),
            right  ? "end"
            : left ? "start"
                   : "middle",
            FormatNumber(best.y, 5), "mark");
  }

  const Curve& curve_;
  Points points_;
  Axis x_;
  Axis y_;
  std::string svg_;
};

}  // namespace

std::string CurveSvg(const Curve& curve) { return CurveDrawing(curve).Draw(); }

}  // namespace shoal::worker
