#include "worker/input/example_order.h"

#include <limits>
#include <numeric>
#include <utility>

#include "base/random.h"

namespace shoal::worker {
namespace {

template <typename T>
void ShuffledRows(uint64_t key, int64_t num_rows, std::vector<T>* rows) {
  rows->resize(static_cast<size_t>(num_rows));
  std::iota(rows->begin(), rows->end(), T{0});
  // Fisher and Yates, from the end.
  Random random(key);
  for (size_t i = rows->size(); i > 1; --i) {
    std::swap((*rows)[i - 1], (*rows)[random.Below(i)]);
  }
}

}  // namespace

ExampleOrder::ExampleOrder(uint64_t seed, int64_t epoch, int64_t num_rows,
                           bool shuffle)
    : epoch_(epoch), num_rows_(num_rows) {
  if (!shuffle) {
    return;
  }
  const uint64_t key = HashKey(HashKey(HashText("example order"), seed),
                               static_cast<uint64_t>(epoch));
  if (num_rows <= int64_t{std::numeric_limits<uint32_t>::max()}) {
    ShuffledRows(key, num_rows, &small_);
  } else {
    ShuffledRows(key, num_rows, &large_);
  }
}

}  // namespace shoal::worker
