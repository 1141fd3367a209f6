#ifndef SHOAL_PS_STEP_STAGE_H_
#define SHOAL_PS_STEP_STAGE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "base/step_tree.h"
#include "comm/message.h"
#include "ps/dense_layout.h"
#include "ps/model_spec.h"

namespace shoal::ps {

// Gradients of one group of tables: `ids` rise strictly by IdHash() and
// grads[i] is [ids.size(), dim of the group's i-th table].
struct GroupGradients {
  std::span<const uint64_t> ids;
  std::vector<std::span<const float>> tables;
};

// The gradient sum of one node of the step tree, for some slots.
// Spans point into the message that brought it, or into a sum's own memory.
struct Piece {
  int64_t node = 0;
  std::vector<GroupGradients> groups;  // in the order of ModelSpec::groups
  std::span<const float> dense;        // all chunks of the portion, in order
  // As many: the values that the gradients are of; or none.
  std::span<const float> computed_from;
  std::vector<Buffer> owners;  // keep the spans alive
};

// A push as its receiver reads it.
struct PushParts {
  int64_t step = 0;
  uint64_t sequence = 0;
  std::optional<double> learning_rate_factor;  // finite, >= 0
  std::vector<Piece> pieces;
};

// What a shard checks a push against.
struct PushShape {
  const ModelSpec* model = nullptr;
  int slot_bits = 10;
  const Portion* portion = nullptr;  // that the push is of
  bool may_diverge = false;          // gradients need not be finite
};

// Checks a whole push before anything is written: counts and sizes agree, ids
// rise and belong to the portion, every gradient is finite (unless the shape
// says otherwise), and so is the learning rate factor if there is one.
// Errors: kInvalidArgument naming what is wrong.
StatusOr<PushParts> ReadPush(const comm::Message& message,
                             const PushShape& shape);

// The ids that a pull or push names belong to the portion and rise.
// Errors: as ReadPush().
Status CheckIds(std::span<const uint64_t> ids, const PushShape& shape);

// A frame of whole ids that CheckIds() finds right. Errors: as ReadPush().
StatusOr<std::span<const uint64_t>> ReadIds(const Buffer& frame, int group,
                                            const PushShape& shape);

// The part of `piece`, which is of the slots of `from`, that is of those of
// `to` too.
Piece Select(const Piece& piece, const ModelSpec& model, int slot_bits,
             const Portion& from, const Portion& to);

// The pushes of one step that all workers share, until they are complete, and
// their sum along the step tree. Whoever sends a piece, and however often, the
// sum is the same. Belongs to its shard's thread.
class StepStage {
 public:
  // `model` must outlive the stage.
  StepStage(const ModelSpec& model, int virtual_workers)
      : model_(model), tree_(virtual_workers) {}

  // Takes a piece whose virtual workers are not there yet; a repeated one is
  // dropped. Errors: kInvalidArgument (no such node, or it overlaps others).
  Status Add(Piece piece);
  // All of them or, with an error, none. Errors: as Add().
  Status AddAll(std::vector<Piece> pieces);

  bool complete() const { return num_present_ == tree_.num_leaves(); }
  int num_present() const { return num_present_; }  // virtual workers
  // Of those whose piece was the last to be taken; -1: none.
  int came_last() const { return came_last_; }

  // Whose gradients have not come, rising.
  std::vector<int> MissingVirtualWorkers() const;

  // The sum over all pieces; only when complete().
  Piece Sum() const;

 private:
  Piece SumUnder(int64_t node) const;
  Piece AddPieces(const Piece& left, const Piece& right) const;

  const ModelSpec& model_;
  StepTree tree_;
  std::map<int64_t, Piece> pieces_;  // by node
  int num_present_ = 0;
  int came_last_ = -1;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_STEP_STAGE_H_
