#include "comm/transports/zmq_socket.h"

#include <zmq.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/mutex.h"
#include "base/strcat.h"
#include "comm/message.h"

namespace shoal::comm {
namespace {

// Parts from this size on are shared with libzmq; smaller ones are cheaper to
// copy.
constexpr int64_t kShareBytes = 2048;

// How many messages wait in one incoming connection before its sender's queue
// grows instead.
constexpr int kIncomingMax = 64;

void SetInt(void* socket, int option, int value) {
  ::zmq_setsockopt(socket, option, &value, sizeof(value));
}

int GetFd(void* socket) {
  int fd = -1;
  size_t size = sizeof(fd);
  ::zmq_getsockopt(socket, ZMQ_FD, &fd, &size);
  return fd;
}

// What libzmq holds on to until it has sent a part.
struct HeldPart {
  Buffer bytes;
  std::function<void()> on_taken;
  // libzmq's queues order this thread's writes before its own thread's reads;
  // the flag says so to tools that can't look into libzmq.
  std::atomic<bool> handed_over = false;
};

void ReleasePart(void* /*data*/, void* hint) {
  const std::unique_ptr<HeldPart> part(static_cast<HeldPart*>(hint));
  (void)part->handed_over.load(std::memory_order_acquire);
  if (part->on_taken) {
    part->on_taken();
  }
}

int SendHeld(void* socket, const Buffer& bytes, std::function<void()> on_taken,
             int flags) {
  auto part = std::make_unique<HeldPart>();
  part->bytes = bytes;
  part->on_taken = std::move(on_taken);
  part->handed_over.store(true, std::memory_order_release);
  // libzmq only reads it, whatever the signature says.
  void* const data = part->bytes.data();
  zmq_msg_t message;
  if (::zmq_msg_init_data(&message, data, static_cast<size_t>(bytes.size()),
                          &ReleasePart, part.get()) != 0) {
    return -1;
  }
  part.release();
  const int sent = ::zmq_msg_send(&message, socket, flags | ZMQ_DONTWAIT);
  if (sent < 0) {
    ::zmq_msg_close(&message);  // Releases the part.
  }
  return sent;
}

// A received part that buffers point into.
struct ReceivedPart {
  ReceivedPart() { ::zmq_msg_init(&message); }
  ~ReceivedPart() { ::zmq_msg_close(&message); }
  zmq_msg_t message;
};

Buffer TakePart(zmq_msg_t* message) {
  const auto size = static_cast<int64_t>(::zmq_msg_size(message));
  void* const data = ::zmq_msg_data(message);
  // Small parts may point into a larger piece of memory, or anywhere in it.
  if (size < kShareBytes || reinterpret_cast<uintptr_t>(data) % 8 != 0) {
    return Buffer::CopyOf(data, size);
  }
  auto part = std::make_shared<ReceivedPart>();
  ::zmq_msg_move(&part->message, message);
  void* const moved = ::zmq_msg_data(&part->message);
  return Buffer::Wrap(moved, size, std::move(part));
}

void SetCommonOptions(void* socket) {
  SetInt(socket, ZMQ_LINGER, 0);
  SetInt(socket, ZMQ_IPV6, 1);
  SetInt(socket, ZMQ_HANDSHAKE_IVL, 5000);
  SetInt(socket, ZMQ_SNDHWM, 0);  // Bounded by bytes, in the endpoint.
  SetInt(socket, ZMQ_RCVHWM, kIncomingMax);
  // A host that vanished without a word. Long enough for a peer whose incoming
  // messages wait because its node is busy: it reads no heartbeats meanwhile.
  SetInt(socket, ZMQ_HEARTBEAT_IVL, 2000);
  SetInt(socket, ZMQ_HEARTBEAT_TIMEOUT, 15000);
  SetInt(socket, ZMQ_HEARTBEAT_TTL, 15000);
  const int64_t part_bytes_max = kMessageBytesMax;
  ::zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &part_bytes_max,
                   sizeof(part_bytes_max));
}

Status ZmqError(std::string_view what) {
  return UnavailableError(
      StrCat("zmq: ", what, ": ", ::zmq_strerror(::zmq_errno())));
}

}  // namespace

std::shared_ptr<void> SharedZmqContext() {
  static auto* const mutex = new Mutex;
  static auto* const known = new std::weak_ptr<void>;
  const MutexLock lock(*mutex);
  std::shared_ptr<void> context = known->lock();
  if (context == nullptr) {
    void* const made = ::zmq_ctx_new();
    ::zmq_ctx_set(made, ZMQ_MAX_SOCKETS, 65535);
    context = std::shared_ptr<void>(made, [](void* ended) {
      while (::zmq_ctx_term(ended) != 0 && ::zmq_errno() == EINTR) {
      }
    });
    *known = context;
  }
  return context;
}

std::string ZmqErrorText(int error) { return ::zmq_strerror(error); }

ZmqSocket& ZmqSocket::operator=(ZmqSocket&& other) noexcept {
  context_.swap(other.context_);
  std::swap(socket_, other.socket_);
  std::swap(monitor_, other.monitor_);
  return *this;
}

