#include "comm/peer_memory.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/random.h"
#include "base/strcat.h"

namespace shoal::comm {
namespace {

const uint64_t& OwnToken() {
  static const uint64_t token = EntropySeed();
  return token;
}

Status Unreadable(uint64_t pid, int error) {
  return UnavailableError(
      StrCat("the memory of process ", pid,
             " cannot be read: ", std::system_category().message(error)));
}

}  // namespace

MemoryPass OwnMemoryPass() {
  return {.pid = static_cast<uint64_t>(::getpid()),
          .address = reinterpret_cast<uint64_t>(&OwnToken()),
          .token = OwnToken()};
}

StatusOr<PeerMemory> PeerMemory::Open(const MemoryPass& pass) {
  PeerMemory memory;
  memory.pid_ = pass.pid;
  // First the descriptor, then the token: both are then of one process.
  memory.process_ = UniqueFd(static_cast<int>(
      ::syscall(SYS_pidfd_open, static_cast<pid_t>(pass.pid), 0U)));
  if (!memory.process_.valid()) {
    return Unreadable(pass.pid, errno);
  }
  uint64_t token = 0;
  SHOAL_RETURN_IF_ERROR(memory.Read(pass.address, &token, sizeof(token)));
  if (token != pass.token) {
    return UnavailableError(
        StrCat("process ", pass.pid, " is another one here than for the peer"));
  }
  return memory;
}

Status PeerMemory::Read(uint64_t address, void* to, int64_t bytes) const {
  int64_t done = 0;
  while (done < bytes) {
    const auto rest = static_cast<size_t>(bytes - done);
    const iovec local = {static_cast<std::byte*>(to) + done, rest};
    const iovec remote = {
        reinterpret_cast<void*>(address + static_cast<uint64_t>(done)), rest};
    const ssize_t n =
        ::process_vm_readv(static_cast<pid_t>(pid_), &local, 1, &remote, 1, 0);
    if (n <= 0) {
      return Unreadable(pid_, n < 0 ? errno : EFAULT);
    }
    done += n;
  }
  // Its number may be another's by now.
  pollfd ended = {process_.get(), POLLIN, 0};
  if (::poll(&ended, 1, 0) != 0) {
    return Unreadable(pid_, ESRCH);
  }
  return OkStatus();
}

}  // namespace shoal::comm
