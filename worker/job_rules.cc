#include "worker/job_rules.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string_view>
#include <vector>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include "base/strcat.h"
#include "comm/collective.h"
#include "kernels/devices.h"
#include "worker/consistency.h"
#include "worker/job.h"
#include "worker/job.pb.h"
#include "worker/job_schema.h"

namespace shoal::worker {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using Problem = std::optional<JobProblem>;

// Bounds of single values --------------------------------------------------

std::string AllowedHint(const FieldDescriptor& field) {
  return StrCat("; allowed: ", AllowedText(field));
}

Problem CheckText(const std::string& value, const FieldDescriptor& field,
                  const std::string& key) {
  const std::vector<std::string> allowed = AllowedValues(field);
  if (!allowed.empty() &&
      std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
    std::string hint = SuggestName(value, allowed);
    if (hint.find("did you mean") == std::string::npos) {
      hint.clear();
    }
    return JobProblem{key, StrCat("'", value.substr(0, 100), "' is not known",
                                  AllowedHint(field), hint)};
  }
  const bool control = std::any_of(value.begin(), value.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte < 0x20 && c != '\t') || byte == 0x7f;
  });
  if (control) {
    return JobProblem{key, "a line end or control character is in the text"};
  }
  return std::nullopt;
}

Problem CheckNumber(double value, const std::string& shown,
                    const FieldDescriptor& field, const std::string& key) {
  const auto& options = field.options();
  if (!std::isfinite(value)) {
    return JobProblem{key, StrCat(shown, " is not finite")};
  }
  if (std::abs(value) > std::numeric_limits<float>::max()) {
    return JobProblem{key, StrCat(shown, " is more than 32-bit numbers hold")};
  }
  if (options.HasExtension(min) && value < options.GetExtension(min)) {
    return JobProblem{key, StrCat(shown, " is too small", AllowedHint(field))};
  }
  if (options.HasExtension(max) && value > options.GetExtension(max)) {
    return JobProblem{key, StrCat(shown, " is too large", AllowedHint(field))};
  }
  return std::nullopt;
}

// One value: that of a field, or element `index` of a repeated one.
Problem CheckValue(const Message& message, const FieldDescriptor& field,
                   int index, const std::string& key) {
  const Reflection& get = *message.GetReflection();
  const bool repeated = field.is_repeated();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: {
      const int32_t value = repeated
                                ? get.GetRepeatedInt32(message, &field, index)
                                : get.GetInt32(message, &field);
      return CheckNumber(value, StrCat(value), field, key);
    }
    case FieldDescriptor::CPPTYPE_INT64: {
      const int64_t value = repeated
                                ? get.GetRepeatedInt64(message, &field, index)
                                : get.GetInt64(message, &field);
      return CheckNumber(static_cast<double>(value), StrCat(value), field, key);
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      const double value = repeated
                               ? get.GetRepeatedDouble(message, &field, index)
                               : get.GetDouble(message, &field);
      return CheckNumber(value, YamlNumber(value), field, key);
    }
    case FieldDescriptor::CPPTYPE_STRING:
      return CheckText(repeated ? get.GetRepeatedString(message, &field, index)
                                : get.GetString(message, &field),
                       field, key);
    default:  // true or false; uint64 seeds may be anything
      return std::nullopt;
  }
}

Problem CheckMessage(const Message& message, const std::string& parent);

Problem CheckMapEntry(const Message& entry, const FieldDescriptor& field,
                      const std::string& parent) {
  const FieldDescriptor& map_key = *field.message_type()->map_key();
  const FieldDescriptor& map_value = *field.message_type()->map_value();
  const std::string name = entry.GetReflection()->GetString(entry, &map_key);
  const std::string key = StrCat(parent, ".", name);
  const std::vector<std::string> allowed = AllowedKeys(field);
  if (!allowed.empty() &&
      std::find(allowed.begin(), allowed.end(), name) == allowed.end()) {
    return JobProblem{key, StrCat("unknown key", SuggestName(name, allowed))};
  }
  if (map_value.message_type() != nullptr) {
    return CheckMessage(entry.GetReflection()->GetMessage(entry, &map_value),
                        key);
  }
  return CheckValue(entry, map_value, -1, key);
}

