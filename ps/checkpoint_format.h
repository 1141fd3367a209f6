#ifndef SHOAL_PS_CHECKPOINT_FORMAT_H_
#define SHOAL_PS_CHECKPOINT_FORMAT_H_

#include <cstdint>
#include <map>
#include <optional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/function_ref.h"
#include "base/status.h"
#include "base/storage.h"
#include "ps/dense_store.h"
#include "ps/model_spec.h"
#include "ps/sparse_table.h"

namespace shoal::ps {

// A checkpoint is a folder `step-N` with one safetensors file per shard and a
// `manifest.json`, which is published last: a folder without a valid one is no
// checkpoint.
//
// A part holds, per table, `TABLE/ids` U64 [n], `TABLE/values` F32 [n, dim] and
// `TABLE/state` F32 [n, s], in the order of IdHash(); and per dense chunk
// `VARIABLE@FIRST/values` and `VARIABLE@FIRST/state` F32; all ids lie before
// all floats, which aligns them without holes. What the manifest says of a
// part: its file, size, and XXH3-64 checksum. It has a checksum of what it says
// itself.

struct CheckpointPart {
  std::string file;
  int64_t size_bytes = 0;
  std::string checksum;  // 16 hex digits
};

struct Manifest {
  int64_t step = 0;
  std::vector<CheckpointPart> parts;
  // What was given to PublishManifest(): the job, what was fitted to the data.
  std::map<std::string, std::string> texts;
};

// A shard's state, to be saved or filled.
struct ShardState {
  const ModelSpec* model = nullptr;
  std::span<const std::unique_ptr<SparseTable>> tables;
  DenseStore* dense = nullptr;
};

// Writes one part and returns its entry for PublishManifest().
// Errors: those of Storage::PublishFile(); kInvalidArgument (a name is not
// valid UTF-8).
StatusOr<std::string> SavePart(Storage& storage, const std::string& folder,
                               const std::string& file,
                               const ShardState& state);

// Errors: those of Storage::PublishFile(); kInvalidArgument (an entry that
// SavePart() did not make, or a text that is not valid UTF-8).
Status PublishManifest(Storage& storage, const std::string& folder,
                       int64_t step, const std::vector<std::string>& entries,
                       const std::map<std::string, std::string>& texts);

// Errors: kNotFound (no manifest), kDataLoss (not a valid one).
StatusOr<Manifest> ReadManifest(Storage& storage, const std::string& folder);

// Fills `state` with the rows that `owns` and the chunks that it has, from all
// parts of a checkpoint. Checksums and shapes are checked before the first
// write of a part.
// Errors: kDataLoss (damaged; names file and reason), kFailedPrecondition (of
// another model: names what differs), kNotFound (a chunk is in no part).
Status LoadParts(Storage& storage, const std::string& folder,
                 FunctionRef<bool(uint64_t)> owns, const ShardState& state);

// Removes the oldest checkpoints in `parent` beyond the newest `kept` >= 1,
// each manifest first.
Status PruneCheckpoints(Storage& storage, const std::string& parent, int kept);

// N of "step-N"; none if `name` is not of that form.
std::optional<int64_t> StepOfFolder(const std::string& name);

// Steps of the valid checkpoints in `parent`, rising.
StatusOr<std::vector<int64_t>> ListCheckpoints(Storage& storage,
                                               const std::string& parent);

// The `step-N` folder that `path` means: itself, or the newest checkpoint in
// it or in its folder `checkpoints`. Errors: kNotFound.
StatusOr<std::string> FindCheckpoint(Storage& storage, const std::string& path);

// Reads everything and checks it. Errors: kDataLoss (damaged; names file and
// reason), kNotFound (no manifest, or a part is missing).
Status VerifyCheckpoint(Storage& storage, const std::string& folder);

// 32 hex digits over all values and optimizer state, that do not depend on how
// they are laid out: the sum, modulo 2^128, of a 128-bit hash per row and
// chunk.
StatusOr<std::string> DigestCheckpoint(Storage& storage,
                                       const std::string& folder);

}  // namespace shoal::ps

#endif  // SHOAL_PS_CHECKPOINT_FORMAT_H_
