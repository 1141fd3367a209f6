#include "ps/shard.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "google/protobuf/message_lite.h"
#include "gtest/gtest.h"

#include "base/strcat.h"
#include "ps/checkpoint_format.h"
#include "ps/protocol.pb.h"
#include "ps/ps_testing.h"
#include "ps/slots.h"
#include "ps/wire.h"

namespace shoal::ps {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr comm::EndpointId kChief{77};
constexpr comm::EndpointId kOneWorker{201};
constexpr comm::EndpointId kOtherWorker{202};
constexpr comm::EndpointId kStranger{999};
constexpr int kSlotBits = 10;

// Two tables that are looked up together and one alone; two dense variables, of
// which the first lies on shard 0 of two.
ModelSpec ShardModel() {
  const OptimizerConfig sgd = {.kind = "sgd", .learning_rate = 0.5};
  const Initializer ones = {.kind = Initializer::Kind::kConstant, .scale = 1};
  ModelSpec model;
  model.tables = {
      {.name = "user", .dim = 2, .optimizer = sgd, .initializer = ones},
      {.name = "item", .dim = 3, .optimizer = sgd, .initializer = ones},
      {.name = "word", .dim = 1, .initializer = ones}};
  model.groups = {{0, 1}, {2}};
  model.variables = {{.name = "bias", .dims = {5}, .initializer = ones},
                     {.name = "weight", .dims = {7}, .initializer = ones}};
  model.dense_optimizer = sgd;
  return model;
}

// The first `n` ids that shard `shard` of two owns, as they travel.
std::vector<uint64_t> IdsOf(int shard, size_t n) {
  std::vector<uint64_t> ids;
  for (uint64_t id = 1; ids.size() < n; ++id) {
    if (SlotOfHash(IdHash(id), kSlotBits) % 2 == shard) {
      ids.push_back(id);
    }
  }
  std::sort(ids.begin(), ids.end(),
            [](uint64_t a, uint64_t b) { return IdHash(a) < IdHash(b); });
  return ids;
}

Buffer IdFrame(const std::vector<uint64_t>& ids) {
  return Buffer::CopyOf(ids.data(), static_cast<int64_t>(ids.size()) * 8);
}

// n floats: value, 2 value, 3 value ...
Buffer RisingFrame(size_t n, float value) {
  std::vector<float> floats;
  for (size_t i = 0; i < n; ++i) {
    floats.push_back(value * static_cast<float>(i + 1));
  }
  return Buffer::CopyOf(floats.data(), static_cast<int64_t>(n) * 4);
}

std::vector<float> FloatsOf(const Buffer& frame) {
  const auto floats = frame.As<float>();
  return {floats.begin(), floats.end()};
}

// What became of n first values of 1 after a gradient of `value`, 2 value, ...
std::vector<float> AfterSgd(size_t n, float value, float factor = 1) {
  std::vector<float> floats;
  for (size_t i = 0; i < n; ++i) {
    floats.push_back(1 - 0.5F * factor * value * static_cast<float>(i + 1));
  }
  return floats;
}

// The frames of a push of one worker to shard 0: three rows of the first group,
// two of the second, and the dense part, per node of the step tree.
struct TestPush {
  int64_t step = 0;
  std::vector<std::pair<int64_t, float>> nodes = {{1, 0.25F}};
  uint64_t sequence = 1;
  double factor = 1;

  wire::Push Head() const {
    wire::Push head;
    head.set_version(1);
    head.set_step(step);
    head.set_sequence(sequence);
    head.set_learning_rate_factor(factor);
    for (const auto& [node, value] : nodes) {
      head.add_nodes(node);
    }
    return head;
  }
  std::vector<Buffer> Frames() const {
    std::vector<Buffer> frames = {Encode(Head())};
    for (const auto& [node, value] : nodes) {
      frames.push_back(IdFrame(IdsOf(0, 3)));
      frames.push_back(RisingFrame(6, value));
      frames.push_back(RisingFrame(9, value));
      frames.push_back(IdFrame(IdsOf(0, 2)));
      frames.push_back(RisingFrame(2, value));
      frames.push_back(RisingFrame(5, value));
    }
    return frames;
  }
};
// Where the frames of a push's first piece lie.
enum : size_t { kIds = 1, kUser, kItem, kWordIds, kWord, kDenseFrame };

std::vector<Buffer> PullFrames(int64_t step, Duration deadline = 3600s,
                               bool stands_in = false) {
  wire::Pull head;
  head.set_version(1);
  head.set_step(step);
  head.set_dense(true);
  head.set_deadline_ns(deadline.count());
  head.set_stands_in(stands_in);
  return {Encode(head), IdFrame(IdsOf(0, 3)), IdFrame(IdsOf(0, 2))};
}

// Shard 0 of two in a job that the test plays.
class ShardWorld {
 public:
  explicit ShardWorld(Mode mode = Mode::kSync, Duration timeout = 3600s,
                      const ModelSpec& model = ShardModel(),
                      const ClusterPlan& plan = {}, int replicas = 1) {
    shard_ = std::make_unique<Shard>(Shard::Options{
        .coordinator = {.endpoint = kChief, .address = "fake:chief"}});
    shard_->OnStart(context);
    wire::JoinReply reply;
    reply.set_index(0);
    ToWire(model, *reply.mutable_model());
    ToWire(ClusterPlan{.mode = mode,
                       .dense = plan.dense,
                       .staleness = plan.staleness,
                       .virtual_workers = 2,
                       .backup_workers = plan.backup_workers,
                       .timeout = timeout,
                       .move_bytes_per_second = plan.move_bytes_per_second,
                       .repair_bytes_per_second = plan.repair_bytes_per_second,
                       .global = plan.global},
           *reply.mutable_plan());
    RouteTable route = {
        .version = 1,
        .slot_bits = kSlotBits,
        .shards = {{context.self(), "fake:self", "server 0"},
                   {comm::EndpointId{51}, "fake:1", "server 1"}}};
    route.SetChains(
        FirstChains(1 << kSlotBits,
                    std::vector<ShardPlace>{{.shard = 0, .server = 0},
                                            {.shard = 1, .server = 1}},
                    replicas));
    ToWire(route, *reply.mutable_route());
    shard_->OnMessage(
        kChief, comm::MakeReply(context.sent.at(0).message, {Encode(reply)}));
    context.sent.clear();
  }
  ~ShardWorld() { shard_.reset(); }
  ShardWorld(const ShardWorld&) = delete;
  ShardWorld& operator=(const ShardWorld&) = delete;

  Shard& shard() { return *shard_; }

  uint64_t Send(comm::EndpointId from, Method method,
                std::vector<Buffer> frames) {
    comm::Message message;
    message.header.request = next_request_++;
    message.header.method = static_cast<uint16_t>(method);
    message.header.kind = comm::MessageKind::kRequest;
    message.frames = std::move(frames);
    const uint64_t request = message.header.request;
    shard_->OnMessage(from, std::move(message));
    return request;
  }
  // The replies to a request, of which there may be none yet.
  std::vector<comm::Message> Replies(comm::EndpointId to,
                                     uint64_t request) const {
    std::vector<comm::Message> replies;
    for (const auto& sent : context.sent) {
      if (sent.to == to &&
          sent.message.header.kind == comm::MessageKind::kReply &&
          sent.message.header.request == request) {
        replies.push_back(sent.message);
      }
    }
    return replies;
  }
  // Of a request that is answered at once, or by storage, and once.
  comm::Message Ask(comm::EndpointId from, Method method,
                    std::vector<Buffer> frames) {
    const uint64_t request = Send(from, method, std::move(frames));
    context.RunStorage();
    const std::vector<comm::Message> replies = Replies(from, request);
    EXPECT_EQ(replies.size(), 1U) << "method " << static_cast<int>(method);
    return replies.empty() ? comm::Message() : replies[0];
  }
  Status AskStatus(comm::EndpointId from, Method method,
                   std::vector<Buffer> frames) {
    return ErrorOf(Ask(from, method, std::move(frames)));
  }
  Status Push(const TestPush& push, comm::EndpointId from = kOneWorker) {
    return PushFrames(push.Frames(), from);
  }
  Status PushFrames(const std::vector<Buffer>& frames,
                    comm::EndpointId from = kOneWorker) {
    const uint64_t request = Send(from, Method::kPush, frames);
    const std::vector<comm::Message> replies = Replies(from, request);
    EXPECT_LE(replies.size(), 1U);
    if (replies.empty()) {
      return OkStatus();  // In sync it is acknowledged by the commit.
    }
    wire::PushReply reply;
    if (replies[0].header.status == 0 && Decode(replies[0], reply).ok() &&
        reply.has_route()) {
      return UnavailableError("was sent under another route");
    }
    return ErrorOf(replies[0]);
  }

