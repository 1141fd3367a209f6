// What disks do: they are full for a while, lose what was not yet safe when a
// process dies, or are all that is left when the power fails.

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/strcat.h"
#include "tests/simulation/cluster_world.h"

namespace shoal::simulation {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

class StorageFaultsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    StatusOr<std::unique_ptr<SimulatedJob>> made = SimulatedJob::Create();
    ASSERT_TRUE(made.ok()) << made.status();
    job_ = *std::move(made);
    calm_ = RunJob(*job_, {.faults = false, .crashes = 0});
    ASSERT_EQ(calm_.digests.size(), 3U);
  }

  // Another job goes on where one has ended, from its newest checkpoint, if
  // there is one, on another cluster; it must end with the same bits.
  void ExpectRest(const RunResult& ended, uint64_t seed) {
    ASSERT_EQ(ended.violation, "");
    RunPlan plan = PlanOfRest(ended, seed, calm_.digests);
    if (!ended.digests.empty()) {
      RestoreFrom(ended.digests.rbegin()->first, plan);
      ++restored_;
    }
    const RunResult rest = RunJob(*job_, plan);
    ASSERT_TRUE(rest.status.ok()) << rest.status;
    EXPECT_EQ(rest.violation, "");
    EXPECT_EQ(rest.digest, calm_.digest);
  }

  std::unique_ptr<SimulatedJob> job_;
  RunResult calm_;
  int restored_ = 0;
};

// All processes die at one moment, also while they write; what is a checkpoint
// then is whole, and the job goes on from it with the same bits.
TEST_F(StorageFaultsTest, PowerFailureLeavesTheLastCheckpoint) {
  for (uint64_t seed = 1; seed <= 200 / kShare; ++seed) {
    SCOPED_TRACE(StrCat("seed ", seed));
    // A job takes some eight seconds.
    const double after = 0.05 + 8 * static_cast<double>(seed * 79 % 200) / 200;
    const RunResult result = RunJob(*job_, {.seed = seed,
                                            .crashes = 0,
                                            .power_fails_after = after,
                                            .digests = calm_.digests});
    ASSERT_TRUE(!result.ended || result.status.ok()) << result.status;
    ExpectRest(result, seed);
  }
  EXPECT_GT(static_cast<uint64_t>(restored_), 80 / kShare);
}

// A coordinator whose file is gone is that of a new job: its members end, and
// whoever started them starts them for that. Checkpoints that are there are
// written over. Where members of both meet, it may end naming them.
TEST_F(StorageFaultsTest, CoordinatorThatLosesItsFileBeginsAnew) {
  int crashed = 0;
  uint64_t ended_well = 0;
  for (uint64_t seed = 1; seed <= 50 / kShare; ++seed) {
    SCOPED_TRACE(StrCat("seed ", seed));
    const RunResult result = RunJob(*job_, {.seed = seed,
                                            .crashes = 0,
                                            .coordinator_crashes = 2,
                                            .loses_state = true,
                                            .digests = calm_.digests});
    ASSERT_TRUE(result.ended) << result.status;
    EXPECT_EQ(result.violation, "");
    if (result.status.ok()) {
      ++ended_well;
      EXPECT_EQ(result.digest, calm_.digest);
    } else {
      EXPECT_THAT(result.status.message(),
                  AnyOf(HasSubstr("server"), HasSubstr("worker")));
      EXPECT_LT(result.seconds, 60);
    }
    crashed += result.coordinators_crashed;
  }
  EXPECT_GT(static_cast<uint64_t>(crashed), 50 / kShare);
  EXPECT_GE(ended_well, 40 / kShare);
}

// A job whose disk is full ends with what was not written; nothing of it is
// taken for a checkpoint.
TEST_F(StorageFaultsTest, FullDiskEndsTheJobAndLeavesTheCheckpointsBefore) {
  int ended = 0;
  for (uint64_t seed = 1; seed <= 200 / kShare; ++seed) {
    SCOPED_TRACE(StrCat("seed ", seed));
    const int replicas = 1 + static_cast<int>(seed % 2);
    const RunResult result =
        RunJob(*job_, {.seed = seed,
                       .crashes = 1,
                       .replicas = replicas,
                       .server_crashes = replicas - 1,
                       .coordinator_crashes = static_cast<int>(seed % 2),
                       .full_disks = 3,
                       .digests = calm_.digests});
    ASSERT_TRUE(result.ended);
    if (result.status.ok()) {
      EXPECT_EQ(result.digest, calm_.digest);
      continue;
    }
    // Or the coordinator died while it ended the job, and another found nobody.
    EXPECT_THAT(result.status.message(),
                AnyOf(HasSubstr("do not fit"),
                      HasSubstr("did not answer the coordinator, which was "
                                "started again")));
    ++ended;
    ExpectRest(result, seed);
  }
  // Of few seeds perhaps none.
  EXPECT_GE(static_cast<uint64_t>(ended), 20 / kShare);
  EXPECT_GE(static_cast<uint64_t>(restored_), 5 / kShare);
}

}  // namespace
}  // namespace shoal::simulation
