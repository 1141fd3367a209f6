#include "ps/client.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/strcat.h"
#include "base/trace.h"
#include "ps/protocol.pb.h"
#include "ps/slots.h"
#include "ps/wire.h"

namespace shoal::ps {

// --- IdCollector -----------------------------------------------------------

void IdCollector::Collect(std::span<const uint64_t> occurrences, GroupIds& ids,
                          std::vector<int32_t>& index) {
  const size_t n = occurrences.size();
  index.resize(n);
  entries_.clear();
  distinct_.clear();
  // Open addressing at a load of at most a half; the hash is the one that
  // orders the ids, so it is computed once.
  size_t width = 16;
  while (width < 2 * n) {
    width *= 2;
  }
  buckets_.assign(width, -1);
  for (size_t i = 0; i < n; ++i) {
    const uint64_t hash = IdHash(occurrences[i]);
    size_t at = hash & (width - 1);
    while (buckets_[at] >= 0 &&
           entries_[static_cast<size_t>(buckets_[at])].hash != hash) {
      at = (at + 1) & (width - 1);
    }
    if (buckets_[at] < 0) {
      buckets_[at] = static_cast<int32_t>(entries_.size());
      const int64_t slot = SlotOfHash(hash, slot_bits_);
      entries_.push_back({.hash = hash,
                          .shard = static_cast<int32_t>(slot % num_shards_),
                          .first = buckets_[at]});
      distinct_.push_back(occurrences[i]);
    }
    index[i] = buckets_[at];
  }
  sorted_ = entries_;
  std::sort(sorted_.begin(), sorted_.end(), [](const Entry& a, const Entry& b) {
    return a.shard != b.shard ? a.shard < b.shard : a.hash < b.hash;
  });
  ids.ids.resize(sorted_.size());
  ids.shard_begin.assign(static_cast<size_t>(num_shards_) + 1, 0);
  rank_.resize(sorted_.size());
  for (size_t i = 0; i < sorted_.size(); ++i) {
    const Entry& entry = sorted_[i];
    ids.ids[i] = distinct_[static_cast<size_t>(entry.first)];
    rank_[static_cast<size_t>(entry.first)] = static_cast<int32_t>(i);
    ++ids.shard_begin[static_cast<size_t>(entry.shard) + 1];
  }
  for (size_t s = 1; s < ids.shard_begin.size(); ++s) {
    ids.shard_begin[s] += ids.shard_begin[s - 1];
  }
  for (size_t i = 0; i < n; ++i) {
    index[i] = rank_[static_cast<size_t>(index[i])];
  }
}

// --- Client ----------------------------------------------------------------

// Calls `done` once, when all shards have answered; the first error counts.
struct Client::Gather {
  size_t missing = 0;
  Status status;
  Done done;

