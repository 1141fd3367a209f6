#include "ps/spill_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <linux/magic.h>
#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/listener.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>
#include <sys/file.h>
#include <sys/vfs.h>

#include "base/mutex.h"
#include "base/strcat.h"
#include "base/unique_fd.h"
#include "ps/slots.h"

namespace shoal::ps {
namespace {

namespace fs = std::filesystem;

// Keys that are looked up in one call: each may hold a block of the files.
constexpr size_t kGetKeys = 256;
constexpr char kPrefix[] = "shoal-spill-";
constexpr char kNew[] = "shoal-spill.new-";
// Locked for as long as the folder's owner lives.
constexpr char kLockFile[] = "OWNER";

// Table, IdHash() and id, big-endian, so that the order is the walk's.
class Key {
 public:
  Key(int table, uint64_t hash, uint64_t id) {
    Write(0, 2, static_cast<uint64_t>(table));
    Write(2, 8, hash);
    Write(10, 8, id);
  }
  static constexpr size_t kBytes = 18;

  rocksdb::Slice slice() const { return {bytes_.data(), kBytes}; }
  // After this key and before any other.
  rocksdb::Slice after() const { return {bytes_.data(), kBytes + 1}; }

  static uint64_t IdOf(const rocksdb::Slice& key) {
    uint64_t id = 0;
    for (size_t i = 10; i < kBytes; ++i) {
      id = id << 8 | static_cast<uint8_t>(key[i]);
    }
    return id;
  }

 private:
  void Write(size_t at, size_t n, uint64_t value) {
    for (size_t i = n; i-- > 0; value >>= 8) {
      bytes_[at + i] = static_cast<char>(value & 0xff);
    }
  }
  std::array<char, kBytes + 1> bytes_ = {};
};

std::span<const std::byte> BytesOf(const rocksdb::Slice& slice) {
  return {reinterpret_cast<const std::byte*>(slice.data()), slice.size()};
}

// Keeps the first error, whoever met it.
class FirstError : public rocksdb::EventListener {
 public:
  explicit FirstError(std::string folder) : folder_(std::move(folder)) {}

  Status Take(const rocksdb::Status& status) {
    if (status.ok()) {
      return first();
    }
    const MutexLock lock(mutex_);
    if (first_.ok()) {
      const std::string text =
          StrCat("rows on disk: ", folder_, ": ", status.ToString());
      first_ = status.IsNoSpace() ? ResourceExhaustedError(text)
                                  : UnavailableError(text);
    }
    return first_;
  }
  Status first() const {
    const MutexLock lock(mutex_);
    return first_;
  }

  // Of a write in the background.
  void OnBackgroundError(rocksdb::BackgroundErrorReason /*reason*/,
                         rocksdb::Status* error) override {
    static_cast<void>(Take(*error));
  }

 private:
  const std::string folder_;
  mutable Mutex mutex_;
  Status first_ SHOAL_GUARDED_BY(mutex_);
};

// Files of this store are of use to nobody after a crash, so nothing waits
// until they are on the disk itself.
class UnsyncedFile : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  using FSWritableFileOwnerWrapper::FSWritableFileOwnerWrapper;
  rocksdb::IOStatus Sync(const rocksdb::IOOptions& /*options*/,
                         rocksdb::IODebugContext* /*debug*/) override {
    return rocksdb::IOStatus::OK();
  }
  rocksdb::IOStatus Fsync(const rocksdb::IOOptions& /*options*/,
                          rocksdb::IODebugContext* /*debug*/) override {
    return rocksdb::IOStatus::OK();
  }
};

class UnsyncedFiles : public rocksdb::FileSystemWrapper {
 public:
  using FileSystemWrapper::FileSystemWrapper;
  const char* Name() const override { return "shoal::UnsyncedFiles"; }
  rocksdb::IOStatus NewWritableFile(
      const std::string& name, const rocksdb::FileOptions& options,
      std::unique_ptr<rocksdb::FSWritableFile>* file,
      rocksdb::IODebugContext* debug) override {
    const rocksdb::IOStatus status =
        FileSystemWrapper::NewWritableFile(name, options, file, debug);
    if (status.ok()) {
      *file = std::make_unique<UnsyncedFile>(std::move(*file));
    }
    return status;
  }
};

// A folder that no other process takes for left over.
struct OwnFolder {
  OwnFolder(std::string its_path, UniqueFd its_lock)
      : path(std::move(its_path)), lock(std::move(its_lock)) {}
  ~OwnFolder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  OwnFolder(const OwnFolder&) = delete;
  OwnFolder& operator=(const OwnFolder&) = delete;

