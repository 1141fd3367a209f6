#ifndef SHOAL_PS_DURABLE_STATE_H_
#define SHOAL_PS_DURABLE_STATE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "base/storage.h"
#include "comm/node.h"

namespace shoal::ps {

// Where what a node must still know after it was killed lies. It is replaced
// whole: a reader finds the newest that was kept or the one before.
//
// Read(), Write() and Remove() block, on the node's storage thread; `storage`
// is that thread's. The others are for any thread.
class StateStore {
 public:
  virtual ~StateStore() = default;

  virtual const std::string& name() const = 0;  // for errors

  // Errors: kNotFound (there is none) too.
  virtual StatusOr<Buffer> Read(Storage& storage) = 0;
  // Errors: kAborted (another node has the place of this one) too.
  virtual Status Write(Storage& storage, const Buffer& state) = 0;
  // Nothing is to be known any more, since the node has done its work or given
  // it up: `why`.
  virtual Status Remove(Storage& storage, const Status& why) = 0;

  // Of nodes that follow one another, later ones have greater ones; 0 where
  // something else sees to it that there is one at a time.
  virtual uint64_t epoch() const { return 0; }
  // The least time between two writes that nothing waits for.
  virtual Duration pause(int64_t /*state_bytes*/) const {
    return std::chrono::seconds(1);
  }
  // This node is surely the last of them still. One that is not does nothing
  // that others see; it may be again.
  virtual bool leads() const { return true; }
};

// One file; null if `path` is empty.
std::shared_ptr<StateStore> CreateFileState(const std::string& path);

// Keeps the state of a node. One write is under way at a time; a state that a
// newer one overtakes is not written. Without a store nothing is kept, and
// everything is done at once.
//
// Belongs to the node's thread; never blocks.
class DurableState {
 public:
  // `failed` is called with why a state can't be kept, naming the store;
  // nothing that waits for it runs then. `context` must outlive it.
  DurableState(comm::NodeContext& context, std::shared_ptr<StateStore> store,
               std::function<void(const Status&)> failed);

  bool enabled() const { return store_ != nullptr; }
  std::string name() const { return enabled() ? store_->name() : ""; }
  uint64_t epoch() const { return enabled() ? store_->epoch() : 0; }
  bool leads() const { return !enabled() || store_->leads(); }

  // Gives what is there, empty if nothing is. Errors: kDataLoss (damaged), and
  // those of the store.
  void Read(std::function<void(StatusOr<Buffer>)> done);

  // `kept` runs when `state`, or a newer one, outlives this process.
  void Keep(Buffer state, std::function<void()> kept);

  // All that was to be kept is.
  bool settled() const { return !writing_; }

  // It is time to keep again what changes little by little.
  bool due() const {
    return enabled() && settled() &&
           context_.Now() >= kept_at_ + store_->pause(kept_bytes_);
  }

  // Nothing is to be known any more, because of `why`. `done` runs also when
  // that fails: a state of which nobody is left is found to be so.
  void Remove(const Status& why, std::function<void()> done);

 private:
  void Write();

  comm::NodeContext& context_;
  const std::shared_ptr<StateStore> store_;
  std::function<void(const Status&)> failed_;
  Time kept_at_;  // the last, or begun
  int64_t kept_bytes_ = 0;
  bool writing_ = false;
  bool removed_ = false;
  Buffer next_;
  std::vector<std::function<void()>> waiting_;  // for `next_`
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_DURABLE_STATE_H_
