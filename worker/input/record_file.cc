#include "worker/input/record_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <system_error>

#include <sys/mman.h>
#include <sys/stat.h>

#include "base/random.h"
#include "base/strcat.h"
#include "worker/input/record_layout.h"

namespace shoal::worker {
namespace {

// Whether [offset, offset + count * each) lies in a file of `file_bytes`, and
// starts at a multiple of 8.
bool SectionFits(uint64_t offset, uint64_t count, uint64_t each,
                 uint64_t file_bytes) {
  return offset % 8 == 0 && offset <= file_bytes &&
         (each == 0 || count <= (file_bytes - offset) / each);
}

}  // namespace

StatusOr<std::shared_ptr<const RecordFile>> RecordFile::Open(
    const std::string& path) {
  // The constructor is private, so make_shared can't be used.
  const std::shared_ptr<RecordFile> file(new RecordFile());
  file->path_ = path;
  SHOAL_RETURN_IF_ERROR(file->Map());
  SHOAL_RETURN_IF_ERROR(file->ReadHeader());
  return std::shared_ptr<const RecordFile>(file);
}

RecordFile::~RecordFile() {
  if (data_ != nullptr) {
    munmap(const_cast<char*>(data_), static_cast<size_t>(size_bytes_));
  }
}

Status RecordFile::Map() {
  const int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const std::string text =
        StrCat(path_, ": ", std::generic_category().message(errno));
    return errno == ENOENT ? NotFoundError(text) : UnavailableError(text);
  }
  struct stat info = {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) ||
      info.st_size < static_cast<off_t>(sizeof(RecordHeader))) {
    close(fd);
    return InvalidArgumentError(
        StrCat(path_,
               ": no record file (too short for its header); `shoal data "
               "convert` writes them"));
  }
  size_bytes_ = info.st_size;
  void* data = mmap(nullptr, static_cast<size_t>(size_bytes_), PROT_READ,
                    MAP_SHARED, fd, 0);
  const int error = errno;
  close(fd);
  if (data == MAP_FAILED) {
    return UnavailableError(StrCat(
        path_, ": can't be mapped: ", std::generic_category().message(error)));
  }
  data_ = static_cast<const char*>(data);
  return OkStatus();
}

Status RecordFile::ReadHeader() {
  RecordHeader header = {};
  std::memcpy(&header, data_, sizeof(header));
  const auto size = static_cast<uint64_t>(size_bytes_);
  if (std::memcmp(header.magic, kRecordMagic, sizeof(kRecordMagic)) != 0) {
    return InvalidArgumentError(
        StrCat(path_, ": no record file; `shoal data convert` writes them"));
  }
  if (header.version != kRecordVersion) {
    return InvalidArgumentError(
        StrCat(path_, ": record version ", header.version, ", expected ",
               kRecordVersion, "; convert the data again"));
  }
  if (header.file_bytes != size) {
    return InvalidArgumentError(StrCat(path_, ": has ", size,
                                       " bytes, expected ", header.file_bytes,
                                       "; it was cut off or grew"));
  }
  if (header.schema_bytes > size - sizeof(header)) {
    return InvalidArgumentError(StrCat(path_, ": its header is damaged"));
  }
  const std::string_view schema_json(data_ + sizeof(header),
                                     header.schema_bytes);
  const uint64_t checksum =
      HashKey(HashText({data_, sizeof(header) - sizeof(header.checksum)}),
              HashText(schema_json));
  if (checksum != header.checksum) {
    return InvalidArgumentError(StrCat(path_, ": its header is damaged"));
  }
  StatusOr<RecordSchema> schema = SchemaFromJson(schema_json);
  if (!schema.ok()) {
    return schema.status().WithPrefix(path_);
  }
  schema_ = *std::move(schema);
  const auto record_bytes = static_cast<uint64_t>(schema_.record_bytes());
  const uint64_t weights = schema_.weighted() ? header.num_entries : 0;
  if (header.record_bytes != record_bytes ||
      !SectionFits(header.rows_offset, header.num_rows, record_bytes, size) ||
      !SectionFits(header.bag_ids_offset, header.num_entries, 8, size) ||
      !SectionFits(header.bag_weights_offset, weights, 4, size) ||
      !SectionFits(header.fitted_offset, header.fitted_bytes, 1, size)) {
    return InvalidArgumentError(
        StrCat(path_, ": the sizes in its header disagree"));
  }
  fitted_json_ = {data_ + header.fitted_offset, header.fitted_bytes};
  if (HashText(fitted_json_) != header.fitted_checksum) {
    return InvalidArgumentError(StrCat(path_, ": its last section is damaged"));
  }
  num_rows_ = static_cast<int64_t>(header.num_rows);
  record_bytes_ = static_cast<int64_t>(record_bytes);
  num_entries_ = static_cast<int64_t>(header.num_entries);
  rows_ = data_ + header.rows_offset;
  bag_ids_ = reinterpret_cast<const uint64_t*>(data_ + header.bag_ids_offset);
  bag_weights_ =
      reinterpret_cast<const float*>(data_ + header.bag_weights_offset);
  return OkStatus();
}

RecordRow RecordFile::Row(int64_t row) const {
  const char* record = rows_ + row * record_bytes_;
  RecordRow out;
  std::memcpy(&out.label, record, sizeof(out.label));
  out.numeric = {reinterpret_cast<const float*>(record + 4),
                 schema_.numeric.size()};
  out.ids = {reinterpret_cast<const uint64_t*>(record + schema_.ids_offset()),
             schema_.categorical.size()};
  return out;
}

StatusOr<RecordBag> RecordFile::Bag(int64_t row, int64_t bag) const {
  const char* begin_at = rows_ + row * record_bytes_ + schema_.bags_offset();
  uint64_t begin = 0;
  std::memcpy(&begin, begin_at, sizeof(begin));
  const auto* ends = reinterpret_cast<const uint32_t*>(begin_at + 8);
  const uint32_t from = bag == 0 ? 0 : ends[bag - 1];
  const uint32_t to = ends[bag];
  const auto entries = static_cast<uint64_t>(num_entries_);
  if (from > to || begin > entries || to > entries - begin) {
    return DataLossError(StrCat(path_, ": row ", row, ": the bag of '",
                                schema_.bags[static_cast<size_t>(bag)].name,
                                "' is outside the file; it is damaged"));
  }
  RecordBag out;
  out.ids = {bag_ids_ + begin + from, to - from};
  if (schema_.bags[static_cast<size_t>(bag)].weighted) {
    out.weights = {bag_weights_ + begin + from, to - from};
  }
  return out;
}

}  // namespace shoal::worker
