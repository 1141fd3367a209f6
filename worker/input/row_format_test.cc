#include "worker/input/row_format.h"

#include <cmath>

#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"

#include "base/random.h"
#include "base/strcat.h"
#include "worker/input/row_encoder.h"
#include "worker/input/test_files.h"
#include "worker/job.pb.h"

namespace shoal::worker::input_tests {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

JobSpec ParsedJob(const std::string& text) {
  JobSpec job;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &job))
      << text;
  return job;
}

struct Parsed {
  std::unique_ptr<RowFormat> format;
  RawBlock block;
  std::vector<std::string> bad;  // "line: reason"
};

Parsed ParseText(const std::string& job_text, const std::string& text,
                 bool prediction = false) {
  Parsed parsed;
  const JobSpec job = ParsedJob(job_text);
  auto format = CreateRowFormat(job, prediction);
  if (!format.ok()) {
    ADD_FAILURE() << format.status();
    return parsed;
  }
  parsed.format = *std::move(format);
  TextBlock block;
  block.text = text;
  const auto layout = parsed.format->ReadHeader("file", &block);
  if (!layout.ok()) {
    ADD_FAILURE() << layout.status();
    return parsed;
  }
  parsed.format->Parse(block, *layout, 1000, &parsed.block);
  for (const BadRow& row : parsed.block.bad_rows) {
    parsed.bad.push_back(StrCat(row.line, ": ", row.reason));
  }
  return parsed;
}

std::vector<std::string> Entries(const RawBlock& block) {
  std::vector<std::string> entries;
  for (int64_t row = 0; row < block.num_rows; ++row) {
    for (size_t i = block.entries_begin(row); i < block.entries_end(row); ++i) {
      entries.push_back(StrCat(row, "/", block.entries[i].bag, ":",
                               block.entries[i].key, ":",
                               block.entries[i].weight));
    }
  }
  return entries;
}

TEST(LibsvmFormatTest, RowsHaveLabelsAndWeightedIds) {
  const Parsed parsed = ParseText(
      "data { format: 'libsvm' }",
      "-1 3:1 11:0.5 \r\n\n# comment\n+1 18446744073709551615:-2e0 # x\n0\n1");
  EXPECT_THAT(parsed.bad, IsEmpty());
  EXPECT_THAT(parsed.block.labels, ElementsAre(0, 1, 0, 1));
  EXPECT_THAT(
      Entries(parsed.block),
      ElementsAre("0/0:3:1", "0/0:11:0.5", "1/0:18446744073709551615:-2"));
}

TEST(LibsvmFormatTest, WrongRowsSayWhereAndWhy) {
  const Parsed parsed = ParseText(
      "data { format: 'libsvm' }",
      "nan 1:1\n1 18446744073709551616:1\n1 a:1\n2 1:1\n1 1:nan\n1 1\n"
      "1 -1:1\n1 1:1e39\nx 1:1\n1 5:2\n");
  EXPECT_THAT(
      parsed.bad,
      ElementsAre(
          HasSubstr("1: label 'nan' is no finite number"),
          HasSubstr("2: feature '18446744073709551616:1' has an index outside"),
          HasSubstr("3: feature 'a:1' has an index"),
          HasSubstr("4: label '2' must be 0 or 1"),
          HasSubstr("5: feature '1:nan' has a value"),
          HasSubstr("6: feature '1' is not index:value"),
          HasSubstr("7: feature '-1:1' has an index"),
          HasSubstr("8: feature '1:1e39' has a value"),
          HasSubstr("9: label 'x'")));
  EXPECT_THAT(Entries(parsed.block), ElementsAre("0/0:5:2"));
}

TEST(LibsvmFormatTest, RowsToPredictNeedNoLabel) {
  const Parsed parsed =
      ParseText("data { format: 'libsvm' }", "1:1 2:1\n1 3:1\n", true);
  EXPECT_THAT(parsed.bad, IsEmpty());
  EXPECT_TRUE(std::isnan(parsed.block.labels[0]));
  EXPECT_EQ(parsed.block.labels[1], 1);
}

TEST(LibffmFormatTest, EntriesHaveFields) {
  const Parsed parsed =
      ParseText("data { format: 'libffm' }",
                "1 0:5:1 2:7:0.5\n0 1:2\n0 10000:1:1\n0 -1:1:1\n0 1:x:1\n");
  EXPECT_THAT(Entries(parsed.block), ElementsAre("0/0:5:1", "0/2:7:0.5"));
  EXPECT_THAT(parsed.bad, ElementsAre(HasSubstr("is not field:index:value"),
                                      HasSubstr("a field outside"),
                                      HasSubstr("a field outside"),
                                      HasSubstr("an index outside")));
}

