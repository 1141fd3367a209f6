#include "worker/input/record_schema.h"

#include <algorithm>

#include "nlohmann/json.hpp"

#include "base/strcat.h"

namespace shoal::worker {
namespace {

// More than any model has, and few enough that sizes can't overflow.
constexpr size_t kFieldsMax = size_t{1} << 20;

int64_t RoundUp8(int64_t bytes) { return (bytes + 7) / 8 * 8; }

}  // namespace

int64_t RecordSchema::ids_offset() const {
  return RoundUp8(4 + 4 * static_cast<int64_t>(numeric.size()));
}

int64_t RecordSchema::bags_offset() const {
  return ids_offset() + 8 * static_cast<int64_t>(categorical.size());
}

int64_t RecordSchema::record_bytes() const {
  const auto num_bags = static_cast<int64_t>(bags.size());
  return bags_offset() + (num_bags == 0 ? 0 : RoundUp8(8 + 4 * num_bags));
}

bool RecordSchema::weighted() const {
  return std::any_of(bags.begin(), bags.end(),
                     [](const BagField& bag) { return bag.weighted; });
}

std::string SchemaToJson(const RecordSchema& schema) {
  nlohmann::json bags = nlohmann::json::array();
  for (const BagField& bag : schema.bags) {
    bags.push_back({{"name", bag.name},
                    {"pooling", bag.pooling},
                    {"weighted", bag.weighted}});
  }
  const nlohmann::json json = {{"task", schema.task},
                               {"classes", schema.classes},
                               {"labelled", schema.labelled},
                               {"numeric", schema.numeric},
                               {"categorical", schema.categorical},
                               {"bags", bags},
                               {"features", schema.features}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

StatusOr<RecordSchema> SchemaFromJson(std::string_view text) {
  RecordSchema schema;
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    json.at("task").get_to(schema.task);
    json.at("classes").get_to(schema.classes);
    json.at("labelled").get_to(schema.labelled);
    json.at("numeric").get_to(schema.numeric);
    json.at("categorical").get_to(schema.categorical);
    json.at("features").get_to(schema.features);
    for (const nlohmann::json& bag : json.at("bags")) {
      BagField field;
      bag.at("name").get_to(field.name);
      bag.at("pooling").get_to(field.pooling);
      bag.at("weighted").get_to(field.weighted);
      schema.bags.push_back(std::move(field));
    }
  } catch (const nlohmann::json::exception& error) {
    return InvalidArgumentError(StrCat("record schema: ", error.what()));
  }
  if (schema.numeric.size() > kFieldsMax ||
      schema.categorical.size() > kFieldsMax ||
      schema.bags.size() > kFieldsMax) {
    return InvalidArgumentError(
        StrCat("record schema: more than ", kFieldsMax, " fields"));
  }
  return schema;
}

}  // namespace shoal::worker
