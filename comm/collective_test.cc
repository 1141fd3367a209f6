// What collectives compute, to the bit, and how they end when a member does not
// do its part.

#include <algorithm>
#include <bit>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/random.h"
#include "base/step_tree.h"
#include "base/strcat.h"
#include "comm/pump.h"
#include "comm/sim.h"
#include "comm/transport_collective.h"

namespace shoal::comm {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A member of a group that runs a script: each step gets the collective and
// what to call when it is over.
class Member : public Node {
 public:
  using Step = std::function<void(Collective&, Collective::Done)>;

  Member(Group group, TransportCollective::Options options,
         std::vector<Step> script)
      : group_(std::move(group)),
        options_(options),
        script_(std::move(script)) {}

  void OnStart(NodeContext& context) override {
    context_ = &context;
    if (on_start) {
      on_start(context);
    }
    if (group_.members.empty()) {
      return;  // Told later: Begin().
    }
    Begin(group_);
  }
  void Begin(const Group& group) {
    auto made = TransportCollective::Create(*context_, group, options_);
    ASSERT_TRUE(made.ok()) << made.status();
    collective_ = *std::move(made);
    for (auto& [from, message] : early_) {
      collective_->OnMessage(from, message);
    }
    Next();
  }
  void OnMessage(EndpointId from, Message message) override {
    if (collective_ == nullptr) {
      early_.emplace_back(from, std::move(message));
      return;
    }
    EXPECT_TRUE(collective_->OnMessage(from, message));
  }
  void OnPeerDown(EndpointId peer, const Status& why) override {
    if (collective_ != nullptr) {
      collective_->OnPeerDown(peer, why);
    }
  }
  void OnSendable(EndpointId peer) override { collective_->OnSendable(peer); }

  std::function<void(NodeContext&)> on_start;
  bool stays = false;  // after its script
  bool done = false;
  Status status;

 private:
  void Next() {
    if (next_ == script_.size()) {
      done = true;
      if (!stays) {
        context_->Stop(OkStatus());
      }
      return;
    }
    const auto inside = std::make_shared<bool>(true);
    script_[next_++](*collective_, [this, inside](const Status& why) {
      EXPECT_FALSE(*inside);
      EXPECT_FALSE(done);
      if (!why.ok()) {
        status = why;
        done = true;
        context_->Stop(why);
        return;
      }
      Next();
    });
    *inside = false;
  }

