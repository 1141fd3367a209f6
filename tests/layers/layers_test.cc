// The rules about files that no compiler checks: which folder may include
// which, names, header guards, lengths, and that each test is in a test
// program.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr size_t kHeaderLinesMax = 300;
constexpr size_t kSourceLinesMax = 800;

// What a folder may include beside itself (docs/architecture.md, "Layers").
const std::map<std::string, std::set<std::string>>& AllowedFolders() {
  static const std::map<std::string, std::set<std::string>> allowed = {
      {"base", {}},
      {"kernels", {"base"}},
      {"graph", {"base", "kernels"}},
      {"comm", {"base"}},
      {"ps", {"base", "kernels", "graph", "comm"}},
      {"worker", {"base", "kernels", "graph", "comm", "ps"}},
      {"serve", {"base", "kernels", "graph", "comm", "ps", "worker"}},
      {"launch", {"base", "kernels", "graph", "comm", "ps", "worker", "serve"}},
      {"python", {"base", "kernels", "graph", "comm", "ps", "worker", "serve"}},
      {"tests",
       {"base", "kernels", "graph", "comm", "ps", "worker", "serve", "launch"}},
      {"benchmarks",
       {"base", "kernels", "graph", "comm", "ps", "worker", "serve",
        "launch"}}};
  return allowed;
}

// Libraries whose headers are named in quotes.
bool IsThirdParty(std::string_view folder) {
  static const std::set<std::string, std::less<>> folders = {
      "gtest",    "gmock",    "benchmark", "google",
      "yaml-cpp", "nlohmann", "spdlog",    "CLI"};
  return folders.contains(folder);
}

// Headers that take seconds to compile, or belong to the .cc that wraps them.
bool IsHeavy(std::string_view include) {
  static constexpr std::string_view kHeavy[] = {"nlohmann/json.hpp",
                                                "yaml-cpp/",
                                                "CLI/",
                                                "spdlog/",
                                                "zmq.",
                                                "google/protobuf/",
                                                "mpi.h",
                                                "nccl.h",
                                                "cuda",
                                                "httplib.h",
                                                "Eigen/"};
  return std::any_of(
      std::begin(kHeavy), std::end(kHeavy),
      [&](std::string_view p) { return include.starts_with(p); });
}

struct SourceFile {
  std::string path;  // from the root, "comm/rpc.h"
  std::string text;

  std::string folder() const { return path.substr(0, path.find('/')); }
  // Code that several .cc include as their own, once per instruction set, is
  // source in a header's clothes.
  bool is_body() const { return path.ends_with("_impl.h"); }
  bool is_header() const { return path.ends_with(".h") && !is_body(); }
  bool is_test() const {
    return path.ends_with("_test.cc") || folder() == "tests";
  }
};

struct Include {
  std::string path;
  bool quoted = false;
};

std::vector<std::string> LinesOf(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    lines.push_back(line);
  }
  return lines;
}

std::vector<Include> IncludesOf(const SourceFile& file) {
  std::vector<Include> includes;
  for (const std::string& line : LinesOf(file.text)) {
    if (!line.starts_with("#include ")) {
      continue;
    }
    const size_t begin = line.find_first_of("\"<");
    const size_t end = line.find_first_of("\">", begin + 1);
    if (begin != std::string::npos && end != std::string::npos) {
      includes.push_back(
          {line.substr(begin + 1, end - begin - 1), line[begin] == '"'});
    }
  }
  return includes;
}

