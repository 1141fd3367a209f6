#include "ps/checkpoint_scan.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <queue>
#include <utility>

#include "base/strcat.h"
#include "ps/slots.h"

namespace shoal::ps {
namespace {

// Of a file that does not say which slots its rows are of.
constexpr SlotSet kAllSlots = {.bits = 1, .first = 0, .last = 1, .stride = 1};

Status AddTable(const std::string& path, size_t link, const ManifestPart& part,
                const std::string& name, const TableTensors& rows,
                CheckpointScan& scan) {
  const auto [it, first] =
      scan.tables.try_emplace(name, CheckpointScan::Table{.form = rows.form});
  CheckpointScan::Table& table = it->second;
  if (rows.form != table.form) {
    return Damaged(path, StrCat("its rows of table '", name,
                                "' have another form than in other files"));
  }
  table.superseded.resize(scan.links.size());
  for (size_t older = link + 1; older < scan.links.size(); ++older) {
    if (!rows.AddWholeTo(table.superseded[older])) {
      return Damaged(path, StrCat("'", name,
                                  "/whole' is of another number of slots than "
                                  "in other files"));
    }
  }
  if (rows.ids.empty() && rows.removed.empty()) {
    return OkStatus();
  }
  const SlotSet slots = part.rows.value_or(kAllSlots);
  for (const std::span<const uint64_t> ids : {rows.ids, rows.removed}) {
    for (const uint64_t id : ids) {
      if (!slots.Contains(SlotOfHash(IdHash(id), slots.bits))) {
        return Damaged(path, StrCat("row ", id, " of table '", name,
                                    "' is not in the slots that the manifest "
                                    "says"));
      }
    }
  }
  table.rows += static_cast<int64_t>(rows.ids.size());
  table.files.push_back({.file = part.file, .slots = slots, .link = link});
  return OkStatus();
}

Status CheckChunks(const CheckpointScan& scan) {
  for (const auto& [name, chunks] : scan.variables) {
    int64_t end = 0;
    for (const auto& [first, chunk] : chunks) {
      if (first != end) {
        return Damaged(scan.folder,
                       StrCat("the chunks of variable '", name,
                              "' leave a hole or overlap at element ", end));
      }
      end += static_cast<int64_t>(chunk.values.As<float>().size());
    }
  }
  return OkStatus();
}

}  // namespace

StatusOr<CheckpointScan> ScanCheckpoint(Storage& storage,
                                        const std::string& folder) {
  CheckpointScan scan{.folder = folder};
  SHOAL_ASSIGN_OR_RETURN(scan.links, ReadChain(storage, folder));
  scan.manifest = scan.links[0].manifest;
  for (size_t link = 0; link < scan.links.size(); ++link) {
    const ChainLink& from = scan.links[link];
    scan.num_files += from.manifest.parts.size();
    for (const ManifestPart& part : from.manifest.parts) {
      SHOAL_ASSIGN_OR_RETURN(const Tensors tensors,
                             ReadTensors(storage, from.folder, part.file));
      const std::string path = StrCat(from.folder, "/", part.file.file);
      SHOAL_RETURN_IF_ERROR(VisitPart(
          path, tensors,
          [&](const std::string& name, const TableTensors& rows) {
            return AddTable(path, link, part, name, rows, scan);
          },
          [&](const ChunkName& name, const ChunkTensors& chunk) {
            const bool added =
                link > 0 ||
                scan.variables[name.variable].emplace(name.first, chunk).second;
            return added ? OkStatus()
                         : Damaged(path, StrCat("variable chunk '",
                                                name.variable, "@", name.first,
                                                "' is in another file too"));
          }));
    }
  }
  SHOAL_RETURN_IF_ERROR(CheckChunks(scan));
  // Of links only those rows count that no newer one has, or removes.
  for (auto& [name, table] : scan.tables) {
    if (scan.links.size() > 1) {
      int64_t rows = 0;
      SHOAL_RETURN_IF_ERROR(
          WalkRows(storage, {&scan, 1}, name,
                   [&](uint64_t, const SlotSet&, std::span<const RowRef>) {
                     ++rows;
                     return OkStatus();
                   }));
      table.rows = rows;
    }
  }
  return scan;
}

namespace {

// Goes through the rows of files of one link whose slots follow each other,
// and the ids between them that are removed.
class RowCursor {
 public:
  RowCursor(Storage& storage, const CheckpointScan& scan, size_t scan_number,
            size_t link, const std::string& table)
      : storage_(storage),
        scan_(scan),
        scan_number_(scan_number),
        link_(link),
        superseded_(scan.tables.at(table).superseded[link]),
        table_(table) {}

