#ifndef SHOAL_LAUNCH_OUT_FOLDER_H_
#define SHOAL_LAUNCH_OUT_FOLDER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "base/storage.h"
#include "base/time.h"

namespace shoal::launch {

// In the out folder: what a coordinator that is started again goes on from.
inline constexpr char kCoordinatorStateFile[] = "/coordinator.state";

// What a run does with its folder.
enum class OutUse : uint8_t {
  kLook,   // evaluates or predicts, beside others
  kTrain,  // has it for itself
  // Trains in turn with others, of which something else lets one go on at a
  // time; none of another training.
  kTrainInTurn,
  kGoOnInTurn,  // the same, and one before it has left members
};

// The folder that a run leaves its results in. A training has it for itself;
// evaluations and predictions may run beside it.
class OutFolder {
 public:
  // Makes the folder if need be. Errors: those of CheckPath(), kUnavailable (it
  // can't be made), kFailedPrecondition (another training has it). Checkpoints
  // lie in `checkpoints`, which may be in a store; empty: in
  // `path`/checkpoints. What others that were killed left of their prepared
  // data is removed, unless their members live.
  static StatusOr<std::unique_ptr<OutFolder>> Open(const std::string& path,
                                                   OutUse use,
                                                   std::string checkpoints);
  // Errors: kInvalidArgument (it can't be a local folder).
  static Status CheckPath(const std::string& path);
  // Blocks until no training has the folder, at most `within`.
  // Errors: kFailedPrecondition (one still has it).
  static Status AwaitFree(const std::string& path, Duration within);
  ~OutFolder();  // Removes the prepared data, unless it is left.
  OutFolder(const OutFolder&) = delete;
  OutFolder& operator=(const OutFolder&) = delete;

  const std::string& path() const { return path_; }
  // For the prepared data; of this run alone.
  const std::string& data() const { return data_; }
  // It stays, for workers of the job that go on without this process; the next
  // training here removes it.
  void LeaveData() { leaves_data_ = true; }
  const std::string& checkpoints() const { return checkpoints_; }
  // `folder`, spelled as the coordinator would if it is a checkpoint of here.
  std::string Spelled(const std::string& folder) const;

  // Makes room for the checkpoints of a training that goes on from
  // `restored_from` (empty: starts anew): those that an earlier run left here
  // and that it will not come by, or would come by again, and those that can't
  // be read, move to a new folder beside theirs: checkpoints.old,
  // checkpoints.old-2, and so on. Folders that never got a manifest are
  // removed. Says on standard error what it moved.
  Status SetAsideCheckpoints(Storage& storage,
                             const std::string& restored_from) const;
  // That may copy files, not only rename folders: one there is incremental.
  bool SettingAsideCopies(Storage& storage) const;

 private:
  OutFolder(std::string path, std::string checkpoints, std::string data,
            int lock_fd, int data_lock_fd);

  std::string path_;
  std::string checkpoints_;
  std::string data_;
  bool leaves_data_ = false;
  int lock_fd_;       // -1: an evaluation or prediction
  int data_lock_fd_;  // -1: the file system has no locks
};

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_OUT_FOLDER_H_
