#include "launch/kubernetes/job_view.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <nlohmann/json.hpp>

namespace shoal::launch {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Kind = CollectionChange::Kind;

constexpr char kLabel[] = "app.kubernetes.io/component";

json PodOf(const std::string& component, const std::string& name, json status,
           const std::string& created = "2026-01-01T00:00:00Z") {
  return {{"metadata",
           {{"name", name},
            {"labels", {{kLabel, component}}},
            {"creationTimestamp", created}}},
          {"status", std::move(status)}};
}

json Container(json state, int restarts = 0, json last = json::object()) {
  return {{"phase", "Running"},
          {"containerStatuses",
           {{{"restartCount", restarts},
             {"state", std::move(state)},
             {"lastState", std::move(last)}}}}};
}

json Running(bool ready, int restarts = 0) {
  json status = Container({{"running", {{"startedAt", "then"}}}}, restarts);
  status["conditions"] = {
      {{"type", "Ready"}, {"status", ready ? "True" : "False"}}};
  return status;
}

json Terminated(int code, const std::string& at, const std::string& reason = "",
                const std::string& phase = "Failed") {
  json status = Container(
      {{"terminated",
        {{"exitCode", code}, {"finishedAt", at}, {"reason", reason}}}});
  status["phase"] = phase;
  return status;
}

json JobOf(const std::string& component, const char* condition = nullptr,
           const char* reason = "", const char* message = "") {
  json job = {{"metadata", {{"labels", {{kLabel, component}}}}}};
  if (condition != nullptr) {
    job["status"]["conditions"] = {{{"type", condition},
                                    {"status", "True"},
                                    {"reason", reason},
                                    {"message", message}}};
  }
  return job;
}

class JobViewTest : public testing::Test {
 protected:
  void Pod(const json& pod, Kind kind = Kind::kChanged) {
    view_.OnPods({kind, pod});
  }
  void Job(const json& job, Kind kind = Kind::kChanged) {
    view_.OnJobs({kind, job});
  }

