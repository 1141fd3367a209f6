#include "ps/global_phase.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/strcat.h"
#include "ps/strict_json.h"

namespace shoal::ps {
namespace {

// Halved so often, a scale of 2^16 is 2^-84: it was not too large.
constexpr int64_t kSkippedInTurnMax = 100;

constexpr char kScale[] = "loss_scale";
constexpr char kGoodSteps[] = "good_steps";
constexpr char kSkipped[] = "steps_skipped";
constexpr char kInTurn[] = "skipped_in_turn";

Status CheckSettings(const GlobalSettings& settings) {
  for (const double number :
       {settings.clip_norm, settings.loss_scale, settings.growth_factor,
        settings.backoff_factor}) {
    if (!std::isfinite(number) || number < 0) {
      return InvalidArgumentError(
          StrCat("global phase: ", number, " is not a finite number >= 0"));
    }
  }
  if (settings.dynamic_scale &&
      (settings.loss_scale == 0 || settings.growth_factor <= 1 ||
       settings.backoff_factor <= 0 || settings.backoff_factor >= 1 ||
       settings.growth_interval < 1)) {
    return InvalidArgumentError(
        "global phase: a loss scale that changes needs a first one above 0, a "
        "growth factor above 1, a backoff factor between 0 and 1, and a growth "
        "interval of 1 or more");
  }
  return OkStatus();
}

}  // namespace

void StepNorms::Add(const StepNorms& other) {
  finite = finite && other.finite;
  gradients.Add(other.gradients);
  layers.resize(std::max(layers.size(), other.layers.size()));
  for (size_t v = 0; v < other.layers.size(); ++v) {
    layers[v].values.Add(other.layers[v].values);
    layers[v].updates.Add(other.layers[v].updates);
  }
}

StatusOr<std::unique_ptr<GlobalPhase>> GlobalPhase::Create(
    const ModelSpec& model, const ClusterPlan& plan) {
  SHOAL_RETURN_IF_ERROR(CheckSettings(plan.global));
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<Optimizer> optimizer,
                         CreateOptimizer(model.dense_optimizer));
  for (const TableSpec& table : model.tables) {
    SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Optimizer> of_rows,
                           CreateOptimizer(table.optimizer));
    if (of_rows->norm_phase() != nullptr) {
      return InvalidArgumentError(
          StrCat("table '", table.name, "': optimizer '", table.optimizer.kind,
                 "' is for dense variables, whose norms it needs"));
    }
  }
  if (model.pushes_values() && plan.shares_steps()) {
    return InvalidArgumentError(
        StrCat("optimizer '", model.dense_optimizer.kind,
               "': delays are compensated where steps are dealt to workers; "
               "where they share every step there is none"));
  }
  const bool ratios = optimizer->norm_phase() != nullptr;
  if ((ratios || plan.global.NeedsNorms()) &&
      (plan.mode != Mode::kSync || plan.dense_on_workers())) {
    return InvalidArgumentError(
        StrCat("optimizer '", model.dense_optimizer.kind,
               "' or what is set for all gradients needs the norms of a whole "
               "step: only in sync, with the dense variables on the servers"));
  }
  if (ratios && plan.global.clip_norm > 0) {
    return InvalidArgumentError(
        StrCat("optimizer '", model.dense_optimizer.kind,
               "' needs its gradients before their norm is known, which the "
               "bound on the norm of all gradients would change"));
  }
  return std::unique_ptr<GlobalPhase>(
      new GlobalPhase(plan.global, std::move(optimizer)));
}