  Group group_;
  TransportCollective::Options options_;
  std::vector<Step> script_;
  size_t next_ = 0;
  NodeContext* context_ = nullptr;
  std::unique_ptr<TransportCollective> collective_;
  std::vector<std::pair<EndpointId, Message>> early_;
};

// The nodes of each of `size` members when `leaves` are dealt in runs.
std::vector<std::vector<int64_t>> DealLeaves(int leaves, int size) {
  const StepTree tree(leaves);
  std::vector<std::vector<int64_t>> nodes;
  for (int rank = 0; rank < size; ++rank) {
    nodes.push_back(
        tree.Cover(rank * leaves / size, (rank + 1) * leaves / size));
  }
  return nodes;
}

// Of rank `r` in simulation, where the coordinator is 1.
EndpointId IdOf(int r) { return EndpointId{2 + static_cast<uint64_t>(r)}; }

// On `hosts` hosts, each with as many ranks as the next; 0: each alone.
Group SimGroup(int leaves, int size, int rank, int hosts = 0) {
  Group group;
  group.id = 7;
  group.rank = rank;
  group.num_leaves = leaves;
  const auto nodes = DealLeaves(leaves, size);
  for (int r = 0; r < size; ++r) {
    group.members.push_back(
        {.endpoint = IdOf(r),
         .address = StrCat("sim:", "23456789"[r]),
         .name = StrCat("worker ", r),
         .nodes = nodes[static_cast<size_t>(r)],
         .host = hosts == 0 ? "" : StrCat("host ", r * hosts / size)});
  }
  return group;
}

// The value of a leaf's vector at i, of either sign and many sizes.
double LeafValue(int leaf, int64_t i, bool whole) {
  Random random(HashKey(static_cast<uint64_t>(leaf), static_cast<uint64_t>(i)));
  if (whole) {
    return static_cast<double>(random.Below(2000)) - 1000;
  }
  return (random.Uniform() - 0.5) *
         static_cast<double>(uint64_t{1} << random.Below(12));
}

// The sum of the leaves [begin, begin + width) as the words say it: left half
// plus right half, what is past the last leaf skipped.
float TreeSumOf(int leaves, int begin, int width, int64_t i) {
  if (width == 1) {
    return static_cast<float>(LeafValue(begin, i, false));
  }
  const float left = TreeSumOf(leaves, begin, width / 2, i);
  const int middle = begin + width / 2;
  return middle >= leaves ? left
                          : left + TreeSumOf(leaves, middle, width / 2, i);
}
int Width(int leaves) {
  return static_cast<int>(std::bit_ceil(static_cast<unsigned>(leaves)));
}
float TreeSumOf(int leaves, int64_t i) {
  return TreeSumOf(leaves, 0, Width(leaves), i);
}

// The sum under one node, by the same words.
std::vector<float> NodeVector(int leaves, int64_t node, int64_t count) {
  const auto [begin, end] = StepTree(leaves).Range(node);
  int width = Width(leaves);
  for (int64_t n = node; n > 1; n /= 2) {
    width /= 2;
  }
  std::vector<float> vector;
  for (int64_t i = 0; i < count; ++i) {
    vector.push_back(TreeSumOf(leaves, begin, width, i));
  }
  return vector;
}

struct Rank {
  std::vector<std::vector<float>> terms;
  std::vector<const void*> pointers;
  std::vector<float> out;
};

Rank MakeRank(const Group& group, int64_t count) {
  Rank rank;
  for (const int64_t node :
       group.members[static_cast<size_t>(group.rank)].nodes) {
    rank.terms.push_back(NodeVector(group.num_leaves, node, count));
  }
  for (const std::vector<float>& term : rank.terms) {
    rank.pointers.push_back(term.data());
  }
  rank.out.assign(static_cast<size_t>(count), -1);
  return rank;
}

void ExpectTreeSum(const std::vector<float>& out, int leaves, int64_t begin,
                   int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const float want = TreeSumOf(leaves, i);
    ASSERT_EQ(std::bit_cast<uint32_t>(out[static_cast<size_t>(i)]),
              std::bit_cast<uint32_t>(want))
        << "element " << i << " is " << out[static_cast<size_t>(i)] << ", not "
        << want;
  }
}

TEST(CollectiveSimTest, AllReduceHasTheTreesBitsForEveryNumberOfMembers) {
  TransportCollective::Options options;
  options.chunk_bytes = 256;  // many chunks
  options.block_bytes = 1024;
  for (const int leaves : {1, 3, 4, 7, 8}) {
    for (int size = 1; size <= leaves; ++size) {
      for (const int64_t count : {0, 1, 5, 1000}) {
        for (const auto& [algorithm, hosts] :
             {std::pair(AllReduceAlgorithm::kExchange, 0),
              std::pair(AllReduceAlgorithm::kSegments, 0),
              std::pair(AllReduceAlgorithm::kHalving, 0),
              std::pair(AllReduceAlgorithm::kRead, 1),
              std::pair(AllReduceAlgorithm::kHierarchical, 2)}) {
          SCOPED_TRACE(StrCat(leaves, " leaves, ", size, " members, ", count,
                              ", ", Name(algorithm)));
          options.algorithm = algorithm;
          SimOptions network;
          network.send_queue_bytes_max = 600;  // two chunks
          SimWorld world(static_cast<uint64_t>(leaves * 100 + size), network);
          std::vector<Rank> ranks;
          for (int r = 0; r < size; ++r) {
            ranks.push_back(MakeRank(SimGroup(leaves, size, r), count));
          }
          for (int r = 0; r < size; ++r) {
            Rank& rank = ranks[static_cast<size_t>(r)];
            // Twice: members run ahead of each other.
            const Member::Step step = [&rank, count](Collective& collective,
                                                     Collective::Done done) {
              // What a step before sent must have been read by now.
              std::fill(rank.out.begin(), rank.out.end(), -1.0F);
              collective.AllReduce(DType::kF32, rank.pointers, rank.out.data(),
                                   count, std::move(done));
            };
            world.AddNode(
                StrCat("worker ", r),
                [&, r, hosts = hosts] {
                  return std::make_unique<Member>(
                      SimGroup(leaves, size, r, hosts), options,
                      std::vector<Member::Step>{step, step});
                },
                IdOf(r));
          }
          ASSERT_TRUE(world
                          .Run(
                              [&] {
                                for (int r = 0; r < size; ++r) {
                                  if (!world.stopped(StrCat("worker ", r))) {
                                    return false;
                                  }
                                }
                                return true;
                              },
                              std::chrono::seconds(10))
                          .ok());
          for (int r = 0; r < size; ++r) {
            ASSERT_TRUE(world.stopped(StrCat("worker ", r))->ok())
                << *world.stopped(StrCat("worker ", r));
            ExpectTreeSum(ranks[static_cast<size_t>(r)].out, leaves, 0, count);
          }
        }
      }
    }
  }
}