StatusOr<ZmqSocket> ZmqSocket::Open(std::shared_ptr<void> context, Kind kind) {
  ZmqSocket socket;
  socket.context_ = std::move(context);
  socket.socket_ = ::zmq_socket(
      socket.context_.get(), kind == Kind::kRouter ? ZMQ_ROUTER : ZMQ_DEALER);
  if (socket.socket_ == nullptr) {
    return ZmqError("socket");
  }
  SetCommonOptions(socket.socket_);
  if (kind == Kind::kDealer) {
    // A connection that breaks stays broken: libzmq would connect again and
    // drop what was under way without a word.
    SetInt(socket.socket_, ZMQ_RECONNECT_IVL, -1);
    SetInt(socket.socket_, ZMQ_CONNECT_TIMEOUT, 3000);
  }
  return socket;
}

Status ZmqSocket::WatchLink() {
  static std::atomic<uint64_t> next{1};
  const std::string name = StrCat("inproc://shoal-monitor-", next.fetch_add(1));
  if (::zmq_socket_monitor(socket_, name.c_str(),
                           ZMQ_EVENT_HANDSHAKE_SUCCEEDED |
                               ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED |
                               ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                               ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                               ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) != 0) {
    return ZmqError("monitor");
  }
  monitor_ = ::zmq_socket(context_.get(), ZMQ_PAIR);
  if (monitor_ == nullptr || ::zmq_connect(monitor_, name.c_str()) != 0) {
    return ZmqError("monitor");
  }
  SetInt(monitor_, ZMQ_LINGER, 0);
  return OkStatus();
}

int ZmqSocket::Bind(const std::string& endpoint) {
  return ::zmq_bind(socket_, endpoint.c_str()) == 0 ? 0 : ::zmq_errno();
}

int ZmqSocket::Connect(const std::string& endpoint) {
  return ::zmq_connect(socket_, endpoint.c_str()) == 0 ? 0 : ::zmq_errno();
}

std::string ZmqSocket::bound_endpoint() const {
  char text[256] = {};
  size_t size = sizeof(text);
  if (::zmq_getsockopt(socket_, ZMQ_LAST_ENDPOINT, text, &size) != 0) {
    return "";
  }
  return text;
}

int ZmqSocket::wait_fd() const { return GetFd(socket_); }
int ZmqSocket::link_fd() const { return GetFd(monitor_); }

bool ZmqSocket::Send(const Buffer& first, const std::vector<Buffer>& rest,
                     std::function<void()> on_taken) {
  for (size_t i = 0; i < rest.size() + 1; ++i) {
    const Buffer& part = i == 0 ? first : rest[i - 1];
    const bool last = i == rest.size();
    const int flags = last ? 0 : ZMQ_SNDMORE;
    int sent = 0;
    if (last && on_taken) {
      sent = SendHeld(socket_, part, std::move(on_taken), flags);
    } else if (part.size() >= kShareBytes) {
      sent = SendHeld(socket_, part, nullptr, flags);
    } else {
      sent = ::zmq_send(socket_, part.data(), static_cast<size_t>(part.size()),
                        flags | ZMQ_DONTWAIT);
    }
    if (sent < 0) {
      return false;
    }
  }
  return true;
}

bool ZmqSocket::ReceiveParts(std::vector<Buffer>* parts) {
  parts->clear();
  while (true) {
    zmq_msg_t message;
    ::zmq_msg_init(&message);
    if (::zmq_msg_recv(&message, socket_, ZMQ_DONTWAIT) < 0) {
      ::zmq_msg_close(&message);
      return false;
    }
    const bool more = ::zmq_msg_more(&message) != 0;
    parts->push_back(TakePart(&message));
    ::zmq_msg_close(&message);
    if (!more) {
      return true;
    }
  }
}

ZmqSocket::Link ZmqSocket::NextLinkEvent(int* error) {
  *error = 0;
  char event[6] = {};
  if (monitor_ == nullptr ||
      ::zmq_recv(monitor_, event, sizeof(event), ZMQ_DONTWAIT) < 0) {
    return Link::kNothing;
  }
  char endpoint[256];
  ::zmq_recv(monitor_, endpoint, sizeof(endpoint), ZMQ_DONTWAIT);
  uint16_t kind = 0;
  uint32_t value = 0;
  std::memcpy(&kind, event, sizeof(kind));
  std::memcpy(&value, event + sizeof(kind), sizeof(value));
  switch (kind) {
    case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
      return Link::kUp;
    case ZMQ_EVENT_DISCONNECTED:
      return Link::kLost;
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
      *error = static_cast<int>(value);
      return Link::kFailed;
    default:
      return Link::kFailed;
  }
}

void ZmqSocket::Close(Duration linger) {
  if (monitor_ != nullptr) {
    // Events stop before their reader goes: libzmq's thread would wait for ever
    // to hand one over.
    ::zmq_socket_monitor(socket_, nullptr, 0);
    ::zmq_close(std::exchange(monitor_, nullptr));
  }
  if (socket_ != nullptr) {
    SetInt(socket_, ZMQ_LINGER,
           static_cast<int>(
               std::chrono::ceil<std::chrono::milliseconds>(linger).count()));
    ::zmq_close(std::exchange(socket_, nullptr));
  }
  context_.reset();
}

}  // namespace shoal::comm