StatusOr<StepDecision> GlobalPhase::Decide(int64_t step,
                                           double learning_rate_factor,
                                           const StepNorms& norms) {
  StepDecision decision = {.step = step,
                           .learning_rate_factor = learning_rate_factor};
  const double scale = loss_scale_;
  if (!norms.finite) {
    if (!scales_losses()) {
      return InvalidArgumentError(
          StrCat("the gradients of step ", step,
                 " are not finite: the training diverges; lower the learning "
                 "rates, or look for extreme values in the data"));
    }
    if (++skipped_in_turn_ > kSkippedInTurnMax) {
      return InvalidArgumentError(StrCat(
          "the gradients of step ", step, " and the ", kSkippedInTurnMax,
          " before it are not finite, at last with a loss scale of ", scale,
          ": the training diverges; lower the learning rates, or "
          "look for extreme values in the data"));
    }
    decision.skip = true;
    ++steps_skipped_;
    good_steps_ = 0;
    // Its inverse stays a number that a float can be.
    constexpr double kLossScaleMin = 1e-30;
    loss_scale_ = std::max(
        loss_scale_ * (settings_.dynamic_scale ? settings_.backoff_factor : 1),
        kLossScaleMin);
    LogWarning("step ", step,
               " is skipped, its gradients are not finite: ", steps_skipped_,
               " skipped so far; the loss scale was ", scale, " and is ",
               loss_scale_, " now");
    Tell(decision);
    return decision;
  }
  skipped_in_turn_ = 0;
  decision.gradient_scale = 1 / scale;
  if (settings_.clip_norm > 0) {
    const double norm = std::sqrt(norms.gradients.value()) / scale;
    if (norm > settings_.clip_norm) {
      decision.gradient_scale *= settings_.clip_norm / norm;
    }
  }
  if (const NormPhase* phase = optimizer_->norm_phase(); phase != nullptr) {
    for (const LayerSums& layer : norms.layers) {
      decision.trust_ratios.push_back(phase->TrustRatio(
          std::sqrt(layer.values.value()), std::sqrt(layer.updates.value())));
    }
  }
  if (settings_.dynamic_scale && ++good_steps_ == settings_.growth_interval) {
    good_steps_ = 0;
    // Beyond what f32 holds every gradient would be infinite.
    loss_scale_ = std::min(loss_scale_ * settings_.growth_factor, 0x1.0p120);
  }
  Tell(decision);
  return decision;
}

void GlobalPhase::Tell(StepDecision& decision) const {
  decision.next_loss_scale = loss_scale_;
  decision.good_steps = good_steps_;
  decision.steps_skipped = steps_skipped_;
  decision.skipped_in_turn = skipped_in_turn_;
}

void GlobalPhase::Resume(const StepDecision& decision) {
  loss_scale_ = decision.next_loss_scale;
  good_steps_ = decision.good_steps;
  steps_skipped_ = decision.steps_skipped;
  skipped_in_turn_ = decision.skipped_in_turn;
}

std::string GlobalPhase::ToText() const {
  return Json{{kScale, loss_scale_},
              {kGoodSteps, good_steps_},
              {kSkipped, steps_skipped_},
              {kInTurn, skipped_in_turn_}}
      .dump();
}

Status GlobalPhase::Restore(const std::string& text) {
  const Json json = ParseStrictly(text);
  const auto whole = [&](const char* key) {
    return json.contains(key) && json[key].is_number_integer() &&
                   json[key].get<int64_t>() >= 0
               ? json[key].get<int64_t>()
               : -1;
  };
  const double scale =
      json.is_object() && json.contains(kScale) && json[kScale].is_number()
          ? json[kScale].get<double>()
          : 0;
  if (!(std::isfinite(scale) && scale > 0) || whole(kGoodSteps) < 0 ||
      whole(kSkipped) < 0 || whole(kInTurn) < 0) {
    return DataLossError(
        StrCat("'", text.substr(0, 100), "' is no state of a loss scale"));
  }
  steps_skipped_ = whole(kSkipped);
  skipped_in_turn_ = whole(kInTurn);
  if (settings_.dynamic_scale) {
    loss_scale_ = scale;
    good_steps_ = std::min(whole(kGoodSteps), settings_.growth_interval - 1);
  }
  return OkStatus();
}

}  // namespace shoal::ps
