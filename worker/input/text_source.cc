#include "worker/input/text_source.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <sys/stat.h>

#include "base/strcat.h"

namespace shoal::worker {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 18;
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
constexpr std::string_view kGzipMagic = "\x1f\x8b";
constexpr std::string_view kZstdMagic = "\x28\xb5\x2f\xfd";

// The bytes of a file as they are.
class FileBytes {
 public:
  explicit FileBytes(std::string path) : path_(std::move(path)) {}
  ~FileBytes() {
    if (fd_ >= 0) {
      close(fd_);
    }
  }
  FileBytes(const FileBytes&) = delete;
  FileBytes& operator=(const FileBytes&) = delete;

  const std::string& path() const { return path_; }

  Status Open() {
    // Not blocking: a pipe would wait for its writer.
    fd_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd_ < 0) {
      const int error = errno;
      const std::string text =
          StrCat(path_, ": ", std::generic_category().message(error));
      return error == ENOENT ? NotFoundError(text) : UnavailableError(text);
    }
    struct stat info = {};
    if (fstat(fd_, &info) == 0 && !S_ISREG(info.st_mode)) {
      return InvalidArgumentError(
          StrCat(path_, ": is ",
                 S_ISDIR(info.st_mode) ? "a folder" : "a pipe or device",
                 ", expected a file; files are read more than once"));
    }
    return OkStatus();
  }

  StatusOr<size_t> Read(char* data, size_t size) {
    size_t done = 0;
    while (done < size) {
      const ssize_t got = read(fd_, data + done, size - done);
      if (got < 0 && errno == EINTR) {
        continue;
      }
      if (got < 0) {
        return UnavailableError(StrCat(path_, ": can't be read: ",
                                       std::generic_category().message(errno)));
      }
      if (got == 0) {
        break;
      }
      done += static_cast<size_t>(got);
    }
    return done;
  }

 private:
  std::string path_;
  int fd_ = -1;
};

// A window of the packed bytes, refilled from the file.
class PackedBytes {
 public:
  PackedBytes(std::unique_ptr<FileBytes> file, std::string head)
      : file_(std::move(file)), window_(head.begin(), head.end()) {
    size_ = window_.size();
    window_.resize(kPieceBytes);
  }

  const std::string& path() const { return file_->path(); }
  const char* data() const { return window_.data() + at_; }
  size_t size() const { return size_ - at_; }
  void Consume(size_t bytes) { at_ += bytes; }

  // False at the end of the file. Keeps what is not consumed.
  StatusOr<bool> Refill() {
    std::memmove(window_.data(), window_.data() + at_, size_ - at_);
    size_ -= at_;
    at_ = 0;
    SHOAL_ASSIGN_OR_RETURN(
        const size_t got,
        file_->Read(window_.data() + size_, window_.size() - size_));
    size_ += got;
    return got > 0;
  }

 private:
  std::unique_ptr<FileBytes> file_;
  std::vector<char> window_;
  size_t at_ = 0;
  size_t size_ = 0;
};

class PlainSource : public TextSource {
 public:
  PlainSource(std::unique_ptr<FileBytes> file, std::string head)
      : file_(std::move(file)), head_(std::move(head)) {}

  StatusOr<size_t> Read(char* data, size_t size) override {
    const size_t from_head = std::min(size, head_.size());
    std::memcpy(data, head_.data(), from_head);
    head_.erase(0, from_head);
    SHOAL_ASSIGN_OR_RETURN(const size_t got,
                           file_->Read(data + from_head, size - from_head));
    return from_head + got;
  }

 private:
  std::unique_ptr<FileBytes> file_;
  std::string head_;
};

class GzipSource : public TextSource {
 public:
  explicit GzipSource(PackedBytes packed) : packed_(std::move(packed)) {}
  ~GzipSource() override { inflateEnd(&stream_); }

  Status Start() {
    // 15: the largest window; 16: the gzip form.
    return inflateInit2(&stream_, 15 + 16) == Z_OK
               ? OkStatus()
               : ResourceExhaustedError(
                     StrCat(packed_.path(), ": no memory to unpack it"));
  }

  StatusOr<size_t> Read(char* data, size_t size) override {
    size_t done = 0;
    while (done < size && !at_end_) {
      if (packed_.size() == 0) {
        SHOAL_ASSIGN_OR_RETURN(const bool more, packed_.Refill());
        if (!more) {
          SHOAL_RETURN_IF_ERROR(AtFileEnd());
          break;
        }
      }
      if (member_done_) {
        SHOAL_RETURN_IF_ERROR(NextMember());
        continue;
      }
      SHOAL_ASSIGN_OR_RETURN(const size_t got,
                             Inflate(data + done, size - done));
      done += got;
    }
    return done;
  }

 private:
  Status AtFileEnd() {
    at_end_ = true;
    return member_done_
               ? OkStatus()
               : InvalidArgumentError(StrCat(
                     packed_.path(), ": the gzip archive is cut off after ",
                     unpacked_, " unpacked bytes; get it again"));
  }

  // Archives may be joined; zeros may fill the rest of a block device.
  Status NextMember() {
    if (packed_.data()[0] == 0) {
      packed_.Consume(1);
      return OkStatus();
    }
    member_done_ = false;
    return inflateReset(&stream_) == Z_OK ? OkStatus() : Damaged("reset");
  }

