#ifndef SHOAL_WORKER_YAML_DOCUMENT_H_
#define SHOAL_WORKER_YAML_DOCUMENT_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace shoal::worker {

// A YAML value with the line where it begins.
struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };

  Kind kind = Kind::kNull;
  int line = 0;         // from 1
  bool quoted = false;  // kScalar: in quotes or a block, so text for sure
  std::string text;     // kScalar
  std::vector<YamlNode> items;                         // kList
  std::vector<std::pair<YamlNode, YamlNode>> entries;  // kMap; keys: kScalar
};

// Reads one document; an empty one is an empty map. Anchors are expanded.
// Bounded: 64 levels, 100,000 values. Tags, keys that are no plain text and
// keys given twice in a map are refused.
//
// Errors: kInvalidArgument; `*error_line` is the line, from 1.
StatusOr<YamlNode> ParseYaml(std::string_view text, int* error_line);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_YAML_DOCUMENT_H_
