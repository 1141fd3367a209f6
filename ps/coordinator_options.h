#ifndef SHOAL_PS_COORDINATOR_OPTIONS_H_
#define SHOAL_PS_COORDINATOR_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/buffer.h"
#include "base/status.h"
#include "base/time.h"
#include "ps/durable_state.h"
#include "ps/job_observer.h"
#include "ps/model_spec.h"
#include "ps/rebalance.h"
#include "ps/train_plan.h"

namespace shoal::ps {

// What a Coordinator is made of.
struct CoordinatorOptions {
  ModelSpec model;
  ClusterPlan plan;
  TrainPlan train;
  int num_servers = 1;
  int shards_per_server = 1;
  int num_workers = 1;
  // Of every slot, as far as there are servers. With more, one may be lost.
  int replicas = 1;
  RebalanceBy rebalance = RebalanceBy::kBytes;
  std::string job_text;  // handed to every member
  Buffer setup;          // handed to workers, opaque here
  // Checkpoints are folders `step-N` in here; empty: none are written.
  std::string checkpoint_folder;
  int checkpoints_kept = 3;
  bool asynchronous_checkpoints = true;
  // Each so many-th checkpoint has all rows, those between what changed since
  // the one before.
  int full_checkpoint_every = 1;
  std::string restore_folder;  // a `step-N` folder to start from, or empty
  int64_t restore_step = 0;
  // Of that checkpoint's text kGlobalPhaseText; empty: it has none.
  std::string restore_global_phase;
  // How long members may take to join, and how long a job waits for another
  // worker in place of one that was lost; zero ends the job at once, as it
  // ends where workers hold the dense variables.
  Duration join_within = std::chrono::seconds(60);
  Duration replace_within = Duration::zero();
  JobObserver* observer = nullptr;  // must outlive the coordinator
  // For what another coordinator needs to go on in the place of this one, and
  // this one goes on from; until the job ends. None: who loses it ends.
  std::string state_file;
  std::shared_ptr<StateStore> state_store;  // instead of a file
  // Of the tries of one training; a state that another run left is of nobody
  // any more. Empty: one that is there must be of this job.
  std::string run;
  // The plan of the job with other modes, see wire::SetMode; null: it has
  // none. Errors: why the job can't have them.
  std::function<StatusOr<ClusterPlan>(const ClusterPlan& now,
                                      const std::string& tables,
                                      const std::string& dense)>
      plan_for;
  // Called with how many servers and workers there are to be, when that
  // changes; whoever runs the job starts those that are not there. Those that
  // are to go end by themselves. May be empty: others start them.
  std::function<void(int servers, int workers)> wanted;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_COORDINATOR_OPTIONS_H_
