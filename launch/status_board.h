#ifndef SHOAL_LAUNCH_STATUS_BOARD_H_
#define SHOAL_LAUNCH_STATUS_BOARD_H_

#include <map>
#include <string>
#include <string_view>

#include "base/histogram.h"
#include "base/mutex.h"

namespace shoal::launch {

// What a service tells of itself: whether it is ready, and numbers.
// Thread-safe.
class StatusBoard {
 public:
  // Ready when so many parts are (the shards of a server); 1 at first.
  void SetParts(int parts);
  void SetReady(int part, bool ready);
  bool ready() const;

  // `metric`: one of those that status_board.cc describes; `labels` as in the
  // text format: `shard="0"`, or empty.
  void Set(std::string_view metric, std::string_view labels, double value);
  void Set(std::string_view metric, std::string_view labels,
           const Histogram& histogram);

  // Prometheus' text format, version 0.0.4: metrics in the order of their
  // descriptions, those that were set.
  std::string MetricsText() const;

 private:
  mutable Mutex mutex_;
  int parts_ SHOAL_GUARDED_BY(mutex_) = 1;
  std::map<int, bool> ready_ SHOAL_GUARDED_BY(mutex_);
  std::map<std::string, std::map<std::string, double>, std::less<>> values_
      SHOAL_GUARDED_BY(mutex_);
  std::map<std::string, std::map<std::string, Histogram>, std::less<>>
      histograms_ SHOAL_GUARDED_BY(mutex_);
};

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_STATUS_BOARD_H_
