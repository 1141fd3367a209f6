#include "ps/checkpoint_format.h"

#include <xxhash.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/strcat.h"
#include "ps/slots.h"

namespace shoal::ps {
namespace {

using Json = nlohmann::json;

constexpr int kFormatVersion = 1;
constexpr uint64_t kHeaderBytesMax = uint64_t{256} << 20;
constexpr char kManifestFile[] = "manifest.json";

std::string Hex(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx",
                static_cast<unsigned long long>(value));
  return text;
}

// Text that is not UTF-8 can't be kept in JSON.
StatusOr<std::string> Dump(const Json& json, const std::string& what) {
  try {
    return json.dump();
  } catch (const Json::exception& error) {
    return InvalidArgumentError(
        StrCat("checkpoint: ", what, " is not valid UTF-8: ", error.what()));
  }
}

// Discarded if it is no JSON or an object names a key twice (JSON libraries
// differ in which one they take).
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

std::string Checksum(std::span<const Buffer> pieces) {
  XXH3_state_t* state = XXH3_createState();
  XXH3_64bits_reset(state);
  for (const Buffer& piece : pieces) {
    XXH3_64bits_update(state, piece.data(), static_cast<size_t>(piece.size()));
  }
  const uint64_t hash = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  return Hex(hash);
}

// Gathers tensors, then writes them behind a header that names them. Readers
// of safetensors refuse holes, so alignment comes from the order: all 8-byte
// elements first.
class PartWriter {
 public:
  void Add(const std::string& name, const char* dtype,
           std::vector<int64_t> shape, Buffer data) {
    auto& group = std::string_view(dtype) == "U64" ? wide_ : narrow_;
    group.push_back({name, dtype, std::move(shape), std::move(data)});
  }

  StatusOr<CheckpointPart> Publish(Storage& storage, const std::string& folder,
                                   const std::string& file) {
    Json header = {
        {"__metadata__",
         {{"writer", "shoal"}, {"version", StrCat(kFormatVersion)}}}};
    std::vector<Buffer> pieces(1);
    int64_t offset = 0;
    for (auto* group : {&wide_, &narrow_}) {
      for (Item& item : *group) {
        const int64_t end = offset + item.data.size();
        header[item.name] = {{"dtype", item.dtype},
                             {"shape", item.shape},
                             {"data_offsets", {offset, end}}};
        offset = end;
        pieces.push_back(std::move(item.data));
      }
    }
    SHOAL_ASSIGN_OR_RETURN(std::string text,
                           Dump(header, "the name of a table or variable"));
    text.resize((text.size() + 7) / 8 * 8, ' ');
    const auto length = static_cast<uint64_t>(text.size());
    std::string start(reinterpret_cast<const char*>(&length), sizeof(length));
    start += text;
    pieces[0] = Buffer::CopyOf(start);
    SHOAL_RETURN_IF_ERROR(
        storage.PublishFile(StrCat(folder, "/", file), pieces));
    return CheckpointPart{
        .file = file,
        .size_bytes = offset + static_cast<int64_t>(start.size()),
        .checksum = Checksum(pieces)};
  }

