#include "ps/checkpoint_saver.h"

#include <algorithm>
#include <utility>

#include "base/strcat.h"
#include "ps/checkpoint_format.h"
#include "ps/protocol.pb.h"

namespace shoal::ps {

std::string CheckpointSaver::Folder(int64_t step) const {
  return StrCat(options_.parent, "/step-", step);
}

void CheckpointSaver::Save(Request request, std::function<void()> go_on,
                           std::function<void(const Status&, bool)> done) {
  for (const Writer& writer : std::exchange(writers_, {})) {
    caller_.Forget(writer.call);
  }
  step_ = request.step;
  base_.reset();
  if (since_full_ < options_.full_every && published_.has_value() &&
      published_->step < step_) {
    base_ = published_;
  }
  waits_for_all_ = request.last || !options_.asynchronous || gave_up_;
  texts_ = options_.texts();
  go_on_ = std::move(go_on);
  done_ = std::move(done);
  failure_ = OkStatus();
  for (size_t i = 0; i < request.writers.size(); ++i) {
    Writer& writer = writers_.emplace_back();
    writer.peer = std::move(request.writers[i]);
    // Who was asked before may still be writing; and who led before may have
    // published one of this step, of which no file is written over by others.
    const char* const kind = base_.has_value() ? "changes-" : "part-";
    writer.name = request.version == 1 ? StrCat(kind, i)
                                       : StrCat(kind, request.version, "-", i);
  }
  if (!request.replaces) {
    AskAll(request.version);
    return;
  }
  context_.StartStorage(
      [folder = Folder(step_), parent = options_.parent,
       step = step_](Storage& storage) -> StatusOr<Buffer> {
        SHOAL_RETURN_IF_ERROR(RemoveWhatIsBasedOn(storage, parent, step));
        SHOAL_RETURN_IF_ERROR(RemoveCheckpoint(storage, folder));
        return Buffer();
      },
      [this, version = request.version,
       number = ++asked_](const StatusOr<Buffer>& removed) {
        if (number != asked_) {
          return;  // Asked anew meanwhile.
        }
        if (removed.ok()) {
          AskAll(version);
        } else {
          writers_.clear();
          End(removed.status().WithPrefix(
              StrCat("checkpoint of step ", step_)));
        }
      });
}

void CheckpointSaver::AskAll(uint64_t version) {
  for (size_t i = 0; i < writers_.size(); ++i) {
    wire::Save save;
    save.set_folder(Folder(step_));
    save.set_name(writers_[i].name);
    save.set_step(step_);
    save.set_version(version);
    if (base_.has_value()) {
      save.set_base(base_->step);
    }
    Ask(i, Method::kSave, StrCat("the cut of the checkpoint of step ", step_),
        kStorageWithin, Encode(save));
  }
}

void CheckpointSaver::Ask(size_t writer, Method method, const std::string& what,
                          Duration within, Buffer frame) {
  writers_[writer].call = caller_.Start(
      writers_[writer].peer.endpoint, comm::Lane::kBulk,
      static_cast<uint16_t>(method), what, within, {std::move(frame)},
      [this, writer](const StatusOr<comm::Message>& reply) {
        OnReply(writer, reply);
      });
}

void CheckpointSaver::OnReply(size_t writer,
                              const StatusOr<comm::Message>& reply) {
  Writer& of = writers_[writer];
  if (!reply.ok()) {
    Fail(writer, reply.status());
  } else if (!of.has_cut) {
    of.has_cut = true;
    wire::Parts parts;
    parts.set_folder(Folder(step_));
    parts.set_name(of.name);
    Ask(writer, Method::kParts,
        StrCat("its part of the checkpoint of step ", step_), kStorageWithin,
        Encode(parts));
    MaybeGoOn();
  } else {
    wire::PartsReply written;
    if (const Status status = Decode(*reply, written); !status.ok()) {
      Fail(writer, status);
      return;
    }
    of.parts.assign(written.parts().begin(), written.parts().end());
    of.ended = true;
    MaybeEnd();
  }
}

void CheckpointSaver::Fail(size_t writer, const Status& why) {
  Writer& of = writers_[writer];
  if (failure_.ok()) {
    failure_ = why.WithPrefix(
        StrCat("checkpoint of step ", step_, " on ", of.peer.name));
  }
  of.has_cut = of.ended = true;
  MaybeEnd();
}

void CheckpointSaver::OnLost(comm::EndpointId writer) {
  for (size_t i = 0; i < writers_.size(); ++i) {
    if (writers_[i].peer.endpoint != writer || writers_[i].ended) {
      continue;
    }
    caller_.Forget(writers_[i].call);
    if (stops()) {
      writers_[i].has_cut = false;  // Others will be asked in its place.
    } else {
      Fail(i, AbortedError("was lost before it had written its part"));
      return;  // Perhaps it was the last that was missing.
    }
  }
}

void CheckpointSaver::MaybeGoOn() {
  if (!waits_for_all_ && failure_.ok() &&
      std::all_of(writers_.begin(), writers_.end(),
                  [](const Writer& writer) { return writer.has_cut; })) {
    std::exchange(go_on_, nullptr)();
  }
}

void CheckpointSaver::MaybeEnd() {
  if (std::all_of(writers_.begin(), writers_.end(),
                  [](const Writer& writer) { return writer.ended; })) {
    failure_.ok() ? Publish() : Remove();
  }
}

void CheckpointSaver::Publish() {
  std::vector<std::string> parts;
  for (const Writer& writer : std::exchange(writers_, {})) {
    parts.insert(parts.end(), writer.parts.begin(), writer.parts.end());
  }
  context_.StartStorage(
      [folder = Folder(step_), step = step_, parts, texts = texts_,
       base = base_, parent = options_.parent,
       kept = options_.kept](Storage& storage) -> StatusOr<Buffer> {
        if (base.has_value()) {
          const StatusOr<Manifest> there =
              ReadManifest(storage, StrCat(parent, "/step-", base->step));
          if (!there.ok() || there->checksum != base->checksum) {
            (void)storage.Remove(folder);
            return AbortedError(StrCat(
                "step-", base->step, ", which it is based on, is ",
                there.ok() ? "another one now"
                           : StrCat("gone: ", there.status().message())));
          }
        }
        // Of a run before, of the coordinator of which nothing was kept.
        SHOAL_RETURN_IF_ERROR(RemoveWhatIsBasedOn(storage, parent, step));
        std::string checksum;
        if (const Status published = PublishManifest(
                storage, folder, step, parts, texts, base, &checksum);
            !published.ok()) {
          (void)storage.Remove(folder);
          return published;
        }
        SHOAL_RETURN_IF_ERROR(PruneCheckpoints(storage, parent, kept, step));
        return Buffer::CopyOf(checksum);
      },
      [this](const StatusOr<Buffer>& published) {
        if (published.ok()) {
          published_ = ManifestBase{step_, std::string(published->text())};
          since_full_ = base_.has_value() ? since_full_ + 1 : 1;
        } else {
          published_.reset();  // The next one is full.
        }
        End(published.status().WithPrefix(
            StrCat("checkpoint of step ", step_)));
      });
}

// When no one writes any more: nothing comes after the removal.
void CheckpointSaver::Remove() {
  writers_.clear();
  context_.StartStorage(
      [folder = Folder(step_)](Storage& storage) -> StatusOr<Buffer> {
        SHOAL_RETURN_IF_ERROR(storage.Remove(folder));
        return Buffer();
      },
      [this](const StatusOr<Buffer>&) { End(failure_); });
}

void CheckpointSaver::End(const Status& status) {
  gave_up_ = status.code() == StatusCode::kAborted;
  const auto go_on = std::exchange(go_on_, nullptr);
  const auto then = std::exchange(then_, nullptr);
  std::exchange(done_, nullptr)(status, go_on != nullptr);
  if (go_on != nullptr && status.ok()) {
    go_on();
  }
  if (then != nullptr) {
    then();
  }
}

}  // namespace shoal::ps
