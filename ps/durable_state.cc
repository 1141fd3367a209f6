#include "ps/durable_state.h"

#include <utility>

#include "base/random.h"
#include "base/strcat.h"

namespace shoal::ps {
namespace {

// In front of the state: a file that something else has changed is refused.
struct Head {
  uint64_t magic = 0x5348'4f41'4c53'5431;  // "SHOALST1"
  uint64_t hash = 0;
};

}  // namespace

DurableState::DurableState(comm::NodeContext& context, std::string path,
                           std::function<void(const Status&)> failed)
    : context_(context), path_(std::move(path)), failed_(std::move(failed)) {}

void DurableState::Read(std::function<void(StatusOr<Buffer>)> done) {
  if (!enabled()) {
    done(Buffer());
    return;
  }
  context_.StartStorage(
      [path = path_](Storage& storage) -> StatusOr<Buffer> {
        StatusOr<Buffer> file = storage.ReadFile(path);
        if (file.status().code() == StatusCode::kNotFound) {
          return Buffer();
        }
        SHOAL_RETURN_IF_ERROR(file.status());
        const std::string_view text = file->text();
        const std::string_view state =
            text.size() < sizeof(Head) ? "" : text.substr(sizeof(Head));
        const Head head{.hash = HashText(state)};
        const std::string_view bytes(reinterpret_cast<const char*>(&head),
                                     sizeof(head));
        if (!text.starts_with(bytes)) {
          return DataLossError(
              StrCat(path,
                     " is damaged or of another version of Shoal; if no "
                     "member of its job runs any more, remove it"));
        }
        return Buffer::CopyOf(state);
      },
      std::move(done));
}

void DurableState::Keep(Buffer state, std::function<void()> kept) {
  if (!enabled()) {
    kept();
    return;
  }
  if (removed_) {
    return;
  }
  next_ = std::move(state);
  waiting_.push_back(std::move(kept));
  if (!writing_) {
    Write();
  }
}

void DurableState::Write() {
  writing_ = true;
  const Buffer state = std::exchange(next_, Buffer());
  const Head head{.hash = HashText(state.text())};
  context_.StartStorage(
      [path = path_, state, head = Buffer::CopyOf(&head, sizeof(head))](
          Storage& storage) -> StatusOr<Buffer> {
        const Buffer pieces[] = {head, state};
        SHOAL_RETURN_IF_ERROR(storage.PublishFile(path, pieces));
        return Buffer();
      },
      [this,
       waited = std::exchange(waiting_, {})](const StatusOr<Buffer>& written) {
        writing_ = false;
        if (!written.ok()) {
          failed_(written.status().WithPrefix(
              "what the coordinator must know after a restart"));
          return;
        }
        if (!waiting_.empty()) {
          Write();
        }
        for (const std::function<void()>& kept : waited) {
          kept();
        }
      });
}

void DurableState::Remove(std::function<void()> done) {
  if (!enabled()) {
    done();
    return;
  }
  removed_ = true;
  waiting_.clear();  // Nor is anything written after this.
  context_.StartStorage(
      [path = path_](Storage& storage) -> StatusOr<Buffer> {
        SHOAL_RETURN_IF_ERROR(storage.Remove(path));
        return Buffer();
      },
      [done = std::move(done)](const StatusOr<Buffer>&) { done(); });
}

}  // namespace shoal::ps