// What is asked for is what runs, where the group allows it; else another way.
TEST(CollectiveSimTest, AnAlgorithmRunsWhereTheGroupAllowsIt) {
  struct Case {
    AllReduceAlgorithm asked;
    int leaves, size, hosts;
    bool all_read;
    AllReduceAlgorithm want;
  };
  using enum AllReduceAlgorithm;
  for (const Case& c :
       {Case{kHalving, 8, 4, 0, true, kHalving},
        Case{kHalving, 7, 4, 0, true, kSegments},  // one has a single leaf
        Case{kHalving, 6, 3, 0, true, kSegments},
        Case{kRead, 4, 3, 1, true, kRead},
        Case{kRead, 4, 3, 1, false, kSegments},
        Case{kRead, 4, 4, 2, true, kSegments},
        Case{kHierarchical, 8, 4, 2, true, kHierarchical},
        Case{kHierarchical, 8, 4, 1, true, kRead},
        Case{kHierarchical, 8, 3, 2, true, kSegments},
        Case{kHierarchical, 6, 4, 2, true, kSegments}}) {
    SCOPED_TRACE(StrCat(Name(c.asked), ", ", c.leaves, " leaves, ", c.size,
                        " members on ", c.hosts, " hosts"));
    SimWorld world(9);
    std::deque<Rank> ranks;
    for (int r = 0; r < c.size; ++r) {
      ranks.push_back(MakeRank(SimGroup(c.leaves, c.size, r), 1000));
      const Member::Step sum = [&own = ranks.back()](Collective& collective,
                                                     Collective::Done done) {
        collective.AllReduce(DType::kF32, own.pointers, own.out.data(), 1000,
                             std::move(done));
      };
      const Member::Step look = [&c](Collective& collective,
                                     Collective::Done done) {
        EXPECT_EQ(
            Name(dynamic_cast<TransportCollective&>(collective).Choose(4000)),
            Name(c.want));
        collective.Barrier(std::move(done));
      };
      world.AddNode(
          StrCat("worker ", r),
          [&c, r, sum, look] {
            TransportCollective::Options options;
            options.algorithm = c.asked;
            options.read_peers = c.all_read || r != 1;
            return std::make_unique<Member>(
                SimGroup(c.leaves, c.size, r, c.hosts), options,
                std::vector<Member::Step>{sum, look});
          },
          IdOf(r));
    }
    world.RunFor(std::chrono::seconds(10));
    for (int r = 0; r < c.size; ++r) {
      const auto stopped = world.stopped(StrCat("worker ", r));
      ASSERT_TRUE(stopped.has_value() && stopped->ok());
      ExpectTreeSum(ranks[static_cast<size_t>(r)].out, c.leaves, 0, 1000);
    }
  }
}

// Every type, all but f32 with numbers that are exact in it, so that the order
// does not matter and the oracle is plain.
template <typename T>
T Encode(double value, DType dtype) {
  if constexpr (sizeof(T) == 2) {
    if (dtype == DType::kF16) {
      return std::bit_cast<T>(static_cast<_Float16>(value));
    }
    return static_cast<T>(std::bit_cast<uint32_t>(static_cast<float>(value)) >>
                          16);
  } else {
    return static_cast<T>(value);
  }
}

