#ifndef SHOAL_WORKER_OPEN_WORKER_H_
#define SHOAL_WORKER_OPEN_WORKER_H_

#include <memory>

#include "base/buffer.h"
#include "base/device.h"
#include "base/status.h"
#include "ps/member.h"
#include "ps/rebalance.h"
#include "ps/train_plan.h"
#include "worker/input/prepare.h"
#include "worker/worker_node.h"

namespace shoal::worker {

class JobSpec;

// What the coordinator hands to every worker, opaque to the parameter server.
Buffer EncodeSetup(const PreparedData& data);

// A worker's data and model, from what it was told when it joined. Blocks.
// Errors: those of reading the data; kFailedPrecondition when the model that
// this program builds is not the one that the servers hold.
StatusOr<WorkerJob> OpenWorker(const ps::JoinResult& joined);

// The device that this worker computes on, the first of several, opened once
// more for its collective. Blocks. Errors: those of OpenDevices().
StatusOr<std::shared_ptr<Device>> OpenWorkerDevice(
    const ps::JoinResult& joined);

// The course of a job over `train_rows` training examples. `has_test`: there
// is something to evaluate on.
ps::TrainPlan MakeTrainPlan(const JobSpec& job, int64_t train_rows,
                            bool has_test);

// What servers are to have evenly of: cluster.rebalance.
ps::RebalanceBy RebalanceOf(const JobSpec& job);

ps::ClusterPlan MakeClusterPlan(const JobSpec& job, const ps::ModelSpec& model);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_OPEN_WORKER_H_
