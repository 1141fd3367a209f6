// Collective `mpi` between ranks: all of mpirun's run these tests alike
// (MpiTest of integration_tests starts them with 2, 3 and 4). Sums are of small
// whole numbers, which every type holds exactly in every order.

#include "comm/mpi_collective.h"

#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/strcat.h"
#include "comm/mpi_table.h"
#include "comm/mpi_world.h"
#include "comm/pump.h"

namespace shoal::comm {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Runs a script of operations as one member.
class MpiMember : public Node {
 public:
  using Step = std::function<void(Collective&, Collective::Done)>;

  MpiMember(Group group, Duration timeout, std::vector<Step> script)
      : group_(std::move(group)),
        timeout_(timeout),
        script_(std::move(script)) {}

  void OnStart(NodeContext& context) override {
    context_ = &context;
    auto made = MpiCollective::Create(context, group_, timeout_);
    ASSERT_TRUE(made.ok()) << made.status();
    collective_ = *std::move(made);
    Next();
  }
  void OnMessage(EndpointId from, Message message) override {
    EXPECT_TRUE(collective_->OnMessage(from, message));
  }
  void OnPeerDown(EndpointId peer, const Status& why) override {
    collective_->OnPeerDown(peer, why);
  }

  std::function<void(NodeContext&)> at_end;  // instead of stopping

 private:
  void Next() {
    if (next_ == script_.size()) {
      if (at_end) {
        return at_end(*context_);
      }
      return context_->Stop(OkStatus());
    }
    const auto inside = std::make_shared<bool>(true);
    script_[next_++](*collective_, [this, inside](const Status& why) {
      EXPECT_FALSE(*inside);
      if (!why.ok()) {
        return context_->Stop(why);
      }
      Next();
    });
    *inside = false;
  }

  const Group group_;
  const Duration timeout_;
  const std::vector<Step> script_;
  size_t next_ = 0;
  NodeContext* context_ = nullptr;
  std::unique_ptr<NodeCollective> collective_;
};

class MpiCollectiveTest : public ::testing::Test {
 protected:
  void SetUp() override {
    world_ = MpiWorld::Current();
    if (world_ == nullptr || world_->size() < 2) {
      GTEST_SKIP() << "not under mpirun; MpiTest of integration_tests is";
    }
    rank_ = world_->rank();
    size_ = world_->size();
    // A group of its own, since one that has failed is of no use.
    ASSERT_TRUE(world_->JoinGroup(0, rank_).ok());
    static uint64_t next = 20'000;
    next += 1000;
    Pump::Options options;
    options.transport = "mpi";
    options.endpoint.self = EndpointId{next + static_cast<uint64_t>(rank_)};
    auto made = Pump::Create(options);
    ASSERT_TRUE(made.ok()) << made.status();
    pump_ = *std::move(made);
    // All make the same endpoints in the same order.
    const std::string address = pump_->address();
    const std::string number = address.substr(address.find('/'));
    group_.id = 3;
    group_.rank = rank_;
    for (int r = 0; r < size_; ++r) {
      group_.members.push_back(
          {.endpoint = EndpointId{next + static_cast<uint64_t>(r)},
           .address = StrCat("mpi:", r, number),
           .name = StrCat("worker ", r),
           .nodes = {}});
    }
    DealOneLeafEach(group_);
    Meet();
  }
  void TearDown() override {
    if (world_ != nullptr && world_->size() > 1) {
      pump_.reset();
      Meet();
    }
  }

  void Meet() {
    ShoalMpiRequest* request = nullptr;
    ASSERT_EQ(world_->table().barrier(nullptr, &request), 0);
    for (int done = 0; done == 0;) {
      ASSERT_EQ(world_->table().test(request, &done), 0);
      std::this_thread::sleep_for(1ms);
    }
  }

  Status Run(std::vector<MpiMember::Step> script, Duration timeout = 20s) {
    MpiMember member(group_, timeout, std::move(script));
    return pump_->Run(member);
  }

