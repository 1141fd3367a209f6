#ifndef SHOAL_COMM_TRANSPORTS_ZMQ_SOCKET_H_
#define SHOAL_COMM_TRANSPORTS_ZMQ_SOCKET_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "base/time.h"

// A thin layer over libzmq, so that only zmq_socket.cc includes its header.
namespace shoal::comm {

// The I/O thread of this process, shared by all endpoints that live.
std::shared_ptr<void> SharedZmqContext();

// "Connection refused" for an errno of libzmq.
std::string ZmqErrorText(int error);

// One socket. Thread-compatible.
class ZmqSocket {
 public:
  enum class Kind { kRouter, kDealer };

  ZmqSocket() = default;
  ~ZmqSocket() { Close(Duration(0)); }
  ZmqSocket(ZmqSocket&& other) noexcept { *this = std::move(other); }
  ZmqSocket& operator=(ZmqSocket&& other) noexcept;

  static StatusOr<ZmqSocket> Open(std::shared_ptr<void> context, Kind kind);

  bool valid() const { return socket_ != nullptr; }

  // 0 or an errno.
  int Bind(const std::string& endpoint);
  int Connect(const std::string& endpoint);

  // Of the last Bind(): with the port that was picked.
  std::string bound_endpoint() const;

  // Readable when ReceiveParts() may have become worth a call; only after one
  // that found nothing.
  int wait_fd() const;

  // Sends a message of the parts. Large ones are shared, not copied. `on_taken`
  // runs on any thread once the last part has gone to the network or was
  // dropped. False when the connection is no more.
  bool Send(const Buffer& first, const std::vector<Buffer>& rest,
            std::function<void()> on_taken);

  // The parts of the next message, aligned to 8 bytes. False when there is
  // none.
  bool ReceiveParts(std::vector<Buffer>* parts);

  // Begins to keep what becomes of the connection; before Connect().
  Status WatchLink();
  enum class Link { kNothing, kUp, kFailed, kLost };
  // The next event; kFailed and kLost end the socket. `error` is an errno or 0.
  Link NextLinkEvent(int* error);
  int link_fd() const;

  // What was sent goes on being sent for up to `linger`.
  void Close(Duration linger);

 private:
  std::shared_ptr<void> context_;
  void* socket_ = nullptr;
  void* monitor_ = nullptr;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_TRANSPORTS_ZMQ_SOCKET_H_
