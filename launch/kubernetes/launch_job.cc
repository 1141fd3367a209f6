#include "launch/kubernetes/launch_job.h"

#include <sysexits.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/mutex.h"
#include "base/strcat.h"
#include "launch/kubernetes/api_client.h"
#include "launch/kubernetes/collection_watch.h"
#include "launch/kubernetes/console.h"
#include "launch/kubernetes/job_objects.h"
#include "launch/kubernetes/job_view.h"
#include "launch/supervisor.h"
#include "worker/job.h"
#include "worker/job.pb.h"

namespace shoal::launch {
namespace {

using nlohmann::json;

constexpr Duration kLookEvery = 100ms;
// For the rest of the log once the job is over.
constexpr Duration kLogWithin = std::chrono::seconds(10);
constexpr Duration kFirstPause = 200ms;
constexpr Duration kLogPauseMax = 1s;
constexpr Duration kLogSilenceMax = std::chrono::hours(24);

// A client with a thread that uses it; both end with this object.
class ClientThread {
 public:
  ClientThread(std::unique_ptr<ApiClient> client,
               std::function<void(ApiClient&)> body)
      : client_(std::move(client)), thread_([this, body = std::move(body)] {
          body(*client_);
          done_ = true;
        }) {}
  ~ClientThread() {
    // Once may be too early: see ApiClient::Cancel().
    while (!done_) {
      client_->Cancel();
      std::this_thread::sleep_for(5ms);
    }
    thread_.join();
  }
  ClientThread(const ClientThread&) = delete;
  ClientThread& operator=(const ClientThread&) = delete;

  bool done() const { return done_; }

 private:
  const std::unique_ptr<ApiClient> client_;
  std::atomic<bool> done_ = false;
  std::thread thread_;
};

// Copies the log of a pod to the console as it grows, until `over` and its end:
// servers end it while the pod goes on, too.
void FollowLog(ApiClient& client, const std::string& pod_path,
               const std::atomic<bool>& over, Console& console) {
  std::string last;  // time stamp of the last line
  Duration pause = kFirstPause;
  while (true) {
    const bool was_over = over;
    const StatusOr<ApiReply> ended = client.Stream(
        StrCat(pod_path, "/log?follow=true&timestamps=true",
               last.empty() ? "" : "&sinceTime=" + EncodeQuery(last)),
        kLogSilenceMax, [&](std::string_view line) {
          const size_t blank = line.find(' ');
          const std::string_view time = line.substr(0, blank);
          // sinceTime is in whole seconds: some come twice.
          if (time > last) {
            last = time;
            pause = kFirstPause;
            console.Log(
                blank == std::string_view::npos ? "" : line.substr(blank + 1));
          }
          return true;
        });
    if (ended.ok() ? ended->ok() && was_over
                   : ended.status().code() != StatusCode::kUnavailable) {
      return;  // The log has ended, or we are to.
    }
    if (ended.ok() && !ended->ok() && !ended->transient() &&
        ended->code != 400) {
      console.Say("note: the coordinator's log can't be read: " +
                  ended->ToString());
      return;
    }
    if (!client.Pause(pause)) {
      return;
    }
    pause = std::min(pause * 2, kLogPauseMax);
  }
}

// One launch: its Run() blocks, while another thread may Interrupt() it.
class Launch {
 public:
  Launch(const KubernetesRequest& request, const worker::JobSpec& job,
         std::string name, const ClusterAccess& access,
         std::vector<Manifest> manifests)
      : request_(request),
        access_(access),
        members_({.servers = job.cluster().servers(),
                  .workers = job.cluster().workers()}),
        name_(std::move(name)),
        objects_(name_, access.kube_namespace, std::move(manifests),
                 request.api_within, console_) {}

