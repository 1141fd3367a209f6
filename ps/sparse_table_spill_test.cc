// A table that spills is the table that does not, whatever is done to it: the
// oracle is the same table with all rows in memory.
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/random.h"
#include "base/strcat.h"
#include "ps/slots.h"
#include "ps/sparse_table.h"
#include "ps/spill_testing.h"

namespace shoal::ps {
namespace {

using ::testing::HasSubstr;

// One that fails from its nth call on, as if the disk had gone.
class FailingStore : public SpillStore {
 public:
  explicit FailingStore(SpillStore& store) : store_(store) {}
  void FailAfter(int calls) { left_ = calls; }
  int left() const { return left_; }

  Status Get(int table, std::span<const uint64_t> ids,
             FunctionRef<void(size_t, std::span<const std::byte>)> found)
      const override {
    return Fails() ? error_ : store_.Get(table, ids, found);
  }
  Status Put(int table, std::span<const Row> rows) override {
    return Fails() ? error_ : store_.Put(table, rows);
  }
  Status Erase(int table, std::span<const uint64_t> ids) override {
    return Fails() ? error_ : store_.Erase(table, ids);
  }
  Status EraseRange(int table, uint64_t first, uint64_t last) override {
    return Fails() ? error_ : store_.EraseRange(table, first, last);
  }
  Status ForEach(int table, uint64_t first, uint64_t last,
                 FunctionRef<void(uint64_t, std::span<const std::byte>)> visit)
      const override {
    return Fails() ? error_ : store_.ForEach(table, first, last, visit);
  }
  Status status() const override { return left_ < 0 ? error_ : OkStatus(); }
  int64_t memory_bytes() const override { return store_.memory_bytes(); }