  // The requests that tell the coordinator of a complete step.
  std::vector<comm::Message> Prepared() const {
    std::vector<comm::Message> prepared;
    for (const auto& sent : context.sent) {
      if (sent.to == kChief && sent.message.header.method ==
                                   static_cast<uint16_t>(Method::kPrepared)) {
        prepared.push_back(sent.message);
      }
    }
    return prepared;
  }
  void Commit(const comm::Message& prepared, int64_t step, double factor = 1,
              comm::EndpointId from = kChief) {
    Commit(prepared, {.step = step, .learning_rate_factor = factor}, from);
  }
  void Commit(const comm::Message& prepared, const StepDecision& decision,
              comm::EndpointId from = kChief) {
    wire::Commit commit;
    ToWire(decision, commit);
    shard_->OnMessage(from, comm::MakeReply(prepared, {Encode(commit)}));
  }

  // The error of either request, or the reply to the second.
  comm::Message Save(int64_t step, const std::string& folder,
                     comm::EndpointId from = kChief) {
    const comm::Message cut = Cut(step, folder, from);
    return ErrorOf(cut).ok() ? Parts(folder, from) : cut;
  }
  comm::Message Parts(const std::string& folder,
                      comm::EndpointId from = kChief) {
    wire::Parts parts;
    parts.set_folder(folder);
    parts.set_name("part-0");
    return Ask(from, Method::kParts, {Encode(parts)});
  }
  comm::Message Cut(int64_t step, const std::string& folder,
                    comm::EndpointId from = kChief) {
    return Ask(from, Method::kSave, {SaveFrame(step, folder)});
  }
  static Buffer SaveFrame(int64_t step, const std::string& folder) {
    wire::Save save;
    save.set_folder(folder);
    save.set_name("part-0");
    save.set_step(step);
    save.set_version(1);
    return Encode(save);
  }
  // All rows, chunks and optimizer states, as a checkpoint has them.
  std::string Contents(int64_t step) {
    EXPECT_EQ(Save(step, "probe").header.status, 0);
    return FilesOf("probe");
  }
  std::string FilesOf(const std::string& folder) {
    std::string all;
    const StatusOr<std::vector<std::string>> names =
        context.storage.ListFolder(folder);
    for (const std::string& name :
         names.ok() ? *names : std::vector<std::string>{}) {
      const StatusOr<Buffer> part =
          context.storage.ReadFile(folder + "/" + name);
      EXPECT_TRUE(part.ok()) << part.status();
      all += part.ok() ? StrCat(name, "\n", part->text()) : "";
    }
    return all;
  }
  // What a pull of the next step that gives up at once says is missing.
  std::string MissingAt(int64_t step) {
    const uint64_t request =
        Send(kOneWorker, Method::kPull, PullFrames(step + 1, 0ns));
    context.Advance(0ns);
    const std::vector<comm::Message> replies = Replies(kOneWorker, request);
    EXPECT_EQ(replies.size(), 1U);
    return replies.empty() ? "" : ErrorOf(replies[0]).message();
  }

  FakeContext context{comm::EndpointId{50}};

