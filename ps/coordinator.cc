#include "ps/coordinator.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/strcat.h"
#include "ps/mode_switch.h"
#include "ps/protocol.pb.h"
#include "ps/slots.h"
#include "ps/staleness.h"
#include "ps/wire.h"

namespace shoal::ps {

Coordinator::Coordinator(Options options)
    : options_(std::move(options)), rebalancer_(options_.rebalance) {
  shards_.resize(static_cast<size_t>(options_.num_servers) *
                 static_cast<size_t>(options_.shards_per_server));
  workers_.resize(static_cast<size_t>(options_.num_workers));
  if (options_.plan.dense_on_workers()) {
    options_.replace_within = Duration::zero();  // A collective has no spares.
  }
  modes_ = std::make_unique<ModeSwitch>();
  StatusOr<std::unique_ptr<GlobalPhase>> phase =
      GlobalPhase::Create(options_.model, options_.plan);
  called_off_ = phase.status();
  if (phase.ok()) {
    phase_ = *std::move(phase);
    if (!options_.restore_global_phase.empty()) {
      called_off_ = phase_->Restore(options_.restore_global_phase)
                        .WithPrefix(options_.restore_folder);
    }
  }
}

Coordinator::~Coordinator() = default;

void Coordinator::OnStart(comm::NodeContext& context) {
  context_ = &context;
  caller_.emplace(context);
  state_.emplace(context,
                 options_.state_store != nullptr
                     ? options_.state_store
                     : CreateFileState(options_.state_file),
                 [this](const Status& why) { Abort(why); });
  saver_.emplace(context, *caller_,
                 CheckpointSaver::Options{
                     .parent = options_.checkpoint_folder,
                     .kept = options_.checkpoints_kept,
                     .full_every = options_.full_checkpoint_every,
                     .asynchronous = options_.asynchronous_checkpoints,
                     .texts = [this] {
                       std::map<std::string, std::string> texts;
                       if (options_.observer != nullptr) {
                         texts = options_.observer->CheckpointTexts();
                       }
                       if (phase_->scales_losses()) {
                         texts[kGlobalPhaseText] = phase_->ToText();
                       }
                       return texts;
                     }});
  if (!called_off_.ok()) {
    Abort(called_off_);
    return;
  }
  Watch();
  state_->Read([this](const StatusOr<Buffer>& state) {
    if (ending_) {
      return;
    }
    const Status read = state.ok() && !state->empty()
                            ? Recover(*state).WithPrefix(state_->name())
                            : state.status();
    if (!read.ok()) {
      Abort(read);
    } else if (state->empty()) {
      WaitForMembers();
    }
  });
}

void Coordinator::WaitForMembers() {
  recovering_ = false;
  state_is_ours_ = true;
  join_timer_ =
      context_->SetTimer(context_->Now() + options_.join_within, [this] {
        Abort(DeadlineExceededError(
            StrCat("waited ", ToString(options_.join_within),
                   " for members to join; missing: ", MissingMembers())));
      });
}

void Coordinator::OnMessage(comm::EndpointId from, comm::Message message) {
  const auto member = members_.find(from);
  if (member != members_.end()) {
    member->second.last_heard = context_->Now();
    member->second.suspect = false;
  }
  if (message.header.kind == comm::MessageKind::kReply) {
    caller_->OnReply(from, std::move(message));
    return;
  }
  const auto method = static_cast<Method>(message.header.method);
  if (!state_->leads()) {
    // Another one may lead by now.
    if (message.header.kind == comm::MessageKind::kRequest) {
      Reply(from,
            MakeErrorReply(message, UnavailableError("does not know whether it "
                                                     "still leads the job")));
    }
    return;
  }
  if (recovering_ && method == Method::kAbort && member != members_.end()) {
    wire::Abort abort;
    GiveUp(from, Decode(message, abort).ok() ? FromWire(abort)
                                             : UnavailableError("it ended"));
    return;
  }
  if (recovering_ && message.header.kind == comm::MessageKind::kRequest) {
    if (method == Method::kJoin) {
      OnJoinMeanwhile(from);
    }
    Reply(from, MakeErrorReply(message, UnavailableError(
                                            "has just been started, and looks "
                                            "for the members it had before")));
    return;
  }
  if (method == Method::kJoin) {
    OnJoin(from, std::move(message));
    return;
  }
  if (method == Method::kScale) {
    return OnScale(from, message);
  }
  if (method == Method::kSetMode) {
    return OnSetMode(from, message);
  }
  if (method == Method::kStatus) {
    return OnStatus(from, message);
  }
  if (member == members_.end()) {
    if (message.header.kind == comm::MessageKind::kRequest) {
      Reply(from,
            MakeErrorReply(message, FailedPreconditionError(
                                        "you are not a member of this job, or "
                                        "another has taken your place")));
    }
    return;
  }
  switch (method) {
    case Method::kPrepared:
      return OnPrepared(from, std::move(message));
    case Method::kCaughtUp:
      return OnCaughtUp(from, message);
    case Method::kAskOrder:
      return OnAskOrder(from, std::move(message));
    case Method::kClock:
      return OnClock(from, std::move(message));
    case Method::kProgress:
      return OnProgress(message);
    case Method::kSlotLoads:
      if (!member->second.is_worker) {
        rebalancer_.Take(message, member->second.index, route_);
        MaybeRebalance();
      }
      return;
    case Method::kAbort: {
      wire::Abort abort;
      if (Decode(message, abort).ok()) {
        OnCalledOff(from, FromWire(abort));
      }
      return;
    }
    case Method::kAlive:
      return;
    default:
      if (message.header.kind == comm::MessageKind::kRequest) {
        Reply(from,
              MakeErrorReply(message, InvalidArgumentError(StrCat(
                                          "the coordinator has no method ",
                                          message.header.method))));
      }
  }
}

// --- Joining ---------------------------------------------------------------

void Coordinator::OnJoin(comm::EndpointId from, comm::Message message) {
  const Status status = Admit(from, message);
  if (!status.ok()) {
    Reply(from, MakeErrorReply(message, status));
    return;
  }
  WaitingMessage waiting{from, std::move(message)};
  if (all_joined_) {
    if (!members_.at(from).is_worker) {
      LetShardIn(from);
    }
    Keep([this, waiting] {
      if (state_->settled()) {
        AnswerJoin(waiting);
        return;
      }
      // It would be told a newer route than is kept.
      Reply(waiting.from,
            MakeErrorReply(waiting.message,
                           UnavailableError("a newer route is being kept")));
    });
    return;
  }
  waiting_joins_.push_back(std::move(waiting));
  if (MissingMembers().empty()) {
    OnAllJoined();
  }
}

Status Coordinator::Admit(comm::EndpointId from, const comm::Message& message) {
  wire::Join join;
  SHOAL_RETURN_IF_ERROR(Decode(message, join));
  Member member;
  member.address = join.address();
  member.host = join.host();
  member.pid = join.pid();
  member.last_heard = context_->Now();
  member.is_worker = join.role() == wire::Join::WORKER;
  const auto known = members_.find(from);
  std::optional<comm::EndpointId>* place = nullptr;
  if (member.is_worker) {
    int index = join.worker();
    if (index < 0 && known != members_.end() && known->second.is_worker) {
      index = known->second.index;  // It asks again.
      member.any_index = known->second.any_index;
    } else if (index < 0) {
      index = FreeWorkerIndex();
      member.any_index = true;
    } else {
      MakeRoom(index);
    }
    if (index >= static_cast<int>(workers_.size())) {
      return FailedPreconditionError(
          StrCat("join: worker ", index, " is one too many; the job has ",
                 workers_.size(), " (cluster.workers, or `shoal scale`)"));
    }
    member.index = index;
    member.name = StrCat("worker ", index);
    place = &workers_[static_cast<size_t>(index)].endpoint;
  } else {
    // One that goes, but has not had its answer yet, must have it to go well.
    const bool goes = Leaves(join.server()) && known == members_.end();
    if (join.server() < 0 || join.server() >= options_.num_servers || goes ||
        join.shard() < 0 || join.shard() >= options_.shards_per_server) {
      return FailedPreconditionError(
          StrCat("join: server ", join.server(), " shard ", join.shard(),
                 " does not fit the job, which has ", options_.num_servers,
                 " servers of ", options_.shards_per_server, " shards"));
    }
    member.server = join.server();
    member.index = join.server() * options_.shards_per_server + join.shard();
    member.name = StrCat("server ", join.server(), " shard ", join.shard());
    place = &shards_[static_cast<size_t>(member.index)];
  }
  if (known != members_.end() && known->second.name != member.name) {
    return FailedPreconditionError(StrCat("join: ", known->second.name,
                                          " can't be ", member.name, " too"));
  }
  if (place->has_value() && **place != from) {
    Member& before = members_.at(**place);
    if (!before.suspect) {
      return UnavailableError(StrCat("join: ", before.name,
                                     " still counts as running, on host ",
                                     before.host, " pid ", before.pid));
    }
    if (member.is_worker && all_joined_ && options_.plan.dense_on_workers()) {
      return FailedPreconditionError(
          StrCat("join: ", before.name,
                 " was lost with the dense variables that it held; start the "
                 "job from its last checkpoint"));
    }
    if (!member.is_worker && all_joined_) {
      if (!CanDrop(member.server)) {
        return FailedPreconditionError(
            StrCat("join: ", before.name,
                   " was lost with its data; start the job from its last "
                   "checkpoint"));
      }
      DropShardsOf(member.server, UnavailableError("another takes its place"));
    } else {
      const comm::EndpointId lost = *std::exchange(*place, std::nullopt);
      members_.erase(lost);
      CutDone(lost);  // Another takes the order as it is then.
    }
  }
  if (!member.is_worker && all_joined_ && !started_ &&
      known == members_.end()) {
    return UnavailableError(
        StrCat("join: the others are restoring what ", member.name, " lacks"));
  }
  if (member.is_worker) {
    WorkerState& state = workers_[static_cast<size_t>(member.index)];
    const int64_t clock = state.clock;
    state = WorkerState{};
    state.clock = clock;
  }
  *place = from;
  caller_->AddPeer(from, member.address, member.name);
  members_[from] = std::move(member);
  return OkStatus();
}

int Coordinator::FreeWorkerIndex() const {
  const auto free = std::find_if(
      workers_.begin(), workers_.end(),
      [](const WorkerState& w) { return !w.endpoint.has_value(); });
  return static_cast<int>(free - workers_.begin());
}

// One that took the place of `worker` for want of a wish moves to another, as
// long as it has not been told.
void Coordinator::MakeRoom(int worker) {
  const int other = FreeWorkerIndex();
  if (all_joined_ || worker >= options_.num_workers ||
      other == options_.num_workers) {
    return;
  }
  std::optional<comm::EndpointId>& place =
      workers_[static_cast<size_t>(worker)].endpoint;
  if (!place.has_value() || !members_.at(*place).any_index) {
    return;
  }
  Member& moved = members_.at(*place);
  moved.index = other;
  moved.name = StrCat("worker ", other);
  caller_->AddPeer(*place, moved.address, moved.name);
  workers_[static_cast<size_t>(other)].endpoint =
      std::exchange(place, std::nullopt);
}

std::string Coordinator::MissingMembers() const {
  std::string missing;
  const auto add = [&missing](const std::string& name) {
    missing += (missing.empty() ? "" : ", ") + name;
  };
  for (size_t i = 0; i < shards_.size(); ++i) {
    if (!shards_[i].has_value()) {
      const auto per_server = static_cast<size_t>(options_.shards_per_server);
      add(StrCat("server ", i / per_server, " shard ", i % per_server));
    }
  }
  for (size_t i = 0; i < workers_.size(); ++i) {
    if (!workers_[i].endpoint.has_value()) {
      add(StrCat("worker ", i));
    }
  }
  return missing;
}

void Coordinator::OnAllJoined() {
  all_joined_ = true;
  context_->CancelTimer(join_timer_);
  MakeFirstRoute();
  Keep([this] {
    // Workers too, whose deadline for joining must not cover the time that the
    // shards take to load: they wait for their first order.
    for (const WaitingMessage& waiting : std::exchange(waiting_joins_, {})) {
      AnswerJoin(waiting);
    }
    MakeReady();
  });
}

void Coordinator::MakeReady() {
  if (options_.restore_folder.empty()) {
    OnReady();
  } else {
    LoadHolders();
  }
}

void Coordinator::AnswerJoin(const WaitingMessage& waiting) {
  const auto it = members_.find(waiting.from);
  if (it == members_.end()) {
    return;  // Replaced while it waited.
  }
  const Member& member = it->second;
  wire::JoinReply reply;
  reply.set_index(member.index);
  const int num_workers =
      std::max(options_.num_workers, workers_wanted_);  // One of those to come?
  reply.set_num_workers(num_workers);
  reply.set_job_text(options_.job_text);
  reply.set_restores(!options_.restore_folder.empty() && !started_);
  reply.set_step(options_.plan.mode == Mode::kSync ? committed_ : position_);
  StepDecision last = last_commit_;
  last.next_loss_scale = phase_->loss_scale();
  ToWire(last, *reply.mutable_last());
  ToWire(route_, *reply.mutable_route());
  ToWire(options_.model, *reply.mutable_model());
  ToWire(options_.plan, *reply.mutable_plan());
  reply.set_mode_number(modes_->now.number);
  std::vector<Buffer> frames;
  if (member.is_worker) {
    const bool parts = options_.plan.shares_steps();
    const auto [begin, end] = VirtualRange(
        options_.plan, parts ? member.index : 0, parts ? num_workers : 1);
    reply.set_virtual_begin(begin);
    reply.set_virtual_end(end);
    reply.set_local_index(static_cast<int>(
        std::count_if(workers_.begin(), workers_.begin() + member.index,
                      [&](const WorkerState& other) {
                        return other.endpoint.has_value() &&
                               members_.at(*other.endpoint).host == member.host;
                      })));
  }
  frames.push_back(Encode(reply));
  if (member.is_worker) {
    frames.push_back(options_.setup);
  }
  Reply(waiting.from, MakeReply(waiting.message, std::move(frames)));
}

// Shards, and workers that hold dense variables, take what is theirs.
void Coordinator::LoadHolders() {
  wire::Load load;
  load.set_folder(options_.restore_folder);
  load.set_step(options_.restore_step);
  std::vector<RouteTable::Peer> holders = route_.shards;
  holders.insert(holders.end(), route_.workers.begin(), route_.workers.end());
  calls_under_way_ = static_cast<int64_t>(holders.size());
  for (const RouteTable::Peer& holder : holders) {
    caller_->Start(
        holder.endpoint, comm::Lane::kBulk,
        static_cast<uint16_t>(Method::kLoad),
        StrCat("its part of ", options_.restore_folder), kStorageWithin,
        {Encode(load)},
        [this, name = holder.name](StatusOr<comm::Message> reply) {
          if (!reply.ok()) {
            Abort(reply.status().WithPrefix(StrCat("restore on ", name)));
          } else if (--calls_under_way_ == 0 && !ending_) {
            position_ = committed_ = options_.restore_step;
            for (size_t i = 0; i < workers_.size(); ++i) {
              workers_[i].clock = ClockAt(i, position_);
            }
            OnReady();
          }
        });
  }
}

void Coordinator::OnReady() {
  if (!state_->leads()) {
    Abort(UnavailableError("does not know whether it still leads the job"));
    return;
  }
  started_ = true;
  if (options_.observer != nullptr) {
    const Status started = options_.observer->OnStarted(position_);
    if (!started.ok()) {
      Abort(started);
      return;
    }
  }
  if (position_ < options_.train.total_steps) {
    GiveOrder(OrderKind::kTrain, position_,
              options_.train.NextBoundary(position_));
  } else {
    AfterBoundary();
  }
}

// --- Orders ----------------------------------------------------------------

void Coordinator::GiveOrder(OrderKind kind, int64_t from, int64_t until) {
  const std::vector<WaitingMessage> leavers = TakeWorkers();
  if (kind == OrderKind::kTrain) {
    TakeMode(from);
  }
  order_ = {order_.number + 1, kind, from, until};
  for (WorkerState& worker : workers_) {
    worker.scores = Buffer();
    worker.labels = Buffer();
  }
  Keep([this, leavers] {
    for (const WaitingMessage& asking : leavers) {
      ReplyStop(asking);
    }
    AnswerOrders();
    DealAnew();
  });
}

void Coordinator::ReplyStop(const WaitingMessage& asking) {
  wire::Order order;
  order.set_number(order_.number);
  order.set_kind(wire::Order::STOP);
  Reply(asking.from, MakeReply(asking.message, {Encode(order)}));
}

void Coordinator::AnswerOrders() {
  for (int i = 0; i < options_.num_workers; ++i) {
    AnswerOrder(i);
  }
}

void Coordinator::AnswerOrder(int worker) {
  WorkerState& state = workers_[static_cast<size_t>(worker)];
  if (!state.asking.has_value() || state.done_order >= order_.number ||
      !state_->settled() || modes_->holding) {
    return;  // What is not kept yet, nobody may do.
  }
  wire::Order order;
  order.set_number(order_.number);
  order.set_from_step(order_.from);
  order.set_until_step(order_.until);
  const bool parts = options_.plan.shares_steps();
  const auto [begin, end] = VirtualRange(options_.plan, parts ? worker : 0,
                                         parts ? options_.num_workers : 1);
  order.set_num_workers(options_.num_workers);
  order.set_virtual_begin(begin);
  order.set_virtual_end(end);
  if (modes_->now.number > 0) {
    ToWire(modes_->now, *order.mutable_mode());
    ToWire(route_, *order.mutable_route());
  }
  switch (order_.kind) {
    case OrderKind::kTrain: {
      order.set_kind(wire::Order::TRAIN);
      // A worker in place of a lost one goes on where the job is.
      const int64_t reached = options_.plan.mode == Mode::kSync ? committed_
                              : options_.plan.shares_steps()
                                  ? order_.from  // None is replaced there.
                                  : state.clock * options_.num_workers + worker;
      order.set_from_step(std::clamp(reached, order_.from, order_.until));
      break;
    }
    case OrderKind::kEvaluate:
      order.set_kind(wire::Order::EVALUATE);
      break;
    case OrderKind::kStop:
      order.set_kind(wire::Order::STOP);
      break;
  }
  const WaitingMessage asking = *std::exchange(state.asking, std::nullopt);
  Reply(asking.from, MakeReply(asking.message, {Encode(order)}));
}

void Coordinator::OnAskOrder(comm::EndpointId from, comm::Message message) {
  const Member& member = members_.at(from);
  wire::AskOrder ask;
  Status status = Decode(message, ask);
  if (status.ok() && !member.is_worker) {
    status = InvalidArgumentError("only workers ask for orders");
  } else if (status.ok() && ask.done_order() > order_.number) {
    status = InvalidArgumentError(
        StrCat(member.name, " has done order ", ask.done_order(),
               ", but the last one given is ", order_.number));
  }
  if (!status.ok()) {
    Reply(from, MakeErrorReply(message, status));
    return;
  }
  if (member.leaves) {
    if (!state_->settled()) {
      Reply(from, MakeErrorReply(message,
                                 UnavailableError("who stays is being kept")));
      return;
    }
    ReplyStop({from, std::move(message)});
    // Once to stop, once for its good-bye.
    if (std::exchange(members_.at(from).told_to_stop, true)) {
      members_.erase(from);
    }
    return;
  }
  const int index = member.index;
  WorkerState& state = workers_[static_cast<size_t>(index)];
  if (index >= options_.num_workers) {
    state.asking = WaitingMessage{from, std::move(message)};
    DealAnew();  // Perhaps it was waited for.
    return;
  }
  const bool is_news =
      ask.done_order() == order_.number && state.done_order < order_.number;
  state.done_order = std::max(state.done_order, ask.done_order());
  if (is_news && order_.kind == OrderKind::kTrain) {
    state.clock = std::max(state.clock,
                           ClockAt(static_cast<size_t>(index), order_.until));
    AnswerClocks();
  }
  if (is_news && order_.kind == OrderKind::kEvaluate &&
      message.frames.size() == 3) {
    // Copied: what stays must not pin the transport's memory.
    state.scores = Buffer::CopyOf(message.frames[1].text());
    state.labels = Buffer::CopyOf(message.frames[2].text());
  }
  state.asking = WaitingMessage{from, std::move(message)};
  if (order_.number > state.done_order) {
    AnswerOrder(index);
  } else if (is_news && std::all_of(workers_.begin(),
                                    workers_.begin() + options_.num_workers,
                                    [this](const WorkerState& worker) {
                                      return worker.done_order == order_.number;
                                    })) {
    OnOrderDone();
  }
}

void Coordinator::OnOrderDone() {
  switch (order_.kind) {
    case OrderKind::kTrain:
      position_ = order_.until;
      // One that was cut before its first step did nothing after the last
      // boundary.
      order_.until > order_.from ? AfterBoundary() : AfterCheckpoint();
      break;
    case OrderKind::kEvaluate:
      Evaluated();
      break;
    case OrderKind::kStop:
      FinishShards();
      break;
  }
}

void Coordinator::AfterBoundary() {
  if (options_.train.EvaluatesAt(position_)) {
    GiveOrder(OrderKind::kEvaluate, position_, position_);
  } else {
    SaveCheckpoint();
  }
}

void Coordinator::Evaluated() {
  std::vector<float> scores;
  std::vector<float> labels;
  for (const WorkerState& worker : workers_) {
    const auto s = worker.scores.As<float>();
    const auto l = worker.labels.As<float>();
    scores.insert(scores.end(), s.begin(), s.end());
    labels.insert(labels.end(), l.begin(), l.end());
  }
  if (options_.observer != nullptr) {
    const StatusOr<bool> stop =
        options_.observer->OnEvaluated(position_, scores, labels);
    if (!stop.ok()) {
      Abort(stop.status().WithPrefix(StrCat("evaluation at step ", position_)));
      return;
    }
    // Asked again after a restart, it may not remember.
    stop_early_ = stop_early_ || *stop;
  }
  SaveCheckpoint();
}

void Coordinator::SaveCheckpoint() {
  const bool due = stop_early_ || options_.train.SavesAt(position_);
  if (!due || options_.checkpoint_folder.empty()) {
    AfterCheckpoint();
    return;
  }
  const auto saved = [this, step = position_](bool stopped) {
    if (options_.observer != nullptr) {
      options_.observer->OnSaved(step, saver_->Folder(step), stopped);
    }
  };
  if (saver_->Folder(position_) == options_.restore_folder) {
    saved(true);  // Nothing was trained since; what is there stays whole.
    AfterCheckpoint();
    return;
  }
  if (saver_->writing() && !saver_->stops()) {
    saver_->WhenDone([this] {
      if (!ending_) {
        SaveCheckpoint();
      }
    });
    return;
  }
  std::vector<RouteTable::Peer> writers = LiveShards();
  if (options_.plan.dense == DensePlace::kWorkerParts) {
    writers.insert(writers.end(), route_.workers.begin(), route_.workers.end());
  } else if (route_.dense_on_workers()) {
    writers.push_back(route_.workers.front());  // All have the same.
  }
  saver_->Save(
      {.step = position_,
       .version = route_.version,
       .writers = std::move(writers),
       .last = stop_early_ || position_ >= options_.train.total_steps,
       .replaces = !options_.restore_folder.empty()},
      [this] {
        if (!ending_) {
          AfterCheckpoint();
        }
      },
      [this, saved](const Status& status, bool stopped) {
        if (ending_) {
          return;
        }
        if (status.ok()) {
          saved(stopped);
        } else if (status.code() != StatusCode::kAborted || stopped) {
          Abort(status);
          return;
        } else if (options_.observer != nullptr) {
          options_.observer->OnNotSaved(status);
        }
        // With where the checkpoint is. Who wrote until now may end then; a
        // newer route sees to its own.
        Keep([this, version = route_.version] {
          if (version == route_.version) {
            FinishLeavers();
          }
        });
      });
}

void Coordinator::AfterCheckpoint() {
  if (stop_early_ || position_ >= options_.train.total_steps) {
    GiveOrder(OrderKind::kStop, position_, position_);
  } else {
    GiveOrder(OrderKind::kTrain, position_,
              options_.train.NextBoundary(position_));
  }
}

void Coordinator::FinishShards() {
  ending_ = true;
  for (WorkerState& worker : workers_) {
    if (worker.asking.has_value()) {
      ReplyStop(*std::exchange(worker.asking, std::nullopt));
    }
  }
  const std::vector<RouteTable::Peer> shards = LiveShards();
  calls_under_way_ = static_cast<int64_t>(shards.size());
  if (shards.empty()) {
    End(OkStatus());  // They have ended under the coordinator before this one.
  }
  for (const RouteTable::Peer& shard : shards) {
    caller_->Start(shard.endpoint, comm::Lane::kUrgent,
                   static_cast<uint16_t>(Method::kFinish), "its end",
                   options_.plan.timeout, {Encode(wire::Finish())},
                   [this](const StatusOr<comm::Message>&) {
                     // One that does not answer has nothing left to lose.
                     if (--calls_under_way_ == 0) {
                       End(OkStatus());
                     }
                   });
  }
}

void Coordinator::OnProgress(const comm::Message& message) {
  wire::Progress progress;
  // Numbers of a peer: whoever observes makes room for the windows.
  if (!Decode(message, progress).ok() || progress.step() < 0 ||
      progress.step() > options_.train.total_steps || progress.window() < 0 ||
      progress.window() > progress.step() || progress.examples() < 0) {
    return;
  }
  const StatusOr<Histogram> staleness = FromWire(progress.staleness());
  if (progress.has_staleness() && staleness.ok()) {
    staleness_.Merge(*staleness);
  }
  if (options_.observer != nullptr) {
    options_.observer->OnProgress(progress.step(), progress.window(),
                                  progress.loss_sum(), progress.examples());
    if (progress.has_staleness()) {
      options_.observer->OnStaleness(staleness_);
    }
    // What it has seen is told by nobody else.
    if (state_->due()) {
      Keep([] {});
    }
  }
}

void Coordinator::Reply(comm::EndpointId to, comm::Message reply) {
  // A reply that can't be sent is asked for again, or its waiter's deadline
  // passes: nothing is kept for it here.
  (void)context_->Send(to, comm::Lane::kUrgent, std::move(reply));
}

}  // namespace shoal::ps
