// Incremental checkpoints read by all that reads checkpoints, as full ones of
// the same state are.
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "ps/checkpoint_diff.h"
#include "ps/checkpoint_export.h"
#include "ps/checkpoint_format.h"
#include "ps/checkpoint_merge.h"
#include "ps/checkpoint_testing.h"

namespace shoal::ps {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Folder(int64_t step) { return "c/step-" + std::to_string(step); }

// Saves the shards after step 3, then what changed after each further two; and
// beside each a full one, in "full".
class IncrementalCheckpointTest : public ::testing::Test {
 protected:
  IncrementalCheckpointTest() : model_(CheckpointModel("adagrad")) {
    shards_ = MakeShards(model_, 3);
    for (const auto& shard : shards_) {
      for (auto& table : shard->tables) {
        table = *SparseTable::Create(
            {.name = table->name(),
             .dim = table->dim(),
             .optimizer = {.kind = "adagrad"},
             .initializer = {Initializer::Kind::kUniform, 0.5},
             .seed = model_.seed,
             .slot_bits = 10,
             .format = table->format(),
             .marks_changes = true});
      }
    }
    Train(3);
    Save(std::nullopt);
    Train(5);
    Erase(60);
    Save(3);
    Train(7);
    // One of the shards does not know what it has of a slot.
    int64_t slot = 0;
    SparseTable& table = *shards_[0]->tables[1];
    while (table.num_rows_in(slot) == 0) {
      ++slot;
    }
    table.EraseSlot(slot);
    Erase(200);
    Save(5);
  }

  void Train(uint64_t until) {
    TrainAll(shards_, static_cast<uint64_t>(step_), until);
    step_ = static_cast<int64_t>(until);
  }

  // All of twenty ids.
  void Erase(uint64_t from) {
    for (uint64_t id = from; id < from + 20; ++id) {
      for (const auto& shard : shards_) {
        for (const auto& table : shard->tables) {
          const int64_t before = table->num_rows();
          table->Erase({&id, 1});
          erased_ += before - table->num_rows();
        }
      }
    }
  }

  void Save(std::optional<int64_t> base) {
    ASSERT_TRUE(SaveAll(storage_, "full/step-" + std::to_string(step_), step_,
                        shards_, {{"job", "a"}})
                    .ok());
    std::vector<std::string> entries;
    for (const auto& shard : shards_) {
      ShardState state = shard->state();
      for (const auto& table : shard->tables) {
        auto changed = table->CutChanges(step_, base);
        if (base.has_value()) {
          state.changed.push_back(changed);
        }
      }
      const auto saved =
          SaveParts(storage_, Folder(step_),
                    "part-" + std::to_string(shard->shard), state, 3000);
      ASSERT_TRUE(saved.ok()) << saved.status();
      entries.insert(entries.end(), saved->begin(), saved->end());
    }
    std::optional<ManifestBase> on;
    if (base.has_value()) {
      on = ManifestBase{*base, checksum_};
    }
    const Status published =
        PublishManifest(storage_, Folder(step_), step_, entries, {{"job", "a"}},
                        on, &checksum_);
    ASSERT_TRUE(published.ok()) << published;
  }

  std::string Digest(const std::string& folder) {
    const auto digest = DigestCheckpoint(storage_, folder);
    return digest.ok() ? *digest : digest.status().ToString();
  }

