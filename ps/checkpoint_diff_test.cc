#include "ps/checkpoint_diff.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <nlohmann/json.hpp>

#include "ps/checkpoint_export.h"
#include "ps/checkpoint_scan.h"
#include "ps/checkpoint_testing.h"
#include "ps/row_format.h"

namespace shoal::ps {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kSmallPart = 3000;

// Every row of a table, by hand from the shards: id -> values, state.
using RowsByHand =
    std::map<uint64_t, std::pair<std::vector<float>, std::vector<float>>>;
RowsByHand RowsOf(const CheckpointShards& shards, size_t table) {
  RowsByHand rows;
  for (const auto& shard : shards) {
    const SparseTable& from = *shard->tables[table];
    from.ForEach([&](uint64_t id, std::span<const std::byte> values,
                     std::span<const float> state) {
      std::vector<float> wide(static_cast<size_t>(from.dim()));
      WidenValues(from.format(), values.data(), wide);
      rows[id] = {wide, {state.begin(), state.end()}};
    });
  }
  return rows;
}

CheckpointDifference MustDiff(Storage& storage) {
  const StatusOr<CheckpointDifference> difference =
      DiffCheckpoints(storage, "a", "b");
  EXPECT_TRUE(difference.ok()) << difference.status();
  return difference.ok() ? *difference : CheckpointDifference();
}

// Whatever clusters wrote them, in files of any size.
TEST(CheckpointDiffTest, SameBitsAreTheSameOnAnyNumberOfShards) {
  const ModelSpec model = CheckpointModel("adam");
  for (const int other : {1, 3, 4, 6}) {
    MemoryStorage storage;
    const CheckpointShards a = MakeShards(model, 3);
    const CheckpointShards b = MakeShards(model, other);
    TrainAll(a, 0, 3);
    TrainAll(b, 0, 3);
    ASSERT_TRUE(SaveAll(storage, "a", 3, a, {}, kSmallPart).ok());
    ASSERT_TRUE(SaveAll(storage, "b", 9, b, {}, 2 * kSmallPart).ok());
    const CheckpointDifference difference = MustDiff(storage);
    EXPECT_TRUE(difference.same()) << other;
    EXPECT_EQ(difference.step_a, 3);
    EXPECT_EQ(difference.step_b, 9);
    ASSERT_EQ(difference.tables.size(), 2U);
    EXPECT_EQ(difference.tables[0].rows_a,
              static_cast<int64_t>(RowsOf(a, 1).size()));
    ASSERT_EQ(difference.variables.size(), 2U);
    EXPECT_EQ(difference.variables[1].elements_b, 3 * 6001);
  }
}

TEST(CheckpointDiffTest, CountsWhatDiffersAsByHand) {
  const ModelSpec model = CheckpointModel("adagrad");
  MemoryStorage storage;
  const CheckpointShards a = MakeShards(model, 2);
  const CheckpointShards b = MakeShards(model, 5);
  TrainAll(a, 0, 4);
  TrainAll(b, 1, 6);
  ASSERT_TRUE(SaveAll(storage, "a", 4, a, {}, kSmallPart).ok());
  ASSERT_TRUE(SaveAll(storage, "b", 6, b, {}, kSmallPart).ok());
  const CheckpointDifference difference = MustDiff(storage);
  EXPECT_FALSE(difference.same());
  for (const CheckpointDifference::Table& table : difference.tables) {
    CheckpointDifference::Table want;
    const size_t number = table.name == "linear" ? 0 : 1;
    const RowsByHand rows_a = RowsOf(a, number);
    const RowsByHand rows_b = RowsOf(b, number);
    for (const auto& [id, row] : rows_b) {
      want.only_b += rows_a.contains(id) ? 0 : 1;
    }
    for (const auto& [id, row] : rows_a) {
      const auto it = rows_b.find(id);
      if (it == rows_b.end()) {
        ++want.only_a;
        continue;
      }
      bool differs = false;
      for (size_t i = 0; i < row.first.size(); ++i) {
        differs = differs || row.first[i] != it->second.first[i];
        want.largest = std::max(
            want.largest,
            std::abs(double{row.first[i]} - double{it->second.first[i]}));
      }
      want.values_differ += differs ? 1 : 0;
      want.state_differs += !differs && row.second != it->second.second ? 1 : 0;
    }
    SCOPED_TRACE(table.name);
    ASSERT_GT(want.only_a, 0);
    ASSERT_GT(want.only_b, want.only_a);
    ASSERT_GT(want.values_differ, 0);
    EXPECT_EQ(table.only_a, want.only_a);
    EXPECT_EQ(table.only_b, want.only_b);
    EXPECT_EQ(table.values_differ, want.values_differ);
    EXPECT_EQ(table.state_differs, want.state_differs);
    EXPECT_EQ(table.largest, want.largest);
  }
}

TEST(CheckpointDiffTest, OneBitOfAnOptimizersStateOrVariableShows) {
  const ModelSpec model = CheckpointModel("adagrad");
  MemoryStorage storage;
  const CheckpointShards shards = MakeShards(model, 2);
  TrainAll(shards, 0, 2);
  ASSERT_TRUE(SaveAll(storage, "a", 2, shards).ok());
  const RowsByHand rows = RowsOf(shards, 0);
  const auto& [id, row] = *rows.begin();
  std::vector<float> state = row.second;
  state[0] = std::nextafter(state[0], 9.0F);
  SparseTable& table = *shards[shards[0]->Owns(id) ? 0 : 1]->tables[0];
  table.Load(id, std::as_bytes(std::span(row.first)), state);
  DenseStore& dense = *shards[0]->dense;
  std::vector<float> values(dense.values(0).begin(), dense.values(0).end());
  const std::vector<float> kept(dense.state(0).begin(), dense.state(0).end());
  values[3] += 0.25F;
  dense.Load(0, values, kept);
  ASSERT_TRUE(SaveAll(storage, "b", 2, shards).ok());
  const CheckpointDifference difference = MustDiff(storage);
  EXPECT_TRUE(difference.tables[0].same());
  EXPECT_EQ(difference.tables[1].state_differs, 1);
  EXPECT_EQ(difference.tables[1].values_differ, 0);
  const auto& w = difference.variables[1];
  EXPECT_EQ(w.name, "deep/0/w");
  EXPECT_EQ(w.values_differ, 1);
  EXPECT_FALSE(w.state_differs);
  EXPECT_NEAR(w.largest, 0.25, 1e-7);
  EXPECT_TRUE(difference.variables[0].same());
  // A value that is no number is never a small difference.
  values[4] = std::numeric_limits<float>::quiet_NaN();
  dense.Load(0, values, kept);
  ASSERT_TRUE(SaveAll(storage, "b", 2, shards).ok());
  EXPECT_TRUE(std::isnan(MustDiff(storage).variables[1].largest));
}

TEST(CheckpointDiffTest, OtherModelsDifferByTheirForms) {
  const ModelSpec one = CheckpointModel("sgd");
  ModelSpec two = CheckpointModel("adagrad");
  two.tables[0].dim = 3;
  two.tables.pop_back();
  two.variables.pop_back();
  MemoryStorage storage;
  const CheckpointShards a = MakeShards(one, 1);
  const CheckpointShards b = MakeShards(two, 1);
  TrainAll(a, 0, 1);
  TrainAll(b, 0, 1);
  ASSERT_TRUE(SaveAll(storage, "a", 1, a).ok());
  ASSERT_TRUE(SaveAll(storage, "b", 1, b).ok());
  const CheckpointDifference difference = MustDiff(storage);
  ASSERT_EQ(difference.tables.size(), 2U);
  EXPECT_FALSE(difference.tables[0].form_b.has_value());
  EXPECT_EQ(difference.tables[0].only_a, 301);
  EXPECT_EQ(difference.tables[1].form_b->dim, 3);
  EXPECT_EQ(difference.tables[1].values_differ, 301);
  EXPECT_EQ(difference.variables[0].elements_b, -1);
  EXPECT_FALSE(difference.same());
}

// A row of a slot that the manifest does not name would be skipped by a shard.
TEST(CheckpointScanTest, RowOutsideOfTheManifestsSlotsIsDamage) {
  const ModelSpec model = CheckpointModel("sgd");
  MemoryStorage storage;
  const CheckpointShards shards = MakeShards(model, 1);
  TrainAll(shards, 0, 1);
  ASSERT_TRUE(SaveAll(storage, "a", 1, shards).ok());
  Manifest manifest = *ReadManifest(storage, "a");
  std::vector<std::string> entries;
  for (ManifestPart& part : manifest.parts) {
    if (part.rows.has_value()) {
      part.rows->last -= 1;
    }
    entries.push_back(DescribePart(part));
  }
  ASSERT_TRUE(PublishManifest(storage, "a", 1, entries, {}).ok());
  const Status scanned = ScanCheckpoint(storage, "a").status();
  EXPECT_EQ(scanned.code(), StatusCode::kDataLoss);
  EXPECT_THAT(scanned.message(), HasSubstr("slots"));
}

// An id in two files has two values: none is taken by chance.
TEST(CheckpointScanTest, IdThatIsThereTwiceIsDamage) {
  const ModelSpec model = CheckpointModel("sgd");
  MemoryStorage storage;
  const CheckpointShards shards = MakeShards(model, 1);
  TrainAll(shards, 0, 1);
  ASSERT_TRUE(SaveAll(storage, "a", 1, shards).ok());
  Manifest manifest = *ReadManifest(storage, "a");
  std::vector<std::string> entries;
  for (ManifestPart& part : manifest.parts) {
    entries.push_back(DescribePart(part));
    if (part.rows.has_value()) {
      const StatusOr<Buffer> bytes = storage.ReadFile("a/" + part.file.file);
      part.file.file = "again-" + part.file.file;
      ASSERT_TRUE(
          storage.PublishFile("a/" + part.file.file, {&*bytes, 1}).ok());
      entries.push_back(DescribePart(part));
    }
  }
  ASSERT_TRUE(PublishManifest(storage, "a", 1, entries, {}).ok());
  const Status status = DiffCheckpoints(storage, "a", "a").status();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr("two files"));
}

