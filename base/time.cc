#include "base/time.h"

#include "base/strcat.h"

namespace shoal {

std::string ToString(Duration duration) {
  const double seconds = ToSeconds(duration);
  if (duration >= 1s || duration <= -1s) {
    return StrCat(seconds, " s");
  }
  if (duration >= 1ms || duration <= -1ms) {
    return StrCat(seconds * 1e3, " ms");
  }
  return StrCat(seconds * 1e6, " us");
}

}  // namespace shoal