 private:
  bool Fails() const {
    left_ = left_ < 0 ? left_ : left_ - 1;
    return left_ < 0;
  }
  SpillStore& store_;
  mutable int left_ = 1 << 30;
  const Status error_ = UnavailableError("rows on disk: /x: broken");
};

using Bits = std::vector<std::byte>;
void Append(const void* data, size_t bytes, Bits& out) {
  const auto* from = static_cast<const std::byte*>(data);
  out.insert(out.end(), from, from + bytes);
}

// Ids, values and state in the order of the walk.
Bits AllBits(const SparseTable& table) {
  Bits bits;
  table.ForEach([&](uint64_t id, std::span<const std::byte> values,
                    std::span<const float> state) {
    Append(&id, sizeof(id), bits);
    Append(values.data(), values.size(), bits);
    Append(state.data(), state.size_bytes(), bits);
  });
  return bits;
}

// A table and the table of its candidates, if it has one.
struct Tables {
  std::unique_ptr<SparseTable> candidates;
  std::unique_ptr<SparseTable> rows;
};

Tables MakeBoth(SparseTable::Options options) {
  Tables out;
  if (options.rules.counts()) {
    out.candidates = *SparseTable::Create(CandidateOptions(options));
    options.candidates = out.candidates.get();
  }
  auto made = SparseTable::Create(options);
  EXPECT_TRUE(made.ok()) << made.status();
  out.rows = *std::move(made);
  return out;
}

const std::vector<RowRules>& RuleSets() {
  static const auto* const kSets = new std::vector<RowRules>{
      {},
      {.min_count = 2, .candidate_bytes = 1 << 20},
      {.probability = 0.5},
      {.max_age_steps = 12},
      {.row_budget_bytes = 1024 * 250},
      {.row_budget_bytes = 1024 * 250, .policy = RowRules::Policy::kLfu},
      {.min_count = 2,
       .candidate_bytes = 1 << 20,
       .max_age_steps = 30,
       .row_budget_bytes = 1024 * 400,
       .policy = RowRules::Policy::kLfu},
  };
  return *kSets;
}

class SpilledTableTest
    : public ::testing::TestWithParam<std::tuple<std::string, DType, size_t>> {
};

SparseTable::Options OptionsOf(const std::string& optimizer, DType format,
                               const RowRules& rules) {
  SparseTable::Options options;
  options.name = "embedding";
  options.dim = 6;
  options.optimizer.kind = optimizer;
  options.optimizer.learning_rate = 0.1;
  options.initializer = {Initializer::Kind::kUniform, 0.5};
  options.seed = 5;
  options.format = format;
  options.rules = rules;
  return options;
}

// The least that holds rows at all, some 150 to 450 of them.
constexpr int64_t kTinyMemory = 120 << 10;

// Ids of which few are much more often.
std::vector<uint64_t> SomeIds(Random& random, size_t n) {
  std::set<uint64_t> distinct;
  while (distinct.size() < n) {
    const double u = random.Uniform();
    distinct.insert(static_cast<uint64_t>(u * u * u * 3000));
  }
  std::vector<uint64_t> ids(distinct.begin(), distinct.end());
  std::sort(ids.begin(), ids.end(),
            [](uint64_t a, uint64_t b) { return IdHash(a) < IdHash(b); });
  return ids;
}

void ExpectSame(const SparseTable& spilled, const SparseTable& memory) {
  ASSERT_TRUE(spilled.status().ok()) << spilled.status();
  EXPECT_LE(spilled.rows_in_memory(), spilled.rows_in_memory_max());
  EXPECT_EQ(spilled.num_rows(), memory.num_rows());
  EXPECT_EQ(spilled.rows_evicted(), memory.rows_evicted());
  EXPECT_EQ(spilled.rows_admitted(), memory.rows_admitted());
  for (int64_t slot = 0; slot < 1024; ++slot) {
    ASSERT_EQ(spilled.num_rows_in(slot), memory.num_rows_in(slot)) << slot;
  }
  ASSERT_EQ(AllBits(spilled), AllBits(memory));
}

TEST_P(SpilledTableTest, AnyStreamOfCallsGivesTheBitsOfATableInMemory) {
  const auto& [optimizer, format, rules] = GetParam();
  const TempFolder folder;
  const auto store = TinyStore(folder);
  SparseTable::Options options =
      OptionsOf(optimizer, format, RuleSets()[rules]);
  const Tables memory = MakeBoth(options);
  options.spill = store.get();
  options.spill_table = 3;
  options.memory_bytes_max = kTinyMemory;
  const Tables spilled = MakeBoth(options);
  SparseTable& a = *spilled.rows;
  SparseTable& b = *memory.rows;
  ASSERT_LT(a.rows_in_memory_max(), 500);
  Random random(rules * 31 + static_cast<uint64_t>(format));
  std::vector<bool> slots(1024, true);
  int64_t most_away = 0;
  for (int64_t step = 1; step <= 60; ++step) {
    const auto ids = SomeIds(random, 50 + random.Below(250));
    const size_t floats = ids.size() * static_cast<size_t>(a.dim());
    std::vector<float> of_a(floats);
    std::vector<float> of_b(floats);
    if (random.Below(3) > 0) {
      a.PullAndKeep(ids, of_a.data());
    } else {
      a.Pull(ids, of_a.data());
    }
    b.Pull(ids, of_b.data());
    ASSERT_EQ(std::memcmp(of_a.data(), of_b.data(), floats * 4), 0) << step;
    std::vector<float> gradients(floats);
    for (float& g : gradients) {
      g = static_cast<float>(random.Uniform() - 0.5);
    }
    a.Apply(ids, gradients.data(), 1, step, &slots);
    b.Apply(ids, gradients.data(), 1, step, &slots);
    if (step % 11 == 0) {
      for (int i = 0; i < 30; ++i) {
        const auto slot = static_cast<int64_t>(random.Below(1024));
        a.EraseSlot(slot);
        b.EraseSlot(slot);
      }
    }
    if (step % 7 == 0) {
      const auto loaded = SomeIds(random, 1 + random.Below(300));
      std::vector<std::byte> values(loaded.size() *
                                    static_cast<size_t>(a.value_bytes()));
      for (std::byte& value : values) {
        value = static_cast<std::byte>(random.Below(60));
      }
      const std::vector<float> states(
          loaded.size() * static_cast<size_t>(a.state_floats()), 0.25F);
      a.Load(loaded, values, states);
      b.Load(loaded, values, states);
    }
    if (step % 15 == 0) {
      ExpectSame(a, b);
    }
    most_away = std::max(most_away, a.num_rows() - a.rows_in_memory());
  }
  ExpectSame(a, b);
  EXPECT_GT(most_away, 100);
  EXPECT_GT(a.rows_fetched(), 100);
  EXPECT_LE(a.memory_bytes(), kTinyMemory);
}

std::string NameOf(
    const ::testing::TestParamInfo<SpilledTableTest::ParamType>& info) {
  const auto& [optimizer, format, rules] = info.param;
  return StrCat(optimizer, "_", Name(format), "_", rules);
}

INSTANTIATE_TEST_SUITE_P(Rules, SpilledTableTest,
                         ::testing::Combine(::testing::Values("adagrad", "sgd"),
                                            ::testing::Values(DType::kF32,
                                                              DType::kBF16,
                                                              DType::kF16),
                                            ::testing::Range<size_t>(0, 7)),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(
    Optimizers, SpilledTableTest,
    ::testing::Combine(::testing::Values("momentum", "nesterov",
                                         "rowwise_adagrad", "adadelta",
                                         "rmsprop", "adam", "lazy_adam",
                                         "adamax", "amsgrad", "ftrl",
                                         "group_ftrl"),
                       ::testing::Values(DType::kF32, DType::kBF16),
                       ::testing::Values<size_t>(0, 6)),
    NameOf);

// Wherever the disk fails first, it is told, and what is still in memory stays.
TEST(SpilledTableErrorTest, NoFailureOfTheDiskIsSilent) {
  const TempFolder folder;
  SparseTable::Options options =
      OptionsOf("adagrad", DType::kF32, {.max_age_steps = 9});
  options.memory_bytes_max = kTinyMemory;
  int failed = 0;
  for (int calls = 0; calls < 150; ++calls) {
    SCOPED_TRACE(calls);
    const auto disk = TinyStore(folder);
    FailingStore store(*disk);
    store.FailAfter(calls);
    options.spill = &store;
    const auto table = *SparseTable::Create(options);
    Random random(7);
    for (int64_t step = 1; step <= 12 && table->status().ok(); ++step) {
      const auto ids = SomeIds(random, 200);
      std::vector<float> rows(ids.size() * 6, 0.5F);
      if (step % 2 == 0) {
        table->PullAndKeep(ids, rows.data());
      } else {
        table->Pull(ids, rows.data());
      }
      table->Apply(ids, rows.data(), 1, step);
      if (step % 4 == 0) {
        AllBits(*table);
        table->EraseSlot(step);
        table->Load(
            step, std::vector<std::byte>(24),
            std::vector<float>(static_cast<size_t>(table->state_floats())));
      }
    }
    failed += table->status().ok() ? 0 : 1;
    EXPECT_EQ(table->status().ok(), store.left() >= 0);
  }
  EXPECT_GT(failed, 50);
}

TEST(SpilledTableErrorTest, RowsThatCantBeWrittenStayInMemory) {
  const TempFolder folder;
  const auto disk = TinyStore(folder);
  FailingStore store(*disk);
  store.FailAfter(0);
  SparseTable::Options options = OptionsOf("sgd", DType::kF32, {});
  options.memory_bytes_max = kTinyMemory;
  options.spill = &store;
  const auto table = *SparseTable::Create(options);
  Random random(1);
  const auto ids = SomeIds(random, 1000);
  const std::vector<float> gradients(ids.size() * 6, 1);
  table->Apply(ids, gradients.data(), 1, 1);
  EXPECT_EQ(table->status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(table->rows_in_memory(), 1000);
  EXPECT_EQ(table->num_rows(), 1000);
}

TEST(SpilledTableErrorTest, TooLittleMemoryIsRefusedSayingHowMuchWouldDo) {
  SparseTable::Options options = OptionsOf("adagrad", DType::kF32, {});
  options.memory_bytes_max = 50000;
  const auto made = SparseTable::Create(options);
  ASSERT_EQ(made.status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(made.status().message(),
              ::testing::AllOf(HasSubstr("'embedding'"), HasSubstr("50000"),
                               HasSubstr("cluster.memory_per_server")));
  const std::string text(made.status().message());
  const size_t at = text.find("needs ") + 6;
  options.memory_bytes_max = std::stoll(text.substr(at));
  EXPECT_TRUE(SparseTable::Create(options).ok());
}

}  // namespace
}  // namespace shoal::ps
