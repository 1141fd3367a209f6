#include "base/trace.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/mutex.h"
#include "base/strcat.h"

namespace shoal {
namespace internal {
std::atomic<bool> trace_on = false;
}  // namespace internal

namespace {

using Json = nlohmann::json;

constexpr int64_t kEventsPerThreadMax = int64_t{1} << 24;

// Text of bounded length, kept where it is: an event may outlive the name that
// it was given.
template <size_t kSize>
struct FixedText {
  std::array<char, kSize> bytes;  // ends with a zero

  void Set(std::string_view text) {
    const size_t size = std::min(text.size(), kSize - 1);
    std::copy_n(text.data(), size, bytes.data());
    bytes[size] = '\0';
  }
  std::string_view view() const { return bytes.data(); }
};

struct RecordedEvent {
  FixedText<48> name;
  FixedText<16> category;
  int64_t number;
  int64_t begin_ns;
  int64_t end_ns;
  bool own_row;
};

// Written by one thread. Events below `size` are never touched again, so anyone
// may read them.
struct ThreadEvents {
  std::unique_ptr<RecordedEvent[]> events;
  size_t capacity = 0;
  std::atomic<size_t> size = 0;
  std::atomic<int64_t> dropped = 0;
};

struct NamedThread {
  std::string name;
  std::shared_ptr<ThreadEvents> events;
};

struct TraceState {
  Mutex mutex;
  std::vector<NamedThread> threads SHOAL_GUARDED_BY(mutex);
  size_t capacity SHOAL_GUARDED_BY(mutex) = 0;
  // Counts StartTrace(); a thread's events belong to one of them.
  std::atomic<uint64_t> generation = 0;
};

// Never destroyed: threads may outlive main().
TraceState& State() {
  static TraceState& state = *new TraceState;
  return state;
}

struct ThisThread {
  std::string name;
  uint64_t generation = 0;
  size_t index = 0;  // in TraceState::threads
  std::shared_ptr<ThreadEvents> events;
};

thread_local ThisThread this_thread;

// Gives the calling thread its memory for this generation.
void EnterTrace() {
  TraceState& state = State();
  const MutexLock lock(state.mutex);
  auto events = std::make_shared<ThreadEvents>();
  events->capacity = state.capacity;
  // Not initialized, so that pages come only as they are written.
  events->events =
      std::make_unique_for_overwrite<RecordedEvent[]>(state.capacity);
  this_thread.generation = state.generation.load(std::memory_order_relaxed);
  this_thread.index = state.threads.size();
  this_thread.events = events;
  const std::string name = this_thread.name.empty()
                               ? StrCat("thread ", this_thread.index + 1)
                               : this_thread.name;
  state.threads.push_back({name, std::move(events)});
}

void Record(const TraceEvent& event, bool own_row) {
  if (!TraceIsOn()) {
    return;
  }
  if (this_thread.generation !=
      State().generation.load(std::memory_order_acquire)) [[unlikely]] {
    EnterTrace();
  }
  ThreadEvents& mine = *this_thread.events;
  const size_t size = mine.size.load(std::memory_order_relaxed);
  if (size == mine.capacity) {
    mine.dropped.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  RecordedEvent& to = mine.events[size];
  to.name.Set(event.name);
  to.category.Set(event.category);
  to.number = event.number;
  to.begin_ns = event.begin.time_since_epoch().count();
  to.end_ns = std::max(to.begin_ns, event.end.time_since_epoch().count());
  to.own_row = own_row;
  mine.size.store(size + 1, std::memory_order_release);
}

double Microseconds(int64_t ns) { return static_cast<double>(ns) / 1e3; }

// The text of a trace file: a head that is JSON once `]}` follows it, then a
// line per event. Kept in pieces, so that it never has to move as a whole.
class TraceText {
 public:
  TraceText(std::string_view role, int64_t dropped) {
    Json head;
    head["role"] = role;
    head["dropped_events"] = dropped;
    text_ = StrCat(R"({"displayTimeUnit":"ns","otherData":)", Dump(head),
                   R"(,"traceEvents":[)");
  }

  void Add(const Json& event) {
    text_ += has_events_ ? ",\n" : "\n";
    has_events_ = true;
    text_ += Dump(event);
    if (text_.size() >= kPieceSize) {
      Cut();
    }
  }

  Status Publish(Storage& storage, const std::string& path) {
    text_ += "\n]}\n";
    Cut();
    return storage.PublishFile(path, pieces_);
  }

 private:
  static constexpr size_t kPieceSize = size_t{1} << 20;

  static std::string Dump(const Json& json) {
    // A name that was cut inside a character must not throw.
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
  }

  void Cut() {
    pieces_.push_back(Buffer::CopyOf(text_));
    text_.clear();
  }

  std::string text_;
  std::vector<Buffer> pieces_;
  bool has_events_ = false;
};

Json MetaEvent(std::string_view what, int pid, int64_t tid, Json args) {
  return {{"ph", "M"},
          {"name", what},
          {"pid", pid},
          {"tid", tid},
          {"args", std::move(args)}};
}

Json CallEvent(const RecordedEvent& event, int64_t tid) {
  Json json = {{"ph", "X"},
               {"name", event.name.view()},
               {"pid", 1},
               {"tid", tid},
               {"ts", Microseconds(event.begin_ns)},
               {"dur", Microseconds(event.end_ns - event.begin_ns)}};
  if (!event.category.view().empty()) {
    json["cat"] = event.category.view();
  }
  if (event.number >= 0) {
    json["args"] = {{"number", event.number}};
  }
  return json;
}

// The rows that a thread's own-row events of one name need: each event goes to
// the first row that is free by then.
class Rows {
 public:
  size_t Place(const RecordedEvent& event) {
    size_t row = 0;
    while (row < free_from_.size() && free_from_[row] > event.begin_ns) {
      ++row;
    }
    if (row == free_from_.size()) {
      free_from_.push_back(0);
    }
    free_from_[row] = event.end_ns;
    return row;
  }

 private:
  std::vector<int64_t> free_from_;
};

class TraceFileWriter {
 public:
  explicit TraceFileWriter(TraceText& text) : text_(text) {}

  void AddThread(const NamedThread& thread) {
    const ThreadEvents& from = *thread.events;
    const size_t size = from.size.load(std::memory_order_acquire);
    std::vector<const RecordedEvent*> events(size);
    for (size_t i = 0; i < size; ++i) {
      events[i] = &from.events[i];
    }
    // Callers before what they call, also where both began at once.
    std::stable_sort(events.begin(), events.end(),
                     [](const RecordedEvent* a, const RecordedEvent* b) {
                       return a->begin_ns != b->begin_ns
                                  ? a->begin_ns < b->begin_ns
                                  : a->end_ns > b->end_ns;
                     });
    const int64_t own_tid = AddRow(thread.name);
    std::map<std::string_view, Rows> rows_by_name;
    std::map<std::pair<std::string_view, size_t>, int64_t> tids;
    for (const RecordedEvent* event : events) {
      int64_t tid = own_tid;
      if (event->own_row) {
        const std::string_view name = event->name.view();
        const size_t row = rows_by_name[name].Place(*event);
        int64_t& known = tids[{name, row}];
        if (known == 0) {
          known = AddRow(StrCat(thread.name, ": ", name));
        }
        tid = known;
      }
      text_.Add(CallEvent(*event, tid));
    }
  }

 private:
  // Rows are shown in the order in which they were added.
  int64_t AddRow(const std::string& name) {
    const int64_t tid = ++num_rows_;
    text_.Add(MetaEvent("thread_name", 1, tid, {{"name", name}}));
    text_.Add(MetaEvent("thread_sort_index", 1, tid, {{"sort_index", tid}}));
    return tid;
  }

  TraceText& text_;
  int64_t num_rows_ = 0;
};

// A file of WriteTrace(), read line by line: a whole trace as one JSON value
// would take many times its size.
class TraceLines {
 public:
  TraceLines(const std::string& path, std::string_view text)
      : path_(path), rest_(text) {}

  // Reads the head. Returns what was dropped.
  StatusOr<int64_t> Head() {
    const Json head = Parse(StrCat(Next(), "]}"));
    const Json* other = Member(head, "otherData");
    const Json* dropped = other ? Member(*other, "dropped_events") : nullptr;
    if (dropped == nullptr || !dropped->is_number_integer()) {
      return Bad("is no head of a trace file");
    }
    return dropped->get<int64_t>();
  }

  // The next event; none after the last.
  StatusOr<std::optional<Json>> Event() {
    std::string_view line = Next();
    if (line == "]}") {
      return std::optional<Json>();
    }
    if (line.ends_with(',')) {
      line.remove_suffix(1);
    }
    Json event = Parse(line);
    const Json* pid = Member(event, "pid");
    const Json* ts = Member(event, "ts");
    if (pid == nullptr || !pid->is_number_integer() ||
        (ts != nullptr && !ts->is_number())) {
      return Bad("is no event; the file is cut off or no trace");
    }
    return std::optional<Json>(std::move(event));
  }

 private:
  std::string_view Next() {
    ++line_;
    const std::string_view line = rest_.substr(0, rest_.find('\n'));
    rest_.remove_prefix(std::min(rest_.size(), line.size() + 1));
    return line;
  }

  static Json Parse(std::string_view text) {
    return Json::parse(text, nullptr, /*allow_exceptions=*/false);
  }

  static const Json* Member(const Json& json, const char* key) {
    if (!json.is_object()) {
      return nullptr;
    }
    const auto it = json.find(key);
    return it == json.end() ? nullptr : &*it;
  }

  Status Bad(std::string_view what) const {
    return DataLossError(StrCat(path_, ":", line_, ": the line ", what));
  }

  const std::string& path_;
  std::string_view rest_;
  int64_t line_ = 0;
};

}  // namespace

void StartTrace(const TraceOptions& options) {
  TraceState& state = State();
  const MutexLock lock(state.mutex);
  state.threads.clear();
  state.capacity = static_cast<size_t>(std::clamp<int64_t>(
      options.events_per_thread_max, 1, kEventsPerThreadMax));
  state.generation.fetch_add(1, std::memory_order_release);
  internal::trace_on.store(true, std::memory_order_relaxed);
}

void StopTrace() { internal::trace_on.store(false, std::memory_order_relaxed); }

void SetTraceThreadName(std::string_view name) {
  this_thread.name = name;
  TraceState& state = State();
  const MutexLock lock(state.mutex);
  if (this_thread.events != nullptr &&
      this_thread.generation ==
          state.generation.load(std::memory_order_relaxed)) {
    state.threads[this_thread.index].name = name;
  }
}

void RecordTraceCall(const TraceEvent& event) { Record(event, false); }
void RecordTrace(const TraceEvent& event) { Record(event, true); }

std::string TraceFileName(std::string_view role) {
  std::string name = "trace-";
  for (const char c : role) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       (c >= '0' && c <= '9') || c == '_';
    name += plain ? c : '-';
  }
  return name + ".json";
}

bool IsTraceFileName(std::string_view name) {
  return name.starts_with("trace-") && name.ends_with(".json");
}

Status WriteTrace(Storage& storage, const std::string& path,
                  std::string_view role) {
  std::vector<NamedThread> threads;
  {
    TraceState& state = State();
    const MutexLock lock(state.mutex);
    threads = state.threads;
  }
  int64_t dropped = 0;
  for (const NamedThread& thread : threads) {
    dropped += thread.events->dropped.load(std::memory_order_relaxed);
  }
  if (dropped > 0) {
    LogWarning("trace: ", dropped,
               " events came after a thread's memory was full and are not in ",
               path);
  }
  TraceText text(role, dropped);
  text.Add(MetaEvent("process_name", 1, 0, {{"name", role}}));
  TraceFileWriter writer(text);
  for (const NamedThread& thread : threads) {
    writer.AddThread(thread);
  }
  return text.Publish(storage, path);
}

Status MergeTraces(Storage& storage, std::span<const std::string> paths,
                   const std::string& merged_path) {
  std::vector<Buffer> files;
  int64_t dropped = 0;
  double start = std::numeric_limits<double>::infinity();
  // All is read once before the first line is written: for errors, and to know
  // when the timeline starts.
  for (const std::string& path : paths) {
    SHOAL_ASSIGN_OR_RETURN(Buffer file, storage.ReadFile(path));
    TraceLines lines(path, file.text());
    SHOAL_ASSIGN_OR_RETURN(const int64_t dropped_here, lines.Head());
    dropped += dropped_here;
    for (;;) {
      SHOAL_ASSIGN_OR_RETURN(const std::optional<Json> event, lines.Event());
      if (!event.has_value()) {
        break;
      }
      if (event->contains("ts")) {
        start = std::min(start, event->at("ts").get<double>());
      }
    }
    files.push_back(std::move(file));
  }
  TraceText text("all", dropped);
  for (size_t i = 0; i < files.size(); ++i) {
    const int pid = static_cast<int>(i) + 1;
    TraceLines lines(paths[i], files[i].text());
    SHOAL_RETURN_IF_ERROR(lines.Head().status());
    text.Add(MetaEvent("process_sort_index", pid, 0, {{"sort_index", pid}}));
    for (;;) {
      SHOAL_ASSIGN_OR_RETURN(std::optional<Json> event, lines.Event());
      if (!event.has_value()) {
        break;
      }
      (*event)["pid"] = pid;
      if (event->contains("ts")) {
        // To whole nanoseconds: the difference of large numbers has none.
        const double ns =
            std::round((event->at("ts").get<double>() - start) * 1e3);
        (*event)["ts"] = ns / 1e3;
      }
      text.Add(*event);
    }
  }
  return text.Publish(storage, merged_path);
}

}  // namespace shoal
