#ifndef SHOAL_WORKER_INPUT_TEXT_BLOCK_H_
#define SHOAL_WORKER_INPUT_TEXT_BLOCK_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "worker/input/text_source.h"

namespace shoal::worker {

// A piece of a file that holds whole records.
struct TextBlock {
  std::string text;
  int64_t first_line = 1;  // number of its first line in the file
};

// Cuts a file into blocks. A record ends at a line's end, or with
// `quoted_newlines` at a line's end outside of a quoted CSV field. Where the
// cuts are depends on the file alone.
class BlockReader {
 public:
  static constexpr size_t kBlockBytes = size_t{1} << 20;
  static constexpr size_t kRecordBytesMax = size_t{16} << 20;

  struct Options {
    bool quoted_newlines = false;
    char delimiter = ',';                    // with `quoted_newlines`
    std::vector<std::string> skip_prefixes;  // the same
    size_t block_bytes = kBlockBytes;
    size_t record_bytes_max = kRecordBytesMax;
  };

  // Errors: those of TextSource::Open().
  static StatusOr<std::unique_ptr<BlockReader>> Open(const std::string& path,
                                                     Options options);

  // False at the end of the file. Errors: those of TextSource::Read();
  // kInvalidArgument (a record longer than `record_bytes_max`).
  StatusOr<bool> Next(TextBlock* block);

 private:
  BlockReader(std::string path, std::unique_ptr<TextSource> source,
              Options options);
  size_t EndOfRecords(std::string_view text) const;

  std::string path_;
  std::unique_ptr<TextSource> source_;
  Options options_;
  std::string rest_;  // the begun record at the end of the last block
  int64_t next_line_ = 1;
  bool at_end_ = false;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_TEXT_BLOCK_H_
