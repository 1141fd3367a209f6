#include "kernels/kernel.h"

namespace shoal {

Registry<Kernel>& KernelRegistry() {
  static Registry<Kernel> registry("kernel");
  return registry;
}

}  // namespace shoal
