#ifndef SHOAL_WORKER_REPORT_PROGRESS_H_
#define SHOAL_WORKER_REPORT_PROGRESS_H_

#include <cstdint>
#include <cstdio>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/time.h"

namespace shoal::worker {

// Shows how training gets on: on a terminal one line that is drawn again and
// again, elsewhere a plain line every few seconds.
//
// Thread-compatible. Errors of the output are ignored: a closed terminal must
// not end a training.
class Progress {
 public:
  struct Options {
    std::FILE* out = stderr;  // must outlive this object
    bool terminal = false;
    bool unicode = false;  // the bar may use more than ASCII
    int columns = 0;       // 0: asks the terminal before each line
    Duration redraw_every = 100ms;
    Duration print_every = 5s;  // where it is no terminal
    Duration rate_over = 10s;   // speed and time left look back so far
  };

  // Where training stands.
  struct State {
    int64_t step = 0;      // steps done
    int64_t examples = 0;  // seen since Start()
    std::optional<double> loss = {};
  };

  // What `out` and the environment say about terminal and unicode.
  static Options Detect(std::FILE* out);

  // `clock` must outlive this object.
  Progress(const Options& options, const Clock& clock);
  // Ends the line if one stands there.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Training begins at `first_step` of `total_steps` (0: not known); epochs are
  // shown where `steps_per_epoch` > 0.
  void Start(int64_t first_step, int64_t total_steps, int64_t steps_per_epoch);

  // Cheap when it is too early to draw again.
  void Update(const State& state);

  // A line that stays, above the bar: "step 2106: test auc 0.8125".
  void Note(std::string_view text);

  // The last state, with the mean speed of the whole training; ends the line.
  void Finish();

 private:
  struct Sample {
    Time time;
    int64_t step = 0;
    int64_t examples = 0;
  };
  struct Speed {
    double examples = 0;  // per second
    double steps = 0;
  };

  Speed RecentSpeed() const;
  std::string EpochText() const;
  std::vector<std::string> Fields() const;
  double Share() const;  // of the steps that is done, in [0, 1]
  std::string PlainLine() const;
  std::string BarLine(int columns) const;
  std::string Bar(int width) const;
  int Columns() const;
  void Draw();
  void Write(std::string_view text);

  Options options_;
  const Clock& clock_;
  int64_t total_steps_ = 0;
  int64_t steps_per_epoch_ = 0;
  bool started_ = false;
  bool line_stands_ = false;
  State state_;
  Sample first_;
  std::deque<Sample> samples_;
  Time next_draw_;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_REPORT_PROGRESS_H_
