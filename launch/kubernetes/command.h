#ifndef SHOAL_LAUNCH_KUBERNETES_COMMAND_H_
#define SHOAL_LAUNCH_KUBERNETES_COMMAND_H_

#include <functional>
#include <string>
#include <vector>

#include "launch/kubernetes/launch_job.h"

namespace CLI {
class App;
}  // namespace CLI

namespace shoal::launch {

// Adds `k8s` to `launch`, the command's subcommand; `run` gets what was asked.
void AddKubernetesCommand(CLI::App& launch,
                          std::function<void(const KubernetesRequest&)> run);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_KUBERNETES_COMMAND_H_
