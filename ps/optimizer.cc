#include "ps/optimizer.h"

#include <cmath>

#include "base/strcat.h"

namespace shoal::ps {

Registry<OptimizerFactory>& OptimizerRegistry() {
  static Registry<OptimizerFactory> registry("optimizer");
  return registry;
}

StatusOr<std::unique_ptr<Optimizer>> CreateOptimizer(
    const OptimizerConfig& config) {
  for (const double number :
       {config.learning_rate, config.momentum, config.initial_accumulator,
        config.epsilon, config.beta1, config.beta2, config.l1, config.l2,
        config.beta}) {
    if (!std::isfinite(number) || number < 0) {
      return InvalidArgumentError(StrCat("optimizer '", config.kind,
                                         "': ", number,
                                         " is not a finite number >= 0"));
    }
  }
  SHOAL_ASSIGN_OR_RETURN(const OptimizerFactory* factory,
                         OptimizerRegistry().Find(config.kind));
  return (*factory)(config);
}

}  // namespace shoal::ps
