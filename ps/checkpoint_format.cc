#include "ps/checkpoint_format.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/strcat.h"
#include "ps/checkpoint_parts.h"
#include "ps/strict_json.h"

namespace shoal::ps {
namespace {

constexpr int kFormatVersion = 2;
constexpr char kManifestFile[] = "manifest.json";

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

bool HasSlot(const ShardState& state, int64_t slot) {
  return state.slots == nullptr || (*state.slots)[static_cast<size_t>(slot)];
}

}  // namespace

std::string ChunkPrefix(const ModelSpec& model, const DenseChunk& chunk) {
  return StrCat(model.variables[static_cast<size_t>(chunk.variable)].name, "@",
                chunk.first);
}

TableForm FormOf(const SparseTable& table) {
  return {.dim = table.dim(),
          .state_floats = table.state_floats(),
          .format = table.format()};
}

SlotSet SlotsOf(const ShardState& state) {
  std::vector<int64_t> slots;
  for (int64_t slot = 0; slot < int64_t{1} << state.slot_bits; ++slot) {
    if (HasSlot(state, slot)) {
      slots.push_back(slot);
    }
  }
  SlotSet set = {.bits = state.slot_bits};
  if (slots.empty()) {
    return set;
  }
  set.first = slots.front();
  set.last = slots.back();
  set.stride = slots.size() > 1 ? slots[1] - slots[0] : 1;
  for (size_t i = 1; i < slots.size(); ++i) {
    if (slots[i] - slots[i - 1] != set.stride) {
      set.stride = 1;
      break;
    }
  }
  return set;
}

std::string DescribePart(const ManifestPart& part) {
  return Describe(part).dump();
}

SlotSet SlotsOfRows(SlotSet slots, std::span<const uint64_t> ids) {
  slots.first = SlotOfHash(IdHash(ids.front()), slots.bits);
  slots.last = SlotOfHash(IdHash(ids.back()), slots.bits);
  return slots;
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
  return Json{{"format", kFormatVersion},
              {"step", manifest.step},
              {"parts", std::move(parts)},
              {"texts", manifest.texts}};
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
                       const std::map<std::string, std::string>& texts) {
  Manifest manifest = {.step = step, .parts = {}, .texts = texts};
  for (const std::string& entry : entries) {
    std::optional<ManifestPart> part = PartOf(ParseStrictly(entry));
    if (!part.has_value()) {
      return InvalidArgumentError(
          StrCat("a part of the checkpoint is described by '", entry, "'"));
    }
    manifest.parts.push_back(*std::move(part));
  }
  SHOAL_ASSIGN_OR_RETURN(Json json, DescribeManifest(manifest));
  SHOAL_ASSIGN_OR_RETURN(json["xxh3"], ManifestChecksum(json));
  const Buffer text = Buffer::CopyOf(json.dump(1));
  return storage.PublishFile(StrCat(folder, "/", kManifestFile), {&text, 1});
}

StatusOr<Manifest> ReadManifest(Storage& storage, const std::string& folder) {
  const std::string path = StrCat(folder, "/", kManifestFile);
  SHOAL_ASSIGN_OR_RETURN(const Buffer file, storage.ReadFile(path));
  const Json json = ParseStrictly(file.text());
  if (!json.is_object() || json.value("format", Json()) != kFormatVersion ||
      !json.contains("step") || !json["step"].is_number_unsigned() ||
      !json.contains("parts") || !json["parts"].is_array()) {
    return Damaged(path, "it is no manifest of this version");
  }
  Manifest manifest;
  manifest.step = json["step"].get<int64_t>();
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
  return manifest;
}

namespace {

// The rows of `table` in a file, if they fit it.
StatusOr<TableTensors> FitTable(const std::string& file, const Tensors& tensors,
                                const SparseTable& table) {
  SHOAL_ASSIGN_OR_RETURN(const TableTensors from,
                         TableOf(tensors, file, table.name()));
  if (from.form.dim != table.dim() ||
      from.form.state_floats != table.state_floats()) {
    return FailedPreconditionError(
        StrCat("table '", table.name(), "' has dim ", from.form.dim, " and ",
               from.form.state_floats, " floats of state in ", file,
               ", but dim ", table.dim(), " and ", table.state_floats(),
               " in this job: is it of another model, optimizer or eviction?"));
  }
  if (from.form.format != table.format()) {
    return FailedPreconditionError(
        StrCat("table '", table.name(), "' has rows in ",
               Name(from.form.format), " in ", file, ", but in ",
               Name(table.format()), " in this job: set tables.", table.name(),
               ".format to ", Name(from.form.format)));
  }
  return from;
}

struct FittingChunk {
  size_t chunk = 0;  // of the store
  std::span<const float> values;
  std::span<const float> state;
};

// Chunk number `chunk` of the shard in a part, if it is there and fits.
StatusOr<std::optional<FittingChunk>> FitChunk(const std::string& file,
                                               const Tensors& tensors,
                                               const ShardState& state,
                                               size_t chunk) {
  const std::string prefix = ChunkPrefix(*state.model, state.chunks[chunk]);
  const size_t held = state.dense->Find(state.chunks[chunk]);
  const auto values = tensors.find(StrCat(prefix, "/values"));
  const auto states = tensors.find(StrCat(prefix, "/state"));
  if (values == tensors.end() || states == tensors.end()) {
    return std::optional<FittingChunk>();
  }
  if (values->second.dtype != "F32" || states->second.dtype != "F32") {
    return Damaged(file, StrCat("chunk '", prefix, "' is not F32"));
  }
  const std::optional<FittingChunk> found =
      FittingChunk{.chunk = held,
                   .values = values->second.data.As<float>(),
                   .state = states->second.data.As<float>()};
  if (found->values.size() != state.dense->values(held).size() ||
      found->state.size() != state.dense->state(held).size()) {
    return FailedPreconditionError(
        StrCat("variable chunk '", prefix, "' has another size in ", file,
               " than in this job: is it of another model or optimizer?"));
  }
  return found;
}

void LoadRows(const TableTensors& from, const ShardState& state,
              SparseTable& table) {
  const auto is_here = [&](size_t i) {
    return HasSlot(state, SlotOfHash(IdHash(from.ids[i]), state.slot_bits));
  };
  // Rows of a slot lie together, and so do those of slots that do.
  for (size_t begin = 0, end = 0; begin < from.ids.size(); begin = end + 1) {
    for (end = begin; end < from.ids.size() && is_here(end);) {
      ++end;
    }
    const size_t n = end - begin;
    if (n > 0) {
      table.Load(std::span(from.ids).subspan(begin, n),
                 {from.values_of(begin).data(),
                  n * static_cast<size_t>(table.value_bytes())},
                 {from.state_of(begin).data(),
                  n * static_cast<size_t>(table.state_floats())});
    }
  }
}

// Loads a shard from the files of a checkpoint, one by one.
class PartsLoader {
 public:
  PartsLoader(Storage& storage, std::string folder, const ShardState& state)
      : storage_(storage), folder_(std::move(folder)), state_(state) {
    for (size_t c = 0; c < state.chunks.size(); ++c) {
      missing_chunks_.insert(c);
    }
    for (const auto& table : state.tables) {
      missing_tables_.insert(table->name());
    }
  }

