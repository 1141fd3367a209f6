#ifndef SHOAL_PS_SPILL_TESTING_H_
#define SHOAL_PS_SPILL_TESTING_H_

#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

#include "gtest/gtest.h"

#include "ps/spill_store.h"

namespace shoal::ps {

// A folder for one test, on a disk: /tmp may be in memory.
class TempFolder {
 public:
  TempFolder() {
    std::string name = "/var/tmp/shoal-test-XXXXXX";
    path_ = ::mkdtemp(name.data());
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// One that writes files as soon as it may.
inline std::unique_ptr<SpillStore> TinyStore(const TempFolder& folder) {
  auto store = OpenSpillStore({.parent = folder.path(),
                               .cache_bytes = 64 << 10,
                               .write_buffer_bytes = 64 << 10});
  EXPECT_TRUE(store.ok()) << store.status();
  return *std::move(store);
}

}  // namespace shoal::ps

#endif  // SHOAL_PS_SPILL_TESTING_H_
