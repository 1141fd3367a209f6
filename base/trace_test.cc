#include "base/trace.h"

#include <algorithm>
#include <atomic>
#include <latch>
#include <map>
#include <set>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <nlohmann/json.hpp>

namespace shoal {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

// The tracer belongs to the process: each test starts anew and stops at its
// end.
class TraceTest : public testing::Test {
 protected:
  ~TraceTest() override { StopTrace(); }

  // As a viewer reads it: one JSON value.
  json Written(std::string_view role = "worker 1") {
    EXPECT_TRUE(WriteTrace(storage_, "t.json", role).ok());
    return Read("t.json");
  }
  json Read(const std::string& path) {
    const StatusOr<Buffer> file = storage_.ReadFile(path);
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? json::parse(file->text()) : json();
  }
  Status Put(const std::string& path, std::string_view text) {
    const Buffer piece = Buffer::CopyOf(text);
    return storage_.PublishFile(path, {&piece, 1});
  }

  MemoryStorage storage_;
};

std::vector<json> TimedEvents(const json& trace) {
  std::vector<json> events;
  for (const json& event : trace["traceEvents"]) {
    if (event["ph"] == "X") {
      events.push_back(event);
    }
  }
  return events;
}

// Names of the rows by (pid, tid).
std::map<std::pair<int, int>, std::string> TraceRows(const json& trace) {
  std::map<std::pair<int, int>, std::string> rows;
  for (const json& event : trace["traceEvents"]) {
    if (event["name"] == "thread_name") {
      rows[{event["pid"], event["tid"]}] = event["args"]["name"];
    }
  }
  return rows;
}

std::string RowOf(const json& trace, const json& event) {
  return TraceRows(trace)[{event["pid"], event["tid"]}];
}

Time At(int64_t microseconds) {
  return Time(std::chrono::microseconds(microseconds));
}

TEST_F(TraceTest, OffRecordsNothing) {
  StartTrace();
  StopTrace();
  { SHOAL_TRACE("span"); }
  RecordTrace("pull", 1, At(1), At(2));
  RecordTraceCall({.name = "op", .begin = At(1), .end = At(2)});
  EXPECT_TRUE(TimedEvents(Written()).empty());
}

TEST_F(TraceTest, EventsHaveNameCategoryNumberAndTimes) {
  StartTrace();
  SetTraceThreadName("compute");
  RecordTraceCall({.name = "logits",
                   .category = "MatMul",
                   .number = 7,
                   .begin = At(1000),
                   .end = Time(1002500ns)});
  RecordTraceCall({.name = "plain", .begin = At(2000), .end = At(2001)});
  const json trace = Written("worker 1");
  const std::vector<json> events = TimedEvents(trace);
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[0]["name"], "logits");
  EXPECT_EQ(events[0]["cat"], "MatMul");
  EXPECT_EQ(events[0]["args"]["number"], 7);
  EXPECT_EQ(events[0]["ts"], 1000.0);
  EXPECT_EQ(events[0]["dur"], 2.5);
  EXPECT_FALSE(events[1].contains("cat"));
  EXPECT_FALSE(events[1].contains("args"));
  EXPECT_EQ(RowOf(trace, events[0]), "compute");
  EXPECT_EQ(trace["traceEvents"][0]["args"]["name"], "worker 1");
}

TEST_F(TraceTest, SpansNestInTheirThreadsRow) {
  StartTrace();
  {
    const TraceSpan outer("outer", 3);
    SHOAL_TRACE("inner", 4);
    SHOAL_TRACE("inner too");
  }
  const std::vector<json> events = TimedEvents(Written());
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0]["name"], "outer");
  EXPECT_EQ(events[0]["args"]["number"], 3);
  const double outer_end =
      events[0]["ts"].get<double>() + events[0]["dur"].get<double>();
  for (const json& event : events) {
    EXPECT_EQ(event["tid"], events[0]["tid"]);
    EXPECT_GE(event["ts"].get<double>(), events[0]["ts"].get<double>());
    // Microseconds with three places, read as doubles.
    EXPECT_LE(event["ts"].get<double>() + event["dur"].get<double>(),
              outer_end + 1e-3);
  }
}

