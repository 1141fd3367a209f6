#include "kernels/shape.h"

namespace shoal {

std::string Shape::ToString() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) {
    text += (i == 0 ? "" : ",") + std::to_string(dim(i));
  }
  return text + "]";
}

}  // namespace shoal
