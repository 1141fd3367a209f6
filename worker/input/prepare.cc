#include "worker/input/prepare.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <limits>
#include <memory>
#include <utility>

#include "base/log.h"
#include "base/strcat.h"
#include "base/thread_pool.h"
#include "worker/input/feature_fit.h"
#include "worker/input/file_list.h"
#include "worker/input/record_writer.h"
#include "worker/input/row_encoder.h"
#include "worker/input/row_format.h"
#include "worker/input/row_reader.h"
#include "worker/job.h"
#include "worker/job.pb.h"

namespace shoal::worker {
namespace {

using Patterns = std::vector<std::string>;

enum class Part : uint8_t { kDropped, kTrain, kTest };

// Says which part each row belongs to; rows must be asked about in order.
class RowRouter {
 public:
  // `total_rows` is needed for `tail` only; -1 while it is not known.
  RowRouter(const DataSpec& data, bool ignore_limit, int64_t total_rows)
      : by_(data.split().by()),
        n_(data.split().n()),
        test_(data.split().test()),
        limit_(ignore_limit ? 0 : data.limit()),
        train_end_(total_rows - data.split().test_rows()) {}

  Part Route(const ReadBlock& block, int64_t row) {
    const int64_t number = next_row_++;
    if (IsTest(block, row, number)) {
      return Part::kTest;
    }
    const bool within = limit_ == 0 || num_train_ < limit_;
    num_train_ += within ? 1 : 0;
    return within ? Part::kTrain : Part::kDropped;
  }

  // No later row of a training file matters.
  bool training_done() const {
    return limit_ > 0 && num_train_ >= limit_ &&
           (by_ == "none" || by_ == "files");
  }

 private:
  bool IsTest(const ReadBlock& block, int64_t row, int64_t number) const {
    if (by_ == "mod") {
      return number % n_ == test_;
    }
    if (by_ == "tail") {
      return number >= train_end_;
    }
    if (by_ == "files") {
      return block.file->is_test;
    }
    return !block.raw.in_test.empty() &&
           block.raw.in_test[static_cast<size_t>(row)] != 0;
  }

  std::string by_;
  int64_t n_;
  int64_t test_;
  int64_t limit_;
  int64_t train_end_;
  int64_t next_row_ = 0;
  int64_t num_train_ = 0;
};

// Test files are left out of the training ones, so that `*.csv` may match all.
StatusOr<std::vector<InputFile>> InputFiles(const DataSpec& data) {
  SHOAL_ASSIGN_OR_RETURN(
      const std::vector<std::string> train,
      ListFiles(data.root(), Patterns(data.files().begin(), data.files().end()),
                "data.files"));
  std::vector<std::string> test;
  if (data.split().by() == "files") {
    SHOAL_ASSIGN_OR_RETURN(test, ListFiles(data.root(),
                                           Patterns(data.test_files().begin(),
                                                    data.test_files().end()),
                                           "data.test_files"));
  }
  std::vector<InputFile> files;
  for (const std::string& path : train) {
    if (std::find(test.begin(), test.end(), path) == test.end()) {
      files.push_back({path, false});
    }
  }
  if (files.empty()) {
    return InvalidArgumentError(
        "data.files matches nothing but data.test_files");
  }
  for (const std::string& path : test) {
    files.push_back({path, true});
  }
  return files;
}

// Every feature of the job that learns something must have learnt it.
Status CheckFitted(const FeaturePlan& plan, const FittedTransforms& fitted) {
  for (const FeatureNode& node : plan.nodes) {
    if (!node.standardize && node.quantiles == 0 && node.min_count == 0) {
      continue;
    }
    const FittedFeature* found = fitted.Find(node.name);
    if (found == nullptr || (node.min_count > 0 && !found->has_vocabulary)) {
      return FailedPreconditionError(
          StrCat("feature '", node.name,
                 "' was not fitted by the job that wrote the checkpoint; use "
                 "the job file that it was trained with"));
    }
  }
  return OkStatus();
}

// The work of one call on text files.
class Preparation {
 public:
  Preparation(const JobSpec& job, bool prediction, bool all_rows, int threads)
      : job_(job),
        data_(job.data()),
        prediction_(prediction),
        all_rows_(all_rows),
        pool_(std::max(1, threads)) {}

  Status Init(std::vector<InputFile> files) {
    files_ = std::move(files);
    for (const InputFile& file : files_) {
      result_.files.push_back(file.path);
    }
    SHOAL_ASSIGN_OR_RETURN(format_, CreateRowFormat(job_, prediction_));
    return OkStatus();
  }

