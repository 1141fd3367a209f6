#ifndef SHOAL_WORKER_MODEL_RUNNER_H_
#define SHOAL_WORKER_MODEL_RUNNER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "kernels/devices.h"
#include "ps/client.h"
#include "worker/step_input.h"

namespace shoal::worker {

struct ModelGraph;

// Gradients of one share, or sums of several.
struct Gradients {
  std::vector<float> dense;              // as DenseLayout lays it out
  std::vector<std::vector<float>> rows;  // per table [rows of its group, dim]
};

// What was pulled for a step.
struct PulledValues {
  // Another one whenever the values are others; 0: not known. What is on a
  // device already is not copied there again.
  uint64_t version = 0;
  const float* dense = nullptr;  // as DenseLayout lays it out
  std::span<float* const> rows;  // per table [rows of its group, dim]
  std::span<const ps::GroupIds> groups;
};

// Runs a model's graph over shares. Thread-compatible: one call at a time.
class ModelRunner {
 public:
  struct Options {
    int64_t share_size_max = 1;
    int threads = 1;
    DeviceOptions device = {};
  };

  // `model` is shared with whoever builds other runners of it.
  static StatusOr<std::unique_ptr<ModelRunner>> Create(
      std::shared_ptr<const ModelGraph> model, const Options& options);
  virtual ~ModelRunner() = default;

  // Fills `out` (sized as needed) with the gradients of the share and gives the
  // sum of its examples' losses, penalties not counted. `next`, unless null, is
  // the share of the next call, with the same values: a device that works
  // beside the host begins with it before this share is waited for. `ready`,
  // unless empty, is called on the way with the numbers of dense variables
  // whose gradient is whole; those that it is not called with are by the end.
  using ReadyFn = std::function<void(int variable)>;
  virtual StatusOr<double> Train(const ShareInput& share,
                                 const PulledValues& values, Gradients& out,
                                 const ShareInput* next,
                                 const ReadyFn& ready) = 0;

  // Appends a score per example ([classes] of them for multiclass):
  // probabilities, or predictions of a regression.
  virtual Status Score(const ShareInput& share, const PulledValues& values,
                       std::vector<float>& scores) = 0;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_MODEL_RUNNER_H_
