#include "ps/step_stage.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/strcat.h"
#include "ps/protocol.pb.h"
#include "ps/slots.h"
#include "ps/wire.h"

namespace shoal::ps {
namespace {

// Whether all are finite, without a branch per element: an exponent of all ones
// survives the maximum.
bool AllFinite(std::span<const float> values) {
  uint32_t highest = 0;
  for (const float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    highest = std::max(highest, bits & 0x7f800000U);
  }
  return highest != 0x7f800000U;
}

// Reads a message's array frames one after another.
class FrameReader {
 public:
  FrameReader(const comm::Message& message, bool may_diverge)
      : message_(message), may_diverge_(may_diverge) {}

  StatusOr<const Buffer*> Next(const std::string& what) {
    if (next_ >= message_.frames.size()) {
      return InvalidArgumentError(StrCat("push: has ", message_.frames.size(),
                                         " frames, none for ", what));
    }
    return &message_.frames[next_++];
  }

  StatusOr<std::span<const float>> Floats(const std::string& what,
                                          int64_t count) {
    SHOAL_ASSIGN_OR_RETURN(const Buffer* frame, Next(what));
    const auto floats = frame->As<float>();
    if (frame->size() != count * static_cast<int64_t>(sizeof(float)) ||
        static_cast<int64_t>(floats.size()) != count) {
      return InvalidArgumentError(StrCat("push: ", what, " has ", frame->size(),
                                         " bytes, expected ", count * 4));
    }
    if (!may_diverge_ && !AllFinite(floats)) {
      return InvalidArgumentError(
          StrCat("push: ", what,
                 " is not finite (the loss has diverged): lower the learning "
                 "rate or look for extreme values in the data"));
    }
    return floats;
  }

  bool AtEnd() const { return next_ == message_.frames.size(); }

 private:
  const comm::Message& message_;
  const bool may_diverge_;
  size_t next_ = 1;
};

StatusOr<GroupGradients> ReadGroup(FrameReader& frames, int group,
                                   const PushShape& shape) {
  GroupGradients out;
  SHOAL_ASSIGN_OR_RETURN(const Buffer* frame,
                         frames.Next(StrCat("ids of group ", group)));
  const StatusOr<std::span<const uint64_t>> ids = ReadIds(*frame, group, shape);
  SHOAL_RETURN_IF_ERROR(ids.status().WithPrefix("push"));
  out.ids = *ids;
  for (const int index : shape.model->groups[static_cast<size_t>(group)]) {
    const TableSpec& table = shape.model->tables[static_cast<size_t>(index)];
    SHOAL_ASSIGN_OR_RETURN(
        const std::span<const float> grads,
        frames.Floats(StrCat("gradient of table '", table.name, "'"),
                      static_cast<int64_t>(out.ids.size()) * table.dim));
    out.tables.push_back(grads);
  }
  return out;
}

}  // namespace

Status CheckIds(std::span<const uint64_t> ids, const PushShape& shape) {
  uint64_t previous = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    const uint64_t hash = IdHash(ids[i]);
    if (i > 0 && hash <= previous) {
      return InvalidArgumentError(
          StrCat("id ", ids[i], " at ", i, " does not rise by its hash"));
    }
    previous = hash;
    const int64_t slot = SlotOfHash(hash, shape.slot_bits);
    if (!shape.portion->Has(slot)) {
      return InvalidArgumentError(StrCat("id ", ids[i], " is in slot ", slot,
                                         ", which this shard has not"));
    }
  }
  return OkStatus();
}

StatusOr<std::span<const uint64_t>> ReadIds(const Buffer& frame, int group,
                                            const PushShape& shape) {
  const auto ids = frame.As<uint64_t>();
  if (static_cast<int64_t>(ids.size_bytes()) != frame.size()) {
    return InvalidArgumentError(StrCat("ids of group ", group, " have ",
                                       frame.size(),
                                       " bytes, no multiple of 8"));
  }
  SHOAL_RETURN_IF_ERROR(CheckIds(ids, shape));
  return ids;
}

StatusOr<PushParts> ReadPush(const comm::Message& message,
                             const PushShape& shape) {
  wire::Push head;
  SHOAL_RETURN_IF_ERROR(Decode(message, head));
  const auto num_groups = static_cast<int>(shape.model->groups.size());
  PushParts push;
  push.step = head.step();
  push.sequence = head.sequence();
  if (head.has_learning_rate_factor()) {
    const double factor = head.learning_rate_factor();
    if (!std::isfinite(factor) || factor < 0) {
      return InvalidArgumentError(
          StrCat("push: has a learning rate factor of ", factor));
    }
    push.learning_rate_factor = factor;
  }
  FrameReader frames(message, shape.may_diverge);
  for (const int64_t node : head.nodes()) {
    Piece piece;
    piece.node = node;
    for (int group = 0; group < num_groups; ++group) {
      SHOAL_ASSIGN_OR_RETURN(GroupGradients gradients,
                             ReadGroup(frames, group, shape));
      piece.groups.push_back(std::move(gradients));
    }
    SHOAL_ASSIGN_OR_RETURN(
        piece.dense,
        frames.Floats("dense gradient", shape.portion->dense_elements));
    if (shape.model->pushes_values()) {
      SHOAL_ASSIGN_OR_RETURN(
          piece.computed_from,
          frames.Floats("dense values", shape.portion->dense_elements));
    }
    piece.owners = message.frames;
    push.pieces.push_back(std::move(piece));
  }
  if (!frames.AtEnd()) {
    return InvalidArgumentError(StrCat("push: has ", message.frames.size(),
                                       " frames, more than its ",
                                       head.nodes_size(), " pieces need"));
  }
  return push;
}

