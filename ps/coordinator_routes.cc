// The part of the coordinator that makes routes.

#include <algorithm>
#include <utility>

#include "base/strcat.h"
#include "ps/coordinator.h"
#include "ps/mode_switch.h"
#include "ps/protocol.pb.h"
#include "ps/slots.h"
#include "ps/wire.h"

namespace shoal::ps {

std::vector<ShardPlace> Coordinator::Places() const {
  std::vector<ShardPlace> places;
  for (size_t i = 0; i < shards_.size(); ++i) {
    // One that waits for the others of its server gets nothing yet.
    const auto shard = static_cast<int>(i);
    if (shards_[i].has_value() && ServerIsComplete(shard) &&
        !Leaves(shard / options_.shards_per_server)) {
      const Member& member = members_.at(*shards_[i]);
      places.push_back({.shard = static_cast<int>(i),
                        .server = member.server,
                        .host = member.host});
    }
  }
  return places;
}

size_t Coordinator::ShardsWanted() const {
  return (static_cast<size_t>(options_.num_servers) - leaving_.size()) *
         static_cast<size_t>(options_.shards_per_server);
}

std::vector<RouteTable::Peer> Coordinator::LiveShards() const {
  std::vector<RouteTable::Peer> live;
  for (const std::optional<comm::EndpointId>& id : shards_) {
    if (id.has_value()) {
      live.push_back(PeerOf(*id));
    }
  }
  return live;
}

void Coordinator::MakeFirstRoute() {
  route_.version = 1;
  route_.slot_bits = SlotBitsFor(static_cast<int>(shards_.size()));
  for (const auto& id : shards_) {
    route_.shards.push_back(PeerOf(*id));
  }
  if (options_.plan.dense_on_workers()) {
    for (const WorkerState& worker : workers_) {
      route_.workers.push_back(PeerOf(*worker.endpoint));
    }
  }
  route_.SetChains(
      FirstChains(route_.num_slots(), Places(), options_.replicas));
}

void Coordinator::ChangeRoute() {
  std::vector<Chain> chains = route_.ChainsOfSlots();
  const std::vector<ShardPlace> places = Places();
  const auto gone = [this](int shard) {
    return !shards_[static_cast<size_t>(shard)].has_value();
  };
  for (size_t slot = 0; slot < chains.size(); ++slot) {
    Chain& chain = chains[slot];
    if (chain.joining >= 0 && !gone(chain.joining) &&
        caught_up_.contains({chain.tail(), chain.joining})) {
      if (chain.leaving >= 0) {
        rebalancer_.Moved(static_cast<int64_t>(slot));
      }
      FinishJoin(places, options_.replicas, chain);
    }
  }
  DropShards(gone, chains);
  if (SlotsMayMove()) {
    PlanJoins(places, options_.replicas,
              rebalancer_.Goal(context_->Now(), route_.num_slots(),
                               {places, ShardsWanted(), options_.replicas}),
              chains);
  }
  if (options_.plan.mode == Mode::kSync) {
    BalanceHeads(rebalancer_.HeadWeights(), chains);
  }
  route_.shards.resize(shards_.size());
  for (size_t i = 0; i < shards_.size(); ++i) {
    if (shards_[i].has_value()) {
      route_.shards[i] = PeerOf(*shards_[i]);
    }
  }
  route_.SetChains(chains);
  ++route_.version;
  caught_up_.clear();
  prepared_.clear();
  Keep([this, version = route_.version] {
    if (version != route_.version) {
      return;  // The next one is on its way.
    }
    SendRoute();
    FinishLeavers();  // Before: one that ends writes no part.
    if (saver_->stops()) {
      SaveCheckpoint();  // Its parts are others' now.
    }
  });
}

RouteTable::Peer Coordinator::PeerOf(comm::EndpointId id) const {
  const Member& member = members_.at(id);
  return {id, member.address, member.name};
}

bool Coordinator::ServerIsComplete(int shard) const {
  const int first = shard - shard % options_.shards_per_server;
  return std::all_of(shards_.begin() + first,
                     shards_.begin() + first + options_.shards_per_server,
                     [](const auto& place) { return place.has_value(); });
}

void Coordinator::LetShardIn(comm::EndpointId shard) {
  const Member& member = members_.at(shard);
  const auto index = static_cast<size_t>(member.index);
  const bool asks_again =
      index < route_.shards.size() && route_.shards[index] == PeerOf(shard);
  if (!asks_again && ServerIsComplete(member.index)) {
    ChangeRoute();  // Never without a new version, which is kept first.
  }
}

void Coordinator::SendRoute() {
  for (const uint64_t call : std::exchange(route_calls_, {})) {
    caller_->Forget(call);
  }
  wire::RouteChange change;
  ToWire(route_, *change.mutable_route());
  change.set_committed(committed_);
  ToWire(last_commit_, *change.mutable_last());
  if (modes_->now.number > 0) {
    ToWire(modes_->now, *change.mutable_mode());
  }
  const Buffer frame = Encode(change);
  for (const auto& [id, member] : members_) {
    // One that does not answer is seen by Watch().
    route_calls_.push_back(caller_->Start(
        id, comm::Lane::kUrgent, static_cast<uint16_t>(Method::kRouteChange),
        StrCat("version ", route_.version, " of the route to be taken"),
        // A shard takes it when its storage is done with what it has.
        kStorageWithin, {frame}, [](const StatusOr<comm::Message>&) {}));
  }
}

void Coordinator::OnCaughtUp(comm::EndpointId from,
                             const comm::Message& message) {
  wire::CaughtUp caught_up;
  Status status = Decode(message, caught_up);
  const Member& member = members_.at(from);
  if (status.ok() &&
      (member.is_worker || caught_up.version() != route_.version)) {
    status = UnavailableError("a newer route is on its way");
  }
  if (!status.ok()) {
    Reply(from, MakeErrorReply(message, status));
    return;
  }
  Reply(from, MakeReply(message, {}));
  const bool joins = std::any_of(
      route_.chains.begin(), route_.chains.end(), [&](const Chain& chain) {
        return chain.joining == caught_up.joining() && chain.joining >= 0 &&
               chain.tail() == member.index;
      });
  if (!joins || !caught_up_.emplace(member.index, caught_up.joining()).second) {
    return;
  }
  // All at once, since every version makes all begin their step again.
  const bool all = std::all_of(
      route_.chains.begin(), route_.chains.end(), [this](const Chain& chain) {
        return chain.joining < 0 ||
               caught_up_.contains({chain.tail(), chain.joining});
      });
  if (all) {
    ChangeRoute();
  }
}

// Not where shards apply each step that all workers share as it comes, with no
// commit and no chains.
bool Coordinator::SlotsMayMove() const {
  return options_.plan.mode == Mode::kSync || !options_.plan.shares_steps();
}

// When shards have told what they hold and what is asked of them. Not while
// slots are copied or a checkpoint is cut, which would begin again.
void Coordinator::MaybeRebalance() {
  const bool sync = options_.plan.mode == Mode::kSync;
  if (started_ && !ending_ && !saver_->stops() && SlotsMayMove() &&
      !modes_->wanted.has_value() &&
      rebalancer_.IsDue(context_->Now(), route_,
                        {Places(), ShardsWanted(), options_.replicas}, sync)) {
    ChangeRoute();
  }
}

bool Coordinator::CanDrop(int server) const {
  const auto goes = [&](int shard) {
    const auto& place = shards_[static_cast<size_t>(shard)];
    return !place.has_value() || members_.at(*place).server == server ||
           not_found_.contains(*place);  // While it recovers: given up too.
  };
  return started_ && !ending_ &&
         std::none_of(route_.chains.begin(), route_.chains.end(),
                      [&](const Chain& chain) {
                        return std::all_of(chain.members.begin(),
                                           chain.members.end(), goes);
                      });
}

bool Coordinator::replicated() const {
  return started_ && !ending_ && !recovering_ && state_->settled() &&
         std::none_of(members_.begin(), members_.end(),
                      [](const auto& entry) {
                        return !entry.second.is_worker && entry.second.suspect;
                      }) &&
         std::all_of(route_.chains.begin(), route_.chains.end(),
                     [this](const Chain& chain) {
                       return static_cast<int>(chain.members.size()) >=
                              options_.replicas;
                     });
}

// Of a server that is gone all shards are.
void Coordinator::DropShardsOf(int server, const Status& why) {
  for (std::optional<comm::EndpointId>& place : shards_) {
    if (!place.has_value() || members_.at(*place).server != server) {
      continue;
    }
    // One that was only cut off has nothing to do here any more.
    if (state_->leads()) {
      (void)context_->Send(
          *place, comm::Lane::kUrgent,
          AbortMessage(
              StatusCode::kUnavailable,
              StrCat("its slots were given to others: ", why.message())));
    }
    saver_->OnLost(*place);
    members_.erase(*place);
    place.reset();
  }
  ChangeRoute();
}

Coordinator::Ended Coordinator::ProcessEnded(const std::string& name,
                                             const Status& why) {
  if (!started_ || ending_) {
    return ending_ ? Ended::kGone : Ended::kNeeded;
  }
  if (recovering_) {
    return Ended::kReplace;  // Who is needed shows when all were asked.
  }
  const auto member =
      std::find_if(members_.begin(), members_.end(), [&](const auto& entry) {
        return entry.second.name == name ||
               entry.second.name.starts_with(StrCat(name, " "));
      });
  if (member == members_.end()) {
    // It has been dropped, or was not there yet; or it was to go.
    const size_t space = name.find(' ');
    const int index = std::stoi(name.substr(space + 1));
    const bool goes =
        name.starts_with("server")
            ? index >= options_.num_servers || Leaves(index)
            : index >= std::max(options_.num_workers, workers_wanted_);
    return goes ? Ended::kGone : Ended::kReplace;
  }
  if (member->second.leaves) {
    return Ended::kGone;
  }
  if (member->second.is_worker) {
    if (options_.replace_within == Duration::zero()) {
      return Ended::kNeeded;
    }
    OnPeerDown(member->first, why);  // Which may have come already.
    return Ended::kReplace;
  }
  const int server = member->second.server;
  if (!CanDrop(server)) {
    return Ended::kNeeded;
  }
  DropShardsOf(server, why);
  return Leaves(server) ? Ended::kGone : Ended::kReplace;
}

}  // namespace shoal::ps
