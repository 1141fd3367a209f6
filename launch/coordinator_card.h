#ifndef SHOAL_LAUNCH_COORDINATOR_CARD_H_
#define SHOAL_LAUNCH_COORDINATOR_CARD_H_

#include <cstdint>
#include <string>

#include "base/etcd/client.h"
#include "base/status.h"
#include "base/time.h"
#include "comm/message.h"

namespace shoal::launch {

// The keys of one job in etcd.
struct EtcdJobKeys {
  explicit EtcdJobKeys(const std::string& name);
  std::string leader;  // a CoordinatorCard, by whoever leads
  std::string state;   // of the coordinator, see ps/durable_state.h
  std::string end;     // how the last training ended
};

// What a coordinator that leads says of itself in etcd.
struct CoordinatorCard {
  comm::EndpointId endpoint;
  std::string transport;
  std::string address;  // empty: it takes no calls yet
  std::string host;
  int64_t pid = 0;
  uint64_t job = 0;  // a hash of what its job is

  std::string ToJson() const;
  // Errors: kDataLoss.
  static StatusOr<CoordinatorCard> FromJson(const std::string& text);
  // "the coordinator at ADDRESS (host HOST, pid PID)".
  std::string Name() const;
};

struct FoundCoordinator {
  CoordinatorCard card;
  uint64_t epoch = 0;
};

// The coordinator that leads the job `name`. Blocks as EtcdClient does; errors
// of it, and kUnavailable (nobody leads now, or takes no calls yet).
StatusOr<FoundCoordinator> LookForCoordinator(EtcdClient& client,
                                              const std::string& name);

// The same, again until `deadline`. Errors: kDeadlineExceeded (why not),
// kInvalidArgument (the address names no job).
StatusOr<FoundCoordinator> AwaitCoordinator(const EtcdAddress& address,
                                            Time deadline);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_COORDINATOR_CARD_H_