  Status Fit(const FittedTransforms* fitted);
  // Rows to `train_path` and `test_path`; both to the first if the second is
  // empty.
  Status Write(const std::string& train_path, const std::string& test_path,
               bool durable);

  PreparedData& result() { return result_; }
  int64_t rows_seen() const { return rows_seen_; }
  int64_t num_train() const { return num_train_; }
  int64_t num_test() const { return num_test_; }

 private:
  Status CountRows();
  Status FitStage(FeatureFit* fit);
  Status WriteBlock(const ReadBlock& block, RowRouter* router,
                    RecordWriter* train, RecordWriter* test, BadRows* bad_rows);
  RowRouter Router() const { return RowRouter(data_, all_rows_, total_rows_); }

  const JobSpec& job_;
  const DataSpec& data_;
  bool prediction_;
  bool all_rows_;
  ThreadPool pool_;
  std::vector<InputFile> files_;
  std::unique_ptr<RowFormat> format_;
  int64_t total_rows_ = -1;
  int64_t rows_seen_ = 0;
  int64_t lines_seen_ = 0;  // bad rows too
  int64_t num_train_ = 0;
  int64_t num_test_ = 0;
  int64_t num_rejected_ = 0;  // after they were dealt to a part
  PreparedData result_;
};

Status Preparation::CountRows() {
  BadRows bad_rows(data_.bad_rows().limit());
  total_rows_ = 0;
  return ReadRows(files_, *format_, nullptr, pool_, &bad_rows,
                  [&](const ReadBlock& block, bool*) {
                    total_rows_ += block.raw.num_rows;
                    return OkStatus();
                  });
}

Status Preparation::FitStage(FeatureFit* fit) {
  BadRows bad_rows(data_.bad_rows().limit());
  std::vector<InputFile> files;
  for (const InputFile& file : files_) {
    // The other splits draw test rows from the same files.
    if (!file.is_test || format_->plan().bag_per_field) {
      files.push_back(file);
    }
  }
  RowRouter router = Router();
  std::vector<uint8_t> train;
  SHOAL_RETURN_IF_ERROR(ReadRows(
      files, *format_, nullptr, pool_, &bad_rows,
      [&](const ReadBlock& block, bool* stop) {
        train.clear();
        for (int64_t row = 0; row < block.raw.num_rows; ++row) {
          train.push_back(router.Route(block, row) == Part::kTrain ? 1 : 0);
        }
        fit->AddBlock(block.raw, train, pool_);
        *stop = router.training_done() && !format_->plan().bag_per_field;
        return OkStatus();
      }));
  return fit->EndStage();
}

Status Preparation::Fit(const FittedTransforms* fitted) {
  const FeaturePlan& plan = format_->plan();
  if (fitted != nullptr) {
    SHOAL_RETURN_IF_ERROR(CheckFitted(plan, *fitted));
    result_.fitted = *fitted;
  } else if (plan.NeedsFit()) {
    if (data_.split().by() == "tail") {
      SHOAL_RETURN_IF_ERROR(CountRows());
    }
    FeatureFit fit(plan);
    for (int stage = 0; stage < fit.num_stages(); ++stage) {
      SHOAL_RETURN_IF_ERROR(FitStage(&fit));
    }
    result_.fitted = fit.fitted();
  }
  result_.schema.task = job_.model().task();
  result_.schema.classes = job_.model().classes();
  result_.schema.labelled = !prediction_;
  result_.schema.features = FeaturesDigest(job_);
  plan.DescribeInputs(result_.fitted, &result_.schema);
  return OkStatus();
}

Status Preparation::WriteBlock(const ReadBlock& block, RowRouter* router,
                               RecordWriter* train, RecordWriter* test,
                               BadRows* bad_rows) {
  const EncodedBlock& encoded = block.encoded;
  size_t next_rejected = 0;
  auto next_bad = block.raw.bad_rows.begin();
  const auto pass_bad_rows = [&](int64_t before_line) {
    for (; next_bad != block.raw.bad_rows.end() && next_bad->line < before_line;
         ++next_bad) {
      result_.bad_row_numbers.push_back(lines_seen_++);
    }
  };
  for (int64_t row = 0; row < encoded.num_rows; ++row) {
    pass_bad_rows(block.raw.lines[static_cast<size_t>(row)]);
    const int64_t number = lines_seen_++;
    const Part part = prediction_ ? Part::kTest : router->Route(block, row);
    ++rows_seen_;
    bool rejected = false;
    while (next_rejected < encoded.rejected.size() &&
           encoded.rejected[next_rejected].first == row) {
      if (!rejected) {
        SHOAL_RETURN_IF_ERROR(bad_rows->Add(
            block.file->path, block.raw.lines[static_cast<size_t>(row)],
            encoded.rejected[next_rejected].second));
      }
      rejected = true;
      ++next_rejected;
    }
    if (rejected) {
      result_.bad_row_numbers.push_back(number);
      ++num_rejected_;
    }
    if (rejected || (part == Part::kDropped && !all_rows_)) {
      continue;
    }
    (part == Part::kTest ? num_test_ : num_train_) += 1;
    RecordWriter* writer = part == Part::kTest ? test : train;
    SHOAL_RETURN_IF_ERROR(writer->Append(encoded.record(row), encoded.ids(row),
                                         encoded.weights(row)));
  }
  pass_bad_rows(std::numeric_limits<int64_t>::max());
  return OkStatus();
}

Status Preparation::Write(const std::string& train_path,
                          const std::string& test_path, bool durable) {
  const RowEncoder encoder(format_->plan(), result_.fitted, result_.schema);
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<RecordWriter> train,
                         RecordWriter::Create(train_path, result_.schema));
  std::unique_ptr<RecordWriter> test;
  if (!test_path.empty()) {
    SHOAL_ASSIGN_OR_RETURN(test,
                           RecordWriter::Create(test_path, result_.schema));
  }
  BadRows bad_rows(data_.bad_rows().limit());
  RowRouter router = Router();
  const bool only_training = !all_rows_ && data_.split().by() == "none";
  SHOAL_RETURN_IF_ERROR(
      ReadRows(files_, *format_, &encoder, pool_, &bad_rows,
               [&](const ReadBlock& block, bool* stop) {
                 *stop = false;
                 SHOAL_RETURN_IF_ERROR(WriteBlock(
                     block, &router, train.get(),
                     test == nullptr ? train.get() : test.get(), &bad_rows));
                 *stop = only_training && router.training_done();
                 return OkStatus();
               }));
  const std::string& by = data_.split().by();
  if (all_rows_ && !prediction_ && num_rejected_ > 0 &&
      (by == "mod" || by == "tail")) {
    return InvalidArgumentError(
        StrCat(num_rejected_,
               " rows have no finite value after their transformation, "
               "such as row ",
               result_.bad_row_numbers.front(), " from 0: split by ", by,
               " counts them, and a record file can't; leave them out by "
               "data.filter"));
  }
  result_.bad_rows = bad_rows.count();
  result_.bad_row_samples = bad_rows.samples();
  const std::string fitted_json = FittedToJson(result_.fitted);
  SHOAL_RETURN_IF_ERROR(train->Finish(fitted_json, durable));
  return test == nullptr ? OkStatus() : test->Finish(fitted_json, durable);
}

// Which rows of one file with all rows are which part.
Status SelectRows(const DataSpec& data, int64_t file_rows, PreparedPart* train,
                  PreparedPart* test) {
  const SplitSpec& split = data.split();
  if (split.by() == "mod") {
    train->rows.modulus = test->rows.modulus = split.n();
    train->rows.part = test->rows.part = split.test();
    train->rows.inverted = true;
  } else if (split.by() == "tail") {
    const int64_t train_end =
        std::max<int64_t>(0, file_rows - split.test_rows());
    train->rows.end = train_end;
    test->rows.begin = train_end;
  } else if (split.by() == "none") {
    test->path.clear();
  } else if (split.by() != "files") {
    return InvalidArgumentError(
        StrCat("data.split.by: ", split.by(),
               " needs columns, which a record file has no longer; use mod, "
               "tail, files or none"));
  }
  return OkStatus();
}

// The first rows of the training part, the last ones of the test part.
Status ApplyLimits(const DataSpec& data, PreparedPart* train,
                   PreparedPart* test) {
  SHOAL_ASSIGN_OR_RETURN(const Examples all_train,
                         Examples::Open(train->path, train->rows));
  train->num_rows = all_train.num_rows();
  if (data.limit() > 0 && data.limit() < train->num_rows) {
    train->rows.count = train->num_rows = data.limit();
  }
  if (test->path.empty()) {
    return OkStatus();
  }
  SHOAL_ASSIGN_OR_RETURN(const Examples all_test,
                         Examples::Open(test->path, test->rows));
  test->num_rows = all_test.num_rows();
  if (data.test_limit() > 0 && data.test_limit() < test->num_rows) {
    test->rows.skip = test->num_rows - data.test_limit();
    test->num_rows = data.test_limit();
  }
  return OkStatus();
}

Status SetLabelMean(PreparedData* data) {
  SHOAL_ASSIGN_OR_RETURN(const Examples train,
                         Examples::Open(data->train.path, data->train.rows));
  if (train.num_rows() == 0) {
    return OkStatus();
  }
  double sum = 0;
  for (int64_t i = 0; i < train.num_rows(); ++i) {
    sum += train.Row(i).label;
  }
  data->label_mean = sum / static_cast<double>(train.num_rows());
  return OkStatus();
}

Status CheckNotEmpty(const PreparedData& data, const DataSpec& spec,
                     int64_t rows_seen) {
  if (data.train.num_rows > 0) {
    if (data.test.num_rows == 0 && spec.split().by() != "none") {
      LogWarning("the test part has no rows: ", rows_seen,
                 " rows were read, split by ", spec.split().by());
    }
    return OkStatus();
  }
  return InvalidArgumentError(
      StrCat("the training part has no rows: ", rows_seen, " rows were read",
             spec.filter_size() > 0 ? " after the filter" : "",
             data.bad_rows > 0 ? StrCat(", ", data.bad_rows, " were bad") : "",
             ", split by ", spec.split().by()));
}

Status CheckSchema(const JobSpec& job, const RecordFile& file) {
  const RecordSchema& schema = file.schema();
  if (schema.task != job.model().task() ||
      (schema.task == "multiclass" &&
       schema.classes != job.model().classes())) {
    return InvalidArgumentError(
        StrCat(file.path(), ": was written for the task ", schema.task,
               schema.task == "multiclass"
                   ? StrCat(" with ", schema.classes, " classes")
                   : "",
               ", but model.task is ", job.model().task(),
               "; convert the data again"));
  }
  return OkStatus();
}

StatusOr<std::shared_ptr<const RecordFile>> OpenOneRecordFile(
    const JobSpec& job, const std::vector<std::string>& files,
    const std::string& key) {
  if (files.size() != 1) {
    return InvalidArgumentError(
        StrCat(key, ": ", files.size(),
               " record files match, expected one; `shoal data convert` "
               "writes many text files into one"));
  }
  SHOAL_ASSIGN_OR_RETURN(std::shared_ptr<const RecordFile> file,
                         RecordFile::Open(files[0]));
  SHOAL_RETURN_IF_ERROR(CheckSchema(job, *file));
  return file;
}

// Rows mean what the model learnt only if they were made alike.
Status CheckSameFit(const RecordFile& file, const FittedTransforms* fitted) {
  if (fitted == nullptr || file.fitted_json() == FittedToJson(*fitted)) {
    return OkStatus();
  }
  return FailedPreconditionError(
      StrCat(file.path(),
             ": its features were not fitted as those of the checkpoint were; "
             "convert the data again with `shoal data convert --checkpoint`"));
}

// `format: record`: nothing is copied.
StatusOr<PreparedData> UseRecordFiles(const JobSpec& job,
                                      const FittedTransforms* fitted) {
  const DataSpec& data = job.data();
  if (data.features_size() > 0 || data.filter_size() > 0) {
    return InvalidArgumentError(
        "data.format: record takes no data.features and no data.filter: they "
        "were applied when it was written");
  }
  const auto open = [&](const auto& patterns, const std::string& key)
      -> StatusOr<std::shared_ptr<const RecordFile>> {
    SHOAL_ASSIGN_OR_RETURN(
        const std::vector<std::string> paths,
        ListFiles(data.root(), Patterns(patterns.begin(), patterns.end()),
                  key));
    return OpenOneRecordFile(job, paths, key);
  };
  SHOAL_ASSIGN_OR_RETURN(const std::shared_ptr<const RecordFile> file,
                         open(data.files(), "data.files"));
  SHOAL_RETURN_IF_ERROR(CheckSameFit(*file, fitted));
  PreparedData result;
  result.schema = file->schema();
  SHOAL_ASSIGN_OR_RETURN(result.fitted, FittedFromJson(file->fitted_json()));
  result.train.path = result.test.path = file->path();
  result.files = {file->path()};
  SHOAL_RETURN_IF_ERROR(
      SelectRows(data, file->num_rows(), &result.train, &result.test));
  if (data.split().by() == "files") {
    SHOAL_ASSIGN_OR_RETURN(const std::shared_ptr<const RecordFile> test,
                           open(data.test_files(), "data.test_files"));
    if (test->path() == file->path()) {
      return InvalidArgumentError(
          StrCat(file->path(),
                 ": is the file of both data.files and data.test_files"));
    }
    if (test->schema() != file->schema() ||
        test->fitted_json() != file->fitted_json()) {
      return InvalidArgumentError(
          StrCat(test->path(), ": was not written with the features of ",
                 file->path(), "; convert both by one job"));
    }
    result.test.path = test->path();
    result.files.push_back(test->path());
  }
  SHOAL_RETURN_IF_ERROR(ApplyLimits(data, &result.train, &result.test));
  SHOAL_RETURN_IF_ERROR(CheckNotEmpty(result, data, file->num_rows()));
  SHOAL_RETURN_IF_ERROR(SetLabelMean(&result));
  return result;
}

StatusOr<PreparedData> PrepareText(const JobSpec& job,
                                   const std::string& out_folder,
                                   const FittedTransforms* fitted,
                                   int threads) {
  const DataSpec& data = job.data();
  SHOAL_ASSIGN_OR_RETURN(std::vector<InputFile> files, InputFiles(data));
  Preparation work(job, false, false, threads);
  SHOAL_RETURN_IF_ERROR(work.Init(std::move(files)));
  SHOAL_RETURN_IF_ERROR(work.Fit(fitted));
  PreparedData& result = work.result();
  const std::filesystem::path folder(out_folder);
  // A tail is a tail only when the last row is known: all rows go to one file.
  const bool one_file = data.split().by() == "tail";
  result.train.path =
      (folder / (one_file ? "all.shoalrec" : "train.shoalrec")).string();
  result.test.path =
      one_file ? result.train.path : (folder / "test.shoalrec").string();
  if (data.split().by() == "none") {
    result.test.path.clear();
  }
  SHOAL_RETURN_IF_ERROR(
      work.Write(result.train.path, one_file ? "" : result.test.path, false));
  if (one_file) {
    SHOAL_RETURN_IF_ERROR(SelectRows(data, work.num_train() + work.num_test(),
                                     &result.train, &result.test));
  }
  SHOAL_RETURN_IF_ERROR(ApplyLimits(data, &result.train, &result.test));
  SHOAL_RETURN_IF_ERROR(CheckNotEmpty(result, data, work.rows_seen()));
  SHOAL_RETURN_IF_ERROR(SetLabelMean(&result));
  return std::move(result);
}

// Sets `seconds` of what `prepare` returns.
template <typename Function>
StatusOr<PreparedData> Timed(Function prepare) {
  const auto start = std::chrono::steady_clock::now();
  StatusOr<PreparedData> result = prepare();
  if (result.ok()) {
    result->seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count();
  }
  return result;
}

// Files named on a command line start at the working folder; for patterns as in
// the job file data.root serves too.
StatusOr<std::vector<std::string>> ListInputs(const JobSpec& job,
                                              const Patterns& patterns) {
  std::vector<std::string> files;
  for (const std::string& pattern : patterns) {
    StatusOr<std::vector<std::string>> found =
        ListFiles(".", {pattern}, "--input");
    if (!found.ok()) {
      found = ListFiles(job.data().root(), {pattern}, "--input");
    }
    if (!found.ok()) {
      return found.status().WithPrefix("nothing in the working folder either");
    }
    files.insert(files.end(), found->begin(), found->end());
  }
  return files;
}

StatusOr<PreparedData> PredictText(const JobSpec& job,
                                   const std::vector<std::string>& paths,
                                   const std::string& out_folder,
                                   const FittedTransforms& fitted,
                                   int threads) {
  std::vector<InputFile> files;
  for (const std::string& path : paths) {
    files.push_back({path, true});
  }
  Preparation work(job, true, true, threads);
  SHOAL_RETURN_IF_ERROR(work.Init(std::move(files)));
  SHOAL_RETURN_IF_ERROR(work.Fit(&fitted));
  PreparedData& result = work.result();
  result.test.path =
      (std::filesystem::path(out_folder) / "predict.shoalrec").string();
  SHOAL_RETURN_IF_ERROR(work.Write(result.test.path, "", false));
  result.test.num_rows = work.num_test();
  if (result.test.num_rows == 0) {
    return InvalidArgumentError("there are no rows to predict");
  }
  return std::move(result);
}

StatusOr<PreparedData> PredictRecords(const JobSpec& job,
                                      const std::vector<std::string>& paths,
                                      const FittedTransforms& fitted) {
  SHOAL_ASSIGN_OR_RETURN(const std::shared_ptr<const RecordFile> file,
                         OpenOneRecordFile(job, paths, "--input"));
  SHOAL_RETURN_IF_ERROR(CheckSameFit(*file, &fitted));
  PreparedData result;
  result.schema = file->schema();
  SHOAL_ASSIGN_OR_RETURN(result.fitted, FittedFromJson(file->fitted_json()));
  result.files = paths;
  result.test.path = file->path();
  result.test.num_rows = file->num_rows();
  return result;
}

// A record file may be written anew; anything else that has the name is not
// ours to replace, the more so if it is what is to be converted.
Status CheckMayWrite(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error) || RecordFile::Open(path).ok()) {
    return OkStatus();
  }
  return FailedPreconditionError(
      StrCat(path,
             " is there and is no record file; remove it, or choose another "
             "name"));
}

