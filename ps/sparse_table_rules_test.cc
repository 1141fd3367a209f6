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
#include "ps/memory_plan.h"
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

// Ids that crowd the last few of 2^bits parts, so that these overflow.
std::vector<uint64_t> CrowdedIds(size_t n, uint64_t parts, int bits = 10) {
  std::vector<uint64_t> ids;
  for (uint64_t i = 1; ids.size() < n; ++i) {
    if (~IdHash(i) >> (64 - bits) < parts) {
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
      std::vector<bool>& own = slots.emplace_back();
      for (int slot = 0; slot < 1024; ++slot) {
        own.push_back(slot % n == s);
      }
    }
  }

  void Apply(const std::vector<uint64_t>& ids, int64_t step) {
    for (size_t s = 0; s < tables.size(); ++s) {
      // In two commands, as a shard that is in chains of several heads.
      for (const bool upper : {true, false}) {
        std::vector<uint64_t> own;
        std::vector<bool> part = slots[s];
        for (size_t slot = 0; slot < part.size(); ++slot) {
          part[slot] = part[slot] && (slot % 7 < 3) == upper;
        }
        std::copy_if(
            ids.begin(), ids.end(), std::back_inserter(own), [&](uint64_t id) {
              return part[static_cast<size_t>(SlotOfHash(IdHash(id), 10))];
            });
        tables[s][0]->Apply(own, RuledGradients(own, step).data(), 1, step,
                            &part);
      }
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
            .slot_bits = 10,
            .slots = &slots[s]};
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
  std::vector<std::vector<bool>> slots;  // by shard
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

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

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
  int cases = 0;
  int a = 0;
  for (const RuledCase& admission : admissions) {
    ++a;
    int e = 0;
    for (const RuledCase& eviction : evictions) {
      ++e;
      int f = 0;
      int64_t dropped = 0;
      int64_t forgotten = 0;
      for (const DType format : {DType::kF32, DType::kBF16, DType::kF16}) {
        ++f;
        int o = 0;
        for (const std::string& optimizer : OptimizerRegistry().Names()) {
          // Sanitizers take long over a table's first segment, and look for
          // what does not hang on the pair.
          if (kSanitized && (a + e + f + o++) % 9 != 0) {
            continue;
          }
          ++cases;
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
  EXPECT_GE(cases, kSanitized ? 70 : 650);
}

std::unique_ptr<SparseTable> OneTable(const RowRules& rules,
                                      int slot_bits = 10) {
  return std::move(
      RuledTables(RuledModel("sgd", DType::kF32, rules), slot_bits)[0]);
}

void PushAt(SparseTable& table, int64_t step, std::vector<uint64_t> ids) {
  std::sort(ids.begin(), ids.end(), HashLess);
  table.Apply(ids, RuledGradients(ids, step).data(), 1, step);
}

std::set<uint64_t> IdsIn(const SparseTable& table) {
  std::set<uint64_t> ids;
  table.ForEach([&](uint64_t id, std::span<const std::byte>,
                    std::span<const float>) { ids.insert(id); });
  return ids;
}

TEST(RowRulesTest, RowIsMadeByThePushThatIsTheMinCountth) {
  const TableList tables =
      RuledTables(RuledModel("sgd", DType::kF32, {.min_count = 3}));
  SparseTable& table = *tables[0];
  const std::vector<float> first = RuledPull(table, 42);
  PushAt(table, 1, {42});
  PushAt(table, 2, {42, 7});
  EXPECT_EQ(RuledPull(table, 42), first);
  EXPECT_EQ(table.num_rows(), 0);
  EXPECT_EQ(tables[1]->num_rows(), 2);
  PushAt(table, 9, {42});
  // The first two pushes changed nothing.
  const std::vector<float> gradient = RuledGradients({42}, 9);
  for (size_t j = 0; j < first.size(); ++j) {
    EXPECT_EQ(RuledPull(table, 42)[j], first[j] - 0.1F * gradient[j]);
  }
  EXPECT_EQ(IdsIn(table), std::set<uint64_t>{42});
  EXPECT_EQ(IdsIn(*tables[1]), std::set<uint64_t>{7});
  EXPECT_EQ(table.rows_admitted(), 1);
}

// 10,000 draws: 4 deviations. Another step draws anew, another table too.
TEST(RowRulesTest, ProbabilityIsThatOfEachPush) {
  constexpr int64_t kIds = 10'000;
  constexpr double kShare = 0.3;
  const auto table = OneTable({.probability = kShare});
  std::vector<uint64_t> ids(kIds);
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = i;
  }
  const auto near = [](int64_t rows, double share) {
    EXPECT_NEAR(static_cast<double>(rows), share * kIds,
                4 * std::sqrt(share * (1 - share) * kIds));
  };
  PushAt(*table, 1, ids);
  near(table->num_rows(), kShare);
  PushAt(*table, 1, ids);  // the same draws
  near(table->num_rows(), kShare);
  PushAt(*table, 2, ids);
  near(table->num_rows(), 1 - (1 - kShare) * (1 - kShare));
  const std::set<uint64_t> here = IdsIn(*table);
  ModelSpec model = RuledModel("sgd", DType::kF32, {.probability = kShare});
  model.tables[0].name = "linear";
  const TableList other = RuledTables(model);
  PushAt(*other[0], 1, ids);
  PushAt(*other[0], 2, ids);
  EXPECT_NE(IdsIn(*other[0]), here);
}

// Age 80: every group is looked at once in 10 steps.
TEST(RowRulesTest, RowGoesAtTheFirstSweepOfItsGroupAfterItsAge) {
  const auto table = OneTable({.max_age_steps = 80});
  const uint64_t id = 12345;
  const auto group = static_cast<int64_t>(IdHash(id) >> 54);
  PushAt(*table, 100, {id});
  PushAt(*table, 107, {id});  // The last one counts.
  int64_t step = 108;
  while (step < 107 + 80 || (group + step) % 10 != 0) {
    PushAt(*table, step++, {});
    ASSERT_EQ(table->num_rows(), 1) << step;
  }
  EXPECT_LT(step, 107 + 80 + 10);
  PushAt(*table, step, {});
  EXPECT_EQ(table->num_rows(), 0);
  EXPECT_EQ(table->rows_evicted(), 1);
  // Its id starts again from its first value.
  EXPECT_EQ(RuledPull(*table, id), RuledPull(*OneTable({}), id));

  // A push that comes with the sweep is in time.
  PushAt(*table, 1000, {id});
  for (step = 1001; step < 1300; ++step) {
    PushAt(*table, step,
           step >= 1080 ? std::vector<uint64_t>{id} : std::vector<uint64_t>());
    ASSERT_EQ(table->num_rows(), 1) << step;
    if (step < 1080) {
      ASSERT_EQ(table->rows_evicted(), 1);
    }
  }
  EXPECT_EQ(table->rows_admitted(), 2);
}

// Words of 32 bits run over; a row of a later step (of a checkpoint, say) is
// not old.
TEST(RowRulesTest, AgesHoldWhereStepsRunOver) {
  const int64_t end = int64_t{1} << 32;
  const auto table = OneTable({.max_age_steps = 100});
  PushAt(*table, end - 10, {1, 2});
  for (int64_t step = end - 9; step < end + 60; ++step) {
    PushAt(*table, step, {1});
  }
  EXPECT_EQ(IdsIn(*table), (std::set<uint64_t>{1, 2}));
  for (int64_t step = end + 60; step < end + 120; ++step) {
    PushAt(*table, step, {1});
  }
  EXPECT_EQ(IdsIn(*table), std::set<uint64_t>{1});
  for (int64_t step = 1; step < 50; ++step) {
    PushAt(*table, step, {});
  }
  EXPECT_EQ(IdsIn(*table), std::set<uint64_t>{1});
}

// Nine rows in a part for eight: seven stay.
TEST(RowRulesTest, LeastRecentAndLeastFrequentRowsGo) {
  for (const Policy policy : {Policy::kLru, Policy::kLfu}) {
    RowRules rules = {.policy = policy};
    rules.row_budget_bytes = BudgetFor("sgd", DType::kF32, rules, 8);
    const auto table = OneTable(rules);
    std::vector<uint64_t> ids = CrowdedIds(9, 1);
    std::sort(ids.begin(), ids.end(), HashLess);
    // ids[0] often but long ago; the others once each, later and later.
    PushAt(*table, 1, {ids[0]});
    PushAt(*table, 2, {ids[0]});
    for (size_t i = 1; i < 8; ++i) {
      PushAt(*table, static_cast<int64_t>(2 + i), {ids[i]});
    }
    ASSERT_EQ(table->num_rows(), 8);
    PushAt(*table, 20, {ids[8]});
    std::set<uint64_t> want(ids.begin(), ids.end());
    if (policy == Policy::kLru) {
      want.erase(ids[0]);
      want.erase(ids[1]);
    } else {
      want.erase(ids[1]);
      want.erase(ids[2]);
    }
    EXPECT_EQ(IdsIn(*table), want);
    EXPECT_EQ(table->rows_evicted(), 2);
  }
}

// Of equal rows those of the lowest hash go, whatever came first.
TEST(RowRulesTest, EqualRowsGoByTheirHash) {
  RowRules rules;
  rules.row_budget_bytes = BudgetFor("sgd", DType::kF32, rules, 8);
  const auto table = OneTable(rules);
  std::vector<uint64_t> ids = CrowdedIds(20, 1);
  PushAt(*table, 1, ids);
  std::sort(ids.begin(), ids.end(), HashLess);
  EXPECT_EQ(IdsIn(*table), std::set<uint64_t>(ids.end() - 7, ids.end()));
}

// The parts of a budget are the same however many slots there are.
TEST(RowRulesTest, BitsDoNotDependOnTheNumberOfSlots) {
  RowRules rules;
  rules.max_age_steps = 50;
  rules.row_budget_bytes = (int64_t{1} << 19) * 80;
  const auto few = OneTable(rules, 3);
  const auto many = OneTable(rules, 12);
  EXPECT_EQ(few->part_rows_max(), many->part_rows_max());
  EXPECT_LT(few->part_rows_max(), 128);
  const std::vector<uint64_t> ids = CrowdedIds(600, 1, 12);
  Random random(3);
  for (int64_t step = 1; step < 60; ++step) {
    const auto pushed = DrawIds(ids, 50, random);
    PushAt(*few, step, pushed);
    PushAt(*many, step, pushed);
  }
  EXPECT_GT(few->rows_evicted(), 100);
  EXPECT_EQ(RuledRowsOf(*few), RuledRowsOf(*many));
  // Slots are erased, and groups swept, whole, though they are several parts of
  // a table's index.
  for (int64_t slot = 0; slot < 8; ++slot) {
    few->EraseSlot(slot);
  }
  EXPECT_EQ(few->num_rows(), 0);
  EXPECT_GT(many->num_rows(), 0);
  for (int64_t step = 60; step < 60 + 50 + 6; ++step) {
    PushAt(*many, step, {});
  }
  EXPECT_EQ(many->num_rows(), 0);
}

// Many more ids than there is room for: what rows and candidates take stays
// within their budgets at every step, but for the page that each table's rows
// and index may have begun.
TEST(RowRulesTest, BudgetsAreKeptAtEveryStep) {
  constexpr int64_t kBudget = int64_t{16} << 20;
  constexpr int64_t kPages = int64_t{4} << 20;
  for (const Policy policy : {Policy::kLru, Policy::kLfu}) {
    const TableList tables =
        RuledTables(RuledModel("adagrad", DType::kF32,
                               {.min_count = 2,
                                .candidate_bytes = kBudget / 2,
                                .row_budget_bytes = kBudget,
                                .policy = policy}));
    Random random(1);
    int64_t most = 0;
    int64_t most_candidates = 0;
    for (int64_t step = 1; step <= 60; ++step) {
      std::vector<uint64_t> ids(20'000);
      for (uint64_t& id : ids) {
        // Half of them soon come again.
        id = random.Below(2) == 0
                 ? random.Below(200'000)
                 : random.Below(1'000'000'000) * 2 + 1'000'000 + (step % 2);
      }
      std::sort(ids.begin(), ids.end());
      ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
      PushAt(*tables[0], step, ids);
      PushAt(*tables[0], step, {ids.end() - 5'000, ids.end()});
      most = std::max(most, tables[0]->memory_bytes());
      most_candidates = std::max(most_candidates, tables[1]->memory_bytes());
    }
    EXPECT_LT(most, kBudget + kPages);
    EXPECT_LT(most_candidates, kBudget / 2 + kPages);
    // And made use of.
    EXPECT_GT(most, kBudget * 6 / 10);
    EXPECT_GT(most_candidates, kBudget / 2 * 6 / 10);
    EXPECT_GT(tables[0]->rows_evicted(), 30'000);
    EXPECT_GT(tables[1]->rows_evicted(), 100'000);
  }
}

TEST(RowRulesTest, ImpossibleRulesAreRefusedSayingWhatWouldDo) {
  const auto refused = [](const RowRules& rules, const std::string& why,
                          int slot_bits = 10) {
    const auto made =
        MakeTables(RuledModel("sgd", DType::kF32, rules), slot_bits);
    EXPECT_EQ(made.status().code(), StatusCode::kInvalidArgument) << why;
    EXPECT_THAT(made.status().message(), HasSubstr(why));
    EXPECT_THAT(made.status().message(), HasSubstr("embedding"));
  };
  refused({.min_count = 0}, "min_count is 0");
  refused({.min_count = (1 << 24) + 1}, "min_count is 16777217");
  refused({.probability = 0}, "probability is 0");
  refused({.probability = NAN}, "probability is");
  refused({.probability = 1.5}, "probability is 1.5");
  refused({.min_count = 2, .probability = 0.5}, "by count or by chance");
  refused({.max_age_steps = -1}, "max_age_steps is -1");
  refused({.max_age_steps = int64_t{1} << 31}, "max_age_steps is 2147483648");
  refused({.row_budget_bytes = -1}, "a budget is -1 bytes");
  refused({.row_budget_bytes = int64_t{1} << 51}, "a budget is");
  refused({.min_count = 2, .candidate_bytes = 0}, "candidate_bytes");
  // 16 bytes of row with its step, and 32 of index, in each of 1024 parts.
  refused({.row_budget_bytes = 1000}, "give 49152 or more");
  EXPECT_TRUE(
      MakeTables(RuledModel("sgd", DType::kF32, {.row_budget_bytes = 49152}),
                 10)
          .ok());
  refused({.row_budget_bytes = 49152}, "give 6291456 or more", 11);
  EXPECT_TRUE(
      MakeTables(RuledModel("sgd", DType::kF32, {.row_budget_bytes = 6291456}),
                 11)
          .ok());
  refused({.row_budget_bytes = int64_t{1} << 40}, "use fewer shards", 17);
}

// Steps whose bits are those of a signalling NaN, of a quiet one and of the
// least denormal: no float operation on the way to disk and back, or beside a
// widened row, has touched them.
TEST(RowRulesTest, WordsKeepTheirBitsInMemoryAndOnDisk) {
  for (const DType format : {DType::kF32, DType::kBF16, DType::kF16}) {
    const ModelSpec model =
        RuledModel("adagrad", format,
                   {.row_budget_bytes = 1 << 20, .policy = Policy::kLfu});
    const RuledShards from(model, 1);
    MemoryStorage storage;
    const std::vector<uint32_t> steps = {0x7f800001U, 0xffc00001U, 1U};
    for (size_t i = 0; i < steps.size(); ++i) {
      PushAt(*from.tables[0][0], steps[i], {i});
      PushAt(*from.tables[0][0], steps[i], {i});
    }
    from.Save(storage);
    const RuledShards to(model, 1);
    to.Load(storage);
    for (size_t i = 0; i < steps.size(); ++i) {
      const std::vector<uint32_t> state = to.rows(0).at(i).state;
      EXPECT_EQ(state[state.size() - 2], steps[i]) << Name(format);
      EXPECT_EQ(state.back(), 2U);
    }
  }
}

// A checkpoint of other rules is of another table.
TEST(RowRulesTest, RowsWithOtherWordsAreNotLoaded) {
  const ModelSpec lru =
      RuledModel("sgd", DType::kF32, {.row_budget_bytes = 1 << 20});
  const ModelSpec lfu =
      RuledModel("sgd", DType::kF32,
                 {.row_budget_bytes = 1 << 20, .policy = Policy::kLfu});
  const RuledShards from(lru, 1);
  MemoryStorage storage;
  from.Save(storage);
  const RuledShards to(lfu, 1);
  const Status loaded = LoadParts(storage, "job/step-1", to.state(0));
  EXPECT_EQ(loaded.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(loaded.message(), HasSubstr("eviction"));
}

}  // namespace
}  // namespace shoal::ps