namespace {

// The positions in `ids` of those in slots of `portion`.
std::vector<size_t> IdsIn(std::span<const uint64_t> ids, int slot_bits,
                          const Portion& portion) {
  std::vector<size_t> in;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (portion.Has(SlotOfHash(IdHash(ids[i]), slot_bits))) {
      in.push_back(i);
    }
  }
  return in;
}

}  // namespace

Piece Select(const Piece& piece, const ModelSpec& model, int slot_bits,
             const Portion& from, const Portion& to) {
  Piece out;
  out.node = piece.node;
  for (size_t g = 0; g < piece.groups.size(); ++g) {
    const GroupGradients& group = piece.groups[g];
    const std::vector<size_t> in = IdsIn(group.ids, slot_bits, to);
    const auto n = static_cast<int64_t>(in.size());
    Buffer ids = Buffer::Allocate(n * 8);
    for (size_t i = 0; i < in.size(); ++i) {
      ids.MutableAs<uint64_t>()[i] = group.ids[in[i]];
    }
    GroupGradients selected = {.ids = ids.As<uint64_t>(), .tables = {}};
    out.owners.push_back(std::move(ids));
    for (size_t t = 0; t < group.tables.size(); ++t) {
      const auto dim = static_cast<size_t>(
          model.tables[static_cast<size_t>(model.groups[g][t])].dim);
      Buffer rows = Buffer::Allocate(n * static_cast<int64_t>(dim) * 4);
      float* next = rows.MutableAs<float>().data();
      for (const size_t i : in) {
        next = std::copy_n(group.tables[t].data() + i * dim, dim, next);
      }
      selected.tables.push_back(rows.As<float>());
      out.owners.push_back(std::move(rows));
    }
    out.groups.push_back(std::move(selected));
  }
  const auto select = [&](std::span<const float> floats) {
    Buffer selected =
        Buffer::Allocate(std::min(from.dense_elements, to.dense_elements) * 4);
    float* next = selected.MutableAs<float>().data();
    const float* begin = next;
    const float* at = floats.data();
    auto wanted = to.chunks.begin();
    for (const DenseChunk& chunk : from.chunks) {
      while (wanted != to.chunks.end() && wanted->offset < chunk.offset) {
        ++wanted;
      }
      if (wanted != to.chunks.end() && wanted->offset == chunk.offset) {
        next = std::copy_n(at, chunk.count, next);
      }
      at += chunk.count;
    }
    out.owners.push_back(std::move(selected));
    return std::span<const float>(begin, next);
  };
  out.dense = select(piece.dense);
  if (!piece.computed_from.empty()) {
    out.computed_from = select(piece.computed_from);
  }
  return out;
}

Status StepStage::Add(Piece piece) {
  if (!tree_.IsNode(piece.node)) {
    return InvalidArgumentError(
        StrCat("push: the step tree has no node ", piece.node));
  }
  if (pieces_.contains(piece.node)) {
    return OkStatus();
  }
  const auto [begin, end] = tree_.Range(piece.node);
  for (const auto& [node, other] : pieces_) {
    const auto [other_begin, other_end] = tree_.Range(node);
    if (begin < other_end && other_begin < end) {
      // A replacement may run other virtual workers than the one that it
      // replaces: what is covered already has the same bits.
      if (other_begin <= begin && end <= other_end) {
        return OkStatus();
      }
      return InvalidArgumentError(
          StrCat("push: virtual workers ", begin, " to ", end - 1,
                 " overlap those of node ", node, ", which came before"));
    }
  }
  num_present_ += end - begin;
  came_last_ = static_cast<int>(begin);
  pieces_.emplace(piece.node, std::move(piece));
  return OkStatus();
}

Status StepStage::AddAll(std::vector<Piece> pieces) {
  std::vector<int64_t> added;
  for (Piece& piece : pieces) {
    const int64_t node = piece.node;
    const bool is_new = !pieces_.contains(node);
    if (Status status = Add(std::move(piece)); !status.ok()) {
      for (const int64_t taken_back : added) {
        const auto [begin, end] = tree_.Range(taken_back);
        num_present_ -= end - begin;
        pieces_.erase(taken_back);
      }
      return status;
    }
    if (is_new && pieces_.contains(node)) {
      added.push_back(node);
    }
  }
  return OkStatus();
}

