// The part of a shard that keeps replicas: what it takes from others, hands on
// to others, and what a new route changes.

#include <algorithm>
#include <utility>

#include "base/strcat.h"
#include "base/trace.h"
#include "ps/protocol.pb.h"
#include "ps/shard.h"
#include "ps/slot_states.h"
#include "ps/wire.h"

namespace shoal::ps {
namespace {

// Slots go to a shard that joins in messages of about this size, and so many of
// them are under way: enough to keep a connection busy, small enough that
// pushes in between are not held up for long.
constexpr int64_t kTransferBytes = int64_t{256} << 10;
constexpr int64_t kTransferBytesUnderWay = int64_t{8} << 20;

// Pushes that the tails lack; beyond it clients are asked to come again, so
// that a slow replica bounds what is kept for it.
constexpr int64_t kCommandBytesMax = int64_t{128} << 20;

int64_t BytesOf(const Piece& piece) {
  auto bytes = static_cast<int64_t>(piece.dense.size_bytes() +
                                    piece.computed_from.size_bytes());
  for (const GroupGradients& group : piece.groups) {
    bytes += static_cast<int64_t>(group.ids.size_bytes());
    for (const auto& table : group.tables) {
      bytes += static_cast<int64_t>(table.size_bytes());
    }
  }
  return bytes;
}

void AddSlots(const std::vector<bool>& more, std::vector<bool>& slots) {
  for (size_t slot = 0; slot < slots.size(); ++slot) {
    slots[slot] = slots[slot] || more[slot];
  }
}

bool Overlap(const Portion& a, const Portion& b) {
  for (size_t slot = 0; slot < a.slots.size(); ++slot) {
    if (a.slots[slot] && b.slots[slot]) {
      return true;
    }
  }
  return false;
}

// As ReadPush() reads them.
std::vector<Buffer> FramesOf(Buffer head,
                             const std::shared_ptr<const Piece>& piece,
                             bool with_values) {
  const auto share = [&](const void* data, size_t bytes) {
    return Buffer::Wrap(const_cast<void*>(data), static_cast<int64_t>(bytes),
                        piece);
  };
  std::vector<Buffer> frames = {std::move(head)};
  for (const GroupGradients& group : piece->groups) {
    frames.push_back(share(group.ids.data(), group.ids.size_bytes()));
    for (const auto& table : group.tables) {
      frames.push_back(share(table.data(), table.size_bytes()));
    }
  }
  frames.push_back(share(piece->dense.data(), piece->dense.size_bytes()));
  if (with_values) {
    frames.push_back(
        share(piece->computed_from.data(), piece->computed_from.size_bytes()));
  }
  return frames;
}

}  // namespace

// --- Routes ----------------------------------------------------------------

void Shard::OnRouteChange(comm::EndpointId from, comm::Message request) {
  wire::RouteChange change;
  Status status = Decode(request, change);
  StatusOr<RouteTable> route = InvalidArgumentError("route change: no route");
  if (status.ok()) {
    route = FromWire(change.route());
    status = route.status();
  }
  StatusOr<ModeState> mode = ModeState();
  if (status.ok() && change.has_mode()) {
    mode = FromWire(change.mode());
    status = mode.status();
  }
  if (status.ok() && (route->slot_bits != route_.slot_bits ||
                      route->shards.size() < route_.shards.size())) {
    status = InvalidArgumentError("route change: of another job");
  }
  if (!status.ok()) {
    ReplyError(from, request, status);
    return;
  }
  if (route->version <= route_.version) {
    Reply(from, MakeReply(request, {}));
    return;
  }
  if (loads_ > 0) {
    next_route_ = {from, std::move(request)};
    return;
  }
  const bool switches = mode->number > mode_.number;
  const int64_t committed = switches ? mode->from_step : change.committed();
  const StatusOr<StepDecision> last = FromWire(change.last());
  if (commits() && committed == step_ + 1 && last.ok() && last->step == step_) {
    // Decided under the route before, though it has not been heard of here.
    ApplyCommitted(*last);
  } else if (commits() && committed != step_) {
    Fail(InternalError(
        StrCat("a route of step ", committed, " came at step ", step_)));
  }
  if (failed_) {
    return;
  }
  if (switches) {
    TakeMode(*mode);
  }
  Adopt(*std::move(route));
  Reply(from, MakeReply(request, {}));
}

// Nothing is under way: what was done in the mode before is done everywhere,
// and clients begin with new sequences.
void Shard::TakeMode(const ModeState& mode) {
  mode_ = mode;
  plan_.mode = mode.mode;
  plan_.staleness = mode.staleness;
  step_ = mode.from_step;
  last_commit_ = {.step = step_ - 1};
  clocks_.Begin(step_, mode.num_workers);
  sequences_.clear();
  stages_.clear();
  commands_.clear();
  command_bytes_ = 0;
}

void Shard::Adopt(RouteTable route) {
  const bool first = held_ == nullptr;
  const RouteTable before = std::exchange(route_, std::move(route));
  links_->Adopt(route_);
  link_messages_.clear();
  dense_values_ = Buffer();
  // What of the step is not committed comes again.
  prepared_ = false;
  parts_.clear();
  if (commits()) {
    stages_.clear();
  }
  unacknowledged_.clear();
  for (auto& [id, command] : commands_) {
    command.waiters.clear();  // They ask again.
  }
  for (auto& [number, pull] : std::exchange(waiting_, {})) {
    context_->CancelTimer(pull.timer);
    ReplyMoved(pull.from, pull.request);
  }

  if (first) {
    received_.assign(static_cast<size_t>(route_.num_slots()), false);
    maybe_kept_ = received_;
  }
  const std::shared_ptr<const Portion> had = held_;
  FindPortions();
  clocks_.Invalidate();
  for (int64_t slot = 0; slot < route_.num_slots(); ++slot) {
    const auto s = static_cast<size_t>(slot);
    if (!first && held_->Has(slot) && !had->Has(slot) && !received_[s]) {
      Fail(InternalError(StrCat("is in the chain of slot ", slot,
                                ", whose state it has not received")));
      return;
    }
  }
  // What it had and is not to have any more.
  const auto has_joining = [this](int64_t slot) {
    const auto s = static_cast<size_t>(slot);
    return received_[s] || maybe_kept_[s];
  };
  const auto keeps = [&](int64_t slot) {
    const Chain& chain = route_.ChainOf(slot);
    return chain.HasMember(index_) ||
           (chain.joining == index_ && has_joining(slot) &&
            before.ChainOf(slot).tail() == chain.tail() &&
            before.shards[static_cast<size_t>(chain.tail())] ==
                route_.shards[static_cast<size_t>(chain.tail())]);
  };
  if (!first) {
    const auto gone = PortionOf([&](int64_t slot) {
      return (had->Has(slot) || has_joining(slot)) && !keeps(slot);
    });
    DropSlots(*gone, tables_, *dense_);
    if (!CheckTables()) {
      return;
    }
  }
  for (int64_t slot = 0; slot < route_.num_slots(); ++slot) {
    const auto s = static_cast<size_t>(slot);
    maybe_kept_[s] = has_joining(slot) && keeps(slot) && !held_->Has(slot);
    received_[s] = false;
  }
  for (const DenseChunk& chunk : held_->chunks) {
    dense_->Add(chunk);
  }
  if (!first && !commits() && plan_.incremental_checkpoints) {
    ForgetChanges(before);
  }

  BeginTransfers();
  // In order; what of them is not held here any more is others' to hand on.
  for (auto it = commands_.begin(); it != commands_.end();) {
    Command& command = it->second;
    const auto still = PortionOf([&](int64_t slot) {
      return command.part.portion->Has(slot) && held_->Has(slot);
    });
    if (still->num_slots < command.part.portion->num_slots) {
      command.part = {std::make_shared<const Piece>(
                          Select(*command.part.piece, model_, route_.slot_bits,
                                 *command.part.portion, *still)),
                      still};
    }
    const uint64_t id = (it++)->first;
    HandOn(id);
  }
  if (commits() && headed_->empty()) {
    prepared_ = true;
    SendPrepared();
  }
  SendSlots();
  for (auto& [from, request] : std::exchange(waiting_saves_, {})) {
    OnSave(from, std::move(request));
  }
}

std::shared_ptr<const Portion> Shard::PortionOf(
    const std::function<bool(int64_t)>& has_slot) const {
  return std::make_shared<const Portion>(layout_->PortionOf(
      route_.slot_bits, route_.dense_on_workers(), has_slot));
}

// Where steps are dealt a push may have come here before the cut of a
// checkpoint and to the head after it.
void Shard::ForgetChanges(const RouteTable& before) {
  for (const auto& table : tables_) {
    for (int64_t slot = 0; slot < route_.num_slots(); ++slot) {
      if (headed_->Has(slot) && before.HeadOf(slot) != index_) {
        table->ForgetChanges(slot);
      }
    }
  }
}

void Shard::FindPortions() {
  headed_ =
      PortionOf([&](int64_t slot) { return route_.HeadOf(slot) == index_; });
  held_ = PortionOf(
      [&](int64_t slot) { return route_.ChainOf(slot).HasMember(index_); });
  hands_on_.clear();
  for (int64_t slot = 0; slot < route_.num_slots(); ++slot) {
    const int next = route_.ChainOf(slot).NextOf(index_);
    if (next >= 0) {
      std::vector<bool>& slots = hands_on_[next];
      slots.resize(static_cast<size_t>(route_.num_slots()));
      slots[static_cast<size_t>(slot)] = true;
    }
  }
}

// --- Shards that join ------------------------------------------------------

void Shard::BeginTransfers() {
  const std::map<int, Transfer> before = std::exchange(transfers_, {});
  for (int64_t slot = 0; slot < route_.num_slots(); ++slot) {
    const Chain& chain = route_.ChainOf(slot);
    if (chain.joining < 0 || chain.tail() != index_) {
      continue;
    }
    const auto s = static_cast<size_t>(slot);
    Transfer& transfer = transfers_[chain.joining];
    if (transfer.has.empty()) {
      transfer.has.resize(static_cast<size_t>(route_.num_slots()));
      transfer.endpoint =
          route_.shards[static_cast<size_t>(chain.joining)].endpoint;
    }
    const auto sent = before.find(chain.joining);
    if (sent != before.end() && sent->second.endpoint == transfer.endpoint &&
        sent->second.has[s]) {
      transfer.has[s] = true;
    } else {
      transfer.todo.push_back(slot);
    }
  }
  const bool moves =
      std::any_of(route_.chains.begin(), route_.chains.end(),
                  [](const Chain& chain) { return chain.leaving >= 0; });
  pace_->SetBytesPerSecond(moves ? plan_.move_bytes_per_second
                                 : plan_.repair_bytes_per_second);
  for (auto& [shard, transfer] : transfers_) {
    // What it has of the route before, it keeps, and gets what comes for that.
    std::vector<bool>& hands_on = hands_on_[shard];
    hands_on.resize(transfer.has.size());
    wire::SlotStates head;
    head.set_version(route_.version);
    head.set_number(links_->NextNumber(shard));
    head.set_slots(SlotBits(*PortionOf([&](int64_t slot) {
      return transfer.has[static_cast<size_t>(slot)];
    })));
    head.set_kept(true);
    AddSlots(transfer.has, hands_on);
    ++transfer.messages_under_way;
    links_->Send(shard, Method::kSlotStates, "slots that it keeps",
                 {Encode(head)}, [this, shard] {
                   --transfers_.at(shard).messages_under_way;
                   SendSlots();
                 });
  }
}

void Shard::SendSlots() {
  // While a part of the step is held here, a slot's state and what comes next
  // for it would not fit together.
  if (failed_ || (commits() && !parts_.empty())) {
    return;
  }
  for (auto& [shard, transfer] : transfers_) {
    SendSlotsTo(shard, transfer);
  }
}

void Shard::SendSlotsTo(int shard, Transfer& transfer) {
  size_t next = 0;
  while (next < transfer.todo.size() &&
         transfer.bytes_under_way < kTransferBytesUnderWay &&
         pace_->MaySend()) {
    std::vector<bool> slots(transfer.has.size());
    int64_t bytes = 0;
    while (next < transfer.todo.size() && bytes < kTransferBytes) {
      const int64_t slot = transfer.todo[next++];
      slots[static_cast<size_t>(slot)] = true;
      for (const auto& table : tables_) {
        bytes += table->num_rows_in(slot) * BytesOfRow(*table);
      }
    }
    const auto portion = PortionOf(
        [&](int64_t slot) { return slots[static_cast<size_t>(slot)]; });
    bytes += portion->dense_elements * 4;
    wire::SlotStates head;
    head.set_version(route_.version);
    head.set_number(links_->NextNumber(shard));
    head.set_slots(SlotBits(*portion));
    head.set_step(step_);
    for (const auto& [client, sequences] : sequences_) {
      wire::SlotStates::Client& of_client = *head.add_clients();
      of_client.set_client(client);
      if (const auto origin = clocks_.OriginOf(client)) {
        of_client.set_worker(origin->worker);
        of_client.set_clock_offset(origin->offset);
      }
      for (size_t slot = 0; slot < slots.size(); ++slot) {
        if (slots[slot]) {
          of_client.add_sequences(sequences[slot]);
        }
      }
    }
    std::vector<Buffer> frames = CopySlots(tables_, *dense_, *portion);
    if (!CheckTables()) {
      return;
    }
    int64_t sent = 0;
    for (const Buffer& frame : frames) {
      sent += frame.size();
    }
    meter_->Sent(sent);
    pace_->Sent(sent);
    frames.insert(frames.begin(), Encode(head));
    AddSlots(slots, hands_on_[shard]);
    transfer.bytes_under_way += bytes;
    ++transfer.messages_under_way;
    links_->Send(shard, Method::kSlotStates, "slots that it joins",
                 std::move(frames), [this, shard, slots, bytes] {
                   Transfer& sent = transfers_.at(shard);
                   sent.bytes_under_way -= bytes;
                   --sent.messages_under_way;
                   AddSlots(slots, sent.has);
                   SendSlots();
                 });
  }
  transfer.todo.erase(
      transfer.todo.begin(),
      transfer.todo.begin() + static_cast<std::ptrdiff_t>(next));
  if (transfer.todo.empty() && transfer.messages_under_way == 0 &&
      !std::exchange(transfer.told, true)) {
    wire::CaughtUp caught_up;
    caught_up.set_version(route_.version);
    caught_up.set_joining(shard);
    links_->Ask(member_->coordinator(), comm::Lane::kUrgent, Method::kCaughtUp,
                "a shard to be let into its chains", {Encode(caught_up)},
                plan_.timeout, [this](const StatusOr<comm::Message>& reply) {
                  if (!reply.ok()) {
                    Fail(reply.status());
                  }
                });
  }
}

// --- Along the chains ------------------------------------------------------

bool Shard::HandsOn() const { return !hands_on_.empty(); }

void Shard::Forward(Method method, const wire::Push& head, const Part& part,
                    const std::function<void()>& done) {
  auto missing = std::make_shared<int>(1);
  const auto arrived = [missing, done] {
    if (--*missing == 0) {
      done();
    }
  };
  for (const auto& [next, slots] : hands_on_) {
    const auto common = PortionOf([&, &of_next = slots](int64_t slot) {
      return part.portion->Has(slot) && of_next[static_cast<size_t>(slot)];
    });
    if (common->empty()) {
      continue;
    }
    std::shared_ptr<const Piece> piece = part.piece;
    if (common->num_slots < part.portion->num_slots) {
      piece = std::make_shared<const Piece>(
          Select(*piece, model_, route_.slot_bits, *part.portion, *common));
    }
    wire::Push to_next = head;
    to_next.clear_nodes();
    to_next.add_nodes(1);
    to_next.set_version(route_.version);
    to_next.set_number(links_->NextNumber(next));
    to_next.set_slots(SlotBits(*common));
    ++*missing;
    links_->Send(
        next, method, StrCat("what it is to keep of step ", head.step()),
        FramesOf(Encode(to_next), piece, model_.pushes_values()), arrived);
  }
  arrived();
}

void Shard::OnLinkMessage(comm::EndpointId from, comm::Message message) {
  uint64_t version = 0;
  uint64_t number = 0;
  Status status;
  if (message.header.method == static_cast<uint16_t>(Method::kSlotStates)) {
    wire::SlotStates head;
    status = Decode(message, head);
    version = head.version();
    number = head.number();
  } else {
    wire::Push head;
    status = Decode(message, head);
    version = head.version();
    number = head.number();
  }
  if (!status.ok()) {
    ReplyError(from, message, status);
    return;
  }
  const std::optional<Links::Ticket> ticket =
      links_->Take(from, message, version, number);
  if (ticket.has_value()) {
    link_messages_[ticket->shard].push_back({*ticket, std::move(message)});
    DrainLinks();
  }
}

void Shard::DrainLinks() {
  for (auto& [shard, messages] : link_messages_) {
    while (!failed_ && !messages.empty() && Handle(messages.front())) {
      messages.pop_front();
    }
  }
}

bool Shard::Handle(const LinkMessage& message) {
  const auto method = static_cast<Method>(message.message.header.method);
  wire::SlotStates states;
  wire::Push push;
  const bool slots = method == Method::kSlotStates;
  // Decoded once before, when it came.
  SHOAL_CHECK(
      (slots ? Decode(message.message, states) : Decode(message.message, push))
          .ok());
  const int64_t step = slots ? states.step() : push.step();
  if ((slots && loads_ > 0) || (commits() && !states.kept() && step > step_)) {
    return false;  // The commit of the step before is on its way.
  }
  const Status status =
      slots ? HandleSlots(message, states) : HandlePush(message, push);
  if (!status.ok()) {
    Fail(status.WithPrefix(
        route_.shards[static_cast<size_t>(message.ticket.shard)].name));
  }
  return true;
}

StatusOr<std::shared_ptr<const Portion>> Shard::PortionFrom(
    const std::string& bits, int from) {
  SHOAL_ASSIGN_OR_RETURN(const std::vector<bool> slots,
                         SlotsOfBits(bits, route_.num_slots()));
  for (int64_t slot = 0; slot < route_.num_slots(); ++slot) {
    const Chain& chain = route_.ChainOf(slot);
    if (slots[static_cast<size_t>(slot)] && chain.NextOf(from) != index_ &&
        !(chain.joining == index_ && chain.tail() == from)) {
      return InternalError(StrCat("sent slot ", slot,
                                  ", which it does not hand on to this shard"));
    }
  }
  return PortionOf(
      [&](int64_t slot) { return slots[static_cast<size_t>(slot)]; });
}

Status Shard::HandlePush(const LinkMessage& message, const wire::Push& head) {
  SHOAL_TRACE("take part", head.step());
  SHOAL_ASSIGN_OR_RETURN(const std::shared_ptr<const Portion> portion,
                         PortionFrom(head.slots(), message.ticket.shard));
  SHOAL_ASSIGN_OR_RETURN(PushParts push,
                         ReadPush(message.message, ShapeOf(*portion)));
  for (int64_t slot = 0; slot < route_.num_slots(); ++slot) {
    if (portion->Has(slot) && !held_->Has(slot) &&
        !received_[static_cast<size_t>(slot)]) {
      return InternalError(
          StrCat("handed on slot ", slot, ", whose state it has not sent"));
    }
  }
  if (push.pieces.size() != 1) {
    return InternalError(
        StrCat("handed on ", push.pieces.size(), " pieces, not one"));
  }
  const Part part = {
      std::make_shared<const Piece>(std::move(push.pieces.front())), portion};
  const auto acknowledge = [this, ticket = message.ticket] {
    links_->Answer(ticket);
  };
  if (static_cast<Method>(message.message.header.method) == Method::kApply) {
    if (plan_.shares_steps() || push.sequence == 0 ||
        !push.learning_rate_factor.has_value()) {
      return InternalError("handed on a push that is none of this job");
    }
    return TakeCommand({.client = head.client(),
                        .sequence = push.sequence,
                        .step = push.step,
                        .learning_rate_factor = *push.learning_rate_factor,
                        .part = part,
                        .bytes = BytesOf(*part.piece)},
                       acknowledge);
  }
  if (!commits() || push.step != step_) {
    return InternalError(
        StrCat("handed on step ", push.step, ", but this shard is at ", step_));
  }
  parts_.push_back(part);
  Forward(Method::kPrepare, head, part, acknowledge);
  return OkStatus();
}

Status Shard::HandleSlots(const LinkMessage& message,
                          const wire::SlotStates& head) {
  SHOAL_TRACE("take slots", head.step());
  SHOAL_ASSIGN_OR_RETURN(const std::shared_ptr<const Portion> portion,
                         PortionFrom(head.slots(), message.ticket.shard));
  for (int64_t slot = 0; slot < route_.num_slots(); ++slot) {
    if (portion->Has(slot) && route_.ChainOf(slot).joining != index_) {
      return InternalError(
          StrCat("sent the state of slot ", slot, ", which is here"));
    }
  }
  if (head.kept()) {
    // The others that came under the route before are sent again.
    const auto again = PortionOf([&](int64_t slot) {
      return maybe_kept_[static_cast<size_t>(slot)] && !portion->Has(slot) &&
             route_.ChainOf(slot).tail() == message.ticket.shard;
    });
    DropSlots(*again, tables_, *dense_);
    if (!CheckTables()) {
      return OkStatus();
    }
    for (int64_t slot = 0; slot < route_.num_slots(); ++slot) {
      const auto s = static_cast<size_t>(slot);
      if (portion->Has(slot) && !maybe_kept_[s]) {
        return InternalError(
            StrCat("takes slot ", slot, " for received, which it is not"));
      }
      received_[s] = received_[s] || portion->Has(slot);
      maybe_kept_[s] =
          maybe_kept_[s] && !portion->Has(slot) && !again->Has(slot);
    }
    links_->Answer(message.ticket);
    return OkStatus();
  }
  if (commits() && head.step() != step_) {
    return InternalError(StrCat("sent slots of step ", head.step(),
                                ", but this shard is at ", step_));
  }
  for (const wire::SlotStates::Client& client : head.clients()) {
    if (client.sequences_size() != portion->num_slots) {
      return InternalError(StrCat("sent ", client.sequences_size(),
                                  " sequences for ", portion->num_slots,
                                  " slots"));
    }
  }
  SHOAL_RETURN_IF_ERROR(
      TakeSlots(message.message, *portion, route_.slot_bits, tables_, *dense_));
  if (!CheckTables()) {
    return OkStatus();
  }
  for (auto& [client, sequences] : sequences_) {
    for (size_t slot = 0; slot < sequences.size(); ++slot) {
      sequences[slot] = portion->slots[slot] ? 0 : sequences[slot];
    }
  }
  for (const wire::SlotStates::Client& client : head.clients()) {
    std::vector<uint64_t>& sequences = sequences_[client.client()];
    sequences.resize(portion->slots.size());
    int next = 0;
    for (size_t slot = 0; slot < sequences.size(); ++slot) {
      if (portion->slots[slot]) {
        sequences[slot] = client.sequences(next++);
      }
    }
    if (client.has_worker()) {
      clocks_.OnSlots(client.client(), {.worker = client.worker(),
                                        .offset = client.clock_offset()});
    }
  }
  clocks_.Invalidate();
  AddSlots(portion->slots, received_);
  links_->Answer(message.ticket);
  return OkStatus();
}

// --- Where steps are dealt -------------------------------------------------

void Shard::ApplyPush(comm::EndpointId from, comm::Message request,
                      PushParts push) {
  // Zero is what a push without either would read as, and would lose it.
  if (push.sequence == 0 || !push.learning_rate_factor.has_value()) {
    ReplyError(from, request,
               InvalidArgumentError("push: has no sequence or no learning rate "
                                    "factor, as one outside sync must"));
    return;
  }
  if (push.pieces.size() != 1) {
    ReplyError(from, request,
               InvalidArgumentError(StrCat("push: has ", push.pieces.size(),
                                           " pieces, where steps are dealt it "
                                           "is one")));
    return;
  }
  if (command_bytes_ > kCommandBytesMax) {
    ReplyError(from, request,
               ResourceExhaustedError(
                   StrCat("push: ", command_bytes_,
                          " bytes of pushes wait for replicas that are slow")));
    return;
  }
  auto piece = std::make_shared<const Piece>(std::move(push.pieces.front()));
  comm::Message head;
  head.header = request.header;
  const Status taken =
      TakeCommand({.client = from.value,
                   .sequence = push.sequence,
                   .step = push.step,
                   .learning_rate_factor = *push.learning_rate_factor,
                   .part = {piece, headed_},
                   .bytes = BytesOf(*piece)},
                  [this, from, head] { ReplyPush(from, head); });
  if (!taken.ok()) {
    ReplyError(from, request, taken);
  }
}

bool Shard::HasPushes(uint64_t client, uint64_t sequence) const {
  const auto known = sequences_.find(client);
  if (sequence == 0 || known == sequences_.end()) {
    return sequence == 0 || headed_->empty();
  }
  for (size_t slot = 0; slot < known->second.size(); ++slot) {
    if (headed_->slots[slot] && known->second[slot] < sequence) {
      return false;
    }
  }
  return true;
}

Status Shard::TakeCommand(Command command, std::function<void()> acknowledge) {
  const auto known = sequences_.find(command.client);
  if (known == sequences_.end() && command.sequence > 1) {
    return UnavailableError(
        StrCat("push: sequence ", command.sequence, " came before 1"));
  }
  std::vector<uint64_t>& last =
      known != sequences_.end() ? known->second : sequences_[command.client];
  last.resize(static_cast<size_t>(route_.num_slots()));
  const Portion& portion = *command.part.portion;
  int64_t fresh = 0;
  for (size_t slot = 0; slot < last.size(); ++slot) {
    if (!portion.slots[slot]) {
      continue;
    }
    if (last[slot] + 1 < command.sequence) {
      // The one before is on its way again.
      return UnavailableError(StrCat("push: sequence ", command.sequence,
                                     " came before ", last[slot] + 1));
    }
    fresh += last[slot] < command.sequence ? 1 : 0;
  }
  const std::shared_ptr<const Portion> asked = command.part.portion;
  const std::pair<uint64_t, uint64_t> key = {command.client, command.sequence};
  uint64_t added = 0;
  if (fresh > 0) {
    if (fresh < portion.num_slots) {
      const auto rest = PortionOf([&](int64_t slot) {
        return portion.Has(slot) &&
               last[static_cast<size_t>(slot)] < command.sequence;
      });
      command.part = {
          std::make_shared<const Piece>(Select(
              *command.part.piece, model_, route_.slot_bits, portion, *rest)),
          rest};
    }
    for (size_t slot = 0; slot < last.size(); ++slot) {
      if (command.part.portion->slots[slot]) {
        last[slot] = command.sequence;
      }
    }
    if (!Apply(command.part,
               {.learning_rate_factor = command.learning_rate_factor},
               command.step)) {
      return CancelledError("this shard ends");
    }
    ++step_;
    clocks_.OnPush(command.client, command.sequence, command.step);
    if (HandsOn()) {
      added = next_command_++;
      command_bytes_ += command.bytes;
      commands_.emplace(added, std::move(command));
    }
  }
  // A repeat waits for what is under way of the same slots. (Not of others: two
  // shards that are each other's next would wait for each other.)
  auto waiter = std::make_shared<Waiter>(
      Waiter{.missing = 1, .acknowledge = std::move(acknowledge)});
  for (auto& [id, other] : commands_) {
    if (std::pair(other.client, other.sequence) == key &&
        Overlap(*other.part.portion, *asked)) {
      ++waiter->missing;
      other.waiters.push_back(waiter);
    }
  }
  if (added != 0) {
    HandOn(added);
  }
  if (--waiter->missing == 0) {
    waiter->acknowledge();
  }
  return OkStatus();
}

void Shard::HandOn(uint64_t id) {
  const Command& command = commands_.at(id);
  wire::Push head;
  head.set_step(command.step);
  head.set_client(command.client);
  head.set_sequence(command.sequence);
  head.set_learning_rate_factor(command.learning_rate_factor);
  Forward(Method::kApply, head, Part(command.part),
          [this, id] { OnHandedOn(id); });
}

void Shard::OnHandedOn(uint64_t id) {
  const auto it = commands_.find(id);
  command_bytes_ -= it->second.bytes;
  const std::vector<std::shared_ptr<Waiter>> waiters =
      std::move(it->second.waiters);
  commands_.erase(it);
  for (const std::shared_ptr<Waiter>& waiter : waiters) {
    if (--waiter->missing == 0) {
      waiter->acknowledge();
    }
  }
}

}  // namespace shoal::ps
