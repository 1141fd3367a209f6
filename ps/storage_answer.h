#ifndef SHOAL_PS_STORAGE_ANSWER_H_
#define SHOAL_PS_STORAGE_ANSWER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/storage.h"
#include "comm/node.h"
#include "ps/checkpoint_format.h"
#include "ps/parts_writer.h"

namespace shoal::ps {

namespace wire {
class Save;
}  // namespace wire

// How who holds state answers Save, Parts and Load. What storage refuses is
// answered by an error after which the caller does not ask again. Nothing is
// kept for a reply that can't be sent: it is asked for again.

// Writes one part at a time, while the node goes on. Belongs to its thread; the
// state that it was given must outlive it.
class SaveAnswerer {
 public:
  explicit SaveAnswerer(comm::NodeContext& context) : context_(context) {}
  ~SaveAnswerer() { Stop(); }
  SaveAnswerer(const SaveAnswerer&) = delete;
  SaveAnswerer& operator=(const SaveAnswerer&) = delete;

  // The cut is now, unless it is asked again for the part that it writes. A
  // part of before is not written to its end. `cuts_changes`: that of what the
  // tables mark too.
  void OnSave(comm::EndpointId from, const comm::Message& request,
              const wire::Save& save, ShardState state, bool cuts_changes);
  void OnParts(comm::EndpointId from, comm::Message request);

  // Tells so who waits for the part under way, if there is one, when nothing of
  // it is written any more.
  void GiveUp(const std::string& why);
  // Of rows that changed before they were written.
  int64_t kept_bytes() const {
    return saver_ == nullptr ? 0 : saver_->kept_bytes();
  }

 private:
  struct Waiting {
    comm::EndpointId from;
    comm::Message request;
  };
  void Answer(const Waiting& waiting);
  void End(StatusOr<PartsSaver::Entries> entries);
  void Stop();

  comm::NodeContext& context_;
  std::shared_ptr<PartsSaver> saver_;  // the last
  std::string folder_;
  int64_t step_ = 0;
  std::optional<StatusOr<PartsSaver::Entries>> written_;  // by it
  std::vector<Waiting> waiting_;
};

// `work` runs on the storage thread; then `loaded` on the node's, before a good
// reply; then, whatever the reply, `ended`.
void AnswerLoad(
    comm::NodeContext& context, comm::EndpointId to, comm::Message request,
    std::function<Status(Storage&)> work, std::function<void()> loaded,
    std::function<void()> ended = [] {});

}  // namespace shoal::ps

#endif  // SHOAL_PS_STORAGE_ANSWER_H_
