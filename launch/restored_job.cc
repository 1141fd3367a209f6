#include "launch/restored_job.h"

#include <memory>
#include <utility>

#include "base/strcat.h"
#include "ps/checkpoint_format.h"
#include "ps/coordinator.h"
#include "worker/job.h"
#include "worker/job.pb.h"
#include "worker/model.h"

namespace shoal::launch {
namespace {

constexpr char kFitted[] = "fitted";
constexpr char kJob[] = "job";
constexpr char kSchema[] = "schema";
constexpr char kEarlyStopping[] = "early_stopping";

// Takes `text` of the manifest through `read`, if it is there.
template <typename T, typename Read>
Status Take(const ps::Manifest& manifest, const char* text, Read read,
            std::optional<T>* out) {
  const auto it = manifest.texts.find(text);
  if (it == manifest.texts.end()) {
    return OkStatus();
  }
  SHOAL_ASSIGN_OR_RETURN(*out, read(it->second));
  return OkStatus();
}

StatusOr<std::unique_ptr<worker::JobSpec>> ParseJobOf(const std::string& folder,
                                                      const std::string& text) {
  return worker::ParseJob(text, StrCat(folder, ": its job"), {});
}

}  // namespace

Status RestoredJob::CheckSchema(const worker::RecordSchema& data) const {
  if (!schema.has_value()) {
    return OkStatus();
  }
  worker::RecordSchema trained = *schema;
  trained.labelled = data.labelled;  // Predictions do without.
  if (trained == data) {
    return OkStatus();
  }
  return FailedPreconditionError(
      StrCat(folder, ": its model was trained on the features ",
             worker::SchemaToJson(trained), ", but the data has ",
             worker::SchemaToJson(data)));
}

StatusOr<RestoredJob> OpenCheckpoint(Storage& storage, const std::string& path,
                                     const worker::JobSpec& job) {
  RestoredJob restored;
  SHOAL_ASSIGN_OR_RETURN(restored.folder, ps::FindCheckpoint(storage, path));
  SHOAL_ASSIGN_OR_RETURN(const ps::Manifest manifest,
                         ps::ReadManifest(storage, restored.folder));
  restored.step = manifest.step;
  if (const auto text = manifest.texts.find(kJob);
      text != manifest.texts.end()) {
    SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<worker::JobSpec> then,
                           ParseJobOf(restored.folder, text->second));
    SHOAL_RETURN_IF_ERROR(
        worker::CheckSameModel(*then, job).WithPrefix(restored.folder));
  }
  Status status =
      Take(manifest, kFitted, worker::FittedFromJson, &restored.fitted);
  if (status.ok()) {
    status = Take(manifest, kSchema, worker::SchemaFromJson, &restored.schema);
  }
  if (!status.ok()) {
    return status.WithPrefix(restored.folder);
  }
  if (restored.schema.has_value() && job.data().format() != "record" &&
      restored.schema->features != worker::FeaturesDigest(job)) {
    return FailedPreconditionError(
        StrCat(restored.folder,
               ": its model was trained on other data.features or "
               "data.hash_buckets; use the job file that the data of its "
               "training was made with"));
  }
  if (const auto text = manifest.texts.find(kEarlyStopping);
      text != manifest.texts.end()) {
    restored.early_stopping = text->second;
  }
  if (const auto text = manifest.texts.find(ps::kGlobalPhaseText);
      text != manifest.texts.end()) {
    restored.global_phase = text->second;
  }
  return restored;
}

StatusOr<std::map<std::string, std::vector<int64_t>>> VariableShapes(
    Storage& storage, const std::string& folder) {
  std::map<std::string, std::vector<int64_t>> shapes;
  SHOAL_ASSIGN_OR_RETURN(const ps::Manifest manifest,
                         ps::ReadManifest(storage, folder));
  const auto job_text = manifest.texts.find(kJob);
  const auto schema_text = manifest.texts.find(kSchema);
  if (job_text == manifest.texts.end() || schema_text == manifest.texts.end()) {
    return shapes;
  }
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<worker::JobSpec> job,
                         ParseJobOf(folder, job_text->second));
  SHOAL_ASSIGN_OR_RETURN(const worker::RecordSchema schema,
                         worker::SchemaFromJson(schema_text->second));
  // The mean of the labels is for first values alone.
  SHOAL_ASSIGN_OR_RETURN(worker::ModelGraph model,
                         worker::BuildModel(*job, schema, 0.5));
  for (ps::VariableSpec& variable : model.spec.variables) {
    shapes[variable.name] = std::move(variable.dims);
  }
  return shapes;
}

std::map<std::string, std::string> CheckpointTexts(
    const worker::JobSpec& job, const worker::FittedTransforms& fitted,
    const worker::RecordSchema& schema, const std::string& early_stopping) {
  return {{kFitted, worker::FittedToJson(fitted)},
          {kJob, worker::JobToYaml(job)},
          {kSchema, worker::SchemaToJson(schema)},
          {kEarlyStopping, early_stopping}};
}

}  // namespace shoal::launch