TEST_F(TraceTest, OverlappingWaitsGetRowsOfTheirOwn) {
  StartTrace();
  SetTraceThreadName("node");
  RecordTrace("pull", 1, At(0), At(10));
  RecordTrace("pull", 2, At(5), At(20));   // while 1 is under way
  RecordTrace("pull", 3, At(10), At(12));  // 1 has just ended
  RecordTrace("push", 1, At(6), At(8));
  const json trace = Written();
  std::map<std::string, std::set<int>> tids;
  std::map<int, int> tid_of_pull;
  for (const json& event : TimedEvents(trace)) {
    tids[RowOf(trace, event)].insert(event["tid"].get<int>());
    if (event["name"] == "pull") {
      tid_of_pull[event["args"]["number"]] = event["tid"];
    }
  }
  EXPECT_EQ(tids["node: pull"].size(), 2U);
  EXPECT_EQ(tids["node: push"].size(), 1U);
  EXPECT_NE(tid_of_pull[1], tid_of_pull[2]);
  EXPECT_EQ(tid_of_pull[1], tid_of_pull[3]);
}

TEST_F(TraceTest, FullMemoryDropsAndCounts) {
  StartTrace({.events_per_thread_max = 3});
  for (int i = 0; i < 10; ++i) {
    RecordTrace("pull", i, At(i), At(i + 1));
  }
  const json trace = Written();
  EXPECT_EQ(TimedEvents(trace).size(), 3U);
  EXPECT_EQ(trace["otherData"]["dropped_events"], 7);
}

TEST_F(TraceTest, StartingAgainForgetsAndKeepsThreadNames) {
  SetTraceThreadName("early");
  StartTrace();
  RecordTrace("old", 1, At(0), At(1));
  StartTrace();
  RecordTrace("new", 2, At(0), At(1));
  const json trace = Written();
  ASSERT_EQ(TimedEvents(trace).size(), 1U);
  EXPECT_EQ(TimedEvents(trace)[0]["name"], "new");
  EXPECT_EQ(RowOf(trace, TimedEvents(trace)[0]), "early: new");
}

TEST_F(TraceTest, LongAndBrokenNamesAreCutAndEscaped) {
  StartTrace();
  // 46 bytes, then a two-byte character that the bound cuts.
  const std::string name = std::string(46, 'x') + "\xc3\xa9";
  RecordTraceCall(
      {.name = name, .category = "\"quoted\"\\", .begin = At(0), .end = At(1)});
  const std::vector<json> events = TimedEvents(Written("a \"role\""));
  ASSERT_EQ(events.size(), 1U);
  EXPECT_THAT(events[0]["name"].get<std::string>(),
              HasSubstr(std::string(46, 'x')));
  EXPECT_EQ(events[0]["cat"], "\"quoted\"\\");
}

// ThreadSanitizer watches this one.
TEST_F(TraceTest, ThreadsRecordWhileFilesAreWritten) {
  constexpr size_t kThreads = 3;
  constexpr int kEventsMax = 3000;
  StartTrace();
  std::atomic<bool> stop = false;
  std::latch under_way(kThreads);
  std::vector<int> num_recorded(kThreads, 0);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([t, &stop, &num_recorded, &under_way] {
      SetTraceThreadName("t" + std::to_string(t));
      { SHOAL_TRACE("work", num_recorded[t]++); }
      under_way.count_down();
      while (!stop && num_recorded[t] < kEventsMax) {
        SHOAL_TRACE("work", num_recorded[t]++);
      }
      SetTraceThreadName("done " + std::to_string(t));
    });
  }
  under_way.wait();
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(WriteTrace(storage_, "t.json", "worker 1").ok());
    Read("t.json");  // whole, whatever the threads do
  }
  stop = true;
  for (std::thread& thread : threads) {
    thread.join();
  }
  const json trace = Written();
  const auto rows = TraceRows(trace);
  std::map<std::string, int> next;
  for (const json& event : TimedEvents(trace)) {
    const std::string row = rows.at({event["pid"], event["tid"]});
    EXPECT_EQ(event["args"]["number"], next[row]) << row;
    ++next[row];
  }
  ASSERT_EQ(next.size(), kThreads);
  for (size_t t = 0; t < kThreads; ++t) {
    EXPECT_EQ(next["done " + std::to_string(t)], num_recorded[t]);
  }
}

