#ifndef SHOAL_BASE_STEP_TREE_H_
#define SHOAL_BASE_STEP_TREE_H_

#include <cstdint>
#include <utility>
#include <vector>

namespace shoal {

// The fixed binary tree along which the gradients of virtual workers are
// summed: leaves are the virtual workers 0 .. V-1, padded to a power of two;
// padding is absent and skipped. A node is named by its heap number: the root
// is 1, the children of i are 2i and 2i+1.
//
// A worker that runs all leaves under a node sends one sum for it, so the order
// of additions, and with it every bit, is the same for every worker count.
class StepTree {
 public:
  explicit StepTree(int num_leaves) : num_leaves_(num_leaves) {
    while (width_ < num_leaves) {
      width_ *= 2;
    }
  }

  int num_leaves() const { return num_leaves_; }
  int64_t Leaf(int virtual_worker) const { return width_ + virtual_worker; }
  bool IsNode(int64_t node) const {
    return node >= 1 && node < 2 * width_ && Range(node).first < num_leaves_;
  }

  // The virtual workers [begin, end) under `node`, without padding.
  std::pair<int, int> Range(int64_t node) const {
    int64_t lo = node;
    int64_t hi = node + 1;
    while (lo < width_) {
      lo *= 2;
      hi *= 2;
    }
    const int64_t end = hi - width_;
    return {static_cast<int>(lo - width_),
            static_cast<int>(end < num_leaves_ ? end : num_leaves_)};
  }

  // The fewest nodes that cover exactly the virtual workers [begin, end), in
  // rising order of leaves.
  std::vector<int64_t> Cover(int begin, int end) const {
    std::vector<int64_t> nodes;
    CoverUnder(1, begin, end == num_leaves_ ? width_ : end, nodes);
    return nodes;
  }

 private:
  void CoverUnder(int64_t node, int64_t begin, int64_t end,
                  std::vector<int64_t>& nodes) const {
    int64_t lo = node;
    int64_t hi = node + 1;
    while (lo < width_) {
      lo *= 2;
      hi *= 2;
    }
    lo -= width_;
    hi -= width_;
    if (begin >= hi || end <= lo || lo >= num_leaves_) {
      return;
    }
    if (begin <= lo && hi <= end) {
      nodes.push_back(node);
      return;
    }
    CoverUnder(2 * node, begin, end, nodes);
    CoverUnder(2 * node + 1, begin, end, nodes);
  }

  int num_leaves_;
  int64_t width_ = 1;
};

}  // namespace shoal

#endif  // SHOAL_BASE_STEP_TREE_H_