  StatusOr<int> Run() {
    StatusOr<int> result = Understood<StatusOr<int>>([this] { return Body(); });
    if (made_ && !request_.keep) {
      const Status removed = Understood<Status>([this] { return Remove(); });
      if (!removed.ok()) {
        console_.Say(
            StrCat("the job's objects are not all removed: ", removed.message(),
                   "; `shoal launch k8s ", request_.job_path, " --name ", name_,
                   " --delete` tries again"));
      }
    }
    return result;
  }

  // From another thread. The first call ends the job, the second all waits.
  void Interrupt(const Status& why) {
    const MutexLock lock(mutex_);
    if (stopped_.ok()) {
      stopped_ = why;
      console_.Say(StrCat(why.message(),
                          made_ && !request_.keep
                              ? ": removing the job (again: leave at once)"
                              : ": leaving"));
    } else {
      leave_ = true;
    }
    if (client_ != nullptr) {
      client_->Cancel();
    }
  }

 private:
  struct Change {
    bool pods = false;
    CollectionChange::Kind kind{};
    json objects;
  };

  StatusOr<std::unique_ptr<ApiClient>> CreateClient(bool cleaning) {
    return ApiClient::Create(access_, [this, cleaning] {
      const MutexLock lock(mutex_);
      return leave_ || (!cleaning && !stopped_.ok());
    });
  }

  // What `step` returns, which reads answers of the API server.
  template <typename Result, typename StepFn>
  static Result Understood(const StepFn& step) {
    try {
      return step();
    } catch (const json::exception& e) {
      return FailedPreconditionError(
          StrCat("the API server's answer is not understood: ", e.what()));
    }
  }

  // The client of the step that runs, which Interrupt() cancels.
  StatusOr<ApiClient*> UseClient(bool cleaning) {
    StatusOr<std::unique_ptr<ApiClient>> created = CreateClient(cleaning);
    SHOAL_RETURN_IF_ERROR(Reason(created.status()));
    std::unique_ptr<ApiClient> client = *std::move(created);
    const MutexLock lock(mutex_);
    if (leave_ || (!cleaning && !stopped_.ok())) {
      return stopped_;
    }
    client_ = std::move(client);
    return client_.get();
  }

  Status Remove() {
    SHOAL_ASSIGN_OR_RETURN(ApiClient* const client,
                           UseClient(/*cleaning=*/true));
    return objects_.Remove(*client);
  }

  StatusOr<int> Body() {
    SHOAL_ASSIGN_OR_RETURN(ApiClient* const client, UseClient(false));
    if (request_.remove) {
      const Status removed = objects_.Remove(*client);
      SHOAL_RETURN_IF_ERROR(Reason(removed));
      console_.Say(StrCat("job ", name_, " is removed from namespace ",
                          access_.kube_namespace, "; its volume claim stays"));
      return 0;
    }
    SHOAL_RETURN_IF_ERROR(Reason(objects_.MakeRoom(*client)));
    made_ = true;  // From here on there may be something to remove.
    SHOAL_RETURN_IF_ERROR(Reason(objects_.Apply(*client, request_.force)));
    console_.Say(StrCat("job ", name_, " is applied to namespace ",
                        access_.kube_namespace, " (", access_.source,
                        "): ", members_.servers, " servers, ", members_.workers,
                        " workers"));
    return Follow(*client);
  }

  // What a cancelled call was cancelled for.
  Status Reason(const Status& status) {
    const MutexLock lock(mutex_);
    return status.code() == StatusCode::kCancelled && !stopped_.ok() ? stopped_
                                                                     : status;
  }

  StatusOr<std::unique_ptr<ClientThread>> StartWatch(bool pods) {
    SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<ApiClient> client,
                           CreateClient(false));
    return std::make_unique<ClientThread>(
        std::move(client), [this, pods](ApiClient& mine) {
          const Status ended = WatchCollection(
              mine, pods ? objects_.PodsPath() : objects_.JobsPath(),
              objects_.Selector(), request_.api_within,
              [this, pods](const CollectionChange& change) {
                const MutexLock lock(mutex_);
                changes_.push_back({pods, change.kind, change.objects});
                changed_.NotifyAll();
              });
          const MutexLock lock(mutex_);
          if (watch_failure_.ok() && ended.code() != StatusCode::kCancelled) {
            watch_failure_ = ended;
          }
          changed_.NotifyAll();
        });
  }