TEST_F(TraceTest, MergeShiftsToZeroAndKeepsProcessesApart) {
  StartTrace();
  SetTraceThreadName("main");
  // A host that has been up for a month.
  const Time boot = Time(std::chrono::hours(24 * 31));
  RecordTraceCall({.name = "a", .begin = boot + 2us, .end = boot + 5us});
  ASSERT_TRUE(WriteTrace(storage_, "0.json", "server 0").ok());
  StartTrace({.events_per_thread_max = 1});
  RecordTraceCall({.name = "b", .begin = boot + 1ns, .end = boot + 4us});
  RecordTraceCall({.name = "dropped", .begin = boot, .end = boot});
  ASSERT_TRUE(WriteTrace(storage_, "1.json", "worker 0").ok());

  const std::vector<std::string> paths = {"0.json", "1.json"};
  ASSERT_TRUE(MergeTraces(storage_, paths, "trace.json").ok());
  const json trace = Read("trace.json");
  const std::vector<json> events = TimedEvents(trace);
  ASSERT_EQ(events.size(), 2U);
  EXPECT_NE(events[0]["pid"], events[1]["pid"]);
  EXPECT_NEAR(events[0]["ts"].get<double>(), 1.999, 1e-9);
  EXPECT_EQ(events[1]["ts"], 0.0);
  EXPECT_EQ(trace["otherData"]["dropped_events"], 1);
  std::map<int, std::string> processes;
  for (const json& event : trace["traceEvents"]) {
    if (event["name"] == "process_name") {
      processes[event["pid"]] = event["args"]["name"];
    }
  }
  EXPECT_THAT(processes,
              ElementsAre(std::pair(1, "server 0"), std::pair(2, "worker 0")));
}

TEST_F(TraceTest, MergeRefusesWhatIsNoTraceAndWritesNothing) {
  StartTrace();
  RecordTrace("pull", 1, At(0), At(1));
  ASSERT_TRUE(WriteTrace(storage_, "whole.json", "worker 0").ok());
  const std::string whole(storage_.ReadFile("whole.json")->text());
  const size_t lines = std::count(whole.begin(), whole.end(), '\n');
  ASSERT_GT(lines, 3U);
  for (const std::string& text :
       {std::string(), std::string("{}\n"), std::string("[1, 2]\n"),
        whole.substr(0, whole.size() - 4), whole.substr(0, whole.size() / 2),
        whole.substr(0, whole.find('\n') + 1) + "[]\n]}\n"}) {
    ASSERT_TRUE(Put("bad.json", text).ok());
    const std::vector<std::string> paths = {"whole.json", "bad.json"};
    const Status status = MergeTraces(storage_, paths, "trace.json");
    EXPECT_EQ(status.code(), StatusCode::kDataLoss) << text;
    EXPECT_THAT(status.message(), HasSubstr("bad.json:"));
    EXPECT_FALSE(storage_.ReadFile("trace.json").ok());
  }
  const std::vector<std::string> paths = {"none.json"};
  EXPECT_EQ(MergeTraces(storage_, paths, "trace.json").code(),
            StatusCode::kNotFound);
}

TEST_F(TraceTest, FullDiskIsReported) {
  StartTrace();
  RecordTrace("pull", 1, At(0), At(1));
  storage_.SetCapacity(10);
  EXPECT_EQ(WriteTrace(storage_, "t.json", "worker 0").code(),
            StatusCode::kResourceExhausted);
}

TEST(TraceFileNameTest, RoleBecomesAPlainName) {
  EXPECT_EQ(TraceFileName("worker 12"), "trace-worker-12.json");
  EXPECT_EQ(TraceFileName("../x"), "trace----x.json");
  EXPECT_TRUE(IsTraceFileName(TraceFileName("../x")));
  EXPECT_FALSE(IsTraceFileName("notes.json"));
  EXPECT_FALSE(IsTraceFileName("trace-worker-12.txt"));
}

}  // namespace
}  // namespace shoal
