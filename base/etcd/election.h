#ifndef SHOAL_BASE_ETCD_ELECTION_H_
#define SHOAL_BASE_ETCD_ELECTION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>

#include "base/etcd/client.h"
#include "base/mutex.h"
#include "base/status.h"
#include "base/time.h"

namespace shoal {

// One of several that want to lead: who leads has made a key, which goes with
// a lease that it renews. What it changes, it changes under the condition that
// the key is still the one it made, so that one that was thought dead changes
// nothing any more. Its epoch is the revision at which the key was made: a
// later leader has a greater one.
//
// Calls block as those of the client do, and have its errors. They belong to
// one thread, except those that are said to be for any.
class EtcdElection {
 public:
  struct Leader {
    int64_t epoch = 0;
    std::string card;  // what it says of itself
  };

  // `client` must outlive it. `key`: the leader's. `ttl`: how long a leader
  // that says nothing keeps its place; 2 s at least.
  EtcdElection(EtcdClient& client, std::string key, Duration ttl)
      : client_(client), key_(std::move(key)), ttl_(ttl) {}
  ~EtcdElection();  // Resigns.
  EtcdElection(const EtcdElection&) = delete;
  EtcdElection& operator=(const EtcdElection&) = delete;

  // Who leads now, if anybody. From any thread.
  StatusOr<std::optional<Leader>> Look();

  // Leads, if nobody does and `only_if` holds: then gives true, makes `with`
  // too, and a thread renews the lease until Resign() or until it is lost.
  StatusOr<bool> Try(const std::string& card,
                     std::span<const EtcdClient::Condition> only_if = {},
                     std::span<const EtcdClient::Change> with = {});

  // The rest is for a leader.

  // Changes what it says of itself. Errors: kAborted (it leads no more) too.
  Status Tell(const std::string& card);

  // Makes the changes if it still leads. Errors: kAborted (it does not) too.
  // From any thread.
  Status Change(std::span<const EtcdClient::Change> changes);

  // Surely leads: its lease can't have run out. From any thread.
  bool Leads() const;
  // Surely does not lead any more, and will not again; else OK. kAborted. From
  // any thread.
  Status lost() const;
  int64_t epoch() const { return epoch_; }

  // Gives the place to whoever wants it, now if etcd can be reached.
  void Resign();

 private:
  void Renew();
  void Lose(const std::string& why);

  EtcdClient& client_;
  const std::string key_;
  const Duration ttl_;
  const SystemClock clock_;
  EtcdClient::Lease lease_;  // set before the thread starts
  int64_t epoch_ = 0;        // the same

  mutable Mutex mutex_;
  CondVar resigning_;
  bool resigned_ SHOAL_GUARDED_BY(mutex_) = false;
  Time surely_until_ SHOAL_GUARDED_BY(mutex_);
  Status lost_ SHOAL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace shoal

#endif  // SHOAL_BASE_ETCD_ELECTION_H_
