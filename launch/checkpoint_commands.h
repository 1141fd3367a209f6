#ifndef SHOAL_LAUNCH_CHECKPOINT_COMMANDS_H_
#define SHOAL_LAUNCH_CHECKPOINT_COMMANDS_H_

#include <string>

#include "base/status.h"

namespace shoal::launch {

// `shoal checkpoint ...`. Paths mean what ps::FindCheckpoint() says. Each
// prints its results to standard output and blocks until it is done. Errors:
// those of ps/checkpoint_format.h and of what each is named after.

Status RunCheckpointList(const std::string& path);
Status RunCheckpointVerify(const std::string& path);
Status RunCheckpointDigest(const std::string& path);

// Prints how two differ; `exit_code`: 0 if they are the same, 1 if they differ,
// 2 after an error, as `diff` has it.
Status RunCheckpointDiff(const std::string& a, const std::string& b,
                         int* exit_code);

// Writes one anew with few files: see ps/checkpoint_merge.h.
Status RunCheckpointMerge(const std::string& path, const std::string& out,
                          int parts);

// Writes the values for other programs: see ps/checkpoint_export.h.
Status RunCheckpointExport(const std::string& path, const std::string& out);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_CHECKPOINT_COMMANDS_H_
