#include "worker/gradient_sums.h"

#include <cmath>

#include "base/strcat.h"

namespace shoal::worker {

StatusOr<double> GradientSums::Run(int64_t step,
                                   std::span<const ShareInput> shares,
                                   const PulledValues& values,
                                   std::span<Gradients> sums,
                                   const ModelRunner::ReadyFn& ready) {
  Call call = {.shares = shares, .values = values, .ready = ready};
  for (size_t i = 0; i < nodes_.size(); ++i) {
    SHOAL_RETURN_IF_ERROR(SumNode(
        call, nodes_[i], {.gradients = sums[i], .added_to = nullptr}, 0));
  }
  if (!may_diverge_ && !std::isfinite(call.loss)) {
    return InvalidArgumentError(
        StrCat("the loss of step ", step, " is ", call.loss,
               ": the training diverges; lower the learning rates, or look "
               "for extreme values in the data"));
  }
  return call.loss;
}

// The gradients of a leaf are its share's, others are left plus right.
Status GradientSums::SumNode(Call& call, int64_t node, const Sum& sum,
                             size_t depth) {
  const int first = tree_.Range(node).first;
  if (node == tree_.Leaf(first)) {
    return SumLeaf(call, static_cast<size_t>(first - begin_), sum);
  }
  if (!tree_.IsNode(2 * node + 1)) {
    return SumNode(call, 2 * node, sum, depth);  // Padding is skipped.
  }
  const Sum left = {.gradients = sum.gradients, .added_to = nullptr};
  SHOAL_RETURN_IF_ERROR(SumNode(call, 2 * node, left, depth));
  while (right_.size() <= depth) {
    right_.push_back(std::make_unique<Gradients>());
  }
  const Sum right = {.gradients = *right_[depth], .added_to = &sum};
  return SumNode(call, 2 * node + 1, right, depth + 1);
}

// Also makes the sums that this leaf is the last of: those of dense variables
// of the last leaf of all as soon as each has its gradient.
Status GradientSums::SumLeaf(Call& call, size_t share, const Sum& sum) {
  const bool last = share + 1 == call.shares.size();
  added_.assign(model_.variables.size(), false);
  ModelRunner::ReadyFn ready;
  if (last && call.ready) {
    ready = [this, &call, &sum](int variable) {
      AddDense(sum, variable);
      call.ready(variable);
    };
  }
  SHOAL_ASSIGN_OR_RETURN(
      const double loss,
      runner_.Train(call.shares[share], call.values, sum.gradients,
                    call.shares.subspan(share + 1), ready));
  call.loss += loss;
  for (size_t v = 0; v < added_.size(); ++v) {
    if (!added_[v]) {
      AddDense(sum, static_cast<int>(v));
    }
  }
  for (const Sum* s = &sum; s->added_to != nullptr; s = s->added_to) {
    for (size_t t = 0; t < s->gradients.rows.size(); ++t) {
      const std::vector<float>& from = s->gradients.rows[t];
      float* const to = s->added_to->gradients.rows[t].data();
      for (size_t i = 0; i < from.size(); ++i) {
        to[i] += from[i];
      }
    }
  }
  return OkStatus();
}

void GradientSums::AddDense(const Sum& sum, int variable) {
  const auto v = static_cast<size_t>(variable);
  added_[v] = true;
  const int64_t begin = layout_.offset(variable);
  const int64_t end = begin + model_.variables[v].num_elements();
  for (const Sum* s = &sum; s->added_to != nullptr; s = s->added_to) {
    const float* const from = s->gradients.dense.data();
    float* const to = s->added_to->gradients.dense.data();
    for (int64_t i = begin; i < end; ++i) {
      to[i] += from[i];
    }
  }
}

}  // namespace shoal::worker
