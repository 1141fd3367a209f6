#include "launch/control.h"

#include <unistd.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "base/etcd/client.h"
#include "base/storage.h"
#include "base/strcat.h"
#include "comm/pump.h"
#include "launch/coordinator_card.h"
#include "ps/caller.h"
#include "ps/mode_switch.h"
#include "ps/protocol.pb.h"
#include "ps/staleness.h"
#include "ps/wire.h"

namespace shoal::launch {
namespace {

constexpr Duration kAnswerWithin = std::chrono::seconds(10);

struct Address {
  std::string transport;
  std::string address;
  comm::EndpointId endpoint = comm::kCoordinator;
};

StatusOr<Address> Find(const JobAddress& job) {
  if (job.out.empty() == job.coordinator.empty()) {
    return InvalidArgumentError(
        "which job? name its output folder (--job DIR) or its coordinator "
        "(--coordinator HOST:PORT or etcd://HOST:PORT/NAME), one of the two");
  }
  if (EtcdAddress::Is(job.coordinator)) {
    SHOAL_ASSIGN_OR_RETURN(const EtcdAddress etcd,
                           EtcdAddress::Parse(job.coordinator));
    const SystemClock clock;
    SHOAL_ASSIGN_OR_RETURN(const FoundCoordinator found,
                           AwaitCoordinator(etcd, clock.Now() + kAnswerWithin));
    return Address{found.card.transport, found.card.address,
                   found.card.endpoint};
  }
  if (!job.coordinator.empty()) {
    return Address{"zmq", job.coordinator.find("://") == std::string::npos
                              ? StrCat("tcp://", job.coordinator)
                              : job.coordinator};
  }
  const std::string path = StrCat(job.out, "/", kAddressFile);
  const std::unique_ptr<Storage> storage = CreateLocalStorage();
  const StatusOr<Buffer> file = storage->ReadFile(path);
  if (!file.ok()) {
    return NotFoundError(
        StrCat("no job that runs writes to ", job.out, ": there is no ", path,
               " (jobs of transport inproc and mpi have none)"));
  }
  const std::string text(file->text());
  const size_t line = text.find('\n');
  const size_t end = text.find('\n', line + 1);
  if (line == std::string::npos || end == std::string::npos) {
    return DataLossError(StrCat(path, " is damaged"));
  }
  return Address{text.substr(0, line), text.substr(line + 1, end - line - 1)};
}

// Asks the coordinator one thing.
class Question : public comm::Node {
 public:
  Question(Address to, ps::Method method, Buffer head)
      : to_(std::move(to)), method_(method), head_(std::move(head)) {}

  void OnStart(comm::NodeContext& context) override {
    caller_.emplace(context);
    caller_->AddPeer(to_.endpoint, to_.address,
                     StrCat("the coordinator at ", to_.address));
    caller_->Start(to_.endpoint, comm::Lane::kUrgent,
                   static_cast<uint16_t>(method_), "its answer", kAnswerWithin,
                   {head_}, [this, &context](StatusOr<comm::Message> reply) {
                     const Status status = reply.status();
                     if (reply.ok()) {
                       answer_ = *std::move(reply);
                     }
                     context.Stop(status);
                   });
  }
  void OnMessage(comm::EndpointId from, comm::Message message) override {
    if (message.header.kind == comm::MessageKind::kReply) {
      caller_->OnReply(from, std::move(message));
    }
  }
  void OnPeerDown(comm::EndpointId peer, const Status& why) override {
    caller_->OnPeerDown(peer, why);
  }

  const comm::Message& answer() const { return answer_; }

 private:
  const Address to_;
  const ps::Method method_;
  const Buffer head_;
  std::optional<ps::Caller> caller_;
  comm::Message answer_;
};

Status Ask(const JobAddress& job, ps::Method method,
           const google::protobuf::MessageLite& head,
           google::protobuf::MessageLite& answer) {
  SHOAL_ASSIGN_OR_RETURN(const Address address, Find(job));
  Question question(address, method, ps::Encode(head));
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<comm::Pump> pump,
                         comm::Pump::Create({.transport = address.transport}));
  SHOAL_RETURN_IF_ERROR(pump->Run(question));
  return ps::Decode(question.answer(), answer);
}

double Mega(int64_t bytes) { return static_cast<double>(bytes) / 1e6; }

std::string Fixed(double value) {
  char text[32];
  (void)std::snprintf(text, sizeof(text), "%.1f", value);
  return text;
}

}  // namespace

StatusOr<AddressFile> AddressFile::Write(const std::string& path,
                                         const std::string& transport,
                                         const std::string& address) {
  if (!path.empty()) {
    const std::unique_ptr<Storage> storage = CreateLocalStorage();
    const Buffer text = Buffer::CopyOf(StrCat(transport, "\n", address, "\n"));
    SHOAL_RETURN_IF_ERROR(storage->PublishFile(path, {&text, 1}));
  }
  return AddressFile(path);
}

