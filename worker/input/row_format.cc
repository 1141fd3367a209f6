#include "worker/input/row_format.h"

#include <cmath>

#include "base/strcat.h"
#include "worker/job.pb.h"

namespace shoal::worker {

const char* LabelRule::Check(double value, bool signs, float* label) const {
  if (!std::isfinite(value) || !std::isfinite(static_cast<float>(value))) {
    return "is not finite";
  }
  if (task == "binary") {
    if (signs && value == -1) {
      value = 0;
    }
    if (value != 0 && value != 1) {
      return signs ? "must be 0 or 1 (or -1 or 1): the task is binary"
                   : "must be 0 or 1: the task is binary; compare it in "
                     "`data.label`, as in `stars >= 4`";
    }
  } else if (task == "multiclass" &&
             (value < 0 || value >= classes || value != std::floor(value))) {
    return "must be a whole number from 0 to model.classes - 1";
  }
  *label = static_cast<float>(value);
  return nullptr;
}

std::string Quoted(std::string_view text) {
  constexpr size_t kShown = 40;
  std::string shown = "'";
  for (const char c : text.substr(0, kShown)) {
    shown += static_cast<unsigned char>(c) < ' ' || c == '\x7f' ? '?' : c;
  }
  shown += text.size() > kShown ? "...'" : "'";
  return shown;
}

StatusOr<std::unique_ptr<RowFormat>> CreateRowFormat(const JobSpec& job,
                                                     bool prediction) {
  const DataSpec& data = job.data();
  const std::string& format = data.format();
  if (format == "csv" || (format == "criteo" && data.features_size() > 0)) {
    return CreateCsvFormat(job, prediction);
  }
  const std::string& by = data.split().by();
  const char* csv_only = data.features_size() > 0 ? "data.features"
                         : data.filter_size() > 0 ? "data.filter"
                         : !data.label().empty()  ? "data.label"
                         : by == "hash"           ? "data.split.by: hash"
                         : by == "range"          ? "data.split.by: range"
                                                  : nullptr;
  if (csv_only != nullptr) {
    return InvalidArgumentError(StrCat(csv_only, " needs columns, and format ",
                                       format, " has none; remove it"));
  }
  if (format == "criteo") {
    return CreateCriteoFormat(job, prediction);
  }
  if (format == "libsvm" || format == "libffm") {
    return CreateLibsvmFormat(job, format == "libffm", prediction);
  }
  return InvalidArgumentError(
      StrCat("data.format is '", format,
             "'; expected csv, libsvm, libffm, criteo or record"));
}

}  // namespace shoal::worker
