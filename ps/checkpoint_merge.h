#ifndef SHOAL_PS_CHECKPOINT_MERGE_H_
#define SHOAL_PS_CHECKPOINT_MERGE_H_

#include <cstddef>
#include <string>

#include "base/status.h"
#include "base/storage.h"

namespace shoal::ps {

struct MergeOptions {
  std::string checkpoint;  // a `step-N` folder
  std::string out;         // a folder with nothing in it, or none
  // Files of rows: of one table each, of one size but for the last of a table,
  // so that there may be one more for each table. 0: as many as it takes for
  // files of kPartBytesMax. Larger ones cost their size in memory, here and
  // where they are restored.
  int parts = 0;
};

struct MergeResult {
  size_t files_before = 0;
  size_t files = 0;
  std::string digest;  // of both
};

// Writes a checkpoint anew with few files, which hold the rows of all shards:
// one of the dense variables, then those of the tables. A server that restores
// it reads all of them, so this is for checkpoints of many small files. Keeps
// one file of every shard in memory, and compares the digests of both when it
// is done. After an error nothing is left in `out`. Errors: those of
// ScanCheckpoint() and Storage::PublishFile(); kFailedPrecondition (`out` is
// not empty); kInternal (the digests differ).
StatusOr<MergeResult> MergeCheckpoint(Storage& storage,
                                      const MergeOptions& options);

}  // namespace shoal::ps

#endif  // SHOAL_PS_CHECKPOINT_MERGE_H_
