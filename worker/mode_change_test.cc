#include "worker/mode_change.h"

#include <memory>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "worker/job.h"
#include "worker/job.pb.h"
#include "worker/open_worker.h"

namespace shoal::worker {
namespace {

using ::testing::HasSubstr;

constexpr char kJob[] = R"(
name: modes
cluster: {workers: 2}
data:
  files: [rows.csv]
  label: label
  features: [{column: user}]
model: {kind: deepfm, dim: 4, hidden: [8]}
)";

class ModeChangeTest : public ::testing::Test {
 protected:
  void Make(const std::vector<std::string>& overrides) {
    StatusOr<std::unique_ptr<JobSpec>> job =
        ParseJob(kJob, "modes.yaml", overrides);
    ASSERT_TRUE(job.ok()) << job.status();
    job_ = *std::move(job);
    now_ = MakeClusterPlan(*job_, {});
  }
  StatusOr<ps::ClusterPlan> Change(const std::string& tables,
                                   const std::string& dense) {
    return PlanWithModes(*job_, {}, now_, tables, dense);
  }
  void Refuses(const std::string& tables, const std::string& dense,
               StatusCode code, const std::string& why) {
    const Status status = Change(tables, dense).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(status.message(), HasSubstr(why));
  }

  std::unique_ptr<JobSpec> job_;
  ps::ClusterPlan now_;
};

TEST_F(ModeChangeTest, ChangesBothToAnyMode) {
  Make({});
  StatusOr<ps::ClusterPlan> plan = Change("bounded:2", "bounded");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->mode, ps::Mode::kBounded);
  EXPECT_EQ(plan->staleness, 2);
  now_ = *plan;
  plan = Change("", "");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->staleness, 2) << "it stays";
  plan = Change("bounded", "bounded:0");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->staleness, 0);
  plan = Change("async", "async");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->mode, ps::Mode::kAsync);
  now_ = *plan;
  plan = Change("sync", "sync");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->mode, ps::Mode::kSync);
  EXPECT_EQ(plan->virtual_workers, now_.virtual_workers);
}

TEST_F(ModeChangeTest, TablesChangeBesideAllReduce) {
  Make({"consistency.dense=allreduce"});
  const StatusOr<ps::ClusterPlan> plan = Change("bounded:3", "");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->mode, ps::Mode::kBounded);
  EXPECT_EQ(plan->staleness, 3);
  EXPECT_EQ(plan->dense, ps::DensePlace::kWorkers);
  Refuses("", "sync", StatusCode::kFailedPrecondition, "on the workers");
}

TEST_F(ModeChangeTest, RefusesWhatTheJobFileWouldBeRefusedFor) {
  Make({});
  Refuses("async", "", StatusCode::kInvalidArgument, "consistency.dense");
  Refuses("", "bounded", StatusCode::kInvalidArgument, "consistency.dense");
  Refuses("async", "allreduce", StatusCode::kFailedPrecondition,
          "on the servers");
  Make({"train.clip_global_norm=1"});
  Refuses("async", "async", StatusCode::kInvalidArgument,
          "train.clip_global_norm");
  Make({"train.loss_scale={kind: static, scale: 8}"});
  Refuses("bounded", "bounded", StatusCode::kInvalidArgument,
          "train.loss_scale");
  Make({"dense.kind=lars",
        "tables={linear: {optimizer: {kind: sgd}}, embedding: {optimizer: "
        "{kind: sgd}}}"});
  Refuses("bounded", "bounded", StatusCode::kInvalidArgument, "dense.kind");
  Make({"consistency.mode=async",
        "dense={kind: sgd, learning_rate: 0.1, delay_compensation: 1}"});
  Refuses("sync", "sync", StatusCode::kInvalidArgument,
          "dense.delay_compensation");
  Make({"consistency.dense=allreduce", "cluster.servers=2",
        "cluster.replicas=2"});
  Refuses("async", "", StatusCode::kInvalidArgument, "cluster.replicas");
}

TEST_F(ModeChangeTest, RefusesWhatIsNoMode) {
  Make({});
  for (const char* text : {"fast", "bounded:", "bounded:-1", "bounded:2x",
                           "sync:1", "auto", "bounded:99999999999"}) {
    Refuses(text, text, StatusCode::kInvalidArgument, "is no mode");
  }
  Refuses("allreduce", "", StatusCode::kInvalidArgument, "not reduced");
  Refuses("bounded:1", "bounded:2", StatusCode::kInvalidArgument,
          "one staleness");
}

}  // namespace
}  // namespace shoal::worker