  std::string path;
  UniqueFd lock;
};

// Only what such a store made has the lock file, and only what nobody has
// locked is left over.
void RemoveLeftovers(const std::string& parent) {
  std::error_code error;
  std::vector<std::string> left;
  for (const auto& entry : fs::directory_iterator(parent, error)) {
    if (entry.path().filename().string().rfind(kPrefix, 0) != 0) {
      continue;
    }
    const UniqueFd lock(
        ::open((entry.path() / kLockFile).c_str(), O_RDWR | O_CLOEXEC));
    if (lock.valid() && ::flock(lock.get(), LOCK_EX | LOCK_NB) == 0) {
      fs::remove_all(entry.path(), error);
    }
  }
}

Status CantUse(const std::string& parent, const std::string& why) {
  return FailedPreconditionError(
      StrCat("rows on disk: can't use the folder ", parent, ": ", why));
}

std::string TextOf(int error) {
  return std::error_code(error, std::generic_category()).message();
}

StatusOr<std::unique_ptr<OwnFolder>> MakeFolder(const SpillOptions& options) {
  const std::string& parent = options.parent;
  std::error_code error;
  fs::create_directories(parent, error);
  const bool is_folder = !error && fs::is_directory(parent, error);
  if (!is_folder) {
    return CantUse(parent, error ? error.message() : "it is no folder");
  }
  struct statfs found = {};
  if (::statfs(parent.c_str(), &found) != 0) {
    return CantUse(parent, TextOf(errno));
  }
  if (found.f_type == TMPFS_MAGIC) {
    return CantUse(parent,
                   "it lies in memory (tmpfs), and rows are to leave it; set "
                   "cluster.spill_folder to one on a disk");
  }
  RemoveLeftovers(parent);
  const fs::space_info space = fs::space(parent, error);
  if (error) {
    return CantUse(parent, error.message());
  }
  if (space.available < static_cast<uint64_t>(options.free_bytes_min)) {
    return CantUse(parent, StrCat("it has ", space.available,
                                  " bytes of free space, and rows are to have ",
                                  options.free_bytes_min, " or more"));
  }
  // Under a name that nobody clears away until it is locked.
  std::string made = StrCat(parent, "/", kNew, "XXXXXX");
  if (::mkdtemp(made.data()) == nullptr) {
    return CantUse(parent, TextOf(errno));
  }
  UniqueFd lock(::open(StrCat(made, "/", kLockFile).c_str(),
                       O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const std::string path = StrCat(parent, "/", kPrefix, ::getpid(), "-",
                                  made.substr(made.size() - 6));
  if (!lock.valid() || ::flock(lock.get(), LOCK_EX | LOCK_NB) != 0 ||
      ::rename(made.c_str(), path.c_str()) != 0) {
    const std::string why = TextOf(errno);
    fs::remove_all(made, error);
    return CantUse(parent, why);
  }
  return std::make_unique<OwnFolder>(path, std::move(lock));
}

rocksdb::Options DbOptions(const SpillOptions& options,
                           std::shared_ptr<rocksdb::Cache> cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = std::move(cache);
  // Filters and indexes of files count as blocks, and come and go in pieces, so
  // that the cache bounds them too.
  table.cache_index_and_filter_blocks = true;
  table.index_type = rocksdb::BlockBasedTableOptions::kTwoLevelIndexSearch;
  table.partition_filters = true;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  rocksdb::Options db;
  db.create_if_missing = true;
  db.error_if_exists = true;
  db.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  db.write_buffer_size = static_cast<size_t>(options.write_buffer_bytes);
  db.max_write_buffer_number = 2;
  db.target_file_size_base =
      std::max<uint64_t>(db.write_buffer_size, uint64_t{16} << 20);
  db.max_bytes_for_level_base = 4 * db.target_file_size_base;
  // Rows are written again in no order: merging whole runs writes each less
  // often than levels do.
  db.compaction_style = rocksdb::kCompactionStyleUniversal;
  db.compression = rocksdb::kNoCompression;  // Trained values are noise.
  db.max_background_jobs = 2;
  db.max_open_files = 256;
  db.avoid_flush_during_shutdown = true;
  // Who has lost a write gives up.
  db.max_bgerror_resume_count = 0;
  db.info_log_level = rocksdb::ERROR_LEVEL;
  db.keep_log_file_num = 1;
  db.stats_dump_period_sec = 0;
  db.stats_persist_period_sec = 0;
  return db;
}

class RocksStore : public SpillStore {
 public:
  RocksStore(std::unique_ptr<OwnFolder> folder, const SpillOptions& options)
      : options_(options),
        folder_(std::move(folder)),
        error_(std::make_shared<FirstError>(folder_->path)),
        env_(rocksdb::NewCompositeEnv(
            std::make_shared<UnsyncedFiles>(rocksdb::FileSystem::Default()))) {}

  Status Open() {
    rocksdb::Options db = DbOptions(
        options_,
        rocksdb::NewLRUCache(static_cast<size_t>(options_.cache_bytes), 2));
    db.listeners.push_back(error_);
    db.env = env_.get();
    rocksdb::DB* opened = nullptr;
    const Status status =
        error_->Take(rocksdb::DB::Open(db, folder_->path + "/rows", &opened));
    db_.reset(opened);
    return status;
  }

  Status Get(int table, std::span<const uint64_t> ids,
             FunctionRef<void(size_t, std::span<const std::byte>)> found)
      const override {
    SHOAL_RETURN_IF_ERROR(status());
    std::vector<Key> keys;
    std::vector<rocksdb::Slice> slices(std::min(ids.size(), kGetKeys));
    std::vector<rocksdb::PinnableSlice> values(slices.size());
    std::vector<rocksdb::Status> statuses(slices.size());
    for (size_t begin = 0; begin < ids.size(); begin += kGetKeys) {
      const size_t n = std::min(kGetKeys, ids.size() - begin);
      keys.clear();
      for (const uint64_t id : ids.subspan(begin, n)) {
        keys.emplace_back(table, IdHash(id), id);
      }
      for (size_t i = 0; i < n; ++i) {
        slices[i] = keys[i].slice();
      }
      db_->MultiGet(rocksdb::ReadOptions(), db_->DefaultColumnFamily(), n,
                    slices.data(), values.data(), statuses.data(),
                    /*sorted_input=*/true);
      for (size_t i = 0; i < n; ++i) {
        if (statuses[i].ok()) {
          found(begin + i, BytesOf(values[i]));
        } else if (!statuses[i].IsNotFound()) {
          return error_->Take(statuses[i]);
        }
        values[i].Reset();
      }
    }
    return OkStatus();
  }

  Status Put(int table, std::span<const Row> rows) override {
    rocksdb::WriteBatch batch;
    for (const Row& row : rows) {
      const rocksdb::Slice value(
          reinterpret_cast<const char*>(row.bytes.data()), row.bytes.size());
      static_cast<void>(
          batch.Put(Key(table, IdHash(row.id), row.id).slice(), value));
    }
    return Write(batch);
  }

  Status Erase(int table, std::span<const uint64_t> ids) override {
    rocksdb::WriteBatch batch;
    for (const uint64_t id : ids) {
      static_cast<void>(batch.Delete(Key(table, IdHash(id), id).slice()));
    }
    return Write(batch);
  }

  Status EraseRange(int table, uint64_t first, uint64_t last) override {
    rocksdb::WriteBatch batch;
    static_cast<void>(batch.DeleteRange(
        Key(table, first, 0).slice(), Key(table, last, ~uint64_t{0}).after()));
    return Write(batch);
  }

  Status ForEach(int table, uint64_t first, uint64_t last,
                 FunctionRef<void(uint64_t, std::span<const std::byte>)> visit)
      const override {
    SHOAL_RETURN_IF_ERROR(status());
    const Key begin(table, first, 0);
    const Key end(table, last, ~uint64_t{0});
    const rocksdb::Slice bound = end.after();
    rocksdb::ReadOptions options;
    options.iterate_upper_bound = &bound;
    options.fill_cache = false;
    const std::unique_ptr<rocksdb::Iterator> at(db_->NewIterator(options));
    for (at->Seek(begin.slice()); at->Valid(); at->Next()) {
      visit(Key::IdOf(at->key()), BytesOf(at->value()));
    }
    return error_->Take(at->status());
  }

  Status status() const override { return error_->first(); }

  int64_t memory_bytes() const override {
    return options_.cache_bytes + 2 * options_.write_buffer_bytes;
  }

 private:
  Status Write(rocksdb::WriteBatch& batch) {
    SHOAL_RETURN_IF_ERROR(status());
    rocksdb::WriteOptions options;
    options.disableWAL = true;
    return error_->Take(db_->Write(options, &batch));
  }

  const SpillOptions options_;
  const std::unique_ptr<OwnFolder> folder_;
  const std::shared_ptr<FirstError> error_;
  const std::unique_ptr<rocksdb::Env> env_;
  std::unique_ptr<rocksdb::DB> db_;
};

}  // namespace

StatusOr<std::unique_ptr<SpillStore>> OpenSpillStore(
    const SpillOptions& options) {
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<OwnFolder> folder,
                         MakeFolder(options));
  auto store = std::make_unique<RocksStore>(std::move(folder), options);
  SHOAL_RETURN_IF_ERROR(store->Open());
  return std::unique_ptr<SpillStore>(std::move(store));
}

}  // namespace shoal::ps
