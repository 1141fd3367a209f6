#include "ps/checkpoint_format.h"

#include <xxhash.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/random.h"
#include "ps/checkpoint_testing.h"
#include "ps/slots.h"

namespace shoal::ps {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kFolder[] = "job/step-7";

Status LoadAll(Storage& storage, const std::string& folder,
               const CheckpointShards& shards) {
  for (const auto& shard : shards) {
    SHOAL_RETURN_IF_ERROR(LoadParts(storage, folder, shard->state()));
  }
  return OkStatus();
}

std::string DigestOf(Storage& storage, const std::string& folder) {
  const StatusOr<std::string> digest = DigestCheckpoint(storage, folder);
  return digest.ok() ? *digest : digest.status().ToString();
}

// The digest as its definition says, from the shards themselves.
std::string DigestByHand(const CheckpointShards& shards) {
  unsigned __int128 sum = 0;
  const auto add = [&](const std::string& kind, const std::string& name,
                       uint64_t number, const void* data, size_t size) {
    std::string bytes = kind + '\0' + name + '\0';
    bytes.append(reinterpret_cast<const char*>(&number), 8);
    bytes.append(static_cast<const char*>(data), size);
    const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
    sum += (static_cast<unsigned __int128>(hash.high64) << 64) + hash.low64;
  };
  for (const auto& shard : shards) {
    for (const auto& table : shard->tables) {
      table->ForEach([&](uint64_t id, std::span<const std::byte> values,
                         std::span<const float> state) {
        std::vector<std::byte> row(values.begin(), values.end());
        const auto more = std::as_bytes(state);
        row.insert(row.end(), more.begin(), more.end());
        add("row", table->name(), id, row.data(), row.size());
      });
    }
    for (size_t c = 0; c < shard->dense->chunks().size(); ++c) {
      const DenseChunk& chunk = shard->dense->chunks()[c];
      // The state lies right behind the values.
      add("chunk",
          shard->model.variables[static_cast<size_t>(chunk.variable)].name,
          static_cast<uint64_t>(chunk.first), shard->dense->values(c).data(),
          shard->dense->values(c).size_bytes() +
              shard->dense->state(c).size_bytes());
    }
  }
  char text[33];
  std::snprintf(text, sizeof(text), "%016llx%016llx",
                static_cast<unsigned long long>(sum >> 64),
                static_cast<unsigned long long>(sum));
  return text;
}

// Six steps, or three, a checkpoint, and three on another number of shards: the
// same bits, for every optimizer that is registered.
TEST(CheckpointTest, TrainingGoesOnFromItOnAnyNumberOfShards) {
  for (const std::string& optimizer : OptimizerRegistry().Names()) {
    const ModelSpec model = CheckpointModel(optimizer);
    const CheckpointShards straight = MakeShards(model, 1);
    TrainAll(straight, 0, 6);
    const std::string want = DigestByHand(straight);
    for (const int before : {1, 3}) {
      for (const int after : {1, 2, 5}) {
        SCOPED_TRACE(optimizer + " " + std::to_string(before) + " to " +
                     std::to_string(after));
        MemoryStorage storage;
        const CheckpointShards first = MakeShards(model, before);
        TrainAll(first, 0, 3);
        ASSERT_TRUE(SaveAll(storage, kFolder, 3, first).ok());
        EXPECT_EQ(DigestOf(storage, kFolder), DigestByHand(first));
        const CheckpointShards second = MakeShards(model, after);
        const Status loaded = LoadAll(storage, kFolder, second);
        ASSERT_TRUE(loaded.ok()) << loaded;
        TrainAll(second, 3, 6);
        ASSERT_TRUE(SaveAll(storage, kFolder, 6, second).ok());
        EXPECT_EQ(DigestOf(storage, kFolder), want);
      }
    }
  }
}

// Reading is told, so that what a shard leaves out shows.
class ReadingRecorder : public MemoryStorage {
 public:
  StatusOr<Buffer> ReadFile(const std::string& path) override {
    StatusOr<Buffer> file = MemoryStorage::ReadFile(path);
    if (file.ok()) {
      read.emplace_back(path.substr(path.rfind('/') + 1), file->size());
    }
    return file;
  }
  std::vector<std::pair<std::string, int64_t>> read;
};

TEST(CheckpointTest, RowsAreInFilesOfBoundedSize) {
  const ModelSpec model = CheckpointModel("adam");
  const CheckpointShards shards = MakeShards(model, 3);
  TrainAll(shards, 0, 4);
  ReadingRecorder storage;
  constexpr int64_t kBytesMax = 3000;
  ASSERT_TRUE(SaveAll(storage, kFolder, 4, shards, {}, kBytesMax).ok());
  const std::string want = DigestByHand(shards);
  EXPECT_EQ(DigestOf(storage, kFolder), want);
  EXPECT_GT(storage.read.size(), 20U);
  for (const auto& [file, size] : storage.read) {
    if (file.find("-0.safetensors") == std::string::npos &&
        file != "manifest.json") {
      EXPECT_LT(size, kBytesMax + 400) << file;  // with its header
    }
  }
  for (const int after : {1, 2, 3, 6}) {
    const CheckpointShards loaded = MakeShards(model, after);
    ASSERT_TRUE(LoadAll(storage, kFolder, loaded).ok());
    EXPECT_EQ(DigestByHand(loaded), want);
  }
}

// 3 shards to 3: a shard reads its own rows and no others. 3 to 6: those of the
// one that its slots came from.
TEST(CheckpointTest, ShardReadsNoRowsThatItCannotHave) {
  const ModelSpec model = CheckpointModel("sgd");
  const CheckpointShards shards = MakeShards(model, 3);
  TrainAll(shards, 0, 2);
  ReadingRecorder storage;
  ASSERT_TRUE(SaveAll(storage, kFolder, 2, shards).ok());
  for (const int after : {3, 6}) {
    for (const auto& shard : MakeShards(model, after)) {
      storage.read.clear();
      ASSERT_TRUE(LoadParts(storage, kFolder, shard->state()).ok());
      const std::string own = "part-" + std::to_string(shard->shard % 3) + "-";
      int64_t rows = 0;
      for (const auto& [file, size] : storage.read) {
        if (file.find("-0.safetensors") != std::string::npos ||
            file == "manifest.json") {
          continue;
        }
        EXPECT_TRUE(file.starts_with(own)) << file << ", wanted " << own;
        ++rows;
      }
      EXPECT_EQ(rows, 2);  // one of each table
    }
  }
  // A job with more slots: every file may have some.
  EXPECT_TRUE((SlotSet{.bits = 10, .first = 0, .last = 1023, .stride = 3})
                  .Meets({.bits = 11, .first = 1, .last = 2047, .stride = 3}));
}

TEST(CheckpointTest, DigestSeesEveryBitOfValuesAndState) {
  const ModelSpec model = CheckpointModel("adagrad");
  const CheckpointShards shards = MakeShards(model, 2);
  TrainAll(shards, 0, 2);
  MemoryStorage storage;
  ASSERT_TRUE(SaveAll(storage, kFolder, 2, shards).ok());
  const std::string before = DigestOf(storage, kFolder);
  EXPECT_EQ(before.size(), 32U);

  // One bit of the last float of one row's state.
  TrainAll(shards, 2, 2);
  SparseTable& table = *shards[1]->tables[1];
  uint64_t id = 0;
  std::vector<std::byte> values;
  std::vector<float> state;
  table.ForEach([&](uint64_t at, std::span<const std::byte> row,
                    std::span<const float> of_row) {
    id = at;
    values.assign(row.begin(), row.end());
    state.assign(of_row.begin(), of_row.end());
  });
  uint32_t bits = 0;
  std::memcpy(&bits, &state.back(), 4);
  bits ^= 1;
  std::memcpy(&state.back(), &bits, 4);
  table.Load(id, values, state);
  ASSERT_TRUE(SaveAll(storage, kFolder, 2, shards).ok());
  EXPECT_NE(DigestOf(storage, kFolder), before);
}

TEST(CheckpointTest, TextsComeBackAsTheyWere) {
  const ModelSpec model = CheckpointModel("sgd");
  const CheckpointShards shards = MakeShards(model, 1);
  MemoryStorage storage;
  const std::map<std::string, std::string> texts = {
      {"job.yaml", "a: \"\xc3\xa9\"\n\tb"}, {"", ""}};
  ASSERT_TRUE(SaveAll(storage, kFolder, 12, shards, texts).ok());
  const StatusOr<Manifest> manifest = ReadManifest(storage, kFolder);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->step, 12);
  EXPECT_EQ(manifest->parts.size(), 1U);
  EXPECT_EQ(manifest->texts, texts);
}

