#include "worker/open_worker.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/strcat.h"
#include "base/thread_pool.h"
#include "worker/consistency.h"
#include "worker/job.h"
#include "worker/job.pb.h"
#include "worker/model.h"

namespace shoal::worker {
namespace {

// Of consistency.staleness.
constexpr int64_t kDefaultStaleness = 4;

void PartToSetup(const PreparedPart& part, WorkerSetup::Part& out) {
  out.set_path(part.path);
  out.set_begin(part.rows.begin);
  out.set_end(part.rows.end);
  out.set_modulus(part.rows.modulus);
  out.set_part(part.rows.part);
  out.set_inverted(part.rows.inverted);
  out.set_skip(part.rows.skip);
  out.set_count(part.rows.count);
}

StatusOr<Examples> OpenPart(const WorkerSetup::Part& part) {
  if (part.path().empty()) {
    return Examples();
  }
  return Examples::Open(part.path(), {.begin = part.begin(),
                                      .end = part.end(),
                                      .modulus = part.modulus(),
                                      .part = part.part(),
                                      .inverted = part.inverted(),
                                      .skip = part.skip(),
                                      .count = part.count()});
}

Status CheckSameModel(const ps::ModelSpec& built, const ps::ModelSpec& held) {
  const auto differ = [](const std::string& what) {
    return FailedPreconditionError(
        StrCat("the servers hold another model than this worker builds (", what,
               "): is it the same version of the program?"));
  };
  if (built.variables.size() != held.variables.size() ||
      built.tables.size() != held.tables.size() ||
      built.groups != held.groups) {
    return differ("number of variables or tables");
  }
  for (size_t i = 0; i < built.variables.size(); ++i) {
    if (built.variables[i].name != held.variables[i].name ||
        built.variables[i].dims != held.variables[i].dims) {
      return differ(held.variables[i].name);
    }
  }
  for (size_t i = 0; i < built.tables.size(); ++i) {
    if (built.tables[i].name != held.tables[i].name ||
        built.tables[i].dim != held.tables[i].dim) {
      return differ(held.tables[i].name);
    }
  }
  return OkStatus();
}

DeviceOptions DeviceOptionsOf(const JobSpec& job,
                              const ps::JoinResult& joined) {
  return {.name = DeviceOf(job, joined.index),
          .rank = joined.local_index,
          .count = job.devices().per_worker(),
          .fast_math = job.devices().math() == "fast",
          .seed = job.seed()};
}

}  // namespace

Buffer EncodeSetup(const PreparedData& data) {
  WorkerSetup setup;
  PartToSetup(data.train, *setup.mutable_train());
  PartToSetup(data.test, *setup.mutable_test());
  setup.set_label_mean(data.label_mean);
  return Buffer::CopyOf(setup.SerializeAsString());
}

StatusOr<WorkerJob> OpenWorker(const ps::JoinResult& joined) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<JobSpec> job,
                         ParseSerializedJob(joined.job_text));
  WorkerSetup setup;
  if (!setup.ParseFromArray(joined.setup.data(),
                            static_cast<int>(joined.setup.size()))) {
    return InvalidArgumentError("the worker's setup can't be read");
  }
  SHOAL_ASSIGN_OR_RETURN(Examples train, OpenPart(setup.train()));
  SHOAL_ASSIGN_OR_RETURN(Examples test, OpenPart(setup.test()));
  const Examples& any = train.num_rows() > 0 ? train : test;
  if (any.num_rows() == 0) {
    return InvalidArgumentError(
        "there is no example, neither to train on "
        "nor to evaluate");
  }
  SHOAL_ASSIGN_OR_RETURN(ModelGraph built,
                         BuildModel(*job, any.schema(), setup.label_mean()));
  SHOAL_RETURN_IF_ERROR(CheckSameModel(built.spec, joined.model));
  const auto model = std::make_shared<const ModelGraph>(std::move(built));

  WorkerJob out;
  out.source = std::make_unique<StepSource>(
      StepSource::Options{.train = train,
                          .test = test,
                          .seed = job->seed(),
                          .shuffle = job->data().shuffle(),
                          .batch_size = job->train().batch_size(),
                          .virtual_workers = joined.plan.virtual_workers,
                          .virtual_begin = joined.virtual_begin,
                          .virtual_end = joined.virtual_end,
                          .groups = model->groups});
  const DevicesSpec& devices = job->devices();
  const int shares = joined.virtual_end - joined.virtual_begin;
  if (devices.per_worker() > shares) {
    return InvalidArgumentError(
        StrCat("devices.per_worker is ", devices.per_worker(), ", but worker ",
               joined.index, " has ", shares,
               " share(s) of a batch, so some devices would idle: raise "
               "cluster.virtual_workers (",
               job->cluster().virtual_workers(), " for ", joined.num_workers,
               " workers), or lower devices.per_worker"));
  }
  SHOAL_ASSIGN_OR_RETURN(
      out.runner, ModelRunner::Create(
                      model, {.share_size_max = out.source->share_size_max(),
                              .threads = job->cluster().threads(),
                              .device = DeviceOptionsOf(*job, joined)}));
  out.log_every_steps = job->train().log_every_steps();
  out.learning_rate_factor =
      [plan = MakeTrainPlan(*job, train.num_rows(), test.num_rows() > 0)](
          int64_t step) { return plan.LearningRateFactor(step); };
  return out;
}