Problem CheckMessage(const Message& message, const std::string& parent) {
  const Reflection& get = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  get.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const std::string key =
        parent.empty() ? field->name() : StrCat(parent, ".", field->name());
    const int size = field->is_repeated() ? get.FieldSize(message, field) : 1;
    for (int i = 0; i < size; ++i) {
      const std::string element =
          field->is_repeated() ? StrCat(key, ".", i) : key;
      Problem problem;
      if (field->is_map()) {
        problem = CheckMapEntry(get.GetRepeatedMessage(message, field, i),
                                *field, key);
      } else if (field->message_type() != nullptr) {
        problem = CheckMessage(field->is_repeated()
                                   ? get.GetRepeatedMessage(message, field, i)
                                   : get.GetMessage(message, field),
                               element);
      } else {
        problem = CheckValue(message, *field, i, element);
      }
      if (problem.has_value()) {
        return problem;
      }
    }
  }
  return std::nullopt;
}

// Rules between keys -------------------------------------------------------

// The name becomes that of a folder.
Problem CheckName(const std::string& name) {
  if (name.empty() || name.front() == '.' ||
      name.find('/') != std::string::npos) {
    return JobProblem{"name",
                      StrCat("'", name,
                             "' can't be a folder's name; expected a text "
                             "without slashes that does not open with a dot")};
  }
  return std::nullopt;
}

Problem CheckConsistency(const JobSpec& job) {
  const ConsistencySpec& consistency = job.consistency();
  const std::string dense_text = DenseText(consistency);
  if (job.cluster().replicas() > 1 && TablesText(consistency) != "sync" &&
      (dense_text == "allreduce" || dense_text == "auto")) {
    return JobProblem{
        "cluster.replicas",
        StrCat("beside dense variables that are reduced (consistency.dense: ",
               dense_text,
               "), tables have replicas in sync only; set "
               "consistency.tables to sync, or cluster.replicas to 1")};
  }
  const std::string tables = TablesText(consistency);
  const std::string dense = DenseText(consistency);
  if (job.cluster().backup_workers() > 0 &&
      (tables != "sync" || (dense != "sync" && dense != "auto"))) {
    return JobProblem{
        "cluster.backup_workers",
        StrCat("workers stand for others in sync, with the dense variables on "
               "the servers; consistency.",
               tables != "sync" ? "tables" : "dense", " is ",
               tables != "sync" ? tables : dense,
               "; set consistency.mode to sync, or backup_workers to 0")};
  }
  if (job.cluster().rebalance() == "load" && dense == "allreduce" &&
      tables != "sync") {
    return JobProblem{"cluster.rebalance",
                      StrCat("beside dense variables that are reduced "
                             "(consistency.dense: allreduce), slots move in "
                             "sync only; set consistency.tables to sync, or "
                             "leave it out")};
  }
  const std::string& collective = job.cluster().collective();
  if (collective != "auto" && dense != "allreduce") {
    return JobProblem{"cluster.collective",
                      StrCat(collective,
                             " sums gradients where consistency.dense is "
                             "allreduce; set that, or leave it out")};
  }
  if (consistency.has_staleness() && tables != "bounded" &&
      dense != "bounded") {
    return JobProblem{"consistency.staleness",
                      StrCat("it is about bounded, but tables are in ", tables,
                             "; leave it out, or set mode: bounded")};
  }
  if (job.cluster().allreduce_size() > 0) {
    if (dense != "allreduce" ||
        (collective != "auto" && collective != "transport")) {
      return JobProblem{"cluster.allreduce",
                        "it is about collective transport where "
                        "consistency.dense is allreduce; set that, or leave it "
                        "out"};
    }
    const std::vector<std::string> entries(job.cluster().allreduce().begin(),
                                           job.cluster().allreduce().end());
    if (const Status status = comm::ParseSwitches(entries).status();
        !status.ok()) {
      return JobProblem{"cluster.allreduce", std::string(status.message())};
    }
  }
  if (collective == "nccl") {
    for (int i = 0; i < job.cluster().workers(); ++i) {
      const std::string& device = DeviceOf(job, i);
      if (device != "auto" && !device.starts_with("cuda")) {
        return JobProblem{
            "cluster.collective",
            StrCat("nccl sums on the workers' GPUs, but worker ", i,
                   " computes on ", device,
                   "; set device: cuda, or collective: transport")};
      }
    }
  }
  if (consistency.sharded_optimizer() && dense != "allreduce") {
    return JobProblem{"consistency.sharded_optimizer",
                      StrCat("it divides what workers hold, which they do with "
                             "consistency.dense: allreduce; that is ",
                             dense)};
  }
  if (dense == "allreduce" || dense == tables) {
    return std::nullopt;
  }
  const auto problem = [&](std::string_view text) {
    return JobProblem{
        "consistency.dense",
        StrCat(dense, " does not go with tables in ", tables, ": ", text)};
  };
  if (dense == "auto") {
    return tables == "sync"
               ? Problem()
               : problem(StrCat("auto chooses between sync and allreduce, "
                                "which train the same model only beside "
                                "tables in sync; say allreduce or ",
                                tables));
  }
  if (tables == "sync") {
    return problem(
        "a step in sync ends with one commit of all that the servers hold; "
        "give both the same, or use allreduce");
  }
  if (dense == "sync") {
    return problem(
        "a worker would wait for the commit of every step, and its rows with "
        "it; use allreduce, or give both the same");
  }
  return problem(
      "a step needs its rows and its dense variables, so the stricter would "
      "count for both; give both the same, or use allreduce");
}

