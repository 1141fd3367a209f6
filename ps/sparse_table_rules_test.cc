// Admission and eviction: what rows there are, against an oracle that keeps
// everything in maps and decides by the words of ps/row_rules.h.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/random.h"
#include "base/strcat.h"
#include "ps/checkpoint_format.h"
#include "ps/row_format.h"
#include "ps/slots.h"
#include "ps/sparse_table.h"

namespace shoal::ps {
namespace {

using ::testing::HasSubstr;
using Policy = RowRules::Policy;
using TableList = std::vector<std::unique_ptr<SparseTable>>;

constexpr int64_t kRuledDim = 3;

ModelSpec RuledModel(const std::string& optimizer, DType format,
                     const RowRules& rules) {
  ModelSpec model;
  model.seed = 5;
  model.dense_optimizer.kind = "sgd";
  model.tables.push_back(
      {.name = "embedding",
       .dim = kRuledDim,
       .optimizer = {.kind = optimizer, .learning_rate = 0.1},
       .initializer = {Initializer::Kind::kUniform, 0.5},
       .format = format,
       .rules = rules});
  model.groups = {{0}};
  return model;
}

TableList RuledTables(const ModelSpec& model, int slot_bits = 10) {
  auto made = MakeTables(model, slot_bits);
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

bool HashLess(uint64_t a, uint64_t b) { return IdHash(a) < IdHash(b); }

// Ids that crowd a few of 2^bits parts, so that these overflow.
std::vector<uint64_t> CrowdedIds(size_t n, uint64_t parts, int bits = 10) {
  std::vector<uint64_t> ids;
  for (uint64_t i = 1; ids.size() < n; ++i) {
    if (IdHash(i) >> (64 - bits) < parts) {
      ids.push_back(i);
    }
  }
  return ids;
}

// A few of `ids`, the first ones most often, in the order of a shard's pushes.
std::vector<uint64_t> DrawIds(const std::vector<uint64_t>& ids, size_t n,
                              Random& random) {
  std::set<uint64_t> drawn;
  for (size_t i = 0; i < n; ++i) {
    const double u = random.Uniform();
    drawn.insert(
        ids[static_cast<size_t>(u * u * u * static_cast<double>(ids.size()))]);
  }
  std::vector<uint64_t> out(drawn.begin(), drawn.end());
  std::sort(out.begin(), out.end(), HashLess);
  return out;
}

std::vector<float> RuledGradients(const std::vector<uint64_t>& ids,
                                  int64_t step) {
  std::vector<float> gradients;
  for (const uint64_t id : ids) {
    Random random(HashKey(id, static_cast<uint64_t>(step)));
    for (int64_t j = 0; j < kRuledDim; ++j) {
      gradients.push_back(static_cast<float>(random.Uniform() - 0.5));
    }
  }
  return gradients;
}

uint32_t BitsOf(float value) { return std::bit_cast<uint32_t>(value); }

using RowBytes = std::vector<std::byte>;
struct RuledRow {
  RowBytes values;
  std::vector<uint32_t> state;  // bits
  friend bool operator==(const RuledRow&, const RuledRow&) = default;
};
using RuledRows = std::map<uint64_t, RuledRow>;

RuledRows RuledRowsOf(const SparseTable& table) {
  RuledRows rows;
  table.ForEach([&](uint64_t id, std::span<const std::byte> values,
                    std::span<const float> state) {
    RuledRow& row = rows[id];
    row.values.assign(values.begin(), values.end());
    for (const float word : state) {
      row.state.push_back(BitsOf(word));
    }
  });
  return rows;
}

std::vector<float> RuledPull(const SparseTable& table, uint64_t id) {
  std::vector<float> row(static_cast<size_t>(table.dim()));
  table.Pull({&id, 1}, row.data());
  return row;
}

// Which rows there are, since when, and how often pushed, by the rules. How a
// push changes a row is left to a table without rules, whose row starts anew
// when the id gets one.
class RulesOracle {
 public:
  struct Use {
    int64_t last = 0;
    int64_t pushes = 0;
  };

  RulesOracle(const ModelSpec& model, int64_t rows_max, int64_t candidates_max)
      : rules_(model.tables[0].rules),
        rows_max_(rows_max),
        candidates_max_(candidates_max) {
    ModelSpec plain = model;
    plain.tables[0].rules = {};
    first_ = std::move(RuledTables(plain)[0]);
    plain_ = std::move(RuledTables(plain)[0]);
    const auto optimizer = *CreateOptimizer(model.tables[0].optimizer);
    first_state_.resize(static_cast<size_t>(plain_->state_floats()));
    optimizer->InitState(first_state_.data(), kRuledDim);
  }

  void Apply(const std::vector<uint64_t>& ids, int64_t step) {
    std::set<uint64_t> touched;
    std::set<uint64_t> touched_candidates;
    for (const uint64_t id : ids) {
      if (!uses_.contains(id)) {
        int64_t seen = 0;
        if (rules_.min_count > 1) {
          seen = candidates_.contains(id) ? candidates_[id].pushes : 0;
          if (seen + 1 < rules_.min_count) {
            candidates_[id] = {step, seen + 1};
            touched_candidates.insert(PartOf(id));
            continue;
          }
          candidates_.erase(id);
        } else if (!Drawn(id, step)) {
          continue;
        }
        uses_[id].pushes = seen;
        StartAnew(id);
      }
      uses_[id].last = step;
      ++uses_[id].pushes;
      touched.insert(PartOf(id));
      const std::vector<float> gradient = RuledGradients({id}, step);
      plain_->Apply({&id, 1}, gradient.data(), 1, step);
    }
    // A candidate that was let in makes no part longer.
    for (const uint64_t part : touched) {
      Shrink(uses_, part, rows_max_, rules_.policy == Policy::kLfu);
    }
    for (const uint64_t part : touched_candidates) {
      Shrink(candidates_, part, candidates_max_, false);
    }
    if (rules_.max_age_steps > 0) {
      const int64_t period = std::min<int64_t>(
          1024, std::max<int64_t>(1, rules_.max_age_steps / 8));
      const auto old = [&](const auto& entry) {
        return (static_cast<int64_t>(PartOf(entry.first)) + step) % period ==
                   0 &&
               step - entry.second.last >= rules_.max_age_steps;
      };
      dropped_ += static_cast<int64_t>(std::erase_if(uses_, old));
      forgotten_ += static_cast<int64_t>(std::erase_if(candidates_, old));
    }
  }

  RuledRows rows() const {
    RuledRows out;
    const RuledRows all = RuledRowsOf(*plain_);
    for (const auto& [id, use] : uses_) {
      RuledRow row = all.at(id);
      if (rules_.max_age_steps > 0 || rules_.row_budget_bytes > 0) {
        row.state.push_back(static_cast<uint32_t>(use.last));
      }
      if (rules_.row_budget_bytes > 0 && rules_.policy == Policy::kLfu) {
        row.state.push_back(static_cast<uint32_t>(use.pushes));
      }
      out[id] = std::move(row);
    }
    return out;
  }
  RuledRows candidates() const {
    RuledRows out;
    for (const auto& [id, use] : candidates_) {
      const auto count = static_cast<float>(use.pushes);
      RuledRow& row = out[id];
      row.values.resize(4);
      std::memcpy(row.values.data(), &count, 4);
      row.state.push_back(static_cast<uint32_t>(use.last));
    }
    return out;
  }
  std::vector<float> Pull(uint64_t id) const {
    return RuledPull(uses_.contains(id) ? *plain_ : *first_, id);
  }
  int64_t dropped() const { return dropped_; }
  int64_t forgotten() const { return forgotten_; }

 private:
  static uint64_t PartOf(uint64_t id) { return IdHash(id) >> 54; }

  bool Drawn(uint64_t id, int64_t step) const {
    const uint64_t table = HashKey(5, HashText("embedding"));
    const uint64_t key = HashKey(HashKey(table, 0x61646d6974ULL), id);
    return std::ldexp(static_cast<double>(
                          HashKey(key, static_cast<uint64_t>(step)) >> 11),
                      -53) < rules_.probability;
  }

  void StartAnew(uint64_t id) {
    const std::vector<float> values = RuledPull(*first_, id);
    RowBytes bytes(static_cast<size_t>(plain_->value_bytes()));
    RoundValues(plain_->format(), 0, values, bytes.data());
    plain_->Load(id, bytes, first_state_);
  }

  void Shrink(std::map<uint64_t, Use>& uses, uint64_t part, int64_t most,
              bool by_use) {
    std::vector<std::tuple<int64_t, int64_t, uint64_t, uint64_t>> order;
    for (const auto& [id, use] : uses) {
      if (PartOf(id) == part) {
        order.emplace_back(by_use ? use.pushes : 0, use.last, IdHash(id), id);
      }
    }
    if (most == 0 || static_cast<int64_t>(order.size()) <= most) {
      return;
    }
    std::sort(order.begin(), order.end());
    const size_t gone = order.size() - static_cast<size_t>(most - most / 8);
    for (size_t i = 0; i < gone; ++i) {
      uses.erase(std::get<3>(order[i]));
      ++(&uses == &uses_ ? dropped_ : forgotten_);
    }
  }

  RowRules rules_;
  int64_t rows_max_;
  int64_t candidates_max_;
  std::unique_ptr<SparseTable> first_;  // where nothing is ever pushed
  std::unique_ptr<SparseTable> plain_;
  std::vector<float> first_state_;
  std::map<uint64_t, Use> uses_;
  std::map<uint64_t, Use> candidates_;
  int64_t dropped_ = 0;
  int64_t forgotten_ = 0;
};

// The tables of `n` shards that share the slots.
struct RuledShards {
  RuledShards(const ModelSpec& model, int n) : model(model) {
    for (int s = 0; s < n; ++s) {
      tables.push_back(RuledTables(model));
      dense.push_back(*DenseStore::Create(model, {}));
    }
  }

  void Apply(const std::vector<uint64_t>& ids, int64_t step) {
    for (size_t s = 0; s < tables.size(); ++s) {
      std::vector<uint64_t> own;
      std::copy_if(ids.begin(), ids.end(), std::back_inserter(own),
                   [&](uint64_t id) { return ShardOf(id) == s; });
      tables[s][0]->Apply(own, RuledGradients(own, step).data(), 1, step);
    }
  }
  size_t ShardOf(uint64_t id) const {
    return static_cast<size_t>(SlotOfHash(IdHash(id), 10)) % tables.size();
  }
  // Of table number t of all of them.
  RuledRows rows(size_t t) const {
    RuledRows rows;
    for (const TableList& of_shard : tables) {
      rows.merge(t < of_shard.size() ? RuledRowsOf(*of_shard[t]) : RuledRows());
    }
    return rows;
  }

  ShardState state(size_t s) const {
    return {.model = &model,
            .tables = tables[s],
            .dense = dense[s].get(),
            .slots = {.bits = 10,
                      .first = static_cast<int64_t>(s),
                      .last = 1023,
                      .stride = static_cast<int64_t>(tables.size())}};
  }
  void Save(Storage& storage) const {
    std::vector<std::string> entries;
    for (size_t s = 0; s < tables.size(); ++s) {
      const auto files =
          SaveParts(storage, "job/step-1", StrCat("part-", s), state(s));
      ASSERT_TRUE(files.ok()) << files.status();
      entries.insert(entries.end(), files->begin(), files->end());
    }
    const Status published =
        PublishManifest(storage, "job/step-1", 1, entries, {});
    ASSERT_TRUE(published.ok()) << published;
  }
  void Load(Storage& storage) const {
    for (size_t s = 0; s < tables.size(); ++s) {
      const Status loaded = LoadParts(storage, "job/step-1", state(s));
      ASSERT_TRUE(loaded.ok()) << loaded;
    }
  }

  const ModelSpec& model;
  std::vector<TableList> tables;
  std::vector<std::unique_ptr<DenseStore>> dense;
};

// A budget for `rows` rows in each of 1024 parts.
int64_t BudgetFor(const std::string& optimizer, DType format, RowRules rules,
                  int64_t rows) {
  int64_t low = 0;
  int64_t high = int64_t{1} << 26;
  while (low + 1 < high) {
    rules.row_budget_bytes = (low + high) / 2;
    const auto made = MakeTables(RuledModel(optimizer, format, rules), 10);
    const bool enough = made.ok() && (*made)[0]->part_rows_max() >= rows;
    (enough ? high : low) = rules.row_budget_bytes;
  }
  return high;
}

struct RuledCase {
  const char* name;
  RowRules rules;
};

// Every admission with every eviction, format and optimizer: on three shards,
// saved in the middle, and then on two, the rows of the oracle.
TEST(RowRulesTest, EveryPairOfRulesFormatsAndOptimizersAgreesWithMaps) {
  const std::vector<RuledCase> admissions = {
      {"all", {}},
      {"min_count", {.min_count = 3, .candidate_bytes = 48 * 1024 * 11}},
      {"probability", {.probability = 0.4}}};
  const std::vector<RuledCase> evictions = {
      {"none", {}},
      {"age", {.max_age_steps = 24}},
      {"lru", {.row_budget_bytes = 1, .policy = Policy::kLru}},
      {"lfu", {.row_budget_bytes = 1, .policy = Policy::kLfu}},
      {"age_lru",
       {.max_age_steps = 9, .row_budget_bytes = 1, .policy = Policy::kLru}},
      {"age_lfu",
       {.max_age_steps = 24, .row_budget_bytes = 1, .policy = Policy::kLfu}}};
  const std::vector<uint64_t> ids = CrowdedIds(400, 8);
  constexpr int64_t kSteps = 70;
  for (const RuledCase& admission : admissions) {
    for (const RuledCase& eviction : evictions) {
      int64_t dropped = 0;
      int64_t forgotten = 0;
      for (const DType format : {DType::kF32, DType::kBF16, DType::kF16}) {
        for (const std::string& optimizer : OptimizerRegistry().Names()) {
          SCOPED_TRACE(StrCat(admission.name, " ", eviction.name, " ",
                              Name(format), " ", optimizer));
          RowRules rules = admission.rules;
          rules.max_age_steps = eviction.rules.max_age_steps;
          rules.policy = eviction.rules.policy;
          if (eviction.rules.row_budget_bytes > 0) {
            rules.row_budget_bytes = BudgetFor(optimizer, format, rules, 17);
          }
          const ModelSpec model = RuledModel(optimizer, format, rules);
          RulesOracle oracle(model, rules.row_budget_bytes > 0 ? 17 : 0, 11);
          auto shards = std::make_unique<RuledShards>(model, 3);
          Random random(7);
          for (int64_t step = 1; step <= kSteps; ++step) {
            const auto pushed = DrawIds(ids, 40, random);
            shards->Apply(pushed, step);
            oracle.Apply(pushed, step);
            if (step == kSteps / 2) {
              MemoryStorage storage;
              shards->Save(storage);
              shards = std::make_unique<RuledShards>(model, 2);
              shards->Load(storage);
            }
            if (step % 7 != 0) {
              continue;
            }
            ASSERT_EQ(shards->rows(0), oracle.rows()) << "step " << step;
            ASSERT_EQ(shards->rows(1), oracle.candidates()) << "step " << step;
            for (const uint64_t id : DrawIds(ids, 10, random)) {
              const auto& table = *shards->tables[shards->ShardOf(id)][0];
              ASSERT_EQ(RuledPull(table, id), oracle.Pull(id));
            }
          }
          dropped += oracle.dropped();
          forgotten += oracle.forgotten();
        }
      }
      // Each case is about something.
      EXPECT_EQ(dropped > 0, eviction.rules.evicts());
      EXPECT_EQ(forgotten > 0, admission.rules.counts());
    }
  }
}

}  // namespace
}  // namespace shoal::ps
