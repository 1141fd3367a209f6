#ifndef SHOAL_PS_CHECKPOINT_FORMAT_H_
#define SHOAL_PS_CHECKPOINT_FORMAT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/storage.h"
#include "ps/changed_rows.h"
#include "ps/checkpoint_folders.h"
#include "ps/checkpoint_manifest.h"
#include "ps/checkpoint_parts.h"
#include "ps/dense_store.h"
#include "ps/model_spec.h"
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
//
// An incremental checkpoint has all dense chunks, but of rows only those that
// changed since its base, another checkpoint, which its manifest names; and
// `TABLE/removed` U64 [n], the ids whose rows went since, in the same order. Of
// slots that are whole it has all rows, and the base's do not count: bit by bit
// in `TABLE/whole` U64 [slots / 64] of each shard's first file.

// A file of rows is closed when it has this many bytes, so that saving and
// loading never need much more memory than that.
constexpr int64_t kPartBytesMax = int64_t{64} << 20;

// What of a shard's state is to be saved or filled.
struct ShardState {
  const ModelSpec* model = nullptr;
  std::span<const std::unique_ptr<SparseTable>> tables;
  DenseStore* dense = nullptr;
  std::span<const DenseChunk> chunks;  // of `dense`
  int slot_bits = 10;
  const std::vector<bool>* slots = nullptr;  // by slot; null: all of them
  // To be saved, by table: of its rows only these; empty: all.
  std::vector<std::shared_ptr<ChangedSet>> changed = {};
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

// Fills `state` with the rows of its slots and the chunks that it has, from the
// files of a checkpoint that may have some, and of what it is based on. All
// chunks and the forms of the tables are checked before the first row, each
// file before its first write. Errors: those of ReadChain(); kDataLoss
// (damaged; names file and reason), kFailedPrecondition (of another model:
// names what differs), kNotFound (a chunk or table is in none).
Status LoadParts(Storage& storage, const std::string& folder,
                 const ShardState& state);

// Reads everything and checks it, with what it is based on. Errors: those of
// ReadChain(); kDataLoss (damaged; names file and reason), kNotFound (no
// manifest, or a part is missing).
Status VerifyCheckpoint(Storage& storage, const std::string& folder);

// 32 hex digits over all values and optimizer state, that do not depend on how
// they are laid out, nor on whether it is incremental: the sum, modulo 2^128,
// of a 128-bit hash per row and chunk.
StatusOr<std::string> DigestCheckpoint(Storage& storage,
                                       const std::string& folder);

}  // namespace shoal::ps

#endif  // SHOAL_PS_CHECKPOINT_FORMAT_H_