  // Waits for changes and gives them to the view.
  Status TakeChanges(JobView& view) {
    std::deque<Change> changes;
    {
      const MutexLock lock(mutex_);
      if (changes_.empty() && stopped_.ok() && watch_failure_.ok()) {
        changed_.WaitFor(mutex_, kLookEvery);
      }
      SHOAL_RETURN_IF_ERROR(stopped_);
      SHOAL_RETURN_IF_ERROR(watch_failure_);
      changes.swap(changes_);
    }
    for (const Change& change : changes) {
      if (change.pods) {
        view.OnPods({change.kind, change.objects});
      } else {
        view.OnJobs({change.kind, change.objects});
      }
    }
    for (const std::string& line : view.TakeNews()) {
      console_.Say(line);
    }
    console_.SetLine(view.Line());
    return OkStatus();
  }

  Status FollowLogOf(const std::string& pod) {
    if (pod == log_pod_) {
      return OkStatus();
    }
    log_.reset();  // That of the one before has ended.
    log_over_ = false;
    log_pod_ = pod;
    SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<ApiClient> client,
                           CreateClient(false));
    log_ = std::make_unique<ClientThread>(
        std::move(client),
        [this, path = StrCat(objects_.PodsPath(), "/", pod)](ApiClient& mine) {
          FollowLog(mine, path, log_over_, console_);
        });
    return OkStatus();
  }

  StatusOr<int> Follow(ApiClient& client) {
    JobView view(members_);
    SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<ClientThread> pods,
                           StartWatch(/*pods=*/true));
    SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<ClientThread> jobs,
                           StartWatch(/*pods=*/false));
    const Time begin = clock_.Now();
    Time all_there = begin;
    while (!view.end().has_value()) {
      SHOAL_RETURN_IF_ERROR(TakeChanges(view));
      if (const std::string pod = view.CoordinatorPod(); !pod.empty()) {
        SHOAL_RETURN_IF_ERROR(FollowLogOf(pod));
      }
      const Time now = clock_.Now();
      if (view.AllReady()) {
        all_there = now;
      }
      const bool late = now - all_there >= request_.start_within;
      if (late ||
          (request_.timeout > Duration{} && now - begin >= request_.timeout)) {
        return Late(client, view, late);
      }
    }
    return End(client, view);
  }

  Status Late(ApiClient& client, const JobView& view, bool members) const {
    std::string text =
        members ? StrCat("members of the job are missing for ",
                         ToString(request_.start_within), " (--start-within)")
                : StrCat("the job is not done after ",
                         ToString(request_.timeout), " (--timeout)");
    for (const std::string& line : view.Waiting()) {
      text += "\n  " + line;
    }
    for (const std::string& line : objects_.CreationFailures(client)) {
      text += "\n  " + line;
    }
    return DeadlineExceededError(text);
  }

  // The job is over: whatever fails from here on does not change its code.
  int End(ApiClient& client, JobView& view) {
    // The pods' last words may come after the Job's.
    const StatusOr<ApiReply> reply = client.Call(
        {.path = StrCat(objects_.PodsPath(),
                        "?labelSelector=", EncodeQuery(objects_.Selector()))},
        clock_.Now() + kLogWithin);
    const json pods =
        reply.ok() ? json::parse(reply->body, nullptr, false) : json();
    if (reply.ok() && reply->ok() && pods.is_object() &&
        pods.contains("items")) {
      view.OnPods({CollectionChange::Kind::kListed, pods["items"]});
    }
    if (const std::string pod = view.CoordinatorPod(); !pod.empty()) {
      (void)FollowLogOf(pod);
    }
    log_over_ = true;
    const Time end = clock_.Now() + kLogWithin;
    while (log_ != nullptr && !log_->done() && clock_.Now() < end &&
           client.Pause(20ms)) {
    }
    log_.reset();
    for (const std::string& line : view.TakeNews()) {
      console_.Say(line);
    }
    const JobView::End& ended = *view.end();
    if (ended.complete) {
      console_.Say(StrCat("job ", name_, " is done"));
      return 0;
    }
    const bool by_policy = ended.why.starts_with("PodFailurePolicy");
    const int code = view.ExitCode(ended.component, by_policy)
                         .value_or(by_policy ? EXIT_FAILURE : EX_TEMPFAIL);
    console_.Say(StrCat("job ", name_, " failed: the ", ended.component,
                        "'s Job: ", ended.why, "; exit code ", code));
    return code;
  }

  const KubernetesRequest& request_;
  const ClusterAccess access_;
  const JobView::Members members_;
  const std::string name_;
  const SystemClock clock_;
  Console console_;
  const JobObjects objects_;
  std::atomic<bool> made_ = false;
  std::string log_pod_;
  std::atomic<bool> log_over_ = false;  // the pod whose log is read is over
  std::unique_ptr<ClientThread> log_;

  Mutex mutex_;
  CondVar changed_;
  Status stopped_ SHOAL_GUARDED_BY(mutex_);  // why, when it is to end
  bool leave_ SHOAL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<ApiClient> client_ SHOAL_GUARDED_BY(mutex_);
  std::deque<Change> changes_ SHOAL_GUARDED_BY(mutex_);
  Status watch_failure_ SHOAL_GUARDED_BY(mutex_);
};

