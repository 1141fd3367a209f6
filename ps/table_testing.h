#ifndef SHOAL_PS_TABLE_TESTING_H_
#define SHOAL_PS_TABLE_TESTING_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/random.h"
#include "ps/slots.h"
#include "ps/sparse_table.h"

namespace shoal::ps {

// A step of some ids below `most`, the first ones more often: pushed, pulled.
inline void StepSomeIds(Random& random, uint64_t most, int64_t step,
                        SparseTable& table) {
  std::vector<uint64_t> ids;
  for (uint64_t i = random.Below(60); i > 0; --i) {
    ids.push_back(random.Below(1 + random.Below(most)));
  }
  std::sort(ids.begin(), ids.end(),
            [](uint64_t a, uint64_t b) { return IdHash(a) < IdHash(b); });
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  std::vector<float> floats(ids.size() * static_cast<size_t>(table.dim()),
                            0.5F);
  table.Apply(ids, floats.data(), 1, step);
  table.PullAndKeep(ids, floats.data());
}

}  // namespace shoal::ps

#endif  // SHOAL_PS_TABLE_TESTING_H_
