// Optimizers in whole jobs: one digest for every cluster, also across a
// checkpoint that another number of servers restores.

#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"

#include "base/strcat.h"
#include "tests/integration/job_fixture.h"
#include "tests/integration/program.h"

namespace shoal::integration {
namespace {

using OptimizersTest = JobsTest;

struct OptimizersOfAJob {
  const char* dense;
  const char* linear;
  const char* embedding;
};

constexpr OptimizersOfAJob kJobs[] = {
    {"{kind: adamw, learning_rate: 0.003, clip_value: 0.05}",
     "{kind: group_ftrl, learning_rate: 0.1, l21: 0.01}",
     "{kind: lazy_adam, learning_rate: 0.01, clip_norm: 0.1}"},
    {"{kind: rmsprop, learning_rate: 0.001, centered: true, momentum: 0.9}",
     "{kind: adamax, learning_rate: 0.01, weight_decay: 0.01}",
     "{kind: rowwise_adagrad, learning_rate: 0.1, weight_decay: 0.001}"},
    {"{kind: amsgrad, learning_rate: 0.003, weight_decay: 0.01, decoupled: "
     "true}",
     "{kind: adadelta, learning_rate: 1}", "{kind: adam, learning_rate: 0.01}"},
    {"{kind: nesterov, learning_rate: 0.001}",
     "{kind: nesterov, learning_rate: 0.001, clip_value: 0.1}",
     "{kind: amsgrad, learning_rate: 0.01}"},
};

TEST_F(OptimizersTest, OneDigestForEveryClusterAndAcrossCheckpoints) {
  const std::vector<std::vector<std::string>> clusters = {
      {"--set", "cluster.servers=2", "--set", "cluster.workers=4"},
      {"--set", "cluster.workers=2", "--set", "consistency.dense=allreduce"},
      {"--set", "cluster.servers=2", "--set", "cluster.workers=2", "--set",
       "consistency={dense: allreduce, sharded_optimizer: true}"},
  };
  std::set<std::string> all;
  for (const OptimizersOfAJob& job : kJobs) {
    SCOPED_TRACE(job.dense);
    const auto train = [&](const std::string& out, const std::string& steps,
                           std::vector<std::string> more) {
      for (const std::string& set :
           {"train.max_steps=" + steps, StrCat("dense=", job.dense),
            StrCat("tables.linear.optimizer=", job.linear),
            StrCat("tables.embedding.optimizer=", job.embedding)}) {
        more.insert(more.end(), {"--set", set});
      }
      more.emplace_back("--in-process");
      const RunOutcome run = Train(out, more);
      EXPECT_EQ(run.exit_code, 0) << run.output;
    };
    train("one", "40", {});
    const std::string digest = Digest("one");
    for (const auto& cluster : clusters) {
      train("other", "40", cluster);
      EXPECT_EQ(Digest("other"), digest) << ::testing::PrintToString(cluster);
      fs::remove_all(folder_ / "other");
    }
    train("half", "20", {"--set", "cluster.servers=2"});
    train("rest", "40",
          {"--set", "cluster.servers=3", "--set",
           "checkpoint.restore=" + Path("half")});
    EXPECT_EQ(Digest("rest"), digest);
    all.insert(digest);
    for (const char* out : {"one", "half", "rest"}) {
      fs::remove_all(folder_ / out);
    }
  }
  EXPECT_EQ(all.size(), std::size(kJobs));
}

}  // namespace
}  // namespace shoal::integration
