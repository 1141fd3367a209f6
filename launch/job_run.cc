#include "launch/job_run.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <utility>

#include "base/log.h"
#include "base/s3/names.h"
#include "base/strcat.h"
#include "base/trace.h"
#include "comm/listen.h"
#include "comm/mpi_world.h"
#include "launch/control.h"
#include "launch/run_state.pb.h"
#include "ps/checkpoint_format.h"
#include "ps/memory_plan.h"
#include "ps/slots.h"
#include "worker/consistency.h"
#include "worker/job.h"
#include "worker/job.pb.h"
#include "worker/metrics/metrics.h"
#include "worker/mode_change.h"
#include "worker/model.h"
#include "worker/open_worker.h"
#include "worker/report/metrics_json.h"
#include "worker/report/report_html.h"

namespace shoal::launch {
namespace {

// Whose checkpoints those of the folder are: RunRequest::run.
constexpr char kRunFile[] = "/run";

double WallTime() {
  return std::chrono::duration<double>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string WallTimeText() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[64];
  std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S %z", &local);
  return text;
}

std::string Seconds(Duration duration) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.2f s", ToSeconds(duration));
  return text;
}

std::string DensePlaceText(const worker::Consistency& consistency) {
  switch (consistency.dense) {
    case ps::DensePlace::kShards:
      return "on the servers";
    case ps::DensePlace::kWorkers:
      return "on the workers, summed by allreduce";
    case ps::DensePlace::kWorkerParts:
      return "on the workers, summed by allreduce, each with its part of the "
             "optimizer's state";
  }
  return "";
}

std::string MetricsText(const worker::EvalResult& result) {
  std::string text;
  for (const auto& [name, value] : worker::NamedMetrics(result)) {
    char part[64];
    std::snprintf(part, sizeof(part), "%s%s %.5f", text.empty() ? "" : ", ",
                  std::string(name).c_str(), value);
    text += part;
  }
  return text;
}

// Of an earlier run, whose processes may have been others. What else lies in
// the folder is not ours.
Status RemoveTraces(Storage& storage, const std::string& folder) {
  const StatusOr<std::vector<std::string>> names = storage.ListFolder(folder);
  if (!names.ok()) {
    return OkStatus();  // There was none.
  }
  for (const std::string& name : *names) {
    if (IsTraceFileName(name)) {
      SHOAL_RETURN_IF_ERROR(storage.Remove(StrCat(folder, "/", name)));
    }
  }
  return OkStatus();
}

// Hours of training are not to be lost because its first checkpoint shows that
// a bucket is missing or a folder may only be read.
Status TryCheckpointFolder(Storage& storage, const std::string& folder) {
  const std::string file = StrCat(folder, "/.shoal-writes-here");
  Status status = storage.PublishFile(file, {});
  if (status.ok()) {
    status = storage.Remove(file);
  }
  return status.WithPrefix("checkpoint.folder");
}

}  // namespace

std::string TextForMembers(const worker::JobSpec& job) {
  worker::JobSpec text = job;
  text.clear_coordinator();
  text.mutable_cluster()->clear_listen();
  text.mutable_cluster()->clear_port();
  return worker::SerializeJob(text);
}

JobRun::JobRun(const RunRequest& request, std::unique_ptr<Storage> storage)
    : request_(request), storage_(std::move(storage)) {}

JobRun::~JobRun() = default;

StatusOr<std::unique_ptr<JobRun>> JobRun::Prepare(
    const RunRequest& request, std::unique_ptr<Storage> storage) {
  auto run = std::unique_ptr<JobRun>(new JobRun(request, std::move(storage)));
  run->begin_ = run->clock_.Now();
  SHOAL_RETURN_IF_ERROR(run->Load());
  SHOAL_RETURN_IF_ERROR(run->PrepareData());
  SHOAL_RETURN_IF_ERROR(run->BuildSpec());
  SHOAL_RETURN_IF_ERROR(run->MakeWayInStore());
  return run;
}

