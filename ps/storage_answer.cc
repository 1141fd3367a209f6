#include "ps/storage_answer.h"

#include <utility>

#include "base/strcat.h"
#include "comm/rpc.h"
#include "ps/protocol.pb.h"
#include "ps/wire.h"

namespace shoal::ps {
namespace {

// A full or broken disk is not a busy peer.
Status Final(const Status& status) {
  return status.code() == StatusCode::kDataLoss ||
                 status.code() == StatusCode::kAborted
             ? status
             : FailedPreconditionError(status.message());
}

}  // namespace

void SaveAnswerer::OnSave(comm::EndpointId from, const comm::Message& request,
                          const wire::Save& save, ShardState state,
                          bool cuts_changes) {
  if (saver_ == nullptr || saver_->name() != save.name() ||
      folder_ != save.folder() || step_ != save.step()) {
    Stop();
    folder_ = save.folder();
    step_ = save.step();
    for (size_t t = 0; cuts_changes && t < state.tables.size(); ++t) {
      auto changed = state.tables[t]->CutChanges(
          step_, save.has_base() ? std::optional(save.base()) : std::nullopt);
      if (save.has_base()) {
        state.changed.push_back(std::move(changed));
      }
    }
    saver_ = std::make_shared<PartsSaver>(context_, save.folder(), save.name(),
                                          state);
    saver_->Start([this](StatusOr<PartsSaver::Entries> entries) {
      End(std::move(entries));
    });
  }
  (void)context_.Send(from, comm::Lane::kBulk, comm::MakeReply(request, {}));
}

void SaveAnswerer::OnParts(comm::EndpointId from, comm::Message request) {
  wire::Parts parts;
  Status status = Decode(request, parts);
  if (status.ok() && (saver_ == nullptr || saver_->name() != parts.name() ||
                      folder_ != parts.folder())) {
    status = AbortedError(StrCat("does not write ", parts.folder(), "/",
                                 parts.name(), " any more"));
  }
  if (!status.ok()) {
    (void)context_.Send(from, comm::Lane::kBulk,
                        comm::MakeErrorReply(request, status));
  } else if (written_.has_value()) {
    Answer({from, std::move(request)});
  } else {
    waiting_.push_back({from, std::move(request)});
  }
}

void SaveAnswerer::Answer(const Waiting& waiting) {
  comm::Message reply;
  if (written_->ok()) {
    wire::PartsReply parts;
    parts.mutable_parts()->Assign((*written_)->begin(), (*written_)->end());
    reply = comm::MakeReply(waiting.request, {Encode(parts)});
  } else {
    reply = comm::MakeErrorReply(waiting.request, Final(written_->status()));
  }
  (void)context_.Send(waiting.from, comm::Lane::kBulk, std::move(reply));
}

void SaveAnswerer::End(StatusOr<PartsSaver::Entries> entries) {
  written_ = std::move(entries);
  for (const Waiting& waiting : std::exchange(waiting_, {})) {
    Answer(waiting);
  }
}

void SaveAnswerer::GiveUp(const std::string& why) {
  if (saver_ != nullptr && !written_.has_value()) {
    saver_->GiveUp(AbortedError(why));
  }
}

void SaveAnswerer::Stop() {
  if (saver_ != nullptr) {
    saver_->Stop();
  }
  saver_ = nullptr;
  written_.reset();
  waiting_.clear();
}

void AnswerLoad(comm::NodeContext& context, comm::EndpointId to,
                comm::Message request, std::function<Status(Storage&)> work,
                std::function<void()> loaded, std::function<void()> ended) {
  context.StartStorage(
      [work = std::move(work)](Storage& storage) -> StatusOr<Buffer> {
        SHOAL_RETURN_IF_ERROR(work(storage));
        return Buffer();
      },
      [&context, to, request = std::move(request), loaded = std::move(loaded),
       ended = std::move(ended)](const StatusOr<Buffer>& done) {
        if (done.ok()) {
          loaded();
        }
        (void)context.Send(
            to, comm::Lane::kBulk,
            done.ok() ? comm::MakeReply(request, {})
                      : comm::MakeErrorReply(request, Final(done.status())));
        ended();
      });
}

}  // namespace shoal::ps