  JobView view_{{.servers = 1, .workers = 2}};
};

TEST_F(JobViewTest, EverybodyIsReadyWhenAllMembersAre) {
  EXPECT_FALSE(view_.AllReady());
  EXPECT_THAT(view_.Waiting(), ElementsAre("coordinator: 0 of 1 pods are there",
                                           "server: 0 of 1 pods are there",
                                           "worker: 0 of 2 pods are there"));
  Pod(PodOf("coordinator", "c", Running(true)));
  Pod(PodOf("server", "s-0", Running(true)));
  Pod(PodOf("worker", "w-0", Running(true)));
  Pod(PodOf("worker", "w-1", Running(false)));
  EXPECT_FALSE(view_.AllReady());
  EXPECT_THAT(view_.Waiting(), ElementsAre("pod w-1: running, not ready yet"));
  EXPECT_EQ(view_.Line(),
            "coordinator ready, servers 1/1 ready, workers 1/2 ready");
  Pod(PodOf("worker", "w-1", Running(true)));
  EXPECT_TRUE(view_.AllReady());
  EXPECT_THAT(view_.Waiting(), IsEmpty());
  // One that leaves is not there, however ready it says it is.
  json leaving = PodOf("server", "s-0", Running(true));
  leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z";
  Pod(leaving);
  EXPECT_FALSE(view_.AllReady());
  EXPECT_THAT(view_.Waiting(), ElementsAre(HasSubstr("pod s-0"),
                                           "server: 0 of 1 pods are there"));
  // A worker that is done has done its part.
  Pod(PodOf("server", "s-0", Running(true)));
  Pod(PodOf("worker", "w-0", Terminated(0, "t", "", "Succeeded")));
  EXPECT_TRUE(view_.AllReady());
}

TEST_F(JobViewTest, NewsAreToldOnceAndSayWhy) {
  const json pending = {{"phase", "Pending"}};
  json no_node = pending;
  no_node["conditions"] = {{{"type", "PodScheduled"},
                            {"status", "False"},
                            {"reason", "Unschedulable"},
                            {"message", "0/3 nodes"}}};
  Pod(PodOf("server", "s", no_node));
  no_node["conditions"][0]["message"] = "0/4 nodes";  // changes all the time
  Pod(PodOf("server", "s", no_node));
  EXPECT_THAT(view_.TakeNews(), ElementsAre("pod s: Unschedulable: 0/3 nodes"));
  EXPECT_THAT(view_.TakeNews(), IsEmpty());
  EXPECT_THAT(view_.Waiting(),
              testing::Contains("pod s: Unschedulable: 0/4 nodes"));

  // Waits and back-offs take turns.
  for (int i = 0; i < 3; ++i) {
    Pod(PodOf("server", "s",
              Container({{"waiting",
                          {{"reason", "ErrImagePull"}, {"message", "no"}}}})));
    Pod(PodOf("server", "s",
              Container({{"waiting", {{"reason", "ImagePullBackOff"}}}})));
  }
  EXPECT_THAT(view_.TakeNews(), ElementsAre("pod s: ErrImagePull: no",
                                            "pod s: ImagePullBackOff"));
  Pod(PodOf(
      "server", "s",
      Container(
          {{"waiting", {{"reason", "CrashLoopBackOff"}, {"message", "10s"}}}},
          2, {{"terminated", {{"exitCode", 137}, {"reason", "OOMKilled"}}}})));
  EXPECT_THAT(view_.TakeNews(),
              ElementsAre("pod s: CrashLoopBackOff: 10s; it ended with exit "
                          "code 137 (OOMKilled: it needs more memory than its "
                          "limit) (2 restarts)"));
  EXPECT_THAT(view_.Line(), HasSubstr("restarts 2"));
  Pod(PodOf("server", "s",
            {{"phase", "Failed"},
             {"reason", "Evicted"},
             {"message", "low on disk"}}));
  Pod(PodOf("server", "s", Terminated(143, "t")));
  Pod(PodOf("server", "s", Terminated(75, "t")));
  EXPECT_THAT(
      view_.TakeNews(),
      ElementsAre("pod s: Evicted: low on disk",
                  "pod s: ended with exit code 143 (signal 15)",
                  "pod s: ended with exit code 75 (worth another try)"));
  Pod(PodOf("server", "s", pending), Kind::kRemoved);
  EXPECT_THAT(view_.TakeNews(), ElementsAre("pod s: is gone"));
  Pod(PodOf("server", "s", pending), Kind::kRemoved);
  EXPECT_THAT(view_.TakeNews(), IsEmpty());
  // What a list does not have is gone too.
  Pod(PodOf("server", "s", Running(true)));
  Pod(json::array({PodOf("worker", "w", Running(true))}), Kind::kListed);
  EXPECT_EQ(view_.Line(),
            "coordinator not ready, servers 0/1 ready, workers 1/2 ready");
}

TEST_F(JobViewTest, LogIsThatOfTheNewestCoordinatorThatHasBegun) {
  EXPECT_EQ(view_.CoordinatorPod(), "");
  Pod(PodOf("coordinator", "b", Terminated(75, "t"), "2026-01-01T00:00:01Z"));
  EXPECT_EQ(view_.CoordinatorPod(), "b");
  Pod(PodOf("coordinator", "a", {{"phase", "Pending"}},
            "2026-01-01T00:00:02Z"));
  EXPECT_EQ(view_.CoordinatorPod(), "b");
  Pod(PodOf("coordinator", "a", Running(false), "2026-01-01T00:00:02Z"));
  EXPECT_EQ(view_.CoordinatorPod(), "a");
}

TEST_F(JobViewTest, TheCoordinatorsWordEndsTheJob) {
  Job(JobOf("coordinator"));
  Job(JobOf("worker", "Complete"));
  EXPECT_FALSE(view_.end().has_value());
  json not_yet = JobOf("coordinator", "Complete");
  not_yet["status"]["conditions"][0]["status"] = "False";
  Job(not_yet);
  EXPECT_FALSE(view_.end().has_value());
  // The workers' failure counts until the coordinator's Job has ended too.
  Job(JobOf("worker", "Failed", "FailedIndexes", "1"));
  ASSERT_TRUE(view_.end().has_value());
  EXPECT_FALSE(view_.end()->complete);
  EXPECT_EQ(view_.end()->component, "worker");
  EXPECT_EQ(view_.end()->why, "FailedIndexes: 1");
  Job(JobOf("coordinator", "Complete", "CompletionsReached"));
  EXPECT_TRUE(view_.end()->complete);
  Job(JobOf("worker", "Failed", "FailedIndexes"));
  EXPECT_EQ(view_.end()->component, "coordinator");
}

TEST_F(JobViewTest, ExitCodeIsTheNewestOfItsComponent) {
  EXPECT_FALSE(view_.ExitCode("coordinator", false).has_value());
  Pod(PodOf("coordinator", "b", Terminated(1, "2026-01-01T00:00:02Z")));
  Pod(PodOf("coordinator", "a", Terminated(75, "2026-01-01T00:00:03Z")));
  Pod(PodOf("worker", "w", Terminated(9, "2026-01-01T00:00:04Z")));
  EXPECT_EQ(view_.ExitCode("coordinator", false), 75);
  EXPECT_EQ(view_.ExitCode("coordinator", true), 1);
  // The last end of one that runs again.
  Pod(PodOf("coordinator", "a",
            Container({{"running", json::object()}}, 1,
                      {{"terminated",
                        {{"exitCode", 137},
                         {"finishedAt", "2026-01-01T00:00:05Z"}}}})));
  EXPECT_EQ(view_.ExitCode("coordinator", false), 137);
}

// Somebody deleted it, seen by an event or, after an outage, by its absence.
TEST_F(JobViewTest, DeletedJobEndsTheWait) {
  Job(JobOf("coordinator"), Kind::kRemoved);
  ASSERT_TRUE(view_.end().has_value());
  EXPECT_FALSE(view_.end()->complete);
  EXPECT_EQ(view_.end()->why, "somebody deleted the Job of the coordinator");

  JobView other({.servers = 1, .workers = 2});
  const json both = {JobOf("coordinator"), JobOf("worker")};
  other.OnJobs({Kind::kListed, both});
  EXPECT_FALSE(other.end().has_value());
  const json one = json::array({JobOf("worker")});
  other.OnJobs({Kind::kListed, one});
  ASSERT_TRUE(other.end().has_value());
  EXPECT_EQ(other.end()->why, "somebody deleted the Job of the coordinator");
}

// Whatever the types are: an error for whoever asked, or nothing.
TEST_F(JobViewTest, OddAnswersAreNoCrash) {
  for (const char* text :
       {"null", "7", "[]", "{}", R"({"metadata":null})",
        R"({"metadata":{"name":7}})",
        R"({"metadata":{"name":"a","labels":[]}})",
        R"({"metadata":{"name":"a"},"status":{"conditions":7}})",
        R"({"metadata":{"name":"a"},"status":{"conditions":[7]}})",
        R"({"metadata":{"name":"a"},"status":{"containerStatuses":[7]}})",
        R"({"metadata":{"name":"a"},"status":{"containerStatuses":[{"state":
           {"terminated":{"exitCode":1e99,"finishedAt":3}}}]}})",
        R"({"metadata":{"name":"a"},"status":{"containerStatuses":[{"state":
           {"terminated":{"exitCode":99999999999999999999}}}]}})"}) {
    for (const Kind kind : {Kind::kListed, Kind::kChanged, Kind::kRemoved}) {
      const json value = json::parse(text);
      try {
        JobView view({.servers = 1, .workers = 1});
        view.OnPods({kind, value});
        view.OnJobs({kind, value});
        (void)view.Waiting();
        (void)view.Line();
      } catch (const json::exception&) {
        // As the header says.
      }
    }
  }
}

}  // namespace
}  // namespace shoal::launch
