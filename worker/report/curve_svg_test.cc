#include "worker/report/curve_svg.h"

#include <cmath>
#include <regex>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal::worker {
namespace {

using testing::HasSubstr;
using testing::Not;

// The points of the path of a class, in the picture's coordinates.
std::vector<Curve::Point> DrawnPath(const std::string& svg,
                                    const std::string& css) {
  std::vector<Curve::Point> points;
  const std::string open = "<path class=\"" + css + "\" d=\"";
  const size_t begin = svg.find(open);
  if (begin == std::string::npos) {
    return points;
  }
  const std::string path =
      svg.substr(begin + open.size(),
                 svg.find('"', begin + open.size()) - begin - open.size());
  static const std::regex kPoint("[ML](-?[0-9.]+),(-?[0-9.]+)");
  for (std::sregex_iterator it(path.begin(), path.end(), kPoint), end;
       it != end; ++it) {
    points.push_back({std::stod((*it)[1]), std::stod((*it)[2])});
  }
  return points;
}

size_t TimesIn(const std::string& text, const std::string& part) {
  size_t times = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) {
    ++times;
  }
  return times;
}

Curve CurveOf(std::vector<Curve::Point> points) {
  return {.title = "t", .x_label = "step", .points = std::move(points)};
}

TEST(CurveSvgTest, PointsLieInProportion) {
  const std::string svg = CurveSvg(CurveOf({{0, 0}, {10, 1}, {20, 4}}));
  const auto path = DrawnPath(svg, "line");
  ASSERT_EQ(path.size(), 3U);
  // Coordinates have one decimal place: y = 4 lies four times as high as 1.
  EXPECT_NEAR(path[1].x - path[0].x, path[2].x - path[1].x, 0.11);
  EXPECT_LT(path[2].y, path[1].y);  // up is less
  EXPECT_NEAR((path[0].y - path[2].y) / 4, path[0].y - path[1].y, 0.2);
  EXPECT_EQ(TimesIn(svg, "class=\"dot\""), 3U);
  EXPECT_THAT(svg, HasSubstr("<title>step 20: 4</title>"));
}

TEST(CurveSvgTest, EverythingLiesInThePicture) {
  for (const auto& points :
       std::vector<std::vector<Curve::Point>>{{{5, 5}},
                                              {{0, 0}},
                                              {{1, 3}, {2, 3}, {3, 3}},
                                              {{1, -3}, {1, -3}},
                                              {{0, 1e9}, {1, 1e9 + 1e-7}},
                                              {{0, -1e99}, {1e99, 1e99}},
                                              {{0, 1e-300}, {1, 3e-300}},
                                              {{1e15, 0.1}, {1e15 + 2, 0.2}}}) {
    Curve curve = CurveOf(points);
    curve.best = Curve::Best::kLeast;
    const std::string svg = CurveSvg(curve);
    EXPECT_THAT(svg, Not(HasSubstr("nan")));
    EXPECT_THAT(svg, Not(HasSubstr("inf")));
    EXPECT_LT(svg.size(), 20000U);
    for (const char* css : {"line", "rule", "axis"}) {
      for (const Curve::Point& point : DrawnPath(svg, css)) {
        EXPECT_TRUE(point.x >= 0 && point.x <= 560) << svg;
        EXPECT_TRUE(point.y >= 0 && point.y <= 280) << svg;
      }
    }
    EXPECT_GE(TimesIn(svg, "class=\"rule\""), 1U) << svg;
  }
}

TEST(CurveSvgTest, NothingToShowSaysSo) {
  EXPECT_THAT(CurveSvg(CurveOf({})), HasSubstr("no data"));
  EXPECT_THAT(CurveSvg(CurveOf({{1, std::nan("")}, {2, INFINITY}})),
              HasSubstr("no data"));
}

TEST(CurveSvgTest, PointsThatAreNotFiniteAreLeftOut) {
  const std::string svg =
      CurveSvg(CurveOf({{1, 1}, {2, std::nan("")}, {3, INFINITY}, {4, 2}}));
  EXPECT_EQ(DrawnPath(svg, "line").size(), 2U);
}

TEST(CurveSvgTest, LongCurvesAreThinnedAndSmoothed) {
  Curve curve = CurveOf({});
  curve.smooth = true;
  for (int i = 0; i < 100000; ++i) {
    curve.points.push_back({static_cast<double>(i), i % 2 == 0 ? 1.0 : 3.0});
  }
  const std::string svg = CurveSvg(curve);
  EXPECT_LE(DrawnPath(svg, "line").size(),
            static_cast<size_t>(kCurvePointsMax));
  EXPECT_LE(DrawnPath(svg, "pale").size(),
            static_cast<size_t>(kCurvePointsMax));
  EXPECT_GT(DrawnPath(svg, "line").size(), 300U);
  EXPECT_LT(svg.size(), 40000U);
}

TEST(CurveSvgTest, TheRunningMeanIsSteadierAndKeepsTheEnds) {
  Curve curve = CurveOf({});
  curve.smooth = true;
  for (int i = 0; i < 240; ++i) {
    curve.points.push_back({static_cast<double>(i), i % 2 == 0 ? 1.0 : 3.0});
  }
  const std::string svg = CurveSvg(curve);
  const auto raw = DrawnPath(svg, "pale");
  const auto mean = DrawnPath(svg, "line");
  ASSERT_EQ(raw.size(), 240U);
  ASSERT_EQ(mean.size(), 240U);
  EXPECT_EQ(mean.front().y, raw.front().y);
  EXPECT_EQ(mean.back().y, raw.back().y);
  EXPECT_LT(std::abs(mean[120].y - mean[121].y),
            std::abs(raw[120].y - raw[121].y) / 5);
}

TEST(CurveSvgTest, TheBestPointIsMarked) {
  Curve curve = CurveOf({{1, 0.7}, {2, 0.9}, {3, 0.8}});
  EXPECT_THAT(CurveSvg(curve), Not(HasSubstr("class=\"best\"")));
  curve.best = Curve::Best::kGreatest;
  EXPECT_THAT(CurveSvg(curve), HasSubstr(">0.9</text>"));
  curve.best = Curve::Best::kLeast;
  EXPECT_THAT(CurveSvg(curve), HasSubstr("class=\"mark\""));
  EXPECT_EQ(TimesIn(CurveSvg(curve), "class=\"best\""), 1U);
}

TEST(CurveSvgTest, TicksAreRound) {
  const std::string svg = CurveSvg(CurveOf({{0, 0}, {52700, 0.97}}));
  for (const char* label :
       {">0<", ">0.2<", ">0.4<", ">0.6<", ">0.8<", ">1<", ">10k<", ">50k<"}) {
    EXPECT_THAT(svg, HasSubstr(label));
  }
}

TEST(CurveSvgTest, TitlesAreEscaped) {
  Curve curve = CurveOf({{1, 1}});
  curve.title = "\"><script>";
  curve.x_label = "<b>";
  EXPECT_THAT(CurveSvg(curve), Not(HasSubstr("<script>")));
  EXPECT_THAT(CurveSvg(curve), Not(HasSubstr("<b>")));
}

}  // namespace
}  // namespace shoal::worker
