#include "ps/durable_state.h"

#include <utility>

#include "base/random.h"
#include "base/strcat.h"

namespace shoal::ps {
namespace {

// In front of the state: one that something else has changed is refused.
struct Head {
  uint64_t magic = 0x5348'4f41'4c53'5431;  // "SHOALST1"
  uint64_t hash = 0;
};

class FileState : public StateStore {
 public:
  explicit FileState(std::string path) : path_(std::move(path)) {}

  const std::string& name() const override { return path_; }
  StatusOr<Buffer> Read(Storage& storage) override {
    return storage.ReadFile(path_);
  }
  Status Write(Storage& storage, const Buffer& state) override {
    return storage.PublishFile(path_, {&state, 1});
  }
  Status Remove(Storage& storage, const Status& /*why*/) override {
    return storage.Remove(path_);
  }

 private:
  const std::string path_;
};

}  // namespace

std::shared_ptr<StateStore> CreateFileState(const std::string& path) {
  return path.empty() ? nullptr : std::make_shared<FileState>(path);
}

DurableState::DurableState(comm::NodeContext& context,
                           std::shared_ptr<StateStore> store,
                           std::function<void(const Status&)> failed)
    : context_(context), store_(std::move(store)), failed_(std::move(failed)) {}

void DurableState::Read(std::function<void(StatusOr<Buffer>)> done) {
  if (!enabled()) {
    done(Buffer());
    return;
  }
  context_.StartStorage(
      [store = store_](Storage& storage) -> StatusOr<Buffer> {
        const StatusOr<Buffer> whole = store->Read(storage);
        if (whole.status().code() == StatusCode::kNotFound) {
          return Buffer();
        }
        SHOAL_RETURN_IF_ERROR(whole.status());
        const std::string_view text = whole->text();
        const std::string_view state =
            text.size() < sizeof(Head) ? "" : text.substr(sizeof(Head));
        const Head head{.hash = HashText(state)};
        const std::string_view bytes(reinterpret_cast<const char*>(&head),
                                     sizeof(head));
        if (!text.starts_with(bytes)) {
          return DataLossError(
              StrCat(store->name(),
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
  kept_at_ = context_.Now();
  kept_bytes_ = state.size();
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
  std::string whole(reinterpret_cast<const char*>(&head), sizeof(head));
  whole += state.text();
  context_.StartStorage(
      [store = store_,
       whole = Buffer::CopyOf(whole)](Storage& storage) -> StatusOr<Buffer> {
        SHOAL_RETURN_IF_ERROR(store->Write(storage, whole));
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

void DurableState::Remove(const Status& why, std::function<void()> done) {
  if (!enabled()) {
    done();
    return;
  }
  removed_ = true;
  waiting_.clear();  // Nor is anything written after this.
  context_.StartStorage(
      [store = store_, why](Storage& storage) -> StatusOr<Buffer> {
        SHOAL_RETURN_IF_ERROR(store->Remove(storage, why));
        return Buffer();
      },
      [done = std::move(done)](const StatusOr<Buffer>&) { done(); });
}

}  // namespace shoal::ps
