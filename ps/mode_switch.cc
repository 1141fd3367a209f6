#include "ps/mode_switch.h"

#include "base/strcat.h"
#include "ps/protocol.pb.h"

namespace shoal::ps {

void ToWire(const ModeState& state, wire::ModeState& out) {
  out.set_number(state.number);
  out.set_mode(static_cast<int>(state.mode));
  out.set_staleness(state.staleness);
  out.set_num_workers(state.num_workers);
  out.set_from_step(state.from_step);
}

StatusOr<ModeState> FromWire(const wire::ModeState& in) {
  if (in.mode() < 0 || in.mode() > static_cast<int>(Mode::kAsync) ||
      in.number() < 0 || in.staleness() < 0 || in.num_workers() < 1 ||
      in.from_step() < 0) {
    return InvalidArgumentError(
        StrCat("switch ", in.number(), " of the mode is not valid"));
  }
  return ModeState{.number = in.number(),
                   .mode = static_cast<Mode>(in.mode()),
                   .staleness = in.staleness(),
                   .num_workers = in.num_workers(),
                   .from_step = in.from_step()};
}

std::string ModeText(Mode mode, int64_t staleness) {
  switch (mode) {
    case Mode::kSync:
      return "sync";
    case Mode::kBounded:
      return StrCat("bounded (staleness ", staleness, ")");
    case Mode::kAsync:
      return "async";
  }
  return "";
}

}  // namespace shoal::ps
