#ifndef SHOAL_BASE_STORAGE_H_
#define SHOAL_BASE_STORAGE_H_

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"

namespace shoal {

// The only way to files that training depends on. Calls block; a node never
// makes them itself but hands them to NodeContext::StartStorage().
//
// Thread-safe. Errors: kNotFound (no such file), kResourceExhausted (disk
// full), kUnavailable (any other input/output error), and of stores
// kInvalidArgument (no such path can be) and kFailedPrecondition (credentials
// or a bucket are missing, or the store refuses them); the text names the path.
class Storage {
 public:
  virtual ~Storage() = default;

  virtual StatusOr<Buffer> ReadFile(const std::string& path) = 0;

  // Writes `pieces` one after another so that a reader sees the whole file or
  // none: a temporary file, fsync, rename, fsync of the folder. Makes missing
  // folders. After an error the temporary file is gone.
  virtual Status PublishFile(const std::string& path,
                             std::span<const Buffer> pieces) = 0;

  // Names of what lies in a folder, sorted.
  virtual StatusOr<std::vector<std::string>> ListFolder(
      const std::string& path) = 0;

  // Removes a file or a folder with all that is in it; nothing there is fine.
  virtual Status Remove(const std::string& path) = 0;

  // Moves a folder with all that is in it to where there is none. A store
  // copies all of it before it removes any. Makes missing folders.
  virtual Status MoveFolder(const std::string& from, const std::string& to) = 0;
};

// Files by their paths: s3://BUCKET/PATH in the S3-compatible store that the
// environment names (S3Options::FromEnvironment()), all others in the local
// file system. Each call is for one of them.
std::unique_ptr<Storage> CreateStorage();

// The local file system. Relative paths start at the working folder.
std::unique_ptr<Storage> CreateLocalStorage();

// "a//b/./c/" and "a/b/c" are the same file: its shortest spelling.
std::string NormalPath(const std::string& path);

// Whether both are the same file or folder, by whatever names.
bool IsSamePlace(const std::string& a, const std::string& b);

// Keeps files in memory, for simulations and tests. It can be told to fail.
class MemoryStorage : public Storage {
 public:
  MemoryStorage();
  ~MemoryStorage() override;

  // From here on PublishFile() fails with kResourceExhausted once the files
  // would hold more bytes than this.
  void SetCapacity(int64_t size_bytes_max);

  StatusOr<Buffer> ReadFile(const std::string& path) override;
  Status PublishFile(const std::string& path,
                     std::span<const Buffer> pieces) override;
  StatusOr<std::vector<std::string>> ListFolder(
      const std::string& path) override;
  Status Remove(const std::string& path) override;
  Status MoveFolder(const std::string& from, const std::string& to) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal

#endif  // SHOAL_BASE_STORAGE_H_