template <typename T>
void ExpectSumOf(DType dtype) {
  constexpr int kSize = 3;
  constexpr int64_t kCount = 700;
  SimWorld world(5);
  std::vector<std::vector<T>> data(kSize);
  std::vector<const void*> pointers(kSize);
  for (int r = 0; r < kSize; ++r) {
    auto& vector = data[static_cast<size_t>(r)];
    for (int64_t i = 0; i < kCount; ++i) {
      // Small enough to be exact in bf16: up to 3 x 80.
      vector.push_back(Encode<T>(
          static_cast<double>(static_cast<int64_t>(LeafValue(r, i, true)) % 80),
          dtype));
    }
    pointers[static_cast<size_t>(r)] = vector.data();
    world.AddNode(
        StrCat("worker ", r),
        [&, r] {
          // In place.
          return std::make_unique<Member>(
              SimGroup(kSize, kSize, r),
              TransportCollective::Options{
                  .algorithm = AllReduceAlgorithm::kSegments,
                  .chunk_bytes = 512},
              std::vector<Member::Step>{
                  [&, r](Collective& collective, Collective::Done done) {
                    auto& own = data[static_cast<size_t>(r)];
                    collective.AllReduce(
                        dtype,
                        std::span(pointers).subspan(static_cast<size_t>(r), 1),
                        own.data(), kCount, std::move(done));
                  }});
        },
        IdOf(r));
  }
  world.RunFor(std::chrono::seconds(5));
  for (int r = 0; r < kSize; ++r) {
    ASSERT_TRUE(world.stopped(StrCat("worker ", r)).has_value());
    for (int64_t i = 0; i < kCount; ++i) {
      double sum = 0;
      for (int leaf = 0; leaf < kSize; ++leaf) {
        sum += static_cast<double>(
            static_cast<int64_t>(LeafValue(leaf, i, true)) % 80);
      }
      ASSERT_EQ(data[static_cast<size_t>(r)][static_cast<size_t>(i)],
                Encode<T>(sum, dtype))
          << Name(dtype) << " " << i;
    }
  }
}

TEST(CollectiveSimTest, AllReduceOfEveryType) {
  ExpectSumOf<float>(DType::kF32);
  ExpectSumOf<double>(DType::kF64);
  ExpectSumOf<uint16_t>(DType::kF16);
  ExpectSumOf<uint16_t>(DType::kBF16);
  ExpectSumOf<int32_t>(DType::kI32);
  ExpectSumOf<int64_t>(DType::kI64);
}

TEST(TreeSumTest, HalvesRoundToNearestEvenAndKeepNaN) {
  const StepTree tree(2);
  const int64_t nodes[] = {2, 3};
  const TreeSum sum(tree, nodes);
  const auto add = [&](DType dtype, uint16_t a, uint16_t b) {
    uint16_t out = 0;
    const std::byte* terms[] = {reinterpret_cast<const std::byte*>(&a),
                                reinterpret_cast<const std::byte*>(&b)};
    sum.Run(dtype, terms, 1, reinterpret_cast<std::byte*>(&out));
    return out;
  };
  // bf16 has 8 bits: 256 + 1 lies between 256 and 258, 258 + 1 between 258 and
  // 260: to the even one.
  EXPECT_EQ(add(DType::kBF16, 0x4380, 0x3f80), 0x4380);
  EXPECT_EQ(add(DType::kBF16, 0x4381, 0x3f80), 0x4382);
  EXPECT_EQ(add(DType::kBF16, 0x7f7f, 0x7f7f), 0x7f80);  // infinity
  EXPECT_EQ(add(DType::kBF16, 0x7f80, 0xff80) & 0x7fc0, 0x7fc0);
  EXPECT_EQ(add(DType::kBF16, 0x7f81, 0x3f80) & 0x7fc0, 0x7fc0);
  // f16 has 11 bits: 2048 + 1 and 2050 + 1.
  EXPECT_EQ(add(DType::kF16, 0x6800, 0x3c00), 0x6800);
  EXPECT_EQ(add(DType::kF16, 0x6801, 0x3c00), 0x6802);
  EXPECT_EQ(add(DType::kF16, 0x7bff, 0x7bff), 0x7c00);
}

