#include "launch/kubernetes/job_view.h"

#include <sysexits.h>

#include <algorithm>
#include <csignal>

#include <nlohmann/json.hpp>

#include "base/strcat.h"

namespace shoal::launch {
namespace {

using nlohmann::json;

constexpr char kComponent[] = "app.kubernetes.io/component";

// A member of a member ..., or null.
const json& At(const json& object, std::initializer_list<const char*> keys) {
  static const json kNull;
  const json* value = &object;
  for (const char* key : keys) {
    const auto it = value->is_object() ? value->find(key) : value->end();
    if (!value->is_object() || it == value->end()) {
      return kNull;
    }
    value = &*it;
  }
  return *value;
}

std::string Text(const json& object, std::initializer_list<const char*> keys) {
  const json& value = At(object, keys);
  return value.is_string() ? value.get<std::string>() : "";
}

int Number(const json& object, std::initializer_list<const char*> keys) {
  const json& value = At(object, keys);
  return value.is_number_integer() ? value.get<int>() : 0;
}

const json* Condition(const json& object, const std::string& type) {
  const json& conditions = At(object, {"status", "conditions"});
  if (conditions.is_array()) {
    for (const json& condition : conditions) {
      if (Text(condition, {"type"}) == type) {
        return &condition;
      }
    }
  }
  return nullptr;
}

std::string WithMessage(std::string reason, const std::string& message) {
  return message.empty() ? reason : StrCat(reason, ": ", message);
}

// "exit code 137 (OOMKilled)".
std::string Ended(const json& terminated) {
  const int code = Number(terminated, {"exitCode"});
  const std::string reason = Text(terminated, {"reason"});
  std::string text = StrCat("exit code ", code);
  if (reason == "OOMKilled") {
    text += " (OOMKilled: it needs more memory than its limit)";
  } else if (code > 128) {
    text += StrCat(" (signal ", code - 128, ")");
  } else if (code == 75) {
    text += " (worth another try)";
  }
  return text;
}

}  // namespace

JobView::Pod JobView::ReadPod(const json& object) {
  Pod pod;
  pod.component = Text(object, {"metadata", "labels", kComponent});
  pod.created = Text(object, {"metadata", "creationTimestamp"});
  pod.leaving = !At(object, {"metadata", "deletionTimestamp"}).is_null();
  const std::string phase = Text(object, {"status", "phase"});
  pod.succeeded = phase == "Succeeded";
  pod.state = pod.key = phase.empty() ? "Pending" : phase;
  const json* scheduled = Condition(object, "PodScheduled");
  if (scheduled != nullptr && Text(*scheduled, {"status"}) == "False") {
    pod.key = Text(*scheduled, {"reason"});
    pod.state = WithMessage(pod.key, Text(*scheduled, {"message"}));
  }
  if (phase == "Failed" && !Text(object, {"status", "reason"}).empty()) {
    pod.key = Text(object, {"status", "reason"});  // Evicted
    pod.state = WithMessage(pod.key, Text(object, {"status", "message"}));
  }
  const json& statuses = At(object, {"status", "containerStatuses"});
  if (statuses.is_array() && !statuses.empty()) {
    const json& container = statuses[0];
    pod.restarts = Number(container, {"restartCount"});
    const json& last = At(container, {"lastState", "terminated"});
    if (last.is_object()) {
      pod.begun = true;
      pod.exit_code = Number(last, {"exitCode"});
      pod.finished = Text(last, {"finishedAt"});
    }
    if (const json& waiting = At(container, {"state", "waiting"});
        waiting.is_object()) {
      pod.key = Text(waiting, {"reason"});
      pod.state = WithMessage(pod.key, Text(waiting, {"message"}));
      if (last.is_object() && Number(last, {"exitCode"}) == 0) {
        // A server's, which Kubernetes calls CrashLoopBackOff.
        pod.key = pod.state = "done, and waits for another coordinator";
      } else if (last.is_object()) {
        pod.state += StrCat("; it ended with ", Ended(last));
      }
    } else if (const json& done = At(container, {"state", "terminated"});
               done.is_object()) {
      pod.begun = true;
      pod.exit_code = Number(done, {"exitCode"});
      pod.finished = Text(done, {"finishedAt"});
      pod.key = pod.state =
          *pod.exit_code == 0 ? "done" : StrCat("ended with ", Ended(done));
    } else if (At(container, {"state", "running"}).is_object()) {
      pod.begun = true;
      const json* ready = Condition(object, "Ready");
      pod.ready = ready != nullptr && Text(*ready, {"status"}) == "True";
      pod.key = pod.state =
          pod.ready ? "running, ready" : "running, not ready yet";
    }
    if (pod.restarts > 0) {
      pod.key += StrCat("#", pod.restarts);
      pod.state += StrCat(" (", pod.restarts,
                          pod.restarts == 1 ? " restart)" : " restarts)");
    }
  }
  if (pod.leaving) {
    pod.ready = false;
  }
  return pod;
}

void JobView::SetPod(const std::string& name, Pod pod) {
  // Waits and back-offs take turns; each is told once.
  if (told_[name].insert(pod.key).second) {
    news_.push_back(StrCat("pod ", name, ": ", pod.state));
  }
  pods_[name] = std::move(pod);
}

void JobView::OnPods(const CollectionChange& change) {
  const auto name = [](const json& object) {
    return object.at("metadata").at("name").get<std::string>();
  };
  switch (change.kind) {
    case CollectionChange::Kind::kListed: {
      std::set<std::string> there;
      for (const json& object : change.objects) {
        there.insert(name(object));
        SetPod(name(object), ReadPod(object));
      }
      std::erase_if(
          pods_, [&](const auto& pod) { return there.count(pod.first) == 0; });
      break;
    }
    case CollectionChange::Kind::kChanged:
      SetPod(name(change.objects), ReadPod(change.objects));
      break;
    case CollectionChange::Kind::kRemoved:
      if (pods_.erase(name(change.objects)) > 0) {
        news_.push_back(StrCat("pod ", name(change.objects), ": is gone"));
        told_.erase(name(change.objects));
      }
      break;
  }
}

void JobView::OnJobs(const CollectionChange& change) {
  switch (change.kind) {
    case CollectionChange::Kind::kListed: {
      std::set<std::string> there;
      for (const json& object : change.objects) {
        there.insert(Text(object, {"metadata", "labels", kComponent}));
        SetJob(object);
      }
      // That it was deleted may not have been told, after an outage.
      for (const char* component : {"coordinator", "worker"}) {
        if (there.count(component) == 0) {
          SetDeleted(component);
        }
      }
      break;
    }
    case CollectionChange::Kind::kChanged:
      SetJob(change.objects);
      break;
    case CollectionChange::Kind::kRemoved:
      SetDeleted(Text(change.objects, {"metadata", "labels", kComponent}));
      break;
  }
}

void JobView::SetDeleted(const std::string& component) {
  if (!end_.has_value()) {
    end_ = {.component = component,
            .why = StrCat("somebody deleted the Job of the ", component)};
  }
}

void JobView::SetJob(const json& object) {
  const std::string component =
      Text(object, {"metadata", "labels", kComponent});
  // The workers end when the coordinator does; its word counts.
  if (end_.has_value() && end_->component == "coordinator") {
    return;
  }
  for (const char* type : {"Complete", "Failed"}) {
    const json* condition = Condition(object, type);
    const bool complete = type[0] == 'C';
    if (condition != nullptr && Text(*condition, {"status"}) == "True" &&
        (component == "coordinator" || !complete)) {
      end_ = {.complete = complete,
              .component = component,
              .why = WithMessage(Text(*condition, {"reason"}),
                                 Text(*condition, {"message"}))};
    }
  }
}

std::string JobView::CoordinatorPod() const {
  std::string newest;
  std::string created;
  for (const auto& [name, pod] : pods_) {
    if (pod.component == "coordinator" && pod.begun && pod.created >= created) {
      newest = name;
      created = pod.created;
    }
  }
  return newest;
}

int JobView::Ready(const std::string& component) const {
  return static_cast<int>(
      std::count_if(pods_.begin(), pods_.end(), [&](const auto& entry) {
        return entry.second.component == component &&
               (entry.second.ready || entry.second.succeeded);
      }));
}

bool JobView::AllReady() const {
  return Ready("coordinator") >= 1 && Ready("server") >= members_.servers &&
         Ready("worker") >= members_.workers;
}

std::vector<std::string> JobView::Waiting() const {
  std::vector<std::string> lines;
  std::map<std::string, int> there;
  for (const auto& [name, pod] : pods_) {
    const bool failed = pod.state.starts_with("ended with");
    there[pod.component] += failed || pod.leaving ? 0 : 1;
    if (!pod.ready && !pod.succeeded) {
      lines.push_back(StrCat("pod ", name, ": ", pod.state));
    }
  }
  const std::pair<const char*, int> wanted[] = {{"coordinator", 1},
                                                {"server", members_.servers},
                                                {"worker", members_.workers}};
  for (const auto& [component, count] : wanted) {
    if (there[component] < count) {
      lines.push_back(StrCat(component, ": ", there[component], " of ", count,
                             " pods are there"));
    }
  }
  return lines;
}

std::vector<std::string> JobView::TakeNews() {
  return std::exchange(news_, {});
}

std::string JobView::Line() const {
  int restarts = 0;
  for (const auto& [name, pod] : pods_) {
    restarts += pod.restarts;
  }
  return StrCat("coordinator ",
                Ready("coordinator") > 0 ? "ready" : "not ready", ", servers ",
                Ready("server"), "/", members_.servers, " ready, workers ",
                Ready("worker"), "/", members_.workers, " ready",
                restarts > 0 ? StrCat(", restarts ", restarts) : "");
}

std::optional<int> JobView::ExitCode(const std::string& component,
                                     bool by_policy) const {
  const auto retried = [](int exit_code) {
    return exit_code == EX_TEMPFAIL || exit_code == 128 + SIGKILL ||
           exit_code == 128 + SIGTERM;
  };
  std::optional<int> code;
  std::string finished;
  for (const auto& [name, pod] : pods_) {
    if (pod.component == component && pod.exit_code.value_or(0) != 0 &&
        !(by_policy && retried(*pod.exit_code)) && pod.finished >= finished) {
      code = pod.exit_code;
      finished = pod.finished;
    }
  }
  return code;
}

}  // namespace shoal::launch
