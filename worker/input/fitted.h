#ifndef SHOAL_WORKER_INPUT_FITTED_H_
#define SHOAL_WORKER_INPUT_FITTED_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace shoal::worker {

// What one feature's transformations learnt from the training part.
struct FittedFeature {
  std::string name;
  double mean = 0;
  double deviation = 1;       // > 0
  std::vector<double> edges;  // fitted quantiles, rising
  bool has_vocabulary = false;
  std::vector<uint64_t> vocabulary;  // keys of the values kept, rising

  bool operator==(const FittedFeature&) const = default;
};

// What eval and predict need to read rows as training did. Kept with every
// checkpoint as text.
struct FittedTransforms {
  std::vector<FittedFeature> features;
  int64_t num_fields = 0;  // libffm: one more than the highest field

  bool operator==(const FittedTransforms&) const = default;

  const FittedFeature* Find(std::string_view name) const;  // or null
};

// The same bits come back from FromJson(ToJson(x)).
std::string FittedToJson(const FittedTransforms& fitted);

// Errors: kInvalidArgument (not JSON, or values that no fit can give).
StatusOr<FittedTransforms> FittedFromJson(std::string_view text);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_FITTED_H_
