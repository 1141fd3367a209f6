#include "worker/input/feature_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/strcat.h"

namespace shoal::worker {
namespace {

constexpr uint64_t kBucketKey = HashText(
    "\x01"
    "bucket");
constexpr uint64_t kCrossKey = HashText(
    "\x01"
    "cross");

}  // namespace

bool FeaturePlan::NeedsFit() const {
  return bag_per_field ||
         std::any_of(nodes.begin(), nodes.end(), [](const FeatureNode& node) {
           return node.standardize || node.quantiles > 0 || node.min_count > 0;
         });
}

bool FeaturePlan::KeyNeedsEdges(int node) const {
  const FeatureNode& at = nodes[static_cast<size_t>(node)];
  return (at.value == FeatureNode::Value::kBucket && at.quantiles > 0) ||
         std::any_of(at.parts.begin(), at.parts.end(),
                     [this](int part) { return KeyNeedsEdges(part); });
}

void FeaturePlan::DescribeInputs(const FittedTransforms& fitted,
                                 RecordSchema* schema) const {
  for (const FeatureNode& node : nodes) {
    if (!node.is_input) {
      continue;
    }
    if (node.value == FeatureNode::Value::kNumber) {
      schema->numeric.push_back(node.name);
    } else if (node.value != FeatureNode::Value::kList) {
      schema->categorical.push_back(node.name);
    } else if (bag_per_field) {
      for (int64_t field = 0; field < fitted.num_fields; ++field) {
        schema->bags.push_back(
            {StrCat(node.name, field), node.pooling, node.weighted});
      }
    } else {
      schema->bags.push_back({node.name, node.pooling, node.weighted});
    }
  }
}

FeatureTransforms::FeatureTransforms(const FeaturePlan& plan,
                                     const FittedTransforms& fitted)
    : plan_(plan), fits_(plan.nodes.size()) {
  for (size_t i = 0; i < fits_.size(); ++i) {
    const FeatureNode& node = plan.nodes[i];
    Fit& fit = fits_[i];
    fit.name_key = HashText(node.name);
    fit.edges = node.edges;
    const FittedFeature* found = fitted.Find(node.name);
    if (found == nullptr) {
      continue;
    }
    if (node.standardize) {
      fit.mean = found->mean;
      fit.deviation = found->deviation;
    }
    if (node.quantiles > 0) {
      fit.edges = found->edges;
    }
    fit.has_vocabulary = node.min_count > 0 && found->has_vocabulary;
    if (fit.has_vocabulary) {
      for (const uint64_t key : found->vocabulary) {
        fit.vocabulary.Add(key);
      }
    }
  }
}

uint64_t FeatureTransforms::KeyOf(int node, const RawBlock& block,
                                  int64_t row) const {
  const FeatureNode& at = plan_.nodes[static_cast<size_t>(node)];
  switch (at.value) {
    case FeatureNode::Value::kKey:
      return block
          .keys[static_cast<size_t>(row * plan_.keys_per_row + at.slot)];
    case FeatureNode::Value::kBucket: {
      const double number = block.numbers[static_cast<size_t>(
          row * plan_.numbers_per_row + at.slot)];
      if (std::isnan(number)) {
        return kMissingKey;
      }
      const std::vector<double>& edges = fits_[static_cast<size_t>(node)].edges;
      const auto bucket =
          std::upper_bound(edges.begin(), edges.end(), number) - edges.begin();
      return HashKey(kBucketKey, static_cast<uint64_t>(bucket));
    }
    case FeatureNode::Value::kCross: {
      uint64_t key = kCrossKey;
      for (const int part : at.parts) {
        key = HashKey(key, KeyOf(part, block, row));
      }
      return key;
    }
    default:
      return kMissingKey;
  }
}

uint64_t FeatureTransforms::IdOf(int node, uint64_t key) const {
  const FeatureNode& at = plan_.nodes[static_cast<size_t>(node)];
  const Fit& fit = fits_[static_cast<size_t>(node)];
  if (key != kMissingKey) {
    if (fit.has_vocabulary && !fit.vocabulary.Contains(key)) {
      key = kUnknownKey;
    } else if (at.hash_buckets > 0) {
      key %= static_cast<uint64_t>(at.hash_buckets);
    }
  }
  return at.own_ids ? key : HashKey(fit.name_key, key);
}

double FeatureTransforms::Unscaled(const FeatureNode& node, double raw) {
  return node.log ? std::copysign(std::log1p(std::abs(raw)), raw) : raw;
}

float FeatureTransforms::NumberOf(int node, double raw) const {
  const FeatureNode& at = plan_.nodes[static_cast<size_t>(node)];
  if (std::isnan(raw)) {
    return at.missing_value;
  }
  const Fit& fit = fits_[static_cast<size_t>(node)];
  const auto value =
      static_cast<float>((Unscaled(at, raw) - fit.mean) / fit.deviation);
  return std::isfinite(value) ? value : std::numeric_limits<float>::quiet_NaN();
}

}  // namespace shoal::worker
