#include "ps/checkpoint_parts.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <optional>
#include <utility>

#include "base/strcat.h"

namespace shoal::ps {

const char* FormatName(DType format) {
  return format == DType::kBF16  ? "BF16"
         : format == DType::kF16 ? "F16"
                                 : "F32";
}

namespace {

template <typename T>
Buffer Take(std::vector<T>& values) {
  auto owner = std::make_shared<std::vector<T>>(std::move(values));
  values = {};
  return Buffer::Wrap(owner->data(),
                      static_cast<int64_t>(owner->size() * sizeof(T)), owner);
}

}  // namespace

void GatheredRows::Reserve(int64_t rows) {
  const auto n = static_cast<size_t>(rows);
  ids_.reserve(n);
  values_.reserve(n * static_cast<size_t>(form_.value_bytes()));
  state_.reserve(n * static_cast<size_t>(form_.state_floats));
}

void GatheredRows::Add(uint64_t id, std::span<const std::byte> values,
                       std::span<const float> state) {
  ids_.push_back(id);
  values_.insert(values_.end(), values.begin(), values.end());
  state_.insert(state_.end(), state.begin(), state.end());
}

SlotSet GatheredRows::SlotsIn(SlotSet slots) const {
  uint64_t first = ~uint64_t{0};
  uint64_t last = 0;
  for (const auto* ids : {&ids_, &removed_}) {
    if (!ids->empty()) {
      first = std::min(first, IdHash(ids->front()));
      last = std::max(last, IdHash(ids->back()));
    }
  }
  slots.first = SlotOfHash(first, slots.bits);
  slots.last = SlotOfHash(last, slots.bits);
  return slots;
}

bool TableTensors::AddWholeTo(SlotFlags& flags) const {
  if (whole.empty()) {
    return true;
  }
  const int bits = std::countr_zero(whole.size()) + 6;
  if (flags.bits == 0) {
    flags.bits = bits;
    flags.of.resize(size_t{1} << bits);
  }
  for (size_t slot = 0; slot < flags.of.size() && bits == flags.bits; ++slot) {
    flags.of[slot] =
        flags.of[slot] || (whole[slot / 64] >> (slot % 64) & 1) != 0;
  }
  return bits == flags.bits;
}

void GatheredRows::MoveTo(TensorsWriter& writer, const std::string& prefix,
                          bool with_state) {
  const auto n = static_cast<int64_t>(ids_.size());
  writer.Add(prefix + "ids", "U64", {n}, Take(ids_));
  writer.Add(prefix + "values", FormatName(form_.format), {n, form_.dim},
             Take(values_));
  const Buffer state = Take(state_);
  if (with_state) {
    writer.Add(prefix + "state", "F32", {n, form_.state_floats}, state);
  }
  if (!removed_.empty()) {
    const auto removed = static_cast<int64_t>(removed_.size());
    writer.Add(prefix + "removed", "U64", {removed}, Take(removed_));
  }
}

namespace {

// As many slots as a table may have.
constexpr size_t kWholeWordsMax = size_t{1} << (24 - 6);

Status CheckRemoved(const TableTensors& table, const std::string& file,
                    const std::string& name) {
  size_t next = 0;  // of ids
  for (size_t i = 0; i < table.removed.size(); ++i) {
    const uint64_t hash = IdHash(table.removed[i]);
    while (next < table.ids.size() && IdHash(table.ids[next]) < hash) {
      ++next;
    }
    if ((i > 0 && IdHash(table.removed[i - 1]) >= hash) ||
        (next < table.ids.size() && IdHash(table.ids[next]) == hash)) {
      return Damaged(file, StrCat("removed id ", i, " of table '", name,
                                  "' is there twice, has a row, or is not in "
                                  "the order of slots"));
    }
  }
  return OkStatus();
}

}  // namespace

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
  DType format = DType::kF32;
  for (const DType other : {DType::kBF16, DType::kF16}) {
    const auto it = tensors.find(StrCat(name, "/values"));
    if (it != tensors.end() && it->second.dtype == FormatName(other)) {
      format = other;
    }
  }
  SHOAL_ASSIGN_OR_RETURN(const Tensor* values,
                         find("values", FormatName(format), 2));
  SHOAL_ASSIGN_OR_RETURN(const Tensor* state, find("state", "F32", 2));
  TableTensors table;
  table.ids = ids->data.As<uint64_t>();
  table.values = values->data.As<std::byte>();
  table.state = state->data.As<float>();
  table.form = {.dim = values->shape[1],
                .state_floats = state->shape[1],
                .format = format};
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
  if (tensors.contains(name + "/removed")) {
    SHOAL_ASSIGN_OR_RETURN(const Tensor* removed, find("removed", "U64", 1));
    table.removed = removed->data.As<uint64_t>();
    if (static_cast<int64_t>(table.removed.size_bytes()) !=
        removed->data.size()) {
      return Damaged(
          file, StrCat("table '", name, "': the removed ids are not aligned"));
    }
    SHOAL_RETURN_IF_ERROR(CheckRemoved(table, file, name));
  }
  if (tensors.contains(name + "/whole")) {
    SHOAL_ASSIGN_OR_RETURN(const Tensor* whole, find("whole", "U64", 1));
    table.whole = whole->data.As<uint64_t>();
    if (!std::has_single_bit(table.whole.size()) ||
        table.whole.size() > kWholeWordsMax) {
      return Damaged(file, StrCat("'", name, "/whole' has ", table.whole.size(),
                                  " words, which is no number of slots"));
    }
  }
  return table;
}

namespace {

// "deep/0/w@16384/values" -> {"deep/0/w", 16384}.
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

}  // namespace

Status VisitPart(
    const std::string& file, const Tensors& tensors,
    FunctionRef<Status(const std::string&, const TableTensors&)> on_table,
    FunctionRef<Status(const ChunkName&, const ChunkTensors&)> on_chunk) {
  for (const auto& [name, tensor] : tensors) {
    const std::string suffix = "/ids";
    if (name.size() > suffix.size() &&
        name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0) {
      const std::string table = name.substr(0, name.size() - suffix.size());
      SHOAL_ASSIGN_OR_RETURN(const TableTensors found,
                             TableOf(tensors, file, table));
      SHOAL_RETURN_IF_ERROR(on_table(table, found));
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
          file, StrCat("'", name, "' is not F32 or has no state beside it"));
    }
    SHOAL_RETURN_IF_ERROR(
        on_chunk(*chunk, {.values = tensor.data, .state = state->second.data}));
  }
  return OkStatus();
}

}  // namespace shoal::ps
