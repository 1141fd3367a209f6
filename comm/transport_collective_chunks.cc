// The part of TransportCollective in which members send each other what lies in
// the callers' memory, a chunk at a time.

#include <algorithm>
#include <cstring>
#include <utility>

#include "comm/transport_collective.h"
#include "comm/transport_operation.h"

namespace shoal::comm {
namespace {

// Bytes of a frame that is not worth lending.
constexpr int64_t kCopiedMax = 1024;

}  // namespace

void TransportCollective::BeginChunks(Operation& op) {
  const auto [begin, end] = Owned(op, group_.rank);
  const int64_t bytes = op.count * op.size();
  const auto overlaps = [&](const std::byte* term) {
    return term < op.to + bytes && op.to < term + bytes;
  };
  if (op.exchange() &&
      std::any_of(op.terms.begin(), op.terms.end(), overlaps)) {
    // The sum is there as soon as the others' terms are, which may be before
    // they have this one's.
    for (const std::byte* term : op.terms) {
      op.copies.push_back(Buffer::CopyOf(term, bytes));
    }
  }
  if (op.sums()) {
    op.chunks.resize(static_cast<size_t>(NumChunks(op, end - begin)));
    for (Operation::Chunk& chunk : op.chunks) {
      chunk.terms.resize(links_.size());
      chunk.missing = group_.size() - 1;
    }
  }
  SendFirst(op);
  if (op.sums() && group_.size() == 1) {
    for (size_t chunk = 0; chunk < op.chunks.size(); ++chunk) {
      SumChunk(op, static_cast<int64_t>(chunk));
    }
  }
  if (op.kind == Kind::kAllToAll && op.count > 0) {
    const int64_t bytes = op.count * op.size();
    std::memcpy(op.to + group_.rank * bytes, op.from + group_.rank * bytes,
                static_cast<size_t>(bytes));
  }
}

// Sends what waits for nobody: terms, own rows and segments; one chunk to each
// member in turn, so that all can begin.
void TransportCollective::SendFirst(Operation& op) {
  const int n = group_.size();
  const auto to_each = [&](const auto& chunks, const auto& send) {
    int64_t most = 0;
    for (int k = 1; k < n; ++k) {
      most = std::max(most, chunks((group_.rank + k) % n));
    }
    for (int64_t chunk = 0; chunk < most; ++chunk) {
      for (int k = 1; k < n; ++k) {
        const int to = (group_.rank + k) % n;
        if (chunk < chunks(to)) {
          send(to, chunk);
        }
      }
    }
  };
  const auto owned_chunks = [&](int rank) {
    const auto [begin, end] = Owned(op, rank);
    return NumChunks(op, end - begin);
  };
  switch (op.kind) {
    case Kind::kAllReduce:
    case Kind::kReduceScatter:
      to_each(owned_chunks,
              [&](int to, int64_t chunk) { SendTerms(op, to, chunk); });
      return;
    case Kind::kAllToAll:
      to_each([&](int) { return NumChunks(op, op.count); },
              [&](int to, int64_t chunk) {
                SendChunk(op, Phase::kResult, op.from, to, to, chunk);
              });
      return;
    case Kind::kAllGather:
    case Kind::kBarrier:
      to_each([&](int) { return owned_chunks(group_.rank); },
              [&](int to, int64_t chunk) {
                SendChunk(op, Phase::kResult, op.to, group_.rank, to, chunk);
              });
      return;
    case Kind::kBroadcast:
      if (group_.rank == op.root) {
        // Each gets its segment, to pass on, and everyone the root's.
        to_each(owned_chunks, [&](int to, int64_t chunk) {
          SendChunk(op, Phase::kTerms, op.to, to, to, chunk);
        });
        to_each([&](int) { return owned_chunks(group_.rank); },
                [&](int to, int64_t chunk) {
                  SendChunk(op, Phase::kResult, op.to, group_.rank, to, chunk);
                });
      }
      return;
  }
}

// This rank's terms of a chunk of what `to` owns.
void TransportCollective::SendTerms(const Operation& op, int to,
                                    int64_t chunk) {
  const auto [begin, end] = Owned(op, to);
  const int64_t first = begin + chunk * ChunkCount(op);
  const int64_t count = std::min(ChunkCount(op), end - first);
  Message message = MakeMessage(op, Phase::kTerms, chunk);
  if (!op.copies.empty()) {
    message.frames = op.copies;  // An exchange has one chunk.
    Send(to, std::move(message));
    return;
  }
  for (const std::byte* term : op.terms) {
    message.frames.push_back(
        Lend(op, term + first * op.size(), count * op.size()));
  }
  Send(to, std::move(message));
}

// A chunk, that lies in `data`, of what `owner` owns.
void TransportCollective::SendChunk(const Operation& op, Phase phase,
                                    const std::byte* data, int owner, int to,
                                    int64_t chunk) {
  const auto [begin, end] = Owned(op, owner);
  const int64_t first = begin + chunk * ChunkCount(op);
  const int64_t count = std::min(ChunkCount(op), end - first);
  Message message = MakeMessage(op, phase, chunk);
  message.frames.push_back(
      Lend(op, data + first * op.size(), count * op.size()));
  Send(to, std::move(message));
}

// The caller's memory as a frame, whose end is waited for. Small ones are
// copied all the same: their sender may give up, and leave with its memory,
// while they are on their way.
Buffer TransportCollective::Lend(const Operation& op, const std::byte* data,
                                 int64_t bytes) {
  std::shared_ptr<const void> owner = op.borrowed;
  if (bytes <= kCopiedMax) {
    Buffer copy = Buffer::CopyOf(data, bytes);
    data = copy.data();
    owner = std::make_shared<std::pair<Buffer, std::shared_ptr<const void>>>(
        std::move(copy), std::move(owner));
  }
  return Buffer::Wrap(const_cast<std::byte*>(data), bytes, std::move(owner));
}

void TransportCollective::SumChunk(Operation& op, int64_t chunk) {
  const auto [begin, end] = Owned(op, group_.rank);
  const int64_t first = begin + chunk * ChunkCount(op);
  const int64_t count = std::min(ChunkCount(op), end - first);
  std::vector<const std::byte*> terms;
  Operation::Chunk& from = op.chunks[static_cast<size_t>(chunk)];
  for (int rank = 0; rank < group_.size(); ++rank) {
    if (rank == group_.rank) {
      for (const std::byte* term : op.terms) {
        terms.push_back(term + first * op.size());
      }
      continue;
    }
    for (const Buffer& frame : from.terms[static_cast<size_t>(rank)].frames) {
      terms.push_back(frame.data());
    }
  }
  if (count > 0) {
    sum_.Run(op.dtype, terms, count, op.to + first * op.size());
  }
  from.terms.clear();  // A transport may wait for its memory.
  if (op.kind != Kind::kAllReduce || op.exchange()) {
    return;
  }
  for (int k = 1; k < group_.size(); ++k) {
    SendChunk(op, Phase::kResult, op.to, group_.rank,
              (group_.rank + k) % group_.size(), chunk);
  }
}

}  // namespace shoal::comm