std::string CriteoRow(const std::string& label, const std::string& first_number,
                      const std::string& first_id) {
  std::string row = label + "\t" + first_number;
  for (int i = 1; i < 13; ++i) {
    row += StrCat("\t", i);
  }
  row += "\t" + first_id;
  for (int i = 1; i < 26; ++i) {
    row += StrCat("\t", i % 2 == 0 ? "" : "68fd1e64");
  }
  return row + "\n";
}

TEST(CriteoFormatTest, NumbersAndIdsMayBeMissing) {
  const Parsed parsed =
      ParseText("data { format: 'criteo' }",
                CriteoRow("1", "", "ff") + CriteoRow("0", "-2.5", "") +
                    CriteoRow("0", "1", "18446744073709551615"));
  EXPECT_THAT(parsed.bad, IsEmpty());
  EXPECT_THAT(parsed.block.labels, ElementsAre(1, 0, 0));
  EXPECT_TRUE(std::isnan(parsed.block.numbers[0]));
  EXPECT_EQ(parsed.block.numbers[1], 1);
  EXPECT_EQ(parsed.block.numbers[13], -2.5);
  EXPECT_EQ(parsed.block.keys[0], 255U);
  EXPECT_EQ(parsed.block.keys[1], 0x68fd1e64U);
  EXPECT_EQ(parsed.block.keys[2], kMissingKey);
  EXPECT_EQ(parsed.block.keys[26], kMissingKey);
  EXPECT_EQ(parsed.block.keys[52], ~uint64_t{0});
}

TEST(CriteoFormatTest, WrongRowsSayWhereAndWhy) {
  const Parsed parsed =
      ParseText("data { format: 'criteo' }",
                CriteoRow("2", "", "ff") + CriteoRow("0", "x", "ff") +
                    "1\t2\n" + CriteoRow("0", "1", "18446744073709551616") +
                    CriteoRow("0", "1", "xyz") + CriteoRow("0", "1e40", "") +
                    CriteoRow("nan", "1", "") + CriteoRow("0", "1", "a\tb") +
                    CriteoRow("1", "7", "5"));
  EXPECT_THAT(parsed.bad,
              ElementsAre(HasSubstr("1: column 1 (label): '2' must be 0 or 1"),
                          HasSubstr("2: column I1: 'x' is no finite number"),
                          HasSubstr("3: has 2 columns, expected 40"),
                          HasSubstr("4: column C1: '18446744073709551616'"),
                          HasSubstr("5: column C1: 'xyz'"),
                          HasSubstr("6: column I1: '1e40'"),
                          HasSubstr("7: column 1 (label): 'nan'"),
                          HasSubstr("8: has 41 columns, expected 40")));
  // The good row is whole, whatever came before it.
  EXPECT_EQ(parsed.block.num_rows, 1);
  EXPECT_EQ(parsed.block.numbers.size(), 13U);
  EXPECT_EQ(parsed.block.keys.size(), 26U);
  EXPECT_EQ(parsed.block.numbers[0], 7);
  EXPECT_THAT(parsed.block.lines, ElementsAre(9));
}

TEST(CriteoFormatTest, RowsToPredictNeedNoLabel) {
  std::string row = CriteoRow("", "1", "5");
  const std::string bare = row.substr(1);
  const Parsed parsed =
      ParseText("data { format: 'criteo' }", row + bare, true);
  EXPECT_THAT(parsed.bad, IsEmpty());
  EXPECT_EQ(parsed.block.num_rows, 2);
  EXPECT_TRUE(std::isnan(parsed.block.labels[1]));
  EXPECT_EQ(parsed.block.keys[26], 5U);
}

constexpr const char* kCsvJob = R"(data {
  label: 'y' filter: 'd present'
  features { column: 'n' kind: 'numeric' }
  features { column: 'c' }
  features { column: 'list' separator: '|' }
  features { name: 'wd' when { column: 'date' part: 'weekday' } } })";

TEST(CsvFormatTest, RowsAreReadByTheirHeader) {
  const Parsed parsed = ParseText(kCsvJob,
                                  "c,extra,y,n,d,list,date\n"
                                  "x,?,1,2.5,1,a|b,2013-01-31\n"
                                  "dropped,?,7,oops,,a,never\n"
                                  ",?,0,,1,,\n");
  EXPECT_THAT(parsed.bad, IsEmpty());
  EXPECT_THAT(parsed.block.labels, ElementsAre(1, 0));
  EXPECT_EQ(parsed.block.numbers[0], 2.5);
  EXPECT_TRUE(std::isnan(parsed.block.numbers[1]));
  EXPECT_THAT(parsed.block.keys, ElementsAre(HashText("x"), HashText("3"),
                                             kMissingKey, kMissingKey));
  EXPECT_THAT(Entries(parsed.block),
              ElementsAre(StrCat("0/0:", HashText("a"), ":1"),
                          StrCat("0/0:", HashText("b"), ":1"),
                          StrCat("1/0:", kMissingKey, ":1")));
  EXPECT_THAT(parsed.block.lines, ElementsAre(2, 4));
}

