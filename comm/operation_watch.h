#ifndef SHOAL_COMM_OPERATION_WATCH_H_
#define SHOAL_COMM_OPERATION_WATCH_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/time.h"
#include "comm/node_collective.h"

namespace shoal::comm {

// What a collective lacks whose library neither ends an operation at a deadline
// nor says who is missing. It numbers operations, ends them all when one takes
// too long or a member is lost, and asks the other members over the node's
// endpoint how far they are when one takes long, so that the error can name who
// is late.
//
// Belongs to the node's thread.
class OperationWatch {
 public:
  using Done = Collective::Done;
  struct Options {
    Duration timeout = std::chrono::seconds(20);  // of each operation
    std::string library;                          // "MPI", for errors
    std::function<void()> on_broken;  // runs once, in Fail(); or none
  };

  // `context` and `group` must outlive it.
  OperationWatch(NodeContext& context, const Group& group, Options options);
  ~OperationWatch();
  OperationWatch(const OperationWatch&) = delete;
  OperationWatch& operator=(const OperationWatch&) = delete;

  // Connects to the other members. Errors: those of Connect().
  Status Connect();

  // The number of an operation that begins; none if it can't: `done` then hears
  // why, later.
  std::optional<uint64_t> Begin(const char* name, DType dtype, int64_t count,
                                Done done);
  // The same for what all members do before their first operation, as operation
  // kOpening.
  static constexpr uint64_t kOpening = 0;
  void BeginOpening(std::string text, Done done);

  // Ends an operation: `done` is the caller's to run. Null if it has been given
  // up, or ended.
  Done End(uint64_t sequence);
  // "allreduce 3 of 100 f32"; empty when it has ended.
  std::string TextOf(uint64_t sequence) const;

  // OK until something has ended all operations for good.
  const Status& broken() const { return broken_; }
  // Ends all with `why`; `tell`: the other members hear it.
  void Fail(const Status& why, bool tell = true);
  // The same where the library has found that some member is lost, which is
  // often before its connection says which: waits a little for that.
  void FailNamingWhoIsLost(const Status& why);

  // As NodeCollective's.
  bool OnMessage(EndpointId from, const Message& message);
  void OnPeerDown(EndpointId peer, const Status& why);

 private:
  struct Operation {
    std::string text;
    Done done;
    TimerId ask_timer = TimerId::kNone;
    TimerId deadline_timer = TimerId::kNone;
  };
  struct Member {
    uint64_t sequence = 0;  // the last operation that it has called
    bool answered = false;  // since this end asked
    Status down;
  };

  bool Watch(uint64_t sequence, std::string text, Done done);
  void Ask();
  void OnDeadline(uint64_t sequence);
  void OnGrace(int rank, uint64_t last);
  Status LostError(std::string_view text, size_t rank) const;
  std::string Late(uint64_t sequence) const;
  void Tell(EndpointId to, uint8_t phase, uint64_t sequence,
            const std::string& text);

  NodeContext& context_;
  const Group& group_;
  const Options options_;
  std::vector<Member> members_;  // by rank
  Status broken_;
  Status found_lost_;  // by the library: who it is, is awaited
  uint64_t next_sequence_ = 1;
  std::map<uint64_t, Operation> operations_;
  std::vector<TimerId> grace_timers_;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_OPERATION_WATCH_H_
