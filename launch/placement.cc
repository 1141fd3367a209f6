#include "launch/placement.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/strcat.h"
#include "worker/job.pb.h"

namespace shoal::launch {
namespace {

// "node1" and "node1.cluster.local" are the same host.
bool SameHost(std::string_view a, std::string_view b) {
  return a == b || (a.substr(0, a.find('.')) == b.substr(0, b.find('.')) &&
                    (a.find('.') == std::string_view::npos ||
                     b.find('.') == std::string_view::npos));
}

// Gives `count` roles to the hosts that are named in turn; full ones are left
// out.
Status Deal(RankRole::Kind kind, int count, const char* key,
            const std::vector<std::string>& names,
            const worker::PlacementSpec& placement,
            std::vector<PlacedHost>& placed) {
  std::vector<size_t> may;
  std::string slots;
  for (size_t h = 0; h < placed.size(); ++h) {
    if (names.empty() ||
        std::find(names.begin(), names.end(), placed[h].name) != names.end()) {
      may.push_back(h);
      slots += StrCat(slots.empty() ? "" : ", ", placed[h].name, " has ",
                      placement.hosts(static_cast<int>(h)).slots());
    }
  }
  const auto full = [&](size_t h) {
    return static_cast<int>(placed[h].roles.size()) >=
           placement.hosts(static_cast<int>(h)).slots();
  };
  size_t next = 0;
  for (int index = 0; index < count; ++index) {
    size_t tried = 0;
    while (tried < may.size() && full(may[next % may.size()])) {
      ++next;
      ++tried;
    }
    if (tried == may.size()) {
      return InvalidArgumentError(
          StrCat("placement.", key, ": the job has ", count, " (cluster.", key,
                 "), but there is only room for ", index, " (slots: ", slots,
                 "; servers are placed before workers); raise "
                 "placement.hosts.N.slots, or name more hosts"));
    }
    placed[may[next % may.size()]].roles.push_back({kind, index});
    ++next;
  }
  return OkStatus();
}

StatusOr<std::vector<RankRole>> DealByHost(
    const std::vector<PlacedHost>& placed,
    const std::vector<std::string>& hosts) {
  std::vector<RankRole> roles;
  std::vector<size_t> taken(placed.size(), 0);
  for (size_t rank = 0; rank < hosts.size(); ++rank) {
    size_t h = 0;
    while (h < placed.size() && !SameHost(placed[h].name, hosts[rank])) {
      ++h;
    }
    if (h == placed.size()) {
      return InvalidArgumentError(
          StrCat("rank ", rank, " runs on host '", hosts[rank],
                 "', which placement.hosts does not name"));
    }
    if (taken[h] < placed[h].roles.size()) {
      roles.push_back(placed[h].roles[taken[h]]);
    }
    ++taken[h];
  }
  for (size_t h = 0; h < placed.size(); ++h) {
    if (taken[h] != placed[h].roles.size()) {
      return InvalidArgumentError(StrCat(
          "mpirun started ", taken[h], " ranks on host '", placed[h].name,
          "', but the placement has ", placed[h].roles.size(),
          " servers and workers there; start the job with `shoal launch "
          "mpi`, or give mpirun --host as that prints it (--dry-run)"));
    }
  }
  return roles;
}

}  // namespace

std::string RankRole::ToString() const {
  return kind == Kind::kCoordinator
             ? "coordinator"
             : StrCat(kind == Kind::kServer ? "server " : "worker ", index);
}

StatusOr<std::vector<PlacedHost>> PlaceRoles(const worker::JobSpec& job) {
  const worker::PlacementSpec& placement = job.placement();
  std::vector<PlacedHost> placed;
  for (const worker::HostSpec& host : placement.hosts()) {
    placed.push_back({host.name(), {}});
  }
  if (placed.empty()) {
    return placed;
  }
  SHOAL_RETURN_IF_ERROR(
      Deal(RankRole::Kind::kServer, job.cluster().servers(), "servers",
           {placement.servers().begin(), placement.servers().end()}, placement,
           placed));
  SHOAL_RETURN_IF_ERROR(
      Deal(RankRole::Kind::kWorker, job.cluster().workers(), "workers",
           {placement.workers().begin(), placement.workers().end()}, placement,
           placed));
  return placed;
}

StatusOr<std::vector<RankRole>> DealRanks(
    const worker::JobSpec& job, const std::vector<std::string>& hosts) {
  const int servers = job.cluster().servers();
  const int workers = job.cluster().workers();
  SHOAL_ASSIGN_OR_RETURN(const std::vector<PlacedHost> placed, PlaceRoles(job));
  const int extra = static_cast<int>(hosts.size()) - servers - workers;
  if (extra != 0 && (extra != 1 || !placed.empty())) {
    return InvalidArgumentError(StrCat(
        "mpirun started ", hosts.size(), " ranks, but the job needs ",
        servers + workers, " (cluster.servers ", servers, " + cluster.workers ",
        workers, ")",
        placed.empty() ? ", or one more for a coordinator of its own" : "",
        ": run mpirun -np ", servers + workers));
  }
  if (!placed.empty()) {
    return DealByHost(placed, hosts);
  }
  std::vector<RankRole> roles;
  if (extra == 1) {
    roles.push_back({RankRole::Kind::kCoordinator, 0});
  }
  for (int i = 0; i < servers; ++i) {
    roles.push_back({RankRole::Kind::kServer, i});
  }
  for (int i = 0; i < workers; ++i) {
    roles.push_back({RankRole::Kind::kWorker, i});
  }
  return roles;
}

}  // namespace shoal::launch
