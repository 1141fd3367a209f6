#include <gtest/gtest.h>

#include "kernels/kernel_testing.h"

namespace shoal {
namespace {

const std::vector<Shape>& InteractionShapes() {
  static const std::vector<Shape> shapes = {
      {0, 3, 8},   {1, 1, 8},    {5, 2, 1},    {3, 7, 13},  {130, 27, 16},
      {9, 33, 24}, {2, 17, 150}, {300, 18, 8}, {4, 40, 65}, {3, 4, 0}};
  return shapes;
}

TEST(InteractionTest, FmMatchesTheSumOverPairs) {
  for (const Shape& shape : InteractionShapes()) {
    SCOPED_TRACE(shape.ToString());
    const auto [b, f, d] = std::tuple(shape.dim(0), shape.dim(1), shape.dim(2));
    const TestTensor x = TestTensor::Uniform(shape, 1);
    const TestTensor dy = TestTensor::Uniform({b, 1}, 2);
    std::vector<double> want(static_cast<size_t>(b));
    std::vector<double> want_dx(static_cast<size_t>(x.size()));
    for (int64_t e = 0; e < b; ++e) {
      for (int64_t i = 0; i < f; ++i) {
        for (int64_t j = 0; j < f; ++j) {
          for (int64_t k = 0; k < d; ++k) {
            const double xi = x[(e * f + i) * d + k];
            const double xj = x[(e * f + j) * d + k];
            if (i < j) {
              want[static_cast<size_t>(e)] += xi * xj;
            }
            if (i != j) {
              want_dx[static_cast<size_t>((e * f + i) * d + k)] += dy[e] * xj;
            }
          }
        }
      }
    }
    ExpectNear(RunEverywhere({.op = "FmInteraction",
                              .inputs = {x},
                              .outputs = {Shape{b, 1}}})[0],
               want, 1e-6 * static_cast<double>(f * f * (d + 1)));
    ExpectNear(RunEverywhere({.op = "FmInteractionGrad",
                              .inputs = {x, dy},
                              .outputs = {shape}})[0],
               want_dx, 1e-6 * static_cast<double>(f * f));
  }
}

TEST(InteractionTest, DotProductsOfPairsAndTheirGradient) {
  for (const Shape& shape : InteractionShapes()) {
    SCOPED_TRACE(shape.ToString());
    const auto [b, f, d] = std::tuple(shape.dim(0), shape.dim(1), shape.dim(2));
    const int64_t pairs = f * (f - 1) / 2;
    const TestTensor x = TestTensor::Uniform(shape, 1);
    const TestTensor dy = TestTensor::Uniform({b, pairs}, 2);
    std::vector<double> want;
    std::vector<double> want_dx(static_cast<size_t>(x.size()));
    for (int64_t e = 0; e < b; ++e) {
      for (int64_t i = 1; i < f; ++i) {
        for (int64_t j = 0; j < i; ++j) {
          const double slope = dy[static_cast<int64_t>(want.size())];
          double sum = 0.0;
          for (int64_t k = 0; k < d; ++k) {
            const int64_t at_i = (e * f + i) * d + k;
            const int64_t at_j = (e * f + j) * d + k;
            sum += double{x[at_i]} * x[at_j];
            want_dx[static_cast<size_t>(at_i)] += slope * x[at_j];
            want_dx[static_cast<size_t>(at_j)] += slope * x[at_i];
          }
          want.push_back(sum);
        }
      }
    }
    ExpectNear(RunEverywhere({.op = "DotInteraction",
                              .inputs = {x},
                              .outputs = {Shape{b, pairs}}})[0],
               want, 1e-7 * static_cast<double>(d * d + 1));
    ExpectNear(RunEverywhere({.op = "DotInteractionGrad",
                              .inputs = {x, dy},
                              .outputs = {shape}})[0],
               want_dx, 1e-7 * static_cast<double>(f * f));
  }
}

}  // namespace
}  // namespace shoal
