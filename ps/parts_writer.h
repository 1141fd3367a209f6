#ifndef SHOAL_PS_PARTS_WRITER_H_
#define SHOAL_PS_PARTS_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/storage.h"
#include "comm/node.h"
#include "ps/checkpoint_format.h"
#include "ps/checkpoint_parts.h"
#include "ps/safetensors.h"
#include "ps/slots.h"
#include "ps/table_snapshot.h"

namespace shoal::ps {

// Makes the files of a shard's part of a checkpoint (ps/checkpoint_format.h),
// piece by piece, of its state at one moment: the cut, when this was made. The
// dense chunks are copied then; rows are as in TableSnapshot, so the state may
// go on. It must outlive this, and belongs to the same thread.
class PartsWriter {
 public:
  struct File {
    TensorsWriter tensors;
    std::optional<SlotSet> rows;

    // Writes it as NAME. Any thread, once. Returns its entry for
    // PublishManifest(). Errors: those of TensorsWriter::Publish().
    StatusOr<std::string> Publish(Storage& storage, const std::string& folder,
                                  const std::string& name);
  };

  explicit PartsWriter(const ShardState& state,
                       int64_t part_bytes_max = kPartBytesMax);

  // Goes through rows of about `bytes_max` more bytes, or until a file is
  // complete, which it returns. After the last: none, and done(). Errors: those
  // of SparseTable::status().
  StatusOr<std::optional<File>> Next(int64_t bytes_max);
  bool done() const { return done_; }

  // Of rows that changed before they were written.
  int64_t kept_bytes() const;

 private:
  struct Table {
    const SparseTable* table;
    int64_t rows_max;  // that are written
    std::unique_ptr<TableSnapshot> snapshot;
  };
  File FileOfRows();

  const SlotSet slots_;
  std::vector<bool> has_slot_;  // empty: all; read by the snapshots
  const int64_t part_bytes_max_;
  std::optional<File> first_;
  std::vector<Table> tables_;
  size_t at_ = 0;  // of tables_
  std::optional<GatheredRows> gathered_;
  bool done_ = false;
};

// Has a PartsWriter write while its node goes on: rows are read in pieces
// between whatever else the node does, and storage writes them; where it is
// slower, the reading waits for it.
//
// Belongs to the node's thread. Held by what it has under way too: Stop()
// before the state goes.
class PartsSaver : public std::enable_shared_from_this<PartsSaver> {
 public:
  using Entries = std::vector<std::string>;

  // The cut is now.
  PartsSaver(comm::NodeContext& context, std::string folder, std::string name,
             const ShardState& state);

  // Once; `done` gets the entries for PublishManifest() of all files, when
  // nothing is under way any more. Errors: those of PartsWriter::Next() and
  // PartsWriter::File::Publish().
  void Start(std::function<void(StatusOr<Entries>)> done);

  // Lets the rows go at once; `done` gets `why` when nothing is under way.
  void GiveUp(const Status& why);
  // Writes no more than what is under way already, and tells nobody.
  void Stop();

  const std::string& name() const { return name_; }
  int64_t kept_bytes() const {
    return writer_ == nullptr ? 0 : writer_->kept_bytes();
  }

 private:
  void Read();
  void Write(PartsWriter::File file);
  void MaybeEnd();

  comm::NodeContext& context_;
  const std::string folder_;
  const std::string name_;
  std::unique_ptr<PartsWriter> writer_;  // null: all is read, or it failed
  std::function<void(StatusOr<Entries>)> done_;
  Entries entries_;  // by number of the file
  int writes_ = 0;   // under way
  bool waits_ = false;
  Status failure_;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_PARTS_WRITER_H_
