#include "comm/operation_watch.h"

#include <algorithm>
#include <utility>

#include "base/strcat.h"

namespace shoal::comm {
namespace {

// Messages between members: how far are you, so far, and I have given up (the
// text is frame 0).
constexpr uint8_t kAsk = 1;
constexpr uint8_t kSoFar = 2;
constexpr uint8_t kAbort = 3;

// An operation that has lost a member may end in order all the same, its part
// done.
constexpr Duration kGrace = std::chrono::seconds(1);

}  // namespace

OperationWatch::OperationWatch(NodeContext& context, const Group& group,
                               Options options)
    : context_(context),
      group_(group),
      options_(std::move(options)),
      members_(group.members.size()) {}

OperationWatch::~OperationWatch() {
  for (const auto& [sequence, op] : operations_) {
    context_.CancelTimer(op.ask_timer);
    context_.CancelTimer(op.deadline_timer);
  }
  for (const TimerId timer : grace_timers_) {
    context_.CancelTimer(timer);
  }
}

Status OperationWatch::Connect() {
  for (int rank = 0; rank < group_.size(); ++rank) {
    const Group::Member& member = group_.members[static_cast<size_t>(rank)];
    if (rank != group_.rank) {
      SHOAL_RETURN_IF_ERROR(context_.Connect(member.endpoint, member.address)
                                .WithPrefix(member.name));
    }
  }
  return OkStatus();
}

std::optional<uint64_t> OperationWatch::Begin(const char* name, DType dtype,
                                              int64_t count, Done done) {
  const uint64_t sequence = next_sequence_++;
  std::string text =
      StrCat(name, " ", sequence, " of ", count, " ", Name(dtype));
  return Watch(sequence, std::move(text), std::move(done))
             ? std::optional<uint64_t>(sequence)
             : std::nullopt;
}

void OperationWatch::BeginOpening(std::string text, Done done) {
  Watch(kOpening, std::move(text), std::move(done));
}

// False if it can't be.
bool OperationWatch::Watch(uint64_t sequence, std::string text, Done done) {
  for (size_t r = 0; broken_.ok() && r < members_.size(); ++r) {
    if (!members_[r].down.ok()) {
      Fail(LostError(text, r));
    }
  }
  if (!broken_.ok()) {
    context_.Post([done = std::move(done), why = broken_] { done(why); });
    return false;
  }
  const Time now = context_.Now();
  operations_[sequence] = {
      .text = std::move(text),
      .done = std::move(done),
      // Late enough that who is asked has had most of its time.
      .ask_timer =
          context_.SetTimer(now + options_.timeout * 3 / 4, [this] { Ask(); }),
      .deadline_timer = context_.SetTimer(
          now + options_.timeout, [this, sequence] { OnDeadline(sequence); })};
  return true;
}

OperationWatch::Done OperationWatch::End(uint64_t sequence) {
  const auto it = operations_.find(sequence);
  if (it == operations_.end()) {
    return nullptr;
  }
  context_.CancelTimer(it->second.ask_timer);
  context_.CancelTimer(it->second.deadline_timer);
  Done done = std::move(it->second.done);
  operations_.erase(it);
  return done;
}

std::string OperationWatch::TextOf(uint64_t sequence) const {
  const auto it = operations_.find(sequence);
  return it == operations_.end() ? "" : it->second.text;
}

bool OperationWatch::OnMessage(EndpointId from, const Message& message) {
  if (!IsOfGroup(message, group_)) {
    return false;
  }
  const int rank = group_.RankOf(from);
  if (rank < 0) {
    return true;
  }
  const Group::Member& member = group_.members[static_cast<size_t>(rank)];
  switch (message.header.status) {
    case kAsk:
      Tell(from, kSoFar, next_sequence_ - 1, "");
      return true;
    case kSoFar: {
      Member& told = members_[static_cast<size_t>(rank)];
      told.sequence = SequenceOf(message);
      told.answered = true;
      return true;
    }
    case kAbort:
      Fail(GaveUpError(member, message), /*tell=*/false);
      return true;
    default:
      Fail(InvalidArgumentError(
          StrCat(member.name,
                 " sent a message of another collective backend: is "
                 "cluster.collective the same everywhere?")));
      return true;
  }
}

void OperationWatch::Tell(EndpointId to, uint8_t phase, uint64_t sequence,
                          const std::string& text) {
  Message message;
  message.header.method = kCollectiveMethod;
  message.header.request = CollectiveRequest(group_, sequence);
  message.header.status = phase;
  if (!text.empty()) {
    message.frames.push_back(Buffer::CopyOf(text));
  }
  // One that does not get it has its own deadline.
  (void)context_.Send(to, Lane::kUrgent, std::move(message));
}

void OperationWatch::Ask() {
  for (int rank = 0; rank < group_.size(); ++rank) {
    if (rank != group_.rank) {
      members_[static_cast<size_t>(rank)].answered = false;
      Tell(group_.members[static_cast<size_t>(rank)].endpoint, kAsk, 0, "");
    }
  }
}

// Who keeps an operation from its end, as far as it is known.
std::string OperationWatch::Late(uint64_t sequence) const {
  std::string late;
  for (size_t rank = 0; rank < members_.size(); ++rank) {
    const Member& member = members_[rank];
    if (static_cast<int>(rank) == group_.rank ||
        (member.answered && member.sequence >= sequence)) {
      continue;
    }
    late +=
        StrCat(late.empty() ? "" : ", ", group_.members[rank].name,
               member.answered ? " (has not called it)" : " (does not answer)");
  }
  return late;
}

void OperationWatch::OnDeadline(uint64_t sequence) {
  const auto it = operations_.find(sequence);
  if (it == operations_.end()) {
    return;
  }
  const std::string late = Late(sequence);
  Fail(DeadlineExceededError(
      StrCat(it->second.text, ": waited ", ToString(options_.timeout), " for ",
             late.empty() ? StrCat(options_.library, ", though all ",
                                   group_.size(), " members have called it")
                          : late)));
}

void OperationWatch::OnPeerDown(EndpointId peer, const Status& why) {
  const int rank = group_.RankOf(peer);
  if (rank < 0 || rank == group_.rank) {
    return;
  }
  members_[static_cast<size_t>(rank)].down = why;
  if (!found_lost_.ok()) {
    Fail(LostError(found_lost_.message(), static_cast<size_t>(rank)));
  } else if (!operations_.empty()) {
    grace_timers_.push_back(context_.SetTimer(
        context_.Now() + std::min(kGrace, options_.timeout),
        [this, rank, last = next_sequence_ - 1] { OnGrace(rank, last); }));
  }
}

// What went on when `rank` was lost, and still does, will not end.
void OperationWatch::OnGrace(int rank, uint64_t last) {
  if (!operations_.empty() && operations_.begin()->first <= last) {
    Fail(
        LostError(operations_.begin()->second.text, static_cast<size_t>(rank)));
  }
}

Status OperationWatch::LostError(std::string_view text, size_t rank) const {
  return UnavailableError(StrCat(text, ": ", group_.members[rank].name,
                                 " is lost: ", members_[rank].down.message()));
}

void OperationWatch::FailNamingWhoIsLost(const Status& why) {
  found_lost_ = why;
  for (size_t r = 0; r < members_.size(); ++r) {
    if (!members_[r].down.ok()) {
      Fail(LostError(why.message(), r));
    }
  }
  grace_timers_.push_back(context_.SetTimer(
      context_.Now() + std::min(kGrace, options_.timeout), [this] {
        Fail(InternalError(StrCat(found_lost_.message(),
                                  "; no member has lost its connection")));
      }));
}

void OperationWatch::Fail(const Status& why, bool tell) {
  if (!broken_.ok()) {
    return;
  }
  broken_ = why;
  for (int rank = 0; tell && rank < group_.size(); ++rank) {
    if (rank != group_.rank) {
      Tell(group_.members[static_cast<size_t>(rank)].endpoint, kAbort, 0,
           why.message());
    }
  }
  if (options_.on_broken) {
    options_.on_broken();
  }
  for (auto& [sequence, op] : std::exchange(operations_, {})) {
    context_.CancelTimer(op.ask_timer);
    context_.CancelTimer(op.deadline_timer);
    context_.Post([done = std::move(op.done), why] { done(why); });
  }
}

}  // namespace shoal::comm
