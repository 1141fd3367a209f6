// Shared memory between endpoints of one host, TCP between the others.
//
// An address is "auto:<host>;shm:...;tcp://...", or only "tcp://..." as people
// write it, which TCP is then used for. Two endpoints are of one host
// when they share a kernel that has not restarted and a network namespace,
// which is where shm's sockets have their names; containers of one pod do.

#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>

#include <sys/stat.h>

#include "base/random.h"
#include "base/strcat.h"
#include "comm/endpoint.h"
#include "comm/transport.h"
#include "comm/transports/event_loop.h"
#include "comm/transports/tcp_address.h"

namespace shoal::comm {
namespace {

constexpr std::string_view kAutoPrefix = "auto:";

StatusOr<std::string> HostIdentity() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string boot;
  struct stat network = {};
  if (!std::getline(file, boot) || boot.empty() ||
      ::stat("/proc/self/ns/net", &network) != 0) {
    return UnavailableError(
        "auto: cannot tell this host from others, /proc is not readable; "
        "choose the transport shm or zmq");
  }
  std::ostringstream out;
  out << std::hex << HashKey(HashText(boot), network.st_ino);
  return out.str();
}

class AutoEndpoint : public Endpoint {
 public:
  AutoEndpoint(std::string host, std::unique_ptr<EventLoop> loop,
               std::unique_ptr<LoopEndpoint> shm,
               std::unique_ptr<LoopEndpoint> zmq)
      : host_(std::move(host)),
        loop_(std::move(loop)),
        shm_(std::move(shm)),
        zmq_(std::move(zmq)) {}

  std::string address() const override {
    return StrCat(kAutoPrefix, host_, ";", shm_->address(), ";",
                  zmq_->address());
  }

  Status Connect(EndpointId peer, const std::string& address) override {
    if (shm_->Knows(peer) || zmq_->Knows(peer)) {
      return OkStatus();
    }
    if (address.starts_with(kTcpPrefix)) {
      return zmq_->Connect(peer, address);
    }
    std::string_view rest = address;
    const size_t first = rest.find(';');
    const size_t second = rest.find(';', first + 1);
    if (!rest.starts_with(kAutoPrefix) || first == std::string_view::npos ||
        second == std::string_view::npos) {
      return InvalidArgumentError(
          StrCat("connect: '", address, "' is not an address of auto"));
    }
    const std::string_view host =
        rest.substr(kAutoPrefix.size(), first - kAutoPrefix.size());
    const std::string shm(rest.substr(first + 1, second - first - 1));
    const std::string tcp(rest.substr(second + 1));
    return host == host_ ? shm_->Connect(peer, shm) : zmq_->Connect(peer, tcp);
  }

  void Disconnect(EndpointId peer) override {
    shm_->Disconnect(peer);
    zmq_->Disconnect(peer);
  }

  Status Send(EndpointId peer, Lane lane, Message message) override {
    LoopEndpoint& endpoint = shm_->Knows(peer) ? *shm_ : *zmq_;
    return endpoint.Send(peer, lane, std::move(message));
  }

  Status Poll(EndpointSink& sink, Duration timeout) override {
    if (closed_) {
      return FailedPreconditionError("poll: the endpoint is closed");
    }
    LoopEndpoint* const endpoints[] = {shm_.get(), zmq_.get()};
    PollTogether(*loop_, endpoints, sink, timeout);
    return OkStatus();
  }

  void Wake() override { loop_->Wake(); }

  Status Close(Time deadline) override {
    closed_ = true;
    const Status shm = shm_->Close(deadline);
    const Status zmq = zmq_->Close(deadline);
    return shm.ok() ? zmq : shm;
  }

 private:
  const std::string host_;
  const std::unique_ptr<EventLoop> loop_;  // outlives the endpoints
  const std::unique_ptr<LoopEndpoint> shm_;
  const std::unique_ptr<LoopEndpoint> zmq_;
  bool closed_ = false;
};

// `options.listen` is where zmq listens.
StatusOr<std::unique_ptr<Endpoint>> CreateAuto(
    const Endpoint::Options& options) {
  SHOAL_ASSIGN_OR_RETURN(std::string host, HostIdentity());
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<EventLoop> loop, EventLoop::Create());
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<LoopEndpoint> zmq,
                         CreateZmqIn(*loop, options));
  Endpoint::Options shm_options = options;
  shm_options.listen.clear();
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<LoopEndpoint> shm,
                         CreateShmIn(*loop, shm_options));
  return std::unique_ptr<Endpoint>(std::make_unique<AutoEndpoint>(
      std::move(host), std::move(loop), std::move(shm), std::move(zmq)));
}

SHOAL_REGISTER_TRANSPORT("auto", &CreateAuto);

}  // namespace
}  // namespace shoal::comm
