#include "base/storage.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include <sys/stat.h>
#include <sys/uio.h>

#include "base/cancellable.h"
#include "base/mutex.h"
#include "base/s3/storage.h"
#include "base/strcat.h"
#include "base/unique_fd.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;

// What the path's file system answered, as the code that says what to do next.
Status FileError(std::string_view doing, const std::string& path, int error) {
  const std::string text =
      StrCat(doing, " '", path, "': ", std::system_category().message(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return NotFoundError(text);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return ResourceExhaustedError(text);
    default:
      return UnavailableError(text);
  }
}

Status WriteAll(int fd, const std::string& path, const Buffer& piece) {
  int64_t written = 0;
  while (written < piece.size()) {
    const ssize_t n = ::write(fd, piece.data() + written,
                              static_cast<size_t>(piece.size() - written));
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n <= 0) {
      return FileError("write", path, n < 0 ? errno : ENOSPC);
    }
    written += n;
  }
  return OkStatus();
}

// Makes a rename or a new entry in `folder` survive a power failure.
Status SyncFolder(const fs::path& folder) {
  const std::string path = folder.empty() ? "." : folder.string();
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) {
    return FileError("open folder", path, errno);
  }
  // Some network file systems cannot sync folders and say EINVAL.
  if (::fsync(fd.get()) != 0 && errno != EINVAL) {
    return FileError("fsync folder", path, errno);
  }
  return OkStatus();
}

Status MakeFolders(const fs::path& folder) {
  std::error_code ignored;  // What is wrong shows when it is made.
  if (folder.empty() || fs::is_directory(folder, ignored)) {
    return OkStatus();
  }
  const fs::path parent = folder.parent_path();
  if (parent != folder) {
    SHOAL_RETURN_IF_ERROR(MakeFolders(parent));
  }
  if (::mkdir(folder.c_str(), 0777) != 0 && errno != EEXIST) {
    return FileError("make folder", folder.string(), errno);
  }
  return SyncFolder(parent);
}

