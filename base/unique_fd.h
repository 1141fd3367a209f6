#ifndef SHOAL_BASE_UNIQUE_FD_H_
#define SHOAL_BASE_UNIQUE_FD_H_

#include <utility>

#include "base/status.h"

namespace shoal {

// A file descriptor that is closed when its owner goes.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  ~UniqueFd() { Reset(); }
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // Closing can be the first to tell that a write failed. 0 or an errno.
  int Close();
  void Reset() { static_cast<void>(Close()); }

 private:
  int fd_ = -1;
};

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};
// Closed where another program is executed.
// Errors: kResourceExhausted (no descriptors or memory left).
StatusOr<Pipe> OpenPipe();

}  // namespace shoal

#endif  // SHOAL_BASE_UNIQUE_FD_H_