 private:
  struct Item {
    std::string name;
    const char* dtype;
    std::vector<int64_t> shape;
    Buffer data;
  };
  std::vector<Item> wide_;
  std::vector<Item> narrow_;
};

Buffer FloatBuffer(std::span<const float> values) {
  return Buffer::CopyOf(values.data(),
                        static_cast<int64_t>(values.size_bytes()));
}

// One tensor of a part that was read.
struct Tensor {
  std::string dtype;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // in the file's data
  Buffer data;
};

Status Damaged(const std::string& file, const std::string& why) {
  return DataLossError(StrCat(file, " is damaged: ", why));
}

StatusOr<Tensor> ReadTensor(const std::string& file, const std::string& name,
                            const Json& entry, const Buffer& data) {
  const auto dtype = entry.find("dtype");
  const auto shape = entry.find("shape");
  const auto offsets = entry.find("data_offsets");
  if (dtype == entry.end() || !dtype->is_string() || shape == entry.end() ||
      !shape->is_array() || offsets == entry.end() || !offsets->is_array() ||
      offsets->size() != 2) {
    return Damaged(file, StrCat("tensor '", name, "' is not described"));
  }
  Tensor tensor;
  tensor.dtype = dtype->get<std::string>();
  const int64_t width = tensor.dtype == "U64"   ? 8
                        : tensor.dtype == "F32" ? 4
                                                : 0;
  int64_t bytes = width;
  for (const Json& dim : *shape) {
    if (!dim.is_number_unsigned() || dim.get<int64_t>() < 0 ||
        __builtin_mul_overflow(bytes, dim.get<int64_t>(), &bytes)) {
      return Damaged(file, StrCat("tensor '", name, "' has no valid shape"));
    }
    tensor.shape.push_back(dim.get<int64_t>());
  }
  if (!(*offsets)[0].is_number_unsigned() ||
      !(*offsets)[1].is_number_unsigned()) {
    return Damaged(file, StrCat("tensor '", name, "' has no valid offsets"));
  }
  const auto begin = (*offsets)[0].get<uint64_t>();
  const auto end = (*offsets)[1].get<uint64_t>();
  if (width == 0 || begin > end || end > static_cast<uint64_t>(data.size()) ||
      end - begin != static_cast<uint64_t>(bytes) || begin % 4 != 0) {
    return Damaged(file, StrCat("tensor '", name,
                                "' lies outside of the file "
                                "or has another size than its shape"));
  }
  tensor.begin = begin;
  tensor.data = data.Slice(static_cast<int64_t>(begin), bytes);
  return tensor;
}

using Tensors = std::map<std::string, Tensor>;

// The tensors lie one after another: no byte is unnamed or named twice.
Status CheckCover(const std::string& file, const Tensors& tensors,
                  uint64_t data_bytes) {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [name, tensor] : tensors) {
    ranges.emplace_back(
        tensor.begin, tensor.begin + static_cast<uint64_t>(tensor.data.size()));
  }
  std::sort(ranges.begin(), ranges.end());
  uint64_t at = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin != at) {
      return Damaged(file, StrCat("its tensors leave a hole or overlap at "
                                  "byte ",
                                  at, " of the data"));
    }
    at = end;
  }
  if (at != data_bytes) {
    return Damaged(file, "there is something behind its last tensor");
  }
  return OkStatus();
}

StatusOr<Tensors> ReadPart(Storage& storage, const std::string& folder,
                           const CheckpointPart& part) {
  const std::string path = StrCat(folder, "/", part.file);
  SHOAL_ASSIGN_OR_RETURN(const Buffer file, storage.ReadFile(path));
  if (file.size() != part.size_bytes) {
    return Damaged(
        path, StrCat("it has ", file.size(), " bytes, not ", part.size_bytes));
  }
  if (Checksum({&file, 1}) != part.checksum) {
    return Damaged(path, "its checksum is not the manifest's");
  }
  uint64_t length = 0;
  if (file.size() < 8) {
    return Damaged(path, "it has no header");
  }
  std::memcpy(&length, file.data(), sizeof(length));
  if (length > kHeaderBytesMax ||
      length > static_cast<uint64_t>(file.size()) - 8 || length % 8 != 0) {
    return Damaged(path, "its header has no valid length");
  }
  const auto header_bytes = static_cast<int64_t>(length);
  const Json header = ParseStrictly(file.text().substr(8, length));
  if (!header.is_object()) {
    return Damaged(path, "its header is not JSON or has a name twice");
  }
  const Buffer data =
      file.Slice(8 + header_bytes, file.size() - 8 - header_bytes);
  Tensors tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      continue;
    }
    SHOAL_ASSIGN_OR_RETURN(Tensor tensor, ReadTensor(path, name, entry, data));
    tensors.emplace(name, std::move(tensor));
  }
  SHOAL_RETURN_IF_ERROR(
      CheckCover(path, tensors, static_cast<uint64_t>(data.size())));
  return tensors;
}

struct TableTensors {
  std::span<const uint64_t> ids;
  std::span<const float> values;
  std::span<const float> state;
  int64_t dim = 0;
  int64_t state_floats = 0;
};

