#include "launch/kubernetes/command.h"

#include <memory>
#include <utility>

#include <CLI/CLI.hpp>

namespace shoal::launch {
namespace {

void AddSeconds(CLI::App& command, const std::string& name, Duration& value,
                const std::string& help) {
  command
      .add_option_function<double>(
          name, [&value](double seconds) { value = FromSeconds(seconds); },
          help)
      ->type_name("SECONDS")
      ->check(CLI::Range(0.1, 1e8));
}

}  // namespace

void AddKubernetesCommand(CLI::App& launch,
                          std::function<void(const KubernetesRequest&)> run) {
  auto request = std::make_shared<KubernetesRequest>();
  CLI::App& command = *launch.add_subcommand(
      "k8s", "Runs a job on a Kubernetes cluster and follows it to its end");
  command.add_option("JOB", request->job_path, "Job file (YAML)")
      ->required()
      ->type_name("JOB.yaml");
  command
      .add_option("--set", request->overrides,
                  "Sets a key of the job: --set cluster.workers=4")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->allow_extra_args(false)
      ->take_all();
  command.add_option("--name", request->manifests.name,
                     "The job's name there (default: from the job file)");
  command.add_option("--namespace,-n", request->manifests.kube_namespace,
                     "Namespace (default: that of the context)");
  command.add_option("--image", request->manifests.image,
                     "Container image (default: that of k8s/base)");
  command
      .add_option("--claim", request->manifests.claim,
                  "Volume claim with the data, which also takes the results "
                  "(default: NAME-shared, made if need be)")
      ->type_name("NAME");
  command
      .add_option("--kubeconfig", request->access.kubeconfig,
                  "How to reach the cluster (default: $KUBECONFIG, "
                  "~/.kube/config, the pod's service account)")
      ->type_name("FILE");
  command.add_option("--context", request->access.context,
                     "Context of the kubeconfig file");
  AddSeconds(command, "--timeout", request->timeout,
             "Ends a job that is not done by then (default: never)");
  AddSeconds(command, "--start-within", request->start_within,
             "Ends a job whose members are missing for so long (default: 600)");
  AddSeconds(command, "--api-within", request->api_within,
             "Goes on so long without an answer of the API server (default: "
             "120)");
  CLI::Option* const dry = command.add_flag("--dry-run", request->dry_run,
                                            "Prints the objects, as YAML");
  command
      .add_flag("--delete", request->remove,
                "Ends the job of that name and removes its objects; the volume "
                "claim stays")
      ->excludes(dry);
  command.add_flag("--keep", request->keep,
                   "Leaves the objects there when the job is over");
  command.add_flag("--force", request->force,
                   "Takes over fields of objects that others have set");
  command.callback([request, run = std::move(run)] { run(*request); });
}

}  // namespace shoal::launch
