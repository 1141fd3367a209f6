#ifndef SHOAL_BASE_TRACE_H_
#define SHOAL_BASE_TRACE_H_

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "base/storage.h"
#include "base/time.h"

namespace shoal {

// The timeline of this process, for ui.perfetto.dev or chrome://tracing. It is
// off until StartTrace(), and then costs one atomic load per event. While it is
// on, each thread writes to memory of its own: no lock and, after a thread's
// first event, no allocation. All functions are thread-safe.
struct TraceOptions {
  // Per thread; what comes after is dropped and counted. 96 bytes each, of
  // memory that is touched only as events come.
  int64_t events_per_thread_max = int64_t{1} << 16;
};

// Begins an empty timeline; an earlier one is forgotten.
void StartTrace(const TraceOptions& options = {});
// Events that come later are ignored; those that there are stay.
void StopTrace();

namespace internal {
extern std::atomic<bool> trace_on;
}  // namespace internal

inline bool TraceIsOn() {
  return internal::trace_on.load(std::memory_order_relaxed);
}

// Names the calling thread in the timeline: "worker 0 compute". Works before
// StartTrace() too.
void SetTraceThreadName(std::string_view name);

struct TraceEvent {
  std::string_view name;           // the first 47 bytes are kept
  std::string_view category = {};  // the first 15 bytes are kept
  int64_t number = -1;             // the step or the like; below 0: none
  Time begin;
  Time end;
};

// Something that ran on the calling thread: in its row. Events of a row must
// nest, as the calls of a thread do.
void RecordTraceCall(const TraceEvent& event);

// Something that the calling thread waited for or watched: in a row of its own
// that bears its name, so that it may overlap with everything.
void RecordTrace(const TraceEvent& event);
inline void RecordTrace(std::string_view name, int64_t number, Time begin,
                        Time end) {
  if (TraceIsOn()) {
    RecordTrace({.name = name, .number = number, .begin = begin, .end = end});
  }
}

// Records the time from its making to its end as a call. `name` must live as
// long as the span.
class TraceSpan {
 public:
  explicit TraceSpan(std::string_view name, int64_t number = -1)
      : name_(name), number_(number), on_(TraceIsOn()) {
    if (on_) {
      begin_ = std::chrono::steady_clock::now();
    }
  }
  ~TraceSpan() {
    if (on_) {
      RecordTraceCall({.name = name_,
                       .number = number_,
                       .begin = begin_,
                       .end = std::chrono::steady_clock::now()});
    }
  }
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

 private:
  std::string_view name_;
  int64_t number_;
  bool on_;
  Time begin_;
};

// SHOAL_TRACE("read") or SHOAL_TRACE("read", step): from here to the end of the
// block.
#define SHOAL_TRACE(...)                                   \
  const ::shoal::TraceSpan SHOAL_CONCAT(shoal_trace_span_, \
                                        __LINE__)(__VA_ARGS__)

// "trace-worker-1.json" for the role "worker 1".
std::string TraceFileName(std::string_view role);
bool IsTraceFileName(std::string_view name);

// Publishes what was recorded so far as Chrome's trace JSON, one event a line.
// `role` ("worker 1") names the process in it. Errors: those of PublishFile().
Status WriteTrace(Storage& storage, const std::string& path,
                  std::string_view role);

// Joins files of WriteTrace() into one timeline that starts at zero. The clock
// is the host's, so files of several hosts do not line up. Holds all of them in
// memory. Errors: those of ReadFile() and PublishFile(); kDataLoss (not such a
// file, or cut off; file and line are named).
Status MergeTraces(Storage& storage, std::span<const std::string> paths,
                   const std::string& merged_path);

}  // namespace shoal

#endif  // SHOAL_BASE_TRACE_H_