TEST(CollectiveSimTest, TheOtherOperations) {
  constexpr int64_t kCount = 101;
  for (int size = 1; size <= 5; ++size) {
    for (int root = 0; root < size; ++root) {
      SCOPED_TRACE(StrCat(size, " members, root ", root));
      SimWorld world(static_cast<uint64_t>(size * 10 + root));
      struct State {
        Rank rank;
        std::vector<int64_t> gathered, from, to, spread;
      };
      std::vector<State> states(static_cast<size_t>(size));
      int inside_barrier = 0;
      for (int r = 0; r < size; ++r) {
        State& state = states[static_cast<size_t>(r)];
        state.rank = MakeRank(SimGroup(size, size, r), kCount);
        state.gathered.assign(kCount, -1);
        const auto [begin, end] = SegmentOf(kCount, r, size);
        for (int64_t i = begin; i < end; ++i) {
          state.gathered[static_cast<size_t>(i)] = 1000 + i;
        }
        state.to.assign(static_cast<size_t>(size) * kCount, -1);
        for (int64_t i = 0; i < size * kCount; ++i) {
          state.from.push_back(r * 1'000'000 + i);
        }
        state.spread.assign(kCount, -1);
        for (int64_t i = 0; r == root && i < kCount; ++i) {
          state.spread[static_cast<size_t>(i)] = 7 * i;
        }
        std::vector<Member::Step> script = {
            [&state](Collective& c, Collective::Done done) {
              c.ReduceScatter(DType::kF32, state.rank.pointers,
                              state.rank.out.data(), kCount, std::move(done));
            },
            [&state](Collective& c, Collective::Done done) {
              c.AllGather(DType::kI64, state.gathered.data(), kCount,
                          std::move(done));
            },
            [&state](Collective& c, Collective::Done done) {
              c.AllToAll(DType::kI64, state.from.data(), state.to.data(),
                         kCount, std::move(done));
            },
            [&state, root](Collective& c, Collective::Done done) {
              c.Broadcast(DType::kI64, state.spread.data(), kCount, root,
                          std::move(done));
            },
            [&inside_barrier, size](Collective& c, Collective::Done done) {
              ++inside_barrier;
              c.Barrier([&inside_barrier, size, done](const Status& status) {
                EXPECT_EQ(inside_barrier, size);
                done(status);
              });
            },
        };
        world.AddNode(
            StrCat("worker ", r),
            [&, r, script] {
              return std::make_unique<Member>(
                  SimGroup(size, size, r),
                  TransportCollective::Options{.chunk_bytes = 64}, script);
            },
            IdOf(r));
      }
      world.RunFor(std::chrono::seconds(10));
      for (int r = 0; r < size; ++r) {
        const State& state = states[static_cast<size_t>(r)];
        const auto stopped = world.stopped(StrCat("worker ", r));
        ASSERT_TRUE(stopped.has_value() && stopped->ok());
        const auto [begin, end] = SegmentOf(kCount, r, size);
        ExpectTreeSum(state.rank.out, size, begin, end);
        for (int64_t i = 0; i < kCount; ++i) {
          const auto at = static_cast<size_t>(i);
          if (i < begin || i >= end) {
            ASSERT_EQ(state.rank.out[at], -1);  // Not this rank's.
          }
          ASSERT_EQ(state.gathered[at], 1000 + i);
          ASSERT_EQ(state.spread[at], 7 * i);
          for (int s = 0; s < size; ++s) {
            ASSERT_EQ(state.to[static_cast<size_t>(s * kCount + i)],
                      s * 1'000'000 + r * kCount + i);
          }
        }
      }
    }
  }
}

// --- Members that do not do their part -------------------------------------

class BrokenCollectiveTest : public ::testing::Test {
 protected:
  static constexpr int kSize = 3;

  void Add(int r, std::vector<Member::Step> script, bool stays = false) {
    world_.AddNode(
        StrCat("worker ", r),
        [this, r, script, stays] {
          auto member = std::make_unique<Member>(
              SimGroup(kSize, kSize, r, hosts_),
              TransportCollective::Options{.timeout = std::chrono::seconds(20),
                                           .algorithm = algorithm_},
              script);
          member->stays = stays;
          return member;
        },
        IdOf(r));
  }
  Member::Step Sum(int64_t count) {
    return [this, count](Collective& c, Collective::Done done) {
      const void* term = data_.data();
      c.AllReduce(DType::kF32, {&term, 1}, out_.data(), count, std::move(done));
    };
  }
  Status Stopped(int r) {
    return world_.stopped(StrCat("worker ", r))
        .value_or(InternalError("still runs"));
  }

