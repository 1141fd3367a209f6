#ifndef SHOAL_LAUNCH_KUBERNETES_YAML_JSON_H_
#define SHOAL_LAUNCH_KUBERNETES_YAML_JSON_H_

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/status.h"

namespace shoal::launch {

// The documents of a YAML text as JSON, with plain scalars typed as YAML 1.2's
// core schema has them. Empty documents are left out.
// Errors: kInvalidArgument (opens with `file:line:`).
StatusOr<std::vector<nlohmann::json>> ParseYaml(std::string_view text,
                                                const std::string& file);

// One document, without a `---`. Texts that some version of YAML could take for
// something else are quoted.
std::string ToYaml(const nlohmann::json& json);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_KUBERNETES_YAML_JSON_H_
