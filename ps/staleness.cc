#include "ps/staleness.h"

#include <algorithm>
#include <limits>

#include "ps/protocol.pb.h"

namespace shoal::ps {

void ToWire(const Histogram& histogram, wire::Histogram& out) {
  for (const int64_t bucket : histogram.buckets()) {
    out.add_buckets(bucket);
  }
  out.set_sum(histogram.sum());
  out.set_max(histogram.max());
}

StatusOr<Histogram> FromWire(const wire::Histogram& in) {
  return Histogram::FromParts(
      {in.buckets().data(), static_cast<size_t>(in.buckets_size())}, in.sum(),
      in.max());
}

void WorkerClocks::Begin(int64_t step, int num_workers) {
  from_ = step;
  num_workers_ = std::max(num_workers, 1);
  clients_.clear();
}

void WorkerClocks::OnPush(uint64_t client, uint64_t sequence, int64_t step) {
  // A peer's number, whatever it is.
  step = std::max<int64_t>(step, 0);
  clients_[client] = {
      .origin = {.worker = static_cast<int>(step % num_workers_),
                 .offset =
                     step / num_workers_ + 1 - static_cast<int64_t>(sequence)},
      .least = std::nullopt};
}

void WorkerClocks::OnSlots(uint64_t client, const Origin& origin) {
  if (origin.worker >= 0 && origin.worker < num_workers_) {
    clients_[client] = {.origin = origin, .least = std::nullopt};
  }
}

void WorkerClocks::Invalidate() {
  for (auto& [id, client] : clients_) {
    client.least.reset();
  }
}

std::optional<WorkerClocks::Origin> WorkerClocks::OriginOf(
    uint64_t client) const {
  const auto known = clients_.find(client);
  return known == clients_.end() ? std::nullopt
                                 : std::optional(known->second.origin);
}

int64_t WorkerClocks::Staleness(int64_t step, const Sequences& sequences,
                                const Portion& headed) {
  clocks_.resize(static_cast<size_t>(num_workers_));
  for (int64_t worker = 0; worker < num_workers_; ++worker) {
    // Its steps before `from_`.
    clocks_[static_cast<size_t>(worker)] =
        (from_ - worker + num_workers_ - 1) / num_workers_;
  }
  for (auto& [id, client] : clients_) {
    const auto known = sequences.find(id);
    if (known == sequences.end()) {
      continue;
    }
    if (!client.least.has_value()) {
      uint64_t least = std::numeric_limits<uint64_t>::max();
      for (size_t slot = 0; slot < known->second.size(); ++slot) {
        if (headed.slots[slot]) {
          least = std::min(least, known->second[slot]);
        }
      }
      client.least = headed.empty() ? 0 : least;
    }
    // A worker in place of a lost one is another client of the same clocks.
    int64_t& clock = clocks_[static_cast<size_t>(client.origin.worker)];
    clock = std::max(
        clock, static_cast<int64_t>(*client.least) + client.origin.offset);
  }
  const int64_t behind = *std::min_element(clocks_.begin(), clocks_.end());
  return std::max<int64_t>(step / num_workers_ - behind, 0);
}

}  // namespace shoal::ps
