#ifndef SHOAL_WORKER_INPUT_ROW_READER_H_
#define SHOAL_WORKER_INPUT_ROW_READER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/function_ref.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "worker/input/row_encoder.h"
#include "worker/input/row_format.h"

namespace shoal::worker {

struct InputFile {
  std::string path;
  bool is_test = false;  // split by files
};

// Counts the rows that were left out, and stops the job above the limit.
class BadRows {
 public:
  explicit BadRows(int64_t limit) : limit_(limit) {}

  // Errors: kInvalidArgument (this is one too many).
  Status Add(const std::string& path, int64_t line, const std::string& reason);

  int64_t limit() const { return limit_; }
  int64_t count() const { return count_; }
  const std::vector<std::string>& samples() const { return samples_; }

 private:
  int64_t limit_;
  int64_t count_ = 0;
  std::vector<std::string> samples_;
};

// A parsed block on its way to whoever reads the rows.
struct ReadBlock {
  const InputFile* file = nullptr;
  RawBlock raw;
  EncodedBlock encoded;  // with an encoder
  TextBlock text;
  FileLayout layout;
};

// Reads all rows of `files` in order, in blocks that depend on the files
// alone. Parsing, and encoding if there is an `encoder`, is spread over the
// pool; `consume` is called for one block after the other. It may end the
// reading early by `*stop`.
//
// Errors: those of BlockReader, RowFormat, BadRows and `consume`.
Status ReadRows(const std::vector<InputFile>& files, const RowFormat& format,
                const RowEncoder* encoder, ThreadPool& pool, BadRows* bad_rows,
                FunctionRef<Status(const ReadBlock&, bool* stop)> consume);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_ROW_READER_H_
