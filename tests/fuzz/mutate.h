#ifndef SHOAL_TESTS_FUZZ_MUTATE_H_
#define SHOAL_TESTS_FUZZ_MUTATE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "base/random.h"

namespace shoal::fuzz {

// `sample` with one to four changes: bits flipped, bytes cut out, repeated,
// replaced or put in, its end cut off, or a token put in that parsers trip over
// (huge numbers, quotes, NUL, NaN ...).
std::string Mutate(std::string_view sample, Random& random);

// How many mutations to try: SHOAL_FUZZ_RUNS, else `otherwise`, and 50 times
// that in the nightly tests.
uint64_t Runs(uint64_t otherwise);

}  // namespace shoal::fuzz

#endif  // SHOAL_TESTS_FUZZ_MUTATE_H_
