#ifndef SHOAL_WORKER_INPUT_BATCH_H_
#define SHOAL_WORKER_INPUT_BATCH_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "worker/input/examples.h"

namespace shoal::worker {

// Examples laid out for the graph, row after row.
struct Batch {
  struct Bag {
    std::vector<uint64_t> ids;
    std::vector<int64_t> offsets;  // [size + 1], offsets[0] is 0
    std::vector<float> weights;    // as long as `ids`; empty: all 1
  };

  int64_t size = 0;            // b
  std::vector<float> labels;   // [b]; NaN where there is none
  std::vector<float> numeric;  // [b, schema.numeric.size()]
  std::vector<uint64_t> ids;   // [b, schema.categorical.size()]
  std::vector<Bag> bags;       // one per schema.bags
};

// Fills `batch` with the examples at `positions`, reusing its memory: in the
// steady state nothing is allocated.
// Errors: kInvalidArgument (a position outside [0, num_rows)), kDataLoss (the
// file is damaged: a bag outside of it, or a value that is not finite).
Status FillBatch(const Examples& examples, std::span<const int64_t> positions,
                 Batch& batch);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_BATCH_H_
