#ifndef SHOAL_WORKER_INPUT_WHEN_H_
#define SHOAL_WORKER_INPUT_WHEN_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace shoal::worker {

// A date, a time of day, or both, as far as they are known.
struct Moment {
  std::optional<int> year;   // 1 .. 9999
  std::optional<int> month;  // 1 .. 12
  std::optional<int> day;    // 1 .. 31, right for the month
  std::optional<int> minute_of_day;
};

// Each returns what is wrong with the text, or null.

// `2013-01-31`, `2013-01-31T05:00:00`, `2013-01-31 5:00:00.25+00:00`. The date
// and time are taken as they are written, whatever zone follows.
const char* ParseIsoMoment(std::string_view text, Moment* moment);

// Seconds since 1970, UTC.
const char* ParseUnixMoment(std::string_view text, Moment* moment);

// `517` and `0517` are 5:17; 2400 is 0:00.
const char* ParseHhmmMoment(std::string_view text, Moment* moment);

enum class MomentPart {
  kYear,
  kMonth,
  kDay,
  kMonthDay,  // month * 100 + day
  kWeekday,   // Monday is 0
  kWeek,      // of ISO 8601, 1 .. 53
  kHour,
  kMinute,
  kMinuteOfDay
};

// Errors: kInvalidArgument (no part is called so).
StatusOr<MomentPart> ParseMomentPart(std::string_view name);

bool NeedsTime(MomentPart part);  // otherwise it needs (some of) the date

// What is wrong, or null: the parts asked for are not known, or there is no
// such day.
const char* TakePart(const Moment& moment, MomentPart part, int* value);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_WHEN_H_
