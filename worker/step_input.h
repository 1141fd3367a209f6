#ifndef SHOAL_WORKER_STEP_INPUT_H_
#define SHOAL_WORKER_STEP_INPUT_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "ps/client.h"
#include "worker/input/batch.h"
#include "worker/input/example_order.h"
#include "worker/input/examples.h"

namespace shoal::worker {

// Which features of an example look up the tables of one group; numbers are
// those of the RecordSchema.
struct GroupFeatures {
  std::vector<int> categorical;
  std::vector<int> bags;
};

// Where the features of one share find their rows.
struct GroupIndex {
  struct Bag {
    std::vector<int32_t> index;    // [n] rows
    std::vector<int32_t> offsets;  // [b + 1], from 0
    std::vector<float> weights;    // [n]
  };
  std::vector<int32_t> categorical;  // [b, group's categorical] rows
  std::vector<Bag> bags;
};

// The examples of one virtual worker in one step (of one batch, when
// evaluating), ready for the graph.
struct ShareInput {
  int virtual_worker = 0;
  uint64_t dropout_key = 0;
  float scale = 1;     // of every example's loss in the gradient
  float fraction = 1;  // of the push that this share is; for penalties
  Batch batch;
  std::vector<GroupIndex> groups;
};

// What one worker works on in one step.
struct StepInput {
  int64_t examples = 0;
  std::vector<ShareInput> shares;
  std::vector<ps::GroupIds> groups;  // distinct ids over all shares
};

// Makes the inputs of steps: which examples belong to a step is a function of
// (seed, step) and not of who asks.
//
// Thread-compatible: one thread fills.
class StepSource {
 public:
  struct Options {
    Examples train;
    Examples test;
    uint64_t seed = 1;
    bool shuffle = true;
    int64_t batch_size = 1;
    int virtual_workers = 1;
    int virtual_begin = 0;  // this worker's
    int virtual_end = 1;
    std::vector<GroupFeatures> groups;
  };

  using Heads = std::shared_ptr<const ps::SlotHeads>;

  explicit StepSource(Options options);

  int64_t steps_per_epoch() const;
  // The most examples that one share can have.
  int64_t share_size_max() const;

  // This worker's share from here on; not while it fills.
  void SetShares(int virtual_begin, int virtual_end) {
    options_.virtual_begin = virtual_begin;
    options_.virtual_end = virtual_end;
  }

  // Reuses the memory of `input`; its ids are divided by `heads`. Errors: those
  // of FillBatch().
  Status FillTrain(int64_t step, const Heads& heads, StepInput& input);
  // Test examples [begin, end), at most share_size_max() of them, as one share.
  Status FillTest(int64_t begin, int64_t end, const Heads& heads,
                  StepInput& input);

  int64_t num_test_rows() const { return options_.test.num_rows(); }

 private:
  void Collect(const Heads& heads, StepInput& input);

  Options options_;
  std::unique_ptr<ExampleOrder> order_;
  ps::IdCollector collector_;
  std::vector<int64_t> positions_;
  std::vector<uint64_t> occurrences_;
  std::vector<int32_t> index_;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_STEP_INPUT_H_
