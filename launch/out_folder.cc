#include "launch/out_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <sys/file.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/s3/names.h"
#include "base/strcat.h"
#include "ps/checkpoint_format.h"

namespace shoal::launch {
namespace {

namespace fs = std::filesystem;

Status FolderError(const std::string& path, const std::string& what,
                   const std::string& why) {
  return UnavailableError(StrCat("--out ", path, ": can't ", what, ": ", why));
}

constexpr char kDataPrefix[] = "shoal-data-";

// The kernel drops the lock when the process ends, however it ends.
StatusOr<int> Lock(const std::string& path, bool shared = false) {
  const std::string name = path + "/.lock";
  const int fd = ::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) {
    return FolderError(path, "write in it", strerror(errno));
  }
  if (::flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) {
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

// Removes the prepared data that processes which live no more left in `path`:
// nobody has its lock.
void RemoveDeadData(const std::string& path) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(path, error)) {
    if (!entry.path().filename().string().starts_with(kDataPrefix)) {
      continue;
    }
    const std::string lock = entry.path().string() + "/.lock";
    const int fd = ::open(lock.c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) {
      continue;  // Not ours.
    }
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) {
      fs::remove_all(entry.path(), error);
    }
    ::close(fd);
  }
}

// The first of `path`, `path`-2, `path`-3 and so on that is not there.
StatusOr<std::string> FreeName(Storage& storage, const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string parent =
      slash == std::string::npos ? "." : path.substr(0, slash + 1);
  SHOAL_ASSIGN_OR_RETURN(const std::vector<std::string> taken,
                         storage.ListFolder(parent));
  const std::string name = path.substr(slash + 1);
  std::string free = name;
  for (int n = 2; std::find(taken.begin(), taken.end(), free) != taken.end();
       ++n) {
    free = StrCat(name, "-", n);
  }
  return path.substr(0, slash + 1) + free;
}

}  // namespace

OutFolder::OutFolder(std::string path, std::string checkpoints,
                     std::string data, int lock_fd, int data_lock_fd)
    : path_(std::move(path)),
      checkpoints_(std::move(checkpoints)),
      data_(std::move(data)),
      lock_fd_(lock_fd),
      data_lock_fd_(data_lock_fd) {}

OutFolder::~OutFolder() {
  std::error_code ignored;
  if (!leaves_data_) {
    fs::remove_all(data_, ignored);
  }
  for (const int fd : {data_lock_fd_, lock_fd_}) {
    if (fd >= 0) {
      ::close(fd);
    }
  }
}

Status OutFolder::CheckPath(const std::string& path) {
  return IsS3Path(path)
             ? InvalidArgumentError(StrCat(
                   "--out ", path,
                   ": results are local files; for checkpoints in a store set "
                   "checkpoint.folder"))
             : OkStatus();
}

Status OutFolder::AwaitFree(const std::string& path, Duration within) {
  const SystemClock clock;
  const Time end = clock.Now() + within;
  StatusOr<int> lock = Lock(path);
  while (lock.status().code() == StatusCode::kFailedPrecondition &&
         clock.Now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    lock = Lock(path);
  }
  if (lock.ok()) {
    ::close(*lock);
  }
  // What else is wrong with it is for whoever opens it.
  return lock.status().code() == StatusCode::kFailedPrecondition ? lock.status()
                                                                 : OkStatus();
}

