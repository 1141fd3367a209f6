#include "comm/torn_storage.h"

#include "base/strcat.h"

namespace shoal::comm {

std::map<std::string, Buffer> FilesIn(Storage& storage,
                                      const std::string& folder) {
  std::map<std::string, Buffer> files;
  if (const StatusOr<Buffer> file = storage.ReadFile(folder); file.ok()) {
    files[folder] = *file;
  }
  const StatusOr<std::vector<std::string>> names = storage.ListFolder(folder);
  for (const std::string& name :
       names.ok() ? *names : std::vector<std::string>()) {
    files.merge(
        FilesIn(storage, folder.empty() ? name : StrCat(folder, "/", name)));
  }
  return files;
}

void SetFile(Storage& storage, const std::string& path,
             const std::optional<Buffer>& bytes) {
  const Status done = bytes.has_value()
                          ? storage.PublishFile(path, std::span(&*bytes, 1))
                          : storage.Remove(path);
  SHOAL_CHECK(done.ok());
}

Status TornStorage::PublishFile(const std::string& path,
                                std::span<const Buffer> pieces) {
  const StatusOr<Buffer> old = files_.ReadFile(path);
  SHOAL_RETURN_IF_ERROR(files_.PublishFile(path, pieces));
  Change change{.published = path};
  change.before.emplace_back(
      path, old.ok() ? std::optional<Buffer>(*old) : std::nullopt);
  changes_.push_back(std::move(change));
  return OkStatus();
}

Status TornStorage::Remove(const std::string& path) {
  const std::map<std::string, Buffer> gone = FilesIn(files_, path);
  SHOAL_RETURN_IF_ERROR(files_.Remove(path));
  if (!gone.empty()) {
    changes_.push_back({.before = {gone.begin(), gone.end()},
                        .published = "",
                        .removed = true});
  }
  return OkStatus();
}

Status TornStorage::MoveFolder(const std::string& from, const std::string& to) {
  const std::map<std::string, Buffer> moved = FilesIn(files_, from);
  SHOAL_RETURN_IF_ERROR(files_.MoveFolder(from, to));
  Change change{.before = {moved.begin(), moved.end()}};
  for (const auto& [path, bytes] : FilesIn(files_, to)) {
    change.before.emplace_back(path, std::nullopt);
  }
  changes_.push_back(std::move(change));
  return OkStatus();
}

void TornStorage::TearAfter(size_t kept, double share) {
  for (size_t i = changes_.size(); i-- > kept;) {
    const Change& change = changes_[i];
    const bool torn = i == kept;
    const auto gone = static_cast<size_t>(
        torn && change.removed
            ? share * static_cast<double>(change.before.size())
            : 0);
    if (torn && !change.published.empty()) {
      const StatusOr<Buffer> bytes = files_.ReadFile(change.published);
      if (bytes.ok()) {
        SetFile(
            files_, change.published + ".tmp-torn",
            Buffer::CopyOf(bytes->data(),
                           static_cast<int64_t>(
                               share * static_cast<double>(bytes->size()))));
      }
    }
    for (size_t f = gone; f < change.before.size(); ++f) {
      SetFile(files_, change.before[f].first, change.before[f].second);
    }
  }
  changes_.clear();
}

}  // namespace shoal::comm
