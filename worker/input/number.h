#ifndef SHOAL_WORKER_INPUT_NUMBER_H_
#define SHOAL_WORKER_INPUT_NUMBER_H_

#include <cstdint>
#include <string_view>

namespace shoal::worker {

// Each takes the whole text (blanks around it, and a `+`, are allowed) and
// rounds correctly; false leaves `*out` alone.

// A finite decimal number: `-1.5e3`. Not `nan`, `inf` or hexadecimal.
bool ParseNumber(std::string_view text, double* out);

// The same, and it must be finite as f32 too.
bool ParseFloat(std::string_view text, float* out);

// [0, 2^64), digits only.
bool ParseDecimal(std::string_view text, uint64_t* out);
bool ParseHexadecimal(std::string_view text, uint64_t* out);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_NUMBER_H_
