#ifndef SHOAL_GRAPH_GRAPH_TESTING_H_
#define SHOAL_GRAPH_GRAPH_TESTING_H_

// Plans and runs graphs in tests. The arena is poisoned with NaN before a run,
// so that what reads memory that nobody wrote shows.

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <gtest/gtest.h>

#include "base/random.h"
#include "base/thread_pool.h"
#include "graph/executor.h"
#include "graph/graph.h"
#include "graph/plan.h"
#include "kernels/shadow_device.h"

namespace shoal::graph {

using TestValues = std::variant<std::vector<float>, std::vector<int32_t>,
                                std::vector<uint64_t>>;

// In [low, high).
inline std::vector<float> TestUniform(size_t n, uint64_t seed,
                                      double low = -1.0, double high = 1.0) {
  Random random(seed);
  std::vector<float> values(n);
  for (float& value : values) {
    value = static_cast<float>(low + (high - low) * random.Uniform());
  }
  return values;
}

// What tests plan for and run on: that of the environment's SHOAL_TEST_DEVICE,
// so that the whole suite can be run on another.
inline std::string TestDeviceName() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing here sets the environment.
  const char* const name = std::getenv("SHOAL_TEST_DEVICE");
  return name == nullptr ? "cpu" : name;
}

// An executor with its pool and device.
class TestExecutor {
 public:
  static StatusOr<std::unique_ptr<TestExecutor>> Create(
      std::shared_ptr<const Plan> plan) {
    std::unique_ptr<TestExecutor> test(
        new TestExecutor(plan->device(), plan->num_threads()));
    SHOAL_ASSIGN_OR_RETURN(
        test->executor_,
        Executor::Create(std::move(plan), *test->device_, test->host_.get()));
    return test;
  }

  Executor& operator*() { return *executor_; }
  Executor* operator->() { return executor_.get(); }

  void Poison() {
    // The shadow device itself sees reads of what nothing wrote.
    if (device_->host_can_read() && !executor_->arena().empty()) {
      std::memset(executor_->arena().data(), 0xff, executor_->arena().size());
    }
  }

  // `values` must stay.
  Status Feed(const std::string& name, const TestValues& values) {
    const std::vector<graph::Feed>& feeds = executor_->plan().feeds();
    for (size_t i = 0; i < feeds.size(); ++i) {
      if (feeds[i].name == name) {
        return std::visit(
            [&](const auto& v) {
              return executor_->BindFeed(
                  static_cast<int>(i), v.data(),
                  static_cast<int64_t>(v.size() * sizeof(v[0])));
            },
            values);
      }
    }
    return NotFoundError("no feed " + name);
  }

  std::vector<float> Fetched(int index) {
    const TensorView view = executor_->fetch(index);
    const float* const data = view.as<const float>();
    return {data, data + view.num_elements()};
  }

 private:
  TestExecutor(const std::string& device, int num_threads)
      : pool_(num_threads),
        device_(device == "shadow"
                    ? CreateShadowDevice({.threads = num_threads, .seed = 1})
                    : CreateCpuDevice(pool_)),
        host_(CreateCpuDevice(pool_)) {}

  ThreadPool pool_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Device> host_;
  std::unique_ptr<Executor> executor_;
};

using TestFeeds = std::map<std::string, TestValues>;
using TestSymbols = std::map<std::string, int64_t>;

inline StatusOr<std::vector<std::vector<float>>> RunPlan(
    std::shared_ptr<const Plan> plan, const TestFeeds& feeds,
    const TestSymbols& symbols = {}) {
  const size_t num_fetches = plan->fetches().size();
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<TestExecutor> test,
                         TestExecutor::Create(std::move(plan)));
  for (const auto& [name, value] : symbols) {
    SHOAL_RETURN_IF_ERROR((*test)->SetSymbol(name, value));
  }
  for (const auto& [name, values] : feeds) {
    SHOAL_RETURN_IF_ERROR(test->Feed(name, values));
  }
  test->Poison();
  SHOAL_RETURN_IF_ERROR((*test)->Run());
  std::vector<std::vector<float>> results;
  for (size_t i = 0; i < num_fetches; ++i) {
    results.push_back(test->Fetched(static_cast<int>(i)));
  }
  return results;
}

inline PlanOptions OptionsFor(const std::vector<NodeRef>& fetches,
                              TestSymbols symbol_max = {}) {
  PlanOptions options;
  options.device = TestDeviceName();
  if (options.device == "shadow") {
    // Its kernels are there once it is.
    CreateShadowDevice({});
  }
  for (const NodeRef ref : fetches) {
    options.fetches.push_back({.ref = ref});
  }
  options.symbol_max = std::move(symbol_max);
  return options;
}

// Bit for bit, so that NaN equals itself and -0 is not 0.
inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() ||
          std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

}  // namespace shoal::graph

#endif  // SHOAL_GRAPH_GRAPH_TESTING_H_
