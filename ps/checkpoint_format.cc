#include "ps/checkpoint_format.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "base/strcat.h"

namespace shoal::ps {
namespace {

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

// What of a table a link of a chain has is loaded over what those behind it
// have, but for slots of which one before it has all rows.
void LoadRows(const TableTensors& from, const SlotFlags& superseded,
              const ShardState& state, SparseTable& table) {
  const auto is_here = [&](uint64_t id) {
    const uint64_t hash = IdHash(id);
    return HasSlot(state, SlotOfHash(hash, state.slot_bits)) &&
           !superseded.Has(hash);
  };
  std::vector<uint64_t> removed;
  std::copy_if(from.removed.begin(), from.removed.end(),
               std::back_inserter(removed), is_here);
  table.Erase(removed);
  // Rows of a slot lie together, and so do those of slots that do.
  for (size_t begin = 0, end = 0; begin < from.ids.size(); begin = end + 1) {
    for (end = begin; end < from.ids.size() && is_here(from.ids[end]);) {
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

// Loads a shard from the files of a checkpoint and what it is based on, one by
// one.
class PartsLoader {
 public:
  PartsLoader(Storage& storage, const std::vector<ChainLink>& links,
              const ShardState& state)
      : storage_(storage), links_(links), state_(state) {
    for (size_t c = 0; c < state.chunks.size(); ++c) {
      missing_chunks_.insert(c);
    }
    for (const auto& table : state.tables) {
      missing_tables_.insert(table->name());
    }
    superseded_.resize(links.size());
  }

  Status Load() {
    for (size_t link = 0; link < links_.size(); ++link) {
      superseded_[link] = found_whole_;
      // Of those behind the first only its whole slots are of interest, which
      // a full one does not tell.
      const bool tells = link + 1 < links_.size() && !state_.tables.empty();
      for (const ManifestPart& part : links_[link].manifest.parts) {
        if (!part.rows.has_value() && (link == 0 || tells)) {
          SHOAL_RETURN_IF_ERROR(LoadPart(link, part));
        }
      }
      if (link == 0) {
        SHOAL_RETURN_IF_ERROR(CheckFirst());
      }
    }
    const SlotSet slots = SlotsOf(state_);
    for (size_t link = links_.size(); link-- > 0;) {
      for (const ManifestPart& part : links_[link].manifest.parts) {
        if (part.rows.has_value() && !state_.tables.empty() &&
            part.rows->Meets(slots)) {
          SHOAL_RETURN_IF_ERROR(LoadPart(link, part));
        }
      }
    }
    return OkStatus();
  }

 private:
  // By the number of the table.
  using FlagsOfTables = std::map<size_t, SlotFlags>;

  Status CheckFirst() const {
    if (!missing_chunks_.empty()) {
      return Missing(StrCat(
          "variable chunk '",
          ChunkPrefix(*state_.model, state_.chunks[*missing_chunks_.begin()]),
          "'"));
    }
    return missing_tables_.empty()
               ? OkStatus()
               : Missing(StrCat("table '", *missing_tables_.begin(), "'"));
  }

  Status Missing(const std::string& what) const {
    return NotFoundError(StrCat(links_[0].folder, " has no ", what,
                                ": is it of another model?"));
  }

  // Takes what is the shard's from one file.
  Status LoadPart(size_t link, const ManifestPart& part) {
    const std::string& folder = links_[link].folder;
    SHOAL_ASSIGN_OR_RETURN(const Tensors tensors,
                           ReadTensors(storage_, folder, part.file));
    const std::string path = StrCat(folder, "/", part.file.file);
    std::vector<std::pair<size_t, TableTensors>> rows;
    for (size_t t = 0; t < state_.tables.size(); ++t) {
      const SparseTable& table = *state_.tables[t];
      if (!tensors.contains(StrCat(table.name(), "/ids"))) {
        continue;
      }
      SHOAL_ASSIGN_OR_RETURN(const TableTensors from,
                             FitTable(path, tensors, table));
      rows.emplace_back(t, from);
      if (links_.size() > 1 && !part.rows.has_value() &&
          !(from.ids.empty() && from.removed.empty())) {
        return Damaged(path, StrCat("has rows of table '", table.name(),
                                    "', of slots that the manifest does not "
                                    "tell"));
      }
      if (!from.AddWholeTo(found_whole_[t])) {
        return Damaged(path, StrCat("'", table.name(),
                                    "/whole' is of another number of slots "
                                    "than in other files"));
      }
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
    for (const auto& [t, from] : rows) {
      const auto superseded = superseded_[link].find(t);
      LoadRows(from,
               superseded == superseded_[link].end() ? SlotFlags()
                                                     : superseded->second,
               state_, *state_.tables[t]);
      missing_tables_.erase(state_.tables[t]->name());
    }
    for (const auto& [chunk, from] : chunks) {
      state_.dense->Load(from.chunk, from.values, from.state);
      missing_chunks_.erase(chunk);
    }
    return state_.check == nullptr ? OkStatus() : state_.check();
  }

  Storage& storage_;
  const std::vector<ChainLink>& links_;
  const ShardState& state_;
  std::set<size_t> missing_chunks_;
  std::set<std::string> missing_tables_;
  // Slots of which the links read so far have all rows; and by link, those of
  // the links before it.
  FlagsOfTables found_whole_;
  std::vector<FlagsOfTables> superseded_;
};

}  // namespace

Status LoadParts(Storage& storage, const std::string& folder,
                 const ShardState& state) {
  SHOAL_ASSIGN_OR_RETURN(const std::vector<ChainLink> links,
                         ReadChain(storage, folder));
  return PartsLoader(storage, links, state).Load();
}

}  // namespace shoal::ps
