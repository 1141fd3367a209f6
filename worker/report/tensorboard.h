#ifndef SHOAL_WORKER_REPORT_TENSORBOARD_H_
#define SHOAL_WORKER_REPORT_TENSORBOARD_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/status.h"

namespace shoal::worker {

// Writes one TensorBoard event file, which `tensorboard --logdir FOLDER` shows
// while it grows.
//
// Thread-compatible. Errors: kResourceExhausted (disk full), kUnavailable (any
// other error); the text names the file. After one, the file ends at the last
// whole event that was flushed or in a broken one, which readers skip.
class EventFile {
 public:
  // Makes `folder` if need be. `wall_time` is in seconds since 1970; it goes
  // into the name, and so do the host and the process.
  static StatusOr<std::unique_ptr<EventFile>> Create(const std::string& folder,
                                                     double wall_time);

  // Writes what is buffered, if it can.
  ~EventFile();
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;

  // `tag` groups by its first part: "train/loss".
  Status AddScalar(std::string_view tag, int64_t step, double value,
                   double wall_time);

  // Readers see everything up to here.
  Status Flush();

  const std::string& path() const { return path_; }

 private:
  EventFile(std::string path, std::FILE* file)
      : path_(std::move(path)), file_(file) {}
  Status WriteRecord(const std::string& record);

  std::string path_;
  std::FILE* file_;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_REPORT_TENSORBOARD_H_
