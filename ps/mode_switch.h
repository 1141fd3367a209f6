#ifndef SHOAL_PS_MODE_SWITCH_H_
#define SHOAL_PS_MODE_SWITCH_H_

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>

#include "base/status.h"
#include "comm/message.h"
#include "ps/model_spec.h"

namespace shoal::ps {

namespace wire {
class ModeState;
}  // namespace wire

// The mode that counts from a step on at which nothing is under way: all pushes
// of the steps before it are applied by every replica, and none of a later one.
struct ModeState {
  int64_t number = 0;  // switches so far; 0: what the plan says, from the start
  Mode mode = Mode::kSync;
  int64_t staleness = 0;
  int num_workers = 1;  // that steps are dealt to
  int64_t from_step = 0;
};

void ToWire(const ModeState& state, wire::ModeState& out);
// Errors: kInvalidArgument.
StatusOr<ModeState> FromWire(const wire::ModeState& in);

// "sync", "bounded (staleness 4)", "async".
std::string ModeText(Mode mode, int64_t staleness);

// What the coordinator keeps of the mode of its job, and of how it changes. A
// change is wanted; workers are held, which begin no further step and say how
// far they have begun; then their order is cut behind the last step that any of
// them has begun; and when that is done, the next order is of the new mode.
struct ModeSwitch {
  ModeState now;
  std::optional<ModeState> wanted;  // its mode and staleness
  // From the first hold until the order is cut: nobody is given an order.
  bool holding = false;
  // To those that have not answered.
  std::unordered_map<comm::EndpointId, uint64_t> holds;
  int64_t begun_until = 0;  // the first step that none of the others has begun
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_MODE_SWITCH_H_