// In a store files are copied, one after another, and so is what incremental
// ones are based on: too long for a coordinator whose members wait. Where one
// goes on for another, nothing is to make way.
Status JobRun::MakeWayInStore() {
  if (request_.kind != RunRequest::Kind::kTrain ||
      !(IsS3Path(out_->checkpoints()) || out_->SettingAsideCopies(*storage_)) ||
      request_.out_use == OutUse::kGoOnInTurn ||
      storage_->ReadFile(out() + kCoordinatorStateFile).ok()) {
    return OkStatus();
  }
  return out_->SetAsideCheckpoints(*storage_, restored_.folder);
}

Status JobRun::Load() {
  SHOAL_ASSIGN_OR_RETURN(
      job_, worker::LoadJob(request_.job_path, request_.overrides));
  SHOAL_ASSIGN_OR_RETURN(
      out_,
      OutFolder::Open(
          request_.out.empty() ? StrCat("out/", job_->name()) : request_.out,
          request_.out_use.value_or(request_.kind == RunRequest::Kind::kTrain
                                        ? OutUse::kTrain
                                        : OutUse::kLook),
          job_->checkpoint().folder()));
  for (const auto& [key, value] :
       {std::pair("transport", job_->transport()),
        std::pair("cluster.collective", job_->cluster().collective())}) {
    if (value == "mpi" && comm::MpiWorld::Current() == nullptr) {
      return FailedPreconditionError(
          StrCat(key,
                 ": mpi joins ranks of mpirun, and this is none; train "
                 "with `shoal launch mpi` or `mpirun -np RANKS shoal train`, "
                 "or add --set ",
                 key, "=auto"));
    }
  }
  if (request_.kind == RunRequest::Kind::kTrain &&
      !job_->checkpoint().folder().empty()) {
    SHOAL_RETURN_IF_ERROR(TryCheckpointFolder(*storage_, out_->checkpoints()));
  }
  SHOAL_ASSIGN_OR_RETURN(std::string checkpoint, OwnCheckpoint());
  if (!checkpoint.empty()) {
    std::fprintf(stderr, "note: going on from %s\n", checkpoint.c_str());
  } else {
    checkpoint = request_.checkpoint.empty() ? job_->checkpoint().restore()
                                             : request_.checkpoint;
  }
  if (!checkpoint.empty()) {
    SHOAL_ASSIGN_OR_RETURN(restored_,
                           OpenCheckpoint(*storage_, checkpoint, *job_));
  }
  return OkStatus();
}

// The newest checkpoint that an earlier try of this run left, or none.
StatusOr<std::string> JobRun::OwnCheckpoint() {
  if (request_.run.empty()) {
    return std::string();
  }
  const StatusOr<Buffer> of = storage_->ReadFile(out() + kRunFile);
  if (of.status().code() == StatusCode::kNotFound) {
    return std::string();
  }
  SHOAL_RETURN_IF_ERROR(of.status());
  if (of->text() != request_.run) {
    return std::string();
  }
  StatusOr<std::string> newest =
      ps::FindCheckpoint(*storage_, out_->checkpoints());
  if (newest.status().code() == StatusCode::kNotFound) {
    return std::string();
  }
  return newest;
}