  Status Load(const Manifest& manifest) {
    for (const ManifestPart& part : manifest.parts) {
      if (!part.rows.has_value()) {
        SHOAL_RETURN_IF_ERROR(LoadPart(part));
      }
    }
    if (!missing_chunks_.empty()) {
      return Missing(StrCat(
          "variable chunk '",
          ChunkPrefix(*state_.model, state_.chunks[*missing_chunks_.begin()]),
          "'"));
    }
    if (!missing_tables_.empty()) {
      return Missing(StrCat("table '", *missing_tables_.begin(), "'"));
    }
    const SlotSet slots = SlotsOf(state_);
    for (const ManifestPart& part : manifest.parts) {
      if (part.rows.has_value() && !state_.tables.empty() &&
          part.rows->Meets(slots)) {
        SHOAL_RETURN_IF_ERROR(LoadPart(part));
      }
    }
    return OkStatus();
  }

 private:
  Status Missing(const std::string& what) const {
    return NotFoundError(
        StrCat(folder_, " has no ", what, ": is it of another model?"));
  }

  // Takes what is the shard's from one file.
  Status LoadPart(const ManifestPart& part) {
    SHOAL_ASSIGN_OR_RETURN(const Tensors tensors,
                           ReadTensors(storage_, folder_, part.file));
    const std::string path = StrCat(folder_, "/", part.file.file);
    std::vector<std::pair<SparseTable*, TableTensors>> rows;
    for (const auto& table : state_.tables) {
      if (!tensors.contains(StrCat(table->name(), "/ids"))) {
        continue;
      }
      SHOAL_ASSIGN_OR_RETURN(const TableTensors from,
                             FitTable(path, tensors, *table));
      rows.emplace_back(table.get(), from);
    }
    std::vector<std::pair<size_t, FittingChunk>> chunks;
    for (const size_t chunk : missing_chunks_) {
      SHOAL_ASSIGN_OR_RETURN(const std::optional<FittingChunk> found,
                             FitChunk(path, tensors, state_, chunk));
      if (found.has_value()) {
        chunks.emplace_back(chunk, *found);
      }
    }
    // All of the file fits: from here on only room can be missing.
    for (const auto& [table, from] : rows) {
      LoadRows(from, state_, *table);
      missing_tables_.erase(table->name());
    }
    for (const auto& [chunk, from] : chunks) {
      state_.dense->Load(from.chunk, from.values, from.state);
      missing_chunks_.erase(chunk);
    }
    return state_.check == nullptr ? OkStatus() : state_.check();
  }

