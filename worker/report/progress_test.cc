#include "worker/report/progress.h"

#include <unistd.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal::worker {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

class HandClock : public Clock {
 public:
  Time Now() const override { return now_; }
  void Advance(Duration by) { now_ += by; }

 private:
  Time now_ = Time(std::chrono::hours(5));
};

class ProgressTest : public testing::Test {
 protected:
  ProgressTest() { out_ = std::tmpfile(); }
  ~ProgressTest() override { std::fclose(out_); }

  Progress::Options Plain() { return {.out = out_}; }
  Progress::Options Terminal(int columns) {
    return {.out = out_, .terminal = true, .columns = columns};
  }

  // What was written since the last call.
  std::string Taken() {
    std::string text;
    std::fseek(out_, read_until_, SEEK_SET);
    for (int c = std::fgetc(out_); c != EOF; c = std::fgetc(out_)) {
      text += static_cast<char>(c);
    }
    read_until_ += static_cast<int64_t>(text.size());
    std::fseek(out_, 0, SEEK_END);
    return text;
  }

  HandClock clock_;
  std::FILE* out_;
  int64_t read_until_ = 0;
};

// The last line as a terminal would show it.
std::string Shown(const std::string& text) {
  const size_t at = text.rfind("\r\x1b[K");
  return at == std::string::npos ? text : text.substr(at + 4);
}

TEST_F(ProgressTest, PlainLinesComeEveryFewSeconds) {
  Progress progress(Plain(), clock_);
  progress.Start(0, 1000, 400);
  for (int i = 1; i <= 49; ++i) {
    clock_.Advance(100ms);
    progress.Update({.step = i * 10, .examples = i * 1000, .loss = 0.5});
  }
  EXPECT_THAT(Taken(), IsEmpty());
  clock_.Advance(100ms);
  progress.Update({.step = 500, .examples = 50000, .loss = 0.25});
  EXPECT_EQ(Taken(),
            "epoch 2/3  step 500/1000 (50%)  loss 0.2500  10.0k examples/s  "
            "0:05 left\n");
  clock_.Advance(1s);
  progress.Update({.step = 600, .examples = 60000, .loss = 0.25});
  EXPECT_THAT(Taken(), IsEmpty());
}

TEST_F(ProgressTest, SpeedLooksBackAFewSecondsOnly) {
  Progress progress(Plain(), clock_);
  progress.Start(0, 10000, 0);
  // Ten slow seconds, then fast ones.
  for (const int64_t step : {5, 10, 1010, 2010, 3010}) {
    clock_.Advance(5s);
    progress.Update({.step = step, .examples = step * 10});
  }
  const std::string text = Taken();
  EXPECT_THAT(text, EndsWith("step 3010/10000 (30%)  2.00k examples/s  "
                             "0:35 left\n"));
}

TEST_F(ProgressTest, WithoutATotalThereIsNoTimeLeft) {
  Progress progress(Plain(), clock_);
  progress.Start(0, 0, 10);
  clock_.Advance(6s);
  progress.Update({.step = 25, .examples = 6});
  EXPECT_EQ(Taken(), "epoch 3  step 25  1 examples/s\n");
}

TEST_F(ProgressTest, ARestoredJobCountsItsOwnStepsOnly) {
  Progress progress(Plain(), clock_);
  progress.Start(900, 1000, 0);
  clock_.Advance(10s);
  progress.Update({.step = 950, .examples = 500});
  EXPECT_EQ(Taken(), "step 950/1000 (95%)  50 examples/s  0:10 left\n");
  progress.Finish();
  EXPECT_EQ(Taken(),
            "trained 50 steps, 500 examples in 10.0 s  50 examples/s\n");
}