std::vector<std::string> BadIncludes(const SourceFile& file) {
  std::vector<std::string> bad;
  const auto rule = AllowedFolders().find(file.folder());
  if (rule == AllowedFolders().end()) {
    return {file.path + " lies in a folder that no rule knows"};
  }
  for (const Include& include : IncludesOf(file)) {
    if (IsHeavy(include.path) && file.is_header()) {
      bad.push_back(file.path + " is a header and includes " + include.path +
                    "; wrap it in a .cc");
    }
    if (!include.quoted) {
      continue;
    }
    const std::string folder = include.path.substr(0, include.path.find('/'));
    if (folder == include.path) {
      bad.push_back(file.path + " includes " + include.path +
                    "; name it from the root");
    } else if (folder != file.folder() && !IsThirdParty(folder) &&
               !rule->second.contains(folder)) {
      bad.push_back(file.path + " may not include " + include.path);
    }
  }
  return bad;
}

std::string GuardOf(const std::string& path) {
  std::string guard = "SHOAL_";
  for (const char c : path) {
    guard +=
        c == '/' || c == '.' || c == '-'
            ? '_'
            : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return guard + "_";
}

std::vector<std::string> BadForm(const SourceFile& file) {
  std::vector<std::string> bad;
  const std::vector<std::string> lines = LinesOf(file.text);
  if (file.is_header()) {
    const std::string guard = GuardOf(file.path);
    const std::string head = "#ifndef " + guard + "\n#define " + guard + "\n";
    const std::string tail = "#endif  // " + guard + "\n";
    if (file.text.find(head) == std::string::npos ||
        !file.text.ends_with(tail)) {
      bad.push_back(file.path + " needs the header guard " + guard);
    }
  }
  const size_t lines_max = file.is_header() ? kHeaderLinesMax : kSourceLinesMax;
  if (lines.size() > lines_max && !file.is_test()) {
    bad.push_back(file.path + " has " + std::to_string(lines.size()) +
                  " lines, more than " + std::to_string(lines_max) +
                  "; split it");
  }
  const std::string name = fs::path(file.path).stem().string();
  static const std::set<std::string> vague = {
      "common", "util", "utils", "helper", "helpers", "misc", "stuff"};
  if (vague.contains(name)) {
    bad.push_back(file.path + " has a vague name; name the idea");
  }
  return bad;
}

// Empty, or why a test file is in no test program. cmake/ShoalLayers.cmake
// takes every *_test.cc below a layer's folder and every .cc of tests/GROUP/.
std::string WhyNotRun(const SourceFile& file,
                      const std::set<std::string>& layers) {
  if (!file.path.ends_with("_test.cc")) {
    return "";
  }
  const std::ptrdiff_t depth =
      std::count(file.path.begin(), file.path.end(), '/');
  const bool is_run =
      file.folder() == "tests" ? depth == 2 : layers.contains(file.folder());
  return is_run ? "" : file.path + " is in no test program";
}

std::set<std::string> LayersOfCMake() {
  std::ifstream in("CMakeLists.txt");
  std::set<std::string> layers;
  for (std::string line; std::getline(in, line);) {
    constexpr std::string_view kCall = "shoal_layer(";
    if (line.starts_with(kCall)) {
      const size_t end = line.find_first_of(" )", kCall.size());
      layers.insert(line.substr(kCall.size(), end - kCall.size()));
    }
  }
  return layers;
}

// Tests run in the root of the repository.
std::vector<SourceFile> AllSources() {
  std::vector<SourceFile> files;
  static const std::set<std::string> kinds = {".h", ".cc", ".cu", ".cuh",
                                              ".inc"};
  for (const auto& top : fs::directory_iterator(".")) {
    const std::string name = top.path().filename().string();
    if (!top.is_directory() || name.starts_with('.') || name == "build" ||
        name == "out") {
      continue;
    }
    for (const auto& entry : fs::recursive_directory_iterator(top.path())) {
      if (entry.is_regular_file() &&
          kinds.contains(entry.path().extension().string())) {
        std::ifstream in(entry.path(), std::ios::binary);
        std::ostringstream text;
        text << in.rdbuf();
        files.push_back(
            {entry.path().lexically_normal().generic_string(), text.str()});
      }
    }
  }
  std::sort(files.begin(), files.end(),
            [](const auto& a, const auto& b) { return a.path < b.path; });
  return files;
}

std::string Join(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) {
    text += line + "\n";
  }
  return text;
}

