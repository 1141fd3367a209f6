#include "worker/input/row_reader.h"

#include <memory>
#include <utility>

#include "base/log.h"
#include "base/strcat.h"

namespace shoal::worker {
namespace {

constexpr size_t kSamplesMax = 10;
constexpr int kBlocksPerThread = 2;

// Hands out the blocks of all files in order.
class BlockSequence {
 public:
  BlockSequence(const std::vector<InputFile>& files, const RowFormat& format)
      : files_(files), format_(format) {}

  // False behind the last file.
  StatusOr<bool> Next(ReadBlock* block) {
    while (file_ < files_.size()) {
      const InputFile& file = files_[file_];
      if (reader_ == nullptr) {
        SHOAL_ASSIGN_OR_RETURN(
            reader_, BlockReader::Open(file.path, format_.block_options()));
        first_ = true;
      }
      SHOAL_ASSIGN_OR_RETURN(const bool more, reader_->Next(&block->text));
      if (more || first_) {
        if (first_ && !more) {
          block->text = {};
          LogWarning(file.path, " is empty");
        }
        if (first_) {
          SHOAL_ASSIGN_OR_RETURN(layout_,
                                 format_.ReadHeader(file.path, &block->text));
          first_ = false;
        }
        block->file = &file;
        block->layout = layout_;
        return true;
      }
      reader_ = nullptr;
      ++file_;
    }
    return false;
  }

 private:
  const std::vector<InputFile>& files_;
  const RowFormat& format_;
  size_t file_ = 0;
  std::unique_ptr<BlockReader> reader_;
  FileLayout layout_;
  bool first_ = true;
};

Status ConsumeBlock(const ReadBlock& block, BadRows* bad_rows, bool* stop,
                    FunctionRef<Status(const ReadBlock&, bool*)> consume) {
  for (const BadRow& row : block.raw.bad_rows) {
    if (row.fatal) {
      return InvalidArgumentError(
          StrCat(block.file->path, ":", row.line, ": ", row.reason,
                 ", so that the rest of the file can't be read"));
    }
    SHOAL_RETURN_IF_ERROR(
        bad_rows->Add(block.file->path, row.line, row.reason));
  }
  return consume(block, stop);
}

}  // namespace

Status BadRows::Add(const std::string& path, int64_t line,
                    const std::string& reason) {
  ++count_;
  std::string text = StrCat(path, ":", line, ": ", reason);
  if (count_ <= limit_) {
    if (samples_.size() < kSamplesMax) {
      samples_.push_back(std::move(text));
    }
    return OkStatus();
  }
  if (limit_ == 0) {
    return InvalidArgumentError(
        StrCat(text, " (data.bad_rows.limit allows such rows)"));
  }
  return InvalidArgumentError(StrCat(text, "; that is bad row ", count_,
                                     ", and data.bad_rows.limit is ", limit_,
                                     "; the first was ", samples_.front()));
}

Status ReadRows(const std::vector<InputFile>& files, const RowFormat& format,
                const RowEncoder* encoder, ThreadPool& pool, BadRows* bad_rows,
                FunctionRef<Status(const ReadBlock&, bool* stop)> consume) {
  BlockSequence sequence(files, format);
  std::vector<ReadBlock> blocks(
      static_cast<size_t>(pool.num_threads() * kBlocksPerThread));
  bool stop = false;
  for (bool more = true; more && !stop;) {
    size_t count = 0;
    while (count < blocks.size() && more) {
      SHOAL_ASSIGN_OR_RETURN(more, sequence.Next(&blocks[count]));
      count += more ? 1 : 0;
    }
    const int64_t bad_rows_max = bad_rows->limit() - bad_rows->count();
    pool.ParallelFor(
        static_cast<int64_t>(count), 1, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            ReadBlock& block = blocks[static_cast<size_t>(i)];
            format.Parse(block.text, block.layout, bad_rows_max, &block.raw);
            if (encoder != nullptr) {
              encoder->Encode(block.raw, &block.encoded);
            }
          }
        });
    for (size_t i = 0; i < count && !stop; ++i) {
      SHOAL_RETURN_IF_ERROR(ConsumeBlock(blocks[i], bad_rows, &stop, consume));
    }
  }
  return OkStatus();
}

}  // namespace shoal::worker
