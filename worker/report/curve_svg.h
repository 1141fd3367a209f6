#ifndef SHOAL_WORKER_REPORT_CURVE_SVG_H_
#define SHOAL_WORKER_REPORT_CURVE_SVG_H_

#include <string>
#include <vector>

namespace shoal::worker {

// A line chart.
struct Curve {
  struct Point {
    double x = 0;
    double y = 0;
  };
  enum class Best { kNone, kLeast, kGreatest };

  std::string title;          // for screen readers and tool tips
  std::string x_label;        // "step"
  std::vector<Point> points;  // by rising x; those not finite are left out
  bool smooth = false;      // many noisy points: pale, under their running mean
  Best best = Best::kNone;  // the point to mark
};

// Longer curves are thinned to the means of neighbors.
inline constexpr int kCurvePointsMax = 600;

// The chart as an inline <svg> for a page with the style sheet
// of report_style.h.
std::string CurveSvg(const Curve& curve);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_REPORT_CURVE_SVG_H_
