#include "kernels/devices.h"

#include <dlfcn.h>

#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

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

using Devices = std::vector<std::unique_ptr<Device>>;

StatusOr<Devices> OpenGpus(const DeviceOptions& options) {
  SHOAL_ASSIGN_OR_RETURN(const int there, CountGpus());
  if (options.count > there) {
    return InvalidArgumentError(StrCat("cuda: ", options.count,
                                       " GPUs are asked for, but this machine "
                                       "has ",
                                       there));
  }
  const std::optional<int> number = GpuNumber(options.name);
  const int first = number.value_or(options.rank * options.count);
  Devices gpus;
  for (int i = 0; i < options.count; ++i) {
    SHOAL_ASSIGN_OR_RETURN(gpus.emplace_back(),
                           OpenCudaDevice({.gpu = first + i,
                                           .wrap = !number,
                                           .fast_math = options.fast_math}));
  }
  return gpus;
}

Devices Only(std::unique_ptr<Device> device) {
  Devices devices;
  devices.push_back(std::move(device));
  return devices;
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

StatusOr<Devices> OpenDevices(const DeviceOptions& options, ThreadPool& pool) {
  SHOAL_RETURN_IF_ERROR(CheckDeviceName(options.name));
  if (options.name == "shadow") {
    Devices devices;
    for (int i = 0; i < options.count; ++i) {
      devices.push_back(CreateShadowDevice(
          {.threads = pool.num_threads(),
           .seed = options.seed + static_cast<uint64_t>(i)}));
    }
    return devices;
  }
  if (options.name == "cpu" || (options.name == "auto" && !DriverIsThere())) {
    return Only(CreateCpuDevice(pool));
  }
  StatusOr<Devices> gpus = OpenGpus(options);
  // Some GPUs, but fewer than were asked for, are not taken for none.
  if (!gpus.ok() && options.name == "auto" &&
      gpus.status().code() != StatusCode::kInvalidArgument) {
    LogWarning("device auto: the CPU, since ", gpus.status().message());
    return Only(CreateCpuDevice(pool));
  }
  return gpus;
}

}  // namespace shoal
