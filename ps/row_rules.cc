#include "ps/row_rules.h"

#include <algorithm>
#include <bit>

#include "base/strcat.h"

namespace shoal::ps {
namespace {

constexpr int kPartBitsMin = 10;
constexpr int kPartBitsMax = 16;
constexpr int kPartRowsBits = 6;  // wanted in a part
// Of an index that is as empty as it gets, see RowIndex.
constexpr int64_t kIndexBytesPerRow = 32;
// Counts are kept in f32, exactly.
constexpr int64_t kMinCountMax = int64_t{1} << 24;
// Ages are differences of 32-bit steps.
constexpr int64_t kAgeMax = (int64_t{1} << 31) - 1;
constexpr int64_t kBytesMax = int64_t{1} << 50;

}  // namespace

int64_t RowRules::sweep_period() const {
  return std::clamp<int64_t>(max_age_steps / 8, 1, int64_t{1} << kSweepBits);
}

Status CheckRules(const RowRules& rules) {
  if (rules.min_count < 1 || rules.min_count > kMinCountMax) {
    return InvalidArgumentError(StrCat("min_count is ", rules.min_count,
                                       ", outside [1, ", kMinCountMax, "]"));
  }
  if (!(rules.probability > 0 && rules.probability <= 1)) {
    return InvalidArgumentError(
        StrCat("probability is ", rules.probability, ", outside (0, 1]"));
  }
  if (rules.counts() && rules.probability < 1) {
    return InvalidArgumentError(
        "rows are made by count or by chance: min_count above 1 does not go "
        "with a probability below 1");
  }
  if (rules.counts() && rules.candidate_bytes < 1) {
    return InvalidArgumentError(StrCat("candidate_bytes is ",
                                       rules.candidate_bytes,
                                       ", but candidates need a bound"));
  }
  if (rules.max_age_steps < 0 || rules.max_age_steps > kAgeMax) {
    return InvalidArgumentError(StrCat("max_age_steps is ", rules.max_age_steps,
                                       ", outside [0, ", kAgeMax, "]"));
  }
  for (const int64_t bytes : {rules.row_budget_bytes, rules.candidate_bytes}) {
    if (bytes < 0 || bytes > kBytesMax) {
      return InvalidArgumentError(
          StrCat("a budget is ", bytes, " bytes, outside [0, 2^50]"));
    }
  }
  return OkStatus();
}

StatusOr<RowShares> SharesOf(int64_t budget_bytes, int64_t row_bytes,
                             int slot_bits) {
  const int64_t bytes = row_bytes + kIndexBytesPerRow;
  const int64_t rows = budget_bytes / bytes;
  RowShares shares;
  shares.bits =
      std::clamp(static_cast<int>(std::bit_width(static_cast<uint64_t>(rows))) -
                     1 - kPartRowsBits,
                 kPartBitsMin, kPartBitsMax);
  shares.rows_max = rows >> shares.bits;
  if (shares.rows_max < 1) {
    return InvalidArgumentError(StrCat(
        "a budget of ", budget_bytes, " bytes is less than one row of ", bytes,
        " bytes (with its index) for each of the ", int64_t{1} << shares.bits,
        " parts that it is divided into; give ", bytes << shares.bits,
        " or more"));
  }
  if (slot_bits > kPartBitsMax) {
    return InvalidArgumentError(
        StrCat("a budget can't be divided over 2^", slot_bits,
               " slots, at most over 2^", kPartBitsMax,
               "; use fewer shards (cluster.servers, cluster.shards)"));
  }
  if (slot_bits > shares.bits) {
    return InvalidArgumentError(StrCat(
        "a budget of ", budget_bytes, " bytes is divided into ",
        int64_t{1} << shares.bits, " parts, whatever the cluster, but so many ",
        "shards have ", int64_t{1} << slot_bits,
        " slots, which a part must not span; give ",
        bytes << (slot_bits + kPartRowsBits), " or more, or use fewer shards"));
  }
  return shares;
}

}  // namespace shoal::ps
