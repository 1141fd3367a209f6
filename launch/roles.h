#ifndef SHOAL_LAUNCH_ROLES_H_
#define SHOAL_LAUNCH_ROLES_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "base/time.h"
#include "launch/status_board.h"
#include "ps/member.h"

namespace shoal::launch {

// One member of a job's cluster, as a process or as threads of one.
struct RoleOptions {
  std::string transport = "auto";
  ps::CoordinatorPlace coordinator;
  ps::FindCoordinator find_coordinator;  // see ps::Member
  int index = -1;  // which server or worker; a worker's -1: any that is free
  int shards = 1;  // of a server
  std::string job_path;  // if not empty, it says what transport and shards are
  Duration join_within = std::chrono::seconds(60);
  StatusBoard* board = nullptr;  // what it tells of itself; must outlive it
};

// A server runs each of its shards on a thread of its own; a worker is one node
// with threads to read and to compute.
class Role {
 public:
  static StatusOr<std::unique_ptr<Role>> CreateServer(
      const RoleOptions& options);
  static StatusOr<std::unique_ptr<Role>> CreateWorker(
      const RoleOptions& options);
  virtual ~Role() = default;

  // Once. Blocks until the job is done or called off; returns the reason.
  virtual Status Run() = 0;

  // Ends Run() from any thread.
  virtual void Interrupt(const Status& why) = 0;
};

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_ROLES_H_
