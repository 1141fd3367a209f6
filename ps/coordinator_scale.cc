// The part of the coordinator that changes how many members there are.

#include <algorithm>
#include <utility>

#include "base/strcat.h"
#include "ps/coordinator.h"
#include "ps/mode_switch.h"
#include "ps/protocol.pb.h"
#include "ps/staleness.h"
#include "ps/wire.h"

namespace shoal::ps {

void Coordinator::OnScale(comm::EndpointId from, const comm::Message& message) {
  wire::Scale scale;
  const Status decoded = Decode(message, scale);
  ReplyWhenKept(from, message,
                decoded.ok()
                    ? Scale(scale.servers(), scale.workers(), scale.drain())
                    : decoded);
}

// To a command, with what happens now.
void Coordinator::ReplyWhenKept(comm::EndpointId from,
                                const comm::Message& message,
                                const StatusOr<std::string>& text) {
  if (!text.ok()) {
    Reply(from, MakeErrorReply(message, text.status()));
    return;
  }
  wire::CommandReply reply;
  reply.set_text(*text);
  Keep([this, from, answer = MakeReply(message, {Encode(reply)})] {
    Reply(from, answer);
  });
}

Status Coordinator::CheckScale(int servers, int workers, int drain) const {
  if (!started_ || ending_ || recovering_) {
    return FailedPreconditionError(
        recovering_ ? "the coordinator was started again, and looks for the "
                      "members of the job"
        : started_  ? "the job is ending"
                    : "the job has not started yet");
  }
  if ((servers != 0 || drain >= 0) && !SlotsMayMove()) {
    return FailedPreconditionError(
        "servers come and go in sync, or where the servers hold the dense "
        "variables (consistency.dense: that of the tables); save a checkpoint "
        "and start the job again from it with another cluster.servers");
  }
  if ((servers != 0 || drain >= 0) && modes_->wanted.has_value()) {
    return FailedPreconditionError(
        "a change of the mode is under way; try again");
  }
  const int stay = options_.num_servers - static_cast<int>(leaving_.size());
  if (drain >= 0 && (drain >= options_.num_servers || Leaves(drain) ||
                     stay - 1 < options_.replicas)) {
    return FailedPreconditionError(
        drain >= options_.num_servers
            ? StrCat("there is no server ", drain, "; the job has ",
                     options_.num_servers, ", from 0")
        : Leaves(drain) ? StrCat("server ", drain, " is leaving already")
                        : StrCat("server ", drain, " can't go: ", stay - 1,
                                 " would be left, and cluster.replicas is ",
                                 options_.replicas));
  }
  const auto most =
      static_cast<int>(route_.num_slots() / options_.shards_per_server);
  if (servers != 0 && (servers < options_.replicas || servers > most)) {
    return InvalidArgumentError(
        StrCat(servers, " servers: there must be ", options_.replicas,
               " (cluster.replicas) to ", most, " (the job has ",
               route_.num_slots(), " slots for good)"));
  }
  if (workers == 0) {
    return OkStatus();
  }
  if (options_.plan.mode != Mode::kSync || options_.plan.dense_on_workers()) {
    return FailedPreconditionError(
        "the number of workers changes in sync only, where the servers hold "
        "the dense variables (consistency.mode: sync)");
  }
  const int backups = options_.plan.backup_workers;
  if (workers <= backups || workers > options_.plan.virtual_workers + backups) {
    return InvalidArgumentError(StrCat(
        workers, " workers: there must be ", backups + 1, " to ",
        options_.plan.virtual_workers + backups, " (cluster.virtual_workers",
        backups > 0 ? " and backup_workers)" : ")"));
  }
  if (cut_ || modes_->wanted.has_value()) {
    return FailedPreconditionError(
        modes_->wanted.has_value()
            ? std::string("a change of the mode is under way; try again")
            : StrCat("a change to ", workers_wanted_,
                     " workers is under way; try again"));
  }
  return OkStatus();
}

StatusOr<std::string> Coordinator::Scale(int servers, int workers, int drain) {
  SHOAL_RETURN_IF_ERROR(CheckScale(servers, workers, drain));
  std::string text;
  bool changes = false;
  if (servers > options_.num_servers) {
    text +=
        StrCat("from ", options_.num_servers, " to ", servers, " servers; ");
    options_.num_servers = servers;
    shards_.resize(static_cast<size_t>(servers) *
                   static_cast<size_t>(options_.shards_per_server));
  }
  for (int server = 0; servers != 0 && server < options_.num_servers;
       ++server) {
    // The last go. One that was to go and is wanted again stays, or comes back.
    if (server < servers) {
      changes |= leaving_.erase(server) > 0;
    } else {
      changes |= leaving_.insert(server).second;
    }
  }
  if (drain >= 0) {
    leaving_.insert(drain);
    changes = true;
  }
  if (!leaving_.empty()) {
    text += StrCat(leaving_.size(), " server",
                   leaving_.size() == 1 ? " goes" : "s go",
                   " when others have what they hold; ");
  }
  if (workers != 0) {
    workers_wanted_ = 0;  // What an earlier change still waited for.
  }
  if (workers != 0 && workers != options_.num_workers) {
    text +=
        StrCat("from ", options_.num_workers, " to ", workers, " workers; ");
    workers_wanted_ = workers;
    if (workers > static_cast<int>(workers_.size())) {
      workers_.resize(static_cast<size_t>(workers));
    }
  }
  if (workers != 0) {
    // Those that came for an earlier number.
    for (const WaitingMessage& asking :
         LetWorkersGo(std::max(options_.num_workers, workers_wanted_))) {
      ReplyStop(asking);
    }
  }
  if (changes) {
    ChangeRoute();
  }
  DealAnew();
  Keep([this] { TellWanted(); });
  return text.empty() ? "nothing changes" : text.substr(0, text.size() - 2);
}

void Coordinator::TellWanted() const {
  if (options_.wanted != nullptr) {
    options_.wanted(options_.num_servers,
                    std::max(options_.num_workers, workers_wanted_));
  }
}

// Those beyond `places` have none any more; gives the asking ones, which are to
// be told.
std::vector<WaitingMessage> Coordinator::LetWorkersGo(int places) {
  std::vector<WaitingMessage> asking;
  for (size_t i = static_cast<size_t>(places); i < workers_.size(); ++i) {
    WorkerState& worker = workers_[i];
    if (worker.endpoint.has_value()) {
      members_.at(*worker.endpoint).leaves = true;
    }
    if (worker.asking.has_value()) {
      asking.push_back(*std::exchange(worker.asking, std::nullopt));
      members_.at(asking.back().from).told_to_stop = true;
    }
  }
  workers_.resize(static_cast<size_t>(places));
  return asking;
}

// Servers that hold nothing any more end, when they have written what they held
// at a cut.
void Coordinator::FinishLeavers() {
  if (saver_->writing() && !saver_->stops()) {
    return;
  }
  std::set<int> holds;
  for (const Chain& chain : route_.chains) {
    holds.insert(chain.members.begin(), chain.members.end());
    holds.insert(chain.joining);
  }
  for (const int server : leaving_) {
    const int first = server * options_.shards_per_server;
    const int last = first + options_.shards_per_server;
    bool empty = true;
    for (int shard = first; shard < last; ++shard) {
      empty = empty && !holds.contains(shard);
    }
    for (int shard = first; empty && shard < last; ++shard) {
      std::optional<comm::EndpointId>& place =
          shards_[static_cast<size_t>(shard)];
      if (place.has_value()) {
        caller_->Start(*place, comm::Lane::kUrgent,
                       static_cast<uint16_t>(Method::kFinish), "its end",
                       options_.plan.timeout, {Encode(wire::Finish())},
                       // One that does not answer has nothing left to lose.
                       [](const StatusOr<comm::Message>&) {});
        prepared_.erase(*place);
        saver_->OnLost(*place);
        members_.erase(*place);
        place.reset();
      }
    }
  }
}

void Coordinator::OnStatus(comm::EndpointId from,
                           const comm::Message& message) {
  wire::AskStatus ask;
  if (const Status decoded = Decode(message, ask); !decoded.ok()) {
    Reply(from, MakeErrorReply(message, decoded));
    return;
  }
  wire::ClusterStatus status;
  status.set_step(options_.plan.mode == Mode::kSync ? committed_ : position_);
  status.set_total_steps(options_.train.total_steps);
  if (phase_->scales_losses()) {
    status.set_loss_scale(phase_->loss_scale());
    status.set_steps_skipped(phase_->steps_skipped());
  }
  modes_->now.mode = options_.plan.mode;  // Also before any switch.
  modes_->now.staleness = options_.plan.staleness;
  ToWire(modes_->now, *status.mutable_mode());
  if (modes_->wanted.has_value()) {
    ToWire(*modes_->wanted, *status.mutable_mode_wanted());
  }
  if (!staleness_.empty()) {
    ToWire(staleness_, *status.mutable_staleness());
  }
  status.set_version(route_.version);
  status.set_slots(all_joined_ ? route_.num_slots() : 0);
  status.set_replicas(options_.replicas);
  std::vector<int64_t> headed(shards_.size());
  std::vector<int64_t> held(shards_.size());
  std::vector<int64_t> joining(shards_.size());
  for (const int32_t index : route_.chain_of_slot) {
    const Chain& chain = route_.chains[static_cast<size_t>(index)];
    ++headed[static_cast<size_t>(chain.head())];
    for (const int member : chain.members) {
      ++held[static_cast<size_t>(member)];
    }
    if (chain.joining >= 0) {
      ++joining[static_cast<size_t>(chain.joining)];
      status.set_joining_slots(status.joining_slots() + 1);
    }
    if (static_cast<int>(chain.members.size()) < options_.replicas) {
      status.set_short_slots(status.short_slots() + 1);
    }
  }
  std::vector<Rebalancer::ShardLoad> loads = rebalancer_.LoadsOf(route_);
  loads.resize(shards_.size());  // The route may not know the last ones yet.
  status.set_loads_known(rebalancer_.known());
  status.set_moved(rebalancer_.moved_bytes());
  status.set_sent(rebalancer_.sent_bytes());
  for (size_t i = 0; i < shards_.size(); ++i) {
    if (!shards_[i].has_value()) {
      continue;
    }
    const Member& member = members_.at(*shards_[i]);
    wire::ClusterStatus::Shard& shard = *status.add_shards();
    shard.set_name(member.name);
    shard.set_host(member.host);
    shard.set_pid(member.pid);
    shard.set_headed(headed[i]);
    shard.set_held(held[i]);
    shard.set_joining(joining[i]);
    shard.set_leaving(Leaves(member.server));
    shard.set_bytes(loads[i].bytes);
    shard.set_load(loads[i].load);
    shard.set_to_come(loads[i].to_come);
  }
  for (const WorkerState& worker : workers_) {
    if (worker.endpoint.has_value()) {
      const Member& member = members_.at(*worker.endpoint);
      wire::ClusterStatus::Worker& out = *status.add_workers();
      out.set_name(member.name);
      out.set_host(member.host);
      out.set_pid(member.pid);
      out.set_backup(member.index >=
                     PrimaryWorkers(options_.plan, options_.num_workers));
    }
  }
  Reply(from, MakeReply(message, {Encode(status)}));
}

// --- Workers ---------------------------------------------------------------

// And have all that they need.
bool Coordinator::WantedAreThere() const {
  for (int i = 0; i < workers_wanted_; ++i) {
    const WorkerState& worker = workers_[static_cast<size_t>(i)];
    if (!worker.endpoint.has_value() ||
        (i >= options_.num_workers && !worker.asking.has_value())) {
      return false;
    }
  }
  return true;
}

void Coordinator::DealAnew() {
  if (workers_wanted_ == 0 || cut_ || order_.kind != OrderKind::kTrain ||
      modes_->wanted.has_value()) {
    return;  // Between orders it is done when the next one is given.
  }
  // The step under way and the next, for which rows may be pulled already, are
  // still the present workers'.
  if (WantedAreThere() && committed_ + 2 < order_.until) {
    CutOrder(committed_ + 2);
  }
}

// No step is committed before all have answered: so none is past it.
void Coordinator::CutOrder(int64_t until) {
  cut_ = true;
  order_.until = until;
  Keep([this, number = order_.number] {
    if (number == order_.number && !cut_sent_) {
      SendCuts();
      AnswerOrders();
    }
  });
}

void Coordinator::SendCuts() {
  cut_sent_ = true;
  wire::CutOrder cut;
  cut.set_number(order_.number);
  cut.set_until_step(order_.until);
  for (int i = 0; i < options_.num_workers; ++i) {
    const std::optional<comm::EndpointId>& worker =
        workers_[static_cast<size_t>(i)].endpoint;
    if (!worker.has_value()) {
      continue;  // One in its place gets the order as it is then.
    }
    cuts_[*worker] = caller_->Start(
        *worker, comm::Lane::kUrgent, static_cast<uint16_t>(Method::kCutOrder),
        "the end of its order", options_.plan.timeout, {Encode(cut)},
        // One that can't is lost, which is seen elsewhere.
        [this, id = *worker](const StatusOr<comm::Message>&) { CutDone(id); });
  }
  MaybeCommit();
}

void Coordinator::CutDone(comm::EndpointId worker) {
  const auto cut = cuts_.find(worker);
  if (cut != cuts_.end()) {
    caller_->Forget(cut->second);
    cuts_.erase(cut);
    MaybeCommit();
  }
  HoldDone(worker);
}

// At the end of an order: from here on there are those that are wanted.
std::vector<WaitingMessage> Coordinator::TakeWorkers() {
  cut_ = false;
  cut_sent_ = false;
  for (const auto& [worker, call] : std::exchange(cuts_, {})) {
    caller_->Forget(call);  // The order is done.
  }
  if (workers_wanted_ == 0 || !WantedAreThere()) {
    return {};
  }
  options_.num_workers = std::exchange(workers_wanted_, 0);
  return LetWorkersGo(options_.num_workers);
}

}  // namespace shoal::ps