Status JobRun::PrepareData() {
  const std::string& folder = out_->data();
  const int threads =
      std::max<int>(1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
  const worker::FittedTransforms* fitted =
      restored_.fitted.has_value() ? &*restored_.fitted : nullptr;
  if (request_.kind == RunRequest::Kind::kPredict) {
    if (fitted == nullptr) {
      return FailedPreconditionError(
          StrCat(restored_.folder, " does not say how its features were made"));
    }
    SHOAL_ASSIGN_OR_RETURN(
        data_, worker::PrepareForPrediction(*job_, request_.predict_files,
                                            folder, *fitted, threads));
  } else {
    SHOAL_ASSIGN_OR_RETURN(data_,
                           worker::Prepare(*job_, folder, fitted, threads));
  }
  SHOAL_RETURN_IF_ERROR(restored_.CheckSchema(data_.schema));
  std::fprintf(stderr,
               "data: %lld training and %lld test examples, %lld bad "
               "rows left out (%.2f s)\n",
               static_cast<long long>(data_.train.num_rows),
               static_cast<long long>(data_.test.num_rows),
               static_cast<long long>(data_.bad_rows), data_.seconds);
  for (const std::string& sample : data_.bad_row_samples) {
    LogWarning("bad row: ", sample);
  }
  if (request_.kind == RunRequest::Kind::kEvaluate &&
      data_.test.num_rows == 0) {
    return InvalidArgumentError(
        "there is no test example to evaluate on: see data.split");
  }
  if (request_.kind == RunRequest::Kind::kTrain &&
      job_->cluster().workers() > data_.train.num_rows) {
    return InvalidArgumentError(StrCat(
        "cluster.workers is ", job_->cluster().workers(),
        ", but there are only ", data_.train.num_rows, " training examples"));
  }
  return OkStatus();
}

Status JobRun::BuildSpec() {
  const worker::PreparedPart& any =
      data_.train.num_rows > 0 ? data_.train : data_.test;
  if (any.num_rows == 0) {
    return InvalidArgumentError("the data has no example");
  }
  SHOAL_ASSIGN_OR_RETURN(
      worker::ModelGraph model,
      worker::BuildModel(*job_, data_.schema, data_.label_mean));
  spec_ = std::move(model.spec);
  // As the servers will: what they would refuse is said before any starts.
  const int slot_bits =
      ps::SlotBitsFor(job_->cluster().servers() * job_->cluster().shards());
  SHOAL_ASSIGN_OR_RETURN(
      const ps::MemoryPlan memory,
      ps::PlanMemory(spec_, worker::MakeClusterPlan(*job_, spec_), slot_bits));
  SHOAL_RETURN_IF_ERROR(ps::MakeTables(spec_, slot_bits, memory).status());
  plan_ = worker::MakeTrainPlan(*job_, data_.train.num_rows,
                                data_.test.num_rows > 0);
  if (request_.kind != RunRequest::Kind::kTrain) {
    plan_.total_steps = restored_.step;  // Nothing is trained.
  } else if (restored_.step > plan_.total_steps) {
    return InvalidArgumentError(
        StrCat("checkpoint.restore: ", restored_.folder, " is of step ",
               restored_.step, ", but the training ends at step ",
               plan_.total_steps, "; raise train.epochs or train.max_steps"));
  }
  const worker::EarlyStoppingSpec& stopping = job_->train().early_stopping();
  early_stopping_.emplace(worker::EarlyStopping::Options{
      .metric = stopping.metric(),
      .patience =
          request_.kind == RunRequest::Kind::kTrain ? stopping.patience() : 0,
      .min_delta = stopping.min_delta()});
  if (!restored_.early_stopping.empty()) {
    SHOAL_RETURN_IF_ERROR(early_stopping_->Restore(restored_.early_stopping)
                              .WithPrefix(restored_.folder));
  }
  summary_.job = job_->name();
  summary_.model = job_->model().kind();
  summary_.task = job_->model().task();
  const worker::Consistency consistency =
      worker::ChooseConsistency(*job_, spec_);
  summary_.mode = consistency.tables_text;
  summary_.dense = consistency.dense_text;
  if (request_.kind == RunRequest::Kind::kTrain) {
    for (const std::string& choice : consistency.choices) {
      std::fprintf(stderr, "%s\n", choice.c_str());
    }
  }
  summary_.started = WallTimeText();
  summary_.steps_per_epoch = plan_.steps_per_epoch;
  summary_.bad_rows = data_.bad_rows;
  summary_.job_yaml = worker::JobToYaml(*job_);
  const worker::ClusterSpec& cluster = job_->cluster();
  summary_.cluster = {
      {"servers", std::to_string(cluster.servers())},
      {"shards per server", std::to_string(cluster.shards())},
      {"workers", std::to_string(cluster.workers())},
      {"virtual workers", std::to_string(cluster.virtual_workers())},
      {"threads per worker", std::to_string(cluster.threads())},
      {"transport", job_->transport()},
      {"tables", consistency.tables_text},
      {"dense variables", DensePlaceText(consistency)}};
  for (const std::string& choice : consistency.choices) {
    const size_t colon = choice.find(": ");
    summary_.cluster.emplace_back(choice.substr(0, colon),
                                  choice.substr(colon + 2));
  }
  summary_.timings.emplace_back("read and prepare the data",
                                Seconds(clock_.Now() - begin_));
  return OkStatus();
}

StatusOr<ClusterShape> JobRun::Shape(bool one_host) const {
  ClusterShape shape;
  shape.servers = job_->cluster().servers();
  shape.shards = job_->cluster().shards();
  shape.workers = job_->cluster().workers();
  shape.restarts = job_->cluster().restarts();
  if (shape.transport != "inproc" && shape.transport != "mpi") {
    shape.address_file = StrCat(out(), "/", kAddressFile);
  }
  shape.transport = job_->transport();
  shape.in_process = request_.in_process || shape.transport == "inproc";
  if (shape.in_process && shape.transport == "auto") {
    shape.transport = "inproc";
  }
  if (shape.transport == "zmq" || shape.transport == "auto") {
    const std::string& listen = job_->cluster().listen();
    StatusOr<std::string> address = comm::ListenAt(listen != "auto" ? listen
                                                   : one_host ? "127.0.0.1"
                                                              : "",
                                                   job_->cluster().port());
    if (!address.ok()) {
      return InvalidArgumentError(
          StrCat("cluster.", address.status().message()));
    }
    shape.listen = *std::move(address);
  }
  if (request_.trace) {
    shape.trace_folder = StrCat(out(), "/trace");
    SHOAL_RETURN_IF_ERROR(RemoveTraces(*storage_, shape.trace_folder));
    SHOAL_RETURN_IF_ERROR(storage_->Remove(StrCat(out(), "/trace.json")));
  }
  return shape;
}

ps::Coordinator::Options JobRun::CoordinatorOptions() {
  ps::Coordinator::Options options;
  options.model = spec_;
  options.plan = worker::MakeClusterPlan(*job_, spec_);
  options.train = plan_;
  options.num_servers = job_->cluster().servers();
  options.shards_per_server = job_->cluster().shards();
  options.num_workers = job_->cluster().workers();
  options.replicas = job_->cluster().replicas();
  options.rebalance = worker::RebalanceOf(*job_);
  options.job_text = TextForMembers(*job_);
  options.setup = worker::EncodeSetup(data_);
  if (request_.kind == RunRequest::Kind::kTrain) {
    options.checkpoint_folder = out_->checkpoints();
    options.checkpoints_kept = job_->checkpoint().keep();
    options.asynchronous_checkpoints = job_->checkpoint().asynchronous();
    options.full_checkpoint_every = job_->checkpoint().full_every();
  }
  options.restore_folder = out_->Spelled(restored_.folder);
  options.restore_step = restored_.step;
  options.restore_global_phase = restored_.global_phase;
  options.observer = this;
  options.plan_for = [this](const ps::ClusterPlan& now,
                            const std::string& tables,
                            const std::string& dense) {
    return worker::PlanWithModes(*job_, spec_, now, tables, dense);
  };
  return options;
}

// --- While it runs ---------------------------------------------------------

Status JobRun::OnStarted(int64_t step) {
  started_ = segment_start_ = last_progress_ = clock_.Now();
  summary_.timings.emplace_back("until the first step",
                                Seconds(started_ - begin_));
  if (request_.kind != RunRequest::Kind::kTrain) {
    return OkStatus();
  }
  // What an earlier run left makes way only now that this one can run.
  if (!IsS3Path(out_->checkpoints())) {
    SHOAL_RETURN_IF_ERROR(
        out_->SetAsideCheckpoints(*storage_, restored_.folder));
  }
  for (const char* report : {"/metrics.json", "/report.html"}) {
    SHOAL_RETURN_IF_ERROR(storage_->Remove(out() + report));
  }
  const Buffer run = Buffer::CopyOf(request_.run);
  SHOAL_RETURN_IF_ERROR(
      request_.run.empty()
          ? storage_->Remove(out() + kRunFile)
          : storage_->PublishFile(out() + kRunFile, {&run, 1}));
  BeginWatching(step);
  return OkStatus();
}

// What others watch while it trains.
void JobRun::BeginWatching(int64_t step) {
  progress_ = std::make_unique<worker::Progress>(
      worker::Progress::Detect(stderr), clock_);
  progress_->Start(step, plan_.total_steps, plan_.steps_per_epoch);
  Tell("shoal_step", "", static_cast<double>(step));
  Tell("shoal_steps_planned", "", static_cast<double>(plan_.total_steps));
  summary_.steps = step;
  StatusOr<std::unique_ptr<worker::EventFile>> events =
      worker::EventFile::Create(StrCat(out(), "/tensorboard"), WallTime());
  if (events.ok()) {
    events_ = *std::move(events);
  } else {
    LogWarning("no TensorBoard events are written: ",
               events.status().message());
  }
}

// The files that the lost process left go on, but for its event file: readers
// of a folder join those that are in it.
Status JobRun::OnRecovered(int64_t step, const std::string& state) {
  started_ = segment_start_ = last_progress_ = clock_.Now();
  RunState seen;
  if (!seen.ParseFromString(state)) {
    return DataLossError("what was seen of the training can't be read");
  }
  SHOAL_RETURN_IF_ERROR(early_stopping_->Restore(seen.early_stopping()));
  for (const RunState::Window& window : seen.windows()) {
    AddLoss(window.number(), window.loss_sum(), window.examples());
  }
  for (const RunState::Evaluation& in : seen.history()) {
    worker::EvalPoint point{
        .step = in.step(), .epoch = in.epoch(), .seconds = in.seconds()};
    point.result.count = in.count();
    const auto take = [](bool has, double value) {
      return has ? std::optional<double>(value) : std::nullopt;
    };
    point.result.auc = take(in.has_auc(), in.auc());
    point.result.log_loss = take(in.has_log_loss(), in.log_loss());
    point.result.accuracy = take(in.has_accuracy(), in.accuracy());
    point.result.rmse = take(in.has_rmse(), in.rmse());
    summary_.test = point.result;
    summary_.history.push_back(point);
  }
  seconds_before_ =
      summary_.history.empty() ? 0 : summary_.history.back().seconds;
  summary_.examples += seen.examples();
  summary_.seconds = seen.seconds();
  summary_.checkpoint = seen.checkpoint();
  summary_.outcome = seen.outcome();
  std::fprintf(stderr, "coordinator: goes on with the job at step %lld\n",
               static_cast<long long>(step));
  BeginWatching(step);
  summary_.steps = std::max(summary_.steps, seen.steps());
  return OkStatus();
}

std::string JobRun::State() {
  EndSegment();
  RunState state;
  state.set_early_stopping(early_stopping_->ToJson());
  for (size_t w = 0; w < windows_.size(); ++w) {
    if (windows_[w].examples > 0) {
      RunState::Window& window = *state.add_windows();
      window.set_number(static_cast<int64_t>(w));
      window.set_loss_sum(windows_[w].loss_sum);
      window.set_examples(windows_[w].examples);
    }
  }
  for (const worker::EvalPoint& point : summary_.history) {
    RunState::Evaluation& out = *state.add_history();
    out.set_step(point.step);
    out.set_epoch(point.epoch);
    out.set_seconds(point.seconds);
    out.set_count(point.result.count);
    if (point.result.auc.has_value()) {
      out.set_auc(*point.result.auc);
    }
    if (point.result.log_loss.has_value()) {
      out.set_log_loss(*point.result.log_loss);
    }
    if (point.result.accuracy.has_value()) {
      out.set_accuracy(*point.result.accuracy);
    }
    if (point.result.rmse.has_value()) {
      out.set_rmse(*point.result.rmse);
    }
  }
  state.set_steps(summary_.steps);
  state.set_examples(summary_.examples);
  state.set_seconds(summary_.seconds);
  state.set_checkpoint(summary_.checkpoint);
  state.set_outcome(summary_.outcome);
  return state.SerializeAsString();
}

void JobRun::Tell(std::string_view metric, std::string_view labels,
                  double value) {
  if (request_.board != nullptr) {
    request_.board->Set(metric, labels, value);
  }
}

void JobRun::AddLoss(int64_t window, double loss_sum, int64_t examples) {
  if (window < 0) {
    return;
  }
  if (static_cast<size_t>(window) >= windows_.size()) {
    windows_.resize(static_cast<size_t>(window) + 1);
  }
  Window& to = windows_[static_cast<size_t>(window)];
  to.loss_sum += loss_sum;
  to.examples += examples;
}

void JobRun::OnProgress(int64_t step, int64_t window, double loss_sum,
                        int64_t examples) {
  AddLoss(window, loss_sum, examples);
  last_progress_ = clock_.Now();
  summary_.examples += examples;
  summary_.steps = std::max(summary_.steps, step);
  const Window& current = windows_[static_cast<size_t>(window)];
  summary_.train_loss =
      current.loss_sum /
      static_cast<double>(std::max<int64_t>(current.examples, 1));
  Tell("shoal_step", "", static_cast<double>(summary_.steps));
  Tell("shoal_examples_total", "", static_cast<double>(summary_.examples));
  Tell("shoal_train_loss", "", summary_.train_loss.value_or(0));
  if (progress_ != nullptr) {
    progress_->Update({.step = summary_.steps,
                       .examples = summary_.examples,
                       .loss = summary_.train_loss});
  }
}

void JobRun::OnStaleness(const Histogram& staleness) {
  summary_.staleness = staleness;
  if (request_.board != nullptr) {
    request_.board->Set("shoal_staleness_clocks", "", staleness);
  }
}

void JobRun::OnModeChanged(int64_t step, const std::string& text) {
  summary_.mode += StrCat(", from step ", step, " ", text);
  if (summary_.dense != "allreduce") {
    summary_.dense = summary_.mode;
  }
  const std::string note = StrCat("from step ", step, " on: ", text);
  if (progress_ != nullptr) {
    progress_->Note(note);
  } else {
    std::fprintf(stderr, "%s\n", note.c_str());
  }
}

StatusOr<bool> JobRun::OnEvaluated(int64_t step, std::span<const float> scores,
                                   std::span<const float> labels) {
  if (request_.kind == RunRequest::Kind::kPredict) {
    scores_.assign(scores.begin(), scores.end());
    labels_.assign(labels.begin(), labels.end());
    return false;
  }
  EndSegment();
  SHOAL_ASSIGN_OR_RETURN(
      const worker::EvalResult result,
      worker::Evaluate(job_->model().task(), job_->model().classes(), scores,
                       labels));
  summary_.test = result;
  const double epoch =
      static_cast<double>(step) / static_cast<double>(plan_.steps_per_epoch);
  // Evaluated anew by a coordinator in the place of a lost one.
  std::erase_if(summary_.history, [step](const worker::EvalPoint& point) {
    return point.step >= step;
  });
  summary_.history.push_back(
      {.step = step,
       .epoch = epoch,
       .seconds = seconds_before_ + ToSeconds(clock_.Now() - started_),
       .result = result});
  for (const auto& [name, value] : worker::NamedMetrics(result)) {
    Tell("shoal_test_metric", StrCat("metric=\"", name, "\""), value);
  }
  char head[64];
  std::snprintf(head, sizeof(head), "epoch %.3g, step %lld: test ", epoch,
                static_cast<long long>(step));
  const std::string text = head + MetricsText(result);
  if (progress_ != nullptr) {
    progress_->Note(text);
  } else {
    std::fprintf(stderr, "%s\n", text.c_str());
  }
  if (events_ != nullptr) {
    Status status;
    for (const auto& [name, value] : worker::NamedMetrics(result)) {
      status =
          events_->AddScalar(StrCat("test/", name), step, value, WallTime());
    }
    if (status.ok()) {
      status = events_->Flush();
    }
    if (!status.ok()) {
      LogWarning("TensorBoard events end here: ", status.message());
      events_.reset();
    }
  }
  segment_start_ = clock_.Now();
  SHOAL_ASSIGN_OR_RETURN(const bool stop, early_stopping_->Add(step, result));
  if (stop) {
    summary_.outcome =
        StrCat("stopped early at step ", step, ": ", early_stopping_->Reason());
  }
  return stop;
}

// Counts the time since the last evaluation or checkpoint in which examples
// were trained on.
void JobRun::EndSegment() {
  if (last_progress_ > segment_start_) {
    summary_.seconds += ToSeconds(last_progress_ - segment_start_);
    segment_start_ = last_progress_;
  }
}

std::map<std::string, std::string> JobRun::CheckpointTexts() {
  return launch::CheckpointTexts(*job_, data_.fitted, data_.schema,
                                 early_stopping_->ToJson());
}

void JobRun::OnSaved(int64_t step, const std::string& folder, bool stopped) {
  Tell("shoal_checkpoint_step", "", static_cast<double>(step));
  summary_.checkpoint = folder;
  if (stopped) {
    EndSegment();
    segment_start_ = clock_.Now();
  }
}

void JobRun::OnNotSaved(const Status& why) {
  std::fprintf(stderr,
               "shoal: %s; this one is left out, and training stops for the "
               "next one\n",
               std::string(why.message()).c_str());
}

// --- Its end ---------------------------------------------------------------

Status JobRun::Finish(const Status& outcome) {
  EndSegment();
  if (progress_ != nullptr) {
    if (outcome.ok()) {
      progress_->Finish();
    }
    progress_.reset();
  }
  summary_.epochs = static_cast<double>(summary_.steps) /
                    static_cast<double>(plan_.steps_per_epoch);
  if (!outcome.ok()) {
    summary_.outcome = StrCat("failed: ", outcome.message());
  } else if (summary_.outcome.empty()) {
    summary_.outcome = "finished";
  }
  const bool trained =
      request_.kind == RunRequest::Kind::kTrain && started_ != Time();
  if (request_.kind == RunRequest::Kind::kPredict ||
      (!outcome.ok() && !trained)) {
    return outcome;
  }
  const Status written = WriteReports(outcome.ok());
  return outcome.ok() ? written : outcome;
}

Status JobRun::WriteReports(bool finished) {
  // A run that has failed does not wait for a store too.
  if (!summary_.checkpoint.empty() &&
      (finished || !IsS3Path(summary_.checkpoint))) {
    SHOAL_ASSIGN_OR_RETURN(
        summary_.digest, ps::DigestCheckpoint(*storage_, summary_.checkpoint));
  }
  const int64_t every = job_->train().log_every_steps();
  for (size_t w = 0; w < windows_.size(); ++w) {
    if (windows_[w].examples == 0) {
      continue;
    }
    const int64_t step =
        std::min<int64_t>(static_cast<int64_t>(w + 1) * every, summary_.steps);
    const double loss =
        windows_[w].loss_sum / static_cast<double>(windows_[w].examples);
    summary_.losses.push_back({.step = step, .loss = loss});
    if (events_ != nullptr) {
      SHOAL_RETURN_IF_ERROR(
          events_->AddScalar("train/loss", step, loss, WallTime()));
    }
  }
  if (events_ != nullptr) {
    SHOAL_RETURN_IF_ERROR(events_->Flush());
  }
  if (request_.kind == RunRequest::Kind::kEvaluate) {
    return worker::WriteMetricsJson(*storage_, StrCat(out(), "/eval.json"),
                                    summary_);
  }
  SHOAL_RETURN_IF_ERROR(worker::WriteMetricsJson(
      *storage_, StrCat(out(), "/metrics.json"), summary_));
  return worker::WriteReportHtml(*storage_, StrCat(out(), "/report.html"),
                                 summary_);
}

}  // namespace shoal::launch