TEST(CheckpointTest, TextOrNameThatIsNotUtf8IsInvalidArgument) {
  MemoryStorage storage;
  const Status status =
      PublishManifest(storage, kFolder, 1, {}, {{"fitted", "caf\xe9"}});
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("fitted"));
  EXPECT_EQ(storage.ReadFile("job/step-7/manifest.json").status().code(),
            StatusCode::kNotFound);

  ModelSpec model = CheckpointModel("sgd");
  model.tables[0].name = "caf\xe9";
  const CheckpointShards shards = MakeShards(model, 1);
  EXPECT_EQ(
      SaveParts(storage, kFolder, "p", shards[0]->state()).status().code(),
      StatusCode::kInvalidArgument);
}

TEST(CheckpointTest, EntryOfNoPartIsInvalidArgument) {
  MemoryStorage storage;
  for (const char* entry :
       {"", "{", "[]", "{}", R"({"file":"../x","bytes":1,"xxh3":"0"})",
        R"({"file":"a/b","bytes":1,"xxh3":"0"})",
        R"({"file":"p","bytes":-1,"xxh3":"0"})",
        R"({"file":"p","file":"p","bytes":1,"xxh3":"0"})"}) {
    EXPECT_EQ(PublishManifest(storage, kFolder, 1, {entry}, {}).code(),
              StatusCode::kInvalidArgument)
        << entry;
  }
}

