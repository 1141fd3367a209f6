// A snapshot gives what ForEach() gave at the cut, whatever happens to the
// table while it is read.
#include "ps/table_snapshot.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"

#include "base/random.h"
#include "ps/slots.h"
#include "ps/sparse_table.h"
#include "ps/spill_testing.h"
#include "ps/table_testing.h"

namespace shoal::ps {
namespace {

struct SnapshotRow {
  uint64_t id;
  std::vector<std::byte> values;
  std::vector<float> state;
  friend bool operator==(const SnapshotRow&, const SnapshotRow&) = default;
};

void PrintTo(const SnapshotRow& row, std::ostream* out) {
  *out << "row " << row.id;
}

SnapshotRow RowFrom(uint64_t id, std::span<const std::byte> values,
                    std::span<const float> state) {
  return {id, {values.begin(), values.end()}, {state.begin(), state.end()}};
}

std::vector<SnapshotRow> RowsOfAll(const SparseTable& table) {
  std::vector<SnapshotRow> rows;
  table.ForEach([&](uint64_t id, std::span<const std::byte> values,
                    std::span<const float> state) {
    rows.push_back(RowFrom(id, values, state));
  });
  return rows;
}

struct SnapshotCase {
  std::string name;
  RowRules rules = {};
  DType format = DType::kF32;
  bool spills = false;
};

class TableSnapshotTest : public ::testing::TestWithParam<SnapshotCase> {
 protected:
  static constexpr int kSlotBits = 4;
  static constexpr int64_t kDim = 3;
  static constexpr uint64_t kIds = 4000;

  TableSnapshotTest() {
    options_ = {.name = "t",
                .dim = kDim,
                .optimizer = {.kind = "adagrad"},
                .initializer = {Initializer::Kind::kUniform, 0.1},
                .slot_bits = kSlotBits,
                .format = GetParam().format,
                .rules = GetParam().rules};
    if (options_.rules.counts()) {
      candidates_ = *SparseTable::Create(CandidateOptions(options_));
      options_.candidates = candidates_.get();
    }
    if (GetParam().spills) {
      store_ = TinyStore(folder_);
      options_.spill = store_.get();
      options_.memory_bytes_max = 160 << 10;
    }
    auto table = SparseTable::Create(options_);
    EXPECT_TRUE(table.ok()) << table.status();
    table_ = *std::move(table);
  }

  // A step of some ids, the first ones more often.
  void Apply(Random& random) { StepSomeIds(random, kIds, ++step_, *table_); }

  // A slot goes to another shard; every other one comes back, changed.
  void MoveSlot(Random& random) {
    const auto slot = static_cast<int64_t>(random.Below(1 << kSlotBits));
    const bool comes_back = random.Below(2) == 0;
    for (SparseTable* table : {table_.get(), candidates_.get()}) {
      if (table == nullptr) {
        continue;
      }
      std::vector<SnapshotRow> rows;
      table->ForEachInSlot(slot,
                           [&](uint64_t id, std::span<const std::byte> values,
                               std::span<const float> state) {
                             rows.push_back(RowFrom(id, values, state));
                           });
      table->EraseSlot(slot);
      ASSERT_EQ(table->num_rows_in(slot), 0);
      for (SnapshotRow& row : rows) {
        row.values[0] ^= std::byte{1};
        if (comes_back) {
          table->Load(row.id, row.values, row.state);
        }
      }
    }
  }