bool HasColumns(const DataSpec& data) {
  return data.format() == "csv" ||
         (data.format() == "criteo" && data.features_size() > 0);
}

Problem CheckSplit(const DataSpec& data) {
  const SplitSpec& split = data.split();
  const std::string& by = split.by();
  if ((by == "mod" || by == "hash") && split.test() >= split.n()) {
    return JobProblem{
        "data.split.test",
        StrCat(split.test(), " is no part of 0 to ", split.n() - 1,
               " (data.split.n is ", split.n(), ")")};
  }
  if (by == "hash" || by == "range") {
    if (!HasColumns(data)) {
      return JobProblem{
          "data.split.by",
          StrCat("'", by, "' needs columns, which format ", data.format(),
                 " does not name; use mod, tail, files or none")};
    }
    if (split.column().empty()) {
      return JobProblem{"data.split.column",
                        StrCat("it must name a column for split by ", by)};
    }
  }
  if (by == "range" &&
      (!split.has_from() || !split.has_to() || split.from() > split.to())) {
    return JobProblem{"data.split.from",
                      "split by range needs `from` and `to`, from <= to"};
  }
  if (by == "tail" && split.test_rows() < 1) {
    return JobProblem{"data.split.test_rows",
                      "split by tail needs a number of rows, 1 or more"};
  }
  if (by == "files" && data.test_files_size() == 0) {
    return JobProblem{"data.test_files",
                      "split by files needs the held-out files"};
  }
  if (by != "files" && data.test_files_size() > 0) {
    return JobProblem{"data.test_files",
                      StrCat("given, but data.split.by is ", by,
                             "; set it to files, or leave test_files out")};
  }
  return std::nullopt;
}

Problem CheckCsv(const CsvSpec& csv) {
  const std::string& delimiter = csv.delimiter();
  if (delimiter != "\\t" && delimiter != "tab" &&
      (delimiter.size() != 1 || delimiter == "\"")) {
    return JobProblem{"data.csv.delimiter",
                      StrCat("'", delimiter.substr(0, 20),
                             "' can't be; expected one character (\"\\t\" or "
                             "tab for a tab), no quote")};
  }
  if (!csv.header() && csv.columns_size() == 0) {
    return JobProblem{"data.csv.columns",
                      "it must name the columns, as header is false"};
  }
  if (csv.header() && csv.columns_size() > 0) {
    return JobProblem{"data.csv.columns",
                      "given, but the first line of the files names the "
                      "columns; set data.csv.header to false, or use "
                      "data.csv.aliases to rename one"};
  }
  return std::nullopt;
}

