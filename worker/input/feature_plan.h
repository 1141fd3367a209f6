#ifndef SHOAL_WORKER_INPUT_FEATURE_PLAN_H_
#define SHOAL_WORKER_INPUT_FEATURE_PLAN_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "worker/input/fitted.h"
#include "worker/input/key_counter.h"
#include "worker/input/raw_block.h"
#include "worker/input/record_schema.h"

namespace shoal::worker {

// Keys of values: a text's is HashText(text). These two stand for what has no
// text; a feature's ids are HashKey(HashText(name of the feature), key).
inline constexpr uint64_t kMissingKey = HashText("\x01missing value");
inline constexpr uint64_t kUnknownKey = HashText("\x01unknown value");

// What becomes of one feature, whatever format brings it.
struct FeatureNode {
  enum class Value {
    kKey,     // raw keys[slot]
    kNumber,  // raw numbers[slot]
    kBucket,  // the bucket of raw numbers[slot]
    kCross,   // of the keys of `parts`
    kList     // the raw entries whose bag is `slot`
  };

  std::string name;
  Value value = Value::kKey;
  int slot = -1;
  bool is_input = true;  // false: only a part of crosses

  std::vector<int> parts;     // kCross: nodes
  std::vector<double> edges;  // kBucket: given ones
  int quantiles = 0;          // kBucket: or so many fitted ones
  bool log = false;           // kNumber, and so on
  bool standardize = false;
  float missing_value = 0;
  int64_t min_count = 0;  // of categorical values; 0: no vocabulary
  int64_t hash_buckets = 0;
  std::string pooling = "sum";  // kList
  bool weighted = false;        // kList
  bool own_ids = false;  // kList: keys are ids already, not mixed with `name`

  bool categorical() const { return value != Value::kNumber; }
};

// All features of a job and the form of its raw rows.
class FeaturePlan {
 public:
  std::vector<FeatureNode> nodes;
  int numbers_per_row = 0;
  int keys_per_row = 0;
  // libffm: the one node, a kList, stands for as many bags as there are fields.
  bool bag_per_field = false;

  // Whether anything is learnt from the training part.
  bool NeedsFit() const;
  // Whether the key of a node depends on fitted edges.
  bool KeyNeedsEdges(int node) const;
  // Fills in names and bags; `fitted` only matters with `bag_per_field`.
  void DescribeInputs(const FittedTransforms& fitted,
                      RecordSchema* schema) const;
};

// The transformations of a plan with what was fitted. Thread-safe once made.
class FeatureTransforms {
 public:
  // `plan` must outlive this object. What `fitted` lacks is as if untouched
  // (during a fit).
  FeatureTransforms(const FeaturePlan& plan, const FittedTransforms& fitted);

  // The key of a categorical node that is no list.
  uint64_t KeyOf(int node, const RawBlock& block, int64_t row) const;
  // The id of a value of a categorical node.
  uint64_t IdOf(int node, uint64_t key) const;
  // The value of a kNumber node; NaN when it overflows f32.
  float NumberOf(int node, double raw) const;
  // The same before standardizing; `raw` is not NaN.
  static double Unscaled(const FeatureNode& node, double raw);

 private:
  struct Fit {
    uint64_t name_key = 0;
    double mean = 0;
    double deviation = 1;
    std::vector<double> edges;
    bool has_vocabulary = false;
    KeyCounter vocabulary;
  };

  const FeaturePlan& plan_;
  std::vector<Fit> fits_;  // by node
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_FEATURE_PLAN_H_