  Storage& storage_;
  const std::string folder_;
  const ShardState& state_;
  std::set<size_t> missing_chunks_;
  std::set<std::string> missing_tables_;
};

}  // namespace

Status LoadParts(Storage& storage, const std::string& folder,
                 const ShardState& state) {
  SHOAL_ASSIGN_OR_RETURN(const Manifest manifest,
                         ReadManifest(storage, folder));
  return PartsLoader(storage, folder, state).Load(manifest);
}

Status CheckEmptyFolder(Storage& storage, const std::string& folder) {
  const StatusOr<std::vector<std::string>> names = storage.ListFolder(folder);
  if (names.status().code() == StatusCode::kNotFound) {
    return OkStatus();
  }
  SHOAL_RETURN_IF_ERROR(names.status());
  return names->empty() ? OkStatus()
                        : FailedPreconditionError(
                              StrCat(folder, " is not empty ('", names->front(),
                                     "' is there): choose another folder"));
}

std::optional<int64_t> StepOfFolder(const std::string& name) {
  const std::string prefix = "step-";
  if (name.compare(0, prefix.size(), prefix) != 0 ||
      name.size() == prefix.size() || name.size() > prefix.size() + 18 ||
      name.find_first_not_of("0123456789", prefix.size()) !=
          std::string::npos) {
    return std::nullopt;
  }
  return std::stoll(name.substr(prefix.size()));
}

StatusOr<std::vector<int64_t>> ListCheckpoints(Storage& storage,
                                               const std::string& parent) {
  SHOAL_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         storage.ListFolder(parent));
  std::vector<int64_t> steps;
  for (const std::string& name : names) {
    const std::optional<int64_t> step = StepOfFolder(name);
    if (!step.has_value()) {
      continue;
    }
    const Status read =
        ReadManifest(storage, StrCat(parent, "/", name)).status();
    if (read.ok()) {
      steps.push_back(*step);
    } else if (read.code() == StatusCode::kUnavailable) {
      return read;  // Whether it is one is not known.
    }
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

Status RemoveCheckpoint(Storage& storage, const std::string& folder) {
  SHOAL_RETURN_IF_ERROR(storage.Remove(StrCat(folder, "/", kManifestFile)));
  return storage.Remove(folder);
}

Status PruneCheckpoints(Storage& storage, const std::string& parent, int kept) {
  SHOAL_ASSIGN_OR_RETURN(const std::vector<int64_t> steps,
                         ListCheckpoints(storage, parent));
  for (size_t i = 0; i + static_cast<size_t>(kept) < steps.size(); ++i) {
    SHOAL_RETURN_IF_ERROR(
        RemoveCheckpoint(storage, StrCat(parent, "/step-", steps[i])));
  }
  return OkStatus();
}

namespace {

// An older checkpoint does not quietly stand in for a newer one that can't be
// read.
Status CheckNoneDamaged(Storage& storage, const std::string& parent,
                        int64_t newest_good) {
  SHOAL_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         storage.ListFolder(parent));
  for (const std::string& name : names) {
    const std::optional<int64_t> step = StepOfFolder(name);
    if (!step.has_value() || *step <= newest_good) {
      continue;
    }
    const Status read =
        ReadManifest(storage, StrCat(parent, "/", name)).status();
    if (!read.ok() && read.code() != StatusCode::kNotFound) {
      return Status(
          read.code(),
          StrCat(read.message(),
                 newest_good < 0 ? "; there is none beside it"
                                 : StrCat("; the newest that can be read is ",
                                          parent, "/step-", newest_good,
                                          ": name that folder to use it")));
    }
  }
  return OkStatus();
}

}  // namespace

StatusOr<std::string> FindCheckpoint(Storage& storage,
                                     const std::string& given) {
  // "out/", "./out" and "out" are spelled alike from here on.
  const std::string path = NormalPath(given);
  const StatusOr<Manifest> here = ReadManifest(storage, path);
  if (here.ok()) {
    return path;
  }
  if (here.status().code() != StatusCode::kNotFound) {
    return here.status();
  }
  for (const std::string& parent : {path, StrCat(path, "/checkpoints")}) {
    const StatusOr<std::vector<int64_t>> steps =
        ListCheckpoints(storage, parent);
    if (steps.status().code() == StatusCode::kNotFound) {
      continue;
    }
    SHOAL_RETURN_IF_ERROR(steps.status());
    SHOAL_RETURN_IF_ERROR(
        CheckNoneDamaged(storage, parent, steps->empty() ? -1 : steps->back()));
    if (!steps->empty()) {
      return StrCat(parent, "/step-", steps->back());
    }
  }
  return NotFoundError(StrCat("there is no checkpoint in ", path,
                              ": it is no step-N folder with a manifest, and "
                              "has none in it or in its folder checkpoints"));
}

namespace {

class DigestSum {
 public:
  void Add(const std::string& kind, const std::string& name, uint64_t number,
           std::span<const std::byte> values, std::span<const float> state) {
    bytes_.assign(kind);
    bytes_ += '\0';
    bytes_ += name;
    bytes_ += '\0';
    bytes_.append(reinterpret_cast<const char*>(&number), sizeof(number));
    bytes_.append(reinterpret_cast<const char*>(values.data()),
                  values.size_bytes());
    bytes_.append(reinterpret_cast<const char*>(state.data()),
                  state.size_bytes());
    const XXH128_hash_t hash = XXH3_128bits(bytes_.data(), bytes_.size());
    sum_ += (static_cast<unsigned __int128>(hash.high64) << 64) | hash.low64;
  }
  std::string ToString() const {
    return HexOf(static_cast<uint64_t>(sum_ >> 64)) +
           HexOf(static_cast<uint64_t>(sum_));
  }

