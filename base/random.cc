#include "base/random.h"

#include <random>

namespace shoal {

uint64_t EntropySeed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

}  // namespace shoal
