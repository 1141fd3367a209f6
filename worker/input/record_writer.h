#ifndef SHOAL_WORKER_INPUT_RECORD_WRITER_H_
#define SHOAL_WORKER_INPUT_RECORD_WRITER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "worker/input/record_schema.h"

namespace shoal::worker {

// Writes a `.shoalrec` file so that a reader sees the whole file or none:
// under other names until Finish() renames it. What was not finished is
// removed. Memory stays small, whatever the number of rows.
//
// Errors of all methods: kResourceExhausted (disk full), kUnavailable (any
// other input/output error); the text names the path.
class RecordWriter {
 public:
  // Makes missing folders.
  static StatusOr<std::unique_ptr<RecordWriter>> Create(
      const std::string& path, const RecordSchema& schema);

  ~RecordWriter();
  RecordWriter(const RecordWriter&) = delete;
  RecordWriter& operator=(const RecordWriter&) = delete;

  // `record` has schema.record_bytes() bytes; the bags' `begin` in it is set
  // here. `ids` and, when the schema is weighted, `weights` are the entries of
  // the row's bags one after another.
  Status Append(std::span<const char> record, std::span<const uint64_t> ids,
                std::span<const float> weights);

  int64_t num_rows() const { return num_rows_; }

  // `durable` also waits until the disk has it.
  Status Finish(std::string_view fitted_json, bool durable);

 private:
  class Stream;
  RecordWriter() = default;
  Status WriteSections(std::string_view fitted_json);

  std::string path_;
  RecordSchema schema_;
  std::string schema_json_;
  int64_t num_rows_ = 0;
  uint64_t num_entries_ = 0;
  std::unique_ptr<Stream> main_;
  std::unique_ptr<Stream> ids_;
  std::unique_ptr<Stream> weights_;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_RECORD_WRITER_H_
