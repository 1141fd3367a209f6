#include "launch/kubernetes/collection_watch.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "base/strcat.h"

namespace shoal::launch {
namespace {

using nlohmann::json;

constexpr int kWatchSeconds = 60;  // then the server ends it, and we go on
constexpr Duration kSilenceMax = std::chrono::seconds(kWatchSeconds + 15);
constexpr Duration kFirstPause = 200ms;
constexpr Duration kPauseMax = std::chrono::seconds(5);

Status Refused(const std::string& what, const ApiReply& reply) {
  return FailedPreconditionError(
      StrCat("the API server refuses ", what, ": ", reply.ToString()));
}

class Watcher {
 public:
  Watcher(ApiClient& client, std::string collection, std::string selector,
          Duration outage_max,
          const std::function<void(const CollectionChange&)>& on_change)
      : client_(client),
        collection_(std::move(collection)),
        query_("?labelSelector=" + EncodeQuery(selector)),
        outage_max_(outage_max),
        on_change_(on_change) {}

  Status Run() {
    answered_ = clock_.Now();
    while (true) {
      SHOAL_RETURN_IF_ERROR(List());
      SHOAL_RETURN_IF_ERROR(WatchUntilForgotten());
    }
  }

 private:
  Status List() {
    SHOAL_ASSIGN_OR_RETURN(
        const ApiReply reply,
        client_.Call({.path = collection_ + query_}, answered_ + outage_max_));
    if (!reply.ok()) {
      return Refused("to list " + collection_, reply);
    }
    answered_ = clock_.Now();
    const json list = json::parse(reply.body, nullptr, false);
    if (!list.is_object() || !list.contains("items") ||
        !list.contains("metadata")) {
      return FailedPreconditionError(
          StrCat(collection_, ": the server's answer is no list"));
    }
    version_ = list["metadata"].value("resourceVersion", "");
    on_change_({CollectionChange::Kind::kListed, list["items"]});
    return OkStatus();
  }

  // OK when it is time to list again.
  Status WatchUntilForgotten() {
    Duration pause = kFirstPause;
    forgotten_ = false;
    while (!forgotten_) {
      told_ = false;
      const StatusOr<ApiReply> ended = client_.Stream(
          StrCat(collection_, query_,
                 "&watch=true&allowWatchBookmarks=true&timeoutSeconds=",
                 kWatchSeconds, "&resourceVersion=", EncodeQuery(version_)),
          kSilenceMax, [this](std::string_view line) { return OnLine(line); });
      if (!ended.ok() && ended.status().code() != StatusCode::kUnavailable) {
        return ended.status();
      }
      if (ended.ok() && ended->code == 410) {
        return OkStatus();
      }
      if (ended.ok() && !ended->ok() && !ended->transient()) {
        return Refused("to watch " + collection_, *ended);
      }
      if (told_ || (ended.ok() && ended->ok())) {
        answered_ = clock_.Now();
      } else if (clock_.Now() >= answered_ + outage_max_) {
        return DeadlineExceededError(StrCat(
            "no word of ", collection_, " for ", shoal::ToString(outage_max_),
            ": ", ended.ok() ? ended->ToString() : ended.status().message()));
      }
      if (told_) {
        pause = kFirstPause;
        continue;
      }
      const Duration asked = ended.ok() ? ended->retry_after : Duration{};
      if (!forgotten_ && !client_.Pause(std::max(pause, asked))) {
        return CancelledError("cancelled");
      }
      pause = std::min(pause * 2, kPauseMax);
    }
    return OkStatus();
  }

  // One event; false ends the watch.
  bool OnLine(std::string_view line) {
    const json event = json::parse(line, nullptr, false);
    if (!event.is_object() || !event.contains("object")) {
      return true;
    }
    const std::string type = event.value("type", "");
    const json& object = event.at("object");
    if (type == "ERROR") {
      // Mostly code 410; whatever it is, listing again starts anew.
      forgotten_ = true;
      return false;
    }
    told_ = true;
    version_ = object.at("metadata").value("resourceVersion", version_);
    if (type == "DELETED") {
      on_change_({CollectionChange::Kind::kRemoved, object});
    } else if (type != "BOOKMARK") {
      on_change_({CollectionChange::Kind::kChanged, object});
    }
    return true;
  }

  ApiClient& client_;
  const std::string collection_;
  const std::string query_;
  const Duration outage_max_;
  const std::function<void(const CollectionChange&)>& on_change_;
  const SystemClock clock_;
  Time answered_;        // when the server last did
  std::string version_;  // of the last that was told
  bool told_ = false;
  bool forgotten_ = false;
};

}  // namespace

Status WatchCollection(
    ApiClient& client, const std::string& collection,
    const std::string& selector, Duration outage_max,
    const std::function<void(const CollectionChange&)>& on_change) {
  try {
    return Watcher(client, collection, selector, outage_max, on_change).Run();
  } catch (const json::exception& e) {
    return FailedPreconditionError(StrCat(
        collection, ": the server's answer is not understood: ", e.what()));
  }
}

}  // namespace shoal::launch
