#include "ps/parts_writer.h"

#include <algorithm>
#include <utility>

#include "base/strcat.h"

namespace shoal::ps {
namespace {

// Read between two messages: about a millisecond's work.
constexpr int64_t kPieceBytes = int64_t{1} << 20;
// Files in memory that storage has yet to write.
constexpr int kWritesMax = 2;

template <typename T>
Buffer BufferOf(std::span<const T> values) {
  return Buffer::CopyOf(values.data(),
                        static_cast<int64_t>(values.size_bytes()));
}

// The slots of `state` whose rows all are to be written, bit by bit.
std::vector<uint64_t> WholeSlots(const ShardState& state,
                                 const ChangedSet& changed) {
  SHOAL_CHECK(state.slot_bits >= 6 && changed.slot_bits() == state.slot_bits);
  std::vector<uint64_t> words((size_t{1} << state.slot_bits) / 64);
  for (int64_t slot = 0; slot < int64_t{1} << state.slot_bits; ++slot) {
    const auto s = static_cast<size_t>(slot);
    const bool here = state.slots == nullptr || (*state.slots)[s];
    words[s / 64] |= uint64_t{here && changed.IsWhole(slot)} << (s % 64);
  }
  return words;
}

int64_t RowsOf(const ShardState& state, const SparseTable& table,
               const ChangedSet& changed) {
  int64_t rows = 0;
  for (int64_t slot = 0; slot < int64_t{1} << state.slot_bits; ++slot) {
    if (state.slots == nullptr || (*state.slots)[static_cast<size_t>(slot)]) {
      rows += changed.IsWhole(slot) ? table.num_rows_in(slot)
                                    : changed.CountIn(slot);
    }
  }
  return rows;
}

}  // namespace

PartsWriter::PartsWriter(const ShardState& state, int64_t part_bytes_max)
    : slots_(SlotsOf(state)),
      has_slot_(state.slots == nullptr ? std::vector<bool>() : *state.slots),
      part_bytes_max_(part_bytes_max) {
  File& first = first_.emplace();
  SHOAL_CHECK(state.changed.empty() ||
              state.changed.size() == state.tables.size());
  for (size_t t = 0; t < state.tables.size(); ++t) {
    SparseTable& table = *state.tables[t];
    const std::shared_ptr<ChangedSet> changed =
        state.changed.empty() ? nullptr : state.changed[t];
    GatheredRows(FormOf(table)).MoveTo(first.tensors, table.name() + "/");
    if (changed != nullptr) {
      const std::vector<uint64_t> whole = WholeSlots(state, *changed);
      first.tensors.Add(table.name() + "/whole", "U64",
                        {static_cast<int64_t>(whole.size())},
                        BufferOf(std::span<const uint64_t>(whole)));
    }
    tables_.push_back(
        {&table,
         changed == nullptr ? table.num_rows() : RowsOf(state, table, *changed),
         std::make_unique<TableSnapshot>(
             table, state.slots == nullptr ? nullptr : &has_slot_, changed)});
  }
  for (const DenseChunk& chunk : state.chunks) {
    const std::string prefix = ChunkPrefix(*state.model, chunk);
    const size_t c = state.dense->Find(chunk);
    const auto values = state.dense->values(c);
    const auto states = state.dense->state(c);
    first.tensors.Add(StrCat(prefix, "/values"), "F32",
                      {static_cast<int64_t>(values.size())}, BufferOf(values));
    first.tensors.Add(StrCat(prefix, "/state"), "F32",
                      {static_cast<int64_t>(states.size())}, BufferOf(states));
  }
}

int64_t PartsWriter::kept_bytes() const {
  int64_t bytes = 0;
  for (const Table& table : tables_) {
    bytes += table.snapshot == nullptr ? 0 : table.snapshot->kept_bytes();
  }
  return bytes;
}

PartsWriter::File PartsWriter::FileOfRows() {
  File file;
  file.rows = gathered_->SlotsIn(slots_);
  gathered_->MoveTo(file.tensors, tables_[at_].table->name() + "/");
  return file;
}

StatusOr<std::optional<PartsWriter::File>> PartsWriter::Next(
    int64_t bytes_max) {
  if (first_.has_value()) {
    return std::exchange(first_, std::nullopt);
  }
  while (at_ < tables_.size()) {
    Table& table = tables_[at_];
    const int64_t row_bytes = FormOf(*table.table).row_bytes();
    if (!gathered_.has_value()) {
      gathered_.emplace(FormOf(*table.table));
      gathered_->Reserve(
          std::min(table.rows_max, part_bytes_max_ / row_bytes + 1));
    }
    const bool more =
        table.snapshot->Next([&](uint64_t id, std::span<const std::byte> values,
                                 std::span<const float> state) {
          if (values.empty()) {
            gathered_->AddRemoved(id);
            bytes_max -= 8;
          } else {
            gathered_->Add(id, values, state);
            bytes_max -= row_bytes;
          }
          return bytes_max > 0 && !gathered_->IsFull(part_bytes_max_);
        });
    SHOAL_RETURN_IF_ERROR(table.table->status());
    if (gathered_->IsFull(part_bytes_max_)) {
      std::optional<File> file = FileOfRows();
      gathered_.reset();
      return file;
    }
    if (more) {
      return std::optional<File>();
    }
    std::optional<File> last;
    if (!gathered_->empty()) {
      last = FileOfRows();
    }
    table.snapshot.reset();
    gathered_.reset();
    ++at_;
    if (last.has_value()) {
      return last;
    }
  }
  done_ = true;
  return std::optional<File>();
}

StatusOr<std::string> PartsWriter::File::Publish(Storage& storage,
                                                 const std::string& folder,
                                                 const std::string& name) {
  SHOAL_ASSIGN_OR_RETURN(CheckpointPart part,
                         tensors.Publish(storage, folder, name));
  return DescribePart({std::move(part), rows});
}

namespace {

std::string FileName(const std::string& name, size_t number) {
  return StrCat(name, "-", number, ".safetensors");
}

}  // namespace

StatusOr<std::vector<std::string>> SaveParts(Storage& storage,
                                             const std::string& folder,
                                             const std::string& name,
                                             const ShardState& state,
                                             int64_t part_bytes_max) {
  PartsWriter writer(state, part_bytes_max);
  std::vector<std::string> entries;
  while (!writer.done()) {
    SHOAL_ASSIGN_OR_RETURN(std::optional<PartsWriter::File> file,
                           writer.Next(part_bytes_max));
    if (file.has_value()) {
      SHOAL_ASSIGN_OR_RETURN(
          entries.emplace_back(),
          file->Publish(storage, folder, FileName(name, entries.size())));
    }
  }
  return entries;
}

PartsSaver::PartsSaver(comm::NodeContext& context, std::string folder,
                       std::string name, const ShardState& state)
    : context_(context),
      folder_(std::move(folder)),
      name_(std::move(name)),
      writer_(std::make_unique<PartsWriter>(state)) {}

void PartsSaver::Start(std::function<void(StatusOr<Entries>)> done) {
  done_ = std::move(done);
  Read();
}

void PartsSaver::GiveUp(const Status& why) {
  if (failure_.ok()) {
    failure_ = why;
  }
  writer_.reset();
  MaybeEnd();
}

void PartsSaver::Stop() {
  writer_.reset();
  done_ = nullptr;
}

void PartsSaver::Read() {
  if (writer_ == nullptr) {
    return;
  }
  waits_ = writes_ == kWritesMax;
  if (waits_) {
    return;
  }
  StatusOr<std::optional<PartsWriter::File>> next = writer_->Next(kPieceBytes);
  if (!next.ok()) {
    failure_ = next.status();
  } else if (next->has_value()) {
    Write(*std::move(*next));
  }
  if (!next.ok() || writer_->done()) {
    writer_.reset();
    MaybeEnd();
    return;
  }
  context_.Post([self = shared_from_this()] { self->Read(); });
}

void PartsSaver::Write(PartsWriter::File file) {
  ++writes_;
  const size_t number = entries_.size();
  entries_.emplace_back();
  // Works are to be copyable.
  context_.StartStorage(
      [folder = folder_, name = FileName(name_, number),
       file = std::make_shared<PartsWriter::File>(std::move(file))](
          Storage& storage) -> StatusOr<Buffer> {
        SHOAL_ASSIGN_OR_RETURN(const std::string entry,
                               file->Publish(storage, folder, name));
        return Buffer::CopyOf(entry);
      },
      [self = shared_from_this(), number](const StatusOr<Buffer>& written) {
        --self->writes_;
        if (written.ok()) {
          self->entries_[number] = written->text();
        } else if (self->failure_.ok()) {
          self->failure_ = written.status();
          self->writer_.reset();
        }
        if (std::exchange(self->waits_, false)) {
          self->Read();
        }
        self->MaybeEnd();
      });
}

void PartsSaver::MaybeEnd() {
  if (writer_ == nullptr && writes_ == 0 && done_ != nullptr) {
    const auto done = std::exchange(done_, nullptr);
    failure_.ok() ? done(std::move(entries_)) : done(failure_);
  }
}

}  // namespace shoal::ps
