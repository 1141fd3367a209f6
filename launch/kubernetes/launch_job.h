#ifndef SHOAL_LAUNCH_KUBERNETES_LAUNCH_JOB_H_
#define SHOAL_LAUNCH_KUBERNETES_LAUNCH_JOB_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "base/time.h"
#include "launch/kubernetes/cluster_access.h"
#include "launch/kubernetes/manifests.h"

namespace shoal::launch {

// What `shoal launch k8s` is asked for.
struct KubernetesRequest {
  std::string job_path;
  std::vector<std::string> overrides;  // KEY=VALUE
  ManifestOptions manifests;
  AccessOptions access;
  bool dry_run = false;  // prints the objects
  bool remove = false;   // removes what a launch of this name has left
  bool keep = false;     // leaves the objects when the job is over
  bool force = false;    // takes fields over that others have set
  // How long the job may take in all; zero: any time.
  Duration timeout{};
  // How long members may be missing, at the beginning and after a restart.
  Duration start_within = std::chrono::minutes(10);
  // How long the API server may be silent.
  Duration api_within = std::chrono::minutes(2);
};

// Applies the objects of a job to a Kubernetes cluster, follows it until it is
// over, and removes all of them but the volume claim. The job's log goes to
// standard output, everything else to standard error. Ctrl-C and SIGTERM end
// the job: they remove its objects; a second one ends this at once.
//
// Returns the job's exit code: that of its coordinator (or of the worker that
// failed for good).
// Errors: those of LoadJob(), RenderManifests() and FindCluster();
// kFailedPrecondition (the job runs already, another program has set the same
// fields, the server refuses), kDeadlineExceeded (a time above has passed: says
// who was missing, and why), kCancelled.
StatusOr<int> LaunchOnKubernetes(const KubernetesRequest& request);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_KUBERNETES_LAUNCH_JOB_H_
