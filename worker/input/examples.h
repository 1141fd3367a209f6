#ifndef SHOAL_WORKER_INPUT_EXAMPLES_H_
#define SHOAL_WORKER_INPUT_EXAMPLES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "base/status.h"
#include "worker/input/record_file.h"

namespace shoal::worker {

// Which rows of a record file belong to a part, in rising order: those of
// [begin, end) whose number i has i % modulus == part (or the others, with
// `inverted`); modulus 0 takes all.
struct RowSelection {
  int64_t begin = 0;
  int64_t end = -1;  // -1: the number of rows of the file
  int64_t modulus = 0;
  int64_t part = 0;
  bool inverted = false;
  int64_t skip = 0;    // leaves out so many of the selected rows ...
  int64_t count = -1;  // ... and takes at most so many; -1: the rest

  // Selected rows of a file of `file_rows`.
  int64_t num_rows(int64_t file_rows) const;
  // The file's row at `position` in [0, num_rows()).
  int64_t row(int64_t position) const;
};

// The training or the test part: what a trainer or an evaluation reads.
// A value that shares the mapped file. Thread-safe.
class Examples {
 public:
  Examples() = default;  // none
  Examples(std::shared_ptr<const RecordFile> file, RowSelection rows);

  // Errors: those of RecordFile::Open(); kInvalidArgument (a selection that
  // makes no sense for the file).
  static StatusOr<Examples> Open(const std::string& path, RowSelection rows);

  int64_t num_rows() const { return num_rows_; }
  const RecordSchema& schema() const { return file_->schema(); }
  const RecordFile& file() const { return *file_; }

  // `position` in [0, num_rows()).
  int64_t file_row(int64_t position) const { return rows_.row(position); }
  RecordRow Row(int64_t position) const {
    return file_->Row(rows_.row(position));
  }
  StatusOr<RecordBag> Bag(int64_t position, int64_t bag) const {
    return file_->Bag(rows_.row(position), bag);
  }

 private:
  std::shared_ptr<const RecordFile> file_;
  RowSelection rows_;
  int64_t num_rows_ = 0;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_EXAMPLES_H_
