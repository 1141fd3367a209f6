#ifndef SHOAL_COMM_TORN_STORAGE_H_
#define SHOAL_COMM_TORN_STORAGE_H_

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/storage.h"

namespace shoal::comm {

// All files below a folder, by their paths; their bytes may be shared.
std::map<std::string, Buffer> FilesIn(Storage& storage,
                                      const std::string& folder);
// Makes a file what is given, or takes it away.
void SetFile(Storage& storage, const std::string& path,
             const std::optional<Buffer>& bytes);

// What one work of a simulated node does to files, so that a crash in its midst
// leaves a part of it: what a call had made durable when it returned stays, the
// call that was under way may have left something beside.
//
// Thread-compatible.
class TornStorage : public Storage {
 public:
  // `files` must outlive it.
  explicit TornStorage(Storage& files) : files_(files) {}

  // Calls so far that changed something.
  size_t num_changes() const { return changes_.size(); }

  // Takes back all changes but the first `kept`. Of the one after those a
  // `share` in [0, 1) was done: of a file that was being published a temporary
  // file with so much of it stays, of a folder that was being removed so many
  // files are gone. There must be room.
  void TearAfter(size_t kept, double share);

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

 private:
  // Files as they were before a call.
  struct Change {
    std::vector<std::pair<std::string, std::optional<Buffer>>> before;
    std::string published;  // or empty
    bool removed = false;
  };

  Storage& files_;
  std::vector<Change> changes_;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_TORN_STORAGE_H_