  TempFolder folder_;
  std::unique_ptr<SpillStore> store_;
  SparseTable::Options options_;
  std::unique_ptr<SparseTable> candidates_;
  std::unique_ptr<SparseTable> table_;
  int64_t step_ = 0;
};

TEST_P(TableSnapshotTest, GivesWhatWasThereAtTheCut) {
  const uint64_t kSeed = 5;
  Random random(kSeed);
  int64_t kept = 0;
  int64_t of_candidates = 0;
  for (int round = 0; round < 30; ++round) {
    SCOPED_TRACE(testing::Message() << "seed " << kSeed << " round " << round);
    for (int i = 0; i < 60; ++i) {
      Apply(random);
    }
    // Of counted ids, those that wait, in every other round.
    const bool is_candidates = candidates_ != nullptr && round % 2 == 1;
    SparseTable& table = is_candidates ? *candidates_ : *table_;
    const std::vector<SnapshotRow> want = RowsOfAll(table);
    TableSnapshot snapshot(table, nullptr);
    const int64_t before = snapshot.kept_bytes();
    std::vector<SnapshotRow> got;
    for (bool more = true; more;) {
      for (uint64_t i = random.Below(4); i > 0; --i) {
        Apply(random);
      }
      if (random.Below(8) == 0) {
        MoveSlot(random);
      }
      uint64_t rows = 1 + random.Below(100);
      more = snapshot.Next([&](uint64_t id, std::span<const std::byte> values,
                               std::span<const float> state) {
        got.push_back(RowFrom(id, values, state));
        return --rows > 0;
      });
    }
    ASSERT_TRUE(table.status().ok()) << table.status();
    ASSERT_EQ(got, want);
    kept += snapshot.kept_bytes() - before;
    of_candidates += is_candidates ? static_cast<int64_t>(got.size()) : 0;
    EXPECT_NE(RowsOfAll(table), want);
  }
  EXPECT_GT(kept, 0) << "no row changed before it was read";
  EXPECT_EQ(of_candidates > 0, candidates_ != nullptr);
  if (options_.rules.evicts()) {
    EXPECT_GT(table_->rows_evicted(), 0);
  }
  if (GetParam().spills) {
    EXPECT_GT(table_->num_rows(), table_->rows_in_memory());
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, TableSnapshotTest,
    ::testing::Values(
        SnapshotCase{"plain"},
        SnapshotCase{.name = "bf16", .format = DType::kBF16},
        SnapshotCase{.name = "age", .rules = {.max_age_steps = 40}},
        SnapshotCase{.name = "lru", .rules = {.row_budget_bytes = 128 << 10}},
        SnapshotCase{.name = "counts",
                     .rules = {.min_count = 3, .max_age_steps = 60}},
        SnapshotCase{.name = "disk", .spills = true},
        SnapshotCase{.name = "disk_and_age",
                     .rules = {.max_age_steps = 40},
                     .spills = true},
        SnapshotCase{.name = "disk_and_lfu",
                     .rules = {.row_budget_bytes = 192 << 10,
                               .policy = RowRules::Policy::kLfu},
                     .spills = true}),
    [](const auto& info) { return info.param.name; });

class SnapshotOfSlotsTest : public ::testing::Test {
 protected:
  SnapshotOfSlotsTest() {
    table_ = *SparseTable::Create({.name = "t", .dim = 1, .slot_bits = 2});
    const float gradient = 1;
    for (uint64_t id = 0; id < 100; ++id) {
      table_->Apply({&id, 1}, &gradient, 1, 1);
    }
  }
  // Reads a row. False: none was left.
  static bool ReadOne(TableSnapshot& snapshot) {
    return snapshot.Next([](uint64_t, std::span<const std::byte>,
                            std::span<const float>) { return false; });
  }

  std::unique_ptr<SparseTable> table_;
  const std::vector<bool> slots_ = {true, false, true, true};
};

TEST_F(SnapshotOfSlotsTest, GivesTheirRowsAndNoneOfSlotsThatCome) {
  const int64_t in_second = table_->num_rows_in(1);
  TableSnapshot snapshot(*table_, &slots_);
  const float value = 1;
  const std::vector<float> state(static_cast<size_t>(table_->state_floats()));
  for (uint64_t id = 100; id < 200; ++id) {
    if (SlotOfHash(IdHash(id), 2) == 1) {
      table_->Load(id, std::as_bytes(std::span(&value, 1)), state);
    }
  }
  ASSERT_GT(table_->num_rows_in(1), in_second);
  int64_t rows = 0;
  EXPECT_FALSE(snapshot.Next(
      [&](uint64_t id, std::span<const std::byte>, std::span<const float>) {
        EXPECT_NE(SlotOfHash(IdHash(id), 2), 1);
        ++rows;
        return true;
      }));
  EXPECT_EQ(rows, 100 - in_second);
}

TEST_F(SnapshotOfSlotsTest, KeepsRowsOfSlotsThatGoBeforeTheyAreRead) {
  TableSnapshot snapshot(*table_, &slots_);
  const int64_t nothing = snapshot.kept_bytes();
  const int64_t in_third = table_->num_rows_in(2);
  const int64_t in_fourth = table_->num_rows_in(3);
  table_->EraseSlot(1);
  EXPECT_EQ(snapshot.kept_bytes(), nothing) << "not of this one";
  for (int64_t i = table_->num_rows_in(0) + 1; i > 0; --i) {
    ASSERT_TRUE(ReadOne(snapshot));
  }
  table_->EraseSlot(0);
  EXPECT_EQ(snapshot.kept_bytes(), nothing) << "read already";
  table_->EraseSlot(2);
  EXPECT_GT(snapshot.kept_bytes(), nothing) << "it is in the middle of this";
  table_->EraseSlot(3);
  int64_t rows = 1;  // One of the third was read.
  while (ReadOne(snapshot)) {
    ++rows;
  }
  EXPECT_EQ(rows, in_third + in_fourth);
}

}  // namespace
}  // namespace shoal::ps
