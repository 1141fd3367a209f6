#include "launch/kubernetes/job_objects.h"

#include <algorithm>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/strcat.h"

namespace shoal::launch {
namespace {

using nlohmann::json;

constexpr char kFieldManager[] = "shoal-launch";
constexpr Duration kPodsGoneWithin = std::chrono::seconds(90);
constexpr Duration kLookEvery = 500ms;
constexpr Duration kDeleteEvery = 2s;
// Of an object that others change at the same time.
constexpr int kConflictTries = 5;

std::string PathOf(const Manifest& manifest) {
  return StrCat(manifest.collection, "/", manifest.name);
}

std::string Named(const Manifest& manifest) {
  return StrCat(manifest.kind, " ", manifest.name);
}

Status Refused(const std::string& what, const ApiReply& reply) {
  std::string hint;
  if (reply.code == 401) {
    hint = " (the token or certificate is not accepted)";
  } else if (reply.code == 403) {
    hint = " (k8s/launcher has the Role that a launcher needs)";
  }
  return FailedPreconditionError(
      StrCat("the API server refuses to ", what, ": ", reply.ToString(), hint));
}

json ParseObject(const ApiReply& reply) {
  json object = json::parse(reply.body, nullptr, false);
  return object.is_object() ? object : json::object();
}

// "spec.replicas (set by kubectl), ..."; empty if it is another conflict.
std::string FieldConflicts(const ApiReply& reply) {
  const json status = ParseObject(reply);
  std::string text;
  const json causes =
      status.value("/details/causes"_json_pointer, json::array());
  for (const json& cause : causes) {
    if (cause.is_object() &&
        cause.value("reason", "") == "FieldManagerConflict") {
      text += StrCat(text.empty() ? "" : ", ", cause.value("field", "?"), " (",
                     cause.value("message", ""), ")");
    }
  }
  return text;
}

bool IsOver(const json& job) {
  const json conditions =
      job.value("/status/conditions"_json_pointer, json::array());
  return std::any_of(conditions.begin(), conditions.end(),
                     [](const json& condition) {
                       const std::string type = condition.value("type", "");
                       return (type == "Complete" || type == "Failed") &&
                              condition.value("status", "") == "True";
                     });
}

}  // namespace

JobObjects::JobObjects(std::string name, std::string kube_namespace,
                       std::vector<Manifest> manifests, Duration api_within,
                       Console& console)
    : name_(std::move(name)),
      namespace_(std::move(kube_namespace)),
      manifests_(std::move(manifests)),
      api_within_(api_within),
      console_(console) {}

std::string JobObjects::Selector() const {
  return StrCat("app.kubernetes.io/name=shoal,app.kubernetes.io/instance=",
                name_);
}

std::string JobObjects::PodsPath() const {
  return StrCat("/api/v1/namespaces/", namespace_, "/pods");
}

std::string JobObjects::JobsPath() const {
  return StrCat("/apis/batch/v1/namespaces/", namespace_, "/jobs");
}

StatusOr<ApiReply> JobObjects::Call(ApiClient& client,
                                    ApiRequest request) const {
  const SystemClock clock;
  return client.Call(request, clock.Now() + api_within_);
}

Status JobObjects::MakeRoom(ApiClient& client) const {
  bool left = false;
  for (const Manifest& manifest : manifests_) {
    if (manifest.kind != "Job" && manifest.kind != "StatefulSet") {
      continue;
    }
    SHOAL_ASSIGN_OR_RETURN(const ApiReply reply,
                           Call(client, {.path = PathOf(manifest)}));
    if (reply.code == 404) {
      continue;
    }
    if (!reply.ok()) {
      return Refused("show " + Named(manifest), reply);
    }
    const json object = ParseObject(reply);
    const json labels =
        object.value("/metadata/labels"_json_pointer, json::object());
    if (labels.value("app.kubernetes.io/name", "") != "shoal" ||
        labels.value("app.kubernetes.io/instance", "") != name_) {
      return FailedPreconditionError(
          StrCat("there is a ", Named(manifest), " in namespace ", namespace_,
                 " that belongs to no Shoal job; choose another --name"));
    }
    const bool coordinator =
        labels.value("app.kubernetes.io/component", "") == "coordinator";
    if (coordinator && !IsOver(object)) {
      return FailedPreconditionError(StrCat(
          "job ", name_, " is running in namespace ", namespace_,
          " already; end it by `shoal launch k8s ... --delete`, or choose "
          "another --name"));
    }
    left = true;
  }
  if (left) {
    console_.Say(StrCat("removing what an earlier job ", name_, " left"));
    return Remove(client);
  }
  return OkStatus();
}

Status JobObjects::Apply(ApiClient& client, bool force) const {
  for (const Manifest& manifest : manifests_) {
    SHOAL_RETURN_IF_ERROR(ApplyOne(client, manifest, force));
  }
  return OkStatus();
}

Status JobObjects::ApplyOne(ApiClient& client, const Manifest& manifest,
                            bool force) const {
  if (manifest.kind == "PersistentVolumeClaim") {
    // It belongs to all jobs of the name, and may have been enlarged.
    SHOAL_ASSIGN_OR_RETURN(const ApiReply there,
                           Call(client, {.path = PathOf(manifest)}));
    if (there.ok()) {
      return OkStatus();
    }
  }
  const ApiRequest request = {
      .method = "PATCH",
      .path = StrCat(PathOf(manifest), "?fieldManager=", kFieldManager,
                     "&force=", force ? "true" : "false"),
      .body = manifest.json,
      .content_type = "application/apply-patch+yaml"};
  for (int tries = 1;; ++tries) {
    SHOAL_ASSIGN_OR_RETURN(const ApiReply reply, Call(client, request));
    if (reply.ok()) {
      return OkStatus();
    }
    if (reply.code == 404 && manifest.optional) {
      console_.Say(
          StrCat("note: the cluster knows no ", manifest.kind, ": left out"));
      return OkStatus();
    }
    if (const std::string fields = FieldConflicts(reply); !fields.empty()) {
      return FailedPreconditionError(StrCat(Named(manifest),
                                            ": others have set its ", fields,
                                            "; --force takes them over"));
    }
    if (reply.code != 409 || tries == kConflictTries) {
      return Refused("apply " + Named(manifest), reply);
    }
    if (!client.Pause(tries * 200ms)) {
      return CancelledError("cancelled");
    }
  }
}

Status JobObjects::Remove(ApiClient& client) const {
  SHOAL_ASSIGN_OR_RETURN(bool settled, DeleteAll(client));
  const SystemClock clock;
  const Time end = clock.Now() + kPodsGoneWithin;
  Time next = clock.Now() + kDeleteEvery;
  while (true) {
    SHOAL_ASSIGN_OR_RETURN(const std::string left, PodsLeft(client));
    if (left.empty() && settled) {
      return OkStatus();
    }
    // What was not there may come yet: a request that was called off may be
    // carried out all the same.
    if (!settled && (left.empty() || clock.Now() >= next)) {
      SHOAL_RETURN_IF_ERROR(DeleteAll(client).status());
      settled = left.empty();
      next = clock.Now() + kDeleteEvery;
      continue;
    }
    if (clock.Now() >= end) {
      return DeadlineExceededError(StrCat("these pods are still there after ",
                                          ToString(kPodsGoneWithin), ": ",
                                          left));
    }
    if (!client.Pause(kLookEvery)) {
      return CancelledError("cancelled");
    }
  }
}

StatusOr<bool> JobObjects::DeleteAll(ApiClient& client) const {
  bool all_there = true;
  // Pods' owners first, so that nothing makes new ones.
  for (auto it = manifests_.rbegin(); it != manifests_.rend(); ++it) {
    if (it->kind == "PersistentVolumeClaim") {
      continue;
    }
    SHOAL_ASSIGN_OR_RETURN(
        const ApiReply reply,
        Call(client, {.method = "DELETE",
                      .path = PathOf(*it),
                      .body = R"({"kind":"DeleteOptions","apiVersion":"v1",)"
                              R"("propagationPolicy":"Background"})"}));
    if (!reply.ok() && reply.code != 404) {
      return Refused("delete " + Named(*it), reply);
    }
    all_there = all_there && (reply.ok() || it->optional);
  }
  return all_there;
}

StatusOr<std::string> JobObjects::PodsLeft(ApiClient& client) const {
  SHOAL_ASSIGN_OR_RETURN(
      const ApiReply reply,
      Call(client, {.path = StrCat(PodsPath(), "?labelSelector=",
                                   EncodeQuery(Selector()))}));
  if (!reply.ok()) {
    return Refused("list pods", reply);
  }
  std::string names;
  for (const json& pod : ParseObject(reply).value("items", json::array())) {
    names += StrCat(names.empty() ? "" : ", ",
                    pod.value("/metadata/name"_json_pointer, "?"));
  }
  return names;
}

std::vector<std::string> JobObjects::CreationFailures(ApiClient& client) const {
  std::vector<std::string> lines;
  const StatusOr<ApiReply> reply =
      Call(client, {.path = StrCat("/api/v1/namespaces/", namespace_,
                                   "/events?fieldSelector=",
                                   EncodeQuery("reason=FailedCreate"))});
  if (!reply.ok() || !reply->ok()) {
    return lines;  // It would only have explained.
  }
  const json events = ParseObject(*reply).value("items", json::array());
  for (const Manifest& manifest : manifests_) {
    for (const json& event : events) {
      if (event.value("/involvedObject/kind"_json_pointer, "") ==
              manifest.kind &&
          event.value("/involvedObject/name"_json_pointer, "") ==
              manifest.name) {
        lines.push_back(
            StrCat(Named(manifest), ": ", event.value("message", "")));
      }
    }
  }
  return lines;
}

}  // namespace shoal::launch