 private:
  std::string bytes_;
  unsigned __int128 sum_ = 0;
};

}  // namespace

Status VerifyCheckpoint(Storage& storage, const std::string& folder) {
  return DigestCheckpoint(storage, folder).status();
}

StatusOr<std::string> DigestCheckpoint(Storage& storage,
                                       const std::string& folder) {
  SHOAL_ASSIGN_OR_RETURN(const Manifest manifest,
                         ReadManifest(storage, folder));
  DigestSum digest;
  for (const ManifestPart& part : manifest.parts) {
    SHOAL_ASSIGN_OR_RETURN(const Tensors tensors,
                           ReadTensors(storage, folder, part.file));
    SHOAL_RETURN_IF_ERROR(VisitPart(
        StrCat(folder, "/", part.file.file), tensors,
        [&](const std::string& name, const TableTensors& table) {
          for (size_t i = 0; i < table.ids.size(); ++i) {
            digest.Add("row", name, table.ids[i], table.values_of(i),
                       table.state_of(i));
          }
          return OkStatus();
        },
        [&](const ChunkName& name, const ChunkTensors& chunk) {
          digest.Add("chunk", name.variable, static_cast<uint64_t>(name.first),
                     chunk.values.As<std::byte>(), chunk.state.As<float>());
          return OkStatus();
        }));
  }
  return digest.ToString();
}

}  // namespace shoal::ps
