// A table is saved full now and then, and in between by what it marked; what
// the chain gives back is what the table had, by a plain map of its rows.
#include "ps/changed_rows.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gtest/gtest.h"

#include "base/random.h"
#include "ps/slots.h"
#include "ps/sparse_table.h"
#include "ps/spill_testing.h"
#include "ps/table_snapshot.h"
#include "ps/table_testing.h"

namespace shoal::ps {
namespace {

TEST(ChangedSetTest, GivesEachIdOnceInTheOrderOfHashes) {
  ChangedSet set(2, /*whole=*/false);
  std::vector<uint64_t> want;
  for (uint64_t id = 0; want.size() < 40; ++id) {
    if (SlotOfHash(IdHash(id), 2) != 1) {
      continue;
    }
    want.push_back(id);
    for (int twice = 0; twice < 2; ++twice) {
      while (!set.Add(1, id)) {
        set.MakeRoom(1, 1000, 1 << 20);
      }
    }
  }
  std::sort(want.begin(), want.end(),
            [](uint64_t a, uint64_t b) { return IdHash(a) < IdHash(b); });
  const auto got = set.In(1);
  EXPECT_EQ(std::vector<uint64_t>(got.begin(), got.end()), want);
  EXPECT_TRUE(set.Has(1, IdHash(want[7])));
  EXPECT_FALSE(set.Has(1, IdHash(want[7]) + 1));
  EXPECT_TRUE(set.In(0).empty());
}

TEST(ChangedSetTest, BeyondItsBoundsASlotIsWhole) {
  for (const bool by_bytes : {false, true}) {
    ChangedSet set(2, /*whole=*/false);
    const int64_t empty = set.bytes();
    uint64_t added = 0;
    for (uint64_t id = 0; !set.IsWhole(3) && id < 1000; ++id, ++added) {
      while (!set.Add(3, id)) {
        set.MakeRoom(3, by_bytes ? 100000 : 50,
                     by_bytes ? empty + 400 : 100000);
      }
    }
    EXPECT_GE(added, 25U);
    EXPECT_LE(added, 75U);
    EXPECT_EQ(set.bytes(), empty) << "its ids are let go of";
    EXPECT_TRUE(set.Add(3, 5000)) << "needs no room";
  }
}

TEST(ChangedRowsTest, WhatIsNotSurelyKnownIsWhole) {
  const auto whole = [](const std::shared_ptr<ChangedSet>& set) {
    return set->IsWhole(0);
  };
  ChangedRows changes(1, 0);
  const auto mark = [&](uint64_t id) {
    while (!changes.OnInsert(0, id, static_cast<uint32_t>(id))) {
      changes.MakeRoom(0, 100);
    }
  };
  mark(1);
  EXPECT_TRUE(whole(changes.Cut(10, std::nullopt)));
  mark(2);
  const auto at_20 = changes.Cut(20, 10);
  EXPECT_FALSE(whole(at_20));
  EXPECT_EQ(at_20->In(0).size(), 1U);
  // That of step 20 is given up, twice: the next is based on 10 too.
  mark(3);
  EXPECT_EQ(changes.Cut(30, 10)->In(0).size(), 2U);
  mark(4);
  EXPECT_EQ(changes.Cut(40, 10)->In(0).size(), 3U);
  // The same cut, asked for anew.
  EXPECT_EQ(changes.Cut(40, 10)->In(0).size(), 3U);
  mark(5);
  EXPECT_EQ(changes.Cut(50, 40)->In(0).size(), 1U);
  // Of another one's checkpoint nothing is known.
  EXPECT_TRUE(whole(changes.Cut(60, 45)));
  mark(6);
  EXPECT_EQ(changes.Cut(70, 60)->In(0).size(), 1U);
  // A slot that comes or goes.
  changes.Forget(0);
  mark(7);
  EXPECT_TRUE(whole(changes.Cut(80, 70)));
  // And if that one is given up.
  mark(8);
  EXPECT_TRUE(whole(changes.Cut(90, 70)));
  mark(9);
  EXPECT_FALSE(whole(changes.Cut(100, 90)));
  EXPECT_TRUE(whole(changes.Cut(110, std::nullopt)));
}

struct Case {
  std::string name;
  RowRules rules = {};
  bool spills = false;
  int64_t mark_bytes_max = 0;
};

// A row's bytes.
using Rows = std::map<uint64_t, std::vector<std::byte>>;

std::vector<std::byte> BytesOf(std::span<const std::byte> values,
                               std::span<const float> state) {
  std::vector<std::byte> bytes(values.begin(), values.end());
  const auto more = std::as_bytes(state);
  bytes.insert(bytes.end(), more.begin(), more.end());
  return bytes;
}

TEST(ChangedRowsTest, NothingIsBasedOnACutThatWasAskedForLate) {
  ChangedRows changes(2, 0);
  changes.Cut(10, std::nullopt);
  changes.Cut(30, 10);
  EXPECT_TRUE(changes.Cut(20, 10)->IsWhole(0));
  EXPECT_TRUE(changes.Cut(40, 20)->IsWhole(0)) << "that of 20 was of 30's time";
  EXPECT_FALSE(changes.Cut(50, 40)->IsWhole(0));
}

class MarkedTableTest : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr int kSlotBits = 6;
  static constexpr int64_t kDim = 3;