Problem CheckFeatures(const DataSpec& data) {
  bool any_input = false;
  for (int i = 0; i < data.features_size(); ++i) {
    const FeatureSpec& feature = data.features(i);
    const std::string key = StrCat("data.features.", i);
    const int sources = (feature.column().empty() ? 0 : 1) +
                        (feature.has_when() ? 1 : 0) +
                        (feature.cross_size() > 0 ? 1 : 0);
    if (sources != 1) {
      return JobProblem{key, StrCat("a feature needs exactly one of `column`, "
                                    "`when` and `cross`, found ",
                                    sources)};
    }
    if (feature.has_when() && feature.when().part().empty()) {
      return JobProblem{key + ".when",
                        "`part` is missing: which part of the time?"};
    }
    any_input = any_input || !feature.cross_only();
  }
  if (!any_input) {
    return JobProblem{"data.features",
                      "all are cross_only, so the model has no input"};
  }
  return std::nullopt;
}

Problem CheckData(const DataSpec& data) {
  if (data.files_size() == 0) {
    return JobProblem{"data.files", "it must name at least one file"};
  }
  if (HasColumns(data)) {
    if (data.label().empty()) {
      return JobProblem{"data.label",
                        StrCat("format ", data.format(),
                               data.format() == "csv" ? "" : " with features",
                               " needs it: a column, or a comparison such as "
                               "`arr_delay > 15`")};
    }
    if (data.features_size() == 0) {
      return JobProblem{"data.features",
                        "format csv needs it: the columns that the model "
                        "reads"};
    }
    if (data.format() == "csv") {
      if (Problem problem = CheckCsv(data.csv()); problem.has_value()) {
        return problem;
      }
    }
    if (Problem problem = CheckFeatures(data); problem.has_value()) {
      return problem;
    }
  } else {
    const char* const key = data.features_size() > 0 ? "data.features"
                            : !data.label().empty()  ? "data.label"
                            : data.filter_size() > 0 ? "data.filter"
                                                     : nullptr;
    if (key != nullptr) {
      return JobProblem{
          key, StrCat("it works on columns, which format ", data.format(),
                      " does not name; leave it out")};
    }
  }
  return CheckSplit(data);
}

// Inputs of the model of one kind.
int CountFeatures(const DataSpec& data, std::string_view kind) {
  return static_cast<int>(
      std::count_if(data.features().begin(), data.features().end(),
                    [&](const FeatureSpec& f) {
                      return f.kind() == kind && !f.cross_only();
                    }));
}

// Keys that the kind of what is at `key` does not read would do nothing.
template <typename Spec>
Problem CheckKeysOfKind(const Spec& spec, std::string_view key) {
  std::vector<const FieldDescriptor*> fields;
  spec.GetReflection()->ListFields(spec, &fields);
  for (const FieldDescriptor* field : fields) {
    const std::vector<std::string> kinds = ReadBy(*field);
    if (kinds.empty() ||
        std::find(kinds.begin(), kinds.end(), spec.kind()) != kinds.end() ||
        SaysTheDefault(spec, *field)) {
      continue;
    }
    return JobProblem{
        StrCat(key, ".", field->name()),
        StrCat(spec.kind(), " does not read it (", JoinOr(kinds),
               kinds.size() > 1 ? " do" : " does", "); leave it out")};
  }
  return std::nullopt;
}

