#include "ps/fenced_storage.h"

#include "base/strcat.h"

namespace shoal::ps {

Status FencedStorage::PublishFile(const std::string& path,
                                  std::span<const Buffer> pieces) {
  SHOAL_RETURN_IF_ERROR(Check(path));
  return files_.PublishFile(path, pieces);
}

Status FencedStorage::Remove(const std::string& path) {
  SHOAL_RETURN_IF_ERROR(Check(path));
  return files_.Remove(path);
}

Status FencedStorage::MoveFolder(const std::string& from,
                                 const std::string& to) {
  SHOAL_RETURN_IF_ERROR(Check(from));
  return files_.MoveFolder(from, to);
}

void FencedStorage::Cancel() {
  if (auto* const waiting = dynamic_cast<Cancellable*>(&files_)) {
    waiting->Cancel();
  }
}

Status FencedStorage::Check(const std::string& path) const {
  return leads_() ? OkStatus()
                  : AbortedError(StrCat(path,
                                        " is not changed: this coordinator "
                                        "does not know whether it still leads "
                                        "the job"));
}

}  // namespace shoal::ps