TEST(CsvFormatTest, WrongRowsSayWhereAndWhy) {
  const Parsed parsed = ParseText(kCsvJob,
                                  "c,y,n,d,list,date\n"
                                  "x,1,2.5,1,a\n"
                                  "x,nan,2.5,1,a,2013-01-31\n"
                                  "x,2,2.5,1,a,2013-01-31\n"
                                  "x,,2.5,1,a,2013-01-31\n"
                                  "x,1,abc,1,a,2013-01-31\n"
                                  "x,1,1e39,1,a,2013-01-31\n"
                                  "x,1,1,1,a,2013-02-30\n"
                                  "\"x\"y,1,1,1,a,2013-01-30\n"
                                  "good,1,1,1,a,2013-01-30\n");
  EXPECT_THAT(parsed.bad,
              ElementsAre(HasSubstr("2: has 5 columns, expected 6"),
                          HasSubstr("3: column 'y': label 'nan' is no finite"),
                          HasSubstr("4: column 'y': label '2' must be 0 or 1"),
                          HasSubstr("5: column 'y': the label is missing"),
                          HasSubstr("6: column 'n': 'abc' is no finite"),
                          HasSubstr("7: column 'n': '1e39' is outside"),
                          HasSubstr("8: column 'date': '2013-02-30' is no day"),
                          HasSubstr("9: text follows the closing quote")));
  EXPECT_EQ(parsed.block.num_rows, 1);
  EXPECT_THAT(parsed.block.keys, ElementsAre(HashText("good"), HashText("2")));
  EXPECT_EQ(Entries(parsed.block).size(), 1U);
}

TEST(CsvFormatTest, ParsingStopsWhenTooManyRowsAreBad) {
  const JobSpec job = ParsedJob(kCsvJob);
  const auto format = CreateRowFormat(job, false);
  ASSERT_TRUE(format.ok());
  TextBlock block;
  block.text = "c,y,n,d,list,date\n";
  for (int i = 0; i < 100; ++i) {
    block.text += "short\n";
  }
  const auto layout = (*format)->ReadHeader("file", &block);
  ASSERT_TRUE(layout.ok());
  RawBlock raw;
  (*format)->Parse(block, *layout, 3, &raw);
  EXPECT_EQ(raw.bad_rows.size(), 4U);
}

std::string HeaderError(const std::string& job_text, const std::string& text) {
  const JobSpec job = ParsedJob(job_text);
  const auto format = CreateRowFormat(job, false);
  if (!format.ok()) {
    return ErrorOf(format);
  }
  TextBlock block;
  block.text = text;
  return ErrorOf((*format)->ReadHeader("the/file", &block));
}

TEST(CsvFormatTest, HeadersThatLackAColumnAreErrors) {
  EXPECT_THAT(HeaderError(kCsvJob, "c,y,n,d,list\n"),
              HasSubstr("the/file: has no column 'date'; it has: c, y, n"));
  EXPECT_THAT(HeaderError(kCsvJob, ""), HasSubstr("the/file: is empty"));
  EXPECT_THAT(HeaderError(kCsvJob, "c,y,n,d,list,date,c\n"),
              HasSubstr("'c' is there twice"));
  EXPECT_EQ(HeaderError("data { csv { aliases { key: 'y' value: 'z' } } "
                        "label: 'y' features { column: 'c' } }",
                        "z,c\n"),
            "OK");
}

TEST(CsvFormatTest, JobsThatMakeNoSenseAreErrors) {
  const auto error = [](const std::string& data) {
    return ErrorOf(CreateRowFormat(ParsedJob("data {" + data + "}"), false));
  };
  const std::string c = " features { column: 'c' }";
  EXPECT_THAT(error(c), HasSubstr("data.label is empty"));
  EXPECT_THAT(error("label: 'y'"), HasSubstr("data.features is empty"));
  EXPECT_THAT(error("label: 'y' filter: 'x'" + c), HasSubstr("no comparison"));
  EXPECT_THAT(error("label: 'y' csv { delimiter: ',,' }" + c),
              HasSubstr("data.csv.delimiter"));
  EXPECT_THAT(error("label: 'y' csv { header: false }" + c),
              HasSubstr("data.csv.columns"));
  EXPECT_THAT(error("label: 'y' split { by: 'hash' }" + c),
              HasSubstr("data.split.column"));
  EXPECT_THAT(error("label: 'y' split { by: 'range' column: 'a' }" + c),
              HasSubstr("data.split.from"));
  EXPECT_THAT(error("format: 'libsvm'" + c), HasSubstr("data.features"));
  EXPECT_THAT(error("format: 'libsvm' split { by: 'range' }"),
              HasSubstr("data.split.by: range"));
}

