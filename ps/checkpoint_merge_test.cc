#include "ps/checkpoint_merge.h"

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "ps/checkpoint_testing.h"

namespace shoal::ps {
namespace {

using ::testing::HasSubstr;

// Every row of a table in bytes, by hand from the shards.
std::map<uint64_t, std::string> RowBytes(const CheckpointShards& shards,
                                         size_t table) {
  std::map<uint64_t, std::string> rows;
  for (const auto& shard : shards) {
    shard->tables[table]->ForEach([&](uint64_t id,
                                      std::span<const std::byte> values,
                                      std::span<const float> state) {
      std::string& row = rows[id];
      row.append(reinterpret_cast<const char*>(values.data()), values.size());
      row.append(reinterpret_cast<const char*>(state.data()),
                 state.size_bytes());
    });
  }
  return rows;
}

TEST(CheckpointMergeTest, FewFilesHaveTheSameModelForAnyCluster) {
  const ModelSpec model = CheckpointModel("adam");
  const CheckpointShards shards = MakeShards(model, 5);
  TrainAll(shards, 0, 3);
  for (const int parts : {0, 1, 2, 7, 60, 150}) {
    MemoryStorage storage;
    ASSERT_TRUE(SaveAll(storage, "a", 3, shards, {{"job", "text"}}, 1000).ok());
    const StatusOr<MergeResult> merged = MergeCheckpoint(
        storage, {.checkpoint = "a", .out = "b", .parts = parts});
    ASSERT_TRUE(merged.ok()) << merged.status();
    EXPECT_GT(merged->files_before, 40U);
    // One of chunks, and one more per table at most.
    // Parts of a few rows are rounded up, so that fewer do.
    EXPECT_GE(merged->files, static_cast<size_t>(1 + parts * 9 / 10));
    EXPECT_LE(merged->files, static_cast<size_t>(1 + parts + 2));
    EXPECT_EQ(storage.ListFolder("b")->size(), merged->files + 1);
    EXPECT_EQ(merged->digest, DigestCheckpoint(storage, "a").value());
    const StatusOr<Manifest> manifest = ReadManifest(storage, "b");
    ASSERT_TRUE(manifest.ok()) << manifest.status();
    EXPECT_EQ(manifest->step, 3);
    EXPECT_EQ(manifest->texts.at("job"), "text");

    const CheckpointShards loaded = MakeShards(model, 3);
    for (const auto& shard : loaded) {
      const Status status = LoadParts(storage, "b", shard->state());
      ASSERT_TRUE(status.ok()) << status;
    }
    for (const size_t table : {0, 1}) {
      EXPECT_EQ(RowBytes(loaded, table), RowBytes(shards, table)) << parts;
    }
    ASSERT_TRUE(SaveAll(storage, "c", 3, loaded).ok());
    EXPECT_EQ(DigestCheckpoint(storage, "c").value(), merged->digest);
  }
}

TEST(CheckpointMergeTest, TablesWithoutRowsStayKnown) {
  const ModelSpec model = CheckpointModel("adam");
  const CheckpointShards shards = MakeShards(model, 2);
  MemoryStorage storage;
  ASSERT_TRUE(SaveAll(storage, "a", 0, shards).ok());
  const StatusOr<MergeResult> merged =
      MergeCheckpoint(storage, {.checkpoint = "a", .out = "b", .parts = 3});
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_EQ(merged->files, 1U);
  EXPECT_TRUE(LoadParts(storage, "b", MakeShards(model, 1)[0]->state()).ok());
}

TEST(CheckpointMergeTest, RefusesAFolderInUseAndLeavesNothingAfterAnError) {
  const ModelSpec model = CheckpointModel("sgd");
  MemoryStorage storage;
  const CheckpointShards shards = MakeShards(model, 2);
  TrainAll(shards, 0, 2);
  ASSERT_TRUE(SaveAll(storage, "a", 2, shards).ok());
  const Status status =
      MergeCheckpoint(storage, {.checkpoint = "a", .out = "a"}).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("not empty"));
  EXPECT_TRUE(VerifyCheckpoint(storage, "a").ok());
  int failures = 0;
  for (int64_t capacity = 0;; capacity += 4000) {
    storage.SetCapacity(capacity);
    const Status merged =
        MergeCheckpoint(storage, {.checkpoint = "a", .out = "b", .parts = 4})
            .status();
    if (merged.ok()) {
      break;
    }
    ++failures;
    ASSERT_EQ(merged.code(), StatusCode::kResourceExhausted) << merged;
    ASSERT_FALSE(storage.ListFolder("b").ok()) << capacity;
  }
  EXPECT_GT(failures, 20);
}

}  // namespace
}  // namespace shoal::ps
