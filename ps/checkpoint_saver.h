#ifndef SHOAL_PS_CHECKPOINT_SAVER_H_
#define SHOAL_PS_CHECKPOINT_SAVER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "comm/node.h"
#include "ps/caller.h"
#include "ps/route.h"

namespace shoal::ps {

// Writing and reading checkpoints is bounded by disks, not by the network.
inline constexpr Duration kStorageWithin = std::chrono::minutes(10);

// Has those who hold state write their parts of a checkpoint, and publishes the
// manifest when all are there: a folder without one does not exist. Part of the
// coordinator; belongs to its thread.
class CheckpointSaver {
 public:
  struct Options {
    std::string parent;  // of the folders `step-N`; empty: none are written
    int kept = 3;        // older ones are removed
    // What the manifest keeps beside the parts; asked once all are written.
    std::function<std::map<std::string, std::string>()> texts;
  };

  // `context` and `caller` must outlive it.
  CheckpointSaver(comm::NodeContext& context, Caller& caller, Options options)
      : context_(context), caller_(caller), options_(std::move(options)) {}

  std::string Folder(int64_t step) const;
  // Parts are being written.
  bool writing() const { return missing_ > 0; }

  // `done` runs once, with OK or why there is no checkpoint; of one that failed
  // nothing stays. One at a time: where parts are being written, they are asked
  // for anew, under a newer `version` of the route.
  void Save(int64_t step, uint64_t version,
            const std::vector<RouteTable::Peer>& writers,
            std::function<void(const Status&)> done);

 private:
  void Publish();
  void Remove();

  comm::NodeContext& context_;
  Caller& caller_;
  const Options options_;

  // Of the one being written.
  int64_t step_ = 0;
  std::function<void(const Status&)> done_;
  std::vector<uint64_t> calls_;
  size_t missing_ = 0;                           // writers
  std::vector<std::vector<std::string>> parts_;  // per writer
  Status failure_;                               // the first
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_CHECKPOINT_SAVER_H_