TEST(CheckpointTest, FullDiskIsResourceExhaustedAndLeavesNoCheckpoint) {
  const ModelSpec model = CheckpointModel("adam");
  const CheckpointShards shards = MakeShards(model, 2);
  TrainAll(shards, 0, 2);
  MemoryStorage storage;
  storage.SetCapacity(100000);
  EXPECT_EQ(SaveAll(storage, kFolder, 2, shards).code(),
            StatusCode::kResourceExhausted);
  EXPECT_EQ(ReadManifest(storage, kFolder).status().code(),
            StatusCode::kNotFound);
}

TEST(CheckpointTest, AnotherModelIsRefusedNamingWhatDiffers) {
  const ModelSpec saved = CheckpointModel("adagrad");
  const CheckpointShards from = MakeShards(saved, 1);
  TrainAll(from, 0, 1);
  MemoryStorage storage;
  ASSERT_TRUE(SaveAll(storage, kFolder, 1, from).ok());
  const auto load = [&](const ModelSpec& model) {
    const CheckpointShards to = MakeShards(model, 1);
    const Status status = LoadAll(storage, kFolder, to);
    // Nothing was written before the error.
    for (const auto& table : to[0]->tables) {
      EXPECT_EQ(table->num_rows(), 0);
    }
    return status;
  };
  ModelSpec model = saved;
  model.tables[1].dim = 6;
  Status status = load(model);
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("embedding"));

  model = saved;
  model.tables[1].optimizer.kind = "sgd";
  EXPECT_EQ(load(model).code(), StatusCode::kFailedPrecondition);

  model = saved;
  model.variables[1].dims = {8};
  status = load(model);
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("deep/0/b@0"));

  model = saved;
  model.dense_optimizer.kind = "adam";
  EXPECT_EQ(load(model).code(), StatusCode::kFailedPrecondition);

  model = saved;
  model.variables[1].name = "deep/1/b";
  const CheckpointShards to = MakeShards(model, 1);
  status = LoadAll(storage, kFolder, to);
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("deep/1/b@0"));
}

// --- Folders ---------------------------------------------------------------