TEST(LayersTest, NoFolderIncludesOneThatItMayNot) {
  const std::vector<SourceFile> files = AllSources();
  ASSERT_GT(files.size(), 20U) << "run it in the root of the repository";
  for (const SourceFile& file : files) {
    const std::vector<std::string> bad = BadIncludes(file);
    EXPECT_TRUE(bad.empty()) << Join(bad);
  }
}

TEST(LayersTest, FilesHaveGuardsAndNamesAndLengths) {
  for (const SourceFile& file : AllSources()) {
    const std::vector<std::string> bad = BadForm(file);
    EXPECT_TRUE(bad.empty()) << Join(bad);
  }
}

TEST(LayersTest, EveryTestFileIsRun) {
  const std::set<std::string> layers = LayersOfCMake();
  ASSERT_TRUE(layers.contains("base"));
  for (const SourceFile& file : AllSources()) {
    EXPECT_EQ(WhyNotRun(file, layers), "");
  }
}

// The rules themselves, on files that break them.

TEST(LayerRulesTest, IncludesOfLaterFoldersAreFound) {
  EXPECT_THAT(BadIncludes({"graph/a.cc",
                           "#include \"graph/a.h\"\n\n#include <vector>\n"
                           "#include \"kernels/k.h\"\n"
                           "#include \"comm/node.h\"\n"}),
              ElementsAre("graph/a.cc may not include comm/node.h"));
  EXPECT_THAT(BadIncludes({"base/a_test.cc",
                           "#include \"gtest/gtest.h\"\n"
                           "#include \"tests/x.h\"\n"}),
              ElementsAre("base/a_test.cc may not include tests/x.h"));
  EXPECT_THAT(BadIncludes({"ps/a.cc", "#include \"b.h\"\n"}),
              ElementsAre(HasSubstr("name it from the root")));
  EXPECT_THAT(BadIncludes({"other/a.cc", ""}),
              ElementsAre(HasSubstr("no rule knows")));
}

TEST(LayerRulesTest, HeavyIncludesInHeadersAreFound) {
  const std::string text = "#include <nlohmann/json.hpp>\n";
  EXPECT_THAT(BadIncludes({"ps/a.h", text}),
              ElementsAre(HasSubstr("wrap it in a .cc")));
  EXPECT_THAT(BadIncludes({"ps/a.cc", text}), IsEmpty());
}

TEST(LayerRulesTest, BadFormIsFound) {
  const std::string good =
      "#ifndef SHOAL_PS_A_B_H_\n#define SHOAL_PS_A_B_H_\n"
      "#endif  // SHOAL_PS_A_B_H_\n";
  EXPECT_THAT(BadForm({"ps/a_b.h", good}), IsEmpty());
  EXPECT_THAT(BadForm({"ps/a_c.h", good}),
              ElementsAre(HasSubstr("guard SHOAL_PS_A_C_H_")));
  EXPECT_THAT(BadForm({"ps/utils.cc", ""}),
              ElementsAre(HasSubstr("vague name")));
  EXPECT_THAT(BadForm({"ps/a.cc", std::string(kSourceLinesMax + 1, '\n')}),
              ElementsAre(HasSubstr("split it")));
}

TEST(LayerRulesTest, TestsThatAreNotRunAreFound) {
  EXPECT_EQ(WhyNotRun({"ps/deep/a_test.cc", ""}, {"ps"}), "");
  EXPECT_EQ(WhyNotRun({"tests/fault/a_test.cc", ""}, {}), "");
  EXPECT_THAT(WhyNotRun({"tests/a_test.cc", ""}, {}),
              HasSubstr("in no test program"));
  EXPECT_THAT(WhyNotRun({"benchmarks/a_test.cc", ""}, {"ps"}),
              HasSubstr("in no test program"));
}

}  // namespace
}  // namespace shoal
