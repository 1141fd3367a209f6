// Everything that comes from a file, a network or a user, changed at random: it
// is taken or refused with an error of the right kind, never with a crash (the
// sanitizers watch), and what is taken means something.

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/log.h"
#include "base/strcat.h"
#include "ps/protocol.pb.h"
#include "ps/slots.h"
#include "ps/step_stage.h"
#include "ps/wire.h"
#include "tests/fuzz/mutate.h"
#include "worker/input/examples.h"
#include "worker/input/prepare.h"
#include "worker/input/record_file.h"
#include "worker/job.h"
#include "worker/job.pb.h"

namespace shoal::fuzz {
namespace {

using ::testing::AnyOf;

namespace fs = std::filesystem;

class FuzzTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / StrCat("shoal-fuzz-", getpid());
    fs::create_directories(folder_);
    SetLogLevel(LogLevel::kError);  // Each empty part has a warning.
  }
  void TearDown() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  std::string Path(const std::string& name) const {
    return (folder_ / name).string();
  }
  void Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary | std::ios::trunc) << bytes;
  }
  static std::string Read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream out;
    out << file.rdbuf();
    return out.str();
  }

  fs::path folder_;
};

constexpr char kJobHead[] = R"(name: fuzzed
seed: 7
cluster: {servers: 2, workers: 2, virtual_workers: 4}
consistency: {mode: bounded, staleness: 3}
model: {kind: deepfm, dim: 4, hidden: [8, 4], dropout: 0.1}
tables:
  linear: {optimizer: {kind: ftrl, l1: 0.1}}
  embedding: {optimizer: {kind: adam}, init: normal}
train: {epochs: 2, batch_size: 16}
data:
  files: ["rows.*"]
  split: {by: mod, n: 5, test: 4}
  bad_rows: {limit: 1000000}
)";

constexpr char kCsv[] = R"(  csv: {missing: ["NA"], aliases: {k: kind}}
  label: clicked > 0.5
  filter: [price present]
  features:
    - {column: kind, min_count: 2}
    - {name: week, when: {column: day, format: iso, part: weekday}}
    - {name: both, cross: [kind, week], hash_buckets: 100}
    - {column: price, kind: numeric, standardize: true, log: true}
    - {name: steps, column: price, buckets: {quantiles: 4}}
    - {column: tags, separator: "|", pooling: mean}
)";

TEST_F(FuzzTest, JobFiles) {
  const std::string job_text = StrCat(kJobHead, kCsv);
  uint64_t taken = 0;
  const uint64_t runs = Runs(4000);
  for (uint64_t seed = 0; seed < runs; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const std::string text = Mutate(job_text, random);
    const auto job = worker::ParseJob(text, "job.yaml", {});
    if (!job.ok()) {
      ASSERT_EQ(job.status().code(), StatusCode::kInvalidArgument) << text;
      ASSERT_NE(job.status().message(), "");
      continue;
    }
    ++taken;
    const std::string written = worker::JobToYaml(**job);
    const auto again = worker::ParseJob(written, "again.yaml", {});
    ASSERT_TRUE(again.ok()) << again.status() << "\n" << text;
    ASSERT_EQ(worker::JobToYaml(**again), written) << text;
  }
  EXPECT_GT(taken, runs / 50);
}

TEST_F(FuzzTest, Overrides) {
  const std::string samples[] = {
      "cluster.servers=3", "data.features.0.min_count=2",
      "model.hidden=[16, 8]", "data.split={by: hash, column: kind}",
      "tables.linear.optimizer.learning_rate=0.5"};
  const uint64_t runs = Runs(4000);
  for (uint64_t seed = 0; seed < runs; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const std::string change =
        Mutate(samples[random.Below(std::size(samples))], random);
    const auto job =
        worker::ParseJob(StrCat(kJobHead, kCsv), "job.yaml", {change});
    if (!job.ok()) {
      ASSERT_EQ(job.status().code(), StatusCode::kInvalidArgument) << change;
    }
  }
}

struct TextCase {
  const char* name;
  const char* data;  // more keys of the job's data
  const char* rows;
};

constexpr TextCase kTextCases[] = {
    {"Csv", kCsv,
     "clicked,kind,day,price,tags\n"
     "1,a,2013-01-31,1.5,x|y\n0,b,2013-02-01,2,y\n"
     "1,\"a \"\"b\"\", c\",2013-02-28T05:00:00,3e2,\n0,a,,NA,x\n"
     "0,b,2012-02-29,-4,z|z|x\n1,a,2013-12-31,5.25,x\n0,b,2013-03-03,0,y\n"},
    {"Libsvm", "  format: libsvm\n",
     "1 3:1 9:0.5 700:2\n-1 1:1\n1\n0 2:1 18446744073709551615:1 # note\n"
     "1 5:1e-3 6:-2\n-1 7:1\n"},
    {"Libffm", "  format: libffm\n",
     "1 0:3:1 1:9:0.5\n0 0:1:1\n1 2:7:1\n0 1:2:1 2:18446744073709551615:1\n"
     "1 0:5:1 0:6:1\n0 2:7:1\n"},
    {"Criteo", "  format: criteo\n",
     "1\t1\t2\t3\t4\t5\t6\t7\t8\t9\t10\t11\t12\t13\ta\tb\tc\td\te\tf\t1\t2\t3\t"
     "4"
     "\t5\t6\t7\t8\t9\ta1\tb1\tc1\td1\te1\tf1\t0\t1\t2\t3\t4\n"
     "0\t\t\t3\t4\t5\t6\t7\t8\t9\t10\t11\t12\t-1\t\tb\tc\td\te\tf\t1\t2\t3\t4"
     "\t5\t6\t7\t8\t9\ta1\tb1\tc1\td1\te1\tf1\t0\t1\t2\t3\tffffffff\n"},
};