  bool Follows(const CheckpointScan::RowsFile& file) const {
    return file.link == link_ &&
           (files_.empty() || file.slots.first >= files_.back()->slots.last);
  }
  void Append(const CheckpointScan::RowsFile& file) { files_.push_back(&file); }

  // To the first row or removed id that counts, then to the next.
  Status Advance() {
    do {
      SHOAL_RETURN_IF_ERROR(Step());
    } while (!done_ && superseded_.Has(hash_));
    return OkStatus();
  }

  bool done() const { return done_; }
  uint64_t hash() const { return hash_; }
  uint64_t id() const {
    return is_removed_ ? rows_.removed[removed_at_] : rows_.ids[at_];
  }
  size_t scan_number() const { return scan_number_; }
  size_t link() const { return link_; }
  const std::string& folder() const { return scan_.links[link_].folder; }
  RowRef row() const {
    return is_removed_ ? RowRef()
                       : RowRef{.present = true,
                                .values = rows_.values_of(at_),
                                .state = rows_.state_of(at_)};
  }

 private:
  Status Step() {
    if (started_) {
      ++(is_removed_ ? removed_at_ : at_);
    }
    while (at_ == rows_.ids.size() && removed_at_ == rows_.removed.size()) {
      if (next_ == files_.size()) {
        done_ = true;
        return OkStatus();
      }
      SHOAL_RETURN_IF_ERROR(ReadNextFile());
    }
    Choose();
    return OkStatus();
  }

  void Choose() {
    const bool no_rows = at_ == rows_.ids.size();
    is_removed_ = removed_at_ < rows_.removed.size() &&
                  (no_rows ||
                   IdHash(rows_.removed[removed_at_]) < IdHash(rows_.ids[at_]));
    hash_ = IdHash(id());
  }

  Status ReadNextFile() {
    const CheckpointPart& file = files_[next_++]->file;
    SHOAL_ASSIGN_OR_RETURN(tensors_, ReadTensors(storage_, folder(), file));
    const std::string path = StrCat(folder(), "/", file.file);
    SHOAL_ASSIGN_OR_RETURN(rows_, TableOf(tensors_, path, table_));
    at_ = removed_at_ = 0;
    const uint64_t before = hash_;
    Choose();
    if (std::exchange(started_, true) && hash_ <= before) {
      return Damaged(path, StrCat("its rows of table '", table_,
                                  "' do not follow those of ",
                                  files_[next_ - 2]->file.file));
    }
    return OkStatus();
  }

