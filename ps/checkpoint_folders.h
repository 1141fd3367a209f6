#ifndef SHOAL_PS_CHECKPOINT_FOLDERS_H_
#define SHOAL_PS_CHECKPOINT_FOLDERS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/storage.h"
#include "ps/checkpoint_manifest.h"

namespace shoal::ps {

// The folders `step-N` of the checkpoints of a job, in one folder.

// The manifest first: what is half removed is no checkpoint. Nothing there is
// fine.
Status RemoveCheckpoint(Storage& storage, const std::string& folder);

// Copies it, the manifest last; one that is there already is taken for it.
Status CopyCheckpoint(Storage& storage, const ChainLink& from,
                      const std::string& to);

// Removes the checkpoints in `parent` beyond the newest `kept` >= 1, that of
// `step` (the next one may be based on it; an earlier run may have left some of
// later steps), and what these are based on.
Status PruneCheckpoints(Storage& storage, const std::string& parent, int kept,
                        int64_t step = -1);

// Before another checkpoint takes the place of `step-STEP`, if that is there.
Status RemoveWhatIsBasedOn(Storage& storage, const std::string& parent,
                           int64_t step);

// For what is to be written where nothing is. Errors: those of
// Storage::ListFolder(); kFailedPrecondition (something is in `folder`).
Status CheckEmptyFolder(Storage& storage, const std::string& folder);

// N of "step-N"; none if `name` is not of that form.
std::optional<int64_t> StepOfFolder(const std::string& name);

// Steps of the valid checkpoints in `parent`, rising.
StatusOr<std::vector<int64_t>> ListCheckpoints(Storage& storage,
                                               const std::string& parent);

// The `step-N` folder that `path` means: itself, or the newest checkpoint in
// it or in its folder `checkpoints`. Errors: kNotFound; kDataLoss and others
// (the newest can't be read; names the newest that can), those of ReadChain().
StatusOr<std::string> FindCheckpoint(Storage& storage, const std::string& path);

}  // namespace shoal::ps

#endif  // SHOAL_PS_CHECKPOINT_FOLDERS_H_