class FuzzTextTest : public FuzzTest,
                     public ::testing::WithParamInterface<TextCase> {};

TEST_P(FuzzTextTest, RowsAreTakenCountedOrRefused) {
  const TextCase& tried = GetParam();
  const auto parsed =
      worker::ParseJob(StrCat(kJobHead, tried.data), "job.yaml",
                       {StrCat("data.root=", folder_.string())});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const uint64_t runs = Runs(300);
  uint64_t taken = 0;
  for (uint64_t seed = 0; seed < runs; ++seed) {
    SCOPED_TRACE(seed);
    Random random(HashKey(HashText(tried.name), seed));
    // Several times the sample, so that rows are left whatever happens to one.
    std::string text = tried.rows;
    text = Mutate(text + text + text, random);
    Write("rows.txt", text);
    const auto one = worker::Prepare(**parsed, Path("one"), nullptr, 1);
    const auto two = worker::Prepare(**parsed, Path("two"), nullptr, 2);
    ASSERT_EQ(one.status().code(), two.status().code()) << text;
    if (!one.ok()) {
      ASSERT_THAT(one.status().code(),
                  AnyOf(StatusCode::kInvalidArgument, StatusCode::kNotFound))
          << one.status() << "\n"
          << text;
      continue;
    }
    ++taken;
    ASSERT_EQ(one->bad_rows, two->bad_rows) << text;
    for (const char* part : {"train.shoalrec", "test.shoalrec"}) {
      ASSERT_EQ(Read(Path(StrCat("one/", part))),
                Read(Path(StrCat("two/", part))))
          << text;
    }
    const auto train = worker::Examples::Open(one->train.path, one->train.rows);
    ASSERT_TRUE(train.ok()) << train.status();
    ASSERT_EQ(train->num_rows(), one->train.num_rows);
    for (int64_t row = 0; row < train->num_rows(); ++row) {
      ASSERT_TRUE(std::isfinite(train->Row(row).label)) << text;
      for (const float value : train->Row(row).numeric) {
        ASSERT_TRUE(std::isfinite(value)) << text;
      }
    }
  }
  EXPECT_GT(taken, runs / 4);
}

INSTANTIATE_TEST_SUITE_P(All, FuzzTextTest, ::testing::ValuesIn(kTextCases),
                         [](const auto& info) { return info.param.name; });

TEST_F(FuzzTest, RecordFilesAndWhatWasFitted) {
  const auto job = worker::ParseJob(StrCat(kJobHead, kCsv), "job.yaml",
                                    {StrCat("data.root=", folder_.string())});
  ASSERT_TRUE(job.ok()) << job.status();
  Write("rows.csv", kTextCases[0].rows);
  const auto data = worker::Prepare(**job, Path("data"), nullptr, 1);
  ASSERT_TRUE(data.ok()) << data.status();
  const std::string whole = Read(data->train.path);
  const std::string fitted = worker::FittedToJson(data->fitted);
  const uint64_t runs = Runs(2000);
  for (uint64_t seed = 0; seed < runs; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    Write("changed.shoalrec", Mutate(whole, random));
    const auto file = worker::RecordFile::Open(Path("changed.shoalrec"));
    if (!file.ok()) {
      ASSERT_EQ(file.status().code(), StatusCode::kInvalidArgument)
          << file.status();
    } else {
      const auto bags = static_cast<int64_t>((*file)->schema().bags.size());
      for (int64_t row = 0; row < (*file)->num_rows(); ++row) {
        (void)(*file)->Row(row);
        for (int64_t bag = 0; bag < bags; ++bag) {
          const auto entries = (*file)->Bag(row, bag);
          ASSERT_TRUE(entries.ok() ||
                      entries.status().code() == StatusCode::kDataLoss);
        }
      }
    }
    const auto transforms = worker::FittedFromJson(Mutate(fitted, random));
    if (transforms.ok()) {
      const auto again =
          worker::FittedFromJson(worker::FittedToJson(*transforms));
      ASSERT_TRUE(again.ok()) << again.status();
      ASSERT_TRUE(*again == *transforms);
    } else {
      ASSERT_EQ(transforms.status().code(), StatusCode::kInvalidArgument);
    }
  }
}

