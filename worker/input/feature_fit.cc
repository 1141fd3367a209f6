#include "worker/input/feature_fit.h"

#include <algorithm>
#include <cmath>

#include "base/strcat.h"

namespace shoal::worker {
namespace {

// Different values of one feature; above, 16 bytes each (and half the slots
// free) would take more than 8 GiB.
constexpr size_t kVocabularyMax = size_t{1} << 28;

// Mean and sum of squared distances in one pass (Welford).
class RunningMoments {
 public:
  void Add(double x) {
    ++count_;
    const double delta = x - mean_;
    mean_ += delta / static_cast<double>(count_);
    squares_ += delta * (x - mean_);
  }
  double mean() const { return mean_; }
  // 1 for a constant, so that nothing is divided by 0.
  double deviation() const {
    const double variance =
        count_ == 0 ? 0 : squares_ / static_cast<double>(count_);
    return variance > 0 && std::isfinite(variance) ? std::sqrt(variance) : 1;
  }

 private:
  int64_t count_ = 0;
  double mean_ = 0;
  double squares_ = 0;
};

// Every `stride_`-th value; the stride doubles when too many have come.
class QuantileSample {
 public:
  void Add(double x) {
    if (seen_++ % stride_ != 0) {
      return;
    }
    values_.push_back(x);
    if (values_.size() >= kValuesMax) {
      for (size_t i = 0; 2 * i < values_.size(); ++i) {
        values_[i] = values_[2 * i];
      }
      values_.resize((values_.size() + 1) / 2);
      stride_ *= 2;
    }
  }

  // Rising and different; values equal to the smallest are in no bucket of
  // their own below the first edge.
  std::vector<double> Edges(int buckets) {
    std::sort(values_.begin(), values_.end());
    std::vector<double> edges;
    for (int k = 1; k < buckets && !values_.empty(); ++k) {
      const double edge = values_[values_.size() * static_cast<size_t>(k) /
                                  static_cast<size_t>(buckets)];
      if (edge > values_.front() && (edges.empty() || edge > edges.back())) {
        edges.push_back(edge);
      }
    }
    return edges;
  }

 private:
  static constexpr size_t kValuesMax = size_t{1} << 21;
  std::vector<double> values_;
  int64_t seen_ = 0;
  int64_t stride_ = 1;
};

}  // namespace

struct FeatureFit::Learner {
  int node = 0;
  int vocabulary_stage = 0;  // when the keys can be counted
  RunningMoments moments;
  QuantileSample sample;
  KeyCounter counts;

  void AddRow(const FeaturePlan& plan, const FeatureTransforms& transforms,
              const RawBlock& block, int64_t row, int stage) {
    const FeatureNode& at = plan.nodes[static_cast<size_t>(node)];
    if (stage == 0 && (at.standardize || at.quantiles > 0)) {
      const double raw = block.numbers[static_cast<size_t>(
          row * plan.numbers_per_row + at.slot)];
      if (!std::isnan(raw)) {
        if (at.standardize) {
          moments.Add(FeatureTransforms::Unscaled(at, raw));
        } else {
          sample.Add(raw);
        }
      }
    }
    if (at.min_count == 0 || stage != vocabulary_stage) {
      return;
    }
    if (at.value == FeatureNode::Value::kList) {
      for (size_t i = block.entries_begin(row); i < block.entries_end(row);
           ++i) {
        if (block.entries[i].bag == static_cast<uint32_t>(at.slot)) {
          Count(block.entries[i].key);
        }
      }
    } else {
      Count(transforms.KeyOf(node, block, row));
    }
  }

  void Count(uint64_t key) {
    if (key != kMissingKey && counts.size() <= kVocabularyMax) {
      counts.Add(key);
    }
  }
};

FeatureFit::FeatureFit(const FeaturePlan& plan)
    : plan_(plan),
      learners_(plan.nodes.size()),
      transforms_(std::make_unique<FeatureTransforms>(plan, fitted_)) {
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    const FeatureNode& node = plan.nodes[i];
    if (!node.standardize && node.quantiles == 0 && node.min_count == 0) {
      continue;
    }
    learners_[i] = std::make_unique<Learner>();
    learners_[i]->node = static_cast<int>(i);
    learners_[i]->vocabulary_stage =
        plan.KeyNeedsEdges(static_cast<int>(i)) ? 1 : 0;
  }
}

FeatureFit::~FeatureFit() = default;

int FeatureFit::num_stages() const {
  int stages = plan_.NeedsFit() ? 1 : 0;
  for (const auto& learner : learners_) {
    if (learner != nullptr && learner->vocabulary_stage == 1 &&
        plan_.nodes[static_cast<size_t>(learner->node)].min_count > 0) {
      stages = 2;
    }
  }
  return stages;
}

void FeatureFit::AddBlock(const RawBlock& block,
                          const std::vector<uint8_t>& train, ThreadPool& pool) {
  if (plan_.bag_per_field && stage_ == 0) {
    // The fields of the test part count too: a row can't be written without.
    for (const RawEntry& entry : block.entries) {
      fitted_.num_fields = std::max<int64_t>(fitted_.num_fields, entry.bag + 1);
    }
  }
  // A learner sees all rows in order; learners share nothing.
  const auto count = static_cast<int64_t>(learners_.size());
  pool.ParallelFor(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Learner* learner = learners_[static_cast<size_t>(i)].get();
      for (int64_t row = 0; learner != nullptr && row < block.num_rows; ++row) {
        if (train[static_cast<size_t>(row)] != 0) {
          learner->AddRow(plan_, *transforms_, block, row, stage_);
        }
      }
    }
  });
}

Status FeatureFit::EndStage() {
  ++stage_;
  fitted_.features.clear();
  for (const auto& learner : learners_) {
    if (learner == nullptr) {
      continue;
    }
    const FeatureNode& node = plan_.nodes[static_cast<size_t>(learner->node)];
    FittedFeature& fitted = fitted_.features.emplace_back();
    fitted.name = node.name;
    if (node.standardize) {
      fitted.mean = learner->moments.mean();
      fitted.deviation = learner->moments.deviation();
    }
    if (node.quantiles > 0) {
      fitted.edges = learner->sample.Edges(node.quantiles);
    }
    if (learner->counts.size() > kVocabularyMax) {
      return ResourceExhaustedError(
          StrCat("feature '", node.name, "' has more than ", kVocabularyMax,
                 " different values; use hash_buckets instead of min_count"));
    }
    if (node.min_count > 0 && stage_ > learner->vocabulary_stage) {
      fitted.has_vocabulary = true;
      fitted.vocabulary =
          learner->counts.KeysWithCount(static_cast<uint64_t>(node.min_count));
    }
  }
  transforms_ = std::make_unique<FeatureTransforms>(plan_, fitted_);
  return OkStatus();
}

}  // namespace shoal::worker