AddressFile::AddressFile(AddressFile&& other) noexcept
    : path_(std::exchange(other.path_, "")) {}

AddressFile::~AddressFile() {
  if (!path_.empty()) {
    const std::unique_ptr<Storage> storage = CreateLocalStorage();
    (void)storage->Remove(path_);  // Of a job that has ended it says nothing.
  }
}

Status RunScale(const ScaleRequest& request) {
  ps::wire::Scale scale;
  scale.set_servers(request.servers);
  scale.set_workers(request.workers);
  scale.set_drain(request.drain);
  ps::wire::CommandReply reply;
  SHOAL_RETURN_IF_ERROR(Ask(request.job, ps::Method::kScale, scale, reply));
  std::printf("%s\n", reply.text().c_str());
  return OkStatus();
}

Status RunMode(const ModeRequest& request) {
  ps::wire::SetMode ask;
  ask.set_tables(request.tables);
  ask.set_dense(request.dense);
  ps::wire::CommandReply reply;
  SHOAL_RETURN_IF_ERROR(Ask(request.job, ps::Method::kSetMode, ask, reply));
  std::printf("%s\n", reply.text().c_str());
  return OkStatus();
}

namespace {

StatusOr<std::string> TextOf(const ps::wire::ModeState& in) {
  SHOAL_ASSIGN_OR_RETURN(const ps::ModeState mode, ps::FromWire(in));
  return ps::ModeText(mode.mode, mode.staleness);
}

}  // namespace

Status RunStatus(const JobAddress& job) {
  ps::wire::ClusterStatus status;
  SHOAL_RETURN_IF_ERROR(
      Ask(job, ps::Method::kStatus, ps::wire::AskStatus(), status));
  std::printf("step %lld of %lld\n", static_cast<long long>(status.step()),
              static_cast<long long>(status.total_steps()));
  SHOAL_ASSIGN_OR_RETURN(const std::string mode, TextOf(status.mode()));
  std::printf("consistency: %s", mode.c_str());
  if (status.mode().number() > 0) {
    std::printf(" since step %lld",
                static_cast<long long>(status.mode().from_step()));
  }
  if (status.has_mode_wanted()) {
    SHOAL_ASSIGN_OR_RETURN(const std::string wanted,
                           TextOf(status.mode_wanted()));
    std::printf(", becomes %s", wanted.c_str());
  }
  std::printf("\n");
  if (status.has_loss_scale()) {
    std::printf("loss scale %g, %lld steps skipped\n", status.loss_scale(),
                static_cast<long long>(status.steps_skipped()));
  }
  if (status.has_staleness()) {
    SHOAL_ASSIGN_OR_RETURN(const Histogram staleness,
                           ps::FromWire(status.staleness()));
    std::printf("staleness of gradients in clocks: %s\n",
                staleness.ToString().c_str());
  }
  std::printf(
      "%lld slots with %d replica%s each: %lld lack some, %lld are "
      "being copied (route version %llu)\n",
      static_cast<long long>(status.slots()), status.replicas(),
      status.replicas() == 1 ? "" : "s",
      static_cast<long long>(status.short_slots()),
      static_cast<long long>(status.joining_slots()),
      static_cast<unsigned long long>(status.version()));
  if (status.moved() > 0 || status.sent() > 0) {
    std::printf(
        "%.1f MB of slots moved, %.1f MB sent for that and for repairs\n",
        Mega(status.moved()), Mega(status.sent()));
  }
  std::printf("%-20s %-16s %8s %10s %10s %8s %8s %8s\n", "member", "host",
              "pid", "MB", "MB/s", "head of", "holds", "joins");
  for (const auto& shard : status.shards()) {
    std::string bytes = "-";
    std::string load = "-";
    if (status.loads_known()) {
      bytes = Fixed(Mega(shard.bytes())) +
              (shard.to_come() > 0 ? "+" + Fixed(Mega(shard.to_come())) : "");
      load = Fixed(shard.load() / 1e6);
    }
    std::printf("%-20s %-16s %8lld %10s %10s %8lld %8lld %8lld%s\n",
                shard.name().c_str(), shard.host().c_str(),
                static_cast<long long>(shard.pid()), bytes.c_str(),
                load.c_str(), static_cast<long long>(shard.headed()),
                static_cast<long long>(shard.held()),
                static_cast<long long>(shard.joining()),
                shard.leaving() ? "  leaving" : "");
  }
  for (const auto& worker : status.workers()) {
    std::printf("%-20s %-16s %8lld%s\n", worker.name().c_str(),
                worker.host().c_str(), static_cast<long long>(worker.pid()),
                worker.backup() ? "  backup" : "");
  }
  return OkStatus();
}

}  // namespace shoal::launch