StatusOr<std::shared_ptr<Device>> OpenWorkerDevice(
    const ps::JoinResult& joined) {
  struct Owner {
    ThreadPool pool{1};  // Nothing is computed on it.
    std::vector<std::unique_ptr<Device>> devices;
  };
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<JobSpec> job,
                         ParseSerializedJob(joined.job_text));
  auto owner = std::make_shared<Owner>();
  SHOAL_ASSIGN_OR_RETURN(
      owner->devices, OpenDevices(DeviceOptionsOf(*job, joined), owner->pool));
  return std::shared_ptr<Device>(owner, owner->devices.front().get());
}

ps::TrainPlan MakeTrainPlan(const JobSpec& job, int64_t train_rows,
                            bool has_test) {
  const TrainSpec& train = job.train();
  ps::TrainPlan plan;
  plan.steps_per_epoch = std::max<int64_t>(
      1, (train_rows + train.batch_size() - 1) / train.batch_size());
  plan.total_steps = plan.steps_per_epoch * train.epochs();
  if (train.max_steps() > 0) {
    plan.total_steps = std::min(plan.total_steps, train.max_steps());
  }
  plan.has_test = has_test;
  plan.eval_every_epoch = train.eval().every_epoch();
  plan.eval_every_steps = train.eval().every_steps();
  plan.checkpoint_every_steps = job.checkpoint().every_steps();
  const ScheduleSpec& schedule = train.schedule();
  using Kind = ps::Schedule::Kind;
  const std::string& kind = schedule.kind();
  plan.schedule = {.kind = kind == "linear" || kind == "polynomial"
                               ? Kind::kPolynomial
                           : kind == "cosine"      ? Kind::kCosine
                           : kind == "step"        ? Kind::kStep
                           : kind == "exponential" ? Kind::kExponential
                                                   : Kind::kConstant,
                   .warmup_steps = schedule.warmup_steps(),
                   .final_factor = schedule.final(),
                   .power = kind == "polynomial" ? schedule.power() : 1,
                   .gamma = schedule.gamma(),
                   .every_steps = schedule.every_steps()};
  return plan;
}

namespace {

ps::GlobalSettings GlobalOf(const TrainSpec& train) {
  const LossScaleSpec& scale = train.loss_scale();
  return {.clip_norm = train.clip_global_norm(),
          .loss_scale = scale.kind() == "none" ? 0 : scale.scale(),
          .dynamic_scale = scale.kind() == "dynamic",
          .growth_factor = scale.growth_factor(),
          .backoff_factor = scale.backoff_factor(),
          .growth_interval = scale.growth_interval()};
}

// 0 stays 0, which is no bound.
int64_t PerShard(int64_t per_server, int shards) {
  return per_server / shards + (per_server % shards != 0 ? 1 : 0);
}

}  // namespace

ps::RebalanceBy RebalanceOf(const JobSpec& job) {
  const std::string& by = job.cluster().rebalance();
  return by == "off"    ? ps::RebalanceBy::kOff
         : by == "load" ? ps::RebalanceBy::kLoad
                        : ps::RebalanceBy::kBytes;
}

ps::ClusterPlan MakeClusterPlan(const JobSpec& job,
                                const ps::ModelSpec& model) {
  const Consistency consistency = ChooseConsistency(job, model);
  return {.mode = consistency.tables,
          .dense = consistency.dense,
          .staleness = job.consistency().has_staleness()
                           ? job.consistency().staleness()
                           : kDefaultStaleness,
          .virtual_workers = job.cluster().virtual_workers(),
          .backup_workers = job.cluster().backup_workers(),
          .timeout = FromSeconds(job.cluster().timeout_seconds()),
          .collective = job.cluster().collective() == "auto"
                            ? "transport"
                            : job.cluster().collective(),
          .allreduce = {job.cluster().allreduce().begin(),
                        job.cluster().allreduce().end()},
          .memory_per_shard =
              job.cluster().memory_per_server() / job.cluster().shards(),
          .spill_folder = job.cluster().spill_folder(),
          .move_bytes_per_second = PerShard(
              job.cluster().move_bytes_per_second(), job.cluster().shards()),
          .repair_bytes_per_second = PerShard(
              job.cluster().repair_bytes_per_second(), job.cluster().shards()),
          .global = GlobalOf(job.train()),
          .incremental_checkpoints = job.checkpoint().full_every() > 1};
}

}  // namespace shoal::worker
