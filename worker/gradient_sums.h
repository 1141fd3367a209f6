#ifndef SHOAL_WORKER_GRADIENT_SUMS_H_
#define SHOAL_WORKER_GRADIENT_SUMS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/step_tree.h"
#include "ps/dense_layout.h"
#include "ps/model_spec.h"
#include "worker/model_runner.h"
#include "worker/step_input.h"

namespace shoal::worker {

// Runs a worker's shares of a step and sums their gradients along the step
// tree, as far as all leaves under a node are its own.
//
// Thread-compatible. In the steady state it does not allocate.
class GradientSums {
 public:
  // Of virtual workers [begin, end) of `num_leaves`. The rest must outlive it.
  // `may_diverge`: losses need not be finite.
  GradientSums(const ps::ModelSpec& model, const ps::DenseLayout& layout,
               ModelRunner& runner, int num_leaves, int begin, int end,
               bool may_diverge = false)
      : model_(model),
        layout_(layout),
        runner_(runner),
        tree_(num_leaves),
        begin_(begin),
        may_diverge_(may_diverge),
        nodes_(tree_.Cover(begin, end)) {}

  int begin() const { return begin_; }
  // Of the step tree, rising; each has a sum.
  const std::vector<int64_t>& nodes() const { return nodes_; }

  // shares[i] is that of virtual worker begin + i. Fills sums[i] with the
  // gradients of nodes()[i] and gives the sum of the examples' losses. `ready`,
  // unless empty, is called on the way with dense variables whose gradients
  // are whole in all sums; those that it is not called with are by the end.
  // Errors: the runner's; kInvalidArgument (a loss that is not finite).
  StatusOr<double> Run(int64_t step, std::span<const ShareInput> shares,
                       const PulledValues& values, std::span<Gradients> sums,
                       const ModelRunner::ReadyFn& ready);

 private:
  // What a call of Run() works on.
  struct Call {
    std::span<const ShareInput> shares;
    const PulledValues& values;
    const ModelRunner::ReadyFn& ready;
    double loss = 0;
  };
  // The sum of a node, and what it is added to once it is whole.
  struct Sum {
    Gradients& gradients;
    const Sum* added_to;  // or none
  };
  Status SumNode(Call& call, int64_t node, const Sum& sum, size_t depth);
  Status SumLeaf(Call& call, size_t share, const Sum& sum);
  void AddDense(const Sum& sum, int variable);

  const ps::ModelSpec& model_;
  const ps::DenseLayout& layout_;
  ModelRunner& runner_;
  const StepTree tree_;
  const int begin_;
  const bool may_diverge_;
  const std::vector<int64_t> nodes_;
  std::vector<std::unique_ptr<Gradients>> right_;  // by depth
  std::vector<bool> added_;  // of the leaf under way, by dense variable
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_GRADIENT_SUMS_H_
