#include "ps/row_index.h"

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "gtest/gtest.h"

#include "base/random.h"

namespace shoal::ps {
namespace {

// Against std::unordered_map, with parts so few that buckets run over and wrap
// around, and ids of one part's last bucket among them.
TEST(RowIndexTest, AgreesWithAnUnorderedMap) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    RowIndex index(seed % 2 == 0 ? 1 : 4);
    std::unordered_map<uint64_t, uint32_t> model;
    for (int i = 0; i < 20000; ++i) {
      const uint64_t id = random.Below(6000);
      const auto it = model.find(id);
      ASSERT_EQ(index.Find(IdHash(id), id),
                it == model.end() ? RowIndex::kNone : it->second);
      const auto number = static_cast<uint32_t>(random.Below(RowIndex::kNone));
      if (it == model.end()) {
        index.Insert(IdHash(id), id, number);
        model[id] = number;
      } else if (random.Below(3) == 0) {
        index.Erase(IdHash(id), id);
        model.erase(it);
      }
      if (random.Below(500) == 0) {
        const auto part = static_cast<int64_t>(
            random.Below(static_cast<uint64_t>(index.num_parts())));
        const uint64_t divisor = 1 + random.Below(4);
        const auto gone = [&](uint64_t id, uint32_t) {
          return id % divisor == 0;
        };
        index.EraseIf(part, gone);
        std::erase_if(model, [&](const auto& entry) {
          return index.PartOf(IdHash(entry.first)) == part &&
                 gone(entry.first, 0);
        });
      }
    }
    size_t visited = 0;
    int64_t counted = 0;
    for (int64_t part = 0; part < index.num_parts(); ++part) {
      counted += index.count(part);
      index.ForEach(part, [&](uint64_t id, uint32_t number) {
        ++visited;
        EXPECT_EQ(model.at(id), number);
        EXPECT_EQ(index.PartOf(IdHash(id)), part);
      });
    }
    EXPECT_EQ(visited, model.size());
    EXPECT_EQ(counted, static_cast<int64_t>(model.size()));
  }
}

// Halves become whole again: what all owners left is enough for all of them at
// twice the size.
TEST(HugeBlocksTest, WhatIsFreedIsUsedAgain) {
  HugeBlocks blocks;
  std::vector<void*> owned(4096);
  for (void*& block : owned) {
    block = blocks.Allocate(4);
  }
  const int64_t before = blocks.bytes();
  EXPECT_EQ(before, int64_t{4} << 20);
  for (void*& block : owned) {
    void* const larger = blocks.Allocate(5);
    blocks.Free(block, 4);
    block = larger;
  }
  EXPECT_LE(blocks.bytes(), 2 * before + (4 << 20));
  for (void* block : owned) {
    blocks.Free(block, 5);
  }
  const int64_t most = blocks.bytes();
  void* const large = blocks.Allocate(16);  // more than a page
  EXPECT_EQ(blocks.bytes(), most + (4 << 20));
  blocks.Free(large, 16);
  EXPECT_EQ(blocks.bytes(), most);
}

// As rows do that are loaded in the order of their hash and go to disk.
TEST(RowIndexTest, PartsThatAreMostlyEmptyShrink) {
  RowIndex index(4);
  std::vector<uint64_t> ids;
  for (uint64_t id = 0; id < 100000; ++id) {
    ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end(),
            [](uint64_t a, uint64_t b) { return IdHash(a) < IdHash(b); });
  constexpr size_t kKept = 1000;
  for (size_t i = 0; i < ids.size(); ++i) {
    index.Insert(IdHash(ids[i]), ids[i], static_cast<uint32_t>(i));
    if (i >= kKept) {
      index.Erase(IdHash(ids[i - kKept]), ids[i - kKept]);
    }
  }
  EXPECT_LT(index.bytes(), 1 << 20) << "16 to 32 bytes an entry";
  for (size_t i = 0; i < ids.size(); ++i) {
    ASSERT_EQ(
        index.Find(IdHash(ids[i]), ids[i]),
        i + kKept < ids.size() ? RowIndex::kNone : static_cast<uint32_t>(i));
  }
}

}  // namespace
}  // namespace shoal::ps
