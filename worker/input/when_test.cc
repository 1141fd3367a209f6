#include "worker/input/when.h"

#include <cstring>
#include <ctime>

#include "gtest/gtest.h"

#include "base/random.h"
#include "base/strcat.h"

namespace shoal::worker::input_tests {
namespace {

using Parser = const char* (*)(std::string_view, Moment*);

// The part as text, or what is wrong.
std::string Part(Parser parse, std::string_view text, std::string_view part) {
  Moment moment;
  const char* wrong = parse(text, &moment);
  int value = 0;
  if (wrong == nullptr) {
    wrong = TakePart(moment, ParseMomentPart(part).value(), &value);
  }
  return wrong == nullptr ? StrCat(value) : wrong;
}

TEST(WhenTest, IsoDatesAndTimesHaveTheirParts) {
  constexpr std::string_view kText = "2013-01-31T05:17:09";
  EXPECT_EQ(Part(&ParseIsoMoment, kText, "year"), "2013");
  EXPECT_EQ(Part(&ParseIsoMoment, kText, "month"), "1");
  EXPECT_EQ(Part(&ParseIsoMoment, kText, "day"), "31");
  EXPECT_EQ(Part(&ParseIsoMoment, kText, "month_day"), "131");
  EXPECT_EQ(Part(&ParseIsoMoment, kText, "weekday"), "3");  // a Thursday
  EXPECT_EQ(Part(&ParseIsoMoment, kText, "week"), "5");
  EXPECT_EQ(Part(&ParseIsoMoment, kText, "hour"), "5");
  EXPECT_EQ(Part(&ParseIsoMoment, kText, "minute"), "17");
  EXPECT_EQ(Part(&ParseIsoMoment, kText, "minute_of_day"), "317");
}

TEST(WhenTest, IsoTakesTheFormsThatPeopleWrite) {
  for (const char* text :
       {"2019-11-24 00:01:03.979311+00:00", "2019-11-24T00:01",
        "2019-11-24T00:01:03Z", "2019-11-24 0:01", "2019-11-24 00:01:03 UTC",
        "2019-11-24T00:01:03-0500"}) {
    EXPECT_EQ(Part(&ParseIsoMoment, text, "minute_of_day"), "1") << text;
  }
  EXPECT_EQ(Part(&ParseIsoMoment, "2012-02-29", "day"), "29");
  EXPECT_EQ(Part(&ParseIsoMoment, "2012-02-29", "hour"), "has no time of day");
}

TEST(WhenTest, WrongDatesAreRefused) {
  for (const char* text :
       {"", "2013", "2013-1-1", "2013/01/01", "31-01-2013", "2013-02-29",
        "2013-13-01", "2013-00-01", "2013-01-01x", "0000-01-01", "2013-01-01T",
        "2013-01-01T24:00", "2013-01-01T05:60", "2013-01-01T05:00:00+x"}) {
    Moment moment;
    EXPECT_NE(ParseIsoMoment(text, &moment), nullptr) << text;
  }
}

TEST(WhenTest, HhmmIsATimeOfDay) {
  EXPECT_EQ(Part(&ParseHhmmMoment, "517", "hour"), "5");
  EXPECT_EQ(Part(&ParseHhmmMoment, "0517", "minute_of_day"), "317");
  EXPECT_EQ(Part(&ParseHhmmMoment, "5", "minute"), "5");
  EXPECT_EQ(Part(&ParseHhmmMoment, "2400", "minute_of_day"), "0");
  for (const char* text : {"575", "2401", "-1", "5.5", "five", ""}) {
    Moment moment;
    EXPECT_NE(ParseHhmmMoment(text, &moment), nullptr) << text;
  }
}

TEST(WhenTest, UnixTimesAgreeWithTheCLibrary) {
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    Random random(seed);
    const auto time =
        static_cast<time_t>(random.Below(8000000000)) - 3000000000;
    std::tm want = {};
    gmtime_r(&time, &want);
    char week[8];
    std::strftime(week, sizeof(week), "%V", &want);
    const std::string text = StrCat(time);
    const auto part = [&](std::string_view name) {
      return Part(&ParseUnixMoment, text, name);
    };
    EXPECT_EQ(part("year"), StrCat(want.tm_year + 1900)) << text;
    EXPECT_EQ(part("month_day"), StrCat((want.tm_mon + 1) * 100 + want.tm_mday))
        << text;
    EXPECT_EQ(part("weekday"), StrCat((want.tm_wday + 6) % 7)) << text;
    EXPECT_EQ(part("week"), StrCat(std::atoi(week))) << text;
    EXPECT_EQ(part("minute_of_day"), StrCat(want.tm_hour * 60 + want.tm_min))
        << text;
  }
  Moment moment;
  EXPECT_NE(ParseUnixMoment("1e18", &moment), nullptr);
}

TEST(WhenTest, RandomTextNeverCrashes) {
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    Random random(seed);
    std::string text;
    for (uint64_t i = random.Below(24); i > 0; --i) {
      text += "0123456789-:T .Z+e"[random.Below(18)];
    }
    for (const Parser parse :
         {&ParseIsoMoment, &ParseUnixMoment, &ParseHhmmMoment}) {
      (void)Part(parse, text, "week");
    }
  }
}

}  // namespace
}  // namespace shoal::worker::input_tests
