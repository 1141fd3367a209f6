#ifndef SHOAL_PS_WIRE_H_
#define SHOAL_PS_WIRE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "base/buffer.h"
#include "base/status.h"
#include "comm/message.h"
#include "ps/global_phase.h"
#include "ps/model_spec.h"
#include "ps/route.h"

namespace google::protobuf {
class MessageLite;
}  // namespace google::protobuf

namespace shoal::ps {

namespace wire {
class Abort;
class Commit;
class Model;
class Norms;
class Plan;
class Route;
}  // namespace wire

// Methods of the parameter server; their messages are in ps/protocol.proto.
enum class Method : uint16_t {
  kJoin = 1,
  kPull = 2,
  kPush = 3,
  kPrepared = 4,
  kAskOrder = 5,
  kProgress = 6,
  kClock = 7,
  kSave = 8,
  kLoad = 9,
  kAlive = 10,
  kFinish = 11,
  kAbort = 12,
  kRouteChange = 13,
  kPrepare = 14,
  kApply = 15,
  kSlotStates = 16,
  kCaughtUp = 17,
  kScale = 18,
  kStatus = 19,
  kCutOrder = 20,
  kRecover = 21,
  kParts = 22,
  kSetMode = 40,
  kSlotLoads = 26,
};

Buffer Encode(const google::protobuf::MessageLite& head);

// Reads frame 0. Errors: kInvalidArgument (no frame, or not such a message).
Status Decode(const comm::Message& message,
              google::protobuf::MessageLite& head);

// Calls a job off, or tells one member that it has no place in it any more: a
// one-way message.
comm::Message AbortMessage(StatusCode code, std::string_view text);

// Why a job is called off. Never OK: a code that is no error of ours is read as
// kInternal.
Status FromWire(const wire::Abort& in);

void ToWire(const ModelSpec& model, wire::Model& out);
void ToWire(const ClusterPlan& plan, wire::Plan& out);
void ToWire(const RouteTable& route, wire::Route& out);
void ToWire(const StepNorms& norms, wire::Norms& out);
void ToWire(const StepDecision& decision, wire::Commit& out);

// Errors: kInvalidArgument naming the field.
StatusOr<ModelSpec> FromWire(const wire::Model& in);
StatusOr<ClusterPlan> FromWire(const wire::Plan& in);
StatusOr<RouteTable> FromWire(const wire::Route& in);
StatusOr<StepNorms> FromWire(const wire::Norms& in);
StatusOr<StepDecision> FromWire(const wire::Commit& in);

}  // namespace shoal::ps

#endif  // SHOAL_PS_WIRE_H_
