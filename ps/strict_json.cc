#include "ps/strict_json.h"

#include <set>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/strcat.h"

namespace shoal::ps {

StatusOr<std::string> DumpJson(const Json& json, const std::string& what) {
  try {
    return json.dump();
  } catch (const Json::exception& error) {
    return InvalidArgumentError(
        StrCat("checkpoint: ", what, " is not valid UTF-8: ", error.what()));
  }
}

Json ParseStrictly(std::string_view text) {
  std::vector<std::set<std::string>> keys;
  bool repeated = false;
  const auto see = [&](int /*depth*/, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == Json::parse_event_t::key) {
      repeated |= !keys.back().insert(parsed.get<std::string>()).second;
    }
    return true;
  };
  Json json = Json::parse(text, see, /*allow_exceptions=*/false);
  return repeated ? Json(Json::value_t::discarded) : json;
}

}  // namespace shoal::ps