 private:
  std::unique_ptr<Shard> shard_;
  uint64_t next_request_ = 1;
};

// The values of user, item, word and dense that a pull brought.
std::vector<std::vector<float>> ValuesOf(const comm::Message& reply) {
  EXPECT_EQ(reply.header.status, 0) << ErrorOf(reply);
  EXPECT_THAT(reply.frames, SizeIs(5));
  std::vector<std::vector<float>> values;
  for (size_t i = 1; i < reply.frames.size(); ++i) {
    values.push_back(FloatsOf(reply.frames[i]));
  }
  values.resize(4);
  return values;
}

int64_t StepOf(const comm::Message& reply) {
  wire::PullReply head;
  EXPECT_TRUE(Decode(reply, head).ok());
  return head.step();
}

// --- Joining and leaving ---------------------------------------------------

TEST(ShardTest, BeforeItHasJoinedItAsksForPatience) {
  FakeContext context{comm::EndpointId{50}};
  Shard shard({.coordinator = {.endpoint = kChief, .address = "fake:chief"},
               .server = 3,
               .shard = 1});
  shard.OnStart(context);
  wire::Join join;
  ASSERT_THAT(context.sent, SizeIs(1));
  ASSERT_TRUE(Decode(context.sent[0].message, join).ok());
  EXPECT_EQ(join.server(), 3);
  EXPECT_EQ(join.shard(), 1);
  for (const Method method :
       {Method::kPull, Method::kPush, Method::kSave, Method::kFinish}) {
    comm::Message message;
    message.header = {.request = 5,
                      .method = static_cast<uint16_t>(method),
                      .kind = comm::MessageKind::kRequest};
    shard.OnMessage(kOneWorker, message);
    EXPECT_EQ(ErrorOf(context.sent.back().message).code(),
              StatusCode::kUnavailable);
  }
  EXPECT_FALSE(context.stopped.has_value());

  shard.OnMessage(kChief, comm::MakeErrorReply(
                              context.sent[0].message,
                              FailedPreconditionError("does not fit the job")));
  ASSERT_TRUE(context.stopped.has_value());
  EXPECT_EQ(context.stopped->code(), StatusCode::kFailedPrecondition);
}

TEST(ShardTest, EndsWhenTheCoordinatorSaysSoOrIsLost) {
  ShardWorld finished;
  EXPECT_TRUE(finished.AskStatus(kChief, Method::kFinish, {Buffer()}).ok());
  ASSERT_TRUE(finished.context.stopped.has_value());
  EXPECT_TRUE(finished.context.stopped->ok());

  ShardWorld aborted;
  comm::Message abort;
  abort.header.method = static_cast<uint16_t>(Method::kAbort);
  wire::Abort why;
  why.set_code(static_cast<int>(StatusCode::kCancelled));
  why.set_text("worker 1 was lost");
  abort.frames = {Encode(why)};
  aborted.shard().OnMessage(kOneWorker, abort);
  EXPECT_FALSE(aborted.context.stopped.has_value());
  aborted.shard().OnMessage(kChief, abort);
  ASSERT_TRUE(aborted.context.stopped.has_value());
  EXPECT_THAT(aborted.context.stopped->message(),
              HasSubstr("worker 1 was lost"));

  ShardWorld alone(Mode::kSync, 5s);
  alone.context.Advance(10s);
  ASSERT_TRUE(alone.context.stopped.has_value());
  EXPECT_EQ(alone.context.stopped->code(), StatusCode::kUnavailable);
  EXPECT_THAT(alone.context.stopped->message(), HasSubstr("fake:chief"));
}

TEST(ShardTest, OnlyTheCoordinatorSavesLoadsAndFinishes) {
  ShardWorld world;
  EXPECT_EQ(ErrorOf(world.Save(0, "out", kStranger)).code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(
      world.AskStatus(kStranger, Method::kLoad, {Encode(wire::Load())}).code(),
      StatusCode::kFailedPrecondition);
  EXPECT_EQ(world.AskStatus(kOneWorker, Method::kFinish, {Buffer()}).code(),
            StatusCode::kFailedPrecondition);
  EXPECT_FALSE(world.context.stopped.has_value());
  EXPECT_FALSE(world.context.storage.ReadFile("out/part-0-0.safetensors").ok());
}

TEST(ShardTest, ForeignRequestsAreAnsweredWithAnError) {
  ShardWorld world;
  const std::string before = world.Contents(0);
  const Buffer garbage = Buffer::CopyOf("\xff\xff\xff\xff");
  for (const comm::EndpointId from : {kChief, kOneWorker}) {
    for (uint16_t method = 0; method < 40; ++method) {
      const auto known = static_cast<Method>(method);
      if (known == Method::kFinish || known == Method::kAlive ||
          known == Method::kAbort) {
        continue;  // One has nothing to garble, the others are one way.
      }
      for (const std::vector<Buffer>& frames :
           {std::vector<Buffer>{}, {garbage}, {garbage, garbage}}) {
        EXPECT_FALSE(world.AskStatus(from, known, frames).ok())
            << "method " << method;
      }
    }
  }
  // One way, and replies that nobody waits for.
  const size_t sent = world.context.sent.size();
  for (uint16_t method = 0; method < 40; ++method) {
    comm::Message message;
    message.header.method = method;
    message.frames = {garbage};
    world.shard().OnMessage(kStranger, message);
    world.shard().OnMessage(kChief, comm::MakeReply(message, {garbage}));
  }
  EXPECT_THAT(world.context.sent, SizeIs(sent));
  EXPECT_FALSE(world.context.stopped.has_value());
  EXPECT_EQ(world.Contents(0), before);
}

// --- Pulls -----------------------------------------------------------------

TEST(ShardTest, PullBringsFirstValuesAndChangesNothing) {
  ShardWorld world;
  const std::string before = world.Contents(0);
  const comm::Message reply =
      world.Ask(kOneWorker, Method::kPull, PullFrames(0));
  EXPECT_EQ(StepOf(reply), 0);
  const auto values = ValuesOf(reply);
  EXPECT_THAT(values[0], AllOf(SizeIs(6), Each(1)));
  EXPECT_THAT(values[1], AllOf(SizeIs(9), Each(1)));
  EXPECT_THAT(values[2], AllOf(SizeIs(2), Each(1)));
  EXPECT_THAT(values[3], AllOf(SizeIs(5), Each(1))) << "only its own chunks";
  EXPECT_EQ(world.Contents(0), before);

  // Without the dense part, and without ids.
  wire::Pull head;
  head.set_version(1);
  const comm::Message empty =
      world.Ask(kOneWorker, Method::kPull, {Encode(head), Buffer(), Buffer()});
  ASSERT_THAT(empty.frames, SizeIs(4));
  for (size_t i = 1; i < 4; ++i) {
    EXPECT_EQ(empty.frames[i].size(), 0);
  }
}

TEST(ShardTest, PullsThatMakeNoSenseAreRefused) {
  for (const Mode mode : {Mode::kSync, Mode::kBounded}) {
    ShardWorld world(mode);
    const auto pull = [&](const std::function<void(std::vector<Buffer>&)>& f) {
      std::vector<Buffer> frames = PullFrames(0);
      f(frames);
      return world.AskStatus(kOneWorker, Method::kPull, std::move(frames));
    };
    using Frames = std::vector<Buffer>;
    EXPECT_TRUE(pull([](Frames&) {}).ok());
    EXPECT_EQ(pull([](Frames& f) { f.pop_back(); }).code(),
              StatusCode::kInvalidArgument);
    EXPECT_EQ(pull([](Frames& f) { f.push_back(f[1]); }).code(),
              StatusCode::kInvalidArgument);
    EXPECT_EQ(pull([](Frames& f) { f[0] = Buffer::CopyOf("\xff"); }).code(),
              StatusCode::kInvalidArgument);
    EXPECT_EQ(pull([](Frames& f) { f[1] = IdFrame(IdsOf(1, 2)); }).code(),
              StatusCode::kInvalidArgument)
        << "of another shard";
    EXPECT_EQ(pull([](Frames& f) {
                std::vector<uint64_t> ids = IdsOf(0, 3);
                std::swap(ids[1], ids[2]);
                f[2] = IdFrame(ids);
              }).code(),
              StatusCode::kInvalidArgument);
    EXPECT_EQ(pull([](Frames& f) {
                const uint64_t id = IdsOf(0, 1)[0];
                f[1] = IdFrame({id, id});
              }).code(),
              StatusCode::kInvalidArgument);
    // Half an id is no id.
    for (int64_t size = 1; size < 24; ++size) {
      if (size % 8 != 0) {
        EXPECT_EQ(pull([&](Frames& f) { f[1] = f[1].Slice(0, size); }).code(),
                  StatusCode::kInvalidArgument)
            << size;
      }
    }
    EXPECT_FALSE(world.context.stopped.has_value());
  }
}

TEST(ShardTest, PullOfMoreThanAMessageHoldsIsRefused) {
  ModelSpec model = ShardModel();
  model.tables[2] = {
      .name = "wide", .dim = int64_t{1} << 18, .optimizer = {.kind = "sgd"}};
  ShardWorld world(Mode::kSync, 3600s, model);
  std::vector<Buffer> frames = PullFrames(0);
  ASSERT_TRUE(world.AskStatus(kOneWorker, Method::kPull, frames).ok());
  frames[2] = IdFrame(IdsOf(0, 1024));  // 1 MiB each
  const Status status = world.AskStatus(kOneWorker, Method::kPull, frames);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("smaller batches"));
}

TEST(ShardTest, PullThatWaitsTooLongIsToldWhatIsMissing) {
  ShardWorld world;
  const uint64_t first =
      world.Send(kOneWorker, Method::kPull, PullFrames(1, 3s));
  ASSERT_TRUE(world.Push({.nodes = {{3, 0.25F}}}).ok());
  world.context.Advance(3s - 1ms);
  EXPECT_THAT(world.Replies(kOneWorker, first), IsEmpty());
  world.context.Advance(1ms);
  ASSERT_THAT(world.Replies(kOneWorker, first), SizeIs(1));
  const Status late = ErrorOf(world.Replies(kOneWorker, first)[0]);
  EXPECT_EQ(late.code(), StatusCode::kDeadlineExceeded);
  EXPECT_THAT(late.message(),
              AllOf(HasSubstr("step 0"), HasSubstr("virtual workers 0")));

  ASSERT_TRUE(world.Push({.nodes = {{2, 0.25F}}}).ok());
  EXPECT_THAT(world.MissingAt(0), HasSubstr("not committed"));
  world.Commit(world.Prepared().at(0), 0);
  world.context.Advance(60s);
  EXPECT_THAT(world.Replies(kOneWorker, first), SizeIs(1));
}

TEST(ShardTest, PullWaitsNoLongerThanThePlanAllows) {
  ShardWorld world(Mode::kSync, 10s);
  const auto pull = [&](int64_t deadline) {
    return world.Send(kOneWorker, Method::kPull,
                      PullFrames(1, Duration(deadline)));
  };
  const uint64_t longest = pull(std::numeric_limits<int64_t>::max());
  const uint64_t shortest = pull(std::numeric_limits<int64_t>::min());
  world.context.Advance(0ns);
  EXPECT_THAT(world.Replies(kOneWorker, shortest), SizeIs(1));
  world.context.Advance(10s - 1ms);
  EXPECT_THAT(world.Replies(kOneWorker, longest), IsEmpty());
  world.context.Advance(1ms);
  EXPECT_THAT(world.Replies(kOneWorker, longest), SizeIs(1));
}

TEST(ShardTest, PullOfALostConnectionIsForgotten) {
  ShardWorld world;
  const uint64_t lost = world.Send(kOneWorker, Method::kPull, PullFrames(1));
  const uint64_t kept = world.Send(kOtherWorker, Method::kPull, PullFrames(1));
  world.shard().OnPeerDown(kOneWorker, UnavailableError("connection reset"));
  ASSERT_TRUE(world.Push({}).ok());
  world.Commit(world.Prepared().at(0), 0);
  EXPECT_THAT(world.Replies(kOneWorker, lost), IsEmpty());
  EXPECT_THAT(world.Replies(kOtherWorker, kept), SizeIs(1));
}

// --- Steps -----------------------------------------------------------------

TEST(ShardTest, StepIsAppliedByItsCommitAndNotBefore) {
  ShardWorld world;
  ASSERT_TRUE(world.Push({.nodes = {{2, 0.25F}}}).ok());
  EXPECT_THAT(world.Prepared(), IsEmpty()) << "virtual worker 1 is missing";
  ASSERT_TRUE(world.Push({.nodes = {{3, 0.5F}}}, kOtherWorker).ok());
  ASSERT_THAT(world.Prepared(), SizeIs(1));
  wire::Prepared prepared;
  ASSERT_TRUE(Decode(world.Prepared()[0], prepared).ok());
  EXPECT_EQ(prepared.step(), 0);

  const uint64_t next = world.Send(kOneWorker, Method::kPull, PullFrames(1));
  const uint64_t far = world.Send(kOneWorker, Method::kPull, PullFrames(2));
  const auto before =
      ValuesOf(world.Ask(kOneWorker, Method::kPull, PullFrames(0)));
  EXPECT_THAT(before[0], Each(1));
  EXPECT_THAT(before[3], Each(1));
  EXPECT_THAT(world.Replies(kOneWorker, next), IsEmpty());

  world.Commit(world.Prepared()[0], 0, 0.5);
  ASSERT_THAT(world.Replies(kOneWorker, next), SizeIs(1));
  EXPECT_EQ(StepOf(world.Replies(kOneWorker, next)[0]), 1);
  const auto after = ValuesOf(world.Replies(kOneWorker, next)[0]);
  EXPECT_EQ(after[0], AfterSgd(6, 0.75F, 0.5F));
  EXPECT_EQ(after[1], AfterSgd(9, 0.75F, 0.5F));
  EXPECT_EQ(after[3], AfterSgd(5, 0.75F, 0.5F));
  EXPECT_THAT(world.Replies(kOneWorker, far), IsEmpty());
  EXPECT_EQ(world.AskStatus(kOneWorker, Method::kPull, PullFrames(0)).code(),
            StatusCode::kAborted)
      << "the job is past it: ask the coordinator";
}

TEST(ShardTest, StepsFollowOneAnother) {
  ShardWorld world;
  float sum = 0;
  for (int64_t step = 0; step < 4; ++step) {
    // A whole tree, two pieces of one push, or one piece each.
    const float value = 0.25F * static_cast<float>(step + 1);
    if (step == 0) {
      ASSERT_TRUE(world.Push({.step = step, .nodes = {{1, value}}}).ok());
      sum += value;
    } else if (step == 1) {
      ASSERT_TRUE(
          world.Push({.step = step, .nodes = {{3, value}, {2, value}}}).ok());
      sum += 2 * value;
    } else {
      for (const int64_t node : {2, 3}) {
        ASSERT_TRUE(world.Push({.step = step, .nodes = {{node, value}}}).ok());
      }
      sum += 2 * value;
    }
    ASSERT_THAT(world.Prepared(), SizeIs(static_cast<size_t>(step + 1)));
    world.Commit(world.Prepared().back(), step);
    EXPECT_EQ(
        ValuesOf(world.Ask(kOneWorker, Method::kPull, PullFrames(step + 1)))[1],
        AfterSgd(9, sum));
  }
}

TEST(ShardTest, CommitTwiceAppliesOnce) {
  ShardWorld world;
  ASSERT_TRUE(world.Push({}).ok());
  const comm::Message prepared = world.Prepared().at(0);
  const std::string before = world.Contents(0);
  world.Commit(prepared, 0, 1, kStranger);
  EXPECT_EQ(world.Contents(0), before) << "not of the coordinator";
  world.Commit(prepared, 0);
  const std::string after = world.Contents(1);
  EXPECT_NE(after, before);
  world.Commit(prepared, 0);
  world.Commit(prepared, 1);
  EXPECT_EQ(world.Contents(1), after);
  EXPECT_FALSE(world.context.stopped.has_value());
}

TEST(ShardTest, PreparedIsSentAgainWhenTheConnectionIsLost) {
  ShardWorld world;
  ASSERT_TRUE(world.Push({}).ok());
  world.shard().OnPeerDown(kChief, UnavailableError("connection reset"));
  world.context.Advance(1s);
  ASSERT_THAT(world.Prepared(), SizeIs(2));
  world.Commit(world.Prepared()[0], 0);  // to the lost one: late
  EXPECT_THAT(world.MissingAt(0), HasSubstr("not committed"));
  world.Commit(world.Prepared()[1], 0);
  EXPECT_THAT(world.MissingAt(1), HasSubstr("virtual workers 0, 1"));
}

TEST(ShardTest, CommitThatMakesNoSenseEndsTheShardAndSaysWhy) {
  using Spoil = std::function<void(ShardWorld&, const comm::Message&)>;
  const std::vector<Spoil> spoils = {
      [](ShardWorld& world, const comm::Message& prepared) {
        world.Commit(prepared, 1);
      },
      [](ShardWorld& world, const comm::Message& prepared) {
        world.shard().OnMessage(
            kChief, comm::MakeReply(prepared, {Buffer::CopyOf("\xff")}));
      },
      [](ShardWorld& world, const comm::Message& prepared) {
        world.shard().OnMessage(
            kChief,
            comm::MakeErrorReply(prepared, InternalError("the job is at 7")));
      }};
  for (const Spoil& spoil : spoils) {
    ShardWorld world;
    ASSERT_TRUE(world.Push({}).ok());
    const std::string before = world.Contents(0);
    spoil(world, world.Prepared().at(0));
    ASSERT_TRUE(world.context.stopped.has_value());
    EXPECT_FALSE(world.context.stopped->ok());
    EXPECT_EQ(world.context.sent.back().to, kChief);
    EXPECT_EQ(world.context.sent.back().message.header.method,
              static_cast<uint16_t>(Method::kAbort));
    EXPECT_EQ(world.Contents(0), before);
  }
}

// --- What needs all gradients of a step ------------------------------------

StepNorms NormsIn(const comm::Message& message) {
  wire::Prepared prepared;
  EXPECT_TRUE(Decode(message, prepared).ok());
  EXPECT_TRUE(prepared.has_norms());
  const auto norms = FromWire(prepared.norms());
  EXPECT_TRUE(norms.ok()) << norms.status();
  return norms.ok() ? *norms : StepNorms();
}

double LossScaleOf(const comm::Message& reply) {
  wire::PullReply head;
  EXPECT_TRUE(Decode(reply, head).ok());
  return head.loss_scale();
}

TEST(ShardGlobalTest, NothingIsToldThatNobodyNeeds) {
  ShardWorld world;
  ASSERT_TRUE(world.Push({}).ok());
  wire::Prepared prepared;
  ASSERT_TRUE(Decode(world.Prepared().at(0), prepared).ok());
  EXPECT_FALSE(prepared.has_norms());
}

TEST(ShardGlobalTest, NormsGoUpAndTheFactorComesDown) {
  const ClusterPlan plan = {.global = {.clip_norm = 1}};
  ShardWorld world(Mode::kSync, 3600s, ShardModel(), plan);
  ASSERT_TRUE(world.Push({.nodes = {{2, 0.25F}, {3, 0.5F}}}).ok());
  // Sums of 0.75 i, squared: 6 and 9 elements of rows, 2 more, 5 of the dense.
  const auto squares = [](int n) { return n * (n + 1) * (2 * n + 1) / 6; };
  const StepNorms norms = NormsIn(world.Prepared().at(0));
  EXPECT_TRUE(norms.finite);
  EXPECT_EQ(norms.gradients.value(),
            0.5625 * (squares(6) + squares(9) + squares(2) + squares(5)));
  EXPECT_THAT(norms.layers, IsEmpty());
  world.Commit(world.Prepared()[0], {.step = 0, .gradient_scale = 0.25});
  const auto after =
      ValuesOf(world.Ask(kOneWorker, Method::kPull, PullFrames(1)));
  EXPECT_EQ(after[0], AfterSgd(6, 0.1875F));
  EXPECT_EQ(after[1], AfterSgd(9, 0.1875F));
  EXPECT_EQ(after[3], AfterSgd(5, 0.1875F));
}

TEST(ShardGlobalTest, SkippedStepChangesNothingButTheStepAndTheScale) {
  const ClusterPlan plan = {.global = {.loss_scale = 8}};
  ShardWorld world(Mode::kSync, 3600s, ShardModel(), plan);
  std::vector<Buffer> frames = TestPush().Frames();
  frames[kItem] = RisingFrame(9, std::numeric_limits<float>::infinity());
  ASSERT_TRUE(world.PushFrames(frames).ok());
  EXPECT_FALSE(NormsIn(world.Prepared().at(0)).finite);
  const std::string before = world.Contents(0);
  world.Commit(world.Prepared()[0],
               {.step = 0, .skip = true, .next_loss_scale = 4});
  EXPECT_EQ(world.Contents(1), before);
  const comm::Message reply =
      world.Ask(kOneWorker, Method::kPull, PullFrames(1));
  EXPECT_EQ(StepOf(reply), 1);
  EXPECT_EQ(LossScaleOf(reply), 4);
  // And the next one is as any other.
  ASSERT_TRUE(world.Push({.step = 1, .nodes = {{1, 2.0F}}}).ok());
  world.Commit(world.Prepared().back(), {.step = 1, .gradient_scale = 0.25});
  EXPECT_EQ(ValuesOf(world.Ask(kOneWorker, Method::kPull, PullFrames(2)))[0],
            AfterSgd(6, 0.5F));
}

TEST(ShardGlobalTest, RatioOfAVariableIsThatOfItsChunks) {
  ModelSpec model = ShardModel();
  model.dense_optimizer.kind = "lars";
  model.dense_optimizer.momentum = 0;
  ShardWorld world(Mode::kSync, 3600s, model);
  ASSERT_TRUE(world.Push({.nodes = {{1, 0.25F}}}).ok());
  const StepNorms norms = NormsIn(world.Prepared().at(0));
  ASSERT_THAT(norms.layers, SizeIs(2));
  EXPECT_EQ(norms.layers[0].values.value(), 5);  // ones
  EXPECT_EQ(norms.layers[0].updates.value(), 0.0625 * 55);
  EXPECT_EQ(norms.layers[1].values.value(), 0) << "lies elsewhere";
  world.Commit(world.Prepared()[0], {.step = 0, .trust_ratios = {0.5, 64}});
  EXPECT_EQ(ValuesOf(world.Ask(kOneWorker, Method::kPull, PullFrames(1)))[3],
            AfterSgd(5, 0.125F));
}

TEST(ShardGlobalTest, CommitWithImpossibleFactorsEndsTheShard) {
  for (const StepDecision& bad :
       {StepDecision{.gradient_scale = std::nan("")},
        StepDecision{.gradient_scale = -1}, StepDecision{.trust_ratios = {1}},
        StepDecision{.trust_ratios = {1, INFINITY}},
        StepDecision{.next_loss_scale = INFINITY}}) {
    ShardWorld world;
    ASSERT_TRUE(world.Push({}).ok());
    const std::string before = world.Contents(0);
    world.Commit(world.Prepared().at(0), bad);
    ASSERT_TRUE(world.context.stopped.has_value());
    EXPECT_FALSE(world.context.stopped->ok());
    EXPECT_EQ(world.Contents(0), before);
  }
}

TEST(ShardTest, PushCountsOnceHoweverOftenItComes) {
  ShardWorld world;
  const TestPush push = {.nodes = {{2, 0.25F}}};
  EXPECT_TRUE(world.Push(push).ok());
  EXPECT_TRUE(world.Push(push).ok());
  EXPECT_TRUE(world.Push(push, kOtherWorker).ok()) << "of a replacement";
  EXPECT_THAT(world.Prepared(), IsEmpty());
  EXPECT_THAT(world.MissingAt(0), HasSubstr("virtual workers 1"));
  EXPECT_TRUE(world.Push({.nodes = {{3, 0.5F}}}).ok());
  EXPECT_TRUE(world.Push({.nodes = {{3, 0.5F}}}).ok());
  ASSERT_THAT(world.Prepared(), SizeIs(1));
  world.Commit(world.Prepared()[0], 0);
  const std::string after = world.Contents(1);
  const auto values =
      ValuesOf(world.Ask(kOneWorker, Method::kPull, PullFrames(1)));
  EXPECT_EQ(values[0], AfterSgd(6, 0.75F));

  // A repeat of what is applied is acknowledged and does no more.
  EXPECT_TRUE(world.Push(push).ok());
  EXPECT_EQ(world.Contents(1), after);
  EXPECT_THAT(world.MissingAt(1), HasSubstr("virtual workers 0, 1"));
}

// For backup workers: who was not needed, and who came last.
TEST(ShardTest, TellsWhatCameBeforeAndWhoCameLast) {
  ShardWorld world(Mode::kSync, 3600s, ShardModel(), {.backup_workers = 1});
  const auto push = [&](int64_t node, comm::EndpointId from) {
    return world.Send(from, Method::kPush,
                      TestPush{.nodes = {{node, 0.25F}}}.Frames());
  };
  const auto repeated = [&](comm::EndpointId to, uint64_t request) {
    const std::vector<comm::Message> replies = world.Replies(to, request);
    EXPECT_THAT(replies, SizeIs(1));
    wire::PushReply reply;
    EXPECT_TRUE(!replies.empty() && Decode(replies[0], reply).ok());
    return reply.repeated();
  };
  const auto came_last = [&](int64_t step) {
    wire::PullReply reply;
    EXPECT_TRUE(
        Decode(world.Ask(kOneWorker, Method::kPull, PullFrames(step)), reply)
            .ok());
    return reply.came_last();
  };
  EXPECT_EQ(came_last(0), -1);
  const uint64_t first = push(3, kOneWorker);
  const uint64_t second = push(3, kOtherWorker);
  EXPECT_THAT(world.Replies(kOneWorker, first), IsEmpty()) << "not committed";
  const uint64_t last = push(2, kOtherWorker);
  const uint64_t third = push(3, kOtherWorker);
  const uint64_t again = push(3, kOneWorker);
  world.Commit(world.Prepared()[0], 0);
  EXPECT_FALSE(repeated(kOneWorker, first));
  EXPECT_TRUE(repeated(kOtherWorker, second));
  EXPECT_FALSE(repeated(kOtherWorker, last));
  EXPECT_TRUE(repeated(kOtherWorker, third));
  EXPECT_FALSE(repeated(kOneWorker, again)) << "its own";
  EXPECT_FALSE(repeated(kOneWorker, push(3, kOneWorker))) << "and later";
  EXPECT_EQ(came_last(1), 0) << "node 2 is virtual worker 0";
  EXPECT_TRUE(repeated(kOneWorker, push(2, kOneWorker))) << "of a step before";
}

TEST(ShardTest, WhoCanStandInIsToldWhoIsMissingAndElseWaits) {
  ShardWorld world(Mode::kSync, 3600s, ShardModel(), {.backup_workers = 1});
  const auto pull = [&] {
    return world.Send(kOneWorker, Method::kPull, PullFrames(1, 20ms, true));
  };
  ASSERT_TRUE(world.Push({.nodes = {{2, 0.25F}}}).ok());
  const uint64_t told = pull();
  EXPECT_THAT(world.Replies(kOneWorker, told), IsEmpty()) << "not yet late";
  world.context.Advance(21ms);
  ASSERT_THAT(world.Replies(kOneWorker, told), SizeIs(1));
  wire::PullReply reply;
  ASSERT_TRUE(Decode(world.Replies(kOneWorker, told)[0], reply).ok());
  EXPECT_EQ(reply.lacks(), 1);
  ASSERT_TRUE(world.Push({.nodes = {{3, 0.25F}}}).ok());
  const uint64_t waits = pull();
  world.context.Advance(1000s);
  EXPECT_THAT(world.Replies(kOneWorker, waits), IsEmpty())
      << "the commit is late, nobody is missing";
  world.Commit(world.Prepared()[0], 0);
  ASSERT_THAT(world.Replies(kOneWorker, waits), SizeIs(1));
  EXPECT_EQ(StepOf(world.Replies(kOneWorker, waits)[0]), 1);
}

TEST(ShardTest, PushOfALaterStepIsRefused) {
  ShardWorld world;
  const std::string before = world.Contents(0);
  EXPECT_EQ(world.Push({.step = 1}).code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(world.MissingAt(0), HasSubstr("virtual workers 0, 1"));
  EXPECT_EQ(world.Contents(0), before);
}

// --- Pushes that are not whole ---------------------------------------------

struct BadPush {
  std::string name;
  StatusCode code;
  std::vector<Buffer> frames;
};

std::vector<BadPush> BadPushes() {
  std::vector<BadPush> bad;
  const std::vector<Buffer> good = TestPush{}.Frames();
  const auto add = [&](const std::string& name, StatusCode code,
                       const std::function<void(std::vector<Buffer>&)>& f) {
    bad.push_back({name, code, good});
    f(bad.back().frames);
  };
  using Frames = std::vector<Buffer>;
  const StatusCode invalid = StatusCode::kInvalidArgument;
  add("ids of another shard", invalid,
      [](Frames& f) { f[kIds] = IdFrame(IdsOf(1, 3)); });
  add("one id of another shard", invalid, [](Frames& f) {
    std::vector<uint64_t> ids = IdsOf(0, 2);
    ids.push_back(IdsOf(1, 1)[0]);
    std::sort(ids.begin(), ids.end(),
              [](uint64_t a, uint64_t b) { return IdHash(a) < IdHash(b); });
    f[kIds] = IdFrame(ids);
  });
  add("ids that fall", invalid, [](Frames& f) {
    std::vector<uint64_t> ids = IdsOf(0, 3);
    std::reverse(ids.begin(), ids.end());
    f[kIds] = IdFrame(ids);
  });
  add("an id twice", invalid, [](Frames& f) {
    const uint64_t id = IdsOf(0, 1)[0];
    f[kWordIds] = IdFrame({id, id});
  });
  add("an id less", invalid, [](Frames& f) { f[kIds] = IdFrame(IdsOf(0, 2)); });
  add("gradients of another dim", invalid,
      [](Frames& f) { f[kUser] = RisingFrame(9, 1); });
  add("a byte more", invalid, [](Frames& f) {
    f[kUser] = Buffer::CopyOf(std::string(f[kUser].text()) + "x");
  });
  for (const size_t frame : {kIds, kUser, kDenseFrame}) {
    add(StrCat("frame ", frame, " at an odd address"), invalid, [&](Frames& f) {
      f[frame] = Buffer::CopyOf("x" + std::string(f[frame].text()))
                     .Slice(1, f[frame].size());
    });
  }
  add("tables exchanged", invalid,
      [](Frames& f) { std::swap(f[kUser], f[kItem]); });
  add("a table left out", invalid,
      [](Frames& f) { f.erase(f.begin() + kItem); });
  add("no dense part", invalid, [](Frames& f) { f.pop_back(); });
  add("all dense variables", invalid,
      [](Frames& f) { f[kDenseFrame] = RisingFrame(12, 1); });
  add("a frame more", invalid,
      [](Frames& f) { f.push_back(RisingFrame(1, 1)); });
  add("no frames", invalid, [](Frames& f) { f.resize(1); });
  add("nothing at all", invalid, [](Frames& f) { f.clear(); });
  add("a piece more than its head says", invalid, [](Frames& f) {
    const Frames piece(f.begin() + 1, f.end());
    f.insert(f.end(), piece.begin(), piece.end());
  });
  add("a piece less than its head says", invalid, [](Frames& f) {
    f[0] = Encode(TestPush{.nodes = {{2, 1}, {3, 1}}}.Head());
  });
  for (const size_t frame : {kUser, kItem, kWord, kDenseFrame}) {
    for (const float value : {std::numeric_limits<float>::quiet_NaN(),
                              std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity()}) {
      add(StrCat(value, " in frame ", frame), invalid, [&](Frames& f) {
        std::vector<float> floats = FloatsOf(f[frame]);
        floats.back() = value;
        f[frame] = Buffer::CopyOf(floats.data(), f[frame].size());
      });
    }
  }
  for (const double factor : {std::numeric_limits<double>::quiet_NaN(),
                              std::numeric_limits<double>::infinity(), -1.0}) {
    add(StrCat("a learning rate factor of ", factor), invalid,
        [&](Frames& f) { f[0] = Encode(TestPush{.factor = factor}.Head()); });
  }
  return bad;
}

TEST(ShardTest, BadPushesAreRefusedAndChangeNothing) {
  for (const Mode mode : {Mode::kSync, Mode::kBounded, Mode::kAsync}) {
    ShardWorld world(mode);
    const std::string before = world.Contents(0);
    for (const BadPush& bad : BadPushes()) {
      const Status status = world.PushFrames(bad.frames);
      EXPECT_EQ(status.code(), bad.code) << bad.name << ": " << status;
      EXPECT_EQ(world.Contents(0), before) << bad.name;
      if (mode == Mode::kSync) {
        EXPECT_THAT(world.MissingAt(0), HasSubstr("virtual workers 0, 1"))
            << bad.name;
      }
    }
    EXPECT_FALSE(world.context.stopped.has_value());
    // The refused ones did not use up the place of the right one.
    EXPECT_TRUE(world.Push({}).ok());
    if (mode == Mode::kSync) {
      EXPECT_THAT(world.Prepared(), SizeIs(1));
    } else {
      EXPECT_NE(world.Contents(1), before);
    }
  }
}

TEST(ShardTest, PushOfAStrangeNodeStagesNothingOfIt) {
  ShardWorld world;
  using Nodes = std::vector<std::pair<int64_t, float>>;
  for (const Nodes& nodes :
       {Nodes{{0, 1}}, Nodes{{4, 1}}, Nodes{{-1, 1}},
        Nodes{{std::numeric_limits<int64_t>::max(), 1}},
        Nodes{{std::numeric_limits<int64_t>::min(), 1}},
        // The first piece of these is right, the push as a whole is not.
        Nodes{{2, 1}, {4, 1}}, Nodes{{2, 1}, {1, 1}},
        Nodes{{2, 1}, {3, 1}, {7, 1}}}) {
    EXPECT_EQ(world.Push({.nodes = nodes}).code(),
              StatusCode::kInvalidArgument);
    EXPECT_THAT(world.MissingAt(0), HasSubstr("virtual workers 0, 1"));
    EXPECT_THAT(world.Prepared(), IsEmpty());
  }
  ASSERT_TRUE(world.Push({.nodes = {{2, 1}}}).ok());
  EXPECT_THAT(world.Prepared(), IsEmpty());
  // What a refused push repeats was there before and stays.
  EXPECT_FALSE(world.Push({.nodes = {{2, 1}, {4, 1}}}).ok());
  EXPECT_THAT(world.MissingAt(0), HasSubstr("virtual workers 1"));
  ASSERT_TRUE(world.Push({.nodes = {{3, 1}}}).ok());
  EXPECT_THAT(world.Prepared(), SizeIs(1));
}

// What the frames of a broken message may do: be refused without a trace. What
// no check can find (a gradient's other value) is taken as a whole.
void CheckBroken(Mode mode, const std::vector<Buffer>& frames,
                 bool must_be_refused, const std::string& what) {
  SCOPED_TRACE(what);
  ShardWorld world(mode);
  const std::string before = world.Contents(0);
  const Status status = world.PushFrames(frames);
  EXPECT_FALSE(world.context.stopped.has_value());
  EXPECT_TRUE(!must_be_refused || !status.ok());
  if (!status.ok() || mode == Mode::kSync) {
    EXPECT_EQ(world.Contents(0), before);
  }
  if (status.ok()) {
    return;
  }
  EXPECT_FALSE(status.message().empty());
  // As if it had never come.
  if (mode == Mode::kSync) {
    EXPECT_THAT(world.MissingAt(0), HasSubstr("virtual workers 0, 1"));
  }
  ASSERT_TRUE(world.Push({}).ok());
  if (mode == Mode::kSync) {
    world.Commit(world.Prepared().at(0), 0);
  }
  EXPECT_EQ(ValuesOf(world.Ask(kOneWorker, Method::kPull, PullFrames(1)))[0],
            AfterSgd(6, 0.25F));
}

TEST(ShardTest, PushCutAnywhereIsRefusedAndChangesNothing) {
  const std::vector<Buffer> good = TestPush{}.Frames();
  for (const Mode mode : {Mode::kSync, Mode::kBounded}) {
    for (size_t f = 0; f < good.size(); ++f) {
      CheckBroken(mode, {good.begin(), good.begin() + static_cast<int>(f)},
                  true, StrCat(f, " frames"));
      for (int64_t size = 0; size < good[f].size(); ++size) {
        std::vector<Buffer> cut = good;
        cut[f] = cut[f].Slice(0, size);
        // The end of the head is for the other modes.
        wire::Push head;
        const bool is_whole =
            mode == Mode::kSync && f == 0 &&
            head.ParseFromArray(cut[0].data(), static_cast<int>(size)) &&
            head.has_step() && head.has_version() && head.nodes_size() == 1;
        CheckBroken(mode, cut, !is_whole,
                    StrCat("frame ", f, " cut to ", size));
      }
    }
  }
}

TEST(ShardTest, PushWithAFlippedBitIsTakenAsAWholeOrNotAtAll) {
  const std::vector<Buffer> good = TestPush{}.Frames();
  for (const Mode mode : {Mode::kSync, Mode::kBounded}) {
    for (size_t f = 0; f < good.size(); ++f) {
      for (int64_t bit = 0; bit < good[f].size() * 8; ++bit) {
        std::vector<Buffer> broken = good;
        broken[f] = Buffer::CopyOf(good[f].text());
        broken[f].data()[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
        CheckBroken(mode, broken, false, StrCat("bit ", bit, " of frame ", f));
      }
    }
  }
}

// --- Outside sync ----------------------------------------------------------

TEST(ShardTest, OutsideSyncAPushIsAppliedOnArrivalOncePerClientAndSequence) {
  for (const Mode mode : {Mode::kBounded, Mode::kAsync}) {
    ShardWorld world(mode);
    const auto user = [&] {
      return ValuesOf(
          world.Ask(kOtherWorker, Method::kPull, PullFrames(100)))[0];
    };
    EXPECT_EQ(world.Push({.sequence = 2}).code(), StatusCode::kUnavailable)
        << "the one before is on its way again";
    EXPECT_THAT(user(), Each(1));
    EXPECT_TRUE(world.Push({.sequence = 1, .factor = 0.5}).ok());
    EXPECT_EQ(user(), AfterSgd(6, 0.125F)) << "pulls do not wait";
    EXPECT_THAT(world.Prepared(), IsEmpty());

    // A retry, also one that says something else, is known by its number.
    EXPECT_TRUE(world.Push({.sequence = 1}).ok());
    EXPECT_TRUE(world.Push({.nodes = {{1, 8}}, .sequence = 1}).ok());
    EXPECT_EQ(user(), AfterSgd(6, 0.125F));

    // Another client counts by itself.
    EXPECT_TRUE(world.Push({.sequence = 1}, kOtherWorker).ok());
    EXPECT_EQ(user(), AfterSgd(6, 0.375F));
    EXPECT_TRUE(world.Push({.sequence = 2}).ok());
    EXPECT_EQ(user(), AfterSgd(6, 0.625F));
    EXPECT_EQ(world.Push({.sequence = 4}).code(), StatusCode::kUnavailable);
    EXPECT_EQ(user(), AfterSgd(6, 0.625F));
  }
}

TEST(ShardTest, OutsideSyncAPushWithoutSequenceOrFactorIsRefused) {
  ShardWorld world(Mode::kAsync);
  EXPECT_EQ(world.Push({.sequence = 0}).code(), StatusCode::kInvalidArgument);
  std::vector<Buffer> frames = TestPush{}.Frames();
  wire::Push head = TestPush{}.Head();
  head.clear_learning_rate_factor();
  frames[0] = Encode(head);
  EXPECT_EQ(world.PushFrames(frames).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(world.Push({.factor = 0}).ok()) << "a schedule may end at 0";
  EXPECT_TRUE(world.Push({.sequence = 2}).ok());
}

// A push of a model whose delays are compensated has the values too.
std::vector<Buffer> DelayedFrames(uint64_t sequence, float value,
                                  const std::vector<float>& computed_from) {
  std::vector<Buffer> frames =
      TestPush{.nodes = {{1, value}}, .sequence = sequence}.Frames();
  frames.push_back(Buffer::CopyOf(
      computed_from.data(), static_cast<int64_t>(computed_from.size()) * 4));
  return frames;
}

ModelSpec DelayedModel() {
  ModelSpec model = ShardModel();
  model.dense_optimizer.delay_compensation = 0.5;
  model.dense_optimizer.delay_decay = 0.75;
  return model;
}

TEST(ShardTest, LateGradientsAreCompensatedByWhatTheyWereComputedFrom) {
  ShardWorld world(Mode::kAsync, 3600s, DelayedModel());
  const std::vector<float> first(5, 1);
  ASSERT_TRUE(world.PushFrames(DelayedFrames(1, 0.25F, first)).ok());
  // The other worker's is of the first values too, which are not there now.
  ASSERT_TRUE(
      world.PushFrames(DelayedFrames(1, 0.5F, first), kOtherWorker).ok());
  const auto got =
      ValuesOf(world.Ask(kOneWorker, Method::kPull, PullFrames(2)));
  for (size_t i = 0; i < 5; ++i) {
    const double g1 = 0.25 * static_cast<double>(i + 1);
    const double g2 = 2 * g1;
    const double w = 1 - 0.5 * g1;
    const double s = 0.75 * (0.25 * g1 * g1) + 0.25 * g2 * g2;
    const double g = g2 + 0.5 / std::sqrt(s + 1e-7) * g2 * g2 * (w - 1);
    EXPECT_NEAR(got[3][i], w - 0.5 * g, 1e-6) << i;
    EXPECT_GT(std::fabs(g - g2), 0.01);
  }
  EXPECT_EQ(got[0], AfterSgd(6, 0.75F)) << "rows are as pushed";

  std::vector<Buffer> without = TestPush{.sequence = 2}.Frames();
  EXPECT_EQ(world.PushFrames(without).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(world.PushFrames(DelayedFrames(2, 1, {1, 1, 1, 1})).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(world.PushFrames(DelayedFrames(2, 1, {1, 1, NAN, 1, 1})).code(),
            StatusCode::kInvalidArgument);
}

TEST(ShardTest, ReplicasGetWhatGradientsWereComputedFrom) {
  ShardWorld world(Mode::kAsync, 3600s, DelayedModel(), {}, 2);
  const std::vector<float> values = {1, 2, 3, 4, 5};
  ASSERT_TRUE(world.PushFrames(DelayedFrames(1, 0.25F, values)).ok());
  const auto handed_on =
      std::find_if(world.context.sent.begin(), world.context.sent.end(),
                   [](const auto& sent) {
                     return sent.message.header.method ==
                            static_cast<uint16_t>(Method::kApply);
                   });
  ASSERT_NE(handed_on, world.context.sent.end());
  ASSERT_THAT(handed_on->message.frames, SizeIs(8));
  EXPECT_EQ(FloatsOf(handed_on->message.frames[7]), values);
}

// --- Outside sync, where workers share steps -------------------------------

// The tables of such a job. (That the workers hold the dense variables is the
// route's to say, which here leaves them to the shard.)
class SharedStepsWorld : public ShardWorld {
 public:
  explicit SharedStepsWorld(Mode mode, int64_t staleness = 0)
      : ShardWorld(mode, 3600s, ShardModel(),
                   {.dense = DensePlace::kWorkers, .staleness = staleness}) {}

  // The step that a pull for `step` is answered at; none: it waits.
  std::optional<int64_t> PulledAt(int64_t step) {
    const uint64_t request =
        Send(kOtherWorker, Method::kPull, PullFrames(step));
    const std::vector<comm::Message> replies = Replies(kOtherWorker, request);
    return replies.empty() ? std::nullopt : std::optional(StepOf(replies[0]));
  }
  std::vector<float> User(int64_t step) {
    return ValuesOf(Ask(kOtherWorker, Method::kPull, PullFrames(step)))[0];
  }
};

TEST(SharedStepsTest, StepIsAppliedOnceAsTheSumOfAllItsPushes) {
  for (const Mode mode : {Mode::kBounded, Mode::kAsync}) {
    SharedStepsWorld world(mode, /*staleness=*/8);
    ASSERT_TRUE(world.Push({.nodes = {{2, 0.25F}}, .factor = 0.5}).ok());
    EXPECT_THAT(world.User(0), Each(1)) << "half a step is none";
    // Repeats, of a push and of one on another connection, are known.
    ASSERT_TRUE(world.Push({.nodes = {{2, 8}}, .factor = 0.5}).ok());
    ASSERT_TRUE(
        world.Push({.nodes = {{2, 8}}, .factor = 0.5}, kOtherWorker).ok());
    EXPECT_THAT(world.User(0), Each(1));
    ASSERT_TRUE(
        world.Push({.nodes = {{3, 0.5F}}, .factor = 0.5}, kOtherWorker).ok());
    EXPECT_EQ(world.User(1), AfterSgd(6, 0.75F, 0.5F));
    ASSERT_TRUE(
        world.Push({.nodes = {{3, 0.5F}}, .factor = 0.5}, kOtherWorker).ok());
    EXPECT_EQ(world.User(1), AfterSgd(6, 0.75F, 0.5F));
    EXPECT_THAT(world.Prepared(), IsEmpty()) << "nobody commits";
  }
}

TEST(SharedStepsTest, StepsAreAppliedInTheirOrder) {
  SharedStepsWorld world(Mode::kAsync);
  ASSERT_TRUE(world.Push({.step = 1, .nodes = {{1, 0.5F}}}).ok());
  ASSERT_TRUE(world.Push({.step = 0, .nodes = {{2, 0.25F}}}).ok());
  EXPECT_EQ(world.PulledAt(2), 0);
  EXPECT_THAT(world.User(2), Each(1)) << "step 0 lacks a push";
  ASSERT_TRUE(world.Push({.step = 0, .nodes = {{3, 0}}}).ok());
  EXPECT_EQ(world.PulledAt(2), 2);
  EXPECT_EQ(world.User(2), AfterSgd(6, 0.75F));
  EXPECT_EQ(world.Push({.step = 1000}).code(), StatusCode::kFailedPrecondition);
}

TEST(SharedStepsTest, InBoundedAPullWaitsUntilItsRowsAreNewEnough) {
  SharedStepsWorld world(Mode::kBounded, /*staleness=*/2);
  EXPECT_EQ(world.PulledAt(2), 0);
  const uint64_t later = world.Send(kOneWorker, Method::kPull, PullFrames(4));
  EXPECT_EQ(world.PulledAt(3), std::nullopt);
  EXPECT_THAT(world.MissingAt(2), HasSubstr("virtual workers 0, 1"));
  ASSERT_TRUE(world.Push({.step = 0}).ok());
  EXPECT_EQ(world.PulledAt(3), 1);
  EXPECT_THAT(world.Replies(kOneWorker, later), IsEmpty());
  ASSERT_TRUE(world.Push({.step = 1}).ok());
  ASSERT_THAT(world.Replies(kOneWorker, later), SizeIs(1));
  EXPECT_EQ(StepOf(world.Replies(kOneWorker, later)[0]), 2);
}

TEST(SharedStepsTest, InAsyncAPullNeverWaits) {
  SharedStepsWorld world(Mode::kAsync);
  EXPECT_EQ(world.PulledAt(1000), 0);
}

TEST(SharedStepsTest, BadPushesAreRefusedAndLeaveNothing) {
  SharedStepsWorld world(Mode::kAsync);
  std::vector<Buffer> frames = TestPush{}.Frames();
  wire::Push head = TestPush{}.Head();
  head.clear_learning_rate_factor();
  frames[0] = Encode(head);
  EXPECT_EQ(world.PushFrames(frames).code(), StatusCode::kInvalidArgument);
  // One that is refused whole does not decide on the factor.
  EXPECT_EQ(world.Push({.nodes = {{2, 1}, {4, 1}}, .factor = 0.25}).code(),
            StatusCode::kInvalidArgument);
  ASSERT_TRUE(world.Push({.nodes = {{2, 0.25F}}}).ok());
  const Status other = world.Push({.nodes = {{3, 0.25F}}, .factor = 0.5});
  EXPECT_EQ(other.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(other.message(), HasSubstr("factor of 0.5 for step 0"));
  EXPECT_THAT(world.User(0), Each(1));
  ASSERT_TRUE(world.Push({.nodes = {{3, 0.25F}}}).ok());
  EXPECT_EQ(world.User(1), AfterSgd(6, 0.5F));
}

TEST(SharedStepsTest, OnlyTheStepThatItIsAtIsSaved) {
  SharedStepsWorld world(Mode::kAsync);
  ASSERT_TRUE(world.Push({}).ok());
  for (const int64_t step : {0, 2}) {
    EXPECT_EQ(ErrorOf(world.Save(step, "other")).code(),
              StatusCode::kFailedPrecondition);
  }
  EXPECT_TRUE(ErrorOf(world.Save(1, "out")).ok());
}

// --- Loads and moves -------------------------------------------------------

TEST(ShardTest, TellsWhatItsSlotsHoldAndWhatIsAskedOfThem) {
  ModelSpec model = ShardModel();
  model.tables[2].optimizer = model.tables[0].optimizer;
  ShardWorld world(Mode::kAsync, 3600s, model);
  // The period until now is not of interest.
  world.context.Advance(500ms);
  world.context.sent.clear();
  // A few times as many as are looked at together.
  constexpr int kTimes = 8;
  for (int i = 0; i < kTimes; ++i) {
    ASSERT_TRUE(world.Push({.sequence = static_cast<uint64_t>(i) + 1}).ok());
    world.Ask(kOneWorker, Method::kPull, PullFrames(0));
  }
  world.context.Advance(500ms);
  std::vector<wire::SlotLoads> reports;
  for (const auto& sent : world.context.sent) {
    if (sent.message.header.method ==
        static_cast<uint16_t>(Method::kSlotLoads)) {
      EXPECT_EQ(sent.to, kChief);
      ASSERT_TRUE(Decode(sent.message, reports.emplace_back()).ok());
    }
  }
  ASSERT_THAT(reports, SizeIs(1));
  const wire::SlotLoads& loads = reports[0];
  EXPECT_EQ(loads.version(), 1U);
  EXPECT_EQ(loads.period_ns(), 500'000'000);
  EXPECT_EQ(loads.sent(), 0);
  ASSERT_EQ(loads.bytes_size(), 1 << (kSlotBits - 1));
  ASSERT_EQ(loads.pulled_size(), loads.bytes_size());
  ASSERT_EQ(loads.pushed_size(), loads.bytes_size());
  // By slot, of every second one.
  std::vector<int64_t> rows(static_cast<size_t>(loads.bytes_size()));
  std::vector<int64_t> asked = rows;
  rows[0] += 5 * 4;  // The first variable.
  asked[0] += 5 * 4;
  for (const uint64_t id : IdsOf(0, 3)) {
    const auto slot = static_cast<size_t>(SlotOfHash(IdHash(id), kSlotBits));
    rows[slot / 2] += 8 + 2 * 4 + 8 + 3 * 4;
    asked[slot / 2] += 8 + 2 * 4 + 3 * 4;
  }
  for (const uint64_t id : IdsOf(0, 2)) {
    const auto slot = static_cast<size_t>(SlotOfHash(IdHash(id), kSlotBits));
    rows[slot / 2] += 8 + 4;
    asked[slot / 2] += 8 + 4;
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto slot = static_cast<int>(i);
    EXPECT_EQ(loads.bytes(slot), rows[i]) << i;
    EXPECT_EQ(loads.pulled(slot), kTimes * asked[i]) << i;
    EXPECT_EQ(loads.pushed(slot), kTimes * asked[i]) << i;
  }
}

// Sixteen messages of slots, a quarter megabyte each; moves may take a megabyte
// a second, repairs any.
TEST(ShardTest, MovesAreHeldDownAndRepairsAreNot) {
  constexpr int64_t kDim = 8192;
  constexpr size_t kRows = 128;
  ModelSpec model = ShardModel();
  model.tables = {model.tables[0]};
  model.tables[0].dim = kDim;
  model.groups = {{0}};
  for (const bool moves : {true, false}) {
    ShardWorld world(Mode::kAsync, 3600s, model,
                     {.move_bytes_per_second = 1 << 20});
    wire::Push push = TestPush{}.Head();
    ASSERT_TRUE(
        world
            .PushFrames({Encode(push), IdFrame(IdsOf(0, kRows)),
                         RisingFrame(kRows * kDim, 1e-3F), RisingFrame(5, 1)})
            .ok());
    RouteTable route = {
        .version = 2,
        .slot_bits = kSlotBits,
        .shards = {{world.context.self(), "fake:self", "server 0"},
                   {comm::EndpointId{51}, "fake:1", "server 1"}}};
    std::vector<Chain> chains;
    for (int slot = 0; slot < 1 << kSlotBits; ++slot) {
      chains.push_back({.members = {slot % 2}});
      if (slot % 2 == 0) {
        chains.back().joining = 1;
        chains.back().leaving = moves ? 0 : -1;
      }
    }
    route.SetChains(chains);
    wire::RouteChange change;
    ToWire(route, *change.mutable_route());
    world.Ask(kChief, Method::kRouteChange, {Encode(change)});
    const auto messages = [&world] {
      return std::count_if(
          world.context.sent.begin(), world.context.sent.end(),
          [](const auto& sent) {
            wire::SlotStates states;
            return sent.message.header.method ==
                       static_cast<uint16_t>(Method::kSlotStates) &&
                   Decode(sent.message, states).ok() && !states.kept();
          });
    };
    EXPECT_EQ(messages(), moves ? 1 : 16);
    world.context.Advance(1s);
    EXPECT_EQ(messages(), moves ? 5 : 16);
    world.context.Advance(4s);
    EXPECT_EQ(messages(), 16);
  }
}

// --- Checkpoints -----------------------------------------------------------

TEST(ShardTest, SavedStepIsTheOneThatWasAskedFor) {
  ShardWorld world;
  ASSERT_TRUE(world.Push({}).ok());
  // The commit is still on its way.
  const uint64_t request =
      world.Send(kChief, Method::kSave, {ShardWorld::SaveFrame(1, "out")});
  world.context.RunStorage();
  EXPECT_THAT(world.Replies(kChief, request), IsEmpty());
  world.Commit(world.Prepared().at(0), 0);
  world.context.RunStorage();
  ASSERT_THAT(world.Replies(kChief, request), SizeIs(1));
  EXPECT_TRUE(ErrorOf(world.Replies(kChief, request)[0]).ok());
  EXPECT_EQ(world.FilesOf("out"), world.Contents(1));
  EXPECT_THAT(world.FilesOf("out"), HasSubstr("part-0-0.safetensors"));
  // It can't go back.
  EXPECT_EQ(ErrorOf(world.Save(0, "past")).code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(world.FilesOf("past"), "");
}

TEST(ShardTest, WhatIsSavedIsOfTheCutThoughTrainingGoesOn) {
  ShardWorld world;
  ASSERT_TRUE(world.Push({}).ok());
  world.Commit(world.Prepared().at(0), 0);
  const std::string want = world.Contents(1);
  const Buffer save = ShardWorld::SaveFrame(1, "out");
  const uint64_t request = world.Send(kChief, Method::kSave, {save});
  ASSERT_THAT(world.Replies(kChief, request), SizeIs(1)) << "before it writes";
  EXPECT_EQ(world.FilesOf("out"), "");
  ASSERT_TRUE(world.Push({.step = 1}).ok());
  world.Commit(world.Prepared().at(1), 1);
  // It is asked again by who has not heard the answer; the cut stays.
  const uint64_t again = world.Send(kChief, Method::kSave, {save});
  ASSERT_THAT(world.Replies(kChief, again), SizeIs(1));
  EXPECT_TRUE(ErrorOf(world.Parts("out")).ok());
  EXPECT_EQ(world.FilesOf("out"), want);
  EXPECT_NE(world.Contents(2), want);
}

TEST(ShardTest, WhatIsSavedIsOfTheCutThoughItsSlotsGoToAnother) {
  ShardWorld world;
  ASSERT_TRUE(world.Push({}).ok());
  world.Commit(world.Prepared().at(0), 0);
  const std::string want = world.Contents(1);
  world.Send(kChief, Method::kSave, {ShardWorld::SaveFrame(1, "out")});
  RouteTable route = {.version = 2,
                      .slot_bits = kSlotBits,
                      .shards = {{world.context.self(), "fake:self", "0"},
                                 {comm::EndpointId{51}, "fake:1", "1"}}};
  route.SetChains(std::vector<Chain>(1 << kSlotBits, Chain{.members = {1}}));
  wire::RouteChange change;
  ToWire(route, *change.mutable_route());
  change.set_committed(1);
  const uint64_t request =
      world.Send(kChief, Method::kRouteChange, {Encode(change)});
  ASSERT_THAT(world.Replies(kChief, request), SizeIs(1));
  EXPECT_EQ(world.FilesOf("out"), "") << "its slots went before it wrote";
  EXPECT_TRUE(ErrorOf(world.Parts("out")).ok());
  EXPECT_EQ(world.FilesOf("out"), want);
}

TEST(ShardTest, PartsOfAnotherCheckpointAreNotToBeHad) {
  ShardWorld world;
  EXPECT_EQ(ErrorOf(world.Parts("out")).code(), StatusCode::kAborted);
  ASSERT_TRUE(ErrorOf(world.Save(0, "out")).ok());
  EXPECT_EQ(ErrorOf(world.Parts("other")).code(), StatusCode::kAborted);
}

TEST(ShardTest, FullDiskIsNotAskedAgain) {
  ShardWorld world;
  world.context.storage.SetCapacity(1);
  const Status status = ErrorOf(world.Save(0, "out"));
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition)
      << "kResourceExhausted would be tried again and again";
  EXPECT_FALSE(world.context.stopped.has_value());
}

TEST(ShardTest, LoadGivesWhatWasSavedAndItsStep) {
  ShardWorld from;
  ASSERT_TRUE(from.Push({}).ok());
  from.Commit(from.Prepared().at(0), 0);
  const comm::Message saved = from.Save(1, "out/step-1");
  wire::PartsReply entry;
  ASSERT_TRUE(Decode(saved, entry).ok());
  ASSERT_TRUE(PublishManifest(from.context.storage, "out/step-1", 1,
                              {entry.parts().begin(), entry.parts().end()}, {})
                  .ok());

  ShardWorld to;
  wire::Load load;
  load.set_folder("out/step-1");
  load.set_step(1);
  EXPECT_EQ(to.AskStatus(kChief, Method::kLoad, {Encode(load)}).code(),
            StatusCode::kFailedPrecondition)
      << "there is no such folder";
  const std::vector<std::string> files =
      *from.context.storage.ListFolder("out/step-1");
  EXPECT_THAT(files, Contains("manifest.json"));
  for (const std::string& file : files) {
    const std::string path = StrCat("out/step-1/", file);
    const StatusOr<Buffer> bytes = from.context.storage.ReadFile(path);
    ASSERT_TRUE(bytes.ok());
    ASSERT_TRUE(to.context.storage.PublishFile(path, {{*bytes}}).ok());
  }
  ASSERT_TRUE(to.AskStatus(kChief, Method::kLoad, {Encode(load)}).ok());
  EXPECT_EQ(to.Contents(1), from.Contents(1));
  EXPECT_EQ(to.Push({.step = 2}).code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(to.Push({.step = 1}).ok());
  EXPECT_THAT(to.Prepared(), SizeIs(1));

  const std::string path = "out/step-1/part-0-0.safetensors";
  std::string damaged(to.context.storage.ReadFile(path)->text());
  damaged.back() ^= 1;
  ASSERT_TRUE(
      to.context.storage.PublishFile(path, {{Buffer::CopyOf(damaged)}}).ok());
  EXPECT_EQ(to.AskStatus(kChief, Method::kLoad, {Encode(load)}).code(),
            StatusCode::kDataLoss);
}

}  // namespace
}  // namespace shoal::ps