// The three tensors of a table, whose sizes agree and whose ids rise by
// IdHash(), so that none is there twice.
StatusOr<TableTensors> TableOf(const Tensors& tensors, const std::string& file,
                               const std::string& name) {
  const auto find = [&](const char* what, const char* dtype,
                        size_t rank) -> StatusOr<const Tensor*> {
    const auto it = tensors.find(StrCat(name, "/", what));
    if (it == tensors.end() || it->second.dtype != dtype ||
        it->second.shape.size() != rank) {
      return Damaged(file, StrCat("'", name, "/", what, "' is missing or not ",
                                  dtype, " of rank ", rank));
    }
    return &it->second;
  };
  SHOAL_ASSIGN_OR_RETURN(const Tensor* ids, find("ids", "U64", 1));
  SHOAL_ASSIGN_OR_RETURN(const Tensor* values, find("values", "F32", 2));
  SHOAL_ASSIGN_OR_RETURN(const Tensor* state, find("state", "F32", 2));
  TableTensors table;
  table.ids = ids->data.As<uint64_t>();
  table.values = values->data.As<float>();
  table.state = state->data.As<float>();
  table.dim = values->shape[1];
  table.state_floats = state->shape[1];
  if (values->shape[0] != ids->shape[0] || state->shape[0] != ids->shape[0] ||
      static_cast<int64_t>(table.ids.size()) != ids->shape[0]) {
    return Damaged(file, StrCat("the tensors of table '", name,
                                "' have different numbers of rows, or its "
                                "ids are not aligned"));
  }
  for (size_t i = 1; i < table.ids.size(); ++i) {
    if (IdHash(table.ids[i - 1]) >= IdHash(table.ids[i])) {
      return Damaged(file, StrCat("row ", i, " of table '", name,
                                  "' repeats an id or is not in the order of "
                                  "slots"));
    }
  }
  return table;
}

// "deep/0/w@16384/values" -> {"deep/0/w", 16384}.
struct ChunkName {
  std::string variable;
  int64_t first = 0;
};
std::optional<ChunkName> ParseChunkName(const std::string& name) {
  const std::string suffix = "/values";
  const size_t at = name.rfind('@');
  if (at == std::string::npos || name.size() < suffix.size() ||
      name.compare(name.size() - suffix.size(), suffix.size(), suffix) != 0) {
    return std::nullopt;
  }
  const std::string digits =
      name.substr(at + 1, name.size() - suffix.size() - at - 1);
  if (digits.empty() || digits.size() > 18 ||
      digits.find_first_not_of("0123456789") != std::string::npos) {
    return std::nullopt;
  }
  return ChunkName{name.substr(0, at), std::stoll(digits)};
}

std::string ChunkPrefix(const ModelSpec& model, const DenseChunk& chunk) {
  return StrCat(model.variables[static_cast<size_t>(chunk.variable)].name, "@",
                chunk.first);
}

}  // namespace

StatusOr<std::string> SavePart(Storage& storage, const std::string& folder,
                               const std::string& file,
                               const ShardState& state) {
  PartWriter writer;
  for (const auto& table : state.tables) {
    const int64_t n = table->num_rows();
    const int64_t dim = table->dim();
    const int64_t s = table->state_floats();
    Buffer ids = Buffer::Allocate(n * 8);
    Buffer values = Buffer::Allocate(n * dim * 4);
    Buffer states = Buffer::Allocate(n * s * 4);
    auto* next_id = ids.MutableAs<uint64_t>().data();
    auto* next_values = values.MutableAs<float>().data();
    auto* next_state = states.MutableAs<float>().data();
    table->ForEach([&](uint64_t id, const float* row) {
      *next_id++ = id;
      next_values = std::copy_n(row, dim, next_values);
      next_state = std::copy_n(row + dim, s, next_state);
    });
    writer.Add(StrCat(table->name(), "/ids"), "U64", {n}, std::move(ids));
    writer.Add(StrCat(table->name(), "/values"), "F32", {n, dim},
               std::move(values));
    writer.Add(StrCat(table->name(), "/state"), "F32", {n, s},
               std::move(states));
  }
  for (size_t c = 0; c < state.dense->chunks().size(); ++c) {
    const std::string prefix =
        ChunkPrefix(*state.model, state.dense->chunks()[c]);
    const auto values = state.dense->values(c);
    const auto states = state.dense->state(c);
    writer.Add(StrCat(prefix, "/values"), "F32",
               {static_cast<int64_t>(values.size())}, FloatBuffer(values));
    writer.Add(StrCat(prefix, "/state"), "F32",
               {static_cast<int64_t>(states.size())}, FloatBuffer(states));
  }
  SHOAL_ASSIGN_OR_RETURN(const CheckpointPart part,
                         writer.Publish(storage, folder, file));
  return Json{
      {"file", part.file}, {"bytes", part.size_bytes}, {"xxh3", part.checksum}}
      .dump();
}

