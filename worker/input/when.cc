#include "worker/input/when.h"

#include <chrono>
#include <cmath>

#include "base/strcat.h"
#include "worker/input/number.h"

namespace shoal::worker {
namespace {

constexpr int kMinutesPerDay = 24 * 60;

// Takes `min_digits` to `max_digits` digits off the front.
bool TakeDigits(std::string_view* text, size_t min_digits, size_t max_digits,
                int* value) {
  size_t digits = 0;
  *value = 0;
  while (digits < max_digits && digits < text->size() &&
         (*text)[digits] >= '0' && (*text)[digits] <= '9') {
    *value = *value * 10 + ((*text)[digits] - '0');
    ++digits;
  }
  text->remove_prefix(digits);
  return digits >= min_digits;
}

bool TakeChar(std::string_view* text, char c) {
  if (text->empty() || text->front() != c) {
    return false;
  }
  text->remove_prefix(1);
  return true;
}

// A fraction of a second and a zone: nothing here depends on them.
bool IsFractionAndZone(std::string_view text) {
  int ignored = 0;
  if (TakeChar(&text, '.') || TakeChar(&text, ',')) {
    if (!TakeDigits(&text, 1, 9, &ignored)) {
      return false;
    }
  }
  TakeChar(&text, ' ');
  if (text.empty() || text == "Z" || text == "UTC") {
    return true;
  }
  if (!TakeChar(&text, '+') && !TakeChar(&text, '-')) {
    return false;
  }
  if (!TakeDigits(&text, 2, 2, &ignored)) {
    return false;
  }
  TakeChar(&text, ':');
  return text.empty() || (TakeDigits(&text, 2, 2, &ignored) && text.empty());
}

std::chrono::year_month_day DateOf(const Moment& moment) {
  return std::chrono::year(*moment.year) /
         std::chrono::month(static_cast<unsigned>(*moment.month)) /
         std::chrono::day(static_cast<unsigned>(*moment.day));
}

int WeekdayOf(std::chrono::sys_days days) {
  return static_cast<int>(std::chrono::weekday(days).iso_encoding()) - 1;
}

// The week that has the Thursday nearest to the day.
int IsoWeekOf(std::chrono::sys_days days) {
  const std::chrono::sys_days thursday =
      days + std::chrono::days(3 - WeekdayOf(days));
  const std::chrono::year year = std::chrono::year_month_day(thursday).year();
  const std::chrono::sys_days first(year / std::chrono::January / 1);
  return static_cast<int>((thursday - first).count() / 7) + 1;
}

}  // namespace

const char* ParseIsoMoment(std::string_view text, Moment* moment) {
  int year = 0;
  int month = 0;
  int day = 0;
  if (!TakeDigits(&text, 4, 4, &year) || !TakeChar(&text, '-') ||
      !TakeDigits(&text, 2, 2, &month) || !TakeChar(&text, '-') ||
      !TakeDigits(&text, 2, 2, &day)) {
    return "is no date like 2013-01-31";
  }
  moment->year = year;
  moment->month = month;
  moment->day = day;
  if (year == 0 || !DateOf(*moment).ok()) {
    return "is no day of the calendar";
  }
  if (text.empty()) {
    return nullptr;
  }
  int hour = 0;
  int minute = 0;
  int second = 0;
  if (!(TakeChar(&text, 'T') || TakeChar(&text, ' ')) ||
      !TakeDigits(&text, 1, 2, &hour) || !TakeChar(&text, ':') ||
      !TakeDigits(&text, 2, 2, &minute) ||
      (TakeChar(&text, ':') && !TakeDigits(&text, 2, 2, &second)) ||
      !IsFractionAndZone(text) || hour > 23 || minute > 59 || second > 60) {
    return "has no time like 05:17:00 after its date";
  }
  moment->minute_of_day = hour * 60 + minute;
  return nullptr;
}

const char* ParseUnixMoment(std::string_view text, Moment* moment) {
  // The years 1 and 9999.
  constexpr double kFirst = -62135596800.0;
  constexpr double kLast = 253402300799.0;
  double number = 0;
  if (!ParseNumber(text, &number) || number < kFirst || number > kLast) {
    return "is no number of seconds since 1970";
  }
  const std::chrono::sys_seconds time(
      std::chrono::seconds(static_cast<int64_t>(std::floor(number))));
  const auto days = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date(days);
  moment->year = static_cast<int>(date.year());
  moment->month = static_cast<int>(static_cast<unsigned>(date.month()));
  moment->day = static_cast<int>(static_cast<unsigned>(date.day()));
  moment->minute_of_day = static_cast<int>((time - days).count() / 60);
  return nullptr;
}

const char* ParseHhmmMoment(std::string_view text, Moment* moment) {
  double number = 0;
  if (!ParseNumber(text, &number) || number < 0 || number > 2400 ||
      number != std::floor(number) || static_cast<int>(number) % 100 >= 60) {
    return "is no time like 517 for 5:17";
  }
  const int hhmm = static_cast<int>(number);
  moment->minute_of_day = (hhmm / 100 * 60 + hhmm % 100) % kMinutesPerDay;
  return nullptr;
}

StatusOr<MomentPart> ParseMomentPart(std::string_view name) {
  struct Named {
    std::string_view name;
    MomentPart part;
  };
  static constexpr Named kParts[] = {
      {"year", MomentPart::kYear},
      {"month", MomentPart::kMonth},
      {"day", MomentPart::kDay},
      {"month_day", MomentPart::kMonthDay},
      {"weekday", MomentPart::kWeekday},
      {"week", MomentPart::kWeek},
      {"hour", MomentPart::kHour},
      {"minute", MomentPart::kMinute},
      {"minute_of_day", MomentPart::kMinuteOfDay}};
  for (const Named& named : kParts) {
    if (named.name == name) {
      return named.part;
    }
  }
  return InvalidArgumentError(
      StrCat("when.part is '", name,
             "'; expected year, month, day, month_day, weekday, week, hour, "
             "minute or minute_of_day"));
}

bool NeedsTime(MomentPart part) {
  return part == MomentPart::kHour || part == MomentPart::kMinute ||
         part == MomentPart::kMinuteOfDay;
}

const char* TakePart(const Moment& moment, MomentPart part, int* value) {
  if (NeedsTime(part)) {
    if (!moment.minute_of_day.has_value()) {
      return "has no time of day";
    }
    const int minute = *moment.minute_of_day;
    *value = part == MomentPart::kHour     ? minute / 60
             : part == MomentPart::kMinute ? minute % 60
                                           : minute;
    return nullptr;
  }
  const bool dated = moment.year.has_value() && moment.month.has_value() &&
                     moment.day.has_value();
  if (dated && !DateOf(moment).ok()) {
    return "is no day of the calendar";
  }
  switch (part) {
    case MomentPart::kYear:
      *value = moment.year.value_or(0);
      return moment.year.has_value() ? nullptr : "has no year";
    case MomentPart::kMonth:
      *value = moment.month.value_or(0);
      return moment.month.has_value() ? nullptr : "has no month";
    case MomentPart::kDay:
      *value = moment.day.value_or(0);
      return moment.day.has_value() ? nullptr : "has no day";
    case MomentPart::kMonthDay:
      *value = moment.month.value_or(0) * 100 + moment.day.value_or(0);
      return moment.month.has_value() && moment.day.has_value()
                 ? nullptr
                 : "has no month and day";
    default:
      break;
  }
  if (!dated) {
    return "has no whole date";
  }
  const std::chrono::sys_days days(DateOf(moment));
  *value = part == MomentPart::kWeekday ? WeekdayOf(days) : IsoWeekOf(days);
  return nullptr;
}

}  // namespace shoal::worker