  Storage& storage_;
  const CheckpointScan& scan_;
  const size_t scan_number_;
  const size_t link_;
  const SlotFlags& superseded_;
  const std::string& table_;
  std::vector<const CheckpointScan::RowsFile*> files_;
  size_t next_ = 0;  // of files_
  Tensors tensors_;  // of the one before
  TableTensors rows_;
  size_t at_ = 0;  // of its rows
  size_t removed_at_ = 0;
  bool is_removed_ = false;  // what it is at
  bool started_ = false;
  uint64_t hash_ = 0;
  bool done_ = false;
};

// Which sets of slots can be walked one after another: all slots whose number
// has the same rest, for the largest divisor that all files have in common.
SlotSet FirstGroup(std::span<const CheckpointScan> scans,
                   const std::string& table) {
  SlotSet group = {.bits = 0, .first = 0, .last = 0, .stride = 0};
  bool alike = true;
  for (const CheckpointScan& scan : scans) {
    const auto it = scan.tables.find(table);
    if (it == scan.tables.end()) {
      continue;
    }
    for (const CheckpointScan::RowsFile& file : it->second.files) {
      alike = alike && (group.bits == 0 || group.bits == file.slots.bits);
      group.bits = std::max(group.bits, file.slots.bits);
      group.stride = std::gcd(group.stride, file.slots.stride);
    }
  }
  if (!alike) {
    group.stride = 1;
  }
  group.last = (int64_t{1} << group.bits) - 1;
  return group;
}

Status WalkGroup(Storage& storage, std::span<const CheckpointScan> scans,
                 const std::string& table, const SlotSet& group,
                 FunctionRef<Status(uint64_t id, const SlotSet& group,
                                    std::span<const RowRef> rows)>
                     visit) {
  std::vector<RowCursor> cursors;
  for (size_t s = 0; s < scans.size(); ++s) {
    const auto it = scans[s].tables.find(table);
    if (it == scans[s].tables.end()) {
      continue;
    }
    const size_t first_cursor = cursors.size();
    for (const CheckpointScan::RowsFile& file : it->second.files) {
      if (file.slots.first % group.stride != group.first) {
        continue;
      }
      auto cursor = std::find_if(
          cursors.begin() + static_cast<std::ptrdiff_t>(first_cursor),
          cursors.end(), [&](const RowCursor& c) { return c.Follows(file); });
      if (cursor == cursors.end()) {
        cursors.emplace_back(storage, scans[s], s, file.link, table);
        cursor = cursors.end() - 1;
      }
      cursor->Append(file);
    }
  }
  using Entry = std::pair<uint64_t, size_t>;  // hash, number of the cursor
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue;
  const auto advance = [&](size_t c) -> Status {
    SHOAL_RETURN_IF_ERROR(cursors[c].Advance());
    if (!cursors[c].done()) {
      queue.emplace(cursors[c].hash(), c);
    }
    return OkStatus();
  };
  for (size_t c = 0; c < cursors.size(); ++c) {
    SHOAL_RETURN_IF_ERROR(advance(c));
  }
  std::vector<RowRef> rows(scans.size());
  std::vector<const RowCursor*> newest(scans.size());
  std::vector<size_t> visited;
  while (!queue.empty()) {
    const uint64_t hash = queue.top().first;
    std::fill(newest.begin(), newest.end(), nullptr);
    visited.clear();
    while (!queue.empty() && queue.top().first == hash) {
      const size_t c = queue.top().second;
      queue.pop();
      visited.push_back(c);
      const RowCursor*& of_scan = newest[cursors[c].scan_number()];
      if (of_scan != nullptr && of_scan->link() == cursors[c].link()) {
        return Damaged(cursors[c].folder(),
                       StrCat("row ", cursors[c].id(), " of table '", table,
                              "' is in two files"));
      }
      if (of_scan == nullptr || cursors[c].link() < of_scan->link()) {
        of_scan = &cursors[c];
      }
    }
    bool present = false;
    for (size_t s = 0; s < scans.size(); ++s) {
      rows[s] = newest[s] == nullptr ? RowRef() : newest[s]->row();
      present = present || rows[s].present;
    }
    if (present) {
      SHOAL_RETURN_IF_ERROR(visit(cursors[visited[0]].id(), group, rows));
    }
    for (const size_t c : visited) {
      SHOAL_RETURN_IF_ERROR(advance(c));
    }
  }
  return OkStatus();
}

}  // namespace

Status WalkRows(Storage& storage, std::span<const CheckpointScan> scans,
                const std::string& table,
                FunctionRef<Status(uint64_t id, const SlotSet& group,
                                   std::span<const RowRef> rows)>
                    visit,
                WalkOrder order) {
  SlotSet group = FirstGroup(scans, table);
  if (order == WalkOrder::kByHash) {
    group.stride = 1;
  }
  for (; group.first < group.stride; ++group.first) {
    SHOAL_RETURN_IF_ERROR(WalkGroup(storage, scans, table, group, visit));
  }
  return OkStatus();
}

}  // namespace shoal::ps