TEST(CheckpointFoldersTest, OnlyFoldersWithAValidManifestExist) {
  const ModelSpec model = CheckpointModel("sgd");
  const CheckpointShards shards = MakeShards(model, 1);
  MemoryStorage storage;
  for (const int64_t step : {5, 12, 7}) {
    ASSERT_TRUE(SaveAll(storage, "out/checkpoints/step-" + std::to_string(step),
                        step, shards)
                    .ok());
  }
  ASSERT_TRUE(
      SaveParts(storage, "out/checkpoints/step-20", "p", shards[0]->state())
          .ok());
  const Buffer junk = Buffer::CopyOf("{}");
  const auto publish_junk = [&](const std::string& name) {
    ASSERT_TRUE(storage
                    .PublishFile("out/checkpoints/" + name + "/manifest.json",
                                 {&junk, 1})
                    .ok());
  };
  for (const char* name : {"step-x", "other", "step-", "step-6"}) {
    publish_junk(name);
  }
  const auto steps = ListCheckpoints(storage, "out/checkpoints");
  ASSERT_TRUE(steps.ok());
  EXPECT_THAT(*steps, ElementsAre(5, 7, 12));
  for (const char* path :
       {"out", "out/checkpoints", "out/checkpoints/step-12"}) {
    const auto found = FindCheckpoint(storage, path);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(*found, "out/checkpoints/step-12");
  }
  EXPECT_EQ(FindCheckpoint(storage, "nowhere").status().code(),
            StatusCode::kNotFound);

  // An older one does not quietly stand in for the newest.
  publish_junk("step-30");
  EXPECT_EQ(FindCheckpoint(storage, "out/checkpoints/step-30").status().code(),
            StatusCode::kDataLoss);
  const auto damaged = FindCheckpoint(storage, "out");
  EXPECT_EQ(damaged.status().code(), StatusCode::kDataLoss);
  EXPECT_THAT(damaged.status().message(),
              AllOf(HasSubstr("step-30"), HasSubstr("step-12")));
  EXPECT_TRUE(FindCheckpoint(storage, "out/checkpoints/step-12").ok());
}

TEST(CheckpointFoldersTest, PruneKeepsTheNewest) {
  const ModelSpec model = CheckpointModel("sgd");
  const CheckpointShards shards = MakeShards(model, 1);
  MemoryStorage storage;
  for (const int64_t step : {100, 20, 3}) {
    ASSERT_TRUE(
        SaveAll(storage, "c/step-" + std::to_string(step), step, shards).ok());
  }
  ASSERT_TRUE(PruneCheckpoints(storage, "c", 2).ok());
  const auto steps = ListCheckpoints(storage, "c");
  ASSERT_TRUE(steps.ok());
  EXPECT_THAT(*steps, ElementsAre(20, 100));
  EXPECT_FALSE(storage.ReadFile("c/step-3/part-0-0.safetensors").ok());
}

// Tells in which order things are removed.
class RemovalRecorder : public MemoryStorage {
 public:
  Status Remove(const std::string& path) override {
    removed.push_back(path);
    return MemoryStorage::Remove(path);
  }
  std::vector<std::string> removed;
};

TEST(CheckpointFoldersTest, PruneRemovesTheManifestFirst) {
  const ModelSpec model = CheckpointModel("sgd");
  const CheckpointShards shards = MakeShards(model, 1);
  RemovalRecorder storage;
  ASSERT_TRUE(SaveAll(storage, "c/step-1", 1, shards).ok());
  ASSERT_TRUE(SaveAll(storage, "c/step-2", 2, shards).ok());
  ASSERT_TRUE(PruneCheckpoints(storage, "c", 1).ok());
  EXPECT_THAT(storage.removed,
              ElementsAre("c/step-1/manifest.json", "c/step-1"));
}

// --- Damage ----------------------------------------------------------------

class CheckpointDamageTest : public ::testing::Test {
 protected:
  CheckpointDamageTest()
      : model_(CheckpointModel("momentum")), shards_(MakeShards(model_, 2)) {
    TrainAll(shards_, 0, 1);
    EXPECT_TRUE(SaveAll(storage_, kFolder, 7, shards_, {{"job", "a: 1"}}).ok());
    digest_ = DigestOf(storage_, kFolder);
  }

  std::string Read(const std::string& name) {
    const auto file = storage_.ReadFile(std::string(kFolder) + "/" + name);
    EXPECT_TRUE(file.ok());
    return std::string(file->text());
  }
  void Write(const std::string& name, const std::string& text) {
    const Buffer bytes = Buffer::CopyOf(text);
    EXPECT_TRUE(
        storage_.PublishFile(std::string(kFolder) + "/" + name, {&bytes, 1})
            .ok());
  }

