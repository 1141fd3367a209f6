#ifndef SHOAL_LAUNCH_KUBERNETES_CONSOLE_H_
#define SHOAL_LAUNCH_KUBERNETES_CONSOLE_H_

#include <string>
#include <string_view>

#include "base/mutex.h"

namespace shoal::launch {

// Prints what a followed job tells. Where standard error is a terminal its last
// line shows how things stand and is drawn anew below what is printed.
// Thread-safe.
class Console {
 public:
  Console();
  ~Console();  // Takes the last line away.

  // To standard output: a line of the job's log.
  void Log(std::string_view line);
  // To standard error: what this program has to say.
  void Say(std::string_view line);
  // The last line; only shown on a terminal.
  void SetLine(const std::string& line);

 private:
  void Erase() SHOAL_REQUIRES(mutex_);
  void Draw() SHOAL_REQUIRES(mutex_);

  const bool terminal_;
  Mutex mutex_;
  std::string line_ SHOAL_GUARDED_BY(mutex_);
};

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_KUBERNETES_CONSOLE_H_
