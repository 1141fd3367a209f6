#ifndef SHOAL_LAUNCH_KUBERNETES_JOB_VIEW_H_
#define SHOAL_LAUNCH_KUBERNETES_JOB_VIEW_H_

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "launch/kubernetes/collection_watch.h"

namespace shoal::launch {

// What is known of the pods and Jobs of one training on Kubernetes, made from
// what the API server tells. Asks nobody; belongs to one thread.
class JobView {
 public:
  struct Members {
    int servers = 1;
    int workers = 1;
  };
  explicit JobView(Members members) : members_(members) {}

  // Throw nlohmann::json::exception when an object is none of its kind.
  void OnPods(const CollectionChange& change);
  void OnJobs(const CollectionChange& change);

  // How the training ended, if it has.
  struct End {
    bool complete = false;
    std::string component;  // whose Job decided: coordinator or worker
    std::string why;        // "BackoffLimitExceeded: ..."
  };
  const std::optional<End>& end() const { return end_; }

  // The pod whose log tells of the training: the newest coordinator's that has
  // begun to run; empty if there is none.
  std::string CoordinatorPod() const;

  // Everybody is there and does its part.
  bool AllReady() const;

  // Who is not ready, and why, one a line.
  std::vector<std::string> Waiting() const;

  // What has changed since the last call, for people: "pod NAME: ...".
  std::vector<std::string> TakeNews();

  // "coordinator ready, servers 2/2 ready, workers 1/2 ready, 1 restart".
  std::string Line() const;

  // The newest exit code other than 0 of a component's pods; of a Job that the
  // pod failure policy ended, `by_policy`, only those for which that ends it:
  // pods that lost this one may have ended after it.
  std::optional<int> ExitCode(const std::string& component,
                              bool by_policy) const;

 private:
  struct Pod {
    std::string component;
    std::string created;
    std::string state;  // "running, not ready", "waits: ImagePullBackOff: ..."
    std::string key;    // the same without what changes all the time
    std::string finished;
    bool begun = false;  // its container runs or has run
    bool ready = false;
    bool succeeded = false;
    bool leaving = false;
    int restarts = 0;
    std::optional<int> exit_code;
  };

  static Pod ReadPod(const nlohmann::json& object);
  void SetPod(const std::string& name, Pod pod);
  void SetJob(const nlohmann::json& object);
  void SetDeleted(const std::string& component);
  int Ready(const std::string& component) const;

  const Members members_;
  std::map<std::string, Pod> pods_;  // by name
  std::map<std::string, std::set<std::string>> told_;
  std::vector<std::string> news_;
  std::optional<End> end_;
};

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_KUBERNETES_JOB_VIEW_H_