  // As if SaveParts() had made a part of these bytes: its checksum is right, so
  // that what lies behind the checksum is tried too.
  Status PublishAsPart(const std::string& bytes) {
    Write("part-0-0.safetensors", bytes);
    char entry[128];
    std::snprintf(entry, sizeof(entry),
                  R"({"file":"part-0-0.safetensors","bytes":%zu,)"
                  R"("xxh3":"%016llx"})",
                  bytes.size(),
                  static_cast<unsigned long long>(
                      XXH3_64bits(bytes.data(), bytes.size())));
    return PublishManifest(storage_, kFolder, 7, {entry}, {});
  }
  // A part of a header and `data_bytes` of zeros.
  static std::string PartOfHeader(std::string header, size_t data_bytes) {
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const uint64_t length = header.size();
    std::string bytes(reinterpret_cast<const char*>(&length), 8);
    return bytes + header + std::string(data_bytes, '\0');
  }

  ModelSpec model_;
  CheckpointShards shards_;
  MemoryStorage storage_;
  std::string digest_;
};

std::string DamagedText(const std::string& text, Random& random) {
  std::string damaged = text;
  if (random.Below(3) == 0) {
    damaged.resize(random.Below(text.size()));
    return damaged;
  }
  for (uint64_t n = random.Below(3) + 1; n > 0; --n) {
    damaged[random.Below(text.size())] ^=
        static_cast<char>(1 << random.Below(8));
  }
  return damaged;
}

TEST_F(CheckpointDamageTest, AnyDamageIsDataLossOrTheSameContent) {
  for (const std::string name :
       {"manifest.json", "part-0-0.safetensors", "part-1-2.safetensors"}) {
    const std::string whole = Read(name);
    for (uint64_t seed = 0; seed < 400; ++seed) {
      Random random(HashKey(HashText(name), seed));
      Write(name, DamagedText(whole, random));
      const StatusOr<std::string> digest = DigestCheckpoint(storage_, kFolder);
      const StatusOr<Manifest> manifest = ReadManifest(storage_, kFolder);
      if (digest.ok()) {
        ASSERT_EQ(*digest, digest_) << name << " seed " << seed;
        ASSERT_EQ(manifest->step, 7);
        ASSERT_EQ(manifest->texts.at("job"), "a: 1");
      } else {
        ASSERT_EQ(digest.status().code(), StatusCode::kDataLoss)
            << name << " seed " << seed << ": " << digest.status();
        ASSERT_THAT(digest.status().message(), HasSubstr(name));
      }
    }
    Write(name, whole);
  }
  EXPECT_EQ(DigestOf(storage_, kFolder), digest_);
}

