#include "ps/checkpoint_manifest.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/strcat.h"
#include "ps/strict_json.h"

namespace shoal::ps {
namespace {

// What has a base is not read by versions that know of none.
constexpr int kFormatVersion = 2;
constexpr int kIncrementalFormatVersion = 3;

// What the manifest says of a file.
Json Describe(const ManifestPart& part) {
  Json json = {{"file", part.file.file},
               {"bytes", part.file.size_bytes},
               {"xxh3", part.file.checksum}};
  if (part.rows.has_value()) {
    json["rows"] = {part.rows->bits, part.rows->first, part.rows->last,
                    part.rows->stride};
  }
  return json;
}

}  // namespace

std::string DescribePart(const ManifestPart& part) {
  return Describe(part).dump();
}

namespace {

// What a manifest says, without its own checksum, always in the same bytes.
StatusOr<Json> DescribeManifest(const Manifest& manifest) {
  Json parts = Json::array();
  for (const ManifestPart& part : manifest.parts) {
    parts.push_back(Describe(part));
  }
  for (const auto& [key, text] : manifest.texts) {
    SHOAL_RETURN_IF_ERROR(
        DumpJson(Json::array({key, text}), StrCat("text '", key, "'"))
            .status());
  }
  Json json = {{"format", kFormatVersion},
               {"step", manifest.step},
               {"parts", std::move(parts)},
               {"texts", manifest.texts}};
  if (manifest.base.has_value()) {
    json["format"] = kIncrementalFormatVersion;
    json["base"] = {{"step", manifest.base->step},
                    {"xxh3", manifest.base->checksum}};
  }
  return json;
}

StatusOr<std::string> ManifestChecksum(const Json& described) {
  SHOAL_ASSIGN_OR_RETURN(const std::string text,
                         DumpJson(described, "a part's file name"));
  const Buffer bytes = Buffer::CopyOf(text);
  return Checksum({&bytes, 1});
}

std::optional<SlotSet> RowsOf(const Json& json) {
  if (!json.is_array() || json.size() != 4 ||
      !std::all_of(json.begin(), json.end(),
                   [](const Json& n) { return n.is_number_unsigned(); })) {
    return std::nullopt;
  }
  const SlotSet rows = {.bits = json[0].get<int>(),
                        .first = json[1].get<int64_t>(),
                        .last = json[2].get<int64_t>(),
                        .stride = json[3].get<int64_t>()};
  if (rows.bits < 1 || rows.bits > 24 || rows.first < 0 ||
      rows.last < rows.first || rows.last >= int64_t{1} << rows.bits ||
      rows.stride < 1 || rows.stride > int64_t{1} << rows.bits) {
    return std::nullopt;
  }
  return rows;
}

std::optional<ManifestBase> BaseOf(const Json& json) {
  if (!json.is_object() || !json.contains("step") ||
      !json["step"].is_number_unsigned() || !json.contains("xxh3") ||
      !json["xxh3"].is_string()) {
    return std::nullopt;
  }
  return ManifestBase{json["step"].get<int64_t>(),
                      json["xxh3"].get<std::string>()};
}

std::optional<ManifestPart> PartOf(const Json& json) {
  if (!json.is_object()) {
    return std::nullopt;
  }
  const auto file = json.find("file");
  const auto bytes = json.find("bytes");
  const auto checksum = json.find("xxh3");
  const auto rows = json.find("rows");
  if (file == json.end() || !file->is_string() || bytes == json.end() ||
      !bytes->is_number_unsigned() || checksum == json.end() ||
      !checksum->is_string()) {
    return std::nullopt;
  }
  ManifestPart part;
  part.file = {.file = file->get<std::string>(),
               .size_bytes = bytes->get<int64_t>(),
               .checksum = checksum->get<std::string>()};
  // A part lies in its checkpoint's folder and nowhere else.
  const std::string& name = part.file.file;
  if (name.empty() || name[0] == '.' || part.file.size_bytes < 0 ||
      name.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
    return std::nullopt;
  }
  if (rows != json.end()) {
    part.rows = RowsOf(*rows);
    if (!part.rows.has_value()) {
      return std::nullopt;
    }
  }
  return part;
}

}  // namespace

Status PublishManifest(Storage& storage, const std::string& folder,
                       int64_t step, const std::vector<std::string>& entries,
                       const std::map<std::string, std::string>& texts,
                       const std::optional<ManifestBase>& base,
                       std::string* checksum) {
  Manifest manifest = {.step = step, .base = base, .texts = texts};
  for (const std::string& entry : entries) {
    std::optional<ManifestPart> part = PartOf(ParseStrictly(entry));
    if (!part.has_value()) {
      return InvalidArgumentError(
          StrCat("a part of the checkpoint is described by '", entry, "'"));
    }
    manifest.parts.push_back(*std::move(part));
  }
  SHOAL_ASSIGN_OR_RETURN(Json json, DescribeManifest(manifest));
  SHOAL_ASSIGN_OR_RETURN(const std::string own, ManifestChecksum(json));
  json["xxh3"] = own;
  if (checksum != nullptr) {
    *checksum = own;
  }
  const Buffer text = Buffer::CopyOf(json.dump(1));
  return storage.PublishFile(StrCat(folder, "/", kManifestFile), {&text, 1});
}

StatusOr<Manifest> ReadManifest(Storage& storage, const std::string& folder) {
  const std::string path = StrCat(folder, "/", kManifestFile);
  SHOAL_ASSIGN_OR_RETURN(const Buffer file, storage.ReadFile(path));
  const Json json = ParseStrictly(file.text());
  const bool has_base = json.is_object() && json.contains("base");
  if (!json.is_object() ||
      json.value("format", Json()) !=
          (has_base ? kIncrementalFormatVersion : kFormatVersion) ||
      !json.contains("step") || !json["step"].is_number_unsigned() ||
      !json.contains("parts") || !json["parts"].is_array()) {
    return Damaged(path, "it is no manifest of this version");
  }
  Manifest manifest;
  manifest.step = json["step"].get<int64_t>();
  if (has_base) {
    manifest.base = BaseOf(json["base"]);
    if (!manifest.base.has_value() || manifest.base->step >= manifest.step) {
      return Damaged(path, "what it is based on is no earlier checkpoint");
    }
  }
  std::set<std::string> files;
  for (const Json& entry : json["parts"]) {
    std::optional<ManifestPart> part = PartOf(entry);
    if (!part.has_value() || !files.insert(part->file.file).second) {
      return Damaged(path, "one of its parts is not described, or twice");
    }
    manifest.parts.push_back(*std::move(part));
  }
  if (json.contains("texts") && json["texts"].is_object()) {
    for (const auto& [key, value] : json["texts"].items()) {
      if (value.is_string()) {
        manifest.texts[key] = value.get<std::string>();
      }
    }
  }
  SHOAL_ASSIGN_OR_RETURN(const Json described, DescribeManifest(manifest));
  SHOAL_ASSIGN_OR_RETURN(const std::string checksum,
                         ManifestChecksum(described));
  if (json.value("xxh3", Json()) != checksum) {
    return Damaged(path, "its checksum is not that of what it says");
  }
  manifest.checksum = checksum;
  return manifest;
}

namespace {

std::string Beside(const std::string& folder, const std::string& name) {
  if (folder == "." || folder.ends_with("..")) {
    return NormalPath(StrCat(folder, "/../", name));
  }
  const size_t slash = folder.rfind('/');
  return slash == std::string::npos ? name
                                    : StrCat(folder.substr(0, slash + 1), name);
}

}  // namespace

StatusOr<std::vector<ChainLink>> ReadChain(Storage& storage,
                                           const std::string& folder) {
  std::vector<ChainLink> links(1);
  links[0].folder = NormalPath(folder);
  SHOAL_ASSIGN_OR_RETURN(links[0].manifest,
                         ReadManifest(storage, links[0].folder));
  while (links.back().manifest.base.has_value()) {
    const ChainLink& last = links.back();
    const ManifestBase& base = *last.manifest.base;
    ChainLink next;
    next.folder = Beside(last.folder, StrCat("step-", base.step));
    StatusOr<Manifest> manifest = ReadManifest(storage, next.folder);
    const std::string which =
        StrCat(last.folder, " is incremental, and what it is based on, ",
               next.folder, ", ");
    if (manifest.status().code() == StatusCode::kNotFound) {
      return DataLossError(which + "is missing");
    }
    SHOAL_RETURN_IF_ERROR(
        manifest.status().WithPrefix(which + "can't be read"));
    if (manifest->step != base.step || manifest->checksum != base.checksum) {
      return DataLossError(which + "is another checkpoint than it was");
    }
    next.manifest = *std::move(manifest);
    links.push_back(std::move(next));
  }
  return links;
}

}  // namespace shoal::ps
