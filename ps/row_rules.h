#ifndef SHOAL_PS_ROW_RULES_H_
#define SHOAL_PS_ROW_RULES_H_

#include <cstdint>

#include "base/status.h"

namespace shoal::ps {

// When a table makes a row for an id (admission) and when it drops one
// (eviction). Both happen in SparseTable::Apply() alone, as a function of the
// rows and counts that are there, the command's ids and its step: who holds
// what, and what is pulled, changes nothing.
//
// A row has beside its optimizer's state, as bits of 32-bit words in f32: with
// any eviction the step of its last push; with kLfu then the number of its
// pushes.
struct RowRules {
  enum class Policy : uint8_t { kLru = 0, kLfu = 1 };

  // Admission. A push to an id without a row makes one if it is the
  // min_count-th (pushes before it only count) ...
  int64_t min_count = 1;
  // ... for ids that are counted in this much memory; beyond it those that were
  // not pushed for the longest are forgotten.
  int64_t candidate_bytes = int64_t{128} << 20;
  // ... or, where min_count is 1, with this probability, drawn from (seed,
  // table, id, step).
  double probability = 1;

  // Eviction. A row goes that was not pushed for this many steps, at the first
  // sweep from then on; 0: it may stay. Swept are, at step t, the ids of group
  // g, the top kSweepBits of IdHash(), with (g + t) % sweep_period() == 0.
  int64_t max_age_steps = 0;
  // What rows of the whole table, on all servers, may take with their state and
  // index; 0: any. It is divided evenly over parts of the hash's range; a part
  // that has more rows than its share when a command has changed its last row
  // goes down to seven eighths. First go: kLru, the rows that were not pushed
  // for the longest; kLfu, those that were pushed least often, of these as
  // kLru; then the smallest by IdHash().
  int64_t row_budget_bytes = 0;
  Policy policy = Policy::kLru;

  static constexpr int kSweepBits = 10;

  bool counts() const { return min_count > 1; }
  bool evicts() const { return max_age_steps > 0 || row_budget_bytes > 0; }
  bool by_use() const { return row_budget_bytes > 0 && policy == Policy::kLfu; }
  // 32-bit words that a row has for them.
  int64_t words() const { return (evicts() ? 1 : 0) + (by_use() ? 1 : 0); }
  // An eighth of the age at which rows go, so that a sweep visits at most eight
  // rows for each one that a step pushes; all groups within 1024 steps.
  int64_t sweep_period() const;
};

// Errors: kInvalidArgument naming the rule.
Status CheckRules(const RowRules& rules);

// How a budget is divided: 2^bits parts of `rows_max` rows each.
struct RowShares {
  int bits = 0;
  int64_t rows_max = 0;
};

// `row_bytes`: of a row without index. More parts where there are more rows, so
// that what one command does to a part stays short: 64 rows or more each, but
// at least 2^10 parts, and at most 2^16. A function of the job alone.
// Errors: kInvalidArgument (less than a row a part, or parts of more than one
// of 2^slot_bits slots; says how many bytes would do).
StatusOr<RowShares> SharesOf(int64_t budget_bytes, int64_t row_bytes,
                             int slot_bits);

}  // namespace shoal::ps

#endif  // SHOAL_PS_ROW_RULES_H_