ps::ModelSpec SmallModel() {
  ps::ModelSpec model;
  model.variables = {{"w", {3, 5}, {}}};
  model.tables.resize(2);
  model.tables[0].name = "linear";
  model.tables[0].dim = 1;
  model.tables[1].name = "embedding";
  model.tables[1].dim = 3;
  model.groups = {{0, 1}};
  return model;
}

// What a shard reads of a push: never past its frames, and what it takes agrees
// in every size.
TEST_F(FuzzTest, Pushes) {
  const ps::ModelSpec model = SmallModel();
  const ps::Portion all =
      ps::DenseLayout(model).PortionOf(10, false, [](int64_t) { return true; });
  const ps::PushShape shape = {
      .model = &model, .slot_bits = 10, .portion = &all};
  ps::wire::Push head;
  head.set_step(3);
  head.set_sequence(9);
  head.set_learning_rate_factor(0.5);
  head.add_nodes(1);
  head.add_nodes(2);
  std::vector<uint64_t> ids = {5, 8, 13, 21};
  std::sort(ids.begin(), ids.end(), [](uint64_t a, uint64_t b) {
    return ps::IdHash(a) < ps::IdHash(b);
  });
  const auto floats = [](size_t n) {
    std::string bytes;
    for (size_t i = 0; i < n; ++i) {
      const auto value = static_cast<float>(i) * 0.25F;
      bytes.append(reinterpret_cast<const char*>(&value), 4);
    }
    return bytes;
  };
  const std::string id_bytes(reinterpret_cast<const char*>(ids.data()),
                             ids.size() * 8);
  std::vector<std::string> frames = {head.SerializeAsString()};
  for (int piece = 0; piece < 2; ++piece) {
    frames.insert(frames.end(), {id_bytes, floats(4), floats(12), floats(15)});
  }
  const auto message_of = [](const std::vector<std::string>& from) {
    comm::Message message;
    for (const std::string& frame : from) {
      message.frames.push_back(Buffer::CopyOf(frame));
    }
    return message;
  };
  ASSERT_TRUE(ps::ReadPush(message_of(frames), shape).ok());
  const uint64_t runs = Runs(20000);
  uint64_t taken = 0;
  for (uint64_t seed = 0; seed < runs; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    std::vector<std::string> changed = frames;
    const uint64_t what = random.Below(4);
    const size_t at = random.Below(changed.size());
    if (what == 0) {
      changed.erase(changed.begin() + static_cast<std::ptrdiff_t>(at));
    } else if (what == 1) {
      std::swap(changed[at], changed[random.Below(changed.size())]);
    } else {
      changed[at] = Mutate(changed[at], random);
    }
    const comm::Message message = message_of(changed);
    const StatusOr<ps::PushParts> push = ps::ReadPush(message, shape);
    if (!push.ok()) {
      ASSERT_THAT(push.status().code(),
                  AnyOf(StatusCode::kInvalidArgument, StatusCode::kAborted));
      continue;
    }
    ++taken;
    for (const ps::Piece& piece : push->pieces) {
      ASSERT_EQ(piece.dense.size(), 15U);
      ASSERT_EQ(piece.groups.size(), 1U);
      const size_t n = piece.groups[0].ids.size();
      ASSERT_EQ(piece.groups[0].tables[0].size(), n);
      ASSERT_EQ(piece.groups[0].tables[1].size(), 3 * n);
      for (const float value : piece.dense) {
        ASSERT_TRUE(std::isfinite(value));
      }
    }
  }
  EXPECT_GT(taken, runs / 50);
}

// What members are told when they join.
TEST_F(FuzzTest, ModelsPlansAndRoutes) {
  ps::wire::Model model;
  ps::ToWire(SmallModel(), model);
  ps::wire::Plan plan;
  ps::ToWire(ps::ClusterPlan(), plan);
  ps::wire::Route route;
  ps::RouteTable table;
  table.slot_bits = 3;
  table.shards.resize(3);
  table.SetChains({{.members = {0, 1}},
                   {.members = {1, 0}, .joining = 2},
                   {.members = {2}},
                   {.members = {0, 1}},
                   {.members = {0, 1}},
                   {.members = {2}},
                   {.members = {2}},
                   {.members = {0, 1}}});
  ps::ToWire(table, route);
  const std::string samples[] = {model.SerializeAsString(),
                                 plan.SerializeAsString(),
                                 route.SerializeAsString()};
  const uint64_t runs = Runs(20000);
  for (uint64_t seed = 0; seed < runs; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const std::string bytes = Mutate(samples[seed % 3], random);
    Status status;
    if (seed % 3 == 0 && model.ParseFromString(bytes)) {
      status = ps::FromWire(model).status();
    } else if (seed % 3 == 1 && plan.ParseFromString(bytes)) {
      status = ps::FromWire(plan).status();
    } else if (seed % 3 == 2 && route.ParseFromString(bytes)) {
      status = ps::FromWire(route).status();
    }
    ASSERT_TRUE(status.ok() || status.code() == StatusCode::kInvalidArgument)
        << status;
  }
}

}  // namespace
}  // namespace shoal::fuzz
