#ifndef SHOAL_WORKER_INPUT_TEST_FILES_H_
#define SHOAL_WORKER_INPUT_TEST_FILES_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace shoal::worker::input_tests {

// For the tests of this folder: a folder of its own, gone afterwards.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string File(std::string_view name) const;
  // Writes a file and returns its path.
  std::string Write(std::string_view name, std::string_view text) const;
  // Names of the files in it, sorted, with blanks between.
  std::string Names() const;

 private:
  std::string path_;
};

std::string ReadWholeFile(const std::string& path);
std::string GzipOf(std::string_view text);
std::string ZstdOf(std::string_view text);

// "CODE: text" of what is or has a Status.
inline std::string ErrorOf(const Status& status) { return status.ToString(); }
template <typename T>
std::string ErrorOf(const StatusOr<T>& value) {
  return value.ok() ? "OK" : value.status().ToString();
}

// The folder with the shared data sets; empty if it is not there.
std::string SharedDataFolder();

}  // namespace shoal::worker::input_tests

#endif  // SHOAL_WORKER_INPUT_TEST_FILES_H_
