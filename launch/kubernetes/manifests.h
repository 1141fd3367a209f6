#ifndef SHOAL_LAUNCH_KUBERNETES_MANIFESTS_H_
#define SHOAL_LAUNCH_KUBERNETES_MANIFESTS_H_

#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace shoal::worker {
class JobSpec;
}  // namespace shoal::worker

namespace shoal::launch {

// What a launch may choose that the job file does not say.
struct ManifestOptions {
  std::string name;            // of the job there; empty: made from the job's
  std::string kube_namespace;  // empty: the objects name none
  std::string image;           // empty: that of k8s/base
  std::string claim;  // a volume claim that is there; empty: one is made
};

// One object of the Kubernetes API.
struct Manifest {
  std::string kind;
  std::string name;
  std::string collection;  // "/apis/batch/v1/namespaces/NAMESPACE/jobs"
  bool optional = false;   // a cluster may not know its kind
  std::string json;
};

// A name for the objects of a job: a DNS label that leaves room for what
// Kubernetes adds to it. Errors: kInvalidArgument (none can be made).
StatusOr<std::string> JobObjectName(const ManifestOptions& options,
                                    const worker::JobSpec& job);

// The objects of k8s/base, which the program carries, for this job: as many
// servers and workers as it says, its text in the ConfigMap, a GPU for each
// worker if its device is one. In the order in which they should be made.
// Errors: kInvalidArgument (a name, or a job that pods can't run).
StatusOr<std::vector<Manifest>> RenderManifests(const ManifestOptions& options,
                                                const worker::JobSpec& job,
                                                const std::string& job_text);

// As YAML documents.
std::string ManifestsToYaml(std::span<const Manifest> manifests);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_KUBERNETES_MANIFESTS_H_
