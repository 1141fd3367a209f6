#include "kernels/simd.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shoal {
namespace {

TEST(SimdTest, NamesAreReadBack) {
  for (const SimdPath path :
       {SimdPath::kScalar, SimdPath::kAvx2, SimdPath::kAvx512}) {
    const StatusOr<SimdPath> parsed = ParseSimdPath(Name(path));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, path);
  }
}

TEST(SimdTest, AnUnknownNameListsTheKnownOnes) {
  const StatusOr<SimdPath> parsed = ParseSimdPath("mmx");
  EXPECT_EQ(parsed.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(parsed.status().message(),
              ::testing::AllOf(::testing::HasSubstr("'mmx'"),
                               ::testing::HasSubstr("avx512")));
}

TEST(SimdTest, WhatTheMachineLacksIsRefusedAndTheRestIsSet) {
  const SimdPath before = ActiveSimdPath();
  for (const SimdPath path :
       {SimdPath::kScalar, SimdPath::kAvx2, SimdPath::kAvx512}) {
    const Status status = SetSimdPath(path);
    if (IsSupported(path)) {
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_EQ(ActiveSimdPath(), path);
    } else {
      EXPECT_EQ(status.code(), StatusCode::kUnimplemented);
    }
  }
  EXPECT_TRUE(SetSimdPath(before).ok());
}

}  // namespace
}  // namespace shoal
