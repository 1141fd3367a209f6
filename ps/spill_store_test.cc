#include "ps/spill_store.h"

#include <fcntl.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <sys/file.h>
#include <sys/resource.h>

#include "base/random.h"
#include "base/unique_fd.h"
#include "ps/slots.h"
#include "ps/spill_testing.h"

namespace shoal::ps {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

using Row = std::vector<std::byte>;
using Rows = std::map<std::pair<uint64_t, uint64_t>, Row>;  // by hash and id

// Against std::map, with more rows than its buffers hold, so that files are
// written and merged meanwhile.
TEST(SpillStoreTest, AgreesWithAMapOfEachTable) {
  const TempFolder folder;
  const auto store = TinyStore(folder);
  std::map<int, Rows> model;
  Random random(3);
  const int tables[] = {0, 1, 256, 65535};
  for (int round = 0; round < 250; ++round) {
    const int table = tables[random.Below(4)];
    Rows& rows = model[table];
    std::vector<SpillStore::Row> put;
    std::set<uint64_t> ids;
    while (ids.size() < 40) {
      ids.insert(random.Below(1500));
    }
    for (const uint64_t id : ids) {
      Row row(100);
      for (std::byte& byte : row) {
        byte = static_cast<std::byte>(random.Below(256));
      }
      Row& kept = rows[{IdHash(id), id}];
      kept = std::move(row);
      put.push_back({id, kept});
    }
    ASSERT_TRUE(store->Put(table, put).ok());
    const std::vector<uint64_t> gone = {random.Below(1500), random.Below(1500)};
    ASSERT_TRUE(store->Erase(table, gone).ok());
    for (const uint64_t id : gone) {
      rows.erase({IdHash(id), id});
    }
    const uint64_t first = random();
    const uint64_t last = first | ~uint64_t{0} >> 6;
    if (round % 5 == 0) {
      ASSERT_TRUE(store->EraseRange(table, first, last).ok());
      rows.erase(rows.lower_bound({first, 0}),
                 rows.upper_bound({last, ~uint64_t{0}}));
    }
    // Asked for in order, with some that are not there.
    std::vector<uint64_t> asked;
    for (uint64_t i = 0; i < 700; ++i) {
      asked.push_back(random.Below(2000) + i * 2000 % 4000);
    }
    std::sort(asked.begin(), asked.end(),
              [](uint64_t a, uint64_t b) { return IdHash(a) < IdHash(b); });
    asked.erase(std::unique(asked.begin(), asked.end()), asked.end());
    size_t found = 0;
    ASSERT_TRUE(
        store
            ->Get(table, asked,
                  [&](size_t i, std::span<const std::byte> bytes) {
                    ++found;
                    const auto it = rows.find({IdHash(asked[i]), asked[i]});
                    ASSERT_NE(it, rows.end());
                    EXPECT_TRUE(std::ranges::equal(bytes, it->second));
                  })
            .ok());
    size_t there = 0;
    for (const uint64_t id : asked) {
      there += rows.count({IdHash(id), id});
    }
    EXPECT_EQ(found, there);
  }
  for (auto& [table, rows] : model) {
    Rows walked;
    std::vector<uint64_t> hashes;
    ASSERT_TRUE(store
                    ->ForEach(table, 0, ~uint64_t{0},
                              [&](uint64_t id, std::span<const std::byte> b) {
                                hashes.push_back(IdHash(id));
                                walked[{IdHash(id), id}] = {b.begin(), b.end()};
                              })
                    .ok());
    EXPECT_EQ(walked, rows) << table;
    EXPECT_TRUE(std::is_sorted(hashes.begin(), hashes.end()));
    EXPECT_EQ(hashes.size(), rows.size());
  }
}

std::set<std::string> NamesIn(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

TEST(SpillStoreTest, RemovesItsFolderAndWhatKilledOnesLeftButNothingElse) {
  const TempFolder folder;
  const fs::path parent = folder.path();
  // Left over; of one that lives; and of somebody else.
  for (const char* name : {"shoal-spill-1-left", "shoal-spill-2-lives"}) {
    fs::create_directories(parent / name);
    std::ofstream(parent / name / "OWNER");
  }
  fs::create_directories(parent / "shoal-spill-mine");
  std::ofstream(parent / "shoal-spill-mine" / "thesis.tex") << "x";
  const UniqueFd lives(
      ::open((parent / "shoal-spill-2-lives" / "OWNER").c_str(), O_RDWR));
  ASSERT_EQ(::flock(lives.get(), LOCK_EX | LOCK_NB), 0);
  {
    const auto first = TinyStore(folder);
    const auto second = TinyStore(folder);
    EXPECT_EQ(NamesIn(folder.path()).size(), 4U);
    EXPECT_EQ(NamesIn(folder.path()).count("shoal-spill-1-left"), 0U);
  }
  EXPECT_EQ(NamesIn(folder.path()),
            (std::set<std::string>{"shoal-spill-2-lives", "shoal-spill-mine"}));
  EXPECT_TRUE(fs::exists(parent / "shoal-spill-mine" / "thesis.tex"));
}

TEST(SpillStoreTest, FoldersThatWontDoAreFailedPreconditionNamingThem) {
  const TempFolder folder;
  const std::string file = folder.path() + "/file";
  std::ofstream(file) << "x";
  const auto refused = [](const SpillOptions& options) {
    const auto opened = OpenSpillStore(options);
    EXPECT_EQ(opened.status().code(), StatusCode::kFailedPrecondition);
    EXPECT_THAT(opened.status().message(), HasSubstr(options.parent));
    return std::string(opened.status().message());
  };
  refused({.parent = file});
  refused({.parent = file + "/below"});
  EXPECT_THAT(
      refused({.parent = folder.path(), .free_bytes_min = int64_t{1} << 60}),
      HasSubstr("bytes of free space"));
  EXPECT_THAT(refused({.parent = "/proc"}), HasSubstr("rows on disk"));
}

TEST(SpillStoreTest, FoldersInMemoryAreRefused) {
  const auto opened = OpenSpillStore({.parent = "/dev/shm"});
  if (opened.ok()) {
    GTEST_SKIP() << "/dev/shm is no tmpfs here";
  }
  EXPECT_THAT(opened.status().message(),
              AllOf(HasSubstr("/dev/shm"), HasSubstr("tmpfs"),
                    HasSubstr("cluster.spill_folder")));
}

// While it lives the system refuses to write files of more than some bytes, as
// it does when a disk is full.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) : handler_(::signal(SIGXFSZ, SIG_IGN)) {
    EXPECT_EQ(::getrlimit(RLIMIT_FSIZE, &before_), 0);
    rlimit tight = before_;
    tight.rlim_cur = bytes;
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  }
  ~FullDisk() {
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &before_), 0);
    ::signal(SIGXFSZ, handler_);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;

 private:
  void (*handler_)(int);
  rlimit before_ = {};
};

