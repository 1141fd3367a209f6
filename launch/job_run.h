#ifndef SHOAL_LAUNCH_JOB_RUN_H_
#define SHOAL_LAUNCH_JOB_RUN_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/storage.h"
#include "base/time.h"
#include "launch/cluster.h"
#include "launch/out_folder.h"
#include "launch/restored_job.h"
#include "launch/status_board.h"
#include "ps/coordinator.h"
#include "worker/input/prepare.h"
#include "worker/metrics/early_stopping.h"
#include "worker/report/progress.h"
#include "worker/report/tensorboard.h"
#include "worker/report/training_summary.h"

namespace shoal::worker {
class JobSpec;
}  // namespace shoal::worker

namespace shoal::launch {

// What a user asks for on the command line.
struct RunRequest {
  enum class Kind { kTrain, kEvaluate, kPredict };
  Kind kind = Kind::kTrain;
  std::string job_path;
  std::vector<std::string> overrides;  // KEY=VALUE
  std::string out;                     // folder; empty: out/<name of the job>
  bool in_process = false;
  bool trace = false;
  int expect_ranks = 0;   // that mpirun must have started; 0: any number
  std::string mpi_state;  // file for an MpiState; empty: nobody asks
  // Names the tries of one training: each goes on from the newest checkpoint
  // that an earlier one left in the folder, if any. Empty: starts anew.
  std::string run;
  // What a coordinator that is one of several does with `out`; else its kind
  // decides.
  std::optional<OutUse> out_use;
  StatusBoard* board = nullptr;            // told of the training, if any
  std::string checkpoint;                  // to evaluate or predict with
  std::vector<std::string> predict_files;  // patterns
};

// The job as its members get it, without what is a coordinator's own: where it
// listens and where its state is. Other coordinators may go on with it.
std::string TextForMembers(const worker::JobSpec& job);

// One run of a job as the process of its coordinator sees it: reads the job,
// prepares the data, watches the training, and writes what is left of it:
// metrics.json, report.html, event files, the trace.
//
// Its callbacks run on the coordinator's thread, the rest on the caller's.
class JobRun : public ps::JobObserver {
 public:
  // Blocks while the data is prepared. Errors: whatever is wrong with the job,
  // its data or the checkpoint.
  static StatusOr<std::unique_ptr<JobRun>> Prepare(
      const RunRequest& request,
      std::unique_ptr<Storage> storage = CreateStorage());
  ~JobRun() override;

  const worker::JobSpec& job() const { return *job_; }
  // `one_host`: all its processes run on this host.
  // Errors: kInvalidArgument (cluster.listen).
  StatusOr<ClusterShape> Shape(bool one_host) const;
  ps::Coordinator::Options CoordinatorOptions();

  // Ends the run: writes reports for what `outcome` says, and returns it (or
  // the first error of its own).
  Status Finish(const Status& outcome);
  // From now on files are changed through `storage` alone.
  void UseStorage(std::unique_ptr<Storage> storage) {
    storage_ = std::move(storage);
  }
  // Instead of Finish(), where the job goes on under another coordinator.
  void LeaveToOthers() { out_->LeaveData(); }

  // After a prediction: a score per row ([classes] of them), in the order of
  // the rows without the bad ones; `labels` NaN where there was none.
  const std::vector<float>& scores() const { return scores_; }
  const std::vector<float>& labels() const { return labels_; }
  const worker::PreparedData& data() const { return data_; }
  const RestoredJob& restored() const { return restored_; }
  const worker::TrainingSummary& summary() const { return summary_; }
  const std::string& out() const { return out_->path(); }

  Status OnStarted(int64_t step) override;
  Status OnRecovered(int64_t step, const std::string& state) override;
  std::string State() override;
  void OnProgress(int64_t step, int64_t window, double loss_sum,
                  int64_t examples) override;
  void OnStaleness(const Histogram& staleness) override;
  void OnModeChanged(int64_t step, const std::string& text) override;
  StatusOr<bool> OnEvaluated(int64_t step, std::span<const float> scores,
                             std::span<const float> labels) override;
  std::map<std::string, std::string> CheckpointTexts() override;
  void OnSaved(int64_t step, const std::string& folder, bool stopped) override;
  void OnNotSaved(const Status& why) override;

 private:
  JobRun(const RunRequest& request, std::unique_ptr<Storage> storage);
  Status Load();
  Status MakeWayInStore();
  StatusOr<std::string> OwnCheckpoint();
  Status PrepareData();
  Status BuildSpec();
  void Tell(std::string_view metric, std::string_view labels, double value);
  void AddLoss(int64_t window, double loss_sum, int64_t examples);
  void EndSegment();
  void BeginWatching(int64_t step);
  Status WriteReports(bool finished);

  RunRequest request_;
  SystemClock clock_;
  std::unique_ptr<Storage> storage_;
  std::unique_ptr<worker::JobSpec> job_;
  std::unique_ptr<OutFolder> out_;
  worker::PreparedData data_;
  RestoredJob restored_;
  ps::ModelSpec spec_;
  ps::TrainPlan plan_;

  Time begin_;                 // of the run
  Time started_;               // of the training
  double seconds_before_ = 0;  // of a process that was lost
  Time segment_start_;         // of the training since the last pause
  Time last_progress_;
  std::unique_ptr<worker::Progress> progress_;
  std::unique_ptr<worker::EventFile> events_;
  worker::TrainingSummary summary_;
  struct Window {
    double loss_sum = 0;
    int64_t examples = 0;
  };
  std::vector<Window> windows_;
  std::optional<worker::EarlyStopping> early_stopping_;
  std::vector<float> scores_;
  std::vector<float> labels_;
};

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_JOB_RUN_H_
