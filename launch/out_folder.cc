#include "launch/out_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include <sys/file.h>

#include "base/log.h"
#include "base/strcat.h"
#include "ps/checkpoint_format.h"

namespace shoal::launch {
namespace {

namespace fs = std::filesystem;

Status FolderError(const std::string& path, const std::string& what,
                   const std::string& why) {
  return UnavailableError(StrCat("--out ", path, ": can't ", what, ": ", why));
}

// The kernel drops the lock when the process ends, however it ends.
StatusOr<int> Lock(const std::string& path) {
  const std::string name = path + "/.lock";
  const int fd = ::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) {
    return FolderError(path, "write in it", strerror(errno));
  }
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0) {
    return fd;
  }
  if (errno == EWOULDBLOCK) {
    ::close(fd);
    return FailedPreconditionError(
        StrCat("--out ", path,
               ": another training is writing there; choose another folder, "
               "or wait for its end"));
  }
  LogWarning("--out ", path, " can't be locked (", strerror(errno),
             "): do not start another training there");
  return fd;
}

Status Move(const std::string& from, const std::string& to) {
  std::error_code error;
  fs::create_directories(fs::path(to).parent_path(), error);
  if (!error) {
    fs::rename(from, to, error);
  }
  return error ? UnavailableError(
                     StrCat("move ", from, " to ", to, ": ", error.message()))
               : OkStatus();
}

}  // namespace

OutFolder::OutFolder(std::string path, std::string data, int lock_fd)
    : path_(std::move(path)), data_(std::move(data)), lock_fd_(lock_fd) {}

OutFolder::~OutFolder() {
  std::error_code ignored;  // It may never have been made.
  fs::remove_all(data_, ignored);
  if (lock_fd_ >= 0) {
    ::close(lock_fd_);
  }
}

StatusOr<std::unique_ptr<OutFolder>> OutFolder::Open(const std::string& path,
                                                     bool training) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) {
    return FolderError(path, "make the folder", error.message());
  }
  int lock_fd = -1;
  std::string data = StrCat(path, "/data");
  if (training) {
    SHOAL_ASSIGN_OR_RETURN(lock_fd, Lock(path));
  } else {
    data += StrCat("-", ::getpid());
  }
  return std::unique_ptr<OutFolder>(
      new OutFolder(path, std::move(data), lock_fd));
}

std::string OutFolder::checkpoints() const {
  return StrCat(path_, "/checkpoints");
}

std::string OutFolder::Spelled(const std::string& folder) const {
  const std::string own =
      StrCat(checkpoints(), "/",
             fs::path(folder).lexically_normal().filename().string());
  std::error_code error;
  return fs::equivalent(own, folder, error) ? own : folder;
}

Status OutFolder::SetAsideCheckpoints(Storage& storage,
                                      const std::string& restored_from) const {
  const StatusOr<std::vector<std::string>> names =
      storage.ListFolder(checkpoints());
  if (!names.ok()) {
    return OkStatus();  // No earlier run.
  }
  std::error_code error;
  int64_t last_kept = -1;  // step
  std::vector<std::pair<int64_t, std::string>> whole;
  for (const std::string& name : *names) {
    const std::optional<int64_t> step = ps::StepOfFolder(name);
    if (!step.has_value()) {
      continue;
    }
    const std::string folder = StrCat(checkpoints(), "/", name);
    if (ps::ReadManifest(storage, folder).ok()) {
      whole.emplace_back(*step, folder);
    } else {
      SHOAL_RETURN_IF_ERROR(storage.Remove(folder));
    }
    if (!restored_from.empty() &&
        fs::equivalent(folder, restored_from, error)) {
      last_kept = *step;
    }
  }
  std::erase_if(whole,
                [&](const auto& entry) { return entry.first <= last_kept; });
  if (whole.empty()) {
    return OkStatus();
  }
  const std::string aside = StrCat(path_, "/checkpoints.old");
  if (!restored_from.empty() &&
      fs::equivalent(fs::path(restored_from).parent_path(), aside, error)) {
    return FailedPreconditionError(
        StrCat("checkpoint.restore: ", restored_from,
               " would have to make room for the checkpoints that are in ",
               checkpoints(), "; choose another --out"));
  }
  SHOAL_RETURN_IF_ERROR(storage.Remove(aside));
  for (const auto& [step, folder] : whole) {
    SHOAL_RETURN_IF_ERROR(Move(folder, StrCat(aside, "/step-", step)));
  }
  std::fprintf(stderr,
               "note: the checkpoints of an earlier run are now in %s\n",
               aside.c_str());
  return OkStatus();
}

}  // namespace shoal::launch