Status PutZeros(SpillStore& store, uint64_t first, uint64_t n) {
  const Row row(200);
  std::vector<SpillStore::Row> rows;
  for (uint64_t id = first; id < first + n; ++id) {
    rows.push_back({id, row});
  }
  return store.Put(0, rows);
}

TEST(SpillStoreTest, AWriteThatFailsIsToldAndStays) {
  const TempFolder folder;
  const auto store = TinyStore(folder);
  Status status;
  {
    const FullDisk full(20000);
    for (uint64_t id = 0; id < 5000 && status.ok(); ++id) {
      status = PutZeros(*store, id, 1);
    }
  }
  ASSERT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr(folder.path()));
  EXPECT_EQ(store->status().code(), StatusCode::kUnavailable);
  const uint64_t id = 1;
  EXPECT_FALSE(store->Get(0, {&id, 1}, [](auto, auto) {}).ok());
  EXPECT_FALSE(store->Erase(0, {&id, 1}).ok());
}

// Not only when the next write meets it.
TEST(SpillStoreTest, AFailureInTheBackgroundIsKept) {
  const TempFolder folder;
  const auto store = TinyStore(folder);
  const FullDisk full(20000);
  ASSERT_TRUE(PutZeros(*store, 0, 500).ok());
  static_cast<void>(PutZeros(*store, 500, 1));  // Begins to write the others.
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (store->status().ok() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_EQ(store->status().code(), StatusCode::kUnavailable);
}

}  // namespace
}  // namespace shoal::ps