std::vector<int> StepStage::MissingVirtualWorkers() const {
  std::vector<bool> present(static_cast<size_t>(tree_.num_leaves()), false);
  for (const auto& [node, piece] : pieces_) {
    const auto [begin, end] = tree_.Range(node);
    std::fill(present.begin() + begin, present.begin() + end, true);
  }
  std::vector<int> missing;
  for (size_t i = 0; i < present.size(); ++i) {
    if (!present[i]) {
      missing.push_back(static_cast<int>(i));
    }
  }
  return missing;
}

Piece StepStage::Sum() const {
  SHOAL_CHECK(complete());
  return SumUnder(1);
}

Piece StepStage::SumUnder(int64_t node) const {
  const auto it = pieces_.find(node);
  if (it != pieces_.end()) {
    return it->second;
  }
  Piece left = SumUnder(2 * node);
  if (!tree_.IsNode(2 * node + 1)) {
    return left;  // Padding is skipped.
  }
  return AddPieces(left, SumUnder(2 * node + 1));
}

namespace {

// Where each side's ids go in their union, or -1.
struct Union {
  Buffer ids;
  std::vector<int32_t> from_left;
  std::vector<int32_t> from_right;
};

Union UnionOf(std::span<const uint64_t> left, std::span<const uint64_t> right) {
  Union out;
  const size_t most = left.size() + right.size();
  Buffer ids = Buffer::Allocate(static_cast<int64_t>(most * sizeof(uint64_t)));
  uint64_t* to = ids.MutableAs<uint64_t>().data();
  out.from_left.reserve(most);
  out.from_right.reserve(most);
  size_t l = 0;
  size_t r = 0;
  size_t n = 0;
  while (l < left.size() || r < right.size()) {
    const bool take_left =
        r == right.size() ||
        (l < left.size() && IdHash(left[l]) <= IdHash(right[r]));
    const bool take_right =
        l == left.size() ||
        (r < right.size() && IdHash(right[r]) <= IdHash(left[l]));
    to[n++] = take_left ? left[l] : right[r];
    out.from_left.push_back(take_left ? static_cast<int32_t>(l++) : -1);
    out.from_right.push_back(take_right ? static_cast<int32_t>(r++) : -1);
  }
  out.ids = ids.Slice(0, static_cast<int64_t>(n * sizeof(uint64_t)));
  return out;
}

void AddRows(const Union& ids, int64_t dim, std::span<const float> left,
             std::span<const float> right, float* out) {
  for (size_t i = 0; i < ids.from_left.size(); ++i) {
    const int64_t l = ids.from_left[i];
    const int64_t r = ids.from_right[i];
    const float* a = l < 0 ? nullptr : left.data() + l * dim;
    const float* b = r < 0 ? nullptr : right.data() + r * dim;
    float* to = out + static_cast<int64_t>(i) * dim;
    if (a != nullptr && b != nullptr) {
      for (int64_t j = 0; j < dim; ++j) {
        to[j] = a[j] + b[j];
      }
    } else {
      std::memcpy(to, a != nullptr ? a : b,
                  static_cast<size_t>(dim) * sizeof(float));
    }
  }
}

}  // namespace

Piece StepStage::AddPieces(const Piece& left, const Piece& right) const {
  Piece sum;
  for (size_t g = 0; g < left.groups.size(); ++g) {
    const Union ids = UnionOf(left.groups[g].ids, right.groups[g].ids);
    GroupGradients gradients;
    gradients.ids = ids.ids.As<uint64_t>();
    sum.owners.push_back(ids.ids);
    for (size_t t = 0; t < left.groups[g].tables.size(); ++t) {
      const auto index = static_cast<size_t>(model_.groups[g][t]);
      const int64_t dim = model_.tables[index].dim;
      Buffer rows = Buffer::Allocate(
          static_cast<int64_t>(ids.from_left.size()) * dim * 4);
      AddRows(ids, dim, left.groups[g].tables[t], right.groups[g].tables[t],
              rows.MutableAs<float>().data());
      gradients.tables.push_back(rows.As<float>());
      sum.owners.push_back(std::move(rows));
    }
    sum.groups.push_back(std::move(gradients));
  }
  Buffer dense =
      Buffer::Allocate(static_cast<int64_t>(left.dense.size_bytes()));
  float* to = dense.MutableAs<float>().data();
  for (size_t i = 0; i < left.dense.size(); ++i) {
    to[i] = left.dense[i] + right.dense[i];
  }
  sum.dense = dense.As<float>();
  sum.owners.push_back(std::move(dense));
  return sum;
}

}  // namespace shoal::ps
