#ifndef SHOAL_COMM_TRANSPORTS_SHM_SESSION_H_
#define SHOAL_COMM_TRANSPORTS_SHM_SESSION_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/unique_fd.h"
#include "comm/message.h"
#include "comm/transports/shm_ring.h"

namespace shoal::comm {

// The memory of one session: a ring per direction and lane, and for each side a
// word that says that it sleeps. It has no name: the descriptor travels over a
// socket, and the kernel frees it with its last user.
class ShmMemory {
 public:
  ShmMemory() = default;
  ~ShmMemory();
  ShmMemory(ShmMemory&& other) noexcept
      : fd_(std::move(other.fd_)), base_(std::exchange(other.base_, nullptr)) {}
  ShmMemory& operator=(ShmMemory&& other) noexcept {
    fd_ = std::move(other.fd_);
    std::swap(base_, other.base_);
    return *this;
  }

  static StatusOr<ShmMemory> Create();
  // Of a peer; its size is checked, and that nobody can shrink it.
  static StatusOr<ShmMemory> Adopt(UniqueFd fd);

  int fd() const { return fd_.get(); }
  void CloseFd() { fd_.Reset(); }

  // `side` 0 is who made the memory.
  std::atomic<uint32_t>& sleeping(int side);
  ShmRingWriter Writer(int side, int lane);
  ShmRingReader Reader(int side, int lane);  // of what `side` writes

 private:
  Status Map(UniqueFd fd);

  UniqueFd fd_;
  std::byte* base_ = nullptr;
};

// What goes over the socket of a session: one of these per datagram.
struct ShmRecord {
  enum Kind : uint32_t {
    kHello = 1,    // with the memory and the caller's doorbell
    kWelcome = 2,  // with the other's doorbell
    kYield = 3,    // both called at once: wait for my call instead
    kRefuse = 4,   // not the endpoint that was asked for, or it does not want
    kBye = 5,      // all is sent, and I go
  };
  static constexpr uint64_t kMagic = 0x316d68732d6c6873;
  uint64_t magic = kMagic;
  uint32_t version = 1;
  uint32_t kind = 0;
  EndpointId from;
  EndpointId to;
};

// False when the socket does not take it.
bool SendRecord(int socket, const ShmRecord& record,
                std::span<const int> fds = {});

enum class ReceiveResult { kRecord, kNothing, kEnd };
// kEnd: hung up, or what came is not a record. Never blocks.
ReceiveResult ReceiveRecord(int socket, ShmRecord* record,
                            std::vector<UniqueFd>* fds);

// Sockets live in the abstract namespace: no file is left behind.
// Errors: kUnavailable (the name is taken).
StatusOr<UniqueFd> ListenAbstract(std::string_view name);
// The errno of a failed connect goes to `error`, else 0.
UniqueFd ConnectAbstract(std::string_view name, int* error);

// Longest name of such a socket.
inline constexpr size_t kAbstractNameMax = 100;

// Whether the other end of `socket` runs as this user, or as root.
bool SameUser(int socket);

bool IsEventFd(int fd);
bool IsHungUp(int socket);

}  // namespace shoal::comm

#endif  // SHOAL_COMM_TRANSPORTS_SHM_SESSION_H_
