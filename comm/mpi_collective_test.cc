// Collective `mpi` between ranks: all of mpirun's run these tests alike
// (MpiTest of integration_tests starts them with 2, 3 and 4).

#include "comm/mpi_collective.h"

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/strcat.h"
#include "comm/collective_testing.h"
#include "comm/mpi_table.h"
#include "comm/mpi_world.h"
#include "comm/pump.h"

namespace shoal::comm {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

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

  Status Run(std::vector<ScriptMember::Step> script, Duration timeout = 20s) {
    ScriptMember member(&MpiCollective::Create, group_, {.timeout = timeout},
                        std::move(script));
    return pump_->Run(member);
  }

  MpiWorld* world_ = nullptr;
  int rank_ = 0;
  int size_ = 0;
  Group group_;
  std::unique_ptr<Pump> pump_;
};

TEST_F(MpiCollectiveTest, AllOperationsInAllTypesGiveExactResults) {
  const EveryOperation all(rank_, size_, {0, 1, 1001});
  const Status ran = Run(all.script());
  ASSERT_TRUE(ran.ok()) << ran;
  all.ExpectResults();
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
    ScriptMember member(&MpiCollective::Create, group_, {.timeout = 20s},
                        {reduce});
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
