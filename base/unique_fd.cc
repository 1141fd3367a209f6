#include "base/unique_fd.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "base/strcat.h"

namespace shoal {

int UniqueFd::Close() {
  return fd_ < 0 || ::close(std::exchange(fd_, -1)) == 0 ? 0 : errno;
}

StatusOr<Pipe> OpenPipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    return ResourceExhaustedError(
        StrCat("no pipe: ", std::generic_category().message(errno)));
  }
  return Pipe{.read = UniqueFd(ends[0]), .write = UniqueFd(ends[1])};
}

}  // namespace shoal