namespace {

// What a manifest says, without its own checksum, always in the same bytes.
StatusOr<Json> DescribeManifest(const Manifest& manifest) {
  Json parts = Json::array();
  for (const CheckpointPart& part : manifest.parts) {
    parts.push_back({{"file", part.file},
                     {"bytes", part.size_bytes},
                     {"xxh3", part.checksum}});
  }
  for (const auto& [key, text] : manifest.texts) {
    SHOAL_RETURN_IF_ERROR(
        Dump(Json::array({key, text}), StrCat("text '", key, "'")).status());
  }
  return Json{{"format", kFormatVersion},
              {"step", manifest.step},
              {"parts", std::move(parts)},
              {"texts", manifest.texts}};
}

StatusOr<std::string> ManifestChecksum(const Json& described) {
  SHOAL_ASSIGN_OR_RETURN(const std::string text,
                         Dump(described, "a part's file name"));
  const Buffer bytes = Buffer::CopyOf(text);
  return Checksum({&bytes, 1});
}

std::optional<CheckpointPart> PartOf(const Json& json) {
  if (!json.is_object()) {
    return std::nullopt;
  }
  const auto file = json.find("file");
  const auto bytes = json.find("bytes");
  const auto checksum = json.find("xxh3");
  if (file == json.end() || !file->is_string() || bytes == json.end() ||
      !bytes->is_number_unsigned() || checksum == json.end() ||
      !checksum->is_string()) {
    return std::nullopt;
  }
  CheckpointPart part = {.file = file->get<std::string>(),
                         .size_bytes = bytes->get<int64_t>(),
                         .checksum = checksum->get<std::string>()};
  // A part lies in its checkpoint's folder and nowhere else.
  if (part.file.empty() || part.file[0] == '.' || part.size_bytes < 0 ||
      part.file.find_first_of(std::string_view("/\\\0", 3)) !=
          std::string::npos) {
    return std::nullopt;
  }
  return part;
}

}  // namespace