// Behind a right checksum: never a crash (the sanitizers watch), whatever it
// says.
TEST_F(CheckpointDamageTest, DamagedPartsWithRightChecksumsCrashNothing) {
  const std::string parts[] = {Read("part-0-0.safetensors"),
                               Read("part-0-2.safetensors")};
  int refused = 0;
  for (uint64_t seed = 0; seed < 1500; ++seed) {
    const std::string& whole = parts[seed % 2];
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, whole.data(), 8);
    Random random(seed);
    // Mostly in the header: in the values nothing can be told from training.
    std::string damaged = whole;
    std::string header = whole.substr(0, 8 + header_bytes);
    header = DamagedText(header, random);
    damaged.replace(0, 8 + header_bytes, header);
    if (seed % 10 == 0) {
      damaged = DamagedText(whole, random);
    }
    ASSERT_TRUE(PublishAsPart(damaged).ok());
    const Status verified = VerifyCheckpoint(storage_, kFolder);
    const CheckpointShards to = MakeShards(model_, 1);
    const Status loaded = LoadAll(storage_, kFolder, to);
    if (!verified.ok()) {
      ++refused;
      ASSERT_EQ(verified.code(), StatusCode::kDataLoss) << seed;
      ASSERT_FALSE(loaded.ok()) << seed;
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST_F(CheckpointDamageTest, MissingPartIsNotFoundNamingIt) {
  ASSERT_TRUE(
      storage_.Remove(std::string(kFolder) + "/part-1-1.safetensors").ok());
  const Status status = VerifyCheckpoint(storage_, kFolder);
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("part-1-1.safetensors"));
}

TEST_F(CheckpointDamageTest, HeadersThatLieAreDataLossSayingWhy) {
  const struct {
    std::string bytes;
    const char* why;
  } kCases[] = {
      {"", "no header"},
      {std::string(7, ' '), "no header"},
      {std::string(8, '\xff'), "no valid length"},
      {PartOfHeader("[]", 0), "not JSON"},
      {PartOfHeader("{\"a\":", 0), "not JSON"},
      {PartOfHeader(std::string(100000, '['), 0), "not JSON"},
      {PartOfHeader(R"({"a":{"dtype":"F32","shape":[0],)"
                    R"("data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],)"
                    R"("data_offsets":[0,0]}})",
                    0),
       "name twice"},
      {PartOfHeader(R"({"a":1})", 0), "not described"},
      {PartOfHeader(R"({"a":{"dtype":"F32","shape":[1]}})", 4),
       "not described"},
      {PartOfHeader(R"({"a":{"dtype":"F32","shape":[-1],)"
                    R"("data_offsets":[0,4]}})",
                    4),
       "valid shape"},
      {PartOfHeader(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],)"
                    R"("data_offsets":[0,4]}})",
                    4),
       "valid shape"},
      {PartOfHeader(R"({"a":{"dtype":"F32","shape":[18446744073709551615,)"
                    R"(18446744073709551615],"data_offsets":[0,4]}})",
                    4),
       "valid shape"},
      {PartOfHeader(R"({"a":{"dtype":"F32","shape":[1],)"
                    R"("data_offsets":[-4,0]}})",
                    4),
       "valid offsets"},
      {PartOfHeader(R"({"a":{"dtype":"I16","shape":[2],)"
                    R"("data_offsets":[0,4]}})",
                    4),
       "lies outside"},
      {PartOfHeader(R"({"a":{"dtype":"F32","shape":[2],)"
                    R"("data_offsets":[0,8]}})",
                    4),
       "lies outside"},
      {PartOfHeader(R"({"a":{"dtype":"F32","shape":[1],)"
                    R"("data_offsets":[4,8]}})",
                    8),
       "hole or overlap"},
      {PartOfHeader(R"({"a":{"dtype":"F32","shape":[1],)"
                    R"("data_offsets":[0,4]}})",
                    8),
       "behind its last"},
      {PartOfHeader(R"({"t/ids":{"dtype":"U64","shape":[1],)"
                    R"("data_offsets":[0,8]}})",
                    8),
       "t/values"},
      {PartOfHeader(R"({"t/ids":{"dtype":"U64","shape":[2],)"
                    R"("data_offsets":[0,16]},"t/values":{"dtype":"F32",)"
                    R"("shape":[2,0],"data_offsets":[16,16]},"t/state":)"
                    R"({"dtype":"F32","shape":[2,0],)"
                    R"("data_offsets":[16,16]}})",
                    16),
       "repeats an id"},
      {PartOfHeader(R"({"v@0/values":{"dtype":"F32","shape":[1],)"
                    R"("data_offsets":[0,4]}})",
                    4),
       "no state beside it"},
  };
  for (const auto& tried : kCases) {
    ASSERT_TRUE(PublishAsPart(tried.bytes).ok());
    const Status status = VerifyCheckpoint(storage_, kFolder);
    EXPECT_EQ(status.code(), StatusCode::kDataLoss) << tried.why;
    EXPECT_THAT(status.message(), HasSubstr(tried.why));
    EXPECT_THAT(status.message(), HasSubstr("part-0-0.safetensors"));
  }
}

TEST_F(CheckpointDamageTest, ManifestNamesAPartOnceAndInItsFolderAlone) {
  const std::string entry =
      R"({"file":"part-0-0.safetensors","bytes":1,"xxh3":"0"})";
  ASSERT_TRUE(PublishManifest(storage_, kFolder, 7, {entry, entry}, {}).ok());
  EXPECT_EQ(ReadManifest(storage_, kFolder).status().code(),
            StatusCode::kDataLoss);
}

}  // namespace
}  // namespace shoal::ps
