#include "worker/input/text_block.h"

#include <algorithm>
#include <utility>

#include "base/strcat.h"
#include "worker/input/csv.h"

namespace shoal::worker {

StatusOr<std::unique_ptr<BlockReader>> BlockReader::Open(
    const std::string& path, Options options) {
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<TextSource> source,
                         TextSource::Open(path));
  return std::unique_ptr<BlockReader>(
      new BlockReader(path, std::move(source), std::move(options)));
}

BlockReader::BlockReader(std::string path, std::unique_ptr<TextSource> source,
                         Options options)
    : path_(std::move(path)),
      source_(std::move(source)),
      options_(std::move(options)) {}

// Bytes of the whole records at the beginning of `text`.
size_t BlockReader::EndOfRecords(std::string_view text) const {
  if (options_.quoted_newlines && text.find('"') != std::string_view::npos) {
    return EndOfCsvRecords(text, options_.delimiter, options_.skip_prefixes);
  }
  const size_t newline = text.rfind('\n');
  return newline == std::string_view::npos ? 0 : newline + 1;
}

StatusOr<bool> BlockReader::Next(TextBlock* block) {
  block->text = std::move(rest_);
  rest_.clear();
  block->first_line = next_line_;
  size_t wanted = options_.block_bytes;
  size_t end = 0;
  while (!at_end_) {
    const size_t have = block->text.size();
    block->text.resize(have + wanted);
    SHOAL_ASSIGN_OR_RETURN(const size_t got,
                           source_->Read(block->text.data() + have, wanted));
    block->text.resize(have + got);
    at_end_ = got < wanted;
    end = EndOfRecords(block->text);
    if (at_end_ || end > 0) {
      break;
    }
    if (block->text.size() > options_.record_bytes_max) {
      return InvalidArgumentError(
          StrCat(path_, ":", next_line_, ": a line is longer than ",
                 options_.record_bytes_max,
                 options_.quoted_newlines ? " bytes; is a quote never closed?"
                                          : " bytes; is this a text file?"));
    }
    // Doubling keeps the scans of a long record linear.
    wanted = block->text.size();
  }
  if (!at_end_) {
    rest_ = block->text.substr(end);
    block->text.resize(end);
  }
  next_line_ += std::count(block->text.begin(), block->text.end(), '\n');
  return !block->text.empty();
}

}  // namespace shoal::worker
