#ifndef SHOAL_PS_INITIALIZER_H_
#define SHOAL_PS_INITIALIZER_H_

#include <cstdint>
#include <span>

namespace shoal::ps {

// How a value starts, as a function of a key and its number alone: it does not
// matter who asks, when, or in which pieces.
struct Initializer {
  enum class Kind : uint8_t {
    kZero = 0,
    kUniform = 1,   // in [-scale, scale)
    kNormal = 2,    // mean 0, deviation `scale`
    kConstant = 3,  // `scale`
  };
  Kind kind = Kind::kZero;
  double scale = 0;

  // Fills `out` with the values of number first, first + 1, ...; first >= 0.
  void Fill(uint64_t key, int64_t first, std::span<float> out) const;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_INITIALIZER_H_
