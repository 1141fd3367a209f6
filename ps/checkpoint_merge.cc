#include "ps/checkpoint_merge.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "base/strcat.h"
#include "ps/checkpoint_scan.h"

namespace shoal::ps {
namespace {

class Merger {
 public:
  Merger(Storage& storage, const MergeOptions& options,
         const CheckpointScan& scan)
      : storage_(storage), options_(options), scan_(scan) {
    int64_t bytes = 0;
    for (const auto& [name, table] : scan.tables) {
      bytes += table.rows * table.form.row_bytes();
    }
    part_bytes_ = bytes / std::max(options.parts, 1) + 1;
  }

  Status Write() {
    SHOAL_RETURN_IF_ERROR(WriteChunksAndForms());
    for (const auto& [name, table] : scan_.tables) {
      SHOAL_RETURN_IF_ERROR(WriteRows(name, table));
    }
    return PublishManifest(storage_, options_.out, scan_.manifest.step,
                           entries_, scan_.manifest.texts);
  }

  size_t files() const { return entries_.size(); }

 private:
  Status WriteChunksAndForms() {
    TensorsWriter writer;
    for (const auto& [name, table] : scan_.tables) {
      GatheredRows(table.form).MoveTo(writer, name + "/");
    }
    for (const auto& [name, chunks] : scan_.variables) {
      for (const auto& [first, chunk] : chunks) {
        const std::string prefix = StrCat(name, "@", first);
        writer.Add(prefix + "/values", "F32", {chunk.values.size() / 4},
                   chunk.values);
        writer.Add(prefix + "/state", "F32", {chunk.state.size() / 4},
                   chunk.state);
      }
    }
    return Publish(writer, std::nullopt);
  }

  Status WriteRows(const std::string& name,
                   const CheckpointScan::Table& table) {
    GatheredRows gathered(table.form);
    SlotSet slots;
    // A row that begins in a part belongs to it.
    const int64_t bytes_max = options_.parts == 0
                                  ? kPartBytesMax
                                  : part_bytes_ + table.form.row_bytes() - 1;
    const auto flush = [&]() -> Status {
      const SlotSet rows = gathered.SlotsIn(slots);
      TensorsWriter writer;
      gathered.MoveTo(writer, name + "/");
      return Publish(writer, rows);
    };
    SHOAL_RETURN_IF_ERROR(WalkRows(
        storage_, {&scan_, 1}, name,
        [&](uint64_t id, const SlotSet& all, std::span<const RowRef> rows) {
          slots = all;
          gathered.Add(id, rows[0].values, rows[0].state);
          return gathered.IsFull(bytes_max) ? flush() : OkStatus();
        },
        WalkOrder::kByHash));
    return gathered.ids().empty() ? OkStatus() : flush();
  }

  Status Publish(TensorsWriter& writer, const std::optional<SlotSet>& rows) {
    SHOAL_ASSIGN_OR_RETURN(
        CheckpointPart file,
        writer.Publish(storage_, options_.out,
                       StrCat("part-", entries_.size(), ".safetensors")));
    entries_.push_back(DescribePart({std::move(file), rows}));
    return OkStatus();
  }

  Storage& storage_;
  const MergeOptions& options_;
  const CheckpointScan& scan_;
  int64_t part_bytes_ = 0;  // if a number of parts was asked for
  std::vector<std::string> entries_;
};

StatusOr<MergeResult> Merge(Storage& storage, const MergeOptions& options) {
  SHOAL_ASSIGN_OR_RETURN(const CheckpointScan scan,
                         ScanCheckpoint(storage, options.checkpoint));
  Merger merger(storage, options, scan);
  SHOAL_RETURN_IF_ERROR(merger.Write());
  SHOAL_ASSIGN_OR_RETURN(const std::string before,
                         DigestCheckpoint(storage, options.checkpoint));
  SHOAL_ASSIGN_OR_RETURN(const std::string after,
                         DigestCheckpoint(storage, options.out));
  if (before != after) {
    return InternalError(StrCat("merge ", options.checkpoint, " into ",
                                options.out, ": its digest was ", before,
                                " and is now ", after));
  }
  return MergeResult{
      .files_before = scan.num_files, .files = merger.files(), .digest = after};
}

}  // namespace

StatusOr<MergeResult> MergeCheckpoint(Storage& storage,
                                      const MergeOptions& options) {
  SHOAL_RETURN_IF_ERROR(CheckEmptyFolder(storage, options.out));
  StatusOr<MergeResult> result = Merge(storage, options);
  if (!result.ok()) {
    (void)storage.Remove(options.out);
  }
  return result;
}

}  // namespace shoal::ps
