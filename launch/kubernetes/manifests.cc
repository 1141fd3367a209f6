#include "launch/kubernetes/manifests.h"

#include <algorithm>
#include <cctype>

#include <nlohmann/json.hpp>

#include "base/s3/names.h"
#include "base/strcat.h"
#include "launch/kubernetes/base_files.h"
#include "launch/kubernetes/yaml_json.h"
#include "worker/job.h"
#include "worker/job.pb.h"

namespace shoal::launch {
namespace {

using nlohmann::json;

// Pods get "-coordinator-" and five characters more, and 63 is the limit.
constexpr size_t kNameSizeMax = 40;

// Of docker/cuda.Dockerfile.
constexpr char kGpuImage[] = "shoal-cuda:0.1.0";

// Of k8s/components/store.
constexpr char kStoreSecret[] = "shoal-store";

struct Kind {
  std::string_view name;
  std::string_view plural;
  bool optional = false;
};

// In the order in which objects are made: what others need comes first.
constexpr Kind kKinds[] = {
    {"PersistentVolumeClaim", "persistentvolumeclaims"},
    {"ConfigMap", "configmaps"},
    {"Service", "services"},
    {"NetworkPolicy", "networkpolicies"},
    {"PodDisruptionBudget", "poddisruptionbudgets"},
    {"PodMonitor", "podmonitors", true},
    {"StatefulSet", "statefulsets"},
    {"Job", "jobs"},
};

const Kind* FindKind(std::string_view name) {
  const auto* const it =
      std::find_if(std::begin(kKinds), std::end(kKinds),
                   [name](const Kind& kind) { return kind.name == name; });
  return it == std::end(kKinds) ? nullptr : it;
}

bool IsLabel(std::string_view name) {
  const auto letter = [](char c) { return c >= 'a' && c <= 'z'; };
  return !name.empty() && letter(name.front()) && name.back() != '-' &&
         std::all_of(name.begin(), name.end(), [&](char c) {
           return letter(c) || c == '-' || (c >= '0' && c <= '9');
         });
}

// Replaces the instance in labels and selectors, wherever they are.
void SetInstance(json& value, const std::string& name) {
  if (value.is_object()) {
    for (auto& [key, item] : value.items()) {
      if (key == "app.kubernetes.io/instance") {
        item = name;
      } else {
        SetInstance(item, name);
      }
    }
  } else if (value.is_array()) {
    for (json& item : value) {
      SetInstance(item, name);
    }
  }
}

// All devices that the job names, however often.
std::vector<std::string> DevicesOf(const worker::JobSpec& job) {
  std::vector<std::string> devices = {job.device()};
  devices.insert(devices.end(), job.devices().workers().begin(),
                 job.devices().workers().end());
  return devices;
}

// The pods of workers are alike: one that is to have a GPU gives each of them
// one.
bool NeedsGpu(const worker::JobSpec& job) {
  const std::vector<std::string> devices = DevicesOf(job);
  return std::any_of(
      devices.begin(), devices.end(),
      [](const std::string& device) { return device.starts_with("cuda"); });
}

bool NeedsStore(const worker::JobSpec& job) {
  return IsS3Path(job.checkpoint().folder()) ||
         IsS3Path(job.checkpoint().restore());
}

// Renders one object after the other.
class Renderer {
 public:
  Renderer(const ManifestOptions& options, std::string name,
           const worker::JobSpec& job)
      : options_(options), name_(std::move(name)), job_(job) {}

  Manifest Render(json object) const {
    const std::string kind = object.at("kind");
    const std::string base_name = object["metadata"]["name"];
    SetInstance(object, name_);
    Rename(object["metadata"]["name"]);
    if (!options_.kube_namespace.empty()) {
      object["metadata"]["namespace"] = options_.kube_namespace;
    }
    const worker::ClusterSpec& cluster = job_.cluster();
    json& spec = object["spec"];
    if (kind == "StatefulSet") {
      Rename(spec["serviceName"]);
      spec["replicas"] = cluster.servers();
      PatchPods(spec["template"]["spec"], cluster.shards());
    } else if (kind == "Job") {
      const bool worker = base_name == "worker";
      if (worker) {
        spec["completions"] = spec["parallelism"] = cluster.workers();
      }
      PatchPods(spec["template"]["spec"], worker ? cluster.threads() : 0);
      if (worker && NeedsGpu(job_)) {
        AddGpu(spec["template"]["spec"]);
      }
    } else if (kind == "NetworkPolicy" && NeedsStore(job_)) {
      spec["egress"].push_back({{"ports",
                                 {{{"port", 443}, {"protocol", "TCP"}},
                                  {{"port", 9000}, {"protocol", "TCP"}}}}});
    }
    if (spec.is_null()) {
      object.erase("spec");
    }
    const Kind& known = *FindKind(kind);
    const std::string api = object["apiVersion"];
    return {.kind = kind,
            .name = object["metadata"]["name"],
            .collection = StrCat(
                api.find('/') == std::string::npos ? "/api/" : "/apis/", api,
                "/namespaces/", options_.kube_namespace, "/", known.plural),
            .optional = known.optional,
            .json = object.dump()};
  }

 private:
  // `name` of the base belongs to an object, or refers to one.
  void Rename(json& name) const {
    name = StrCat(name_, "-", name.get<std::string>());
  }