  int hosts_ = 0;
  AllReduceAlgorithm algorithm_ = AllReduceAlgorithm::kAuto;
  SimWorld world_{3};
  std::vector<float> data_ = std::vector<float>(100000, 1);
  std::vector<float> out_ = std::vector<float>(100000);
};

TEST_F(BrokenCollectiveTest, LostMemberIsNamedByAll) {
  Add(0, {Sum(100000), Sum(100000)});
  Add(1, {Sum(100000), Sum(100000)});
  Add(2, {Sum(100000)}, /*stays=*/true);
  world_.RunFor(std::chrono::seconds(1));
  world_.CrashNode("worker 2");
  world_.RunFor(std::chrono::seconds(1));
  for (int r = 0; r < 2; ++r) {
    EXPECT_FALSE(Stopped(r).ok());
    EXPECT_THAT(Stopped(r).message(),
                AllOf(HasSubstr("worker 2"), HasSubstr("allreduce 2")));
  }
}

TEST_F(BrokenCollectiveTest, LostMemberWhoseMemoryIsReadIsNamedByAll) {
  hosts_ = 1;
  algorithm_ = AllReduceAlgorithm::kRead;
  Add(0, {Sum(100000), Sum(100000)});
  Add(1, {Sum(100000), Sum(100000)});
  Add(2, {Sum(100000)}, /*stays=*/true);
  world_.RunFor(std::chrono::seconds(1));
  world_.CrashNode("worker 2");
  world_.RunFor(std::chrono::seconds(1));
  for (int r = 0; r < 2; ++r) {
    EXPECT_THAT(Stopped(r).message(),
                AllOf(HasSubstr("worker 2"), HasSubstr("allreduce 2")));
  }
}

TEST_F(BrokenCollectiveTest, MemberThatNeverSaysWhetherItMayReadIsNamed) {
  hosts_ = 1;
  Add(0, {Sum(100000)});
  Add(1, {Sum(100000)});
  world_.AddNode(
      "worker 2",
      [] {
        struct Silent : Node {
          void OnStart(NodeContext&) override {}
          void OnMessage(EndpointId, Message) override {}
          void OnPeerDown(EndpointId, const Status&) override {}
        };
        return std::make_unique<Silent>();
      },
      IdOf(2));
  world_.RunFor(std::chrono::seconds(22));
  for (int r = 0; r < 2; ++r) {
    EXPECT_THAT(Stopped(r).message(), HasSubstr("worker 2"));
  }
}

TEST_F(BrokenCollectiveTest, MemberThatEndsAfterItsPartIsNoLoss) {
  Add(0, {Sum(10)});
  Add(1, {Sum(10)});
  Add(2, {Sum(10)});
  world_.RunFor(std::chrono::seconds(5));
  for (int r = 0; r < kSize; ++r) {
    EXPECT_TRUE(Stopped(r).ok()) << Stopped(r);
  }
}

TEST_F(BrokenCollectiveTest, LateMemberIsNamedAtTheDeadline) {
  Add(0, {Sum(1000)});
  Add(1, {}, /*stays=*/true);
  Add(2, {Sum(1000)});
  world_.RunFor(std::chrono::seconds(19));
  EXPECT_EQ(Stopped(0).code(), StatusCode::kInternal);
  world_.RunFor(std::chrono::seconds(2));
  for (const int r : {0, 2}) {
    EXPECT_THAT(Stopped(r).message(),
                AllOf(HasSubstr("waited 20"), HasSubstr("worker 1")));
  }
}

TEST_F(BrokenCollectiveTest, OtherSizesOrOperationsAreRefusedNamingWho) {
  Add(0, {Sum(1000)});
  Add(1, {Sum(1000)});
  Add(2, {Sum(1001)});
  world_.RunFor(std::chrono::seconds(1));
  for (int r = 0; r < kSize; ++r) {
    EXPECT_FALSE(Stopped(r).ok());
    EXPECT_THAT(Stopped(r).message(), HasSubstr("worker"));
    EXPECT_THAT(Stopped(r).message(), HasSubstr("allreduce 1"));
  }
}

