#ifndef SHOAL_PS_DURABLE_STATE_H_
#define SHOAL_PS_DURABLE_STATE_H_

#include <functional>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "comm/node.h"

namespace shoal::ps {

// What a node must still know after it was killed, in one file that is replaced
// whole, so that a reader finds the newest state that was kept or the one
// before. One write is under way at a time; a state that a newer one overtakes
// is not written. Without a path nothing is kept, and everything is done at
// once.
//
// Belongs to the node's thread; never blocks.
class DurableState {
 public:
  // `failed` is called with why a state can't be kept, naming the file; nothing
  // that waits for it runs then. `context` must outlive it.
  DurableState(comm::NodeContext& context, std::string path,
               std::function<void(const Status&)> failed);

  bool enabled() const { return !path_.empty(); }

  // Gives what is there, empty if nothing is. Errors: kDataLoss (damaged), and
  // those of storage.
  void Read(std::function<void(StatusOr<Buffer>)> done);

  // `kept` runs when `state`, or a newer one, outlives this process.
  void Keep(Buffer state, std::function<void()> kept);

  // All that was to be kept is.
  bool settled() const { return !writing_; }

  // Nothing is to be known any more. `done` runs also when that fails: a state
  // of which nobody is left is found to be so.
  void Remove(std::function<void()> done);

 private:
  void Write();

  comm::NodeContext& context_;
  const std::string path_;
  std::function<void(const Status&)> failed_;
  bool writing_ = false;
  bool removed_ = false;
  Buffer next_;
  std::vector<std::function<void()>> waiting_;  // for `next_`
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_DURABLE_STATE_H_
