#ifndef SHOAL_LAUNCH_KUBERNETES_COLLECTION_WATCH_H_
#define SHOAL_LAUNCH_KUBERNETES_COLLECTION_WATCH_H_

#include <functional>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "base/status.h"
#include "base/time.h"
#include "launch/kubernetes/api_client.h"

namespace shoal::launch {

struct CollectionChange {
  enum class Kind {
    kListed,   // `objects` is an array of all that there are
    kChanged,  // `objects` is one that is new or has changed
    kRemoved,  // `objects` is one that is gone
  };
  Kind kind;
  const nlohmann::json& objects;
};

// Tells `on_change` what lies in a collection of the API ("/api/v1/.../pods")
// under a label selector, and how it changes: lists it, watches it from there,
// and lists it again when the server has forgotten that time (410). Blocks
// until the client is cancelled.
//
// Errors: kCancelled; kDeadlineExceeded (no answer for `outage_max`);
// kFailedPrecondition (the server refuses).
Status WatchCollection(
    ApiClient& client, const std::string& collection,
    const std::string& selector, Duration outage_max,
    const std::function<void(const CollectionChange&)>& on_change);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_KUBERNETES_COLLECTION_WATCH_H_
