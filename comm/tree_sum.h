#ifndef SHOAL_COMM_TREE_SUM_H_
#define SHOAL_COMM_TREE_SUM_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/dtype.h"
#include "base/step_tree.h"

namespace shoal::comm {

// out[n] = a[n] + b[n], rounded as TreeSum does; `out` may be either.
void AddElements(DType dtype, const std::byte* a, const std::byte* b,
                 std::byte* out, int64_t n);

// Sums vectors along a step tree: the order of additions, and with it every
// bit, is the tree's, whoever holds which of its nodes. f16 and bf16 are added
// as f32 and rounded to nearest even at each addition; integers wrap.
// Thread-safe.
class TreeSum {
 public:
  // `nodes` must cover all leaves under `root` once.
  TreeSum(const StepTree& tree, std::span<const int64_t> nodes,
          int64_t root = 1);

  // out[count] = the sum of `root`, where terms[i][count] is that of nodes[i].
  // `out` may be one of the terms.
  void Run(DType dtype, std::span<const std::byte* const> terms, int64_t count,
           std::byte* out) const;

 private:
  // A step of the sum in postfix order: a term is taken, or the last two sums
  // are added.
  static constexpr int32_t kAdd = -1;

  bool Build(const StepTree& tree, std::span<const int64_t> nodes,
             int64_t node);

  std::vector<int32_t> program_;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_TREE_SUM_H_