StatusOr<std::string> ReadJobText(const std::string& path) {
  StatusOr<std::string> text = ReadText(path);
  // What the API server takes.
  constexpr size_t kBytesMax = size_t{1} << 20;
  if (!text.ok() || text->size() > kBytesMax) {
    return InvalidArgumentError(
        StrCat(path, text.ok() ? ": is longer than the 1 MiB of a ConfigMap"
                               : ": can't be read"));
  }
  return text;
}

}  // namespace

StatusOr<int> LaunchOnKubernetes(const KubernetesRequest& request) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<worker::JobSpec> job,
                         worker::LoadJob(request.job_path, request.overrides));
  // The file as people wrote it, unless the command line changes it.
  std::string text = worker::JobToYaml(*job);
  if (request.overrides.empty()) {
    SHOAL_ASSIGN_OR_RETURN(text, ReadJobText(request.job_path));
  }
  ManifestOptions options = request.manifests;
  SHOAL_ASSIGN_OR_RETURN(options.name, JobObjectName(options, *job));
  if (request.dry_run) {
    SHOAL_ASSIGN_OR_RETURN(const std::vector<Manifest> manifests,
                           RenderManifests(options, *job, text));
    std::fputs(ManifestsToYaml(manifests).c_str(), stdout);
    return 0;
  }
  SHOAL_ASSIGN_OR_RETURN(ClusterAccess access, FindCluster(request.access));
  if (!options.kube_namespace.empty()) {
    access.kube_namespace = options.kube_namespace;
  }
  options.kube_namespace = access.kube_namespace;
  SHOAL_ASSIGN_OR_RETURN(std::vector<Manifest> manifests,
                         RenderManifests(options, *job, text));
  Launch launch(request, *job, options.name, access, std::move(manifests));
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Supervisor> supervisor,
                         Supervisor::Create({.on_signal = [&](int signal) {
                           launch.Interrupt(StoppedBy(signal));
                         }}));
  // A server that hangs up while TLS writes must not end this process.
  std::signal(SIGPIPE, SIG_IGN);
  StatusOr<int> result = 0;
  std::atomic<bool> done = false;
  std::thread thread([&] {
    result = launch.Run();
    done = true;
  });
  while (!done) {
    supervisor->Wait(20ms);  // There are no children, but signals.
  }
  thread.join();
  return result;
}

}  // namespace shoal::launch