TEST_F(ProgressTest, TheTerminalLineIsDrawnOverItself) {
  Progress progress(Terminal(100), clock_);
  progress.Start(0, 200, 100);
  Taken();
  clock_.Advance(1s);
  progress.Update({.step = 100, .examples = 51200, .loss = 0.4321});
  const std::string text = Taken();
  EXPECT_THAT(text, StartsWith("\r\x1b[K"));
  EXPECT_THAT(text, Not(HasSubstr("\n")));
  EXPECT_THAT(Shown(text), StartsWith("epoch 1/2  ===="));
  EXPECT_THAT(Shown(text),
              EndsWith(" 50%  step 100/200  loss 0.4321  51.2k examples/s  "
                       "0:01 left"));
  // Too early to draw again.
  clock_.Advance(50ms);
  progress.Update({.step = 110, .examples = 56320, .loss = 0.4});
  EXPECT_THAT(Taken(), IsEmpty());
  clock_.Advance(950ms);
  progress.Update({.step = 200, .examples = 102400, .loss = 0.4});
  EXPECT_THAT(Shown(Taken()), HasSubstr("100%"));
  progress.Finish();
  EXPECT_EQ(Taken(),
            "\r\x1b[Ktrained 200 steps, 102.4k examples in 2.0 s  51.2k "
            "examples/s  loss 0.4000\n");
}

TEST_F(ProgressTest, LinesNeverReachTheLastColumn) {
  for (int columns = 1; columns <= 140; ++columns) {
    Progress progress(Terminal(columns), clock_);
    progress.Start(0, 123456, 1000);
    clock_.Advance(1s);
    progress.Update({.step = 61728, .examples = 12345678, .loss = 0.4321});
    EXPECT_LT(Shown(Taken()).size(), static_cast<size_t>(columns));
    progress.Finish();
    Taken();
  }
}

TEST_F(ProgressTest, UnicodeBarsHaveTheirWidth) {
  Progress::Options options = Terminal(100);
  options.unicode = true;
  Progress progress(options, clock_);
  progress.Start(50, 100, 0);
  const std::string text = Shown(Taken());
  EXPECT_THAT(text, StartsWith("━━"));
  size_t signs = 0;
  for (size_t i = 0; (i = text.find("\xe2\x94", i)) != std::string::npos; ++i) {
    ++signs;
  }
  EXPECT_EQ(signs, 40U);
}

TEST_F(ProgressTest, NotesStandAboveTheBar) {
  Progress progress(Terminal(100), clock_);
  progress.Note("before the start");
  EXPECT_EQ(Taken(), "before the start\n");
  progress.Start(0, 200, 0);
  Taken();
  progress.Note("step 100: test auc 0.8125");
  const std::string text = Taken();
  EXPECT_THAT(text, StartsWith("\r\x1b[Kstep 100: test auc 0.8125\n\r\x1b[K"));
  EXPECT_THAT(Shown(text), HasSubstr("step 0/200"));
}

TEST_F(ProgressTest, AnUnfinishedLineIsEnded) {
  {
    Progress progress(Terminal(100), clock_);
    progress.Start(0, 200, 0);
    Taken();
  }
  EXPECT_EQ(Taken(), "\n");
  {
    Progress progress(Plain(), clock_);
    progress.Start(0, 200, 0);
    clock_.Advance(9s);
    progress.Update({.step = 1});
    Taken();
  }
  EXPECT_THAT(Taken(), IsEmpty());
}

TEST_F(ProgressTest, AFileIsNoTerminal) {
  EXPECT_FALSE(Progress::Detect(out_).terminal);
  EXPECT_EQ(Progress::Detect(out_).out, out_);
}

TEST_F(ProgressTest, AClosedOutputIsIgnored) {
  std::FILE* closed = std::fopen("/dev/null", "r");  // can't be written
  ASSERT_NE(closed, nullptr);
  {
    Progress progress({.out = closed, .terminal = true}, clock_);
    progress.Start(0, 10, 0);
    progress.Finish();
  }
  std::fclose(closed);
}

}  // namespace
}  // namespace shoal::worker
