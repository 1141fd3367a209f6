#ifndef SHOAL_PS_CHECKPOINT_SCAN_H_
#define SHOAL_PS_CHECKPOINT_SCAN_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/function_ref.h"
#include "base/status.h"
#include "base/storage.h"
#include "ps/checkpoint_format.h"
#include "ps/checkpoint_parts.h"

namespace shoal::ps {

// What a checkpoint holds, whatever cluster laid it out: which files have rows
// of which table, and its dense variables. All of it has been read and checked.
struct CheckpointScan {
  struct RowsFile {
    CheckpointPart file;
    SlotSet slots;
    size_t link = 0;
  };
  struct Table {
    TableForm form;
    int64_t rows = 0;
    std::vector<RowsFile> files;  // as the manifests list them
    // By link: slots of which those before it have all rows.
    std::vector<SlotFlags> superseded;
  };
  using Chunks = std::map<int64_t, ChunkTensors>;  // by their first element

  std::string folder;
  Manifest manifest;
  std::vector<ChainLink> links;  // it, and what it is based on
  size_t num_files = 0;          // of them all
  std::map<std::string, Table> tables;
  std::map<std::string, Chunks> variables;  // without gaps
};

// Reads every file of a checkpoint, one at a time; keeps the dense variables.
// With what it is based on, of which what counts.
// Errors: those of ReadChain() and ReadTensors(); kDataLoss (files do not
// fit each other, or a row is not in the slots that the manifest says).
StatusOr<CheckpointScan> ScanCheckpoint(Storage& storage,
                                        const std::string& folder);

// A row of one of several checkpoints; spans are good until the visit returns.
struct RowRef {
  bool present = false;
  std::span<const std::byte> values;
  std::span<const float> state;
};

// Whether rows come by sets of slots, or all in one set.
enum class WalkOrder : uint8_t { kByGroups, kByHash };

// Visits every id that any of `scans` has in table `table`, once, with a row
// for each of them. Ids of one set of slots (`group`) come one after another,
// in the order of IdHash(): the sets are as small as the files allow, so that
// at most one file is in memory for every shard whose slots are in the set: one
// per checkpoint, where all are of clusters of one size. `kByHash` has all
// slots in one set, and thus a file of every shard in memory. Errors: those of
// ReadTensors(); kDataLoss (an id is there twice); whatever a visit returns.
Status WalkRows(Storage& storage, std::span<const CheckpointScan> scans,
                const std::string& table,
                FunctionRef<Status(uint64_t id, const SlotSet& group,
                                   std::span<const RowRef> rows)>
                    visit,
                WalkOrder order = WalkOrder::kByGroups);

}  // namespace shoal::ps

#endif  // SHOAL_PS_CHECKPOINT_SCAN_H_
