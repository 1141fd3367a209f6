#include "launch/kubernetes/yaml_json.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <nlohmann/json.hpp>

namespace shoal::launch {
namespace {

using nlohmann::json;
using testing::HasSubstr;

json Parse(const std::string& text) {
  const auto documents = ParseYaml(text, "f");
  EXPECT_TRUE(documents.ok()) << documents.status();
  return documents.ok() && !documents->empty() ? documents->front() : json();
}

TEST(ParseYamlTest, ScalarsAreTypedAsByTheCoreSchema) {
  EXPECT_EQ(Parse("{a: 1, b: -2.5e3, c: true, d: ~, e: null, f: text}"),
            json({{"a", 1},
                  {"b", -2500.0},
                  {"c", true},
                  {"d", nullptr},
                  {"e", nullptr},
                  {"f", "text"}}));
  // What is quoted, and what only older versions of YAML take for more.
  EXPECT_EQ(
      Parse("['1', \"true\", yes, on, 0x10, 1:30, 1_000, .inf, '']"),
      json({"1", "true", "yes", "on", "0x10", "1:30", "1_000", ".inf", ""}));
  EXPECT_EQ(Parse("a: |\n  x\n\n  y\n"), json({{"a", "x\n\ny\n"}}));
  EXPECT_EQ(Parse("a: &x {b: 1}\nc: *x\n"),
            json({{"a", {{"b", 1}}}, {"c", {{"b", 1}}}}));
}

TEST(ParseYamlTest, DocumentsThatAreEmptyAreLeftOut) {
  const auto documents =
      ParseYaml("---\na: 1\n---\n---\n# none\n---\nb: 2", "f");
  ASSERT_TRUE(documents.ok());
  EXPECT_EQ(*documents, std::vector<json>({{{"a", 1}}, {{"b", 2}}}));
  EXPECT_TRUE(ParseYaml("", "f")->empty());
}

TEST(ParseYamlTest, WhatIsWrongIsNamedByFileAndLine) {
  const Status status = ParseYaml("a: 1\nb: [\n", "config").status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("config:"));
}

TEST(ParseYamlTest, TextsThatYamlCppWouldReadForEverAreRefusedOrNothing) {
  for (const char* text : {", user: m", "a: 1\n---\n, x\n", "}", "]"}) {
    const auto parsed = ParseYaml(text, "f");
    EXPECT_TRUE(!parsed.ok() || parsed->size() <= 1) << text;
  }
  const Status status = ParseYaml("a: 1\n--- # two\nb: [\n", "f").status();
  EXPECT_THAT(status.message(), testing::StartsWith("f:4:"));
}

TEST(ParseYamlTest, TextsThatWouldGrowWithoutBoundAreRefused) {
  // One that holds itself, one that is a thousand million long, one that is
  // deep.
  std::string laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i <= 8; ++i) {
    const std::string last = "*a" + std::to_string(i - 1);
    laughs += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int j = 0; j < 10; ++j) {
      laughs += (j > 0 ? ", " : "") + last;
    }
    laughs += "]\n";
  }
  for (const std::string& text :
       {std::string("a: &a [*a]"), std::string("&a {b: *a}"), laughs,
        std::string(100'000, '['), std::string(100'000, '-'),
        std::string(300, '[') + std::string(300, ']')}) {
    const auto parsed = ParseYaml(text, "f");
    EXPECT_TRUE(!parsed.ok() || text[0] == '-') << text.substr(0, 40);
  }
}

TEST(ToYamlTest, WhatIsWrittenIsReadAsTheSame) {
  const json values[] = {
      json::object(),
      json::array(),
      {{"a", json::object()}, {"b", json::array()}, {"c", nullptr}},
      {{"n", {0, -1, 1.5, 1e300, 9007199254740993}}, {"t", {true, false}}},
      {{"list", {{{"x", 1}, {"y", {1, 2}}}, {{"x", 2}}, {1, {2, {3}}}}}},
      {{"app.kubernetes.io/name", "shoal"}, {"", "empty key"}, {"1", "one"}},
  };
  for (const json& value : values) {
    EXPECT_EQ(Parse(ToYaml(value)), value) << ToYaml(value);
  }
  for (const char* text : {"",
                           " ",
                           "plain",
                           "true",
                           "True",
                           "NO",
                           "y",
                           "null",
                           "~",
                           "1",
                           "1.0",
                           "-",
                           "- x",
                           "0x10",
                           "1:30",
                           "a: b",
                           "a #b",
                           "#",
                           "'",
                           "\"",
                           "\\",
                           "{x}",
                           "[x]",
                           "*x",
                           "&x",
                           "!x",
                           "%x",
                           "@x",
                           "`x",
                           "| x",
                           "> x",
                           "? x",
                           "a\tb",
                           "two\nlines",
                           "ends\n",
                           "ends\n\n",
                           "\nbegins",
                           " blank\nbegins\n",
                           "trailing \nblank\n",
                           "tab\t\nline\n",
                           "cr\r\nlf\n",
                           "x\n  deeper\n",
                           "$(SHOAL_RUN)",
                           "tcp://host:7070",
                           "/path",
                           "\u00e4\u4e2d",
                           "---",
                           "...",
                           "a\x01z",
                           "  \n",
                           "=",
                           "<<"}) {
    const json value = {{"k", text}, {"l", {text}}};
    EXPECT_EQ(Parse(ToYaml(value)), value) << ToYaml(value);
  }
}

TEST(ToYamlTest, WordsOfOlderYamlAreQuoted) {
  EXPECT_EQ(ToYaml({{"a", "yes"}}), "a: \"yes\"\n");
  EXPECT_EQ(ToYaml({{"a", "1"}}), "a: \"1\"\n");
  EXPECT_EQ(ToYaml({{"a", "0.5"}, {"b", "0777"}}), "a: \"0.5\"\nb: \"0777\"\n");
  EXPECT_EQ(ToYaml({{"a", "shoal"}}), "a: shoal\n");
  EXPECT_EQ(ToYaml({{"a", "x\ny\n"}}), "a: |\n  x\n  y\n");
  EXPECT_EQ(ToYaml({{"a", json::object()}}), "a: {}\n");
}

}  // namespace
}  // namespace shoal::launch