  MpiWorld* world_ = nullptr;
  int rank_ = 0;
  int size_ = 0;
  Group group_;
  std::unique_ptr<Pump> pump_;
};

// A whole number up to 255 in the form of a type.
void Put(DType dtype, int value, std::byte* to) {
  const auto put = [to](auto x) { std::memcpy(to, &x, sizeof(x)); };
  switch (dtype) {
    case DType::kF32:
      return put(static_cast<float>(value));
    case DType::kF64:
      return put(static_cast<double>(value));
    case DType::kF16:
      return put(static_cast<_Float16>(value));
    case DType::kBF16: {
      const auto f = static_cast<float>(value);
      uint32_t bits = 0;
      std::memcpy(&bits, &f, sizeof(bits));
      return put(static_cast<uint16_t>(bits >> 16));
    }
    case DType::kI32:
      return put(static_cast<int32_t>(value));
    case DType::kI64:
    case DType::kU64:
      return put(static_cast<int64_t>(value));
  }
}

int Term(int rank, int64_t i) {
  return (rank * 3 + static_cast<int>(i % 7)) % 16;
}

using Bytes = std::vector<std::byte>;

// count values, value(i) each.
template <typename ValueFn>
Bytes Make(DType dtype, int64_t count, const ValueFn& value) {
  Bytes bytes(static_cast<size_t>(count * SizeOf(dtype)));
  for (int64_t i = 0; i < count; ++i) {
    Put(dtype, value(i), bytes.data() + i * SizeOf(dtype));
  }
  return bytes;
}

constexpr DType kTypes[] = {DType::kF32,  DType::kF64, DType::kF16,
                            DType::kBF16, DType::kI32, DType::kI64};

TEST_F(MpiCollectiveTest, AllOperationsInAllTypesGiveExactResults) {
  std::vector<MpiMember::Step> script;
  std::vector<std::pair<std::shared_ptr<Bytes>, Bytes>> results;
  const auto keep = [&](Bytes begin, Bytes want) {
    results.emplace_back(std::make_shared<Bytes>(std::move(begin)),
                         std::move(want));
    return results.back().first;
  };
  for (const DType dtype : kTypes) {
    for (const int64_t count : {int64_t{0}, int64_t{1}, int64_t{1001}}) {
      const auto mine = [&](int64_t i) { return Term(rank_, i); };
      const auto sum = [&](int64_t i) {
        int total = 0;
        for (int r = 0; r < size_; ++r) {
          total += Term(r, i);
        }
        return total;
      };
      const auto segment = [&](int64_t i, const auto& inside,
                               const auto& outside) {
        const auto [begin, end] = SegmentOf(count, rank_, size_);
        return i >= begin && i < end ? inside(i) : outside(i);
      };
      const auto zero = [](int64_t) { return 0; };
      // In place.
      auto data = keep(Make(dtype, count, mine), Make(dtype, count, sum));
      script.emplace_back([=](Collective& c, Collective::Done done) {
        const void* const terms[] = {data->data()};
        c.AllReduce(dtype, terms, data->data(), count, std::move(done));
      });
      auto terms_of = std::make_shared<Bytes>(Make(dtype, count, mine));
      data = keep(Make(dtype, count, zero), Make(dtype, count, [&](int64_t i) {
                    return segment(i, sum, zero);
                  }));
      script.emplace_back([=](Collective& c, Collective::Done done) {
        const void* const terms[] = {terms_of->data()};
        c.ReduceScatter(dtype, terms, data->data(), count, std::move(done));
      });
      const auto index = [](int64_t i) { return static_cast<int>(i % 200); };
      data = keep(Make(dtype, count,
                       [&](int64_t i) { return segment(i, index, zero); }),
                  Make(dtype, count, index));
      script.emplace_back([=](Collective& c, Collective::Done done) {
        c.AllGather(dtype, data->data(), count, std::move(done));
      });
      const int64_t all = count * size_;
      auto rows = std::make_shared<Bytes>(Make(dtype, all, [&](int64_t i) {
        return rank_ * 16 + static_cast<int>(i / count);
      }));
      data = keep(Make(dtype, all, zero), Make(dtype, all, [&](int64_t i) {
                    return static_cast<int>(i / count) * 16 + rank_;
                  }));
      script.emplace_back([=](Collective& c, Collective::Done done) {
        c.AllToAll(dtype, rows->data(), data->data(), count, std::move(done));
      });
      const int root = static_cast<int>(count) % size_;
      data = keep(Make(dtype, count,
                       [&](int64_t i) { return rank_ == root ? index(i) : 0; }),
                  Make(dtype, count, index));
      script.emplace_back([=](Collective& c, Collective::Done done) {
        c.Broadcast(dtype, data->data(), count, root, std::move(done));
      });
    }
  }
  script.emplace_back(
      [](Collective& c, Collective::Done done) { c.Barrier(std::move(done)); });
  const Status ran = Run(std::move(script));
  ASSERT_TRUE(ran.ok()) << ran;
  for (size_t i = 0; i < results.size(); ++i) {
    EXPECT_TRUE(*results[i].first == results[i].second)
        << "operation " << i % 5 << " of case " << i / 5;
  }
}

TEST_F(MpiCollectiveTest, MembersAddTheirOwnTermsFirst) {
  // All leaves of the first half of the members' are one member's.
  group_.num_leaves = 2 * size_;
  const StepTree tree(group_.num_leaves);
  for (int r = 0; r < size_; ++r) {
    group_.members[static_cast<size_t>(r)].nodes = {tree.Leaf(2 * r),
                                                    tree.Leaf(2 * r + 1)};
  }
  const std::vector<float> a(100, 1.0F);
  const std::vector<float> b(100, 10.0F);
  std::vector<float> out(100, -1.0F);
  const Status ran = Run({[&](Collective& c, Collective::Done done) {
    const void* const terms[] = {a.data(), b.data()};
    c.AllReduce(DType::kF32, terms, out.data(), 100, std::move(done));
  }});
  ASSERT_TRUE(ran.ok()) << ran;
  EXPECT_THAT(out, ::testing::Each(11.0F * static_cast<float>(size_)));
}

TEST_F(MpiCollectiveTest, OperationsStartedTogetherKeepTheirOrder) {
  std::vector<std::vector<int32_t>> out(20);
  int left = 20;
  const Status ran = Run({[&](Collective& c, const Collective::Done& done) {
    for (int i = 0; i < 20; ++i) {
      out[static_cast<size_t>(i)].assign(static_cast<size_t>(1 + i * 500), i);
      std::vector<int32_t>& data = out[static_cast<size_t>(i)];
      const void* const terms[] = {data.data()};
      c.AllReduce(DType::kI32, terms, data.data(),
                  static_cast<int64_t>(data.size()),
                  [&, done](const Status& s) {
                    ASSERT_TRUE(s.ok()) << s;
                    if (--left == 0) {
                      done(s);
                    }
                  });
    }
  }});
  ASSERT_TRUE(ran.ok()) << ran;
  for (int i = 0; i < 20; ++i) {
    EXPECT_THAT(out[static_cast<size_t>(i)], ::testing::Each(i * size_));
  }
}

TEST_F(MpiCollectiveTest, TooMuchForMpiIsRefusedSayingSo) {
  const Status ran = Run({[&](Collective& c, Collective::Done done) {
    // Nothing of it is read: it is refused before.
    c.AllGather(DType::kI64, nullptr, int64_t{1} << 28, std::move(done));
  }});
  EXPECT_THAT(ran.message(), HasSubstr("less than 2 GiB"));
}

TEST_F(MpiCollectiveTest, LateMemberIsNamedAtTheDeadline) {
  std::vector<float> data(1000, 1.0F);
  const auto reduce = [&](Collective& c, Collective::Done done) {
    const void* const terms[] = {data.data()};
    c.AllReduce(DType::kF32, terms, data.data(), 1000, std::move(done));
  };
  const Time before = std::chrono::steady_clock::now();
  Status ran;
  if (rank_ == 1) {
    // It is there, but calls nothing, until it hears that the others gave up.
    MpiMember member(group_, 20s, {reduce});
    member.at_end = [&](NodeContext& context) {
      context.SetTimer(context.Now() + 2s,
                       [&context] { context.Stop(OkStatus()); });
    };
    ran = pump_->Run(member);
  } else {
    ran = Run({reduce, reduce}, 800ms);
    EXPECT_THAT(ran.message(),
                AllOf(HasSubstr("allreduce 2 of 1000 f32"),
                      HasSubstr("worker 1 (has not called it)")));
    EXPECT_LT(std::chrono::steady_clock::now() - before, 4s);
  }
}

TEST_F(MpiCollectiveTest, MemberThatHangsIsNamedAtTheDeadline) {
  std::vector<float> data(10, 1.0F);
  if (rank_ == 1) {
    std::this_thread::sleep_for(1500ms);  // Its node is never pumped.
  } else {
    const Status ran =
        Run({[&](Collective& c, Collective::Done done) {
              const void* const terms[] = {data.data()};
              c.AllReduce(DType::kF32, terms, data.data(), 10, std::move(done));
            }},
            800ms);
    EXPECT_THAT(ran.message(), AllOf(HasSubstr("allreduce 1 of 10 f32"),
                                     HasSubstr("worker 1 (does not answer)")));
  }
}

TEST_F(MpiCollectiveTest, LostMemberIsNamedSoon) {
  std::vector<float> data(10, 1.0F);
  if (rank_ == 1) {
    const Status ran = Run({[&](Collective&, Collective::Done done) {
      pump_->Post([done = std::move(done)] { done(OkStatus()); });
    }});
    EXPECT_TRUE(ran.ok()) << ran;  // It has gone without the operation.
    return;
  }
  const Time before = std::chrono::steady_clock::now();
  const Status ran = Run({[&](Collective& c, Collective::Done done) {
    const void* const terms[] = {data.data()};
    c.AllReduce(DType::kF32, terms, data.data(), 10, std::move(done));
  }});
  EXPECT_LT(std::chrono::steady_clock::now() - before, 10s);
  EXPECT_THAT(ran.message(), HasSubstr("worker 1"));
  EXPECT_FALSE(ran.ok());
}

}  // namespace
}  // namespace shoal::comm
