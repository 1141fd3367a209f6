#include "kernels/kernel.h"

#include <utility>

#include "base/mutex.h"
#include "base/strcat.h"

namespace shoal {
namespace {

struct AddedKernels {
  Mutex mutex;
  std::map<std::string, KernelMap, std::less<>> by_device
      SHOAL_GUARDED_BY(mutex);
};

AddedKernels& Added() {
  static AddedKernels added;
  return added;
}

}  // namespace

Registry<Kernel>& KernelRegistry() {
  static Registry<Kernel> registry("kernel");
  return registry;
}

void AddKernels(std::string_view device, KernelMap kernels) {
  AddedKernels& added = Added();
  const MutexLock lock(added.mutex);
  added.by_device.emplace(device, std::move(kernels));
}

StatusOr<const Kernel*> FindKernel(std::string_view device,
                                   std::string_view op) {
  AddedKernels& added = Added();
  {
    const MutexLock lock(added.mutex);
    const auto kernels = added.by_device.find(device);
    if (kernels != added.by_device.end()) {
      const auto kernel = kernels->second.find(op);
      if (kernel == kernels->second.end()) {
        return NotFoundError(
            StrCat("the device '", device, "' has no kernel for ", op));
      }
      return &kernel->second;
    }
  }
  return KernelRegistry().Find(StrCat(device, "/", op));
}

}  // namespace shoal
