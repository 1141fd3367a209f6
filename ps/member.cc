#include "ps/member.h"

#include <unistd.h>

#include <utility>

#include "base/strcat.h"
#include "ps/protocol.pb.h"
#include "ps/wire.h"

namespace shoal::ps {
namespace {

// Before a lost coordinator is called again: one that is not there refuses at
// once.
constexpr Duration kHelloPause = std::chrono::milliseconds(50);

// Between two looks for another coordinator.
constexpr Duration kLookPause = std::chrono::milliseconds(250);

StatusOr<JoinResult> ReadJoinReply(const comm::Message& message) {
  wire::JoinReply reply;
  SHOAL_RETURN_IF_ERROR(Decode(message, reply));
  JoinResult result;
  result.index = reply.index();
  result.num_workers = reply.num_workers();
  result.local_index = reply.local_index();
  result.virtual_begin = reply.virtual_begin();
  result.virtual_end = reply.virtual_end();
  SHOAL_ASSIGN_OR_RETURN(result.route, FromWire(reply.route()));
  SHOAL_ASSIGN_OR_RETURN(result.model, FromWire(reply.model()));
  SHOAL_ASSIGN_OR_RETURN(result.plan, FromWire(reply.plan()));
  result.job_text = reply.job_text();
  result.restores = reply.restores();
  result.step = reply.step();
  result.mode_number = reply.mode_number();
  SHOAL_ASSIGN_OR_RETURN(result.last, FromWire(reply.last()));
  if (message.frames.size() > 1) {
    result.setup = message.frames[1];
  }
  return result;
}

}  // namespace

Member::Member(comm::NodeContext& context, Caller& caller,
               const Options& options,
               std::function<void(StatusOr<JoinResult>)> joined,
               std::function<void(Status)> ended)
    : context_(context),
      caller_(caller),
      options_(options),
      joined_(std::move(joined)),
      ended_(std::move(ended)) {}

Member::~Member() {
  context_.CancelTimer(timer_);
  context_.CancelTimer(hello_timer_);
  context_.CancelTimer(look_timer_);
}

void Member::Start() {
  caller_.AddPeer(options_.coordinator.endpoint, options_.coordinator.address,
                  StrCat("the coordinator at ", options_.coordinator.address));
  wire::Join join;
  join.set_role(options_.is_worker ? wire::Join::WORKER : wire::Join::SHARD);
  join.set_server(options_.server);
  join.set_shard(options_.shard);
  join.set_worker(options_.worker);
  join.set_address(context_.address());
  char host[256] = "";
  (void)gethostname(host, sizeof(host) - 1);
  join.set_host(host);
  join.set_pid(getpid());
  caller_.Start(
      options_.coordinator.endpoint, comm::Lane::kUrgent,
      static_cast<uint16_t>(Method::kJoin), "leave to join",
      options_.join_within, {Encode(join)},
      [this](StatusOr<comm::Message> reply) { OnJoinReply(std::move(reply)); });
  last_heard_ = context_.Now();
  Look();
}

void Member::OnJoinReply(StatusOr<comm::Message> reply) {
  joining_ = false;
  if (!reply.ok()) {
    joined_(reply.status().WithPrefix("join"));
    return;
  }
  StatusOr<JoinResult> result = ReadJoinReply(*reply);
  if (result.ok()) {
    timeout_ = result->plan.timeout;
    last_heard_ = context_.Now();
    Watch();
  }
  joined_(std::move(result));
}

void Member::Watch() {
  const Duration silent = context_.Now() - last_heard_;
  if (silent >= timeout_) {
    End(UnavailableError(StrCat("heard nothing from the coordinator at ",
                                options_.coordinator.address, " for ",
                                ToString(silent))));
    return;
  }
  timer_ =
      context_.SetTimer(context_.Now() + timeout_ / 4, [this] { Watch(); });
}

void Member::Look() {
  context_.CancelTimer(look_timer_);
  look_timer_ = comm::TimerId::kNone;
  if (options_.find_coordinator == nullptr || looking_) {
    return;
  }
  if (!joining_ && !missed_ && context_.Now() < last_heard_ + timeout_ / 2) {
    look_timer_ =
        context_.SetTimer(context_.Now() + kLookPause, [this] { Look(); });
    return;
  }
  looking_ = true;
  auto found = std::make_shared<CoordinatorPlace>();
  context_.StartStorage(
      [find = options_.find_coordinator,
       found](Storage& /*storage*/) -> StatusOr<Buffer> {
        SHOAL_ASSIGN_OR_RETURN(*found, find());
        return Buffer();
      },
      [this, found](const StatusOr<Buffer>& looked) {
        looking_ = false;
        if (looked.ok()) {
          Follow(*found);
        }
        look_timer_ =
            context_.SetTimer(context_.Now() + kLookPause, [this] { Look(); });
      });
}

void Member::Follow(const CoordinatorPlace& place) {
  if (place.epoch <= options_.coordinator.epoch) {
    return;
  }
  const comm::EndpointId before =
      std::exchange(options_.coordinator, place).endpoint;
  caller_.AddPeer(place.endpoint, place.address,
                  StrCat("the coordinator at ", place.address));
  caller_.Redirect(before, place.endpoint);
  context_.Disconnect(before);
  last_heard_ = context_.Now();
  missed_ = false;
}

bool Member::OnMessage(comm::EndpointId from, const comm::Message& message) {
  wire::Recover recover;
  if (from != options_.coordinator.endpoint &&
      options_.find_coordinator != nullptr &&
      message.header.method == static_cast<uint16_t>(Method::kRecover) &&
      message.header.kind == comm::MessageKind::kRequest &&
      Decode(message, recover).ok() && !recover.address().empty()) {
    Follow({from, recover.address(), recover.epoch()});
  }
  if (from != options_.coordinator.endpoint) {
    return false;
  }
  last_heard_ = context_.Now();
  missed_ = false;
  switch (static_cast<Method>(message.header.method)) {
    case Method::kAlive: {
      comm::Message answer;
      answer.header.method = static_cast<uint16_t>(Method::kAlive);
      // A lost sign of life is made up for by the next.
      (void)context_.Send(from, comm::Lane::kUrgent, std::move(answer));
      return true;
    }
    case Method::kAbort: {
      wire::Abort abort;
      if (Decode(message, abort).ok()) {
        End(FromWire(abort));
      }
      return true;
    }
    default:
      return false;
  }
}

void Member::OnPeerDown(comm::EndpointId peer) {
  if (peer != options_.coordinator.endpoint) {
    return;
  }
  missed_ = true;
  if (hello_timer_ == comm::TimerId::kNone) {
    hello_timer_ =
        context_.SetTimer(context_.Now() + kHelloPause, [this] { SayHello(); });
  }
}

// The coordinator may have lost only this connection, or be started again: it
// hears from us, and Watch() decides when it is really gone.
void Member::SayHello() {
  hello_timer_ = comm::TimerId::kNone;
  (void)context_.Connect(options_.coordinator.endpoint,
                         options_.coordinator.address);
  comm::Message hello;
  hello.header.method = static_cast<uint16_t>(Method::kAlive);
  (void)context_.Send(options_.coordinator.endpoint, comm::Lane::kUrgent,
                      std::move(hello));
}

void Member::End(const Status& why) {
  if (ended_) {
    std::exchange(ended_, nullptr)(why);
  }
}

void AnswerRecover(comm::NodeContext& context, comm::EndpointId coordinator,
                   const comm::Message& request, int64_t step,
                   const StepDecision* last, int64_t mode_number) {
  wire::Recover recover;
  wire::RecoverReply reply;
  reply.set_step(step);
  reply.set_mode_number(mode_number);
  if (last != nullptr) {
    ToWire(*last, *reply.mutable_last());
  }
  const Status decoded = Decode(request, recover);
  // One that can't be sent is asked for again.
  (void)context.Send(coordinator, comm::Lane::kUrgent,
                     decoded.ok() ? comm::MakeReply(request, {Encode(reply)})
                                  : comm::MakeErrorReply(request, decoded));
}

}  // namespace shoal::ps