// Answers the first half that it gets with the first chunk of its own, twice.
class Repeater : public Node {
 public:
  void OnStart(NodeContext& context) override { context_ = &context; }
  void OnMessage(EndpointId from, Message message) override {
    if (message.frames.size() != 1 || answered_) {
      return;
    }
    answered_ = true;
    for (int i = 0; i < 2; ++i) {
      Message chunk;
      chunk.header = message.header;
      chunk.header.reserved &= 0xff000000U;  // Of the same step.
      chunk.frames.push_back(Buffer::CopyOf(message.frames[0].text()));
      ASSERT_TRUE(context_->Send(from, Lane::kBulk, std::move(chunk)).ok());
    }
  }
  void OnPeerDown(EndpointId, const Status&) override {}

 private:
  NodeContext* context_ = nullptr;
  bool answered_ = false;
};

TEST(RepeatedChunkTest, IsRefusedNamingWho) {
  constexpr int64_t kCount = 400000;  // Halves of several chunks.
  SimWorld world(5);
  std::vector<float> data(kCount, 1);
  const Member::Step sum = [&](Collective& c, Collective::Done done) {
    const void* term = data.data();
    c.AllReduce(DType::kF32, {&term, 1}, data.data(), kCount, std::move(done));
  };
  world.AddNode(
      "worker 0",
      [&] {
        return std::make_unique<Member>(
            SimGroup(2, 2, 0),
            TransportCollective::Options{.algorithm =
                                             AllReduceAlgorithm::kHalving},
            std::vector<Member::Step>{sum});
      },
      IdOf(0));
  world.AddNode(
      "worker 1", [] { return std::make_unique<Repeater>(); }, IdOf(1));
  world.RunFor(std::chrono::seconds(5));
  const Status stopped =
      world.stopped("worker 0").value_or(InternalError("still runs"));
  EXPECT_THAT(stopped.message(),
              AllOf(HasSubstr("worker 1"), HasSubstr("half that is not")));
}

TEST(CollectiveGroupTest, GroupsThatMakeNoSenseAreRefused) {
  struct Nothing : Node {
    void OnStart(NodeContext& context) override {
      Group group = SimGroup(4, 2, 0);
      group.members[1].nodes = {2};
      EXPECT_EQ(TransportCollective::Create(context, group, {}).status().code(),
                StatusCode::kInvalidArgument);
      group.members[1].nodes = {};
      EXPECT_EQ(TransportCollective::Create(context, group, {}).status().code(),
                StatusCode::kInvalidArgument);
      group = SimGroup(4, 2, 0);
      group.rank = 2;
      EXPECT_EQ(TransportCollective::Create(context, group, {}).status().code(),
                StatusCode::kInvalidArgument);
      group = SimGroup(4, 2, 0);
      group.members[1].nodes = {99};
      EXPECT_EQ(TransportCollective::Create(context, group, {}).status().code(),
                StatusCode::kInvalidArgument);
      ++tried;
    }
    void OnMessage(EndpointId, Message) override {}
    void OnPeerDown(EndpointId, const Status&) override {}
    void OnSendable(EndpointId) override {}
    int tried = 0;
  };
  SimWorld world(1);
  world.AddNode(
      "worker 0", [] { return std::make_unique<Nothing>(); }, IdOf(0));
  world.RunFor(std::chrono::seconds(1));
  EXPECT_EQ(static_cast<Nothing*>(world.node("worker 0"))->tried, 1);
}

// --- Over the real transports ----------------------------------------------

