#include "worker/report/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include <sys/ioctl.h>

#include "base/strcat.h"

namespace shoal::worker {
namespace {

constexpr int kBarMax = 40;
constexpr int kBarMin = 6;
constexpr std::string_view kEraseLine = "\r\x1b[K";

std::string Formatted(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

// "812", "9.81k", "134.7k", "1.35M".
std::string ShortCount(double value) {
  if (value < 1e3) {
    return Formatted("%.0f", value);
  }
  if (value < 1e6) {
    return Formatted(value < 1e4 ? "%.2fk" : "%.1fk", value / 1e3);
  }
  return Formatted("%.2fM", value / 1e6);
}

// "0:31", "12:05", "1:02:33".
std::string ClockText(double seconds) {
  const auto whole =
      static_cast<int64_t>(std::clamp(seconds, 0.0, 3600.0 * 9999) + 0.5);
  char text[64];
  if (whole < 3600) {
    std::snprintf(text, sizeof(text), "%d:%02d", static_cast<int>(whole / 60),
                  static_cast<int>(whole % 60));
  } else {
    std::snprintf(
        text, sizeof(text), "%d:%02d:%02d", static_cast<int>(whole / 3600),
        static_cast<int>(whole / 60 % 60), static_cast<int>(whole % 60));
  }
  return text;
}

std::string Joined(const std::vector<std::string>& fields) {
  std::string text;
  for (const std::string& field : fields) {
    if (!field.empty()) {
      text += (text.empty() ? "" : "  ") + field;
    }
  }
  return text;
}

std::string Environment(const char* name) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing here changes it.
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool TerminalShowsUnicode() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const std::string value = Environment(name);
    if (!value.empty()) {
      return value.find("UTF-8") != std::string::npos ||
             value.find("utf8") != std::string::npos;
    }
  }
  return false;
}

}  // namespace

Progress::Options Progress::Detect(std::FILE* out) {
  Options options;
  options.out = out;
  const int fd = fileno(out);
  options.terminal =
      fd >= 0 && isatty(fd) == 1 && Environment("TERM") != "dumb";
  options.unicode = TerminalShowsUnicode();
  return options;
}

Progress::Progress(const Options& options, const Clock& clock)
    : options_(options), clock_(clock) {}

Progress::~Progress() {
  if (line_stands_) {
    Write("\n");
  }
}

void Progress::Start(int64_t first_step, int64_t total_steps,
                     int64_t steps_per_epoch) {
  total_steps_ = std::max<int64_t>(total_steps, 0);
  steps_per_epoch_ = std::max<int64_t>(steps_per_epoch, 0);
  started_ = true;
  state_ = {.step = first_step};
  first_ = {.time = clock_.Now(), .step = first_step};
  samples_ = {first_};
  next_draw_ = first_.time;
  if (options_.terminal) {
    Draw();
  } else {
    next_draw_ += options_.print_every;
  }
}

void Progress::Update(const State& state) {
  state_ = state;
  const Time now = clock_.Now();
  if (!started_ || now < next_draw_) {
    return;
  }
  samples_.push_back(
      {.time = now, .step = state.step, .examples = state.examples});
  // The oldest that is kept is the last one old enough.
  while (samples_.size() > 2 && now - samples_[1].time >= options_.rate_over) {
    samples_.pop_front();
  }
  next_draw_ =
      now + (options_.terminal ? options_.redraw_every : options_.print_every);
  Draw();
}

void Progress::Note(std::string_view text) {
  Write(StrCat(line_stands_ ? kEraseLine : "", text, "\n"));
  if (line_stands_) {
    line_stands_ = false;
    Draw();
  }
}

void Progress::Finish() {
  if (!started_) {
    return;
  }
  started_ = false;
  const double seconds = ToSeconds(clock_.Now() - first_.time);
  const auto examples = static_cast<double>(state_.examples);
  const std::string line = Joined(
      {StrCat("trained ", state_.step - first_.step, " steps, ",
              ShortCount(examples), " examples in ", Formatted("%.1f", seconds),
              " s"),
       seconds > 0 ? StrCat(ShortCount(examples / seconds), " examples/s") : "",
       state_.loss.has_value() ? "loss " + Formatted("%.4f", *state_.loss)
                               : ""});
  Write(StrCat(line_stands_ ? kEraseLine : "", line, "\n"));
  line_stands_ = false;
}

