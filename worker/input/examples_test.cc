#include "worker/input/examples.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/strcat.h"
#include "worker/input/batch.h"
#include "worker/input/example_order.h"
#include "worker/input/record_writer.h"
#include "worker/input/test_files.h"

namespace shoal::worker::input_tests {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(RowSelectionTest, EverySelectionHasTheRowsThatTheLoopFinds) {
  int num_checked = 0;
  for (const int64_t file_rows : {0, 1, 7, 20}) {
    for (const int64_t begin : {0, 1, 5}) {
      for (const int64_t end : {-1, 6, 20}) {
        for (const int64_t modulus : {0, 2, 3, 5}) {
          for (int64_t part = 0; part < std::max<int64_t>(1, modulus); ++part) {
            for (const bool inverted : {false, true}) {
              for (const int64_t skip : {0, 2}) {
                for (const int64_t count : {-1, 3}) {
                  const RowSelection rows = {begin,    end,  modulus, part,
                                             inverted, skip, count};
                  std::vector<int64_t> want;
                  const int64_t last =
                      end < 0 ? file_rows : std::min(end, file_rows);
                  int64_t seen = 0;
                  for (int64_t i = begin; i < last; ++i) {
                    const bool in =
                        modulus == 0 || (i % modulus == part) != inverted;
                    if (in && seen++ >= skip &&
                        (count < 0 ||
                         static_cast<int64_t>(want.size()) < count)) {
                      want.push_back(i);
                    }
                  }
                  std::vector<int64_t> got;
                  for (int64_t i = 0; i < rows.num_rows(file_rows); ++i) {
                    got.push_back(rows.row(i));
                  }
                  ASSERT_EQ(got, want)
                      << file_rows << " [" << begin << "," << end << ") % "
                      << modulus << " " << part << inverted << " skip " << skip
                      << " count " << count;
                  ++num_checked;
                }
              }
            }
          }
        }
      }
    }
  }
  EXPECT_GT(num_checked, 1000);
}

TEST(ExampleOrderTest, AnEpochIsAPermutation) {
  for (const int64_t n : {0, 1, 2, 1000}) {
    const ExampleOrder order(1, 0, n, true);
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < n; ++i) {
      rows.push_back(order.row(i));
    }
    std::sort(rows.begin(), rows.end());
    std::vector<int64_t> want(static_cast<size_t>(n));
    std::iota(want.begin(), want.end(), 0);
    EXPECT_EQ(rows, want);
  }
}

TEST(ExampleOrderTest, SeedAndEpochDecideTheOrder) {
  const auto rows = [](uint64_t seed, int64_t epoch, bool shuffle) {
    const ExampleOrder order(seed, epoch, 50, shuffle);
    std::vector<int64_t> out;
    for (int64_t i = 0; i < 50; ++i) {
      out.push_back(order.row(i));
    }
    return out;
  };
  EXPECT_EQ(rows(1, 0, true), rows(1, 0, true));
  EXPECT_NE(rows(1, 0, true), rows(1, 1, true));
  EXPECT_NE(rows(1, 0, true), rows(2, 0, true));
  EXPECT_EQ(rows(1, 0, false)[17], 17);
}

// A changed order changes every trained model. The numbers come from a program
// of its own (splitmix64, Fisher and Yates from the end).
TEST(ExampleOrderTest, TheOrderStaysWhatItWas) {
  const ExampleOrder order(1, 0, 10, true);
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < 10; ++i) {
    rows.push_back(order.row(i));
  }
  EXPECT_THAT(rows, ElementsAre(1, 7, 0, 5, 2, 9, 4, 8, 6, 3));
}

TEST(ExampleOrderTest, EveryPlaceIsEquallyLikely) {
  // 6 orders of 3 rows: 6000 draws give 1000 each, deviation below 29.
  std::map<int64_t, int> counts;
  for (int64_t epoch = 0; epoch < 6000; ++epoch) {
    const ExampleOrder order(9, epoch, 3, true);
    ++counts[order.row(0) * 100 + order.row(1) * 10 + order.row(2)];
  }
  EXPECT_EQ(counts.size(), 6U);
  for (const auto& [order, count] : counts) {
    EXPECT_NEAR(count, 1000, 150) << order;
  }
}

