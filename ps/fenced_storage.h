#ifndef SHOAL_PS_FENCED_STORAGE_H_
#define SHOAL_PS_FENCED_STORAGE_H_

#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/cancellable.h"
#include "base/storage.h"

namespace shoal::ps {

// The files of a coordinator of which there may be several: one that was
// stopped in the middle of a checkpoint must not publish it when it comes to
// itself, since another one has begun it anew.
class FencedStorage : public Storage, public Cancellable {
 public:
  // `leads`: it surely leads the job; asked on the storage thread before each
  // change, which is kAborted without; may block. `files` must outlive it.
  FencedStorage(Storage& files, std::function<bool()> leads)
      : files_(files), leads_(std::move(leads)) {}

  StatusOr<Buffer> ReadFile(const std::string& path) override {
    return files_.ReadFile(path);
  }
  Status PublishFile(const std::string& path,
                     std::span<const Buffer> pieces) override;
  StatusOr<std::vector<std::string>> ListFolder(
      const std::string& path) override {
    return files_.ListFolder(path);
  }
  Status Remove(const std::string& path) override;
  Status MoveFolder(const std::string& from, const std::string& to) override;

  // Ends a wait of `files` for a store. From any thread.
  void Cancel() override;

 private:
  Status Check(const std::string& path) const;

  Storage& files_;
  const std::function<bool()> leads_;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_FENCED_STORAGE_H_