Progress::Speed Progress::RecentSpeed() const {
  const Sample& from = samples_.front();
  const Sample& to = samples_.back();
  const double seconds = ToSeconds(to.time - from.time);
  if (seconds <= 0) {
    return {};
  }
  return {
      .examples = static_cast<double>(to.examples - from.examples) / seconds,
      .steps = static_cast<double>(to.step - from.step) / seconds};
}

std::string Progress::EpochText() const {
  if (steps_per_epoch_ == 0) {
    return "";
  }
  // The step under way, or the last one.
  const int64_t epoch =
      std::max<int64_t>(state_.step - 1, 0) / steps_per_epoch_ + 1;
  const int64_t epochs =
      (total_steps_ + steps_per_epoch_ - 1) / steps_per_epoch_;
  return epochs > 0 ? StrCat("epoch ", std::min(epoch, epochs), "/", epochs)
                    : StrCat("epoch ", epoch);
}

std::vector<std::string> Progress::Fields() const {
  const Speed speed = RecentSpeed();
  std::vector<std::string> fields;
  if (total_steps_ > 0) {
    fields.push_back(StrCat("step ", state_.step, "/", total_steps_));
  } else {
    fields.push_back(StrCat("step ", state_.step));
  }
  if (state_.loss.has_value()) {
    fields.push_back("loss " + Formatted("%.4f", *state_.loss));
  }
  if (speed.examples > 0) {
    fields.push_back(ShortCount(speed.examples) + " examples/s");
  }
  const int64_t steps_left = total_steps_ - state_.step;
  if (speed.steps > 0 && steps_left > 0) {
    fields.push_back(ClockText(static_cast<double>(steps_left) / speed.steps) +
                     " left");
  }
  return fields;
}

double Progress::Share() const {
  return total_steps_ == 0 ? 0
                           : std::clamp(static_cast<double>(state_.step) /
                                            static_cast<double>(total_steps_),
                                        0.0, 1.0);
}

std::string Progress::PlainLine() const {
  std::vector<std::string> fields = Fields();
  if (total_steps_ > 0) {
    fields.front() += Formatted(" (%.0f%%)", std::floor(100 * Share()));
  }
  fields.insert(fields.begin(), EpochText());
  return Joined(fields);
}

std::string Progress::BarLine(int columns) const {
  const std::string rest = Joined(Fields());
  const std::string percent =
      total_steps_ > 0 ? Formatted("%3.0f%%", std::floor(100 * Share())) : "";
  const std::string plain = Joined({EpochText(), percent, rest});
  // The last column stays free: some terminals wrap when it is written.
  const int free = columns - 1 - static_cast<int>(plain.size()) - 2;
  if (total_steps_ > 0 && free >= kBarMin) {
    return Joined({EpochText(), Bar(std::min(free, kBarMax)), percent, rest});
  }
  return plain.substr(0, static_cast<size_t>(std::max(columns - 1, 0)));
}

std::string Progress::Bar(int width) const {
  const int full = static_cast<int>(Share() * width);
  std::string bar;
  for (int i = 0; i < width; ++i) {
    if (options_.unicode) {
      bar += i < full ? "━" : "─";
    } else {
      bar += i < full ? "=" : i == full ? ">" : ".";
    }
  }
  return bar;
}

int Progress::Columns() const {
  if (options_.columns > 0) {
    return options_.columns;
  }
  winsize size{};
  const int fd = fileno(options_.out);
  return fd >= 0 && ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0
             ? size.ws_col
             : 80;
}

void Progress::Draw() {
  if (options_.terminal) {
    Write(StrCat(kEraseLine, BarLine(Columns())));
    line_stands_ = true;
  } else {
    Write(PlainLine() + "\n");
  }
}

void Progress::Write(std::string_view text) {
  (void)std::fwrite(text.data(), 1, text.size(), options_.out);
  (void)std::fflush(options_.out);
}

}  // namespace shoal::worker
