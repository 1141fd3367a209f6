#include "ps/client.h"

#include <memory>
#include <set>
#include <vector>

#include "gtest/gtest.h"

#include "base/random.h"
#include "ps/slots.h"

namespace shoal::ps {
namespace {

TEST(IdCollectorTest, DistinctIdsComeByShardAndHashAndEveryOccurrenceFindsIts) {
  Random random(9);
  IdCollector collector;
  auto heads = std::make_shared<SlotHeads>();
  heads->num_shards = 3;
  for (int slot = 0; slot < 1024; ++slot) {
    heads->of_slot.push_back(slot % 3);
  }
  GroupIds ids;
  std::vector<int32_t> index;
  for (int round = 0; round < 20; ++round) {
    std::vector<uint64_t> occurrences;
    const uint64_t n = random.Below(500);
    for (uint64_t i = 0; i < n; ++i) {
      occurrences.push_back(random.Below(100) == 0 ? ~uint64_t{0}
                                                   : random.Below(120));
    }
    collector.Collect(occurrences, heads, ids, index);
    const std::set<uint64_t> distinct(occurrences.begin(), occurrences.end());
    ASSERT_EQ(ids.ids.size(), distinct.size());
    ASSERT_EQ(index.size(), occurrences.size());
    for (size_t i = 0; i < occurrences.size(); ++i) {
      ASSERT_EQ(ids.ids[static_cast<size_t>(index[i])], occurrences[i]);
    }
    ASSERT_EQ(ids.shard_begin.size(), 4U);
    ASSERT_EQ(ids.shard_begin.back(), ids.size());
    for (int shard = 0; shard < 3; ++shard) {
      for (int64_t i = ids.shard_begin[static_cast<size_t>(shard)];
           i < ids.shard_begin[static_cast<size_t>(shard) + 1]; ++i) {
        const uint64_t hash = IdHash(ids.ids[static_cast<size_t>(i)]);
        ASSERT_EQ(SlotOfHash(hash, 10) % 3, shard);
        if (i > ids.shard_begin[static_cast<size_t>(shard)]) {
          ASSERT_LT(IdHash(ids.ids[static_cast<size_t>(i) - 1]), hash);
        }
      }
    }
  }
}

}  // namespace
}  // namespace shoal::ps
