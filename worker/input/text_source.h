#ifndef SHOAL_WORKER_INPUT_TEXT_SOURCE_H_
#define SHOAL_WORKER_INPUT_TEXT_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"

namespace shoal::worker {

// The text of one file, plain, gzip or zstd; which it is, its first bytes say.
// A UTF-8 byte order mark is left out.
class TextSource {
 public:
  // Errors: kNotFound, kUnavailable; all texts name the path.
  static StatusOr<std::unique_ptr<TextSource>> Open(const std::string& path);

  virtual ~TextSource() = default;

  // Fills `data` with the next bytes; fewer than `size` only at the end.
  // Errors: kInvalidArgument (the archive is damaged or cut off),
  // kUnavailable.
  virtual StatusOr<size_t> Read(char* data, size_t size) = 0;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_TEXT_SOURCE_H_
