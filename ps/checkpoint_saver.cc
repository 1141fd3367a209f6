#include "ps/checkpoint_saver.h"

#include <utility>

#include "base/strcat.h"
#include "ps/checkpoint_format.h"
#include "ps/protocol.pb.h"
#include "ps/wire.h"

namespace shoal::ps {

std::string CheckpointSaver::Folder(int64_t step) const {
  return StrCat(options_.parent, "/step-", step);
}

void CheckpointSaver::Save(int64_t step, uint64_t version,
                           const std::vector<RouteTable::Peer>& writers,
                           std::function<void(const Status&)> done) {
  for (const uint64_t call : std::exchange(calls_, {})) {
    caller_.Forget(call);
  }
  step_ = step;
  done_ = std::move(done);
  missing_ = writers.size();
  parts_.assign(writers.size(), {});
  failure_ = OkStatus();
  for (size_t i = 0; i < writers.size(); ++i) {
    wire::Save save;
    save.set_folder(Folder(step));
    // Who was asked before may still be writing.
    save.set_name(version == 1 ? StrCat("part-", i)
                               : StrCat("part-", version, "-", i));
    save.set_step(step);
    save.set_version(version);
    calls_.push_back(caller_.Start(
        writers[i].endpoint, comm::Lane::kBulk,
        static_cast<uint16_t>(Method::kSave),
        StrCat("its part of the checkpoint of step ", step), kStorageWithin,
        {Encode(save)},
        [this, i, name = writers[i].name](StatusOr<comm::Message> reply) {
          wire::SaveReply saved;
          const Status status =
              reply.ok() ? Decode(*reply, saved) : reply.status();
          if (!status.ok() && failure_.ok()) {
            failure_ = status.WithPrefix(
                StrCat("checkpoint of step ", step_, " on ", name));
          }
          parts_[i].assign(saved.parts().begin(), saved.parts().end());
          if (--missing_ == 0) {
            failure_.ok() ? Publish() : Remove();
          }
        }));
  }
}

void CheckpointSaver::Publish() {
  std::vector<std::string> parts;
  for (const std::vector<std::string>& of_writer : parts_) {
    parts.insert(parts.end(), of_writer.begin(), of_writer.end());
  }
  context_.StartStorage(
      [folder = Folder(step_), step = step_, parts, texts = options_.texts(),
       parent = options_.parent,
       kept = options_.kept](Storage& storage) -> StatusOr<Buffer> {
        if (const Status published =
                PublishManifest(storage, folder, step, parts, texts);
            !published.ok()) {
          (void)storage.Remove(folder);
          return published;
        }
        SHOAL_RETURN_IF_ERROR(PruneCheckpoints(storage, parent, kept));
        return Buffer();
      },
      [this](const StatusOr<Buffer>& published) {
        done_(published.status().WithPrefix(
            StrCat("checkpoint of step ", step_)));
      });
}

// When no one writes any more: nothing comes after the removal.
void CheckpointSaver::Remove() {
  context_.StartStorage(
      [folder = Folder(step_)](Storage& storage) -> StatusOr<Buffer> {
        SHOAL_RETURN_IF_ERROR(storage.Remove(folder));
        return Buffer();
      },
      [this](const StatusOr<Buffer>&) { done_(failure_); });
}

}  // namespace shoal::ps
