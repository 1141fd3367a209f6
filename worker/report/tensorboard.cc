#include "worker/report/tensorboard.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <system_error>

#include "base/strcat.h"
#include "worker/report/crc32c.h"
#include "worker/report/event.pb.h"

namespace shoal::worker {
namespace {

// Numbers in the file are little-endian, whatever the machine is.
template <typename T>
std::string LittleEndian(T value) {
  std::string bytes(sizeof(T), '\0');
  for (char& byte : bytes) {
    byte = static_cast<char>(value & 0xffU);
    value >>= 8;
  }
  return bytes;
}

// TFRecord: the length and its CRC, the data and its CRC.
std::string Framed(const std::string& data) {
  const std::string length = LittleEndian(static_cast<uint64_t>(data.size()));
  return length + LittleEndian(MaskedCrc32c(length)) + data +
         LittleEndian(MaskedCrc32c(data));
}

std::string HostName() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "host";
}

Status FileError(const std::string& path, int error) {
  const std::string text =
      StrCat("event file ", path, ": ",
             std::error_code(error, std::generic_category()).message());
  return error == ENOSPC || error == EDQUOT ? ResourceExhaustedError(text)
                                            : UnavailableError(text);
}

}  // namespace

StatusOr<std::unique_ptr<EventFile>> EventFile::Create(
    const std::string& folder, double wall_time) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    return FileError(folder, error.value());
  }
  static std::atomic<int> num_files = 0;
  // TensorBoard takes files whose name has "tfevents" in it, and reads those of
  // a folder in the order of their names.
  const std::string path =
      StrCat(folder, "/events.out.tfevents.",
             static_cast<int64_t>(std::isfinite(wall_time) ? wall_time : 0),
             ".", HostName(), ".", getpid(), ".", num_files++);
  std::FILE* file = std::fopen(path.c_str(), "wbe");
  if (file == nullptr) {
    return FileError(path, errno);
  }
  std::unique_ptr<EventFile> events(new EventFile(path, file));
  tensorboard::Event head;
  head.set_wall_time(wall_time);
  head.set_file_version("brain.Event:2");
  SHOAL_RETURN_IF_ERROR(events->WriteRecord(head.SerializeAsString()));
  SHOAL_RETURN_IF_ERROR(events->Flush());
  return events;
}

EventFile::~EventFile() { std::fclose(file_); }

Status EventFile::AddScalar(std::string_view tag, int64_t step, double value,
                            double wall_time) {
  tensorboard::Event event;
  event.set_wall_time(wall_time);
  event.set_step(step);
  tensorboard::Summary::Value& entry = *event.mutable_summary()->add_value();
  entry.set_tag(std::string(tag));
  entry.set_simple_value(static_cast<float>(value));
  return WriteRecord(event.SerializeAsString());
}

Status EventFile::Flush() {
  return std::fflush(file_) == 0 ? OkStatus() : FileError(path_, errno);
}

Status EventFile::WriteRecord(const std::string& record) {
  const std::string framed = Framed(record);
  const size_t written = std::fwrite(framed.data(), 1, framed.size(), file_);
  return written == framed.size() ? OkStatus() : FileError(path_, errno);
}

}  // namespace shoal::worker