Problem CheckModel(const JobSpec& job) {
  const ModelSpec& model = job.model();
  const std::string& kind = model.kind();
  if (Problem problem = CheckKeysOfKind(model, "model"); problem.has_value()) {
    return problem;
  }
  if (Problem problem = FindTableProblem(job); problem.has_value()) {
    return problem;
  }
  if (model.task() == "multiclass" && (kind == "fm" || kind == "deepfm")) {
    return JobProblem{"model.task",
                      StrCat("the interactions of ", kind,
                             " give one number, not one per class; use lr, "
                             "wide_deep, dcn_v2, dlrm or mlp")};
  }
  const bool deep = kind != "lr" && kind != "fm";
  if (deep && model.hidden_size() == 0) {
    return JobProblem{"model.hidden",
                      StrCat(kind,
                             " needs the widths of its hidden layers, "
                             "such as [64, 32]")};
  }
  if (model.task() != "multiclass" && model.has_classes() &&
      model.classes() != 2) {
    return JobProblem{"model.classes",
                      StrCat(model.classes(), " classes, but model.task is ",
                             model.task(), "; set it to multiclass")};
  }
  if (kind != "dlrm") {
    return std::nullopt;
  }
  if (HasColumns(job.data()) && CountFeatures(job.data(), "numeric") == 0) {
    return JobProblem{"model.kind",
                      "dlrm needs at least one feature of kind numeric; use "
                      "dcn_v2 or deepfm without"};
  }
  if (model.bottom_size() == 0) {
    return JobProblem{"model.bottom",
                      StrCat("dlrm needs the widths of its bottom network, "
                             "such as [64, ",
                             model.dim(), "]")};
  }
  const int last = model.bottom(model.bottom_size() - 1);
  if (last != model.dim()) {
    return JobProblem{"model.bottom",
                      StrCat("its last width is ", last, " but model.dim is ",
                             model.dim(), "; dlrm needs them equal")};
  }
  return std::nullopt;
}

Problem CheckOptimizer(const OptimizerSpec& optimizer, const std::string& key) {
  const std::string& kind = optimizer.kind();
  const auto problem = [&](std::string_view name, std::string_view text) {
    return JobProblem{StrCat(key, ".", name), StrCat(kind, ": ", text)};
  };
  const auto is = [&](std::initializer_list<std::string_view> kinds) {
    return std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
  };
  if (Problem unread = CheckKeysOfKind(optimizer, key); unread.has_value()) {
    return unread;
  }
  const bool no_epsilon = optimizer.has_epsilon() && optimizer.epsilon() == 0;
  if (is({"adagrad", "rowwise_adagrad"}) && no_epsilon &&
      optimizer.initial_accumulator() == 0) {
    return problem("initial_accumulator",
                   "0 with epsilon 0 divides by zero; raise one of them");
  }
  if (is({"adam", "lazy_adam", "adamw", "adamax", "amsgrad", "lamb"}) &&
      (optimizer.beta1() >= 1 || optimizer.beta2() >= 1)) {
    return problem(optimizer.beta1() >= 1 ? "beta1" : "beta2",
                   "1 never forgets and divides by zero; give less than 1");
  }
  if (is({"adadelta", "rmsprop"}) && optimizer.rho() >= 1) {
    return problem("rho", "1 never learns of a gradient; give less than 1");
  }
  if (!is({"adagrad", "rowwise_adagrad"}) && no_epsilon) {
    return problem("epsilon", "0 divides by zero where gradients are 0");
  }
  if (is({"ftrl", "group_ftrl"}) && optimizer.learning_rate() == 0) {
    return problem("learning_rate", "0 divides by zero; give more");
  }
  if (is({"ftrl", "group_ftrl"}) && optimizer.beta() == 0 &&
      optimizer.initial_accumulator() == 0 && optimizer.l2() == 0) {
    return problem("beta",
                   "0 with initial_accumulator 0 and l2 0 divides by "
                   "zero; raise one of them");
  }
  if (optimizer.decoupled() && kind != "adamw" &&
      optimizer.weight_decay() == 0) {
    return problem("decoupled",
                   "there is no weight decay; give weight_decay, or leave it "
                   "out");
  }
  return std::nullopt;
}

