#ifndef SHOAL_WORKER_INPUT_FILE_LIST_H_
#define SHOAL_WORKER_INPUT_FILE_LIST_H_

#include <string>
#include <vector>

#include "base/status.h"

namespace shoal::worker {

// The files that `patterns` (names with `*` and `?`, under `root` unless
// absolute) match: pattern by pattern, each one's sorted by name, none twice.
// `key` names the patterns in errors: "data.files".
// Errors: kInvalidArgument (no patterns), kNotFound (a pattern matches no
// file; names the pattern and the folder).
StatusOr<std::vector<std::string>> ListFiles(
    const std::string& root, const std::vector<std::string>& patterns,
    const std::string& key);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_FILE_LIST_H_
