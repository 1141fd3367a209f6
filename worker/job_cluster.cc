// Rules about processes: how many there are of which kind, on which devices,
// and on which hosts.
#include <algorithm>
#include <string>
#include <vector>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include "base/strcat.h"
#include "comm/collective.h"
#include "kernels/devices.h"
#include "worker/consistency.h"
#include "worker/job.h"
#include "worker/job.pb.h"
#include "worker/job_rules.h"
#include "worker/job_schema.h"

namespace shoal::worker {
namespace {

using google::protobuf::FieldDescriptor;

using Problem = std::optional<JobProblem>;

Problem CheckCluster(const JobSpec& job) {
  const ClusterSpec& cluster = job.cluster();
  if (cluster.backup_workers() >= cluster.workers()) {
    return JobProblem{
        "cluster.backup_workers",
        StrCat(cluster.backup_workers(), " of cluster.workers (",
               cluster.workers(),
               ") leave none that they stand for; ask for fewer, or raise "
               "cluster.workers")};
  }
  const int primaries = cluster.workers() - cluster.backup_workers();
  if (cluster.virtual_workers() < primaries) {
    return JobProblem{
        "cluster.virtual_workers",
        StrCat(
            cluster.virtual_workers(), " is less than cluster.workers (",
            primaries,
            cluster.backup_workers() > 0 ? " without the backup_workers" : "",
            "), so some would have no share of a batch; raise it, or ask "
            "for fewer workers")};
  }
  if (job.train().batch_size() < cluster.virtual_workers()) {
    return JobProblem{
        "train.batch_size",
        StrCat(job.train().batch_size(),
               " is less than cluster.virtual_workers (",
               cluster.virtual_workers(),
               "), so some shares would be empty; raise it, or lower "
               "cluster.virtual_workers")};
  }
  if (cluster.replicas() > cluster.servers()) {
    return JobProblem{
        "cluster.replicas",
        StrCat(cluster.replicas(), " are on servers of their own, but ",
               "cluster.servers is ", cluster.servers(),
               "; ask for fewer replicas, or for more servers")};
  }
  if (job.transport() == "inproc" || job.transport() == "shm" ||
      job.transport() == "mpi") {
    for (const char* key : {"listen", "port"}) {
      const FieldDescriptor& field =
          *cluster.GetDescriptor()->FindFieldByName(key);
      // A checkpoint's job has all defaults filled in.
      if (cluster.GetReflection()->HasField(cluster, &field) &&
          !SaysTheDefault(cluster, field)) {
        return JobProblem{
            StrCat("cluster.", key),
            StrCat("transport ", job.transport(),
                   " does not listen to TCP; leave it out, or choose zmq or "
                   "auto")};
      }
    }
  }
  return std::nullopt;
}

Problem CheckDevices(const JobSpec& job) {
  const Status status = CheckDeviceName(job.device());
  if (!status.ok()) {
    return JobProblem{"device", status.message()};
  }
  const DevicesSpec& devices = job.devices();
  for (int i = 0; i < devices.workers_size(); ++i) {
    const Status named = CheckDeviceName(devices.workers(i));
    if (!named.ok()) {
      return JobProblem{StrCat("devices.workers.", i), named.message()};
    }
  }
  if (devices.workers_size() > job.cluster().workers()) {
    return JobProblem{
        "devices.workers",
        StrCat("it names ", devices.workers_size(),
               " devices, but cluster.workers is ", job.cluster().workers())};
  }
  for (const auto& [op, device] : devices.ops()) {
    if (device != "cpu" && device != "device") {
      return JobProblem{StrCat("devices.ops.", op),
                        StrCat("'", device,
                               "' is neither cpu nor device, which is the "
                               "worker's")};
    }
  }
  const auto& named = devices.workers();
  const bool any_gpu =
      (devices.workers_size() < job.cluster().workers() &&
       job.device() != "cpu") ||
      std::any_of(named.begin(), named.end(),
                  [](const std::string& name) { return name != "cpu"; });
  if (devices.per_worker() > 1 && !any_gpu) {
    return JobProblem{"devices.per_worker",
                      StrCat(devices.per_worker(),
                             " devices for each worker, but all workers are on "
                             "the CPU, of which there is one; set device: "
                             "cuda, or leave it out")};
  }
  if (devices.per_worker() > job.cluster().virtual_workers()) {
    return JobProblem{
        "devices.per_worker",
        StrCat(devices.per_worker(),
               " is more than a worker has shares of a batch "
               "(cluster.virtual_workers is ",
               job.cluster().virtual_workers(),
               "), so some devices would idle; raise "
               "cluster.virtual_workers, best to twice as many or more")};
  }
  return std::nullopt;
}

// Names go to mpirun's command line.
Problem CheckPlacement(const PlacementSpec& placement) {
  std::vector<std::string> names;
  for (int i = 0; i < placement.hosts_size(); ++i) {
    const std::string& name = placement.hosts(i).name();
    const std::string key = StrCat("placement.hosts.", i, ".name");
    const bool plain =
        !name.empty() && name.front() != '-' &&
        std::all_of(name.begin(), name.end(), [](char c) {
          return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' ||
                 c == '.' || c == '_';
        });
    if (!plain) {
      return JobProblem{key, StrCat("'", name,
                                    "' can't be a host's name; expected "
                                    "letters, digits, '-', '.' and '_'")};
    }
    if (std::find(names.begin(), names.end(), name) != names.end()) {
      return JobProblem{key, StrCat("'", name,
                                    "' is there twice; give it once, with all "
                                    "its slots")};
    }
    names.push_back(name);
  }
  for (const auto& [role, hosts] :
       {std::pair("servers", &placement.servers()),
        std::pair("workers", &placement.workers())}) {
    for (int i = 0; i < hosts->size(); ++i) {
      if (std::find(names.begin(), names.end(), hosts->Get(i)) == names.end()) {
        return JobProblem{
            StrCat("placement.", role, ".", i),
            StrCat("placement.hosts has no '", hosts->Get(i), "'",
                   names.empty() ? std::string("; name the hosts there")
                                 : SuggestName(hosts->Get(i), names))};
      }
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<JobProblem> FindClusterProblem(const JobSpec& job) {
  Problem problem = CheckCluster(job);
  if (!problem.has_value()) {
    problem = CheckDevices(job);
  }
  return problem.has_value() ? problem : CheckPlacement(job.placement());
}

}  // namespace shoal::worker
