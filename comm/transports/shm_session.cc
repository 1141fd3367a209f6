#include "comm/transports/shm_session.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <system_error>

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/strcat.h"

namespace shoal::comm {
namespace {

// By lane. Small enough to stay in a core's second-level cache and to have one
// per peer; a larger message passes through in parts.
constexpr uint64_t kRingBytes[kNumLanes] = {uint64_t{64} << 10,
                                            uint64_t{1} << 20};
constexpr uint64_t kPage = 4096;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

// The first page: the sleep words, then the heads of the rings.
struct ControlPage {
  struct alignas(64) Side {
    std::atomic<uint32_t> sleeping;
  };
  Side sides[2];
  ShmRingHead rings[2][kNumLanes];
};
static_assert(sizeof(ControlPage) <= kPage);
static_assert(sizeof(std::atomic<uint32_t>) == 4 &&
              std::atomic<uint32_t>::is_always_lock_free);

uint64_t RingOffset(int side, int lane) {
  uint64_t offset = kPage;
  for (int i = 0; i < side * kNumLanes + lane; ++i) {
    offset += kRingBytes[i % kNumLanes];
  }
  return offset;
}
const uint64_t kMemoryBytes = RingOffset(2, 0);

Status ShmError(std::string_view what) {
  return UnavailableError(
      StrCat("shm: ", what, ": ", std::system_category().message(errno)));
}

socklen_t FillAddress(std::string_view name, sockaddr_un* address) {
  *address = {};
  address->sun_family = AF_UNIX;
  const size_t length = std::min(name.size(), kAbstractNameMax);
  std::memcpy(address->sun_path + 1, name.data(), length);
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length);
}

UniqueFd NewSocket() {
  // Datagrams keep records whole; the connection shows when the peer dies.
  return UniqueFd(
      ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

}  // namespace

ShmMemory::~ShmMemory() {
  if (base_ != nullptr) {
    ::munmap(base_, kMemoryBytes);
  }
}

StatusOr<ShmMemory> ShmMemory::Create() {
  UniqueFd fd(::memfd_create("shoal-session", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) {
    return ShmError("memfd_create");
  }
  if (::ftruncate(fd.get(), static_cast<off_t>(kMemoryBytes)) != 0) {
    return ShmError("ftruncate");
  }
  if (::fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) {
    return ShmError("seal");
  }
  ShmMemory memory;
  SHOAL_RETURN_IF_ERROR(memory.Map(std::move(fd)));
  return memory;
}

StatusOr<ShmMemory> ShmMemory::Adopt(UniqueFd fd) {
  // A peer that could shrink it could crash this process.
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  struct stat info = {};
  if (seals < 0 || (seals & kSeals) != kSeals ||
      ::fstat(fd.get(), &info) != 0 ||
      info.st_size != static_cast<off_t>(kMemoryBytes)) {
    return DataLossError("shm: what a peer sent is not a session's memory");
  }
  ShmMemory memory;
  SHOAL_RETURN_IF_ERROR(memory.Map(std::move(fd)));
  return memory;
}

Status ShmMemory::Map(UniqueFd fd) {
  void* const base = ::mmap(nullptr, kMemoryBytes, PROT_READ | PROT_WRITE,
                            MAP_SHARED, fd.get(), 0);
  if (base == MAP_FAILED) {
    return ShmError("mmap");
  }
  base_ = static_cast<std::byte*>(base);
  fd_ = std::move(fd);
  return OkStatus();
}

std::atomic<uint32_t>& ShmMemory::sleeping(int side) {
  return reinterpret_cast<ControlPage*>(base_)->sides[side].sleeping;
}

ShmRingWriter ShmMemory::Writer(int side, int lane) {
  return ShmRingWriter(
      &reinterpret_cast<ControlPage*>(base_)->rings[side][lane],
      base_ + RingOffset(side, lane), kRingBytes[lane]);
}

ShmRingReader ShmMemory::Reader(int side, int lane) {
  return ShmRingReader(
      &reinterpret_cast<ControlPage*>(base_)->rings[side][lane],
      base_ + RingOffset(side, lane), kRingBytes[lane]);
}

bool SendRecord(int socket, const ShmRecord& record, std::span<const int> fds) {
  ShmRecord copy = record;
  iovec part = {&copy, sizeof(copy)};
  alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* const head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(head), fds.data(), fds.size_bytes());
  }
  return ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) ==
         static_cast<ssize_t>(sizeof(copy));
}

ReceiveResult ReceiveRecord(int socket, ShmRecord* record,
                            std::vector<UniqueFd>* fds) {
  iovec part = {record, sizeof(*record)};
  alignas(cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t n =
      ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0) {
    return errno == EAGAIN || errno == EINTR ? ReceiveResult::kNothing
                                             : ReceiveResult::kEnd;
  }
  // Whatever came is owned, so that a peer can't make descriptors leak.
  for (cmsghdr* head = CMSG_FIRSTHDR(&message); head != nullptr;
       head = CMSG_NXTHDR(&message, head)) {
    if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    const size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(head) + i * sizeof(int), sizeof(int));
      fds->emplace_back(fd);
    }
  }
  const bool whole = n == static_cast<ssize_t>(sizeof(*record)) &&
                     (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0;
  const ShmRecord expected;
  return whole && record->magic == expected.magic &&
                 record->version == expected.version
             ? ReceiveResult::kRecord
             : ReceiveResult::kEnd;
}

StatusOr<UniqueFd> ListenAbstract(std::string_view name) {
  UniqueFd fd = NewSocket();
  if (!fd.valid()) {
    return ShmError("socket");
  }
  sockaddr_un address;
  const socklen_t size = FillAddress(name, &address);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) {
    if (errno == EADDRINUSE) {
      return UnavailableError(StrCat(
          "listen: 'shm:", name,
          "' is taken by another endpoint of this host: choose another"));
    }
    return ShmError("bind");
  }
  if (::listen(fd.get(), 1024) != 0) {
    return ShmError("listen");
  }
  return fd;
}

UniqueFd ConnectAbstract(std::string_view name, int* error) {
  UniqueFd fd = NewSocket();
  sockaddr_un address;
  const socklen_t size = FillAddress(name, &address);
  *error = 0;
  if (!fd.valid() ||
      ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) {
    *error = errno;
    fd.Reset();
  }
  return fd;
}

bool SameUser(int socket) {
  ucred peer = {};
  socklen_t size = sizeof(peer);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return false;
  }
  return peer.uid == ::geteuid() || peer.uid == 0 || ::geteuid() == 0;
}

bool IsEventFd(int fd) {
  char target[64] = {};
  const std::string link = StrCat("/proc/self/fd/", fd);
  const ssize_t n = ::readlink(link.c_str(), target, sizeof(target) - 1);
  return n > 0 && std::string_view(target) == "anon_inode:[eventfd]";
}

bool IsHungUp(int socket) {
  pollfd poll_fd = {socket, POLLRDHUP, 0};
  return ::poll(&poll_fd, 1, 0) > 0 &&
         (poll_fd.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

}  // namespace shoal::comm
