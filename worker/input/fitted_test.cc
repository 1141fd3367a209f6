#include "worker/input/fitted.h"

#include <map>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/random.h"
#include "worker/input/key_counter.h"
#include "worker/input/test_files.h"

namespace shoal::worker::input_tests {
namespace {

using ::testing::HasSubstr;

TEST(FittedTest, TextKeepsEveryBit) {
  FittedTransforms fitted;
  fitted.num_fields = 12;
  FittedFeature& a = fitted.features.emplace_back();
  a.name = "dép \"x\"";
  a.mean = 1.0 / 3;
  a.deviation = 1e-300;
  a.edges = {-1e300, 0.1, 0.30000000000000004};
  FittedFeature& b = fitted.features.emplace_back();
  b.name = "b";
  b.has_vocabulary = true;
  b.vocabulary = {0, 1, 0x0123456789abcdef, ~uint64_t{0}};
  FittedFeature& c = fitted.features.emplace_back();
  c.name = "c";
  c.has_vocabulary = true;
  const auto read = FittedFromJson(FittedToJson(fitted));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(*read == fitted);
  EXPECT_EQ(read->Find("b")->vocabulary.size(), 4U);
  EXPECT_EQ(read->Find("d"), nullptr);
}

TEST(FittedTest, ValuesThatNoFitGivesAreRefused) {
  const auto error = [](const std::string& feature) {
    return ErrorOf(FittedFromJson(
        R"({"version":1,"num_fields":0,"features":[)" + feature + "]}"));
  };
  EXPECT_EQ(error(R"({"name":"a","mean":0,"deviation":1,"edges":[]})"), "OK");
  EXPECT_THAT(error(R"({"name":"a","mean":0,"deviation":0,"edges":[]})"),
              HasSubstr("'a'"));
  EXPECT_THAT(error(R"({"name":"a","mean":0,"deviation":1,"edges":[2,1]})"),
              HasSubstr("rise"));
  EXPECT_THAT(error(R"({"name":"a","mean":"x","deviation":1,"edges":[]})"),
              HasSubstr("fitted transforms"));
  for (const char* vocabulary : {"\"0\"", "\"000000000000000g\"",
                                 "\"00000000000000010000000000000001\"", "3"}) {
    EXPECT_THAT(
        error(std::string(R"({"name":"a","mean":0,"deviation":1,"edges":[],)"
                          R"("vocabulary":)") +
              vocabulary + "}"),
        HasSubstr("fitted transforms"))
        << vocabulary;
  }
  for (const char* text : {"", "{}", "[1]", R"({"version":2})"}) {
    EXPECT_THAT(ErrorOf(FittedFromJson(text)), HasSubstr("fitted transforms"));
  }
}

TEST(KeyCounterTest, CountsAgreeWithAMap) {
  KeyCounter counter;
  std::map<uint64_t, uint64_t> want;
  Random random(3);
  EXPECT_EQ(counter.Count(5), 0U);
  for (int i = 0; i < 20000; ++i) {
    // Keys that collide in their low bits, and 0.
    const uint64_t key = random.Below(3000) << (i % 2 == 0 ? 0 : 40);
    counter.Add(key);
    ++want[key];
  }
  EXPECT_EQ(counter.size(), want.size());
  std::vector<uint64_t> frequent;
  for (const auto& [key, count] : want) {
    ASSERT_EQ(counter.Count(key), count);
    if (count >= 4) {
      frequent.push_back(key);
    }
  }
  EXPECT_EQ(counter.KeysWithCount(4), frequent);
  EXPECT_FALSE(counter.Contains(3001));
}

}  // namespace
}  // namespace shoal::worker::input_tests
