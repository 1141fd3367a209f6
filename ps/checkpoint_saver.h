#ifndef SHOAL_PS_CHECKPOINT_SAVER_H_
#define SHOAL_PS_CHECKPOINT_SAVER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "comm/node.h"
#include "ps/caller.h"
#include "ps/checkpoint_manifest.h"
#include "ps/route.h"
#include "ps/wire.h"

namespace shoal::ps {

// Writing and reading checkpoints is bounded by disks, not by the network.
inline constexpr Duration kStorageWithin = std::chrono::minutes(10);

// Has those who hold state write their parts of a checkpoint, and publishes the
// manifest when all are there: a folder without one does not exist. Training
// stops only until each has made its cut, after which it writes what was there
// then. Part of the coordinator; belongs to its thread.
class CheckpointSaver {
 public:
  struct Options {
    std::string parent;  // of the folders `step-N`; empty: none are written
    int kept = 3;        // older ones are removed
    // Each so many-th has all rows, those between are based on the one before.
    int full_every = 1;
    // Training may go on while it is written.
    bool asynchronous = true;
    // What the manifest keeps beside the parts; asked at the cut.
    std::function<std::map<std::string, std::string>()> texts;
  };

  // `context` and `caller` must outlive it.
  CheckpointSaver(comm::NodeContext& context, Caller& caller, Options options)
      : context_(context), caller_(caller), options_(std::move(options)) {}

  std::string Folder(int64_t step) const;
  // One is being written.
  bool writing() const { return done_ != nullptr; }
  // And training waits for them.
  bool stops() const { return !writers_.empty() && go_on_ != nullptr; }

  struct Request {
    int64_t step = 0;
    uint64_t version = 0;  // of the route
    std::vector<RouteTable::Peer> writers;
    bool last = false;  // of the job, which ends when it is written
    // One of this step may be there, of the run that this one goes back behind:
    // it goes first, so that no manifest is of other files than are there; and
    // before it what is based on it.
    bool replaces = false;
  };
  // `go_on` runs once training may: at the cut, or when all is written if it is
  // the last, or none may be written meanwhile, or the one before was given up.
  // `done` runs once, before that where both come at the end, with OK or why
  // there is no checkpoint, and whether training has waited for it; of one that
  // failed nothing stays. kAborted: it was given up, since what was to be
  // written was lost with its writer, or changed faster than it could be
  // written; unless training has waited nothing else is wrong.
  //
  // One at a time: where stops(), parts are asked for anew, of another version.
  void Save(Request request, std::function<void()> go_on,
            std::function<void(const Status&, bool stopped)> done);
  // Runs when what is being written is done.
  void WhenDone(std::function<void()> then) { then_ = std::move(then); }

  // It is no member any more. Where stops(), Save() follows with those who take
  // its place.
  void OnLost(comm::EndpointId writer);

 private:
  struct Writer {
    RouteTable::Peer peer;
    std::string name;  // of its files
    uint64_t call = 0;
    bool has_cut = false;
    bool ended = false;
    std::vector<std::string> parts;
  };

  void AskAll(uint64_t version);
  void Ask(size_t writer, Method method, const std::string& what,
           Duration within, Buffer frame);
  void OnReply(size_t writer, const StatusOr<comm::Message>& reply);
  void Fail(size_t writer, const Status& why);
  // What follows when the last of them has made its cut, or ended.
  void MaybeGoOn();
  void MaybeEnd();
  void Publish();
  void Remove();
  void End(const Status& status);

  comm::NodeContext& context_;
  Caller& caller_;
  const Options options_;
  bool gave_up_ = false;  // the one before
  int asked_ = 0;         // times, of those that replace
  // The last that was published by this one, and how many since the last full
  // one, with that. What another coordinator published has its marks perhaps
  // nowhere: the first is full.
  std::optional<ManifestBase> published_;
  int since_full_ = 0;
  std::function<void()> then_;

  // Of the one being written.
  int64_t step_ = 0;
  std::optional<ManifestBase> base_;  // it has what changed since
  bool waits_for_all_ = false;
  std::map<std::string, std::string> texts_;
  std::function<void()> go_on_;
  std::function<void(const Status&, bool)> done_;
  std::vector<Writer> writers_;
  Status failure_;  // the first
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_CHECKPOINT_SAVER_H_
