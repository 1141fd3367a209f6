// Admission and eviction: see ps/row_rules.h.
#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "base/random.h"
#include "base/strcat.h"
#include "ps/slots.h"
#include "ps/sparse_table.h"

namespace shoal::ps {
namespace {

// A word of a row. Moved as a float it would keep its bits too, but is none.
uint32_t Word(const float* at) { return std::bit_cast<uint32_t>(*at); }
void SetWord(float* at, uint32_t word) { *at = std::bit_cast<float>(word); }

// Steps from `then` to `now`, in which 32-bit steps may run over. What comes
// from a later step is not old.
uint32_t AgeAt(uint32_t now, uint32_t then) {
  const auto age = static_cast<int32_t>(now - then);
  return age < 0 ? 0 : static_cast<uint32_t>(age);
}

constexpr char kCandidates[] = "/candidates";

}  // namespace

// --- Admission -------------------------------------------------------------

bool SparseTable::Admits(uint64_t hash, uint64_t id, int64_t step,
                         uint32_t* seen) {
  const RowRules& rules = options_.rules;
  if (rules.probability < 1) {
    constexpr uint64_t kAdmission = 0x61646d6974ULL;
    const uint64_t bits = HashKey(HashKey(HashKey(key_, kAdmission), id),
                                  static_cast<uint64_t>(step));
    return static_cast<double>(bits >> 11) * 0x1.0p-53 < rules.probability;
  }
  if (options_.candidates == nullptr) {
    return true;
  }
  const uint32_t row = options_.candidates->index_.Find(hash, id);
  if (row != RowIndex::kNone) {
    const float count = *options_.candidates->RowAt(row);
    // Of a checkpoint, perhaps: what is no count is none.
    *seen = count > 0 && count < 0x1p24F ? static_cast<uint32_t>(count) : 0;
  }
  const bool admits = int64_t{*seen} + 1 >= rules.min_count;
  if (!admits) {
    waiting_.push_back(id);
  } else if (row != RowIndex::kNone) {
    admitted_.push_back(id);
  }
  return admits;
}

SparseTable::Options CandidateOptions(const SparseTable::Options& options) {
  SparseTable::Options out;
  out.name = options.name + kCandidates;
  // A push of -1 adds one.
  out.dim = 1;
  out.optimizer = {.kind = "sgd", .learning_rate = 1};
  out.seed = options.seed;
  out.slot_bits = options.slot_bits;
  out.rules.max_age_steps = options.rules.max_age_steps;
  out.rules.row_budget_bytes = options.rules.candidate_bytes;
  out.marks_changes = options.marks_changes;
  out.mark_bytes_max = options.mark_bytes_max;
  return out;
}

void SparseTable::CountCandidates(int64_t step,
                                  const std::vector<bool>* slots) {
  options_.candidates->EraseIds(admitted_);
  const std::vector<float> ones(waiting_.size(), -1);
  options_.candidates->Apply(waiting_, ones.data(), 1, step, slots);
  admitted_.clear();
  waiting_.clear();
}

void SparseTable::EraseIds(std::span<const uint64_t> ids) {
  for (size_t begin = 0; begin < ids.size();) {
    const int64_t part = index_.PartOf(IdHash(ids[begin]));
    size_t end = begin;
    while (end < ids.size() && index_.PartOf(IdHash(ids[end])) == part) {
      ++end;
    }
    const auto gone = ids.subspan(begin, end - begin);
    index_.EraseIf(part, [&](uint64_t id, uint32_t row) {
      if (std::find(gone.begin(), gone.end(), id) == gone.end()) {
        return false;
      }
      FreeRow(id, row);
      return true;
    });
    begin = end;
  }
}

void SparseTable::Erase(std::span<const uint64_t> ids) {
  const size_t batch_max = spills() ? batch_max_ : ids.size();
  for (size_t begin = 0; begin < ids.size(); begin += batch_max) {
    const auto batch =
        ids.subspan(begin, std::min(batch_max, ids.size() - begin));
    if (spills()) {
      Bring(batch, /*to_be_made=*/false);
    }
    for (const uint64_t id : batch) {
      const uint64_t hash = IdHash(id);
      const uint32_t row = index_.Find(hash, id);
      if (row != RowIndex::kNone) {
        FreeRow(id, row);
        index_.Erase(hash, id);
      }
    }
    EraseStale();
  }
}

// --- Eviction --------------------------------------------------------------

void SparseTable::SetWords(float* row, uint32_t step, uint32_t pushes) const {
  if (options_.rules.evicts()) {
    SetWord(row + words_at_, step);
  }
  if (options_.rules.by_use()) {
    SetWord(row + words_at_ + 1, pushes);
  }
}

void SparseTable::CountPush(float* row, uint32_t step) const {
  SetWord(row + words_at_, step);
  if (options_.rules.by_use()) {
    const uint32_t pushes = Word(row + words_at_ + 1);
    SetWord(row + words_at_ + 1, pushes + (pushes != ~uint32_t{0} ? 1 : 0));
  }
}

// The least goes first.
struct SparseTable::Standing {
  uint64_t use;
  uint64_t hash;
  friend auto operator<=>(const Standing&, const Standing&) = default;
};

SparseTable::Standing SparseTable::StandingOf(uint64_t id, const float* row,
                                              uint32_t step) const {
  const float* words = row + words_at_;
  uint64_t use = ~AgeAt(step, Word(words));
  if (options_.rules.by_use()) {
    use |= uint64_t{Word(words + 1)} << 32;
  }
  return {use, IdHash(id)};
}

void SparseTable::ShrinkPart(int64_t part, uint32_t step) {
  const int64_t count = CountIn(part);
  if (count <= shares_.rows_max) {
    return;
  }
  std::vector<std::pair<uint64_t, uint32_t>> rows;
  rows.reserve(static_cast<size_t>(count));
  index_.ForEach(part, [&](uint64_t id, uint32_t row) {
    __builtin_prefetch(RowAt(row) + words_at_);
    rows.emplace_back(id, row);
  });
  std::vector<Standing> standings;
  standings.reserve(rows.size());
  for (const auto& [id, row] : rows) {
    standings.push_back(StandingOf(id, RowAt(row), step));
  }
  std::vector<std::pair<Standing, uint64_t>> away;
  ForEachAway(part, [&](uint64_t id, const float* row) {
    away.emplace_back(StandingOf(id, row, step), id);
    standings.push_back(away.back().first);
  });
  if (!status().ok()) {
    return;  // Who asks for it gives up.
  }
  const int64_t kept = shares_.rows_max - shares_.rows_max / 8;
  const auto last = standings.begin() + (count - kept - 1);
  std::nth_element(standings.begin(), last, standings.end());
  index_.EraseIf(part, [&](uint64_t id, uint32_t row) {
    const bool gone = StandingOf(id, RowAt(row), step) <= *last;
    if (gone) {
      DropRow(id, row);
    }
    return gone;
  });
  std::vector<uint64_t> gone;
  for (const auto& [standing, id] : away) {
    if (standing <= *last) {
      gone.push_back(id);
    }
  }
  DropAway(part, gone);
}

bool SparseTable::IsOld(const float* row, uint32_t step) const {
  return AgeAt(step, Word(row + words_at_)) >=
         static_cast<uint32_t>(options_.rules.max_age_steps);
}

void SparseTable::Sweep(int64_t step, const std::vector<bool>* slots) {
  const int64_t period = options_.rules.sweep_period();
  const auto now = static_cast<uint32_t>(step);
  constexpr int64_t kGroups = int64_t{1} << RowRules::kSweepBits;
  const int64_t parts = index_.num_parts() / kGroups;
  // Groups g with (g + step) % period == 0.
  const int64_t first = (period - step % period) % period;
  for (int64_t group = first; group < kGroups; group += period) {
    for (int64_t part = group * parts; part < (group + 1) * parts; ++part) {
      const bool here = slots == nullptr ||
                        (*slots)[static_cast<size_t>(part / parts_per_slot())];
      if (!here || CountIn(part) == 0) {
        continue;
      }
      index_.ForEach(part, [&](uint64_t, uint32_t row) {
        __builtin_prefetch(RowAt(row) + words_at_);
      });
      std::vector<uint64_t> gone_away;
      ForEachAway(part, [&](uint64_t id, const float* row) {
        if (IsOld(row, now)) {
          gone_away.push_back(id);
        }
      });
      index_.EraseIf(part, [&](uint64_t id, uint32_t row) {
        const bool gone = IsOld(RowAt(row), now);
        if (gone) {
          DropRow(id, row);
        }
        return gone;
      });
      DropAway(part, gone_away);
    }
  }
}

}  // namespace shoal::ps