// "flights.test.shoalrec" of "flights.shoalrec".
std::string TestPathOf(const std::string& out_path) {
  std::filesystem::path path(out_path);
  const std::string name =
      StrCat(path.stem().string(), ".test", path.extension().string());
  return path.replace_filename(name).string();
}

StatusOr<PreparedData> Convert(const JobSpec& job, const std::string& out_path,
                               const FittedTransforms* fitted, int threads) {
  const DataSpec& data = job.data();
  const std::string& by = data.split().by();
  if (data.format() == "record") {
    return InvalidArgumentError(
        "data.format is record already; there is nothing to convert");
  }
  // What these go by is not in the records: a file for each part instead.
  const std::string test_path = by == "hash" || by == "range" || by == "files"
                                    ? TestPathOf(out_path)
                                    : "";
  SHOAL_RETURN_IF_ERROR(CheckMayWrite(out_path));
  if (!test_path.empty()) {
    SHOAL_RETURN_IF_ERROR(CheckMayWrite(test_path));
  }
  SHOAL_ASSIGN_OR_RETURN(std::vector<InputFile> files, InputFiles(data));
  Preparation work(job, false, true, threads);
  SHOAL_RETURN_IF_ERROR(work.Init(std::move(files)));
  SHOAL_RETURN_IF_ERROR(work.Fit(fitted));
  SHOAL_RETURN_IF_ERROR(work.Write(out_path, test_path, true));
  PreparedData& result = work.result();
  result.train.path = out_path;
  result.test.path = test_path.empty() ? out_path : test_path;
  result.train.num_rows = work.num_train();
  result.test.num_rows = work.num_test();
  if (by == "tail") {
    const int64_t rows = work.num_train() + work.num_test();
    result.test.num_rows = std::min(rows, data.split().test_rows());
    result.train.num_rows = rows - result.test.num_rows;
  }
  return std::move(result);
}

}  // namespace

StatusOr<PreparedData> Prepare(const JobSpec& job,
                               const std::string& out_folder,
                               const FittedTransforms* fitted, int threads) {
  return Timed([&]() -> StatusOr<PreparedData> {
    return job.data().format() == "record"
               ? UseRecordFiles(job, fitted)
               : PrepareText(job, out_folder, fitted, threads);
  });
}

StatusOr<PreparedData> PrepareForPrediction(
    const JobSpec& job, const std::vector<std::string>& patterns,
    const std::string& out_folder, const FittedTransforms& fitted,
    int threads) {
  return Timed([&]() -> StatusOr<PreparedData> {
    SHOAL_ASSIGN_OR_RETURN(const std::vector<std::string> files,
                           ListInputs(job, patterns));
    return job.data().format() == "record"
               ? PredictRecords(job, files, fitted)
               : PredictText(job, files, out_folder, fitted, threads);
  });
}

StatusOr<PreparedData> ConvertToRecord(const JobSpec& job,
                                       const std::string& out_path,
                                       const FittedTransforms* fitted,
                                       int threads) {
  return Timed([&] { return Convert(job, out_path, fitted, threads); });
}

}  // namespace shoal::worker
