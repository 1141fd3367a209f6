#ifndef SHOAL_PS_MEMBER_H_
#define SHOAL_PS_MEMBER_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/histogram.h"
#include "comm/node.h"
#include "ps/caller.h"
#include "ps/global_phase.h"
#include "ps/model_spec.h"
#include "ps/route.h"

namespace shoal::ps {

// What the coordinator tells a member that it lets in.
struct JoinResult {
  int index = 0;  // a shard's among all shards, a worker's among workers
  int num_workers = 0;
  int local_index = 0;    // a worker's among those of its host
  int virtual_begin = 0;  // a worker's virtual workers [begin, end)
  int virtual_end = 0;
  RouteTable route;
  ModelSpec model;
  ClusterPlan plan;
  std::string job_text;
  Buffer setup;
  bool restores = false;    // who holds state is asked to load it
  int64_t step = 0;         // a shard's: that the job is at
  StepDecision last;        // a shard's: of the step before, if there is one
  int64_t mode_number = 0;  // of the plan's mode, see ModeState
};

// What a member tells whoever runs it, on the node's thread: when it becomes
// ready, and then now and again.
struct MemberReport {
  bool ready = false;  // joined, and has what it holds
  int64_t step = 0;
  int64_t examples = 0;  // worker: trained on
  // Backup worker: steps of which its gradients came first.
  int64_t stood_in = 0;
  // Of a shard's tables; since it started.
  int64_t table_rows = 0;
  int64_t rows_on_disk = 0;  // of table_rows, those on disk alone
  int64_t rows_fetched = 0;  // from disk
  int64_t table_bytes = 0;
  int64_t candidates = 0;  // ids that are counted, but have no row
  int64_t rows_admitted = 0;
  int64_t rows_evicted = 0;
  int64_t dense_bytes = 0;  // worker that holds dense variables
  Histogram staleness;      // worker: of its gradients, see ps/staleness.h
};
using ReportFn = std::function<void(const MemberReport&)>;
inline constexpr Duration kReportEvery = std::chrono::seconds(1);

// Where a coordinator is, and which one of those that follow one another: later
// ones have greater epochs.
struct CoordinatorPlace {
  comm::EndpointId endpoint = comm::kCoordinator;
  std::string address;
  uint64_t epoch = 0;
};

// Who leads the job now. Blocks; runs on the storage thread.
using FindCoordinator = std::function<StatusOr<CoordinatorPlace>()>;

// A node's life in the cluster: joins the coordinator, answers its signs of
// life, and tells when it is gone or calls the job off. It follows a later
// coordinator, which asks it how far it is or which it looks for when it does
// not hear from the one it has, and never again listens to an earlier one: so
// two of them can't both lead it.
// Belongs to the node's thread.
class Member {
 public:
  struct Options {
    CoordinatorPlace coordinator;
    FindCoordinator find_coordinator;  // empty: it is never elsewhere
    bool is_worker = false;
    int server = 0;   // shards only
    int shard = 0;    // shards only
    int worker = -1;  // workers only; -1: any that is free
    Duration join_within = std::chrono::seconds(30);
  };

  // `joined` runs once, with the coordinator's answer or why there is none.
  // `ended` runs at most once, when the coordinator is lost (kUnavailable,
  // naming it) or calls the job off (its reason, never OK).
  Member(comm::NodeContext& context, Caller& caller, const Options& options,
         std::function<void(StatusOr<JoinResult>)> joined,
         std::function<void(Status)> ended);
  ~Member();
  Member(const Member&) = delete;
  Member& operator=(const Member&) = delete;

  void Start();

  // Takes messages that concern membership; false for others.
  bool OnMessage(comm::EndpointId from, const comm::Message& message);
  void OnPeerDown(comm::EndpointId peer);

  comm::EndpointId coordinator() const { return options_.coordinator.endpoint; }

 private:
  // If it is later than the one that it has.
  void Follow(const CoordinatorPlace& place);
  void Look();
  void OnJoinReply(StatusOr<comm::Message> reply);
  void Watch();
  void SayHello();
  void End(const Status& why);

  comm::NodeContext& context_;
  Caller& caller_;
  Options options_;
  std::function<void(StatusOr<JoinResult>)> joined_;
  std::function<void(Status)> ended_;
  Duration timeout_ = std::chrono::seconds(20);
  Time last_heard_;
  bool joining_ = true;
  bool missed_ = false;  // its connection ended, and it has said nothing since
  bool looking_ = false;
  comm::TimerId look_timer_ = comm::TimerId::kNone;
  comm::TimerId timer_ = comm::TimerId::kNone;
  comm::TimerId hello_timer_ = comm::TimerId::kNone;
};

// Answers a coordinator that took the place of a lost one; `step` and `last`,
// or null, and `mode_number` as in RecoverReply.
void AnswerRecover(comm::NodeContext& context, comm::EndpointId coordinator,
                   const comm::Message& request, int64_t step,
                   const StepDecision* last, int64_t mode_number);

}  // namespace shoal::ps

#endif  // SHOAL_PS_MEMBER_H_
