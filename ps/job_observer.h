#ifndef SHOAL_PS_JOB_OBSERVER_H_
#define SHOAL_PS_JOB_OBSERVER_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "base/histogram.h"
#include "base/status.h"

namespace shoal::ps {

// What the coordinator tells whoever runs the job; called on its thread.
class JobObserver {
 public:
  virtual ~JobObserver() = default;

  // All members are there; training starts at `step`. An error ends the job.
  virtual Status OnStarted(int64_t step) = 0;

  // Instead, of a job that an earlier coordinator led until it was lost;
  // `state` is what State() gave there when it was last kept.
  virtual Status OnRecovered(int64_t step, const std::string& state) = 0;

  // What OnRecovered() of another process needs to go on; opaque here.
  virtual std::string State() = 0;

  // Training has reached `step`; `examples` more were seen, whose losses sum to
  // `loss_sum`, all of the steps of `window` (see Options::log_every_steps).
  virtual void OnProgress(int64_t step, int64_t window, double loss_sum,
                          int64_t examples) = 0;

  // Of all gradients of the training so far, in clocks, see ps/staleness.h;
  // outside sync.
  virtual void OnStaleness(const Histogram& staleness) = 0;

  // From `step` on the job is in another mode, which `text` names; or was, when
  // a coordinator in the place of a lost one goes on.
  virtual void OnModeChanged(int64_t step, const std::string& text) = 0;

  // Scores and labels of the whole test part at `step`, in no fixed order:
  // labels [n], scores [n] or [n, classes]. True ends the training early.
  virtual StatusOr<bool> OnEvaluated(int64_t step,
                                     std::span<const float> scores,
                                     std::span<const float> labels) = 0;

  // What a checkpoint written now keeps beside the state of the servers: see
  // Manifest::texts.
  virtual std::map<std::string, std::string> CheckpointTexts() = 0;

  // `stopped`: training has waited until it was written.
  virtual void OnSaved(int64_t step, const std::string& folder,
                       bool stopped) = 0;
  // Training has gone on without it, and waits for the next one.
  virtual void OnNotSaved(const Status& why) = 0;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_JOB_OBSERVER_H_
