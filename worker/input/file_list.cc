#include "worker/input/file_list.h"

#include <glob.h>

#include <algorithm>
#include <filesystem>

#include "base/strcat.h"

namespace shoal::worker {
namespace {

// A `[` stands for itself: only `*` and `?` are documented.
std::string Escaped(const std::string& pattern) {
  std::string escaped;
  for (const char c : pattern) {
    escaped +=
        c == '[' || c == '\\' ? std::string("\\") + c : std::string(1, c);
  }
  return escaped;
}

std::vector<std::string> Matches(const std::string& pattern) {
  glob_t found = {};
  std::vector<std::string> paths;
  if (glob(Escaped(pattern).c_str(), GLOB_NOSORT, nullptr, &found) == 0) {
    for (size_t i = 0; i < found.gl_pathc; ++i) {
      std::error_code error;
      if (!std::filesystem::is_directory(found.gl_pathv[i], error)) {
        paths.emplace_back(found.gl_pathv[i]);
      }
    }
  }
  globfree(&found);
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace

StatusOr<std::vector<std::string>> ListFiles(
    const std::string& root, const std::vector<std::string>& patterns,
    const std::string& key) {
  if (patterns.empty()) {
    return InvalidArgumentError(
        StrCat(key, " is empty; name the files to read"));
  }
  std::vector<std::string> files;
  for (const std::string& pattern : patterns) {
    const std::filesystem::path path =
        std::filesystem::path(root.empty() ? "." : root) / pattern;
    const std::vector<std::string> matches = Matches(path.string());
    if (matches.empty()) {
      std::error_code error;
      const std::string folder =
          std::filesystem::absolute(path.parent_path(), error)
              .lexically_normal()
              .string();
      return NotFoundError(
          StrCat(key, ": no file matches '", pattern, "' in ", folder,
                 std::filesystem::is_directory(path.parent_path(), error)
                     ? ""
                     : ", and there is no such folder",
                 "; data.root is where file names start"));
    }
    for (const std::string& match : matches) {
      if (std::find(files.begin(), files.end(), match) == files.end()) {
        files.push_back(match);
      }
    }
  }
  return files;
}

}  // namespace shoal::worker
