#ifndef SHOAL_WORKER_INPUT_RECORD_SCHEMA_H_
#define SHOAL_WORKER_INPUT_RECORD_SCHEMA_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace shoal::worker {

// A categorical feature with any number of ids per example.
struct BagField {
  std::string name;
  std::string pooling = "sum";  // or "mean"
  bool weighted = false;        // each id has a weight; otherwise all are 1

  bool operator==(const BagField&) const = default;
};

// What an example holds, and how it lies in a record of a `.shoalrec` file:
//
//   f32 label, f32 numeric[n], padding to 8 bytes, u64 ids[m],
//   and if there are bags: u64 begin, u32 end[bags], padding to 8 bytes,
//
// all little endian. Bag b of a row holds the entries [begin + end[b - 1],
// begin + end[b]) of the file's bag sections (end[-1] is 0).
struct RecordSchema {
  std::string task = "binary";  // as in the job file
  int32_t classes = 2;          // multiclass only
  bool labelled = true;         // false: every label is NaN
  std::vector<std::string> numeric;
  std::vector<std::string> categorical;
  std::vector<BagField> bags;
  // Says what the columns were made of: FeaturesDigest() of the job.
  std::string features;

  bool operator==(const RecordSchema&) const = default;

  int64_t ids_offset() const;   // bytes from the start of a record
  int64_t bags_offset() const;  // of `begin`
  int64_t record_bytes() const;
  bool weighted() const;  // any of the bags
};

std::string SchemaToJson(const RecordSchema& schema);

// Errors: kInvalidArgument (not JSON, a key is missing or of another type, or
// a number is out of its range).
StatusOr<RecordSchema> SchemaFromJson(std::string_view text);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_RECORD_SCHEMA_H_