class CollectiveTransportTest : public ::testing::TestWithParam<const char*> {
 protected:
  // Each rank on a thread of its own, with the script that `script_of` gives.
  void RunRanks(
      int leaves, int size, TransportCollective::Options options,
      const std::function<std::vector<Member::Step>(const Group&)>& script_of) {
    std::vector<std::unique_ptr<Pump>> pumps;
    Group group;
    group.num_leaves = leaves;
    const auto nodes = DealLeaves(leaves, size);
    for (int r = 0; r < size; ++r) {
      Pump::Options pump_options;
      pump_options.transport = GetParam();
      pump_options.endpoint.self = EndpointId{EntropySeed()};
      auto pump = Pump::Create(pump_options);
      ASSERT_TRUE(pump.ok()) << pump.status();
      pumps.push_back(*std::move(pump));
      group.members.push_back({.endpoint = pumps.back()->self(),
                               .address = pumps.back()->address(),
                               .name = StrCat("worker ", r),
                               .nodes = nodes[static_cast<size_t>(r)],
                               .host = HostOf(pumps.back()->address())});
    }
    options.timeout = std::chrono::seconds(60);
    std::vector<std::thread> threads;
    std::vector<Status> ends(static_cast<size_t>(size));
    for (int r = 0; r < size; ++r) {
      group.rank = r;
      std::vector<Member::Step> script = script_of(group);
      script.push_back([](Collective& c, Collective::Done done) {
        c.Barrier(std::move(done));
      });
      threads.emplace_back([&, r, own = group, script = std::move(script)] {
        Member member(own, options, script);
        ends[static_cast<size_t>(r)] =
            pumps[static_cast<size_t>(r)]->Run(member);
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    for (const Status& end : ends) {
      EXPECT_TRUE(end.ok()) << end;
    }
  }
};

TEST_P(CollectiveTransportTest, ThreadsSumToTheTreesBits) {
  constexpr int kSize = 3;
  constexpr int kLeaves = 4;
  // More than a ring, repeatedly into memory that must have been read.
  static constexpr int64_t kCount = 1'500'000;
  constexpr int kRounds = 3;
  std::deque<Rank> ranks;
  RunRanks(kLeaves, kSize, {}, [&](const Group& group) {
    ranks.push_back(MakeRank(group, kCount));
    return std::vector<Member::Step>(
        kRounds, [&rank = ranks.back()](Collective& c, Collective::Done done) {
          // What an earlier round sent must be read by now.
          std::fill(rank.out.begin(), rank.out.end(), -1.0F);
          c.AllReduce(DType::kF32, rank.pointers, rank.out.data(), kCount,
                      std::move(done));
        });
  });
  for (const Rank& rank : ranks) {
    ExpectTreeSum(rank.out, kLeaves, 0, kCount);
  }
}

TEST_P(CollectiveTransportTest, InPlaceEveryMemberSumsTheTermsThatWereGiven) {
  constexpr int kSize = 3;
  struct Case {
    AllReduceAlgorithm algorithm;
    int64_t count;
    int rounds;
  };
  for (const auto& [algorithm, count, rounds_wanted] :
       {Case{AllReduceAlgorithm::kExchange, 2000, 150},
        Case{AllReduceAlgorithm::kSegments, 2000, 150},
        // Many portions, taken while others are summed.
        Case{AllReduceAlgorithm::kRead, 2'000'000, 15}}) {
    std::deque<std::vector<int64_t>> data;
    std::deque<int> rounds;
    RunRanks(kSize, kSize, {.algorithm = algorithm}, [&](const Group& group) {
      data.emplace_back(count);
      rounds.push_back(0);
      return std::vector<Member::Step>(
          static_cast<size_t>(rounds_wanted),
          [count = count, rank = group.rank, &own = data.back(),
           &round = rounds.back()](Collective& c, Collective::Done done) {
            for (int64_t i = 0; i < count; ++i) {
              own[static_cast<size_t>(i)] = i + 1000 * rank + 10000 * round;
            }
            const void* terms[] = {own.data()};
            c.AllReduce(DType::kI64, terms, own.data(), count,
                        [&own, &round, count, done](const Status& status) {
                          for (int64_t i = 0; status.ok() && i < count; ++i) {
                            ASSERT_EQ(own[static_cast<size_t>(i)],
                                      3 * i + 3000 + 30000 * round)
                                << "element " << i << " in round " << round;
                          }
                          ++round;
                          done(status);
                        });
          });
    });
    EXPECT_EQ(rounds, std::deque<int>(kSize, rounds_wanted));
  }
}

INSTANTIATE_TEST_SUITE_P(All, CollectiveTransportTest,
                         ::testing::Values("inproc", "shm", "zmq", "auto"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace shoal::comm