  void Arrived(const Status& result) {
    if (status.ok()) {
      status = result;
    }
    if (--missing == 0) {
      done(status);
    }
  }
};

namespace {

Buffer Borrow(const void* data, int64_t size_bytes,
              const std::shared_ptr<const void>& owner) {
  return Buffer::Wrap(const_cast<void*>(data), size_bytes, owner);
}

}  // namespace

Client::Client(Caller& caller, ModelSpec model, ClusterPlan plan,
               RouteTable route)
    : caller_(caller),
      model_(std::move(model)),
      plan_(plan),
      route_(std::move(route)),
      layout_(model_),
      shards_(route_.shards.size()) {
  for (size_t s = 0; s < shards_.size(); ++s) {
    const RouteTable::Peer& shard = route_.shards[s];
    caller_.AddPeer(shard.endpoint, shard.address, shard.name);
    shards_[s].chunks = layout_.ChunksOf(static_cast<int>(s), route_);
    for (const DenseChunk& chunk : shards_[s].chunks) {
      shards_[s].dense_elements += chunk.count;
    }
  }
}

void Client::Pull(const PullRequest& request, Done done) {
  SHOAL_TRACE("send pull", request.step);
  auto gather = std::make_shared<Gather>();
  gather->missing = route_.shards.size();
  gather->done = std::move(done);
  wire::Pull head;
  head.set_step(request.step);
  head.set_dense(request.dense != nullptr);
  // The shard gives up before we do: it knows whose push is missing.
  head.set_deadline_ns(plan_.timeout.count() / 10 * 9);
  const Buffer head_frame = Encode(head);
  for (size_t s = 0; s < route_.shards.size(); ++s) {
    std::vector<Buffer> frames = {head_frame};
    for (const GroupIds& group : request.groups) {
      const int64_t begin = group.shard_begin[s];
      const int64_t count = group.shard_begin[s + 1] - begin;
      frames.push_back(
          Borrow(group.ids.data() + begin, count * 8, request.owner));
    }
    caller_.Start(
        route_.shards[s].endpoint, comm::Lane::kBulk,
        static_cast<uint16_t>(Method::kPull),
        StrCat("rows of step ", request.step), plan_.timeout, std::move(frames),
        [this, gather, request, s](const StatusOr<comm::Message>& reply) {
          Status status = reply.status();
          if (reply.ok() && gather->status.ok()) {
            SHOAL_TRACE("take rows", request.step);
            status = TakeRows(*reply, s, request);
          }
          gather->Arrived(
              status.WithPrefix(StrCat("pull from ", route_.shards[s].name)));
        });
  }
}

Status Client::TakeRows(const comm::Message& reply, size_t shard,
                        const PullRequest& request) const {
  size_t frame = 1;
  const auto take = [&](float* to, int64_t count,
                        const std::string& what) -> Status {
    if (frame >= reply.frames.size() ||
        reply.frames[frame].size() != count * 4) {
      return InvalidArgumentError(
          StrCat(what, ": ", count * 4, " bytes were asked for, the reply has ",
                 frame < reply.frames.size() ? reply.frames[frame].size() : 0));
    }
    if (count > 0) {
      std::memcpy(to, reply.frames[frame].data(),
                  static_cast<size_t>(count) * 4);
    }
    ++frame;
    return OkStatus();
  };
  for (size_t g = 0; g < request.groups.size(); ++g) {
    const GroupIds& group = request.groups[g];
    const int64_t begin = group.shard_begin[shard];
    const int64_t count = group.shard_begin[shard + 1] - begin;
    for (const int index : model_.groups[g]) {
      const TableSpec& table = model_.tables[static_cast<size_t>(index)];
      SHOAL_RETURN_IF_ERROR(
          take(request.rows[static_cast<size_t>(index)] + begin * table.dim,
               count * table.dim, StrCat("table '", table.name, "'")));
    }
  }
  if (request.dense != nullptr) {
    // All chunks of the shard lie in one frame, in order.
    const int64_t total = shards_[shard].dense_elements;
    if (frame >= reply.frames.size() ||
        reply.frames[frame].size() != total * 4) {
      return InvalidArgumentError(
          StrCat("dense variables: ", total * 4, " bytes were asked for"));
    }
    const std::byte* from = reply.frames[frame].data();
    for (const DenseChunk& chunk : shards_[shard].chunks) {
      const size_t bytes = static_cast<size_t>(chunk.count) * 4;
      std::memcpy(request.dense + chunk.offset, from, bytes);
      from += bytes;
    }
  }
  return OkStatus();
}

void Client::Push(const PushRequest& request, Done done) {
  SHOAL_TRACE("send push", request.step);
  auto gather = std::make_shared<Gather>();
  gather->missing = route_.shards.size();
  gather->done = std::move(done);
  for (size_t s = 0; s < route_.shards.size(); ++s) {
    wire::Push head;
    head.set_step(request.step);
    head.set_sequence(shards_[s].next_sequence++);
    head.set_learning_rate_factor(request.learning_rate_factor);
    for (const PushPiece& piece : request.pieces) {
      head.add_nodes(piece.node);
    }
    std::vector<Buffer> frames = {Encode(head)};
    for (const PushPiece& piece : request.pieces) {
      for (size_t g = 0; g < request.groups.size(); ++g) {
        const GroupIds& group = request.groups[g];
        const int64_t begin = group.shard_begin[s];
        const int64_t count = group.shard_begin[s + 1] - begin;
        frames.push_back(
            Borrow(group.ids.data() + begin, count * 8, request.owner));
        for (const int index : model_.groups[g]) {
          const int64_t dim = model_.tables[static_cast<size_t>(index)].dim;
          frames.push_back(
              Borrow(piece.rows[static_cast<size_t>(index)] + begin * dim,
                     count * dim * 4, request.owner));
        }
      }
      Buffer dense = Buffer::Allocate(shards_[s].dense_elements * 4);
      std::byte* to = dense.data();
      for (const DenseChunk& chunk : shards_[s].chunks) {
        const size_t bytes = static_cast<size_t>(chunk.count) * 4;
        std::memcpy(to, piece.dense + chunk.offset, bytes);
        to += bytes;
      }
      frames.push_back(std::move(dense));
    }
    caller_.Start(route_.shards[s].endpoint, comm::Lane::kBulk,
                  static_cast<uint16_t>(Method::kPush),
                  StrCat("the acknowledgement of step ", request.step),
                  plan_.timeout, std::move(frames),
                  [this, gather, s](const StatusOr<comm::Message>& reply) {
                    gather->Arrived(reply.status().WithPrefix(
                        StrCat("push to ", route_.shards[s].name)));
                  });
  }
}

}  // namespace shoal::ps