Status PublishManifest(Storage& storage, const std::string& folder,
                       int64_t step, const std::vector<std::string>& entries,
                       const std::map<std::string, std::string>& texts) {
  Manifest manifest = {.step = step, .parts = {}, .texts = texts};
  for (const std::string& entry : entries) {
    std::optional<CheckpointPart> part = PartOf(ParseStrictly(entry));
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
    std::optional<CheckpointPart> part = PartOf(entry);
    if (!part.has_value() || !files.insert(part->file).second) {
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

// The rows of `table` in a part, if they fit it.
StatusOr<TableTensors> FitTable(const std::string& file, const Tensors& tensors,
                                const SparseTable& table) {
  SHOAL_ASSIGN_OR_RETURN(const TableTensors from,
                         TableOf(tensors, file, table.name()));
  if (from.dim != table.dim() || from.state_floats != table.state_floats()) {
    return FailedPreconditionError(
        StrCat("table '", table.name(), "' has dim ", from.dim, " and ",
               from.state_floats, " floats of state in ", file, ", but dim ",
               table.dim(), " and ", table.state_floats(),
               " in this job: is it of another model or optimizer?"));
  }
  return from;
}

struct ChunkTensors {
  size_t chunk = 0;  // of the store
  std::span<const float> values;
  std::span<const float> state;
};

// Chunk number `chunk` of the shard in a part, if it is there and fits.
StatusOr<std::optional<ChunkTensors>> FitChunk(const std::string& file,
                                               const Tensors& tensors,
                                               const ShardState& state,
                                               size_t chunk) {
  const std::string prefix =
      ChunkPrefix(*state.model, state.dense->chunks()[chunk]);
  const auto values = tensors.find(StrCat(prefix, "/values"));
  const auto states = tensors.find(StrCat(prefix, "/state"));
  if (values == tensors.end() || states == tensors.end()) {
    return std::optional<ChunkTensors>();
  }
  if (values->second.dtype != "F32" || states->second.dtype != "F32") {
    return Damaged(file, StrCat("chunk '", prefix, "' is not F32"));
  }
  const std::optional<ChunkTensors> found =
      ChunkTensors{.chunk = chunk,
                   .values = values->second.data.As<float>(),
                   .state = states->second.data.As<float>()};
  if (found->values.size() != state.dense->values(chunk).size() ||
      found->state.size() != state.dense->state(chunk).size()) {
    return FailedPreconditionError(
        StrCat("variable chunk '", prefix, "' has another size in ", file,
               " than in this job: is it of another model or optimizer?"));
  }
  return found;
}

void LoadRows(const TableTensors& from, FunctionRef<bool(uint64_t)> owns,
              SparseTable& table) {
  const auto dim = static_cast<size_t>(from.dim);
  const auto s = static_cast<size_t>(from.state_floats);
  for (size_t i = 0; i < from.ids.size(); ++i) {
    if (owns(from.ids[i])) {
      table.Load(from.ids[i], from.values.subspan(i * dim, dim),
                 from.state.subspan(i * s, s));
    }
  }
}

// Takes what is owned from one part and drops its chunks from `missing`.
Status LoadPart(const std::string& file, const Tensors& tensors,
                FunctionRef<bool(uint64_t)> owns, const ShardState& state,
                std::set<size_t>& missing) {
  std::vector<TableTensors> rows;
  for (const auto& table : state.tables) {
    SHOAL_ASSIGN_OR_RETURN(const TableTensors from,
                           FitTable(file, tensors, *table));
    rows.push_back(from);
  }
  std::vector<ChunkTensors> chunks;
  for (const size_t chunk : missing) {
    SHOAL_ASSIGN_OR_RETURN(const std::optional<ChunkTensors> found,
                           FitChunk(file, tensors, state, chunk));
    if (found.has_value()) {
      chunks.push_back(*found);
    }
  }
  // All of the part fits: from here on nothing fails.
  for (size_t t = 0; t < rows.size(); ++t) {
    LoadRows(rows[t], owns, *state.tables[t]);
  }
  for (const ChunkTensors& chunk : chunks) {
    state.dense->Load(chunk.chunk, chunk.values, chunk.state);
    missing.erase(chunk.chunk);
  }
  return OkStatus();
}

}  // namespace

Status LoadParts(Storage& storage, const std::string& folder,
                 FunctionRef<bool(uint64_t)> owns, const ShardState& state) {
  SHOAL_ASSIGN_OR_RETURN(const Manifest manifest,
                         ReadManifest(storage, folder));
  std::set<size_t> missing;
  for (size_t c = 0; c < state.dense->chunks().size(); ++c) {
    missing.insert(c);
  }
  for (const CheckpointPart& part : manifest.parts) {
    SHOAL_ASSIGN_OR_RETURN(const Tensors tensors,
                           ReadPart(storage, folder, part));
    SHOAL_RETURN_IF_ERROR(LoadPart(StrCat(folder, "/", part.file), tensors,
                                   owns, state, missing));
  }
  if (!missing.empty()) {
    return NotFoundError(StrCat(
        folder, " has no variable chunk '",
        ChunkPrefix(*state.model, state.dense->chunks()[*missing.begin()]),
        "': is it of another model?"));
  }
  return OkStatus();
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
    if (step.has_value() &&
        ReadManifest(storage, StrCat(parent, "/", name)).ok()) {
      steps.push_back(*step);
    }
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

Status PruneCheckpoints(Storage& storage, const std::string& parent, int kept) {
  SHOAL_ASSIGN_OR_RETURN(const std::vector<int64_t> steps,
                         ListCheckpoints(storage, parent));
  for (size_t i = 0; i + static_cast<size_t>(kept) < steps.size(); ++i) {
    const std::string folder = StrCat(parent, "/step-", steps[i]);
    // The manifest goes first: what is half removed is no checkpoint.
    SHOAL_RETURN_IF_ERROR(storage.Remove(StrCat(folder, "/", kManifestFile)));
    SHOAL_RETURN_IF_ERROR(storage.Remove(folder));
  }
  return OkStatus();
}

StatusOr<std::string> FindCheckpoint(Storage& storage,
                                     const std::string& path) {
  const StatusOr<Manifest> here = ReadManifest(storage, path);
  if (here.ok()) {
    return path;
  }
  if (here.status().code() == StatusCode::kDataLoss) {
    return here.status();
  }
  for (const std::string& parent : {path, StrCat(path, "/checkpoints")}) {
    const StatusOr<std::vector<int64_t>> steps =
        ListCheckpoints(storage, parent);
    if (steps.ok() && !steps->empty()) {
      return StrCat(parent, "/step-", steps->back());
    }
  }
  return NotFoundError(StrCat("there is no checkpoint in ", path,
                              ": it is no step-N folder with a manifest, and "
                              "has none in it or in its folder checkpoints"));
}

namespace {

// Visits what a part holds, checked: rows of tables, then chunks.
Status VisitPart(
    const std::string& path, const Tensors& tensors,
    FunctionRef<void(const std::string&, const TableTensors&)> on_table,
    FunctionRef<void(const ChunkName&, std::span<const float>,
                     std::span<const float>)>
        on_chunk) {
  for (const auto& [name, tensor] : tensors) {
    const std::string suffix = "/ids";
    if (name.size() > suffix.size() &&
        name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0) {
      const std::string table = name.substr(0, name.size() - suffix.size());
      SHOAL_ASSIGN_OR_RETURN(const TableTensors found,
                             TableOf(tensors, path, table));
      on_table(table, found);
      continue;
    }
    const std::optional<ChunkName> chunk = ParseChunkName(name);
    if (!chunk.has_value() ||
        tensors.contains(StrCat(chunk->variable, "@", chunk->first, "/ids"))) {
      continue;  // Not a chunk's, or of a table that is called like one.
    }
    const auto state =
        tensors.find(StrCat(chunk->variable, "@", chunk->first, "/state"));
    if (state == tensors.end() || tensor.dtype != "F32" ||
        state->second.dtype != "F32") {
      return Damaged(
          path, StrCat("'", name, "' is not F32 or has no state beside it"));
    }
    on_chunk(*chunk, tensor.data.As<float>(), state->second.data.As<float>());
  }
  return OkStatus();
}

class DigestSum {
 public:
  void Add(const std::string& kind, const std::string& name, uint64_t number,
           std::span<const float> values, std::span<const float> state) {
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
    return Hex(static_cast<uint64_t>(sum_ >> 64)) +
           Hex(static_cast<uint64_t>(sum_));
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
  for (const CheckpointPart& part : manifest.parts) {
    SHOAL_ASSIGN_OR_RETURN(const Tensors tensors,
                           ReadPart(storage, folder, part));
    SHOAL_RETURN_IF_ERROR(VisitPart(
        StrCat(folder, "/", part.file), tensors,
        [&](const std::string& name, const TableTensors& table) {
          const auto dim = static_cast<size_t>(table.dim);
          const auto s = static_cast<size_t>(table.state_floats);
          for (size_t i = 0; i < table.ids.size(); ++i) {
            digest.Add("row", name, table.ids[i],
                       table.values.subspan(i * dim, dim),
                       table.state.subspan(i * s, s));
          }
        },
        [&](const ChunkName& chunk, std::span<const float> values,
            std::span<const float> state) {
          digest.Add("chunk", chunk.variable,
                     static_cast<uint64_t>(chunk.first), values, state);
        }));
  }
  return digest.ToString();
}

}  // namespace shoal::ps
