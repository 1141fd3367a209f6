#include "comm/tree_sum.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/status.h"

namespace shoal::comm {
namespace {

// Sums go in blocks that stay in the first cache, with the sums that are not
// used yet beside them.
constexpr int64_t kBlockBytes = 4096;
constexpr size_t kDepthMax = 24;

struct F16 {
  _Float16 value;
};
struct BF16 {
  uint16_t bits;
};

template <typename T>
T AddOne(T a, T b) {
  return a + b;
}
F16 AddOne(F16 a, F16 b) {
  return {static_cast<_Float16>(static_cast<float>(a.value) +
                                static_cast<float>(b.value))};
}
BF16 AddOne(BF16 a, BF16 b) {
  const auto widen = [](BF16 x) {
    return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
  };
  const float sum = widen(a) + widen(b);
  auto bits = std::bit_cast<uint32_t>(sum);
  if (sum != sum) {
    return {static_cast<uint16_t>((bits >> 16) | 0x40)};  // A quiet NaN stays.
  }
  bits += 0x7fff + ((bits >> 16) & 1);
  return {static_cast<uint16_t>(bits >> 16)};
}

// 128-bit vectors are enough: a block comes from the first cache, and before
// that from memory. (target_clones would widen them, but its resolvers run
// before ThreadSanitizer is up and crash.)
template <typename T>
__attribute__((optimize("O3"))) void AddAll(const T* a, const T* b, T* out,
                                            int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    out[i] = AddOne(a[i], b[i]);
  }
}

template <typename T>
void AddAs(const std::byte* a, const std::byte* b, std::byte* out, int64_t n) {
  AddAll(reinterpret_cast<const T*>(a), reinterpret_cast<const T*>(b),
         reinterpret_cast<T*>(out), n);
}

}  // namespace

void AddElements(DType dtype, const std::byte* a, const std::byte* b,
                 std::byte* out, int64_t n) {
  switch (dtype) {
    case DType::kF32:
      return AddAs<float>(a, b, out, n);
    case DType::kF64:
      return AddAs<double>(a, b, out, n);
    case DType::kF16:
      return AddAs<F16>(a, b, out, n);
    case DType::kBF16:
      return AddAs<BF16>(a, b, out, n);
    case DType::kI32:
      return AddAs<uint32_t>(a, b, out, n);
    case DType::kI64:
    case DType::kU64:
      return AddAs<uint64_t>(a, b, out, n);
  }
}

TreeSum::TreeSum(const StepTree& tree, std::span<const int64_t> nodes,
                 int64_t root) {
  SHOAL_CHECK(Build(tree, nodes, root));
}

bool TreeSum::Build(const StepTree& tree, std::span<const int64_t> nodes,
                    int64_t node) {
  const auto it = std::find(nodes.begin(), nodes.end(), node);
  if (it != nodes.end()) {
    program_.push_back(static_cast<int32_t>(it - nodes.begin()));
    return true;
  }
  const auto [begin, end] = tree.Range(node);
  if (node == tree.Leaf(begin)) {
    return false;  // Nobody has it.
  }
  if (!Build(tree, nodes, 2 * node)) {
    return false;
  }
  if (!tree.IsNode(2 * node + 1)) {
    return true;  // Padding is skipped.
  }
  if (!Build(tree, nodes, 2 * node + 1)) {
    return false;
  }
  program_.push_back(kAdd);
  return true;
}

void TreeSum::Run(DType dtype, std::span<const std::byte* const> terms,
                  int64_t count, std::byte* out) const {
  const int64_t size = SizeOf(dtype);
  if (program_.size() == 1) {
    const std::byte* only = terms[static_cast<size_t>(program_[0])];
    if (only != out) {
      std::memcpy(out, only, static_cast<size_t>(count * size));
    }
    return;
  }
  alignas(64) std::byte sums[kDepthMax][kBlockBytes];
  const std::byte* stack[kDepthMax + 1];
  const int64_t block = kBlockBytes / size;
  for (int64_t begin = 0; begin < count; begin += block) {
    const int64_t n = std::min(block, count - begin);
    size_t depth = 0;
    for (size_t i = 0; i < program_.size(); ++i) {
      if (program_[i] != kAdd) {
        stack[depth++] = terms[static_cast<size_t>(program_[i])] + begin * size;
        continue;
      }
      // The last addition of all goes to `out`: until then what lies there may
      // be a term that is still to be read.
      std::byte* to =
          i + 1 == program_.size() ? out + begin * size : sums[depth - 2];
      AddElements(dtype, stack[depth - 2], stack[depth - 1], to, n);
      --depth;
      stack[depth - 1] = to;
    }
  }
}

}  // namespace shoal::comm
