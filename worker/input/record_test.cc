#include <signal.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <sys/resource.h>

#include "base/random.h"
#include "base/strcat.h"
#include "worker/input/record_file.h"
#include "worker/input/record_writer.h"
#include "worker/input/test_files.h"

namespace shoal::worker::input_tests {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

RecordSchema SchemaWithAll() {
  RecordSchema schema;
  schema.numeric = {"n1", "n2"};
  schema.categorical = {"c1", "c2", "c3"};
  schema.bags = {{"b1", "sum", true}, {"b2", "mean", false}};
  return schema;
}

// The bytes of a record, put together by hand from the documented layout.
std::string RecordOf(float label, const std::vector<float>& numeric,
                     const std::vector<uint64_t>& ids,
                     const std::vector<uint32_t>& bag_ends) {
  std::string record(reinterpret_cast<const char*>(&label), 4);
  record.append(reinterpret_cast<const char*>(numeric.data()),
                4 * numeric.size());
  record.resize((record.size() + 7) / 8 * 8, '\0');
  record.append(reinterpret_cast<const char*>(ids.data()), 8 * ids.size());
  if (!bag_ends.empty()) {
    record.append(8, '\xff');  // the writer's to set
    record.append(reinterpret_cast<const char*>(bag_ends.data()),
                  4 * bag_ends.size());
    record.resize((record.size() + 7) / 8 * 8, '\0');
  }
  return record;
}

Status WriteThreeRows(const std::string& path, const std::string& fitted) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<RecordWriter> writer,
                         RecordWriter::Create(path, SchemaWithAll()));
  const auto append = [&](const std::string& record,
                          const std::vector<uint64_t>& ids,
                          const std::vector<float>& weights) {
    return writer->Append({record.data(), record.size()}, ids, weights);
  };
  SHOAL_RETURN_IF_ERROR(append(RecordOf(1, {0.5, -2}, {7, 8, 9}, {2, 3}),
                               {100, 101, 200}, {0.25, 0.75, 1}));
  SHOAL_RETURN_IF_ERROR(append(RecordOf(0, {1, 2}, {1, 2, 3}, {0, 0}), {}, {}));
  SHOAL_RETURN_IF_ERROR(
      append(RecordOf(1, {3, 4}, {4, 5, ~uint64_t{0}}, {1, 3}), {300, 301, 302},
             {2, 3, 4}));
  return writer->Finish(fitted, true);
}

TEST(RecordTest, RowsComeBackAsTheyWereWritten) {
  const TempFolder folder;
  const std::string path = folder.File("sub/x.shoalrec");
  ASSERT_EQ(ErrorOf(WriteThreeRows(path, "{\"some\":\"json\"}")), "OK");
  const auto opened = RecordFile::Open(path);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const RecordFile& file = **opened;
  EXPECT_EQ(file.num_rows(), 3);
  EXPECT_TRUE(file.schema() == SchemaWithAll());
  EXPECT_EQ(file.fitted_json(), "{\"some\":\"json\"}");
  EXPECT_EQ(file.Row(0).label, 1);
  EXPECT_THAT(file.Row(0).numeric, ElementsAre(0.5F, -2));
  EXPECT_THAT(file.Row(1).ids, ElementsAre(1, 2, 3));
  EXPECT_THAT(file.Row(2).ids, ElementsAre(4, 5, ~uint64_t{0}));
  EXPECT_THAT(file.Bag(0, 0)->ids, ElementsAre(100, 101));
  EXPECT_THAT(file.Bag(0, 0)->weights, ElementsAre(0.25F, 0.75F));
  EXPECT_THAT(file.Bag(0, 1)->ids, ElementsAre(200));
  EXPECT_THAT(file.Bag(0, 1)->weights, ElementsAre());
  EXPECT_THAT(file.Bag(1, 1)->ids, ElementsAre());
  EXPECT_THAT(file.Bag(2, 0)->ids, ElementsAre(300));
  EXPECT_THAT(file.Bag(2, 1)->ids, ElementsAre(301, 302));
  EXPECT_EQ(folder.Names(), "sub");
  EXPECT_EQ(
      std::distance(std::filesystem::directory_iterator(folder.File("sub")),
                    std::filesystem::directory_iterator()),
      1);
}

TEST(RecordTest, TheLayoutIsTheDocumentedOne) {
  RecordSchema schema;
  for (int i = 0; i < 13; ++i) {
    schema.numeric.push_back(StrCat("I", i));
  }
  for (int i = 0; i < 26; ++i) {
    schema.categorical.push_back(StrCat("C", i));
  }
  EXPECT_EQ(schema.ids_offset(), 56);
  EXPECT_EQ(schema.record_bytes(), 264);
  EXPECT_EQ(SchemaWithAll().ids_offset(), 16);
  EXPECT_EQ(SchemaWithAll().bags_offset(), 40);
  EXPECT_EQ(SchemaWithAll().record_bytes(), 56);
}

