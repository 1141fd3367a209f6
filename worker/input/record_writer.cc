#include "worker/input/record_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <vector>

#include <sys/stat.h>

#include "base/random.h"
#include "base/strcat.h"
#include "worker/input/record_layout.h"

namespace shoal::worker {
namespace {

constexpr size_t kWriteBytes = size_t{1} << 18;
constexpr uint64_t kSectionAlignment = 64;

Status WriteError(const std::string& path, int error) {
  const std::string text = StrCat(
      path, ": can't be written: ", std::generic_category().message(error));
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
    return ResourceExhaustedError(
        StrCat(text, "; make room or choose another folder"));
  }
  return UnavailableError(text);
}

Status SyncFolderOf(const std::string& path) {
  std::string folder = std::filesystem::path(path).parent_path().string();
  if (folder.empty()) {
    folder = ".";
  }
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 || fsync(fd) != 0) {
    const int error = errno;
    if (fd >= 0) {
      close(fd);
    }
    return WriteError(folder, error);
  }
  close(fd);
  return OkStatus();
}

}  // namespace

// One buffered temporary file, removed unless it was renamed.
class RecordWriter::Stream {
 public:
  // `shown` is the path that errors name.
  Stream(std::string path, std::string shown)
      : path_(std::move(path)), shown_(std::move(shown)) {}
  ~Stream() {
    if (fd_ >= 0) {
      close(fd_);
      unlink(path_.c_str());
    }
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Status Open() {
    fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0) {
      return WriteError(shown_, errno);
    }
    buffer_.reserve(kWriteBytes);
    return OkStatus();
  }

  uint64_t offset() const { return offset_; }

  Status Write(const void* data, size_t size) {
    offset_ += size;
    if (buffer_.size() + size > kWriteBytes) {
      SHOAL_RETURN_IF_ERROR(Flush());
    }
    if (size >= kWriteBytes) {
      return WriteAll(static_cast<const char*>(data), size);
    }
    const auto* bytes = static_cast<const char*>(data);
    buffer_.insert(buffer_.end(), bytes, bytes + size);
    return OkStatus();
  }

  Status Align() {
    constexpr char kZeros[kSectionAlignment] = {};
    const uint64_t rest = offset_ % kSectionAlignment;
    return rest == 0 ? OkStatus() : Write(kZeros, kSectionAlignment - rest);
  }

  Status Flush() {
    SHOAL_RETURN_IF_ERROR(WriteAll(buffer_.data(), buffer_.size()));
    buffer_.clear();
    return OkStatus();
  }

  Status AppendAllOf(Stream& other) {
    SHOAL_RETURN_IF_ERROR(other.Flush());
    std::vector<char> piece(kWriteBytes);
    for (uint64_t at = 0; at < other.offset_;) {
      const ssize_t got =
          pread(other.fd_, piece.data(), piece.size(), static_cast<off_t>(at));
      if (got <= 0) {
        return UnavailableError(
            StrCat(shown_, ": its temporary file can't be read back: ",
                   std::generic_category().message(errno)));
      }
      at += static_cast<uint64_t>(got);
      SHOAL_RETURN_IF_ERROR(Write(piece.data(), static_cast<size_t>(got)));
    }
    return OkStatus();
  }

  Status Overwrite(const void* data, size_t size) {
    SHOAL_RETURN_IF_ERROR(Flush());
    const ssize_t put = pwrite(fd_, data, size, 0);
    return put == static_cast<ssize_t>(size) ? OkStatus()
                                             : WriteError(shown_, errno);
  }

  Status Publish(const std::string& path, bool durable) {
    SHOAL_RETURN_IF_ERROR(Flush());
    if ((durable && fsync(fd_) != 0) ||
        rename(path_.c_str(), path.c_str()) != 0) {
      return WriteError(shown_, errno);
    }
    close(fd_);
    fd_ = -1;
    return durable ? SyncFolderOf(path) : OkStatus();
  }

 private:
  Status WriteAll(const char* data, size_t size) {
    while (size > 0) {
      const ssize_t put = write(fd_, data, size);
      if (put < 0 && errno == EINTR) {
        continue;
      }
      if (put <= 0) {
        return WriteError(shown_, errno);
      }
      data += put;
      size -= static_cast<size_t>(put);
    }
    return OkStatus();
  }

  std::string path_;
  std::string shown_;
  int fd_ = -1;
  uint64_t offset_ = 0;
  std::vector<char> buffer_;
};