  // `cpus`: that the container's threads keep busy; 0: as in the base.
  void PatchPods(json& pods, int cpus) const {
    for (json& container : pods["containers"]) {
      if (!options_.image.empty()) {
        container["image"] = options_.image;
      }
      if (cpus > 0) {
        container["resources"]["requests"]["cpu"] = std::to_string(cpus);
      }
      if (NeedsStore(job_)) {
        container["envFrom"] = {{{"secretRef", {{"name", kStoreSecret}}}}};
      }
      for (json& variable : container["env"]) {
        if (variable["name"] == "SHOAL_COORDINATOR") {
          Rename(variable["value"]);
        }
      }
    }
    for (json& volume : pods["volumes"]) {
      if (volume.contains("configMap")) {
        Rename(volume["configMap"]["name"]);
      } else if (volume.contains("persistentVolumeClaim")) {
        json& claim = volume["persistentVolumeClaim"]["claimName"];
        if (options_.claim.empty()) {
          Rename(claim);
        } else {
          claim = options_.claim;
        }
      }
    }
  }

  // As k8s/components/gpu does.
  void AddGpu(json& pods) const {
    json& container = pods["containers"][0];
    container["resources"]["limits"]["nvidia.com/gpu"] = "1";
    if (options_.image.empty()) {
      container["image"] = kGpuImage;
    }
    pods["tolerations"] = {{{"key", "nvidia.com/gpu"},
                            {"operator", "Exists"},
                            {"effect", "NoSchedule"}}};
  }

  const ManifestOptions& options_;
  const std::string name_;
  const worker::JobSpec& job_;
};

// What kustomize makes of k8s/job/job.yaml, with another text.
json JobConfigMap(const std::string& job_text) {
  return {{"apiVersion", "v1"},
          {"kind", "ConfigMap"},
          {"metadata",
           {{"name", "job"},
            {"labels",
             {{"app.kubernetes.io/name", "shoal"},
              {"app.kubernetes.io/instance", "shoal"},
              {"app.kubernetes.io/component", "job"}}}}},
          {"data", {{"job.yaml", job_text}}}};
}

Status CheckJob(const worker::JobSpec& job) {
  if (job.transport() == "inproc" || job.transport() == "shm") {
    return InvalidArgumentError(
        StrCat("transport: ", job.transport(),
               " does not leave a host, and pods are hosts; use auto or zmq"));
  }
  for (const std::string& device : DevicesOf(job)) {
    if (device.starts_with("cuda:") && device != "cuda:0") {
      return InvalidArgumentError(StrCat(
          "device ", device,
          ": a worker's pod has one GPU, which is its cuda:0; use cuda"));
    }
  }
  return OkStatus();
}

}  // namespace

StatusOr<std::string> JobObjectName(const ManifestOptions& options,
                                    const worker::JobSpec& job) {
  if (!options.name.empty()) {
    return IsLabel(options.name) && options.name.size() <= kNameSizeMax
               ? StatusOr<std::string>(options.name)
               : InvalidArgumentError(
                     StrCat("--name ", options.name, ": must be at most ",
                            kNameSizeMax,
                            " of a-z, 0-9 and '-', begin with a letter and "
                            "not end with '-'"));
  }
  std::string name;
  for (const char c : job.name()) {
    const auto u = static_cast<unsigned char>(c);
    name += std::isalnum(u) != 0 ? static_cast<char>(std::tolower(u)) : '-';
  }
  name.resize(std::min(name.size(), kNameSizeMax));
  while (!name.empty() && name.back() == '-') {
    name.pop_back();
  }
  if (!IsLabel(name)) {
    return InvalidArgumentError(
        StrCat("the job's name, '", job.name(),
               "', makes no name of Kubernetes objects; give one by --name"));
  }
  return name;
}

StatusOr<std::vector<Manifest>> RenderManifests(const ManifestOptions& options,
                                                const worker::JobSpec& job,
                                                const std::string& job_text) {
  SHOAL_RETURN_IF_ERROR(CheckJob(job));
  if (!options.kube_namespace.empty() && (!IsLabel(options.kube_namespace) ||
                                          options.kube_namespace.size() > 63)) {
    return InvalidArgumentError(
        StrCat("'", options.kube_namespace, "' is no name of a namespace"));
  }
  SHOAL_ASSIGN_OR_RETURN(std::string name, JobObjectName(options, job));
  try {
    (void)json(job_text).dump();
  } catch (const json::exception&) {
    return InvalidArgumentError("the job file is not UTF-8 throughout");
  }
  const Renderer renderer(options, std::move(name), job);
  std::vector<Manifest> manifests = {renderer.Render(JobConfigMap(job_text))};
  for (const BaseFile& file : BaseFiles()) {
    SHOAL_ASSIGN_OR_RETURN(std::vector<json> objects,
                           ParseYaml(file.text, std::string(file.name)));
    for (json& object : objects) {
      if (object["kind"] != "PersistentVolumeClaim" || options.claim.empty()) {
        manifests.push_back(renderer.Render(std::move(object)));
      }
    }
  }
  std::stable_sort(manifests.begin(), manifests.end(),
                   [](const Manifest& a, const Manifest& b) {
                     return FindKind(a.kind) < FindKind(b.kind);
                   });
  return manifests;
}

std::string ManifestsToYaml(std::span<const Manifest> manifests) {
  std::string text;
  for (const Manifest& manifest : manifests) {
    text +=
        StrCat(text.empty() ? "" : "---\n", ToYaml(json::parse(manifest.json)));
  }
  return text;
}

}  // namespace shoal::launch