TEST(RecordTest, WhatWasNotFinishedIsGone) {
  const TempFolder folder;
  {
    const auto writer =
        RecordWriter::Create(folder.File("x.shoalrec"), SchemaWithAll());
    ASSERT_TRUE(writer.ok());
    EXPECT_NE(folder.Names(), "");
  }
  EXPECT_EQ(folder.Names(), "");
}

TEST(RecordTest, AnUnwritableFolderIsAnErrorThatNamesThePath) {
  const TempFolder folder;
  const std::string file = folder.Write("file", "");
  EXPECT_THAT(
      ErrorOf(RecordWriter::Create(file + "/x.shoalrec", SchemaWithAll())),
      HasSubstr(file));
}

// Files of this process can't grow beyond a few bytes while it lives: what a
// full disk looks like to a writer.
class SmallDisk {
 public:
  explicit SmallDisk(rlim_t size_bytes_max) {
    getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = signal(SIGXFSZ, SIG_IGN);
    const rlimit small = {size_bytes_max, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
  }
  ~SmallDisk() {
    setrlimit(RLIMIT_FSIZE, &before_);
    signal(SIGXFSZ, handler_);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

 private:
  rlimit before_ = {};
  void (*handler_)(int) = nullptr;
};

TEST(RecordTest, AFullDiskIsAnErrorAndLeavesNothing) {
  const TempFolder folder;
  const std::string path = folder.File("x.shoalrec");
  Status status;
  {
    const SmallDisk disk(300);
    status = WriteThreeRows(path, "{}");
  }
  EXPECT_THAT(ErrorOf(status),
              AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr(path)));
  EXPECT_EQ(folder.Names(), "");
}

TEST(RecordTest, DamagedFilesAreErrorsAndNeverCrash) {
  const TempFolder folder;
  const std::string path = folder.File("x.shoalrec");
  ASSERT_EQ(ErrorOf(WriteThreeRows(path, "{\"a\":1}")), "OK");
  const std::string good = ReadWholeFile(path);
  const std::string bad = folder.File("bad");
  for (size_t size = 0; size < good.size(); size += 7) {
    folder.Write("bad", good.substr(0, size));
    EXPECT_THAT(ErrorOf(RecordFile::Open(bad)),
                AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr(bad)));
  }
  folder.Write("bad", good + "x");
  EXPECT_THAT(ErrorOf(RecordFile::Open(bad)), HasSubstr("cut off or grew"));
  int num_opened = 0;
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    Random random(seed);
    std::string bytes = good;
    for (uint64_t i = 1 + random.Below(3); i > 0; --i) {
      bytes[random.Below(bytes.size())] = static_cast<char>(random());
    }
    folder.Write("bad", bytes);
    const auto file = RecordFile::Open(bad);
    if (!file.ok()) {
      continue;
    }
    ++num_opened;
    // Only rows are damaged: any of their values may come, inside the file.
    for (int64_t row = 0; row < (*file)->num_rows(); ++row) {
      (void)(*file)->Row(row);
      for (int64_t bag = 0; bag < 2; ++bag) {
        const StatusOr<RecordBag> entries = (*file)->Bag(row, bag);
        if (entries.ok()) {
          for (const uint64_t id : entries->ids) {
            EXPECT_TRUE(id + 1 != 0 || id == ~uint64_t{0});
          }
        }
      }
    }
  }
  EXPECT_GT(num_opened, 0);
}

TEST(RecordTest, TextAndMissingFilesAreErrors) {
  const TempFolder folder;
  EXPECT_THAT(
      ErrorOf(RecordFile::Open(folder.Write("a", std::string(500, 'x')))),
      HasSubstr("no record file"));
  EXPECT_THAT(ErrorOf(RecordFile::Open(folder.File("none"))),
              HasSubstr("NOT_FOUND"));
}

TEST(RecordSchemaTest, JsonKeepsAllAndRefusesGarbage) {
  RecordSchema schema = SchemaWithAll();
  schema.task = "multiclass";
  schema.classes = 7;
  schema.labelled = false;
  EXPECT_TRUE(SchemaFromJson(SchemaToJson(schema)).value() == schema);
  for (const char* text :
       {"", "{", "[]", "{}", "3", "{\"task\":3}",
        R"({"task":"binary","classes":2,"labelled":true,"numeric":[1],)"
        R"("categorical":[],"bags":[]})"}) {
    EXPECT_THAT(ErrorOf(SchemaFromJson(text)), HasSubstr("record schema"))
        << text;
  }
}

}  // namespace
}  // namespace shoal::worker::input_tests
