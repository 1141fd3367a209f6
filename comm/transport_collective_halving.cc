// Recursive halving and doubling along the step tree: see kHalving.
//
// Members r and r ^ 1 hold the two children of a node, r and r ^ 2 are under
// those of its parent, and so on: what a step adds are children of one node,
// the left one being the lower rank's.

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/strcat.h"
#include "comm/transport_collective.h"
#include "comm/transport_operation.h"

namespace shoal::comm {
namespace {

// A message's `reserved`: the step above the chunk.
constexpr int kChunkBits = 24;

int NumHalvings(int size) {
  return std::countr_zero(static_cast<unsigned>(size));
}

// Which chunk of which step a message has.
struct Place {
  int step;
  int64_t chunk;
  bool halves;  // or else has results
  int level;    // of the halvings, undone in their reverse order
};
Place PlaceOf(const Message& message, int levels) {
  const auto step = static_cast<int>(message.header.reserved >> kChunkBits);
  const bool halves = step < levels;
  return {.step = step,
          .chunk = message.header.reserved & ((1U << kChunkBits) - 1),
          .halves = halves,
          .level = halves ? step : 2 * levels - 1 - step};
}

}  // namespace

bool TransportCollective::MayHalve() const {
  if (group_.size() < 2 || group_.root != 1 ||
      !std::has_single_bit(static_cast<unsigned>(group_.size()))) {
    return false;
  }
  for (int rank = 0; rank < group_.size(); ++rank) {
    const std::vector<int64_t>& nodes =
        group_.members[static_cast<size_t>(rank)].nodes;
    if (nodes.size() != 1 || nodes[0] != group_.size() + rank) {
      return false;
    }
  }
  return true;
}

// What `rank` still sums after `level` halvings.
std::pair<int64_t, int64_t> TransportCollective::HalvingRegion(
    const Operation& op, int rank, int level) const {
  int64_t begin = 0;
  int64_t end = op.count;
  for (int j = 0; j < level; ++j) {
    const int64_t middle = begin + (end - begin) / 2;
    (rank >> j & 1) == 0 ? end = middle : begin = middle;
  }
  return {begin, end};
}

// One peer per level, with which it swaps a half each way, twice.
int64_t TransportCollective::HalvingMessages(const Operation& op,
                                             int rank) const {
  const int bit = rank ^ group_.rank;
  if (!std::has_single_bit(static_cast<unsigned>(bit))) {
    return 0;
  }
  const int level = NumHalvings(bit) + 1;
  const auto chunks = [&](int owner) {
    const auto [begin, end] = HalvingRegion(op, owner, level);
    return NumChunks(op, end - begin);
  };
  return chunks(group_.rank) + chunks(rank);
}

void TransportCollective::BeginHalving(Operation& op) {
  op.halving = std::make_unique<Halving>();
  const int levels = NumHalvings(group_.size());
  op.halving->early.resize(static_cast<size_t>(levels));
  op.halving->missing.resize(static_cast<size_t>(2 * levels));
  op.halving->came.resize(static_cast<size_t>(2 * levels));
  for (int level = 0; level < levels; ++level) {
    const auto chunks = [&](int owner) {
      const auto [begin, end] = HalvingRegion(op, owner, level + 1);
      return NumChunks(op, end - begin);
    };
    op.halving->missing[static_cast<size_t>(level)] = chunks(group_.rank);
    op.halving->missing[static_cast<size_t>(2 * levels - 1 - level)] =
        chunks(group_.rank ^ 1 << level);
  }
  StartHalvingStep(op);
}

// Sends what the step's peer lacks: terms or sums of its half, then results of
// this rank's.
void TransportCollective::StartHalvingStep(Operation& op) {
  const int levels = NumHalvings(group_.size());
  const int step = op.halving->step;
  const bool halves = step < levels;
  const int level = halves ? step : 2 * levels - 1 - step;
  const int peer = group_.rank ^ 1 << level;
  const auto [begin, end] =
      HalvingRegion(op, halves ? peer : group_.rank, level + 1);
  const std::byte* const from = step == 0 ? op.terms[0] : op.to;
  for (int64_t chunk = 0; chunk < NumChunks(op, end - begin); ++chunk) {
    const int64_t first = begin + chunk * ChunkCount(op);
    const int64_t count = std::min(ChunkCount(op), end - first);
    Message message =
        MakeMessage(op, Phase::kHalf, (int64_t{step} << kChunkBits) | chunk);
    message.frames.push_back(
        Lend(op, from + first * op.size(), count * op.size()));
    Send(peer, std::move(message));
  }
}

Status TransportCollective::TakeHalf(Operation& op, int from,
                                     Message& message) {
  Halving& halving = *op.halving;
  const auto [step, chunk, halves, level] =
      PlaceOf(message, NumHalvings(group_.size()));
  // A peer sends the chunks of a step in their order, each once.
  if (level < 0 || from != (group_.rank ^ 1 << level) ||
      halving.came[static_cast<size_t>(step)]++ != chunk) {
    return InvalidArgumentError("sent a half that is not of it");
  }
  const auto [begin, end] =
      HalvingRegion(op, halves ? group_.rank : from, level + 1);
  const int64_t count =
      std::min(ChunkCount(op), end - begin - chunk * ChunkCount(op));
  if (chunk >= NumChunks(op, end - begin) || message.frames.size() != 1 ||
      message.frames[0].size() != count * op.size()) {
    return InvalidArgumentError(
        StrCat("sent ", message.size_bytes(),
               " bytes that are not a chunk of its half"));
  }
  if (halves && step > halving.step) {
    // What it is added to is not there yet.
    halving.early[static_cast<size_t>(step)].push_back(std::move(message));
    return OkStatus();
  }
  AddHalf(op, from, message);
  return OkStatus();
}

// Of a chunk that was checked.
void TransportCollective::AddHalf(Operation& op, int from,
                                  const Message& message) {
  Halving& halving = *op.halving;
  const auto [step, chunk, halves, level] =
      PlaceOf(message, NumHalvings(group_.size()));
  const auto [begin, end] =
      HalvingRegion(op, halves ? group_.rank : from, level + 1);
  const int64_t first = begin + chunk * ChunkCount(op);
  const int64_t count = std::min(ChunkCount(op), end - first);
  const std::byte* const data = message.frames[0].data();
  const int64_t at = first * op.size();
  if (halves && count > 0) {
    const std::byte* const own = (step == 0 ? op.terms[0] : op.to) + at;
    const std::byte* const terms[] = {from < group_.rank ? data : own,
                                      from < group_.rank ? own : data};
    static const TreeSum kPair(StepTree(2), std::vector<int64_t>{2, 3});
    kPair.Run(op.dtype, terms, count, op.to + at);
  } else if (count > 0) {
    std::memcpy(op.to + at, data, static_cast<size_t>(count * op.size()));
  }
  --halving.missing[static_cast<size_t>(step)];
  AdvanceHalving(op);
}

void TransportCollective::AdvanceHalving(Operation& op) {
  Halving& halving = *op.halving;
  while (halving.step < static_cast<int>(halving.missing.size()) &&
         halving.missing[static_cast<size_t>(halving.step)] == 0) {
    if (++halving.step == static_cast<int>(halving.missing.size())) {
      return;
    }
    StartHalvingStep(op);
    if (halving.step < static_cast<int>(halving.early.size())) {
      const int peer = group_.rank ^ 1 << halving.step;
      for (const Message& message : std::exchange(
               halving.early[static_cast<size_t>(halving.step)], {})) {
        AddHalf(op, peer, message);
      }
    }
  }
}

}  // namespace shoal::comm