  MarkedTableTest() {
    SparseTable::Options options = {
        .name = "t",
        .dim = kDim,
        .optimizer = {.kind = "adagrad"},
        .slot_bits = kSlotBits,
        .rules = GetParam().rules,
        .marks_changes = true,
        .mark_bytes_max = GetParam().mark_bytes_max};
    if (options.rules.counts()) {
      candidates_ = *SparseTable::Create(CandidateOptions(options));
      options.candidates = candidates_.get();
    }
    if (GetParam().spills) {
      store_ = TinyStore(folder_);
      options.spill = store_.get();
      options.memory_bytes_max = 160 << 10;
    }
    table_ = *SparseTable::Create(options);
  }

  void Apply(Random& random) { StepSomeIds(random, 4000, ++step_, *table_); }

  static Rows RowsOf(const SparseTable& table) {
    Rows rows;
    table.ForEach([&](uint64_t id, std::span<const std::byte> values,
                      std::span<const float> state) {
      rows[id] = BytesOf(values, state);
    });
    return rows;
  }

  TempFolder folder_;
  std::unique_ptr<SpillStore> store_;
  std::unique_ptr<SparseTable> candidates_;
  std::unique_ptr<SparseTable> table_;
  int64_t step_ = 0;
};

TEST_P(MarkedTableTest, WhatChangedOverTheBaseIsWhatIsThere) {
  constexpr uint64_t kSeed = 3;
  Random random(kSeed);
  std::map<SparseTable*, Rows> published;  // of the last that was not given up
  std::optional<int64_t> base;
  int64_t cut = 0;
  int64_t written = 0;
  int64_t there = 0;
  int64_t removed = 0;
  for (int round = 0; round < 60; ++round) {
    SCOPED_TRACE(testing::Message() << "seed " << kSeed << " round " << round);
    for (int i = 0; i < (round == 0 ? 300 : 8); ++i) {
      Apply(random);
    }
    if (round % 10 == 9) {
      // A slot goes and comes back, changed on the way by whoever had it.
      const auto slot = static_cast<int64_t>(random.Below(1 << kSlotBits));
      std::vector<uint64_t> ids;
      std::vector<float> states;
      table_->ForEachInSlot(slot, [&](uint64_t id, std::span<const std::byte>,
                                      std::span<const float> state) {
        ids.push_back(id);
        states.insert(states.end(), state.begin(), state.end());
      });
      table_->EraseSlot(slot);
      const std::vector<float> values(ids.size() * kDim, 0.25F);
      table_->Load(ids, std::as_bytes(std::span(values)), states);
    }
    ++cut;
    const bool given_up = random.Below(3) == 0;
    for (SparseTable* table : {table_.get(), candidates_.get()}) {
      if (table == nullptr) {
        continue;
      }
      const Rows want = RowsOf(*table);
      const std::shared_ptr<ChangedSet> changed = table->CutChanges(cut, base);
      TableSnapshot snapshot(*table, nullptr, changed);
      Rows got = published[table];
      for (auto it = got.begin(); it != got.end();) {
        const int64_t slot = SlotOfHash(IdHash(it->first), kSlotBits);
        it = changed->IsWhole(slot) ? got.erase(it) : std::next(it);
      }
      for (bool more = true; more;) {
        Apply(random);
        uint64_t rows = 1 + random.Below(100);
        more = snapshot.Next([&](uint64_t id, std::span<const std::byte> values,
                                 std::span<const float> state) {
          if (values.empty()) {
            got.erase(id);
            ++removed;
          } else {
            got[id] = BytesOf(values, state);
            ++written;
          }
          return --rows > 0;
        });
      }
      ASSERT_TRUE(table->status().ok()) << table->status();
      ASSERT_EQ(got, want);
      there += static_cast<int64_t>(want.size());
      if (!given_up) {
        published[table] = want;
      }
    }
    if (!given_up) {
      base = cut;
    }
    if (round == 40) {
      base.reset();  // Another coordinator, say.
    }
  }
  const bool drops = GetParam().rules.evicts() || GetParam().rules.counts();
  EXPECT_EQ(removed > 0, drops);
  if (GetParam().mark_bytes_max == 0 && !drops) {
    EXPECT_LT(written, there * 2 / 3);
  }
  if (GetParam().spills) {
    EXPECT_GT(table_->num_rows(), table_->rows_in_memory());
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, MarkedTableTest,
    ::testing::Values(
        Case{"plain"}, Case{.name = "little_room", .mark_bytes_max = 6000},
        Case{.name = "age", .rules = {.max_age_steps = 40}},
        Case{.name = "lru", .rules = {.row_budget_bytes = 128 << 10}},
        Case{.name = "counts", .rules = {.min_count = 3, .max_age_steps = 60}},
        Case{.name = "disk", .spills = true},
        Case{.name = "disk_and_age",
             .rules = {.max_age_steps = 40},
             .spills = true},
        Case{.name = "disk_and_lfu",
             .rules = {.row_budget_bytes = 192 << 10,
                       .policy = RowRules::Policy::kLfu},
             .spills = true}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace shoal::ps
