#ifndef SHOAL_PS_GLOBAL_PHASE_H_
#define SHOAL_PS_GLOBAL_PHASE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "ps/exact_sum.h"
#include "ps/model_spec.h"
#include "ps/optimizer.h"

namespace shoal::ps {

// Sums of squares over one dense variable.
struct LayerSums {
  ExactSum values;
  ExactSum updates;  // see NormPhase
};

// What a shard tells the step leader of the gradients that it has prepared, and
// all of them together: exact, so that neither the number of shards nor an
// order shows in them.
struct StepNorms {
  bool finite = true;  // all gradients are; else the rest says little
  ExactSum gradients;  // of their squares
  std::vector<LayerSums> layers;  // by variable; none: nobody asks

  void Add(const StepNorms& other);
};

// What the step leader decides of a step, for all replicas of all slots.
struct StepDecision {
  int64_t step = 0;
  double learning_rate_factor = 1;
  bool skip = false;                 // nothing changes, but the step is done
  double gradient_scale = 1;         // of every gradient, before any optimizer
  std::vector<double> trust_ratios;  // by variable; none: 1
  double next_loss_scale = 1;        // of the step after it
  // What the next decision goes by, so that another leader may take it.
  int64_t good_steps = 0;  // since the loss scale changed
  int64_t steps_skipped = 0;
  int64_t skipped_in_turn = 0;
};

// The step leader's part of what needs all gradients of a step: the bound on
// their norm, the ratios of layers, and steps that are skipped because a
// gradient is not finite. Thread-compatible.
class GlobalPhase {
 public:
  // Errors: kInvalidArgument (a number that makes no sense, settings that do
  // not go together, or that need steps in sync with all on the servers);
  // CreateOptimizer()'s.
  static StatusOr<std::unique_ptr<GlobalPhase>> Create(const ModelSpec& model,
                                                       const ClusterPlan& plan);

  // Decides about `step`, of which `norms` are the sums over all shards; once
  // for each step, in turn. Where nothing is set they may be empty. Errors:
  // kInvalidArgument (a gradient is not finite and steps are not skipped, or
  // too many were one after another: the training diverges).
  StatusOr<StepDecision> Decide(int64_t step, double learning_rate_factor,
                                const StepNorms& norms);

  // Decide() goes by the norms.
  bool needs_norms() const {
    return settings_.NeedsNorms() || optimizer_->norm_phase() != nullptr;
  }
  // Goes on after a decision of another leader of the same job.
  void Resume(const StepDecision& decision);

  // Of the next step; 1 where losses are not scaled.
  double loss_scale() const { return loss_scale_; }
  bool scales_losses() const { return settings_.loss_scale > 0; }
  int64_t steps_skipped() const { return steps_skipped_; }

  // What goes with a checkpoint, and back; a scale that does not change is that
  // of the job. Errors: kDataLoss (no such text).
  std::string ToText() const;
  Status Restore(const std::string& text);

 private:
  GlobalPhase(const GlobalSettings& settings,
              std::unique_ptr<Optimizer> optimizer)
      : settings_(settings),
        optimizer_(std::move(optimizer)),
        loss_scale_(settings.loss_scale > 0 ? settings.loss_scale : 1) {}

  void Tell(StepDecision& decision) const;

  const GlobalSettings settings_;
  const std::unique_ptr<Optimizer> optimizer_;  // of the dense variables
  double loss_scale_;
  int64_t good_steps_ = 0;  // since the scale changed
  int64_t steps_skipped_ = 0;
  int64_t skipped_in_turn_ = 0;
};

// The name of the manifest's text that has GlobalPhase::ToText().
inline constexpr char kGlobalPhaseText[] = "global_phase";

}  // namespace shoal::ps

#endif  // SHOAL_PS_GLOBAL_PHASE_H_
