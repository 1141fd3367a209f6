#include "kernels/devices.h"

#include <dlfcn.h>

#include <charconv>
#include <optional>
#include <string_view>

#include "base/log.h"
#include "base/strcat.h"
#include "base/thread_pool.h"
#include "kernels/cuda_device.h"
#include "kernels/shadow_device.h"

namespace shoal {
namespace {

constexpr std::string_view kCuda = "cuda";

// The number after "cuda:".
std::optional<int> GpuNumber(std::string_view name) {
  if (!name.starts_with("cuda:")) {
    return std::nullopt;
  }
  const std::string_view digits = name.substr(kCuda.size() + 1);
  int number = -1;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), number);
  return error == std::errc() && end == digits.data() + digits.size() &&
                 number >= 0
             ? std::optional<int>(number)
             : std::nullopt;
}

// Whether it is worth to load the plug-in, which takes a third of a second and
// 200 MB.
bool DriverIsThere() {
  void* const driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (driver != nullptr) {
    dlclose(driver);
  }
  return driver != nullptr;
}

StatusOr<std::unique_ptr<Device>> OpenGpu(const DeviceOptions& options) {
  const std::optional<int> number = GpuNumber(options.name);
  return OpenCudaDevice({.gpu = number.value_or(options.rank),
                         .wrap = !number,
                         .fast_math = options.fast_math});
}

}  // namespace

Status CheckDeviceName(const std::string& name) {
  if (name == "cpu" || name == kCuda || name == "shadow" || name == "auto" ||
      GpuNumber(name)) {
    return OkStatus();
  }
  return InvalidArgumentError(
      StrCat("'", name,
             "' is no device; there are: auto, cpu, cuda, cuda:0 "
             "(a GPU by its number), shadow (for tests)"));
}

StatusOr<std::unique_ptr<Device>> OpenDevice(const DeviceOptions& options,
                                             ThreadPool& pool) {
  SHOAL_RETURN_IF_ERROR(CheckDeviceName(options.name));
  if (options.name == "shadow") {
    return CreateShadowDevice(
        {.threads = pool.num_threads(), .seed = options.seed});
  }
  if (options.name == "cpu" || (options.name == "auto" && !DriverIsThere())) {
    return CreateCpuDevice(pool);
  }
  StatusOr<std::unique_ptr<Device>> gpu = OpenGpu(options);
  if (!gpu.ok() && options.name == "auto") {
    LogWarning("device auto: the CPU, since ", gpu.status().message());
    return CreateCpuDevice(pool);
  }
  return gpu;
}

}  // namespace shoal
