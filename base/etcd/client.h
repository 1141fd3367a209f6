#ifndef SHOAL_BASE_ETCD_CLIENT_H_
#define SHOAL_BASE_ETCD_CLIENT_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/etcd/address.h"
#include "base/mutex.h"
#include "base/status.h"
#include "base/time.h"

namespace shoal {

struct EtcdEntry {
  std::string value;
  int64_t create_revision = 0;  // later ones have greater ones
  int64_t lease = 0;
};

// Asks an etcd cluster (version 3.4 or later) through its JSON gateway. A call
// tries the members one after another until one answers, beginning with the
// last that did.
//
// Thread-safe; calls block. Errors of all: kUnavailable (no member answers, or
// none of them has a majority; naming each and why), kInternal (one answers
// what etcd would not), kFailedPrecondition (etcd refuses: its words),
// kCancelled (after Cancel()). With a user, calls name it by a token that is
// asked for again when it has run out. A change that ended with kUnavailable
// may have been made.
class EtcdClient {
 public:
  struct Options {
    std::vector<std::string> hosts;
    bool tls = false;
    EtcdAccess access = {};
    Duration request_within = std::chrono::seconds(1);  // to each of them
  };
  // With the access that the environment gives. Errors: EtcdAccess::Read()'s.
  static StatusOr<Options> OptionsFor(const EtcdAddress& address);
  explicit EtcdClient(Options options) : options_(std::move(options)) {}
  EtcdClient(const EtcdClient&) = delete;
  EtcdClient& operator=(const EtcdClient&) = delete;

  // What stands at `key` now, as a majority says; none: nothing.
  StatusOr<std::optional<EtcdEntry>> Get(const std::string& key);

  struct Condition {
    std::string key;
    int64_t create_revision = 0;  // that it has; 0: it is not there
  };
  struct Change {
    std::string key;
    std::optional<std::string> value;  // none: what is there goes
    int64_t lease = 0;                 // that it goes with; 0: none
  };
  // Makes all changes at once if all conditions hold: gives their revision, or
  // 0 if one does not.
  StatusOr<int64_t> ChangeIf(std::span<const Condition> conditions,
                             std::span<const Change> changes);

  struct Lease {
    int64_t id = 0;
    Duration ttl{};  // whole seconds; etcd may give more than was asked for
  };
  StatusOr<Lease> Grant(Duration ttl);
  // Begins its time anew and gives it; zero: there is no such lease any more.
  StatusOr<Duration> KeepAlive(int64_t lease);
  Status Revoke(int64_t lease);

  // Calls under way, and all to come, end soon. From any thread.
  void Cancel() { cancelled_ = true; }

 private:
  // Gives the answer's body.
  StatusOr<std::string> Post(const char* path, const std::string& body);
  // As the user, if there is one.
  StatusOr<std::string> PostTo(const std::string& host, const char* path,
                               const std::string& body);
  StatusOr<std::string> Token(const std::string& host);
  StatusOr<std::string> PostOnce(const std::string& host, const char* path,
                                 const std::string& body,
                                 const std::string& token, bool& token_is_old);

  const Options options_;
  Mutex mutex_;
  std::string token_ SHOAL_GUARDED_BY(mutex_);
  std::atomic<size_t> first_ = 0;  // of the hosts
  std::atomic<bool> cancelled_ = false;
};

}  // namespace shoal

#endif  // SHOAL_BASE_ETCD_CLIENT_H_
