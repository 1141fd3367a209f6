// The helpers that test_files.h declares; no tests of their own.
#include "worker/input/test_files.h"

#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "gtest/gtest.h"

#include "base/strcat.h"

namespace shoal::worker::input_tests {

TempFolder::TempFolder() {
  std::string pattern =
      (std::filesystem::temp_directory_path() / "shoal-input-XXXXXX").string();
  path_ = mkdtemp(pattern.data()) == nullptr ? "" : pattern;
}

TempFolder::~TempFolder() {
  std::error_code error;
  if (!path_.empty()) {
    std::filesystem::remove_all(path_, error);
  }
}

std::string TempFolder::File(std::string_view name) const {
  return StrCat(path_, "/", name);
}

std::string TempFolder::Write(std::string_view name,
                              std::string_view text) const {
  std::ofstream(File(name), std::ios::binary) << text;
  return File(name);
}

std::string TempFolder::Names() const {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path_)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  std::string all;
  for (const std::string& name : names) {
    all += all.empty() ? name : " " + name;
  }
  return all;
}

std::string ReadWholeFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::string GzipOf(std::string_view text) {
  z_stream stream = {};
  EXPECT_EQ(
      deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY),
      Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string ZstdOf(std::string_view text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(
      ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

std::string SharedDataFolder() {
  const char* named = std::getenv("SHOAL_SHARED_DATA");
  const std::string folder = named != nullptr ? named : "../shared/data";
  return std::filesystem::is_directory(folder) ? folder : "";
}

}  // namespace shoal::worker::input_tests