// What is done by rows has no meaning for dense variables.
Problem CheckDense(const OptimizerSpec& dense) {
  if (dense.kind() == "rowwise_adagrad" || dense.kind() == "group_ftrl") {
    return JobProblem{
        "dense.kind",
        StrCat("'", dense.kind(),
               "' works on the rows of tables, which dense variables have not; "
               "use it in tables.NAME.optimizer, and ",
               dense.kind() == "group_ftrl" ? "ftrl" : "adagrad", " here")};
  }
  if (dense.clip_norm() > 0) {
    return JobProblem{"dense.clip_norm",
                      "it is the norm of a row of a table; use it in "
                      "tables.NAME.optimizer, and clip_value here"};
  }
  return CheckOptimizer(dense, "dense");
}

Problem CheckOptimizers(const JobSpec& job) {
  if (Problem problem = CheckDense(job.dense()); problem.has_value()) {
    return problem;
  }
  for (const auto& [name, table] : job.tables()) {
    if (!table.has_optimizer()) {
      continue;
    }
    if (Problem problem = CheckOptimizer(table.optimizer(),
                                         StrCat("tables.", name, ".optimizer"));
        problem.has_value()) {
      return problem;
    }
  }
  return std::nullopt;
}

std::vector<std::string> MetricsOf(const std::string& task) {
  if (task == "regression") {
    return {"rmse"};
  }
  return task == "multiclass"
             ? std::vector<std::string>{"log_loss", "accuracy"}
             : std::vector<std::string>{"auc", "log_loss", "accuracy"};
}

Problem CheckTrain(const JobSpec& job) {
  const TrainSpec& train = job.train();
  if (Problem problem = CheckKeysOfKind(train.schedule(), "train.schedule");
      problem.has_value()) {
    return problem;
  }
  if (Problem problem = CheckKeysOfKind(train.loss_scale(), "train.loss_scale");
      problem.has_value()) {
    return problem;
  }
  const EarlyStoppingSpec& stopping = train.early_stopping();
  if (stopping.patience() == 0) {
    return std::nullopt;
  }
  const std::vector<std::string> metrics = MetricsOf(job.model().task());
  if (std::find(metrics.begin(), metrics.end(), stopping.metric()) ==
      metrics.end()) {
    return JobProblem{"train.early_stopping.metric",
                      StrCat("model.task ", job.model().task(), " has no ",
                             stopping.metric(), "; use ", JoinOr(metrics))};
  }
  if (job.data().split().by() == "none") {
    return JobProblem{"train.early_stopping.patience",
                      "early stopping watches the test part, but "
                      "data.split.by is none"};
  }
  if (!train.eval().every_epoch() && train.eval().every_steps() == 0) {
    return JobProblem{"train.early_stopping.patience",
                      "early stopping needs evaluations; set "
                      "train.eval.every_epoch or train.eval.every_steps"};
  }
  return std::nullopt;
}

}  // namespace

std::optional<JobProblem> FindJobProblem(const JobSpec& job) {
  if (Problem problem = CheckMessage(job, ""); problem.has_value()) {
    return problem;
  }
  if (Problem problem = CheckName(job.name()); problem.has_value()) {
    return problem;
  }
  if (Problem problem = FindClusterProblem(job); problem.has_value()) {
    return problem;
  }
  if (Problem problem = FindCoordinatorProblem(job); problem.has_value()) {
    return problem;
  }
  if (Problem problem = CheckConsistency(job); problem.has_value()) {
    return problem;
  }
  if (Problem problem = CheckData(job.data()); problem.has_value()) {
    return problem;
  }
  if (Problem problem = CheckModel(job); problem.has_value()) {
    return problem;
  }
  if (Problem problem = CheckOptimizers(job); problem.has_value()) {
    return problem;
  }
  if (Problem problem = FindGlobalProblem(job); problem.has_value()) {
    return problem;
  }
  return CheckTrain(job);
}

}  // namespace shoal::worker
