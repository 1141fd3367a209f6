#include "kernels/simd.h"

#include <atomic>
#include <cstdlib>

#include "base/log.h"
#include "base/strcat.h"

namespace shoal {
namespace {

SimdPath WidestPath() {
  for (const SimdPath path : {SimdPath::kAvx512, SimdPath::kAvx2}) {
    if (IsSupported(path)) {
      return path;
    }
  }
  return SimdPath::kScalar;
}

SimdPath PathFromEnvironment() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing here writes the environment.
  const char* name = std::getenv("SHOAL_SIMD");
  const SimdPath widest = WidestPath();
  if (name == nullptr || *name == '\0') {
    return widest;
  }
  const StatusOr<SimdPath> wanted = ParseSimdPath(name);
  if (!wanted.ok()) {
    LogWarning("SHOAL_SIMD: ", wanted.status().message(), "; using ",
               Name(widest));
    return widest;
  }
  if (!IsSupported(*wanted)) {
    LogWarning("SHOAL_SIMD: this machine has no ", Name(*wanted), "; using ",
               Name(widest));
    return widest;
  }
  return *wanted;
}

std::atomic<SimdPath>& Active() {
  static std::atomic<SimdPath> active{PathFromEnvironment()};
  return active;
}

}  // namespace

std::string_view Name(SimdPath path) {
  switch (path) {
    case SimdPath::kScalar:
      return "scalar";
    case SimdPath::kAvx2:
      return "avx2";
    case SimdPath::kAvx512:
      return "avx512";
  }
  return "?";
}

bool IsSupported(SimdPath path) {
#if defined(__x86_64__)
  const bool avx2 =
      __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  switch (path) {
    case SimdPath::kScalar:
      return true;
    case SimdPath::kAvx2:
      return avx2;
    case SimdPath::kAvx512:
      return avx2 && __builtin_cpu_supports("avx512f") != 0 &&
             __builtin_cpu_supports("avx512bw") != 0 &&
             __builtin_cpu_supports("avx512dq") != 0 &&
             __builtin_cpu_supports("avx512vl") != 0;
  }
  return false;
#else
  return path == SimdPath::kScalar;
#endif
}

SimdPath ActiveSimdPath() { return Active().load(std::memory_order_relaxed); }

Status SetSimdPath(SimdPath path) {
  if (!IsSupported(path)) {
    return UnimplementedError(StrCat("simd: this machine has no ", Name(path)));
  }
  Active().store(path, std::memory_order_relaxed);
  return OkStatus();
}

StatusOr<SimdPath> ParseSimdPath(std::string_view name) {
  for (const SimdPath path :
       {SimdPath::kScalar, SimdPath::kAvx2, SimdPath::kAvx512}) {
    if (name == Name(path)) {
      return path;
    }
  }
  return InvalidArgumentError(StrCat("no instruction set is called '", name,
                                     "'; there are: scalar, avx2, avx512"));
}

}  // namespace shoal
