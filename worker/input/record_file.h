#ifndef SHOAL_WORKER_INPUT_RECORD_FILE_H_
#define SHOAL_WORKER_INPUT_RECORD_FILE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "worker/input/record_schema.h"

namespace shoal::worker {

// One example; borrows from its file.
struct RecordRow {
  float label = 0;  // NaN where there is none
  std::span<const float> numeric;
  std::span<const uint64_t> ids;
};

struct RecordBag {
  std::span<const uint64_t> ids;
  std::span<const float> weights;  // empty when the bag has none
};

// A `.shoalrec` file, memory-mapped: any row in constant time, shared by all
// processes of a host that read it. Thread-safe.
class RecordFile {
 public:
  // Errors: kNotFound; kInvalidArgument (not such a file, cut off, of another
  // version, or its header is damaged); the text names the path.
  static StatusOr<std::shared_ptr<const RecordFile>> Open(
      const std::string& path);

  ~RecordFile();
  RecordFile(const RecordFile&) = delete;
  RecordFile& operator=(const RecordFile&) = delete;

  const std::string& path() const { return path_; }
  const RecordSchema& schema() const { return schema_; }
  int64_t num_rows() const { return num_rows_; }
  // JSON of the FittedTransforms that made the file.
  std::string_view fitted_json() const { return fitted_json_; }

  // `row` in [0, num_rows()).
  RecordRow Row(int64_t row) const;

  // Bag `bag` of a row. Errors: kDataLoss (the file is damaged).
  StatusOr<RecordBag> Bag(int64_t row, int64_t bag) const;

 private:
  RecordFile() = default;
  Status Map();
  Status ReadHeader();

  std::string path_;
  RecordSchema schema_;
  const char* data_ = nullptr;
  int64_t size_bytes_ = 0;
  int64_t num_rows_ = 0;
  int64_t record_bytes_ = 0;
  const char* rows_ = nullptr;
  int64_t num_entries_ = 0;
  const uint64_t* bag_ids_ = nullptr;
  const float* bag_weights_ = nullptr;
  std::string_view fitted_json_;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_RECORD_FILE_H_
