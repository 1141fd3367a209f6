#ifndef SHOAL_LAUNCH_STATUS_SERVER_H_
#define SHOAL_LAUNCH_STATUS_SERVER_H_

#include <memory>

#include "base/status.h"
#include "launch/status_board.h"

namespace shoal::launch {

// Answers HTTP on a thread of its own while it lives: GET /healthz (200: the
// process runs), /readyz (200,
// also of one that stands by, or 503) and /metrics (the board's text).
class StatusServer {
 public:
  // On all addresses; port 0: any that is free. `board` must outlive it.
  // Errors: kUnavailable (the port is taken, or not allowed).
  static StatusOr<std::unique_ptr<StatusServer>> Create(
      int port, const StatusBoard& board);
  virtual ~StatusServer() = default;

  virtual int port() const = 0;
};

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_STATUS_SERVER_H_
