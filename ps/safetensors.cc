#include "ps/safetensors.h"

#include <xxhash.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/strcat.h"
#include "ps/strict_json.h"

namespace shoal::ps {
namespace {

constexpr uint64_t kHeaderBytesMax = uint64_t{256} << 20;

}  // namespace

std::string HexOf(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx",
                static_cast<unsigned long long>(value));
  return text;
}

std::string Checksum(std::span<const Buffer> pieces) {
  XXH3_state_t* state = XXH3_createState();
  XXH3_64bits_reset(state);
  for (const Buffer& piece : pieces) {
    XXH3_64bits_update(state, piece.data(), static_cast<size_t>(piece.size()));
  }
  const uint64_t hash = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  return HexOf(hash);
}

Status Damaged(const std::string& file, const std::string& why) {
  return DataLossError(StrCat(file, " is damaged: ", why));
}

namespace {

// Bytes of an element; 0 of a type that no checkpoint has.
int64_t WidthOf(std::string_view dtype) {
  return dtype == "U64"                      ? 8
         : dtype == "F32"                    ? 4
         : dtype == "F16" || dtype == "BF16" ? 2
                                             : 0;
}

}  // namespace

// --- Writing ---------------------------------------------------------------

void TensorsWriter::Add(const std::string& name, const char* dtype,
                        std::vector<int64_t> shape, Buffer data) {
  items_.push_back({name, dtype, std::move(shape), std::move(data)});
}

StatusOr<CheckpointPart> TensorsWriter::Publish(Storage& storage,
                                                const std::string& folder,
                                                const std::string& file) {
  Json header = {{"__metadata__", {{"writer", "shoal"}}}};
  std::vector<Buffer> pieces(1);
  int64_t offset = 0;
  std::stable_sort(items_.begin(), items_.end(),
                   [](const Item& a, const Item& b) {
                     return WidthOf(a.dtype) > WidthOf(b.dtype);
                   });
  for (Item& item : items_) {
    const int64_t end = offset + item.data.size();
    header[item.name] = {{"dtype", item.dtype},
                         {"shape", item.shape},
                         {"data_offsets", {offset, end}}};
    offset = end;
    pieces.push_back(std::move(item.data));
  }
  SHOAL_ASSIGN_OR_RETURN(std::string text,
                         DumpJson(header, "the name of a table or variable"));
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const auto length = static_cast<uint64_t>(text.size());
  std::string start(reinterpret_cast<const char*>(&length), sizeof(length));
  start += text;
  pieces[0] = Buffer::CopyOf(start);
  SHOAL_RETURN_IF_ERROR(storage.PublishFile(StrCat(folder, "/", file), pieces));
  return CheckpointPart{
      .file = file,
      .size_bytes = offset + static_cast<int64_t>(start.size()),
      .checksum = Checksum(pieces)};
}

// --- Reading ---------------------------------------------------------------

namespace {

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
  const int64_t width = WidthOf(tensor.dtype);
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
      end - begin != static_cast<uint64_t>(bytes) ||
      begin % static_cast<uint64_t>(std::min<int64_t>(width, 4)) != 0) {
    return Damaged(file, StrCat("tensor '", name,
                                "' lies outside of the file "
                                "or has another size than its shape"));
  }
  tensor.begin = begin;
  tensor.data = data.Slice(static_cast<int64_t>(begin), bytes);
  return tensor;
}

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

}  // namespace

StatusOr<Tensors> ReadTensors(Storage& storage, const std::string& folder,
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

}  // namespace shoal::ps