  const ModelSpec model_;
  CheckpointShards shards_;
  MemoryStorage storage_;
  int64_t step_ = 0;
  int64_t erased_ = 0;
  std::string checksum_;  // of the last manifest
};

TEST_F(IncrementalCheckpointTest, HasTheDigestOfAFullOne) {
  EXPECT_GT(erased_, 20);
  for (const int64_t step : {3, 5, 7}) {
    const std::string full = "full/step-" + std::to_string(step);
    EXPECT_EQ(Digest(Folder(step)), Digest(full));
    EXPECT_TRUE(VerifyCheckpoint(storage_, Folder(step)).ok());
    const auto difference = DiffCheckpoints(storage_, Folder(step), full);
    ASSERT_TRUE(difference.ok()) << difference.status();
    EXPECT_TRUE(difference->same());
    EXPECT_GT(difference->tables[0].rows_a, 100);
  }
  EXPECT_FALSE(DiffCheckpoints(storage_, Folder(5), Folder(7))->same());
  EXPECT_EQ(ReadManifest(storage_, Folder(7))->base->step, 5);
  EXPECT_FALSE(ReadManifest(storage_, Folder(3))->base.has_value());
}

TEST_F(IncrementalCheckpointTest, IsRestoredOntoAnyNumberOfShards) {
  for (const int after : {1, 2, 3, 6}) {
    const CheckpointShards to = MakeShards(model_, after);
    for (const auto& shard : to) {
      const Status loaded = LoadParts(storage_, Folder(7), shard->state());
      ASSERT_TRUE(loaded.ok()) << loaded;
    }
    ASSERT_TRUE(SaveAll(storage_, "again", 7, to).ok());
    EXPECT_EQ(Digest("again"), Digest("full/step-7")) << after;
    EXPECT_TRUE(RemoveCheckpoint(storage_, "again").ok());
  }
}

TEST_F(IncrementalCheckpointTest, MergesToAFullOneAndExportsItsRows) {
  const auto merged =
      MergeCheckpoint(storage_, {.checkpoint = Folder(7), .out = "one"});
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_FALSE(ReadManifest(storage_, "one")->base.has_value());
  EXPECT_EQ(Digest("one"), Digest("full/step-7"));
  ASSERT_TRUE(
      ExportCheckpoint(storage_, {.checkpoint = Folder(7), .out = "x"}).ok());
  ASSERT_TRUE(
      ExportCheckpoint(storage_, {.checkpoint = "full/step-7", .out = "y"})
          .ok());
  EXPECT_EQ(storage_.ReadFile("x/index.json")->text(),
            storage_.ReadFile("y/index.json")->text());
}

TEST_F(IncrementalCheckpointTest, PruneKeepsWhatOthersAreBasedOn) {
  ASSERT_TRUE(PruneCheckpoints(storage_, "c", 1).ok());
  EXPECT_THAT(*ListCheckpoints(storage_, "c"), ElementsAre(3, 5, 7));
  Train(8);
  Save(std::nullopt);
  ASSERT_TRUE(PruneCheckpoints(storage_, "c", 2).ok());
  EXPECT_THAT(*ListCheckpoints(storage_, "c"), ElementsAre(3, 5, 7, 8));
  // One of an earlier run is newer than what the next may be based on.
  ASSERT_TRUE(PruneCheckpoints(storage_, "c", 1, 5).ok());
  EXPECT_THAT(*ListCheckpoints(storage_, "c"), ElementsAre(3, 5, 8));
  ASSERT_TRUE(PruneCheckpoints(storage_, "c", 1).ok());
  EXPECT_THAT(*ListCheckpoints(storage_, "c"), ElementsAre(8));
}

TEST_F(IncrementalCheckpointTest, WhatIsBasedOnOneGoesBeforeAnotherOfItsStep) {
  ASSERT_TRUE(RemoveWhatIsBasedOn(storage_, "c", 7).ok());
  EXPECT_THAT(*ListCheckpoints(storage_, "c"), ElementsAre(3, 5, 7));
  ASSERT_TRUE(RemoveWhatIsBasedOn(storage_, "c", 3).ok());
  EXPECT_THAT(*ListCheckpoints(storage_, "c"), ElementsAre(3));
  EXPECT_TRUE(RemoveWhatIsBasedOn(storage_, "nowhere", 3).ok());
}

TEST_F(IncrementalCheckpointTest, AMissingOrDamagedBaseIsDataLossNamingIt) {
  const auto expect = [&](const char* why) {
    const CheckpointShards to = MakeShards(model_, 1);
    for (const Status& status :
         {LoadParts(storage_, Folder(7), to[0]->state()),
          VerifyCheckpoint(storage_, Folder(7)),
          FindCheckpoint(storage_, Folder(7)).status(),
          FindCheckpoint(storage_, "c").status(),
          MergeCheckpoint(storage_, {.checkpoint = Folder(7), .out = "m"})
              .status()}) {
      EXPECT_EQ(status.code(), StatusCode::kDataLoss);
      EXPECT_THAT(status.message(),
                  AllOf(HasSubstr("c/step-5"), HasSubstr(why)));
    }
  };
  const Buffer manifest = *storage_.ReadFile("c/step-5/manifest.json");
  const Buffer junk = Buffer::CopyOf("{}");
  ASSERT_TRUE(storage_.PublishFile("c/step-5/manifest.json", {&junk, 1}).ok());
  expect("no manifest of this version");
  const Buffer other = *storage_.ReadFile("full/step-5/manifest.json");
  ASSERT_TRUE(storage_.PublishFile("c/step-5/manifest.json", {&other, 1}).ok());
  expect("another checkpoint than it was");
  ASSERT_TRUE(storage_.Remove("c/step-5").ok());
  expect("is missing");
}

TEST_F(IncrementalCheckpointTest, ADamagedFileOfTheBaseIsNamed) {
  const std::string part = "c/step-3/part-1-1.safetensors";
  std::string bytes(storage_.ReadFile(part)->text());
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  const Buffer damaged = Buffer::CopyOf(bytes);
  ASSERT_TRUE(storage_.PublishFile(part, {&damaged, 1}).ok());
  const CheckpointShards to = MakeShards(model_, 1);
  for (const Status& status :
       {VerifyCheckpoint(storage_, Folder(7)),
        LoadParts(storage_, Folder(7), to[0]->state())}) {
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    EXPECT_THAT(status.message(), HasSubstr(part));
  }
}

TEST_F(IncrementalCheckpointTest, ABaseIsAnEarlierStep) {
  for (const int64_t step : {7, 8}) {
    ASSERT_TRUE(
        PublishManifest(storage_, Folder(7), 7, {}, {}, ManifestBase{step, "0"})
            .ok());
    EXPECT_EQ(ReadManifest(storage_, Folder(7)).status().code(),
              StatusCode::kDataLoss);
  }
}

}  // namespace
}  // namespace shoal::ps
