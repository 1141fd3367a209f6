#ifndef SHOAL_LAUNCH_COORDINATOR_SEAT_H_
#define SHOAL_LAUNCH_COORDINATOR_SEAT_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/etcd/client.h"
#include "base/etcd/election.h"
#include "base/status.h"
#include "base/storage.h"
#include "base/time.h"
#include "launch/coordinator_card.h"
#include "launch/status_board.h"
#include "ps/durable_state.h"
#include "ps/fenced_storage.h"

namespace shoal::launch {

// The place of the one coordinator that leads a job, of those that keep its
// state in etcd. Belongs to one thread.
class CoordinatorSeat {
 public:
  struct Options {
    EtcdAddress etcd;  // with the job's name
    uint64_t job = 0;  // a hash of what it is: another one of this name is
                       // refused
    std::string run;   // RunRequest::run
    // The longest wait of members for a coordinator, which decides how long one
    // that says nothing keeps its place, and how long etcd may be away.
    Duration timeout = std::chrono::seconds(20);
    StatusBoard* board = nullptr;  // told that it stands by; may be null
    // Called once, when this process begins to stand by; may block. Its error
    // ends the wait.
    std::function<Status()> stands_by;
  };

  // Blocks until this process leads the job; stands by as long as another does.
  // Null: the job ended well meanwhile, or its run had before. Errors: how it
  // ended else, kUnavailable (etcd is away), kFailedPrecondition (another job
  // of this name is led), kCancelled (a signal came).
  static StatusOr<std::unique_ptr<CoordinatorSeat>> Take(Options options);
  ~CoordinatorSeat();
  CoordinatorSeat(const CoordinatorSeat&) = delete;
  CoordinatorSeat& operator=(const CoordinatorSeat&) = delete;

  // Another one has led the job, and left it to be gone on with.
  StatusOr<bool> GoesOn();

  // Members may call here now. Errors: kAborted (it leads no more) too.
  Status Publish(const std::string& transport, const std::string& address);
  comm::EndpointId endpoint() const { return card_.endpoint; }

  // For the coordinator's node, with which it lives.
  std::shared_ptr<ps::StateStore> state() const;
  // Files as elsewhere, of which only a leader changes any: a change waits
  // until it is sure that this process leads, and is kAborted if it does not,
  // or that stays unsure for `timeout`. The seat must outlive its calls.
  std::unique_ptr<Storage> CreateStorage();

  // OK as long as this process may lead; then kAborted, saying who does.
  Status Lost();
  // Waits under way end, so that the node can.
  void GiveUp();

 private:
  class Files;
  class State;
  CoordinatorSeat(Options options, EtcdClient::Options client);
  StatusOr<bool> StandBy();
  // Looks once: whether it leads now.
  StatusOr<bool> Step();
  // Prepares, the first time.
  Status TellThatItStandsBy(const EtcdElection::Leader& leader,
                            const CoordinatorCard& card);
  // Sets over_. Gives the revision of what says how a job ended; 0: nothing.
  StatusOr<int64_t> LookForEnd();
  bool LeadsWithin(const std::atomic<bool>& cancelled) const;

  const Options options_;
  const EtcdJobKeys keys_;
  const SystemClock clock_;
  const EtcdClient::Options client_options_;
  EtcdClient client_;
  EtcdElection election_;
  CoordinatorCard card_;
  std::shared_ptr<State> state_;
  int64_t behind_ = 0;          // the epoch that it stands by behind
  std::optional<Status> over_;  // the job has ended so
};

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_COORDINATOR_SEAT_H_
