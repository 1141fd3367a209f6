#ifndef SHOAL_WORKER_INPUT_PREPARE_H_
#define SHOAL_WORKER_INPUT_PREPARE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "worker/input/examples.h"
#include "worker/input/fitted.h"
#include "worker/input/record_schema.h"

namespace shoal::worker {

class JobSpec;

// One part of the data; open it with Examples::Open(path, rows).
struct PreparedPart {
  std::string path;  // empty when there is no such part
  RowSelection rows;
  int64_t num_rows = 0;
};

struct PreparedData {
  PreparedPart train;
  PreparedPart test;
  std::vector<std::string> files;  // that were read
  RecordSchema schema;
  FittedTransforms fitted;  // FittedToJson() goes into checkpoints
  double label_mean = 0;    // of the training part
  int64_t bad_rows = 0;     // left out
  std::vector<std::string> bad_row_samples;  // the first ones, as messages
  // From 0, over all rows that were read and kept by the filter; rising.
  std::vector<int64_t> bad_row_numbers;
  double seconds = 0;  // wall time it took
};

// Reads the job's text files once (and once more per round of fitting) and
// writes `out_folder`/{train,test}.shoalrec, which workers then map; `format:
// record` is used where it lies. The files' bytes are the same for any number
// of `threads`. Each file appears whole or not at all.
//
// `fitted`: what an earlier run learnt, for eval and for resumed training;
// null fits on the training part.
//
// Errors: kNotFound (a pattern matches nothing), kInvalidArgument (a key of
// the job that can't be, a damaged archive, more bad rows than
// `data.bad_rows.limit`, no training row), kFailedPrecondition (`fitted` lacks
// a feature, or a record file was made with another), kResourceExhausted (disk
// full). Texts name file, line, column.
StatusOr<PreparedData> Prepare(const JobSpec& job,
                               const std::string& out_folder,
                               const FittedTransforms* fitted, int threads);

// The same for rows to predict: all rows of the files that `patterns` match in
// the working folder, else in `data.root`, become `test`, in order, without
// filter or split. Labels may be missing; those are NaN.
StatusOr<PreparedData> PrepareForPrediction(
    const JobSpec& job, const std::vector<std::string>& patterns,
    const std::string& out_folder, const FittedTransforms& fitted, int threads);

// `shoal data convert`: fits on the training part, unless `fitted` is there,
// and writes all rows of `data.files`, then of `data.test_files`, in order to
// one file at `out_path`, which `format: record` reads. Limits are ignored. A
// split by hash, range or files gives a second file for the test part,
// "a.test.shoalrec" beside "a.shoalrec". The result has the paths.
// Errors: as Prepare(); kFailedPrecondition (there is something at `out_path`
// that is no record file).
StatusOr<PreparedData> ConvertToRecord(const JobSpec& job,
                                       const std::string& out_path,
                                       const FittedTransforms* fitted,
                                       int threads);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_PREPARE_H_
