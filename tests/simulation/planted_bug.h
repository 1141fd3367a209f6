#ifndef SHOAL_TESTS_SIMULATION_PLANTED_BUG_H_
#define SHOAL_TESTS_SIMULATION_PLANTED_BUG_H_

#include <functional>
#include <memory>
#include <string>

#include "gtest/gtest.h"

#include "tests/simulation/cluster_world.h"
#include "tests/simulation/forwarding.h"

namespace shoal::simulation {

// Bugs are planted one at a time, by changing what a node gets, sends or does
// to files; of at most 500 seeds one shows each.
class PlantedBugTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kShare > 1) {
      GTEST_SKIP() << "bugs are searched for without sanitizers";
    }
  }
  static void SetUpTestSuite();
  static void TearDownTestSuite();

  // Killed servers; one worker where there is to be no choice of an order.
  static RunPlan Plan(ps::Mode mode, int replicas);

  // Whether a run with the bug ends otherwise than one without it: as it should
  // end without the bug is shown first. `change` makes what is around each node
  // whose name begins with `where`.
  static bool Finds(const RunPlan& plan, const std::string& where,
                    const std::function<ChangingNode::Change()>& change);
  static bool Finds(const RunPlan& plan, const Decorate& decorate);
  static bool Finds(RunPlan plan, const std::function<void(RunPlan&)>& plant);
  // The same for a node in another context.
  template <typename Context>
  static bool FindsContext(const RunPlan& plan, const std::string& where) {
    return Finds(
        plan, Around(where, [](std::unique_ptr<comm::Node> node) {
          return std::make_unique<NodeInContext<Context>>(std::move(node));
        }));
  }
  static Decorate Around(const std::string& where,
                         const std::function<std::unique_ptr<comm::Node>(
                             std::unique_ptr<comm::Node>)>& make);

  static SimulatedJob* job;
};

}  // namespace shoal::simulation

#endif  // SHOAL_TESTS_SIMULATION_PLANTED_BUG_H_
