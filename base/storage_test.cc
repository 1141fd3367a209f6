#include "base/storage.h"

#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <sys/resource.h>

#include "base/s3/s3_testing.h"
#include "base/s3/storage.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A folder of its own for each test, gone at its end.
class StorageTestFolder {
 public:
  StorageTestFolder() {
    std::string name =
        (std::filesystem::temp_directory_path() / "shoal-storage-XXXXXX")
            .string();
    path_ = ::mkdtemp(name.data());
  }
  ~StorageTestFolder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const {
    return path_ + "/" + name;
  }

 private:
  std::string path_;
};

std::string Slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

// The contract, on all storages.
class StorageTest : public ::testing::TestWithParam<std::string> {
 protected:
  StorageTest()
      : storage_(GetParam() == "local" ? CreateLocalStorage()
                 : GetParam() == "s3"
                     ? CreateS3Storage(store_.options())
                     : std::unique_ptr<Storage>(new MemoryStorage)) {}

  Status Publish(const std::string& path, const std::string& a,
                 const std::string& b) {
    const Buffer pieces[] = {Buffer::CopyOf(a), Buffer(), Buffer::CopyOf(b)};
    return storage_->PublishFile(path, pieces);
  }

  struct Folder {
    StorageTestFolder local;
    std::string operator/(const std::string& name) const {
      return GetParam() == "s3" ? "s3://bucket/folder/" + name : local / name;
    }
  };

  Folder folder_;
  FakeStore store_;
  std::unique_ptr<Storage> storage_;
};

TEST_P(StorageTest, PublishedPiecesAreReadBackAsOneFile) {
  ASSERT_TRUE(Publish(folder_ / "a/b/file", "one ", "two").ok());
  const StatusOr<Buffer> read = storage_->ReadFile(folder_ / "a/b/file");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->text(), "one two");
}

TEST_P(StorageTest, PublishReplacesTheOldFile) {
  ASSERT_TRUE(Publish(folder_ / "file", "a longer one", "").ok());
  ASSERT_TRUE(Publish(folder_ / "file", "new", "").ok());
  EXPECT_EQ(storage_->ReadFile(folder_ / "file").value().text(), "new");
  EXPECT_THAT(storage_->ListFolder(folder_ / "").value(), ElementsAre("file"));
}

TEST_P(StorageTest, EmptyFileIsAFile) {
  ASSERT_TRUE(storage_->PublishFile(folder_ / "empty", {}).ok());
  EXPECT_EQ(storage_->ReadFile(folder_ / "empty").value().size(), 0);
}

TEST_P(StorageTest, MissingFileIsNotFoundNamingIt) {
  const Status status = storage_->ReadFile(folder_ / "none").status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("/none"));
}

TEST_P(StorageTest, ListIsSortedAndShallow) {
  ASSERT_TRUE(Publish(folder_ / "x/b", "", "").ok());
  ASSERT_TRUE(Publish(folder_ / "x/a/deep", "", "").ok());
  ASSERT_TRUE(Publish(folder_ / "xy", "", "").ok());
  EXPECT_THAT(storage_->ListFolder(folder_ / "x").value(),
              ElementsAre("a", "b"));
  EXPECT_EQ(storage_->ListFolder(folder_ / "none").status().code(),
            StatusCode::kNotFound);
}

TEST_P(StorageTest, RemoveTakesAFolderWithAllInItAndNothingElse) {
  ASSERT_TRUE(Publish(folder_ / "x/a/b", "1", "2").ok());
  ASSERT_TRUE(Publish(folder_ / "xy", "3", "4").ok());
  EXPECT_TRUE(storage_->Remove(folder_ / "x").ok());
  EXPECT_TRUE(storage_->Remove(folder_ / "x").ok());
  EXPECT_EQ(storage_->ReadFile(folder_ / "x/a/b").status().code(),
            StatusCode::kNotFound);
  EXPECT_EQ(storage_->ReadFile(folder_ / "xy").value().text(), "34");
}

TEST_P(StorageTest, MovedFolderHasAllThatItHadInItsNewPlaceAlone) {
  ASSERT_TRUE(Publish(folder_ / "x/a b/c", "1", "2").ok());
  ASSERT_TRUE(Publish(folder_ / "x/d", "3", "4").ok());
  ASSERT_TRUE(Publish(folder_ / "xy", "5", "6").ok());
  const Status moved = storage_->MoveFolder(folder_ / "x", folder_ / "old/z");
  ASSERT_TRUE(moved.ok()) << moved;
  EXPECT_EQ(storage_->ReadFile(folder_ / "old/z/a b/c").value().text(), "12");
  EXPECT_EQ(storage_->ReadFile(folder_ / "old/z/d").value().text(), "34");
  EXPECT_THAT(storage_->ListFolder(folder_ / "").value(),
              ElementsAre("old", "xy"));
  EXPECT_EQ(storage_->MoveFolder(folder_ / "x", folder_ / "y").code(),
            StatusCode::kNotFound);
}