  StatusOr<size_t> Inflate(char* data, size_t size) {
    const size_t piece = std::min(size, kPieceBytes);
    stream_.next_in =
        reinterpret_cast<Bytef*>(const_cast<char*>(packed_.data()));
    stream_.avail_in = static_cast<uInt>(packed_.size());
    stream_.next_out = reinterpret_cast<Bytef*>(data);
    stream_.avail_out = static_cast<uInt>(piece);
    const int result = inflate(&stream_, Z_NO_FLUSH);
    packed_.Consume(packed_.size() - stream_.avail_in);
    const size_t got = piece - stream_.avail_out;
    unpacked_ += static_cast<int64_t>(got);
    if (result == Z_STREAM_END) {
      member_done_ = true;
    } else if (result != Z_OK && result != Z_BUF_ERROR) {
      return Damaged(stream_.msg == nullptr ? "bad data" : stream_.msg);
    }
    return got;
  }

  Status Damaged(std::string_view why) const {
    return InvalidArgumentError(
        StrCat(packed_.path(), ": the gzip archive is damaged (", why,
               ") after ", unpacked_, " unpacked bytes; get it again"));
  }

  PackedBytes packed_;
  z_stream stream_ = {};
  bool member_done_ = false;
  bool at_end_ = false;
  int64_t unpacked_ = 0;
};

class ZstdSource : public TextSource {
 public:
  explicit ZstdSource(PackedBytes packed)
      : packed_(std::move(packed)), stream_(ZSTD_createDStream()) {}
  ~ZstdSource() override { ZSTD_freeDStream(stream_); }

  Status Start() {
    return stream_ != nullptr
               ? OkStatus()
               : ResourceExhaustedError(
                     StrCat(packed_.path(), ": no memory to unpack it"));
  }

  StatusOr<size_t> Read(char* data, size_t size) override {
    size_t done = 0;
    while (done < size) {
      ZSTD_inBuffer in = {packed_.data(), packed_.size(), 0};
      ZSTD_outBuffer out = {data, size, done};
      const size_t result = ZSTD_decompressStream(stream_, &out, &in);
      if (ZSTD_isError(result) != 0) {
        return InvalidArgumentError(
            StrCat(packed_.path(), ": the zstd archive is damaged (",
                   ZSTD_getErrorName(result), ") after ", unpacked_,
                   " unpacked bytes; get it again"));
      }
      packed_.Consume(in.pos);
      const size_t got = out.pos - done;
      const bool stuck = got == 0 && in.pos == 0;
      // A result above 0 is a hint that is also given before a new frame.
      if (got > 0 || in.pos > 0) {
        frame_open_ = result != 0;
      }
      unpacked_ += static_cast<int64_t>(got);
      done = out.pos;
      if (packed_.size() == 0 || stuck) {
        SHOAL_ASSIGN_OR_RETURN(const bool more, packed_.Refill());
        if (!more && stuck) {
          SHOAL_RETURN_IF_ERROR(AtFileEnd());
          break;
        }
      }
    }
    return done;
  }

 private:
  Status AtFileEnd() const {
    return frame_open_
               ? InvalidArgumentError(StrCat(
                     packed_.path(), ": the zstd archive is cut off after ",
                     unpacked_, " unpacked bytes; get it again"))
               : OkStatus();
  }

  PackedBytes packed_;
  ZSTD_DStream* stream_;
  bool frame_open_ = false;
  int64_t unpacked_ = 0;
};

// Takes the byte order mark off the beginning.
class WithoutMark : public TextSource {
 public:
  explicit WithoutMark(std::unique_ptr<TextSource> source)
      : source_(std::move(source)) {}

  StatusOr<size_t> Read(char* data, size_t size) override {
    if (!started_) {
      started_ = true;
      head_.resize(kByteOrderMark.size());
      SHOAL_ASSIGN_OR_RETURN(const size_t got,
                             source_->Read(head_.data(), head_.size()));
      head_.resize(got);
      if (head_ == kByteOrderMark) {
        head_.clear();
      }
    }
    const size_t from_head = std::min(size, head_.size());
    std::memcpy(data, head_.data(), from_head);
    head_.erase(0, from_head);
    SHOAL_ASSIGN_OR_RETURN(const size_t got,
                           source_->Read(data + from_head, size - from_head));
    return from_head + got;
  }

 private:
  std::unique_ptr<TextSource> source_;
  bool started_ = false;
  std::string head_;
};

template <typename Source>
StatusOr<std::unique_ptr<TextSource>> Started(std::unique_ptr<Source> source) {
  SHOAL_RETURN_IF_ERROR(source->Start());
  return std::unique_ptr<TextSource>(
      std::make_unique<WithoutMark>(std::move(source)));
}

}  // namespace

StatusOr<std::unique_ptr<TextSource>> TextSource::Open(
    const std::string& path) {
  auto file = std::make_unique<FileBytes>(path);
  SHOAL_RETURN_IF_ERROR(file->Open());
  std::string head(kZstdMagic.size(), '\0');
  SHOAL_ASSIGN_OR_RETURN(const size_t got,
                         file->Read(head.data(), head.size()));
  head.resize(got);
  if (std::string_view(head).starts_with(kGzipMagic)) {
    return Started(
        std::make_unique<GzipSource>(PackedBytes(std::move(file), head)));
  }
  if (head == kZstdMagic) {
    return Started(
        std::make_unique<ZstdSource>(PackedBytes(std::move(file), head)));
  }
  return std::unique_ptr<TextSource>(std::make_unique<WithoutMark>(
      std::make_unique<PlainSource>(std::move(file), std::move(head))));
}

}  // namespace shoal::worker
