#include "tests/simulation/planted_bug.h"

#include <iostream>
#include <utility>

namespace shoal::simulation {

SimulatedJob* PlantedBugTest::job = nullptr;

void PlantedBugTest::SetUpTestSuite() {
  StatusOr<std::unique_ptr<SimulatedJob>> made = SimulatedJob::Create();
  ASSERT_TRUE(made.ok()) << made.status();
  job = made->release();
}

void PlantedBugTest::TearDownTestSuite() {
  delete job;
  job = nullptr;
}

RunPlan PlantedBugTest::Plan(ps::Mode mode, int replicas) {
  const bool sync = mode == ps::Mode::kSync;
  return {.mode = mode,
          .workers = sync ? 3 : 1,
          .crashes = 0,
          .replicas = replicas,
          .server_crashes = 3};
}

Decorate PlantedBugTest::Around(const std::string& where,
                                const std::function<std::unique_ptr<comm::Node>(
                                    std::unique_ptr<comm::Node>)>& make) {
  return [where, make](const std::string& name,
                       std::unique_ptr<comm::Node> node) {
    return name.starts_with(where) ? make(std::move(node)) : std::move(node);
  };
}

bool PlantedBugTest::Finds(
    const RunPlan& plan, const std::string& where,
    const std::function<ChangingNode::Change()>& change) {
  return Finds(plan, Around(where, [change](std::unique_ptr<comm::Node> node) {
                 return std::make_unique<ChangingNode>(std::move(node),
                                                       change());
               }));
}

bool PlantedBugTest::Finds(RunPlan plan, const Decorate& decorate) {
  RunPlan calm = plan;
  calm.faults = false;
  calm.crashes = calm.server_crashes = calm.coordinator_crashes = 0;
  calm.scales = calm.partitions = calm.slow_processes = calm.full_disks = 0;
  const RunResult want = RunJob(*job, calm);
  EXPECT_EQ(want.digest.size(), 32U);
  plan.digests = want.digests;
  const RunResult without = RunJob(*job, plan);
  EXPECT_EQ(without.digest, want.digest) << "without the bug";
  EXPECT_EQ(without.violation, "") << "without the bug";
  plan.decorate = decorate;
  for (plan.seed = 1; plan.seed <= 500; ++plan.seed) {
    const RunResult result = RunJob(*job, plan);
    if (!result.ended || !result.status.ok() || result.digest != want.digest ||
        !result.violation.empty()) {
      std::cout << "found with seed " << plan.seed << ": "
                << (!result.violation.empty() ? result.violation
                    : result.status.ok()      ? "another digest"
                                              : result.status.ToString())
                << "\n";
      return true;
    }
  }
  return false;
}

}  // namespace shoal::simulation
