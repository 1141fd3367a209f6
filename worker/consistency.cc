#include "worker/consistency.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>

#include "base/step_tree.h"
#include "base/strcat.h"
#include "worker/job.pb.h"

namespace shoal::worker {
namespace {

// Bytes per step.
struct Reckoning {
  double servers = 0;
  double allreduce = 0;
};

std::string Bytes(double bytes) {
  char text[32];
  if (bytes >= 1e6) {
    std::snprintf(text, sizeof(text), "%.2f MB", bytes / 1e6);
  } else {
    std::snprintf(text, sizeof(text), "%.1f KB", bytes / 1e3);
  }
  return text;
}

ps::Mode ModeOf(const std::string& text) {
  return text == "sync"      ? ps::Mode::kSync
         : text == "bounded" ? ps::Mode::kBounded
                             : ps::Mode::kAsync;
}

// Inside one host all processes share the memory that messages pass through, so
// their bytes count together; between hosts each has its own link, and the step
// waits for the busiest: what it sends and gets. A worker has a gradient per
// node of its cover of the step tree.
Reckoning Count(const ClusterSpec& cluster, bool one_host, double dense_bytes) {
  const StepTree tree(cluster.virtual_workers());
  const ps::ClusterPlan plan{.virtual_workers = cluster.virtual_workers()};
  const int n = cluster.workers();
  int64_t all = 0;
  int64_t most = 0;
  for (int i = 0; i < n; ++i) {
    const auto [begin, end] = ps::VirtualRange(plan, i, n);
    const auto pushed = static_cast<int64_t>(tree.Cover(begin, end).size());
    all += pushed;
    most = std::max(most, pushed);
  }
  const auto workers = static_cast<double>(n);
  const auto pieces = static_cast<double>(all);
  const auto own = static_cast<double>(most);
  if (one_host) {
    return {.servers = dense_bytes * (workers + pieces),
            .allreduce = dense_bytes * (workers - 1) * (pieces / workers + 1)};
  }
  return {.servers = dense_bytes *
                     std::max(1 + own, (workers + pieces) / cluster.servers()),
          .allreduce = dense_bytes / workers *
                       ((workers - 1) * (own + 2) + (pieces - own))};
}

}  // namespace

std::string DenseText(const ConsistencySpec& consistency) {
  return consistency.dense().empty() ? consistency.mode() : consistency.dense();
}

std::string TablesText(const ConsistencySpec& consistency) {
  if (consistency.tables() == "auto") {
    const std::string dense = DenseText(consistency);
    return dense == "bounded" || dense == "async" ? dense : "sync";
  }
  return consistency.tables().empty() ? consistency.mode()
                                      : consistency.tables();
}

std::string GlobalKey(const JobSpec& job) {
  const std::string& kind = job.dense().kind();
  return job.train().clip_global_norm() > 0          ? "train.clip_global_norm"
         : job.train().loss_scale().kind() != "none" ? "train.loss_scale.kind"
         : kind == "lamb" || kind == "lars"          ? "dense.kind"
                                                     : "";
}

Consistency ChooseConsistency(const JobSpec& job, const ps::ModelSpec& model) {
  const ConsistencySpec& spec = job.consistency();
  const ClusterSpec& cluster = job.cluster();
  Consistency out;
  out.tables_text = TablesText(spec);
  out.dense_text = DenseText(spec);
  const std::string needs_sync =
      cluster.backup_workers() > 0 ? "cluster.backup_workers" : GlobalKey(job);
  if (out.dense_text == "auto" && !needs_sync.empty()) {
    out.dense_text = "sync";
    out.choices.push_back(StrCat("consistency.dense: auto is sync, which ",
                                 needs_sync, " needs"));
  } else if (out.dense_text == "auto") {
    const double bytes = static_cast<double>(model.num_dense_elements()) * 4;
    const bool one_host =
        job.transport() == "inproc" || job.transport() == "shm";
    const Reckoning r = Count(cluster, one_host, bytes);
    out.dense_text = r.allreduce <= r.servers ? "allreduce" : "sync";
    out.choices.push_back(StrCat(
        "consistency.dense: auto is ", out.dense_text, ": with ",
        cluster.workers(), cluster.workers() == 1 ? " worker, " : " workers, ",
        Bytes(bytes), " of dense variables put ", Bytes(r.servers),
        " a step through ", cluster.servers(),
        cluster.servers() == 1 ? " server" : " servers", " and ",
        Bytes(r.allreduce), " through allreduce (",
        one_host ? StrCat("all processes of one host, as transport ",
                          job.transport(), " says")
                 : StrCat("the busiest process, as transport ", job.transport(),
                          " may cross hosts"),
        "); both train the same model"));
  }
  if (spec.tables() == "auto") {
    out.choices.push_back(
        StrCat("consistency.tables: auto is ", out.tables_text,
               ", the strictest beside consistency.dense: ", out.dense_text));
  }
  out.tables = ModeOf(out.tables_text);
  out.dense = out.dense_text != "allreduce" ? ps::DensePlace::kShards
              : spec.sharded_optimizer()    ? ps::DensePlace::kWorkerParts
                                            : ps::DensePlace::kWorkers;
  return out;
}

}  // namespace shoal::worker