Status WriteTemporary(const std::string& path, std::span<const Buffer> pieces) {
  UniqueFd fd(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (fd.get() < 0) {
    return FileError("create", path, errno);
  }
  for (const Buffer& piece : pieces) {
    SHOAL_RETURN_IF_ERROR(WriteAll(fd.get(), path, piece));
  }
  if (::fsync(fd.get()) != 0) {
    return FileError("fsync", path, errno);
  }
  if (const int error = fd.Close(); error != 0) {
    return FileError("close", path, error);
  }
  return OkStatus();
}

class LocalStorage : public Storage {
 public:
  StatusOr<Buffer> ReadFile(const std::string& path) override {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (fd.get() < 0) {
      return FileError("open", path, errno);
    }
    struct stat info = {};
    if (::fstat(fd.get(), &info) != 0) {
      return FileError("stat", path, errno);
    }
    if (!S_ISREG(info.st_mode)) {
      return UnavailableError(StrCat("read '", path, "': not a plain file"));
    }
    Buffer bytes = Buffer::Allocate(info.st_size);
    int64_t have = 0;
    while (have < bytes.size()) {
      const ssize_t n = ::read(fd.get(), bytes.data() + have,
                               static_cast<size_t>(bytes.size() - have));
      if (n < 0 && errno == EINTR) {
        continue;
      }
      if (n < 0) {
        return FileError("read", path, errno);
      }
      if (n == 0) {
        return UnavailableError(StrCat("read '", path, "': it became shorter, ",
                                       have, " of ", bytes.size(), " bytes"));
      }
      have += n;
    }
    return bytes;
  }

  Status PublishFile(const std::string& path,
                     std::span<const Buffer> pieces) override {
    const fs::path target(path);
    if (!target.has_filename()) {
      return UnavailableError(StrCat("write '", path, "': it names no file"));
    }
    SHOAL_RETURN_IF_ERROR(MakeFolders(target.parent_path()));
    // The name is this writer's alone, so that two do not mix.
    const std::string temporary =
        StrCat(path, ".tmp-", ::getpid(), "-",
               next_temporary_.fetch_add(1, std::memory_order_relaxed));
    Status status = WriteTemporary(temporary, pieces);
    if (status.ok() && ::rename(temporary.c_str(), path.c_str()) != 0) {
      status = FileError("rename to", path, errno);
    }
    if (!status.ok()) {
      ::unlink(temporary.c_str());
      return status;
    }
    return SyncFolder(target.parent_path());
  }

  StatusOr<std::vector<std::string>> ListFolder(
      const std::string& path) override {
    std::error_code error;
    std::vector<std::string> names;
    fs::directory_iterator it(path, error);
    for (; !error && it != fs::directory_iterator(); it.increment(error)) {
      names.push_back(it->path().filename().string());
    }
    if (error) {
      return FileError("list", path, error.value());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  Status Remove(const std::string& path) override {
    std::error_code error;
    fs::remove_all(path, error);
    if (error) {
      return FileError("remove", path, error.value());
    }
    return OkStatus();
  }

  Status MoveFolder(const std::string& from, const std::string& to) override {
    const fs::path parent = fs::path(to).parent_path();
    SHOAL_RETURN_IF_ERROR(MakeFolders(parent));
    if (::rename(from.c_str(), to.c_str()) != 0) {
      return FileError(StrCat("move '", from, "' to"), to, errno);
    }
    return SyncFolder(parent);
  }

 private:
  std::atomic<int64_t> next_temporary_{0};
};

class AnyStorage : public Storage, public Cancellable {
 public:
  StatusOr<Buffer> ReadFile(const std::string& path) override {
    return Of(path).ReadFile(path);
  }
  Status PublishFile(const std::string& path,
                     std::span<const Buffer> pieces) override {
    return Of(path).PublishFile(path, pieces);
  }
  StatusOr<std::vector<std::string>> ListFolder(
      const std::string& path) override {
    return Of(path).ListFolder(path);
  }
  Status Remove(const std::string& path) override {
    return Of(path).Remove(path);
  }
  Status MoveFolder(const std::string& from, const std::string& to) override {
    return Of(from).MoveFolder(from, to);
  }
  void Cancel() override { dynamic_cast<Cancellable&>(*s3_).Cancel(); }

 private:
  Storage& Of(const std::string& path) {
    return IsS3Path(path) ? *s3_ : static_cast<Storage&>(local_);
  }

  LocalStorage local_;
  const std::unique_ptr<Storage> s3_ =
      CreateS3Storage(S3Options::FromEnvironment());
};

}  // namespace

std::string NormalPath(const std::string& path) {
  if (IsS3Path(path)) {
    const StatusOr<S3Path> s3 = ParseS3Path(path);
    return s3.ok() ? s3->Text() : path;
  }
  std::string normal = fs::path(path).lexically_normal().string();
  if (normal.size() > 1 && normal.back() == '/') {
    normal.pop_back();
  }
  return normal;
}

bool IsSamePlace(const std::string& a, const std::string& b) {
  if (IsS3Path(a) || IsS3Path(b)) {
    return NormalPath(a) == NormalPath(b);
  }
  std::error_code error;
  return fs::equivalent(a, b, error);
}

std::unique_ptr<Storage> CreateStorage() {
  return std::make_unique<AnyStorage>();
}

std::unique_ptr<Storage> CreateLocalStorage() {
  return std::make_unique<LocalStorage>();
}

struct MemoryStorage::Impl {
  Mutex mutex;
  std::map<std::string, Buffer> files SHOAL_GUARDED_BY(mutex);
  int64_t size_bytes SHOAL_GUARDED_BY(mutex) = 0;
  int64_t size_bytes_max SHOAL_GUARDED_BY(mutex) = INT64_MAX;
};

MemoryStorage::MemoryStorage() : impl_(std::make_unique<Impl>()) {}
MemoryStorage::~MemoryStorage() = default;

void MemoryStorage::SetCapacity(int64_t size_bytes_max) {
  const MutexLock lock(impl_->mutex);
  impl_->size_bytes_max = size_bytes_max;
}

StatusOr<Buffer> MemoryStorage::ReadFile(const std::string& path) {
  const MutexLock lock(impl_->mutex);
  const auto it = impl_->files.find(NormalPath(path));
  if (it == impl_->files.end()) {
    return NotFoundError(StrCat("read '", path, "': no such file in memory"));
  }
  return it->second;
}

Status MemoryStorage::PublishFile(const std::string& path,
                                  std::span<const Buffer> pieces) {
  int64_t size = 0;
  for (const Buffer& piece : pieces) {
    size += piece.size();
  }
  Buffer bytes = Buffer::Allocate(size);
  std::byte* end = bytes.data();
  for (const Buffer& piece : pieces) {
    end = std::copy_n(piece.data(), piece.size(), end);
  }

  const MutexLock lock(impl_->mutex);
  const std::string name = NormalPath(path);
  const auto old = impl_->files.find(name);
  const int64_t old_size = old == impl_->files.end() ? 0 : old->second.size();
  // The new file lies beside the old one for a moment, as on a disk.
  if (impl_->size_bytes > impl_->size_bytes_max - size) {
    return ResourceExhaustedError(
        StrCat("write '", path, "': ", size, " bytes do not fit, ",
               impl_->size_bytes, " of ", impl_->size_bytes_max, " are used"));
  }
  impl_->size_bytes += size - old_size;
  impl_->files[name] = std::move(bytes);
  return OkStatus();
}

StatusOr<std::vector<std::string>> MemoryStorage::ListFolder(
    const std::string& path) {
  const std::string normal = NormalPath(path);
  const std::string prefix = normal == "." || normal.empty() ? ""
                             : normal == "/"                 ? "/"
                                                             : normal + "/";
  std::set<std::string> names;
  const MutexLock lock(impl_->mutex);
  for (const auto& [name, bytes] : impl_->files) {
    if (name.starts_with(prefix)) {
      const std::string rest = name.substr(prefix.size());
      names.insert(rest.substr(0, rest.find('/')));
    }
  }
  if (names.empty()) {
    return NotFoundError(StrCat("list '", path, "': no such folder in memory"));
  }
  return std::vector<std::string>(names.begin(), names.end());
}

Status MemoryStorage::Remove(const std::string& path) {
  const std::string name = NormalPath(path);
  const MutexLock lock(impl_->mutex);
  std::erase_if(impl_->files, [&](const auto& entry) {
    const auto& [file, bytes] = entry;
    if (file != name && !file.starts_with(name + "/")) {
      return false;
    }
    impl_->size_bytes -= bytes.size();
    return true;
  });
  return OkStatus();
}

Status MemoryStorage::MoveFolder(const std::string& from,
                                 const std::string& to) {
  const std::string old_prefix = NormalPath(from) + "/";
  const std::string new_prefix = NormalPath(to) + "/";
  const MutexLock lock(impl_->mutex);
  std::map<std::string, Buffer> files;
  bool found = false;
  for (auto& [name, bytes] : impl_->files) {
    if (name.starts_with(new_prefix)) {
      return UnavailableError(
          StrCat("move '", from, "' to '", to, "': it is there"));
    }
    const bool moves = name.starts_with(old_prefix);
    found = found || moves;
    files[moves ? new_prefix + name.substr(old_prefix.size()) : name] = bytes;
  }
  impl_->files.swap(files);
  return found ? OkStatus()
               : NotFoundError(StrCat("move '", from, "': no such folder"));
}

}  // namespace shoal
