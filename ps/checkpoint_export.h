#ifndef SHOAL_PS_CHECKPOINT_EXPORT_H_
#define SHOAL_PS_CHECKPOINT_EXPORT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/storage.h"
#include "ps/checkpoint_format.h"

namespace shoal::ps {

struct ExportOptions {
  std::string checkpoint;  // a `step-N` folder
  std::string out;         // a folder with nothing in it, or none
  // Of variables by name; those that are missing here become flat.
  std::map<std::string, std::vector<int64_t>> shapes;
  int64_t piece_bytes_max = kPartBytesMax;
};

// Writes the values of a checkpoint, without the optimizer's state, for
// programs that read safetensors: per variable a file with the tensor of its
// name; per table files of at most `piece_bytes_max` with the tensors `ids` U64
// [n] and `values` [n, dim]; and `index.json`, last, which names them:
//
//   {"format": 1, "step": N,
//    "tables": {NAME: {"dim": D, "dtype": "F32", "rows": N, "files": [...]}},
//    "variables": {NAME: {"shape": [...], "file": FILE}}}
//
// After an error nothing is left in `out`.
// Errors: those of ScanCheckpoint() and Storage::PublishFile();
// kFailedPrecondition (`out` is not empty, or a shape is not the variable's).
Status ExportCheckpoint(Storage& storage, const ExportOptions& options);

}  // namespace shoal::ps

#endif  // SHOAL_PS_CHECKPOINT_EXPORT_H_
