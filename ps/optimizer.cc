#include "ps/optimizer.h"

#include <cmath>
#include <utility>

#include "base/strcat.h"
#include "ps/optimizers/delay.h"
#include "ps/optimizers/settings.h"

namespace shoal::ps {

Registry<OptimizerFactory>& OptimizerRegistry() {
  static Registry<OptimizerFactory> registry("optimizer");
  return registry;
}

bool RegisterOptimizer(OptimizerFactory factory,
                       std::initializer_list<std::string_view> names,
                       const char* file) {
  for (const std::string_view name : names) {
    OptimizerRegistry().Add(name, factory, file);
  }
  return true;
}

StatusOr<std::unique_ptr<Optimizer>> CreateOptimizer(
    const OptimizerConfig& config) {
  for (const double number :
       {config.learning_rate, config.momentum, config.initial_accumulator,
        config.epsilon, config.beta1, config.beta2, config.l1, config.l2,
        config.beta, config.rho, config.l21, config.weight_decay,
        config.clip_value, config.clip_norm, config.trust_coefficient,
        config.delay_compensation, config.delay_decay}) {
    if (!std::isfinite(number) || number < 0) {
      return InvalidArgumentError(StrCat("optimizer '", config.kind,
                                         "': ", number,
                                         " is not a finite number >= 0"));
    }
  }
  SHOAL_ASSIGN_OR_RETURN(const OptimizerFactory* factory,
                         OptimizerRegistry().Find(config.kind));
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<Optimizer> made, (*factory)(config));
  if (made->norm_phase() != nullptr) {
    // Its weight decay is part of the update whose norm it needs.
    if (config.clip_value > 0 || config.clip_norm > 0 || config.decoupled ||
        config.delay_compensation > 0) {
      return InvalidArgumentError(
          StrCat("optimizer '", config.kind,
                 "': clip_value, clip_norm, decoupled and delay_compensation "
                 "are not for it"));
    }
    return made;
  }
  if (config.delay_decay >= 1) {
    return InvalidArgumentError(
        StrCat("optimizer '", config.kind, "': delay_decay must be below 1"));
  }
  return WithDelayCompensation(config, WithSettings(config, std::move(made)));
}

}  // namespace shoal::ps