// What an export holds, by a reader of its own: safetensors files are a length,
// JSON, data.
struct ExportedTensor {
  std::vector<int64_t> shape;
  std::string dtype;
  std::string bytes;
};
std::map<std::string, ExportedTensor> ReadExported(Storage& storage,
                                                   const std::string& path) {
  const std::string text(storage.ReadFile(path).value().text());
  uint64_t length = 0;
  std::memcpy(&length, text.data(), 8);
  const nlohmann::json header = nlohmann::json::parse(text.substr(8, length));
  std::map<std::string, ExportedTensor> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      continue;
    }
    const auto begin = entry["data_offsets"][0].get<size_t>();
    const auto end = entry["data_offsets"][1].get<size_t>();
    tensors[name] = {entry["shape"], entry["dtype"],
                     text.substr(8 + length + begin, end - begin)};
  }
  return tensors;
}

TEST(CheckpointExportTest, HasAllValuesInPiecesAndNoState) {
  const ModelSpec model = CheckpointModel("adam");
  MemoryStorage storage;
  const CheckpointShards shards = MakeShards(model, 3);
  TrainAll(shards, 0, 4);
  ASSERT_TRUE(SaveAll(storage, "a", 4, shards, {}, kSmallPart).ok());
  const Status exported =
      ExportCheckpoint(storage, {.checkpoint = "a",
                                 .out = "out",
                                 .shapes = {{"deep/0/w", {3, 6001}}},
                                 .piece_bytes_max = 1000});
  ASSERT_TRUE(exported.ok()) << exported;
  const nlohmann::json index = nlohmann::json::parse(
      std::string(storage.ReadFile("out/index.json").value().text()));
  EXPECT_EQ(index["step"], 4);
  for (size_t t = 0; t < 2; ++t) {
    const RowsByHand want = RowsOf(shards, t);
    const nlohmann::json& table = index["tables"][model.tables[t].name];
    EXPECT_EQ(table["rows"], want.size());
    EXPECT_EQ(table["dim"], model.tables[t].dim);
    EXPECT_EQ(table["dtype"], t == 0 ? "F32" : "BF16");
    EXPECT_GT(table["files"].size(), 5U);
    size_t rows = 0;
    for (const std::string file : table["files"]) {
      auto tensors = ReadExported(storage, "out/" + file);
      ASSERT_EQ(tensors.size(), 2U);
      const std::string& ids = tensors["ids"].bytes;
      const std::string& values = tensors["values"].bytes;
      EXPECT_LE(ids.size() + values.size(), 1000U);
      const size_t row = values.size() / (ids.size() / 8);
      for (size_t i = 0; i * 8 < ids.size(); ++i, ++rows) {
        uint64_t id = 0;
        std::memcpy(&id, &ids[i * 8], 8);
        std::vector<float> wide(static_cast<size_t>(model.tables[t].dim));
        WidenValues(model.tables[t].format, &values[i * row], wide);
        ASSERT_TRUE(want.contains(id));
        EXPECT_EQ(wide, want.at(id).first);
      }
    }
    EXPECT_EQ(rows, want.size());
  }
  const nlohmann::json& w = index["variables"]["deep/0/w"];
  const auto tensors = ReadExported(storage, "out/" + std::string(w["file"]));
  EXPECT_THAT(tensors.at("deep/0/w").shape, ElementsAre(3, 6001));
  std::string dense(size_t{3} * 6001 * 4, '\0');
  for (const auto& shard : shards) {
    for (size_t c = 0; c < shard->dense->chunks().size(); ++c) {
      const DenseChunk& chunk = shard->dense->chunks()[c];
      if (chunk.variable == 0) {
        const auto values = shard->dense->values(c);
        std::memcpy(&dense[static_cast<size_t>(chunk.first) * 4], values.data(),
                    values.size_bytes());
      }
    }
  }
  EXPECT_EQ(tensors.at("deep/0/w").bytes, dense);
  // Variables whose shape nobody knows are flat.
  EXPECT_THAT(index["variables"]["deep/0/b"]["shape"], ElementsAre(7));
}

