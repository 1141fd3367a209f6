#include "kernels/loops.h"

#include "kernels/simd.h"

namespace shoal {

const Loops& ActiveLoops() {
#if defined(__x86_64__)
  switch (ActiveSimdPath()) {
    case SimdPath::kScalar:
      return ScalarLoops();
    case SimdPath::kAvx2:
      return Avx2Loops();
    case SimdPath::kAvx512:
      return Avx512Loops();
  }
#endif
  return ScalarLoops();
}

}  // namespace shoal
