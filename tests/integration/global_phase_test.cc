// What needs all gradients of a step at once, in whole jobs: one digest for
// every cluster, also across a checkpoint that another number of servers
// restores, and steps that are skipped.

#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/integration/job_fixture.h"
#include "tests/integration/program.h"

namespace shoal::integration {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class GlobalPhaseTest : public JobsTest {
 protected:
  // The digest of `job` after all of its steps.
  std::string DigestOf(const std::string& out, const Words& job,
                       const Words& cluster, std::string* log = nullptr) {
    Words keys = job;
    keys.insert(keys.end(), cluster.begin(), cluster.end());
    Words argv = Sets(keys);
    argv.emplace_back("--in-process");
    const RunOutcome run = Train(out, argv);
    EXPECT_EQ(run.exit_code, 0) << run.output;
    if (log != nullptr) {
      *log = run.output;
    }
    return Digest(out);
  }
};

// Its numeric feature has large gradients, so that this scale is too large once
// it has grown.
const Words kSkips = {
    "data.features.3.standardize=false",
    "train.loss_scale={kind: dynamic, scale: 1e29, growth_factor: 1000, "
    "growth_interval: 3, backoff_factor: 0.01}",
    "train.clip_global_norm=1"};

TEST_F(GlobalPhaseTest, OneDigestForEveryClusterAndAcrossCheckpoints) {
  const std::vector<Words> jobs = {
      {"train.clip_global_norm=0.05"},
      {"dense={kind: lamb, learning_rate: 0.01, weight_decay: 0.01}"},
      {"dense={kind: lars, learning_rate: 1, weight_decay: 0.001}"},
      // Two variables of more than one chunk.
      {"dense={kind: lamb, learning_rate: 0.01}", "model.hidden=[1100, 20]",
       "train.loss_scale={kind: static, scale: 3}"},
      kSkips};
  const std::vector<Words> clusters = {
      {"cluster.servers=3", "cluster.shards=2", "cluster.workers=2"},
      {"cluster.servers=3", "cluster.workers=4", "cluster.replicas=2"},
  };
  std::set<std::string> all = {DigestOf("plain", {"train.max_steps=40"}, {})};
  for (Words job : jobs) {
    SCOPED_TRACE(::testing::PrintToString(job));
    Words half = job;
    half.emplace_back("train.max_steps=20");
    job.emplace_back("train.max_steps=40");
    const std::string digest = DigestOf("one", job, {});
    for (const Words& cluster : clusters) {
      EXPECT_EQ(DigestOf("other", job, cluster), digest)
          << ::testing::PrintToString(cluster);
      fs::remove_all(folder_ / "other");
    }
    DigestOf("half", half, {"cluster.servers=2"});
    EXPECT_EQ(
        DigestOf("rest", job,
                 {"cluster.servers=3", "checkpoint.restore=" + Path("half")}),
        digest);
    all.insert(digest);
    for (const char* out : {"one", "half", "rest"}) {
      fs::remove_all(folder_ / out);
    }
  }
  EXPECT_EQ(all.size(), 1 + std::size(jobs)) << "one of them changes nothing";
}

TEST_F(GlobalPhaseTest, PowersOfTwoScaleWithoutAnotherBit) {
  const Words job = {"train.max_steps=30", "model.l2_dense=0.01"};
  const std::string digest = DigestOf("plain", job, {});
  Words scaled = job;
  scaled.emplace_back("train.loss_scale={kind: static, scale: 1024}");
  EXPECT_EQ(DigestOf("scaled", scaled, {"cluster.workers=2"}), digest);
  scaled.back() = "train.loss_scale={kind: dynamic, growth_interval: 5}";
  EXPECT_EQ(DigestOf("grown", scaled, {"cluster.servers=2"}), digest);
  // A bound that no step meets.
  Words bounded = job;
  bounded.emplace_back("train.clip_global_norm=1e6");
  EXPECT_EQ(DigestOf("bounded", bounded, {}), digest);
}

TEST_F(GlobalPhaseTest, StepThatOverflowsIsSkippedAndSaidSo) {
  std::string log;
  DigestOf("one", kSkips, {"cluster.servers=2"}, &log);
  EXPECT_THAT(log, HasSubstr("is skipped, its gradients are not finite: 1 "
                             "skipped so far; the loss scale was "));
  // Without, the first gradient beyond f32 ends the job.
  const RunOutcome ended =
      Train("ended", Sets({kSkips[0], "train.loss_scale={kind: none}",
                           "dense.learning_rate=1e30"}));
  EXPECT_EQ(ended.exit_code, 1);
  EXPECT_THAT(ended.output, HasSubstr("diverge"));
  // A job that never recovers ends too.
  const RunOutcome lost = Train(
      "lost", Sets({"train.loss_scale={kind: static, scale: 1}",
                    "dense={kind: sgd, learning_rate: 1e38}", "train.epochs=6",
                    "train.eval.every_epoch=false", "model.activation=relu"}));
  EXPECT_EQ(lost.exit_code, 1) << lost.output;
  EXPECT_THAT(lost.output, HasSubstr("and the 100 before it are not finite"));
}

// With one worker that waits for its pushes no gradient is late, and the values
// are those without compensation.
TEST_F(GlobalPhaseTest, DelaysAreCompensatedAlsoAcrossCheckpoints) {
  const std::string adagrad = "dense={kind: adagrad, learning_rate: 0.02}";
  const Words late = {"consistency.mode=async", adagrad,
                      "dense.delay_compensation=2"};
  const Words cluster = {"cluster.servers=2", "cluster.workers=3",
                         "cluster.replicas=2"};
  DigestOf("late", late, cluster);
  Words rest = late;
  rest.insert(rest.end(),
              {"train.epochs=3", "checkpoint.restore=" + Path("late")});
  DigestOf("rest", rest, {"cluster.workers=2"});
  // It has state that the same job without does not have.
  rest[2] = "dense.delay_compensation=0";
  const RunOutcome other = Train("other", Sets(rest));
  ExpectRefused(other, "other");
  EXPECT_THAT(other.output, HasSubstr("another model or optimizer"));
  const auto loss = [&](const std::string& out, const std::string& strength) {
    DigestOf(out,
             {"consistency.mode=bounded", "consistency.staleness=0", adagrad,
              "dense.delay_compensation=" + strength},
             {});
    return Losses(out);
  };
  EXPECT_EQ(loss("none", "0"), loss("some", "2"));
}

TEST_F(GlobalPhaseTest, WhatHasNoMeaningIsRefusedWithTheReason) {
  struct Case {
    Words keys;
    std::string key;
  };
  const std::string own = "tables.linear.optimizer={kind: sgd}";
  const std::vector<Case> cases = {
      {{"train.clip_global_norm=1", "consistency.mode=async"},
       "train.clip_global_norm: it needs all gradients of a step at once"},
      {{"train.clip_global_norm=1", "consistency.dense=allreduce"},
       "train.clip_global_norm: it needs all gradients of a step at once"},
      {{"train.loss_scale={kind: static}", "consistency.mode=bounded"},
       "train.loss_scale.kind: it needs all gradients of a step at once"},
      {{"dense={kind: lamb}", "consistency.dense=allreduce"},
       "dense.kind: it needs all gradients of a step at once"},
      {{"dense={kind: lars}", "train.clip_global_norm=1"},
       "train.clip_global_norm: dense.kind lars needs its gradients before"},
      {{"dense={kind: lars, clip_value: 1}"}, "dense.clip_value: lars: its"},
      {{"tables.embedding.optimizer={kind: lamb}"},
       "tables.embedding.optimizer.kind: 'lamb' goes by the norms"},
      {{"dense.delay_compensation=1"},
       "dense.delay_compensation: dense variables are in sync"},
      {{"dense.delay_compensation=1", "consistency.dense=allreduce"},
       "dense.delay_compensation: dense variables are in allreduce"},
      {{"dense.delay_decay=0.5"}, "dense.delay_decay: it is for delay_comp"},
      {{"dense={kind: lamb, delay_compensation: 1}"},
       "dense.delay_compensation: lamb does not read it"},
      {{"tables.embedding.optimizer.delay_compensation=1",
        "consistency.mode=async"},
       "tables.embedding.optimizer.delay_compensation: it is for dense"},
      {{"train.loss_scale={scale: 2}"},
       "train.loss_scale.scale: none does not read it"},
      {{"train.loss_scale={kind: dynamic, growth_factor: 1}"},
       "train.loss_scale.growth_factor: 1 never grows"},
      {{"train.loss_scale={kind: dynamic, backoff_factor: 1}"},
       "train.loss_scale.backoff_factor: 1 does not lower"},
  };
  for (const Case& c : cases) {
    const RunOutcome run = Train("refused", Sets(c.keys));
    ExpectRefused(run, "refused");
    EXPECT_THAT(run.output, HasSubstr(c.key));
  }
}

}  // namespace
}  // namespace shoal::integration