// Row i: label i, one number -i, one id 10 i, a bag of i ids with weights.
std::string WriteRows(const TempFolder& folder, int num_rows, float last_label,
                      bool break_bag) {
  RecordSchema schema;
  schema.task = "regression";
  schema.numeric = {"n"};
  schema.categorical = {"c"};
  schema.bags = {{"b", "sum", true}};
  const std::string path = folder.File("rows.shoalrec");
  auto writer = RecordWriter::Create(path, schema);
  EXPECT_TRUE(writer.ok());
  for (int i = 0; i < num_rows; ++i) {
    std::vector<char> record(static_cast<size_t>(schema.record_bytes()), 0);
    const float label = i == num_rows - 1 ? last_label : static_cast<float>(i);
    const auto number = static_cast<float>(-i);
    const uint64_t id = 10U * static_cast<uint64_t>(i);
    const uint32_t end =
        static_cast<uint32_t>(i) + (break_bag && i == 1 ? 100 : 0);
    std::memcpy(record.data(), &label, 4);
    std::memcpy(record.data() + 4, &number, 4);
    std::memcpy(record.data() + 8, &id, 8);
    std::memcpy(record.data() + 24, &end, 4);
    std::vector<uint64_t> ids;
    std::vector<float> weights;
    for (int k = 0; k < i; ++k) {
      ids.push_back(static_cast<uint64_t>(100 * i + k));
      weights.push_back(static_cast<float>(k) + 0.5F);
    }
    EXPECT_TRUE((*writer)->Append(record, ids, weights).ok());
  }
  EXPECT_TRUE((*writer)->Finish("{}", false).ok());
  return path;
}

TEST(BatchTest, RowsAreLaidOutOneAfterAnother) {
  const TempFolder folder;
  const std::string path = WriteRows(folder, 4, 3, false);
  const auto examples = Examples::Open(path, {});
  ASSERT_TRUE(examples.ok()) << examples.status();
  Batch batch;
  const std::vector<int64_t> positions = {2, 0, 1};
  ASSERT_EQ(ErrorOf(FillBatch(*examples, positions, batch)), "OK");
  EXPECT_EQ(batch.size, 3);
  EXPECT_THAT(batch.labels, ElementsAre(2, 0, 1));
  EXPECT_THAT(batch.numeric, ElementsAre(-2, 0, -1));
  EXPECT_THAT(batch.ids, ElementsAre(20, 0, 10));
  EXPECT_THAT(batch.bags[0].ids, ElementsAre(200, 201, 100));
  EXPECT_THAT(batch.bags[0].offsets, ElementsAre(0, 2, 2, 3));
  EXPECT_THAT(batch.bags[0].weights, ElementsAre(0.5F, 1.5F, 0.5F));
  ASSERT_EQ(ErrorOf(FillBatch(*examples, {}, batch)), "OK");
  EXPECT_EQ(batch.size, 0);
  EXPECT_THAT(batch.labels, IsEmpty());
  EXPECT_THAT(batch.bags[0].offsets, ElementsAre(0));
}

TEST(BatchTest, PositionsAreThoseOfTheSelection) {
  const TempFolder folder;
  RowSelection odd;
  odd.modulus = 2;
  odd.part = 1;
  const auto examples = Examples::Open(WriteRows(folder, 6, 5, false), odd);
  ASSERT_TRUE(examples.ok());
  EXPECT_EQ(examples->num_rows(), 3);
  Batch batch;
  const std::vector<int64_t> positions = {2, 1};
  ASSERT_EQ(ErrorOf(FillBatch(*examples, positions, batch)), "OK");
  EXPECT_THAT(batch.labels, ElementsAre(5, 3));
}

TEST(BatchTest, PositionsOutsideAreRefused) {
  const TempFolder folder;
  const auto examples = Examples::Open(WriteRows(folder, 4, 3, false), {});
  ASSERT_TRUE(examples.ok());
  Batch batch;
  for (const int64_t position : {-1, 4}) {
    const std::vector<int64_t> positions = {0, position};
    EXPECT_THAT(ErrorOf(FillBatch(*examples, positions, batch)),
                HasSubstr("outside [0, 4)"));
  }
}

TEST(BatchTest, DamagedRowsAreDataLossThatNamesFileAndRow) {
  const TempFolder folder;
  Batch batch;
  const std::vector<int64_t> positions = {3, 1};
  const std::string path =
      WriteRows(folder, 4, std::numeric_limits<float>::infinity(), false);
  auto examples = Examples::Open(path, {});
  ASSERT_TRUE(examples.ok());
  EXPECT_THAT(ErrorOf(FillBatch(*examples, positions, batch)),
              HasSubstr("DATA_LOSS: " + path + ": row 3: the label"));
  examples = Examples::Open(WriteRows(folder, 4, 3, true), {});
  ASSERT_TRUE(examples.ok());
  EXPECT_THAT(ErrorOf(FillBatch(*examples, positions, batch)),
              HasSubstr("DATA_LOSS: " + path + ": row 1: the bag of 'b'"));
}

TEST(ExamplesTest, SelectionsThatMakeNoSenseAreRefused) {
  const TempFolder folder;
  const std::string path = WriteRows(folder, 4, 3, false);
  RowSelection rows;
  rows.modulus = 1;
  EXPECT_THAT(ErrorOf(Examples::Open(path, rows)), HasSubstr("no selection"));
  rows.modulus = 3;
  rows.part = 3;
  EXPECT_THAT(ErrorOf(Examples::Open(path, rows)), HasSubstr("no selection"));
}

}  // namespace
}  // namespace shoal::worker::input_tests
