#ifndef SHOAL_COMM_PEER_MEMORY_H_
#define SHOAL_COMM_PEER_MEMORY_H_

#include <cstdint>

#include "base/status.h"
#include "base/unique_fd.h"

namespace shoal::comm {

// What a process tells others of its host so that they can read its memory; on
// the wire as it lies.
struct MemoryPass {
  uint64_t pid = 0;
  // Where a word drawn at random lies: who reads it there reads the right
  // process, whatever the number means in another namespace.
  uint64_t address = 0;
  uint64_t token = 0;
};
MemoryPass OwnMemoryPass();

// The memory of another process of this host and user, read by one copy of the
// kernel (process_vm_readv).
class PeerMemory {
 public:
  PeerMemory() = default;

  // Errors: kUnavailable (it can't be read, and why: another namespace, a
  // ptrace_scope or seccomp filter that forbids it, an old kernel).
  static StatusOr<PeerMemory> Open(const MemoryPass& pass);

  // Copies; a peer that is stopped does not hold it up. Errors: kUnavailable
  // (the process has ended, or has nothing there); `to` is then unspecified.
  Status Read(uint64_t address, void* to, int64_t bytes) const;

 private:
  uint64_t pid_ = 0;
  // Tells the process from a later one of its number.
  UniqueFd process_;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_PEER_MEMORY_H_