TEST(CsvFormatTest, FeaturesThatMakeNoSenseAreErrors) {
  const auto error = [](const std::string& features) {
    return ErrorOf(CreateRowFormat(
        ParsedJob("data { label: 'y' features { column: 'a' } features {" +
                  features + "} }"),
        false));
  };
  EXPECT_EQ(error("column: 'c'"), "OK");
  EXPECT_EQ(error("cross: 'a' cross: 'raw column'"), "OK");
  EXPECT_THAT(error(""), HasSubstr("no `column`"));
  EXPECT_THAT(error("column: 'a'"), HasSubstr("'a': is there twice"));
  EXPECT_THAT(error("column: 'c' cross: 'a' cross: 'b'"),
              HasSubstr("one of `column`, `when` and `cross`"));
  EXPECT_THAT(error("name: 'x' cross: 'a'"), HasSubstr("two parts"));
  EXPECT_THAT(error("name: 'x' cross: 'a' cross: 'x'"),
              HasSubstr("holds itself"));
  EXPECT_THAT(error("column: 'c' kind: 'numeric' buckets { edges: 1 }"),
              HasSubstr("`buckets`"));
  EXPECT_THAT(error("column: 'c' buckets { edges: 2 edges: 1 }"),
              HasSubstr("must rise"));
  EXPECT_THAT(error("column: 'c' buckets { }"), HasSubstr("`buckets` needs"));
  EXPECT_THAT(error("column: 'c' log: true"), HasSubstr("`log`"));
  EXPECT_THAT(error("column: 'c' kind: 'numeric' min_count: 2"),
              HasSubstr("`min_count`"));
  EXPECT_THAT(error("when { column: 'c' part: 'century' }"),
              HasSubstr("'century'"));
  EXPECT_THAT(error("when { column: 'c' format: 'hhmm' part: 'day' }"),
              HasSubstr("has no day"));
  EXPECT_THAT(error("when { month: 'm' part: 'weekday' }"),
              HasSubstr("whole date"));
  EXPECT_THAT(error("when { part: 'day' }"), HasSubstr("`when` needs"));
}

// The formats must take any bytes: no crash, and rows and what belongs to them
// stay in step.
TEST(RowFormatTest, RandomTextNeverCrashesAndKeepsRowsWhole) {
  const std::string jobs[] = {
      "data { format: 'libsvm' }", "data { format: 'libffm' }",
      "data { format: 'criteo' }",
      "data { csv { header: false columns: 'a' columns: 'b' columns: 'c' } "
      "label: 'a > 1' features { column: 'b' kind: 'numeric' } "
      "features { column: 'c' separator: '|' } "
      "features { column: 'a' buckets { edges: 1 } } "
      "features { when { column: 'c' format: 'unix' part: 'hour' } } }"};
  constexpr std::string_view kAlphabet = "0123456789.:-+e,|\n\n\t \"#nai\r";
  for (uint64_t seed = 1; seed <= 4000; ++seed) {
    Random random(seed);
    std::string text;
    for (uint64_t i = random.Below(200); i > 0; --i) {
      text += random.Below(40) == 0 ? static_cast<char>(random())
                                    : kAlphabet[random.Below(kAlphabet.size())];
    }
    SCOPED_TRACE(StrCat("seed ", seed));
    const Parsed parsed = ParseText(jobs[seed % 4], text);
    const RawBlock& block = parsed.block;
    const FeaturePlan& plan = parsed.format->plan();
    const auto rows = static_cast<size_t>(block.num_rows);
    ASSERT_EQ(block.labels.size(), rows);
    ASSERT_EQ(block.lines.size(), rows);
    ASSERT_EQ(block.numbers.size(),
              rows * static_cast<size_t>(plan.numbers_per_row));
    ASSERT_EQ(block.keys.size(), rows * static_cast<size_t>(plan.keys_per_row));
    const size_t num_entries =
        block.entry_ends.empty() ? 0 : block.entry_ends.back();
    ASSERT_EQ(block.entries.size(), num_entries);
    FittedTransforms fitted;
    fitted.num_fields = 3;
    RecordSchema schema;
    plan.DescribeInputs(fitted, &schema);
    EncodedBlock encoded;
    RowEncoder(plan, fitted, schema).Encode(block, &encoded);
    ASSERT_EQ(encoded.records.size(),
              rows * static_cast<size_t>(schema.record_bytes()));
  }
}

}  // namespace
}  // namespace shoal::worker::input_tests
