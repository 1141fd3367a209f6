#ifndef SHOAL_LAUNCH_RESTORED_JOB_H_
#define SHOAL_LAUNCH_RESTORED_JOB_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/storage.h"
#include "worker/input/fitted.h"
#include "worker/input/record_schema.h"

namespace shoal::worker {
class JobSpec;
}  // namespace shoal::worker

namespace shoal::launch {

// What a checkpoint tells of the job that wrote it, beside the state of its
// servers. What it does not tell is empty.
struct RestoredJob {
  std::string folder;  // step-N
  int64_t step = 0;
  std::optional<worker::FittedTransforms> fitted;
  std::optional<worker::RecordSchema> schema;
  std::string early_stopping;  // of EarlyStopping::ToJson()
  std::string global_phase;    // see ps::kGlobalPhaseText

  // Errors: kFailedPrecondition (the data has other features than the model
  // was trained on).
  Status CheckSchema(const worker::RecordSchema& data) const;
};

// Opens the checkpoint that `path` means for a run of `job`.
// Errors: kNotFound (there is none), kDataLoss (it is damaged),
// kFailedPrecondition (it is of another model: names what differs).
StatusOr<RestoredJob> OpenCheckpoint(Storage& storage, const std::string& path,
                                     const worker::JobSpec& job);

// The shapes of the dense variables by name, as the job that wrote the
// checkpoint in `folder` has them; none if the checkpoint does not tell.
// Errors: those of ps::ReadManifest() and worker::BuildModel().
StatusOr<std::map<std::string, std::vector<int64_t>>> VariableShapes(
    Storage& storage, const std::string& folder);

// The texts of a checkpoint that OpenCheckpoint() reads.
std::map<std::string, std::string> CheckpointTexts(
    const worker::JobSpec& job, const worker::FittedTransforms& fitted,
    const worker::RecordSchema& schema, const std::string& early_stopping);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_RESTORED_JOB_H_
