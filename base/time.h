#ifndef SHOAL_BASE_TIME_H_
#define SHOAL_BASE_TIME_H_

#include <chrono>
#include <string>

namespace shoal {

using Duration = std::chrono::nanoseconds;

// A point on a clock that only goes forward. Where it starts means nothing.
using Time = std::chrono::time_point<std::chrono::steady_clock, Duration>;

using std::chrono_literals::operator""s;
using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""us;
using std::chrono_literals::operator""ns;

// "1.5 s", "20 ms", "7 us".
std::string ToString(Duration duration);

inline double ToSeconds(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}
inline Duration FromSeconds(double seconds) {
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(seconds));
}

// Passed to whatever needs the time, so that a simulation can own it.
// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual Time Now() const = 0;
};

// The machine's clock.
class SystemClock : public Clock {
 public:
  Time Now() const override { return std::chrono::steady_clock::now(); }
};

}  // namespace shoal

#endif  // SHOAL_BASE_TIME_H_
