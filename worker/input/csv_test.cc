#include "worker/input/csv.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/random.h"
#include "base/strcat.h"
#include "worker/input/test_files.h"
#include "worker/input/text_block.h"

namespace shoal::worker::input_tests {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<std::string>& NoPrefixes() {
  static const std::vector<std::string> none;
  return none;
}

// "line:[a][b]" per record, or "line!reason".
std::vector<std::string> Records(std::string_view text, char delimiter = ',',
                                 const std::vector<std::string>& prefixes = {},
                                 int64_t first_line = 1) {
  std::vector<std::string> records;
  CsvTokenizer tokenizer(text, first_line, delimiter, prefixes);
  while (tokenizer.Next()) {
    std::string record = StrCat(tokenizer.line(), ":");
    for (const std::string_view field : tokenizer.fields()) {
      record += StrCat("[", field, "]");
    }
    if (!tokenizer.error().empty()) {
      record = StrCat(tokenizer.line(), "!", tokenizer.error());
    }
    records.push_back(record);
  }
  return records;
}

TEST(CsvTest, FieldsAreSplitAtDelimiters) {
  EXPECT_THAT(Records("a,b,c\n1,,3\n"),
              ElementsAre("1:[a][b][c]", "2:[1][][3]"));
  EXPECT_THAT(Records("a;b"), ElementsAre("1:[a;b]"));
  EXPECT_THAT(Records("a;b", ';'), ElementsAre("1:[a][b]"));
  EXPECT_THAT(Records("a\t b\t", '\t'), ElementsAre("1:[a][ b][]"));
}

TEST(CsvTest, LineEndsMayBeLfOrCrlfOrLackAtTheEnd) {
  EXPECT_THAT(Records("a,b\r\nc,d\r\n"), ElementsAre("1:[a][b]", "2:[c][d]"));
  EXPECT_THAT(Records("a,b\nc,d"), ElementsAre("1:[a][b]", "2:[c][d]"));
  EXPECT_THAT(Records("a,\"b\"\r\nc,\"d\"\r"),
              ElementsAre("1:[a][b]", "2:[c][d]"));
  EXPECT_THAT(Records("a,\n"), ElementsAre("1:[a][]"));
}

TEST(CsvTest, QuotedFieldsHoldDelimitersNewlinesAndQuotes) {
  EXPECT_THAT(Records("\"a,1\",\"b\"\"2\"\"\",\"c\n3\"\nnext,x,y\n"),
              ElementsAre("1:[a,1][b\"2\"][c\n3]", "3:[next][x][y]"));
  EXPECT_THAT(Records("\"\",\"\"\"\"\n"), ElementsAre("1:[][\"]"));
  // A quote inside of an unquoted field is a character like any other.
  EXPECT_THAT(Records("5\" pipe,x\n"), ElementsAre("1:[5\" pipe][x]"));
}

TEST(CsvTest, BlanksAfterADelimiterAreSkipped) {
  EXPECT_THAT(Records("39, State-gov,  \"x, y\" ,z \n"),
              ElementsAre("1:[39][State-gov][x, y][z ]"));
}

TEST(CsvTest, EmptyLinesAndPrefixesAreSkippedButCounted) {
  EXPECT_THAT(Records("|1x3 Cross validator\na,b\n\n\r\n# no\nc,d\n\n", ',',
                      {"|", "#"}),
              ElementsAre("2:[a][b]", "6:[c][d]"));
}

TEST(CsvTest, WrongQuotesAreErrorsOfTheirRowAlone) {
  EXPECT_THAT(
      Records("\"a\"b,c\nd,e\n"),
      ElementsAre("1!text follows the closing quote of a field", "2:[d][e]"));
  EXPECT_THAT(Records("d,e\n\"a,b\nc\n"),
              ElementsAre("1:[d][e]", "2!a quoted field is never closed"));
}

TEST(CsvTest, EndOfRecordsIsBehindTheLastWholeRecord) {
  const auto end = [](std::string_view text) {
    return EndOfCsvRecords(text, ',', NoPrefixes());
  };
  EXPECT_EQ(end("a,b\nc"), 4U);
  EXPECT_EQ(end("a,\"b\nc"), 0U);
  EXPECT_EQ(end("a\nb,\"c\nd\",e\nf"), 12U);
  EXPECT_EQ(end("a\nb,\"c\nd\""), 2U);
  EXPECT_EQ(end(""), 0U);
}

// All records of a file that is read in small blocks.
std::vector<std::string> RecordsInBlocks(const std::string& path,
                                         size_t block_bytes) {
  BlockReader::Options options;
  options.quoted_newlines = true;
  options.block_bytes = block_bytes;
  auto reader = BlockReader::Open(path, options);
  EXPECT_TRUE(reader.ok());
  std::vector<std::string> records;
  TextBlock block;
  for (;;) {
    const StatusOr<bool> more = (*reader)->Next(&block);
    EXPECT_TRUE(more.ok()) << more.status();
    if (!more.ok() || !*more) {
      return records;
    }
    for (std::string& record : Records(block.text, ',', {}, block.first_line)) {
      records.push_back(std::move(record));
    }
  }
}

TEST(CsvTest, RandomTextGivesTheSameRecordsInBlocksOfAnySize) {
  constexpr std::string_view kAlphabet = "ab,,\n\n\"\"\r ";
  const TempFolder folder;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Random random(seed);
    std::string text;
    for (uint64_t i = random.Below(120); i > 0; --i) {
      text += kAlphabet[random.Below(kAlphabet.size())];
    }
    const std::string path = folder.Write("x.csv", text);
    const std::vector<std::string> whole = Records(text);
    for (const size_t block_bytes : {1U, 7U, 64U}) {
      EXPECT_EQ(RecordsInBlocks(path, block_bytes), whole)
          << "seed " << seed << ", blocks of " << block_bytes;
    }
  }
}

TEST(TextBlockTest, BlocksHoldWholeLinesAndCountThem) {
  const TempFolder folder;
  BlockReader::Options options;
  options.block_bytes = 4;
  auto reader =
      BlockReader::Open(folder.Write("x", "ab\ncd\nefghijk\nl"), options);
  ASSERT_TRUE(reader.ok());
  TextBlock block;
  std::vector<std::string> seen;
  while ((*reader)->Next(&block).value()) {
    seen.push_back(StrCat(block.first_line, ":", block.text));
  }
  EXPECT_THAT(seen, ElementsAre("1:ab\n", "2:cd\n", "3:efghijk\nl"));
}

TEST(TextBlockTest, ALineThatNeverEndsIsAnErrorWithItsLine) {
  const TempFolder folder;
  const std::string path =
      folder.Write("x", "a\nb\n" + std::string(5000, 'c') + "\n");
  BlockReader::Options options;
  options.block_bytes = 64;
  options.record_bytes_max = 1000;
  auto reader = BlockReader::Open(path, options);
  ASSERT_TRUE(reader.ok());
  TextBlock block;
  StatusOr<bool> more = (*reader)->Next(&block);
  while (more.ok() && *more) {
    more = (*reader)->Next(&block);
  }
  EXPECT_THAT(ErrorOf(more), HasSubstr(path + ":3: a line is longer than"));
}

}  // namespace
}  // namespace shoal::worker::input_tests
