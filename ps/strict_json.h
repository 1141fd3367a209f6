#ifndef SHOAL_PS_STRICT_JSON_H_
#define SHOAL_PS_STRICT_JSON_H_

#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "base/status.h"

namespace shoal::ps {

// JSON as checkpoints use it.
using Json = nlohmann::json;

// Errors: kInvalidArgument (`what` is not UTF-8, which JSON can't keep).
StatusOr<std::string> DumpJson(const Json& json, const std::string& what);

// Discarded if it is no JSON or an object names a key twice (JSON libraries
// differ in which one they take).
Json ParseStrictly(std::string_view text);

}  // namespace shoal::ps

#endif  // SHOAL_PS_STRICT_JSON_H_