StatusOr<std::unique_ptr<RecordWriter>> RecordWriter::Create(
    const std::string& path, const RecordSchema& schema) {
  const std::filesystem::path folder =
      std::filesystem::path(path).parent_path();
  if (!folder.empty()) {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) {
      return WriteError(folder.string(), error.value());
    }
  }
  std::unique_ptr<RecordWriter> writer(new RecordWriter());
  writer->path_ = path;
  writer->schema_ = schema;
  writer->schema_json_ = SchemaToJson(schema);
  const std::string temporary =
      StrCat(path, ".tmp-", getpid(), "-", EntropySeed() % 1000000);
  writer->main_ = std::make_unique<Stream>(temporary, path);
  SHOAL_RETURN_IF_ERROR(writer->main_->Open());
  if (!schema.bags.empty()) {
    writer->ids_ = std::make_unique<Stream>(temporary + "-ids", path);
    SHOAL_RETURN_IF_ERROR(writer->ids_->Open());
  }
  if (schema.weighted()) {
    writer->weights_ = std::make_unique<Stream>(temporary + "-weights", path);
    SHOAL_RETURN_IF_ERROR(writer->weights_->Open());
  }
  const RecordHeader header = {};
  SHOAL_RETURN_IF_ERROR(writer->main_->Write(&header, sizeof(header)));
  SHOAL_RETURN_IF_ERROR(writer->main_->Write(writer->schema_json_.data(),
                                             writer->schema_json_.size()));
  SHOAL_RETURN_IF_ERROR(writer->main_->Align());
  return writer;
}

RecordWriter::~RecordWriter() = default;

Status RecordWriter::Append(std::span<const char> record,
                            std::span<const uint64_t> ids,
                            std::span<const float> weights) {
  ++num_rows_;
  if (ids_ == nullptr) {
    return main_->Write(record.data(), record.size());
  }
  const auto begin_at = static_cast<size_t>(schema_.bags_offset());
  SHOAL_RETURN_IF_ERROR(main_->Write(record.data(), begin_at));
  SHOAL_RETURN_IF_ERROR(main_->Write(&num_entries_, sizeof(num_entries_)));
  SHOAL_RETURN_IF_ERROR(
      main_->Write(record.data() + begin_at + 8, record.size() - begin_at - 8));
  num_entries_ += ids.size();
  SHOAL_RETURN_IF_ERROR(ids_->Write(ids.data(), ids.size_bytes()));
  if (weights_ != nullptr) {
    return weights_->Write(weights.data(), weights.size_bytes());
  }
  return OkStatus();
}

Status RecordWriter::WriteSections(std::string_view fitted_json) {
  RecordHeader header = {};
  std::memcpy(header.magic, kRecordMagic, sizeof(kRecordMagic));
  header.version = kRecordVersion;
  header.schema_bytes = static_cast<uint32_t>(schema_json_.size());
  header.num_rows = static_cast<uint64_t>(num_rows_);
  header.record_bytes = static_cast<uint64_t>(schema_.record_bytes());
  header.num_entries = num_entries_;
  header.rows_offset =
      (sizeof(header) + schema_json_.size() + kSectionAlignment - 1) /
      kSectionAlignment * kSectionAlignment;
  SHOAL_RETURN_IF_ERROR(main_->Align());
  header.bag_ids_offset = main_->offset();
  if (ids_ != nullptr) {
    SHOAL_RETURN_IF_ERROR(main_->AppendAllOf(*ids_));
    SHOAL_RETURN_IF_ERROR(main_->Align());
  }
  header.bag_weights_offset = main_->offset();
  if (weights_ != nullptr) {
    SHOAL_RETURN_IF_ERROR(main_->AppendAllOf(*weights_));
    SHOAL_RETURN_IF_ERROR(main_->Align());
  }
  header.fitted_offset = main_->offset();
  header.fitted_bytes = fitted_json.size();
  header.fitted_checksum = HashText(fitted_json);
  SHOAL_RETURN_IF_ERROR(main_->Write(fitted_json.data(), fitted_json.size()));
  header.file_bytes = main_->offset();
  header.checksum =
      HashKey(HashText({reinterpret_cast<const char*>(&header),
                        sizeof(header) - sizeof(header.checksum)}),
              HashText(schema_json_));
  return main_->Overwrite(&header, sizeof(header));
}

Status RecordWriter::Finish(std::string_view fitted_json, bool durable) {
  SHOAL_RETURN_IF_ERROR(WriteSections(fitted_json));
  return main_->Publish(path_, durable);
}

}  // namespace shoal::worker
