#ifndef SHOAL_PS_COORDINATOR_RECORDS_H_
#define SHOAL_PS_COORDINATOR_RECORDS_H_

#include <cstdint>
#include <optional>

#include "base/buffer.h"
#include "comm/message.h"
#include "ps/step_norms.h"
#include "ps/waiting_message.h"

namespace shoal::ps {

// What the coordinator keeps of each shard and worker; see Coordinator.

struct PreparedShard {
  WaitingMessage waiting;
  StepNorms norms;
};
// What one worker has done.
struct WorkerState {
  std::optional<comm::EndpointId> endpoint;
  int64_t clock = 0;       // its own steps whose pushes are acknowledged
  int64_t done_order = 0;  // number of the last order it finished
  std::optional<WaitingMessage> asking;
  std::optional<WaitingMessage> awaiting_clock;
  int64_t clock_wanted = 0;
  Buffer scores;
  Buffer labels;
};

enum class OrderKind : uint8_t { kTrain, kEvaluate, kStop };
struct CurrentOrder {
  int64_t number = 0;  // 0: none yet
  OrderKind kind = OrderKind::kTrain;
  int64_t from = 0;
  int64_t until = 0;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_COORDINATOR_RECORDS_H_
