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

std::shared_ptr<const SlotHeads> SlotHeads::Of(const RouteTable& route) {
  auto heads = std::make_shared<SlotHeads>();
  heads->slot_bits = route.slot_bits;
  heads->num_shards = static_cast<int>(route.shards.size());
  for (int64_t slot = 0; slot < route.num_slots(); ++slot) {
    heads->of_slot.push_back(route.HeadOf(slot));
  }
  return heads;
}

void IdCollector::Collect(std::span<const uint64_t> occurrences,
                          const std::shared_ptr<const SlotHeads>& heads,
                          GroupIds& ids, std::vector<int32_t>& index) {
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
      const int64_t slot = SlotOfHash(hash, heads->slot_bits);
      entries_.push_back({.hash = hash,
                          .shard = heads->of_slot[static_cast<size_t>(slot)],
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
  ids.heads = heads;
  ids.shard_begin.assign(static_cast<size_t>(heads->num_shards) + 1, 0);
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
      plan_(std::move(plan)),
      layout_(model_) {
  Adopt(std::move(route));
}

void Client::Adopt(RouteTable route) {
  if (route.version <= route_.version ||
      (heads_ != nullptr && route.slot_bits != route_.slot_bits)) {
    return;
  }
  route_ = std::move(route);
  auto heads = SlotHeads::Of(route_);
  if (heads_ == nullptr || heads->of_slot != heads_->of_slot ||
      heads->num_shards != heads_->num_shards) {
    heads_ = std::move(heads);
  }
  headed_.clear();
  for (size_t s = 0; s < route_.shards.size(); ++s) {
    const RouteTable::Peer& shard = route_.shards[s];
    caller_.AddPeer(shard.endpoint, shard.address, shard.name);
    headed_.push_back(layout_.PortionOf(
        route_.slot_bits, route_.dense_on_workers(), [&](int64_t slot) {
          return heads_->of_slot[static_cast<size_t>(slot)] ==
                 static_cast<int32_t>(s);
        }));
  }
  for (auto& [id, operation] : operations_) {
    for (const uint64_t call : operation.calls) {
      caller_.Forget(call);
    }
    Start(id);
  }
}

void Client::Pull(const PullRequest& request, Done done) {
  SHOAL_TRACE("send pull", request.step);
  const uint64_t id = next_operation_++;
  Operation& operation = operations_[id];
  operation.step = request.step;
  for (const GroupIds& group : request.groups) {
    operation.groups.push_back(&group);
  }
  operation.rows.assign(request.rows.begin(), request.rows.end());
  operation.dense = request.dense;
  operation.loss_scale = request.loss_scale;
  operation.staleness = request.staleness;
  operation.came_last = request.came_last;
  operation.lacks = request.lacks;
  operation.patience = request.patience;
  operation.owner = request.owner;
  operation.done = std::move(done);
  Start(id);
}

void Client::Push(const PushRequest& request, Done done) {
  SHOAL_TRACE("send push", request.step);
  const uint64_t id = next_operation_++;
  Operation& operation = operations_[id];
  operation.is_push = true;
  operation.step = request.step;
  operation.learning_rate_factor = request.learning_rate_factor;
  operation.sequence = next_sequence_++;
  for (const GroupIds& group : request.groups) {
    operation.groups.push_back(&group);
  }
  operation.pieces.assign(request.pieces.begin(), request.pieces.end());
  operation.computed_from = request.computed_from;
  operation.repeated = request.repeated;
  for (PushPiece& piece : operation.pieces) {
    operation.piece_rows.emplace_back(piece.rows.begin(), piece.rows.end());
    piece.rows = operation.piece_rows.back();
  }
  operation.owner = request.owner;
  operation.done = std::move(done);
  Start(id);
}

void Client::Start(uint64_t id) {
  Operation& operation = operations_.at(id);
  operation.calls.clear();
  operation.status = OkStatus();
  operation.missing = static_cast<size_t>(
      std::count_if(headed_.begin(), headed_.end(),
                    [](const Portion& portion) { return !portion.empty(); }));
  if (operation.staleness != nullptr) {
    *operation.staleness = 0;
  }
  if (operation.lacks != nullptr) {
    *operation.lacks = -1;
  }
  Divide(operation);
  operation.is_push ? StartPush(id, operation) : StartPull(id, operation);
}

// By the heads of now. The ids of a step were ordered by those of the time when
// they were read; between the two a route may have come.
void Client::Divide(Operation& operation) const {
  operation.divided.clear();
  for (const GroupIds* group : operation.groups) {
    Rows& rows = operation.divided.emplace_back();
    if (group->heads == heads_) {
      rows.ids = group->ids;
      rows.shard_begin = group->shard_begin;
      continue;
    }
    const auto shard_of = [&](uint64_t hash) {
      return heads_
          ->of_slot[static_cast<size_t>(SlotOfHash(hash, heads_->slot_bits))];
    };
    std::vector<std::pair<int32_t, uint64_t>> keys;
    for (size_t i = 0; i < group->ids.size(); ++i) {
      const uint64_t hash = IdHash(group->ids[i]);
      keys.emplace_back(shard_of(hash), hash);
      rows.place.push_back(static_cast<int64_t>(i));
    }
    std::sort(rows.place.begin(), rows.place.end(), [&](int64_t a, int64_t b) {
      return keys[static_cast<size_t>(a)] < keys[static_cast<size_t>(b)];
    });
    rows.own.shard_begin.assign(route_.shards.size() + 1, 0);
    for (const int64_t place : rows.place) {
      rows.own.ids.push_back(group->ids[static_cast<size_t>(place)]);
      const auto shard =
          static_cast<size_t>(keys[static_cast<size_t>(place)].first);
      ++rows.own.shard_begin[shard + 1];
    }
    for (size_t s = 1; s < rows.own.shard_begin.size(); ++s) {
      rows.own.shard_begin[s] += rows.own.shard_begin[s - 1];
    }
    rows.ids = rows.own.ids;
    rows.shard_begin = rows.own.shard_begin;
  }
}

Buffer Client::IdsFrame(const Operation& operation, size_t group,
                        size_t shard) const {
  const Rows& rows = operation.divided[group];
  const int64_t begin = rows.shard_begin[shard];
  const int64_t bytes = (rows.shard_begin[shard + 1] - begin) * 8;
  const uint64_t* ids = rows.ids.data() + begin;
  // What was divided anew may go while a frame is still on its way.
  return rows.place.empty() ? Borrow(ids, bytes, operation.owner)
                            : Buffer::CopyOf(ids, bytes);
}

Buffer Client::GradientFrame(const Operation& operation, size_t group,
                             size_t shard, const float* gradients,
                             int64_t dim) const {
  const Rows& rows = operation.divided[group];
  const int64_t begin = rows.shard_begin[shard];
  const int64_t end = rows.shard_begin[shard + 1];
  if (rows.place.empty()) {
    return Borrow(gradients + begin * dim, (end - begin) * dim * 4,
                  operation.owner);
  }
  Buffer frame = Buffer::Allocate((end - begin) * dim * 4);
  float* to = frame.MutableAs<float>().data();
  for (int64_t i = begin; i < end; ++i) {
    to = std::copy_n(gradients + rows.place[static_cast<size_t>(i)] * dim, dim,
                     to);
  }
  return frame;
}

Buffer Client::DenseFrame(size_t shard, const float* values) const {
  Buffer frame = Buffer::Allocate(headed_[shard].dense_elements * 4);
  std::byte* to = frame.data();
  for (const DenseChunk& chunk : headed_[shard].chunks) {
    const size_t bytes = static_cast<size_t>(chunk.count) * 4;
    std::memcpy(to, values + chunk.offset, bytes);
    to += bytes;
  }
  return frame;
}

uint64_t Client::Acknowledged() const {
  uint64_t before = next_sequence_;
  for (const auto& [id, operation] : operations_) {
    if (operation.is_push) {
      before = std::min(before, operation.sequence);
    }
  }
  return before - 1;
}

void Client::StartPull(uint64_t id, Operation& operation) {
  wire::Pull head;
  head.set_step(operation.step);
  head.set_dense(operation.dense != nullptr);
  head.set_acknowledged(Acknowledged());
  head.set_version(route_.version);
  // The shard gives up before we do: it knows whose push is missing.
  Duration deadline = plan_.timeout / 10 * 9;
  if (operation.lacks != nullptr) {
    head.set_stands_in(true);
    deadline = std::min(deadline, operation.patience);
  }
  head.set_deadline_ns(deadline.count());
  const Buffer head_frame = Encode(head);
  for (size_t s = 0; s < route_.shards.size(); ++s) {
    if (headed_[s].empty()) {
      continue;
    }
    std::vector<Buffer> frames = {head_frame};
    for (size_t g = 0; g < operation.groups.size(); ++g) {
      frames.push_back(IdsFrame(operation, g, s));
    }
    Call(id, s, Method::kPull, StrCat("rows of step ", operation.step),
         std::move(frames));
  }
}

void Client::StartPush(uint64_t id, Operation& operation) {
  wire::Push head;
  head.set_step(operation.step);
  head.set_sequence(operation.sequence);
  head.set_learning_rate_factor(operation.learning_rate_factor);
  head.set_version(route_.version);
  for (const PushPiece& piece : operation.pieces) {
    head.add_nodes(piece.node);
  }
  const Buffer head_frame = Encode(head);
  for (size_t s = 0; s < route_.shards.size(); ++s) {
    if (headed_[s].empty()) {
      continue;
    }
    std::vector<Buffer> frames = {head_frame};
    for (const PushPiece& piece : operation.pieces) {
      for (size_t g = 0; g < operation.groups.size(); ++g) {
        frames.push_back(IdsFrame(operation, g, s));
        for (const int index : model_.groups[g]) {
          const auto t = static_cast<size_t>(index);
          frames.push_back(GradientFrame(operation, g, s, piece.rows[t],
                                         model_.tables[t].dim));
        }
      }
      frames.push_back(DenseFrame(s, piece.dense));
      if (model_.pushes_values()) {
        frames.push_back(DenseFrame(s, operation.computed_from));
      }
    }
    Call(id, s, Method::kPush,
         StrCat("the acknowledgement of step ", operation.step),
         std::move(frames));
  }
}

void Client::Call(uint64_t id, size_t shard, Method method, std::string what,
                  std::vector<Buffer> frames) {
  operations_.at(id).calls.push_back(
      caller_.Start(route_.shards[shard].endpoint, comm::Lane::kBulk,
                    static_cast<uint16_t>(method), std::move(what),
                    plan_.timeout, std::move(frames),
                    [this, id, shard](const StatusOr<comm::Message>& reply) {
                      OnReply(id, shard, reply);
                    }));
}

void Client::OnReply(uint64_t id, size_t shard,
                     const StatusOr<comm::Message>& reply) {
  Operation& operation = operations_.at(id);
  const std::string where = StrCat(
      operation.is_push ? "push to " : "pull from ", route_.shards[shard].name);
  if (!reply.ok()) {
    Arrived(id, reply.status().WithPrefix(where));
    return;
  }
  wire::PullReply pull;
  wire::PushReply push;
  const Status decoded =
      operation.is_push ? Decode(*reply, push) : Decode(*reply, pull);
  const bool moved =
      decoded.ok() && (operation.is_push ? push.has_route() : pull.has_route());
  if (moved) {
    StatusOr<RouteTable> route =
        FromWire(operation.is_push ? push.route() : pull.route());
    if (!route.ok()) {
      Arrived(id, route.status().WithPrefix(where));
      return;
    }
    const uint64_t version = route->version;
    if (version > route_.version) {
      Adopt(*std::move(route));
    }
    if (version != route_.version) {
      Arrived(id, InternalError(StrCat("was refused for version ", version,
                                       " of the route, which is no newer"))
                      .WithPrefix(where));
    }
    return;
  }
  Status status = decoded;
  if (status.ok() && operation.lacks != nullptr && pull.has_lacks()) {
    *operation.lacks = pull.lacks();
    // Others may have all, and wait for the commit, which waits for this.
    for (const uint64_t call : operation.calls) {
      caller_.Forget(call);
    }
    operation.missing = 1;
    operation.status = OkStatus();
    Arrived(id, AbortedError(StrCat("step ", operation.step - 1,
                                    " lacks the gradients of virtual worker ",
                                    pull.lacks()))
                    .WithPrefix(where));
    return;
  }
  if (status.ok() && operation.status.ok() && !operation.is_push) {
    SHOAL_TRACE("take rows", operation.step);
    status = TakeRows(*reply, shard, operation);
    if (operation.loss_scale != nullptr) {
      *operation.loss_scale = pull.loss_scale();  // All say the same.
    }
    if (operation.staleness != nullptr) {
      *operation.staleness = std::max(*operation.staleness, pull.staleness());
    }
    if (operation.came_last != nullptr && pull.came_last() >= 0) {
      *operation.came_last = pull.came_last();
    }
  }
  if (operation.is_push && operation.repeated != nullptr &&
      shard == static_cast<size_t>(heads_->of_slot.front())) {
    *operation.repeated = push.repeated();
  }
  Arrived(id, status.WithPrefix(where));
}

void Client::Arrived(uint64_t id, const Status& status) {
  Operation& operation = operations_.at(id);
  if (operation.status.ok()) {
    operation.status = status;
  }
  if (--operation.missing > 0) {
    return;
  }
  const Operation ended = std::move(operation);
  operations_.erase(id);
  ended.done(ended.status);
}

Status Client::TakeRows(const comm::Message& reply, size_t shard,
                        const Operation& operation) const {
  size_t frame = 1;
  for (size_t g = 0; g < operation.groups.size(); ++g) {
    const Rows& rows = operation.divided[g];
    const int64_t begin = rows.shard_begin[shard];
    const int64_t count = rows.shard_begin[shard + 1] - begin;
    for (const int index : model_.groups[g]) {
      const TableSpec& table = model_.tables[static_cast<size_t>(index)];
      const int64_t bytes = count * table.dim * 4;
      if (frame >= reply.frames.size() || reply.frames[frame].size() != bytes) {
        return InvalidArgumentError(StrCat(
            "table '", table.name, "': ", bytes,
            " bytes were asked for, the reply has ",
            frame < reply.frames.size() ? reply.frames[frame].size() : 0));
      }
      float* const to = operation.rows[static_cast<size_t>(index)];
      const float* from = reply.frames[frame++].As<float>().data();
      if (rows.place.empty() && count > 0) {
        std::memcpy(to + begin * table.dim, from, static_cast<size_t>(bytes));
        continue;
      }
      for (int64_t i = begin; i < begin + count; ++i, from += table.dim) {
        std::copy_n(from, table.dim,
                    to + rows.place[static_cast<size_t>(i)] * table.dim);
      }
    }
  }
  if (operation.dense != nullptr) {
    // All chunks of the shard lie in one frame, in order.
    const int64_t total = headed_[shard].dense_elements;
    if (frame >= reply.frames.size() ||
        reply.frames[frame].size() != total * 4) {
      return InvalidArgumentError(
          StrCat("dense variables: ", total * 4, " bytes were asked for"));
    }
    const std::byte* from = reply.frames[frame].data();
    for (const DenseChunk& chunk : headed_[shard].chunks) {
      const size_t bytes = static_cast<size_t>(chunk.count) * 4;
      std::memcpy(operation.dense + chunk.offset, from, bytes);
      from += bytes;
    }
  }
  return OkStatus();
}

}  // namespace shoal::ps