StatusOr<std::unique_ptr<OutFolder>> OutFolder::Open(const std::string& path,
                                                     OutUse use,
                                                     std::string checkpoints) {
  SHOAL_RETURN_IF_ERROR(CheckPath(path));
  std::error_code error;
  fs::create_directories(path, error);
  if (error) {
    return FolderError(path, "make the folder", error.message());
  }
  int lock_fd = -1;
  const bool in_turn =
      use == OutUse::kTrainInTurn || use == OutUse::kGoOnInTurn;
  if (use != OutUse::kLook) {
    SHOAL_ASSIGN_OR_RETURN(lock_fd, Lock(path, in_turn));
  }
  if (use != OutUse::kGoOnInTurn &&
      !fs::exists(path + kCoordinatorStateFile, error)) {
    RemoveDeadData(path);  // Else its workers live, and read it still.
  }
  std::string data = StrCat(path, "/", kDataPrefix, "XXXXXX");
  if (::mkdtemp(data.data()) == nullptr) {
    const Status why = FolderError(path, "write in it", strerror(errno));
    ::close(lock_fd);
    return why;
  }
  // Workers may run as another user of the group, as the umask says.
  const mode_t mask = ::umask(0);
  ::umask(mask);
  ::chmod(data.c_str(), 0777 & ~mask);
  // It has its name only when it is locked: see RemoveDeadData().
  const std::string lock = data + "/.lock";
  const std::string unlocked = lock + ".new";
  const int data_lock_fd =
      ::open(unlocked.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (data_lock_fd >= 0 && ::flock(data_lock_fd, LOCK_EX | LOCK_NB) == 0) {
    fs::rename(unlocked, lock, error);
  }
  return std::unique_ptr<OutFolder>(
      new OutFolder(path,
                    checkpoints.empty() ? StrCat(path, "/checkpoints")
                                        : NormalPath(checkpoints),
                    std::move(data), lock_fd, data_lock_fd));
}

std::string OutFolder::Spelled(const std::string& folder) const {
  const std::string own =
      StrCat(checkpoints(), "/",
             fs::path(folder).lexically_normal().filename().string());
  return IsSamePlace(own, folder) ? own : folder;
}

bool OutFolder::SettingAsideCopies(Storage& storage) const {
  const StatusOr<std::vector<std::string>> names =
      storage.ListFolder(checkpoints());
  return names.ok() &&
         std::any_of(names->begin(), names->end(), [&](const auto& name) {
           const auto manifest =
               ps::ReadManifest(storage, StrCat(checkpoints(), "/", name));
           return ps::StepOfFolder(name).has_value() && manifest.ok() &&
                  manifest->base.has_value();
         });
}

Status OutFolder::SetAsideCheckpoints(Storage& storage,
                                      const std::string& restored_from) const {
  const StatusOr<std::vector<std::string>> names =
      storage.ListFolder(checkpoints());
  if (names.status().code() == StatusCode::kNotFound) {
    return OkStatus();  // No earlier run.
  }
  SHOAL_RETURN_IF_ERROR(names.status());
  int64_t last_kept = -1;  // step
  std::vector<std::pair<int64_t, std::string>> moving;
  for (const std::string& name : *names) {
    const std::optional<int64_t> step = ps::StepOfFolder(name);
    if (!step.has_value()) {
      continue;
    }
    const std::string folder = StrCat(checkpoints(), "/", name);
    const Status readable = ps::ReadManifest(storage, folder).status();
    if (readable.code() == StatusCode::kNotFound) {
      SHOAL_RETURN_IF_ERROR(storage.Remove(folder));
      continue;
    }
    // One that can't be read is never in the way of restoring.
    moving.emplace_back(
        readable.ok() ? *step : std::numeric_limits<int64_t>::max(), name);
    if (!restored_from.empty() && IsSamePlace(folder, restored_from)) {
      last_kept = *step;
    }
  }
  std::erase_if(moving,
                [&](const auto& entry) { return entry.first <= last_kept; });
  if (moving.empty()) {
    return OkStatus();
  }
  SHOAL_ASSIGN_OR_RETURN(const std::string aside,
                         FreeName(storage, checkpoints() + ".old"));
  // The newest first, so that what is left is never based on what has gone;
  // and what stays goes along as a copy where something is based on it.
  std::sort(moving.rbegin(), moving.rend());
  for (const auto& [step, name] : moving) {
    const StatusOr<std::vector<ps::ChainLink>> links =
        ps::ReadChain(storage, StrCat(checkpoints(), "/", name));
    // One of which a part is lost goes as it is.
    if (!links.ok() && links.status().code() != StatusCode::kDataLoss &&
        links.status().code() != StatusCode::kNotFound) {
      return links.status();
    }
    for (size_t i = links.ok() ? links->size() : 0; i-- > 1;) {
      const ps::ChainLink& link = (*links)[i];
      if (link.manifest.step <= last_kept) {
        SHOAL_RETURN_IF_ERROR(ps::CopyCheckpoint(
            storage, link, StrCat(aside, "/step-", link.manifest.step)));
      }
    }
    SHOAL_RETURN_IF_ERROR(storage.MoveFolder(StrCat(checkpoints(), "/", name),
                                             StrCat(aside, "/", name)));
  }
  std::fprintf(stderr,
               "note: the checkpoints of an earlier run are now in %s\n",
               aside.c_str());
  return OkStatus();
}

}  // namespace shoal::launch
