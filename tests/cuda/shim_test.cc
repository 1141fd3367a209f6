// The stand-in for a GPU's threads, which the other tests rest on.
#include <set>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cuda/shim/fibers.h"

namespace shoal {
namespace {

using testing::HasSubstr;

TEST(CudaShimTest, EveryThreadOfEveryBlockRunsOnce) {
  std::multiset<std::pair<unsigned, unsigned>> ran;
  EXPECT_EQ(shim::RunGrid("k", 5, 70,
                          [&] {
                            EXPECT_EQ(shim::gridDim.x, 5U);
                            EXPECT_EQ(shim::blockDim.x, 70U);
                            ran.insert({shim::blockIdx.x, shim::threadIdx.x});
                          }),
            "");
  EXPECT_EQ(ran.size(), 350U);
  EXPECT_EQ(
      (std::set<std::pair<unsigned, unsigned>>(ran.begin(), ran.end())).size(),
      350U);
}

TEST(CudaShimTest, NobodyPassesABarrierBeforeAllHaveReachedIt) {
  std::vector<int> reached(3 * 64);
  EXPECT_EQ(
      shim::RunGrid("k", 3, 64,
                    [&] {
                      int& mine =
                          reached[shim::blockIdx.x * 64 + shim::threadIdx.x];
                      for (int step = 1; step <= 4; ++step) {
                        mine = step;
                        shim::SyncThreads();
                        for (unsigned i = 0; i < 64; ++i) {
                          EXPECT_EQ(reached[shim::blockIdx.x * 64 + i], step);
                        }
                        shim::SyncThreads();
                      }
                    }),
      "");
}

TEST(CudaShimTest, ShufflesExchangeWithinGroups) {
  EXPECT_EQ(shim::RunGrid(
                "k", 2, 64,
                [&] {
                  const auto mine = static_cast<float>(shim::threadIdx.x);
                  float sum = mine;
                  for (int width = 8; width > 0; width /= 2) {
                    sum += shim::ShuffleXor(0xffffffffU, sum, width, 16);
                  }
                  const auto group = static_cast<float>(shim::threadIdx.x / 16);
                  EXPECT_EQ(sum, 16 * 16 * group + 120);
                }),
            "");
}

// They would wait for ever on a GPU.
TEST(CudaShimTest, ThreadsThatNeverArriveAreReportedAndTheNextKernelRuns) {
  for (const int missing : {0, 17, 63}) {
    EXPECT_THAT(
        shim::RunGrid("SomeKernel", 2, 64,
                      [&] {
                        shim::SyncThreads();
                        if (static_cast<int>(shim::threadIdx.x) != missing) {
                          shim::SyncThreads();
                        }
                      }),
        testing::AllOf(HasSubstr("SomeKernel: block 0"),
                       HasSubstr("63 threads wait in __syncthreads"),
                       HasSubstr("1 have ended")));
  }
  EXPECT_THAT(shim::RunGrid("Shuffle", 1, 32,
                            [&] {
                              if (shim::threadIdx.x < 31) {
                                shim::ShuffleXor(0xffffffffU, 0.0F, 1, 32);
                              }
                            }),
              HasSubstr("31 in a shuffle"));
  EXPECT_THAT(shim::RunGrid("Mixed", 1, 32,
                            [&] {
                              if (shim::threadIdx.x < 16) {
                                shim::SyncThreads();
                              } else {
                                shim::ShuffleXor(0xffffffffU, 0.0F, 1, 32);
                              }
                            }),
              HasSubstr("Mixed"));
  int ran = 0;
  EXPECT_EQ(shim::RunGrid("k", 1, 64,
                          [&] {
                            shim::SyncThreads();
                            ++ran;
                          }),
            "");
  EXPECT_EQ(ran, 64);
}

}  // namespace
}  // namespace shoal