TEST(CheckpointExportTest, RefusesAFolderInUseAndLeavesNothingAfterAnError) {
  const ModelSpec model = CheckpointModel("sgd");
  MemoryStorage storage;
  const CheckpointShards shards = MakeShards(model, 1);
  TrainAll(shards, 0, 2);
  ASSERT_TRUE(SaveAll(storage, "a", 2, shards).ok());
  Status status =
      ExportCheckpoint(storage, {.checkpoint = "a", .out = "a", .shapes = {}});
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("not empty"));
  EXPECT_TRUE(VerifyCheckpoint(storage, "a").ok());
  status = ExportCheckpoint(
      storage,
      {.checkpoint = "a", .out = "out", .shapes = {{"deep/0/w", {3, 6000}}}});
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("18003"));
  EXPECT_FALSE(storage.ListFolder("out").ok());
  // Room for nothing, then for more and more files, then for all.
  int failures = 0;
  for (int64_t capacity = 0;; capacity += 4000) {
    storage.SetCapacity(capacity);
    status = ExportCheckpoint(storage,
                              {.checkpoint = "a", .out = "out", .shapes = {}});
    if (status.ok()) {
      break;
    }
    ++failures;
    ASSERT_EQ(status.code(), StatusCode::kResourceExhausted) << status;
    ASSERT_FALSE(storage.ListFolder("out").ok()) << capacity;
  }
  EXPECT_GT(failures, 20);
}

}  // namespace
}  // namespace shoal::ps