INSTANTIATE_TEST_SUITE_P(All, StorageTest,
                         ::testing::Values("local", "memory", "s3"),
                         [](const auto& test) { return test.param; });

TEST(AnyStorageTest, PathsChooseTheStorage) {
  const StorageTestFolder folder;
  const std::unique_ptr<Storage> storage = CreateStorage();
  EXPECT_TRUE(storage->PublishFile(folder / "file", {}).ok());
  EXPECT_TRUE(std::filesystem::exists(folder / "file"));
  for (const char* path : {"s3://bucket", "s3:/bucket/file", "s3:file"}) {
    EXPECT_EQ(storage->PublishFile(path, {}).code(),
              StatusCode::kInvalidArgument)
        << path;
    EXPECT_FALSE(std::filesystem::exists("s3:"));
  }
}

TEST(AnyStorageTest, SpellingsOfAPathAreOne) {
  EXPECT_EQ(NormalPath("./a//b/../c/"), "a/c");
  EXPECT_EQ(NormalPath("/"), "/");
  EXPECT_EQ(NormalPath("s3://bucket//a/./b/"), "s3://bucket/a/b");
  EXPECT_TRUE(IsSamePlace("s3://bucket/a/", "s3://bucket//a"));
  EXPECT_FALSE(IsSamePlace("s3://bucket/a", "s3://bucket/b"));
  EXPECT_FALSE(IsSamePlace("s3://bucket/a", "/a"));
  EXPECT_TRUE(IsSamePlace("/tmp", "/tmp/./"));
}

TEST(LocalStorageTest, FailedWriteLeavesTheOldFileAndNothingElse) {
  const StorageTestFolder folder;
  const auto storage = CreateLocalStorage();
  const Buffer old_piece[] = {Buffer::CopyOf("old")};
  ASSERT_TRUE(storage->PublishFile(folder / "file", old_piece).ok());

  // A full disk, as far as one can make one: files may have 4 KiB.
  rlimit before = {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 4096;
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const Buffer big[] = {Buffer::CopyOf(std::string(100000, 'x'))};
  const Status status = storage->PublishFile(folder / "file", big);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, old_handler);

  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(status.message(), HasSubstr("/file"));
  EXPECT_EQ(Slurp(folder / "file"), "old");
  EXPECT_THAT(storage->ListFolder(folder / "").value(), ElementsAre("file"));
}

TEST(LocalStorageTest, FolderInTheWayIsAnErrorAndStays) {
  const StorageTestFolder folder;
  const auto storage = CreateLocalStorage();
  const Buffer piece[] = {Buffer::CopyOf("x")};
  ASSERT_TRUE(storage->PublishFile(folder / "dir/inside", piece).ok());
  EXPECT_FALSE(storage->PublishFile(folder / "dir", piece).ok());
  EXPECT_FALSE(storage->PublishFile(folder / "dir/inside/y", piece).ok());
  EXPECT_FALSE(storage->ReadFile(folder / "dir").ok());
  EXPECT_THAT(storage->ListFolder(folder / "").value(), ElementsAre("dir"));
  EXPECT_EQ(Slurp(folder / "dir/inside"), "x");
}

TEST(LocalStorageTest, ReadersSeeAWholeFileWhileItIsReplaced) {
  const StorageTestFolder folder;
  const auto storage = CreateLocalStorage();
  const std::string path = folder / "file";
  const auto publish = [&](char c) {
    const Buffer pieces[] = {Buffer::CopyOf(std::string(5000, c)),
                             Buffer::CopyOf(std::string(5000, c))};
    return storage->PublishFile(path, pieces);
  };
  ASSERT_TRUE(publish('a').ok());
  std::thread writer([&] {
    for (int i = 0; i < 20; ++i) {
      EXPECT_TRUE(publish(static_cast<char>('b' + i)).ok());
    }
  });
  for (int i = 0; i < 200; ++i) {
    const std::string text(storage->ReadFile(path).value().text());
    ASSERT_EQ(text, std::string(10000, text[0]));
  }
  writer.join();
}

TEST(MemoryStorageTest, FullStorageRefusesAndKeepsTheOldFile) {
  MemoryStorage storage;
  const Buffer small[] = {Buffer::CopyOf("123")};
  ASSERT_TRUE(storage.PublishFile("a", small).ok());
  storage.SetCapacity(5);
  const Status status = storage.PublishFile("a", small);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("'a'"));
  EXPECT_EQ(storage.ReadFile("a").value().text(), "123");
  ASSERT_TRUE(storage.Remove("a").ok());
  EXPECT_TRUE(storage.PublishFile("b", small).ok());
}

TEST(MemoryStorageTest, PathsThatNameTheSameFileAreTheSame) {
  MemoryStorage storage;
  const Buffer piece[] = {Buffer::CopyOf("x")};
  ASSERT_TRUE(storage.PublishFile("./a//b", piece).ok());
  EXPECT_EQ(storage.ReadFile("a/b").value().text(), "x");
  EXPECT_THAT(storage.ListFolder("./a/").value(), ElementsAre("b"));
}

}  // namespace
}  // namespace shoal
