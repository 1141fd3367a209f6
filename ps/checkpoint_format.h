#ifndef SHOAL_PS_CHECKPOINT_FORMAT_H_
#define SHOAL_PS_CHECKPOINT_FORMAT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/storage.h"
#include "ps/checkpoint_parts.h"
#include "ps/dense_store.h"
#include "ps/model_spec.h"
#include "ps/safetensors.h"
#include "ps/slots.h"
#include "ps/sparse_table.h"

namespace shoal::ps {

// A checkpoint is a folder `step-N` of safetensors files, a few per shard, and
// a `manifest.json`, which is published last: a folder without a valid one is
// no checkpoint.
//
// The first file of a shard holds its dense chunks, `VARIABLE@FIRST/values` and
// `VARIABLE@FIRST/state` F32, and of each table the form: the tensors that
// follow, with no row. Each further file holds rows of one table: `TABLE/ids`
// U64 [n], `TABLE/values` [n, dim] in the table's format (F32, BF16, F16) and
// `TABLE/state` F32 [n, s], in the order of IdHash(). Wider elements lie before
// narrower ones, which aligns them without holes. What the manifest says of a
// file: its name, size, checksum, and the slots that its rows are of. It has a
// checksum of what it says itself.

// A file of rows is closed when it has this many bytes, so that saving and
// loading never need much more memory than that.
constexpr int64_t kPartBytesMax = int64_t{64} << 20;

struct ManifestPart {
  CheckpointPart file;
  std::optional<SlotSet> rows;  // none: no rows, of interest to every shard
};

struct Manifest {
  int64_t step = 0;
  std::vector<ManifestPart> parts;
  // What was given to PublishManifest(): the job, what was fitted to the data.
  std::map<std::string, std::string> texts;
};

// What of a shard's state is to be saved or filled.
struct ShardState {
  const ModelSpec* model = nullptr;
  std::span<const std::unique_ptr<SparseTable>> tables;
  DenseStore* dense = nullptr;
  std::span<const DenseChunk> chunks;  // of `dense`
  int slot_bits = 10;
  const std::vector<bool>* slots = nullptr;  // by slot; null: all of them
  // Asked while it is filled, so that what is too much is found soon; or none.
  std::function<Status()> check = {};
};

TableForm FormOf(const SparseTable& table);

// "deep/0/w@16384": the tensors of a chunk begin with it.
std::string ChunkPrefix(const ModelSpec& model, const DenseChunk& chunk);

// Has all slots of `state`, and no others where they are evenly spread, as they
// are until a shard is lost or added.
SlotSet SlotsOf(const ShardState& state);

// Writes the shard's files, named NAME-0.safetensors and so on, and returns
// their entries for PublishManifest(). The state stays as it is meanwhile; see
// PartsSaver for one that goes on.
// Errors: those of PartsWriter::Next() and PartsWriter::File::Publish().
StatusOr<std::vector<std::string>> SaveParts(
    Storage& storage, const std::string& folder, const std::string& name,
    const ShardState& state, int64_t part_bytes_max = kPartBytesMax);

// An entry for PublishManifest().
std::string DescribePart(const ManifestPart& part);

// Those of `slots` that `ids`, of rows in the order of IdHash() and at least
// one, lie in or between.
SlotSet SlotsOfRows(SlotSet slots, std::span<const uint64_t> ids);

// Errors: those of Storage::PublishFile(); kInvalidArgument (an entry that
// SaveParts() did not make, or a text that is not valid UTF-8).
Status PublishManifest(Storage& storage, const std::string& folder,
                       int64_t step, const std::vector<std::string>& entries,
                       const std::map<std::string, std::string>& texts);

// Errors: kNotFound (no manifest), kDataLoss (not a valid one).
StatusOr<Manifest> ReadManifest(Storage& storage, const std::string& folder);

// Fills `state` with the rows of its slots and the chunks that it has, from the
// files of a checkpoint that may have some. All chunks and the forms of the
// tables are checked before the first row, each file before its first write.
// Errors: kDataLoss (damaged; names file and reason), kFailedPrecondition (of
// another model: names what differs), kNotFound (a chunk or table is in none).
Status LoadParts(Storage& storage, const std::string& folder,
                 const ShardState& state);

// The manifest first: what is half removed is no checkpoint. Nothing there is
// fine.
Status RemoveCheckpoint(Storage& storage, const std::string& folder);

// Removes the oldest checkpoints in `parent` beyond the newest `kept` >= 1.
Status PruneCheckpoints(Storage& storage, const std::string& parent, int kept);

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
// (the newest can't be read; names the newest that can).
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
