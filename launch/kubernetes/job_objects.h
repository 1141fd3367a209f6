#ifndef SHOAL_LAUNCH_KUBERNETES_JOB_OBJECTS_H_
#define SHOAL_LAUNCH_KUBERNETES_JOB_OBJECTS_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "base/time.h"
#include "launch/kubernetes/api_client.h"
#include "launch/kubernetes/console.h"
#include "launch/kubernetes/manifests.h"

namespace shoal::launch {

// The objects of one job in a cluster: makes and removes them. All block, and
// return kCancelled when the client is cancelled.
class JobObjects {
 public:
  // `name`: the job's there. The console must outlive it.
  JobObjects(std::string name, std::string kube_namespace,
             std::vector<Manifest> manifests, Duration api_within,
             Console& console);

  // "app.kubernetes.io/name=shoal,app.kubernetes.io/instance=NAME".
  std::string Selector() const;
  std::string PodsPath() const;
  std::string JobsPath() const;

  // Makes sure that nothing of the name is there: what a finished job left is
  // removed. Errors: kFailedPrecondition (a job of that name runs, or objects
  // of another program have its names).
  Status MakeRoom(ApiClient& client) const;

  // Server-side apply. A kind that the cluster does not know is left out and
  // said if it is optional. `force` takes over fields that others have set.
  // Errors: kFailedPrecondition (refused, or others have set fields: names
  // them), kDeadlineExceeded.
  Status Apply(ApiClient& client, bool force) const;

  // All but the volume claim; waits until the pods are gone.
  // Errors: kFailedPrecondition (refused), kDeadlineExceeded (names what is
  // left).
  Status Remove(ApiClient& client) const;

  // What the cluster says of pods that it could not make, one a line.
  std::vector<std::string> CreationFailures(ApiClient& client) const;

 private:
  StatusOr<ApiReply> Call(ApiClient& client, ApiRequest request) const;
  Status ApplyOne(ApiClient& client, const Manifest& manifest,
                  bool force) const;
  // Whether all of them were there.
  StatusOr<bool> DeleteAll(ApiClient& client) const;
  // Names of the job's pods that are there.
  StatusOr<std::string> PodsLeft(ApiClient& client) const;

  const std::string name_;
  const std::string namespace_;
  const std::vector<Manifest> manifests_;
  const Duration api_within_;
  Console& console_;
};

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_KUBERNETES_JOB_OBJECTS_H_
