#ifndef SHOAL_PS_SHARD_H_
#define SHOAL_PS_SHARD_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "comm/node.h"
#include "ps/caller.h"
#include "ps/checkpoint_format.h"
#include "ps/dense_store.h"
#include "ps/member.h"
#include "ps/model_spec.h"
#include "ps/sparse_table.h"
#include "ps/step_stage.h"

namespace shoal::ps {

// One shard of a server: holds the slots that the route gives it and answers
// pulls and pushes for them. See docs/architecture.md, "One training step".
//
// In `sync` it is at one step at all times: pushes of step t are staged, the
// coordinator is told when they are complete, and its commit applies them;
// pulls of t + 1 wait for that. In `bounded` and `async` a push is applied on
// arrival, once per (client, sequence). Where the workers hold the dense
// variables they share every step there too: the shard stages their pushes of
// step t and applies the sum when the last has come, with no commit, after step
// t - 1; in `bounded` a pull of t waits until t - staleness steps are applied.
//
// Belongs to the thread that pumps it; never blocks.
class Shard : public comm::Node {
 public:
  struct Options {
    comm::EndpointId coordinator = comm::kCoordinator;
    std::string coordinator_address;
    int server = 0;
    int shard = 0;  // of this server
    Duration join_within = std::chrono::seconds(30);
    ReportFn report;  // or none
  };

  explicit Shard(const Options& options);
  ~Shard() override;

  void OnStart(comm::NodeContext& context) override;
  void OnMessage(comm::EndpointId from, comm::Message message) override;
  void OnPeerDown(comm::EndpointId peer, const Status& why) override;

 private:
  // A pull that came before the step that it asks for.
  struct WaitingPull {
    comm::EndpointId from;
    comm::Message request;
    int64_t step = 0;
    comm::TimerId timer = comm::TimerId::kNone;
  };

  void OnJoined(const JoinResult& joined);
  void OnPull(comm::EndpointId from, comm::Message request);
  void OnPullDeadline(uint64_t waiting);
  void AnswerPull(comm::EndpointId from, const comm::Message& request);
  void OnPush(comm::EndpointId from, comm::Message request);
  // Steps that are shared, and those that are dealt.
  Status StagePush(PushParts push);
  Status ApplyPush(comm::EndpointId from, const PushParts& push);
  // Outside sync: applies the steps whose pushes have all come.
  void ApplyStaged();
  void OnSave(comm::EndpointId from, comm::Message request);
  void OnLoad(comm::EndpointId from, const comm::Message& request);

  // sync: tells the coordinator that the step is staged, again after a lost
  // connection, until its commit comes.
  void SendPrepared();
  void OnCommit(const StatusOr<comm::Message>& reply);

  // Whether a pull of `step` waits for nothing.
  bool MayAnswer(int64_t step) const;
  void AnswerWaiting();
  StepStage& CurrentStage();

  void Report();
  void Apply(const Piece& piece, double learning_rate_factor);
  ShardState state() {
    return {.model = &model_,
            .tables = tables_,
            .dense = dense_.get(),
            .slots = {.bits = route_.slot_bits,
                      .first = shape_.shard_index,
                      .last = (int64_t{1} << route_.slot_bits) - 1,
                      .stride = shape_.num_shards}};
  }
  void Reply(comm::EndpointId to, comm::Message reply);
  void ReplyError(comm::EndpointId to, const comm::Message& request,
                  const Status& status);
  // Tells the coordinator, then stops.
  void Fail(const Status& why);

  Options options_;
  comm::NodeContext* context_ = nullptr;
  std::optional<Caller> caller_;
  std::optional<Member> member_;

  bool joined_ = false;
  bool ready_ = false;  // and has loaded what it is to restore
  ModelSpec model_;
  ClusterPlan plan_;
  RouteTable route_;
  PushShape shape_;
  int64_t step_ = 0;  // steps applied; where they are dealt, pushes
  std::vector<std::unique_ptr<SparseTable>> tables_;  // see MakeTables()
  std::unique_ptr<DenseStore> dense_;

  // Where steps are shared: the pushes of step_ and, outside sync, of those
  // after it; the learning rate factor that they name.
  struct Stage {
    StepStage pushes;
    double learning_rate_factor = 1;
  };
  std::map<int64_t, Stage> stages_;
  // sync: the pushes of step_ are complete, and their sum.
  bool prepared_ = false;
  Piece sum_;
  uint64_t next_waiting_ = 1;
  std::map<uint64_t, WaitingPull> waiting_;
  std::vector<std::pair<comm::EndpointId, comm::Message>> waiting_saves_;
  // Where steps are dealt: the last applied push of each client.
  std::unordered_map<comm::EndpointId, uint64_t> last_sequence_;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_SHARD_H_
