// Collective `nccl` between members in threads of this program, on the stand-in
// GPU and with the stand-in NCCL; its header says what that does not show.
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/strcat.h"
#include "base/thread_pool.h"
#include "comm/collective_testing.h"
#include "comm/nccl_collective.h"
#include "comm/pump.h"
#include "kernels/cuda_device.h"

namespace shoal::comm {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::Each;
using ::testing::HasSubstr;

using Script = std::vector<ScriptMember::Step>;

class NcclTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    // Before anything loads a plug-in, and before there are threads.
    // NOLINTBEGIN(concurrency-mt-unsafe)
    setenv("SHOAL_CUDA_PLUGIN", SHOAL_CUDA_SHIM, 1);
    setenv("SHOAL_NCCL", SHOAL_NCCL_STANDIN, 1);
    setenv("SHOAL_SHIM_DEVICES", "4", 1);
    // NOLINTEND(concurrency-mt-unsafe)
  }
  void SetUp() override { Plant(""); }

  // What is to go wrong, see the stand-in.
  static void Plant(const std::string& what) {
    setenv("SHOAL_NCCL_STANDIN", what.c_str(), 1);  // NOLINT(concurrency-*)
  }

  Group MakeGroup(int size) {
    static uint64_t next = 50'000;
    next += 1000;
    pumps_.clear();
    Group group;
    group.id = 3;
    for (int r = 0; r < size; ++r) {
      Pump::Options options;
      options.transport = "inproc";
      options.endpoint.self = EndpointId{next + static_cast<uint64_t>(r)};
      auto made = Pump::Create(options);
      SHOAL_CHECK(made.ok());
      pumps_.push_back(*std::move(made));
      group.members.push_back({.endpoint = options.endpoint.self,
                               .address = pumps_.back()->address(),
                               .name = StrCat("worker ", r),
                               .nodes = {}});
    }
    DealOneLeafEach(group);
    return group;
  }

  CollectiveOptions OptionsOf(int gpu) const {
    return {.timeout = timeout_, .open_device = [gpu] { return OpenGpu(gpu); }};
  }
  static StatusOr<std::shared_ptr<Device>> OpenGpu(int gpu) {
    SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<Device> device,
                           OpenCudaDevice({.gpu = gpu}));
    return std::shared_ptr<Device>(std::move(device));
  }

  // All members' ends.
  std::vector<Status> RunMembers(
      std::vector<std::unique_ptr<ScriptMember>> members) {
    std::vector<Status> ends(members.size());
    std::vector<std::thread> threads;
    for (size_t r = 0; r < members.size(); ++r) {
      threads.emplace_back([&, r] {
        ends[r] = pumps_[r]->Run(*members[r]);
        // As a process that ends: what it holds goes with it.
        members[r].reset();
        pumps_[r].reset();
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    return ends;
  }
  std::vector<Status> Run(const Group& group,
                          const std::vector<Script>& scripts) {
    std::vector<std::unique_ptr<ScriptMember>> members;
    for (int r = 0; r < group.size(); ++r) {
      members.push_back(MemberOf(group, r, scripts[static_cast<size_t>(r)]));
    }
    return RunMembers(std::move(members));
  }
  std::unique_ptr<ScriptMember> MemberOf(Group group, int rank,
                                         Script script) const {
    group.rank = rank;
    return std::make_unique<ScriptMember>(&NcclCollective::Create, group,
                                          OptionsOf(rank), std::move(script));
  }
  // Every member sums `count` ones, `times` over.
  std::vector<Script> SumsOfOnes(int size, int times, int64_t count) {
    std::vector<Script> scripts(static_cast<size_t>(size));
    ones_.assign(static_cast<size_t>(size),
                 std::vector<float>(static_cast<size_t>(count), 1.0F));
    sums_.assign(static_cast<size_t>(size),
                 std::vector<float>(static_cast<size_t>(count)));
    for (size_t r = 0; r < scripts.size(); ++r) {
      for (int i = 0; i < times; ++i) {
        scripts[r].emplace_back(
            [this, r, count](Collective& c, Collective::Done done) {
              const void* const terms[] = {ones_[r].data()};
              c.AllReduce(DType::kF32, terms, sums_[r].data(), count,
                          std::move(done));
            });
      }
    }
    return scripts;
  }

  Duration timeout_ = 20s;
  std::vector<std::unique_ptr<Pump>> pumps_;  // by rank
  std::vector<std::vector<float>> ones_;
  std::vector<std::vector<float>> sums_;
};

TEST_F(NcclTest, AllOperationsInAllTypesGiveExactResults) {
  for (const int size : {1, 2, 3, 4}) {
    std::vector<EveryOperation> all;
    std::vector<Script> scripts;
    for (int r = 0; r < size; ++r) {
      // Fewer than members, in equal segments, and not.
      all.emplace_back(r, size, std::vector<int64_t>{0, 1, 1001, 1200});
      scripts.push_back(all.back().script());
    }
    for (const Status& end : Run(MakeGroup(size), scripts)) {
      ASSERT_TRUE(end.ok()) << end;
    }
    for (const EveryOperation& one : all) {
      one.ExpectResults();
    }
  }
}

TEST_F(NcclTest, MembersAddTheirOwnTermsFirst) {
  Group group = MakeGroup(2);
  group.num_leaves = 6;
  const StepTree tree(6);
  group.members[0].nodes = {tree.Leaf(0), tree.Leaf(1), tree.Leaf(2)};
  group.members[1].nodes = {tree.Leaf(3), tree.Leaf(4), tree.Leaf(5)};
  // More than is copied at a time.
  constexpr int64_t kCount = 700'001;
  const std::vector<float> a(kCount, 1.0F);
  const std::vector<float> b(kCount, 10.0F);
  const std::vector<float> c(kCount, 100.0F);
  std::vector<std::vector<float>> out(2, std::vector<float>(kCount, -1.0F));
  std::vector<Script> scripts;
  for (auto& to : out) {
    scripts.push_back({[&](Collective& collective, Collective::Done done) {
      const void* const terms[] = {a.data(), b.data(), c.data()};
      collective.AllReduce(DType::kF32, terms, to.data(), kCount,
                           std::move(done));
    }});
  }
  for (const Status& end : Run(group, scripts)) {
    ASSERT_TRUE(end.ok()) << end;
  }
  for (const auto& to : out) {
    EXPECT_THAT(to, Each(222.0F));
  }
}

// The order is the library's, so that sums of floats differ by roundings, but
// not between members.
TEST_F(NcclTest, MembersHaveTheSameBitsWithinRoundingOfTheSum) {
  constexpr int64_t kCount = 5000;
  std::vector<std::vector<float>> terms(4);
  std::vector<std::vector<float>> out(4, std::vector<float>(kCount));
  std::vector<Script> scripts;
  for (size_t r = 0; r < 4; ++r) {
    for (int64_t i = 0; i < kCount; ++i) {
      terms[r].push_back(
          std::sin(static_cast<float>(i + 1) * static_cast<float>(r * r + 1)));
    }
    scripts.push_back({[&, r](Collective& c, Collective::Done done) {
      const void* const mine[] = {terms[r].data()};
      c.AllReduce(DType::kF32, mine, out[r].data(), kCount, std::move(done));
    }});
  }
  for (const Status& end : Run(MakeGroup(4), scripts)) {
    ASSERT_TRUE(end.ok()) << end;
  }
  for (size_t i = 0; i < kCount; ++i) {
    double sum = 0;
    for (const auto& term : terms) {
      sum += term[i];
    }
    // Three additions of at most 4 in all.
    ASSERT_NEAR(out[0][i], sum, 3 * 4 * 6e-8);
    for (size_t r = 1; r < 4; ++r) {
      ASSERT_EQ(out[r][i], out[0][i]);
    }
  }
}

TEST_F(NcclTest, OperationsStartedTogetherKeepTheirOrder) {
  std::vector<Script> scripts;
  std::vector<std::vector<std::vector<int32_t>>> out(
      3, std::vector<std::vector<int32_t>>(20));
  std::vector<std::vector<int>> order(3);
  for (size_t r = 0; r < 3; ++r) {
    scripts.push_back({[&, r](Collective& c, const Collective::Done& done) {
      for (int i = 0; i < 20; ++i) {
        std::vector<int32_t>& data = out[r][static_cast<size_t>(i)];
        data.assign(static_cast<size_t>(1 + i * 500), i);
        const void* const terms[] = {data.data()};
        c.AllReduce(DType::kI32, terms, data.data(),
                    static_cast<int64_t>(data.size()),
                    [&, r, i, done](const Status& s) {
                      ASSERT_TRUE(s.ok()) << s;
                      order[r].push_back(i);
                      if (i == 19) {
                        done(s);
                      }
                    });
      }
    }});
  }
  for (const Status& end : Run(MakeGroup(3), scripts)) {
    ASSERT_TRUE(end.ok()) << end;
  }
  for (size_t r = 0; r < 3; ++r) {
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(order[r][static_cast<size_t>(i)], i);
      EXPECT_THAT(out[r][static_cast<size_t>(i)], Each(i * 3));
    }
  }
}

TEST_F(NcclTest, AMemberThatCallsLateIsNamedAtTheDeadline) {
  timeout_ = 800ms;
  std::vector<Script> scripts = SumsOfOnes(3, 2, 1000);
  scripts[1].pop_back();
  const Group group = MakeGroup(3);
  std::vector<std::unique_ptr<ScriptMember>> members;
  for (int r = 0; r < 3; ++r) {
    members.push_back(MemberOf(group, r, scripts[static_cast<size_t>(r)]));
  }
  // It is there, and hears that the others give up.
  members[1]->at_end = [](NodeContext& context) {
    context.SetTimer(context.Now() + 2s,
                     [&context] { context.Stop(OkStatus()); });
  };
  const Time before = std::chrono::steady_clock::now();
  const std::vector<Status> ends = RunMembers(std::move(members));
  EXPECT_LT(std::chrono::steady_clock::now() - before, 4s);
  for (const size_t r : {0U, 2U}) {
    EXPECT_THAT(ends[r].message(),
                AllOf(HasSubstr("allreduce 2 of 1000 f32"),
                      HasSubstr("worker 1 (has not called it)")));
  }
}

TEST_F(NcclTest, WhatNcclDoesLateIsWaitedFor) {
  Plant("late:1:2:300,late:0:3:200");
  const std::vector<Script> scripts = SumsOfOnes(2, 4, 1000);
  for (const Status& end : Run(MakeGroup(2), scripts)) {
    ASSERT_TRUE(end.ok()) << end;
  }
  EXPECT_THAT(sums_[0], Each(2.0F));
  EXPECT_THAT(sums_[1], Each(2.0F));
}

TEST_F(NcclTest, WhatHangsInNcclEndsAtTheDeadlineForAll) {
  timeout_ = 700ms;
  for (const char* const plant : {"hang:1:2", "hang:1:0"}) {
    Plant(plant);
    const Time before = std::chrono::steady_clock::now();
    const std::vector<Status> ends = Run(MakeGroup(2), SumsOfOnes(2, 3, 1000));
    EXPECT_LT(std::chrono::steady_clock::now() - before, 4s);
    for (const Status& end : ends) {
      EXPECT_THAT(end.message(),
                  AllOf(HasSubstr("waited 700 ms for NCCL"),
                        AnyOf(HasSubstr("allreduce 2 of 1000 f32"),
                              HasSubstr("joining NCCL's group"))))
          << plant;
    }
  }
}

TEST_F(NcclTest, AsynchronousErrorsEndTheOperationForAll) {
  Plant("error:1:2");
  const std::vector<Status> ends = Run(MakeGroup(3), SumsOfOnes(3, 5, 10));
  EXPECT_THAT(ends[1].message(),
              AllOf(HasSubstr("allreduce 2 of 10 f32: NCCL: "),
                    HasSubstr("remote process exited"),
                    HasSubstr("no member has lost its connection")));
  for (const size_t r : {0U, 2U}) {
    EXPECT_THAT(ends[r].message(),
                AllOf(HasSubstr("worker 1 gave up"), HasSubstr("allreduce 2")));
  }
}

TEST_F(NcclTest, RefusedCallsEndTheOperationForAll) {
  Plant("refuse:0:3");
  const std::vector<Status> ends = Run(MakeGroup(2), SumsOfOnes(2, 5, 10));
  EXPECT_THAT(ends[0].message(),
              AllOf(HasSubstr("allreduce 3 of 10 f32: NCCL: "),
                    HasSubstr("planted: refused")));
  EXPECT_THAT(ends[1].message(), HasSubstr("worker 0 gave up"));
}

TEST_F(NcclTest, ALostMemberIsNamedSoonThoughNcclSaysNothing) {
  std::vector<Script> scripts = SumsOfOnes(3, 2, 1000);
  scripts[2].pop_back();
  const Group group = MakeGroup(3);
  std::vector<std::unique_ptr<ScriptMember>> members;
  for (int r = 0; r < 3; ++r) {
    members.push_back(MemberOf(group, r, scripts[static_cast<size_t>(r)]));
  }
  // While the others are in the second operation.
  members[2]->at_end = [](NodeContext& context) {
    context.SetTimer(context.Now() + 300ms,
                     [&context] { context.Stop(OkStatus()); });
  };
  const Time before = std::chrono::steady_clock::now();
  const std::vector<Status> ends = RunMembers(std::move(members));
  EXPECT_LT(std::chrono::steady_clock::now() - before, 5s);
  EXPECT_TRUE(ends[2].ok()) << ends[2];
  for (const size_t r : {0U, 1U}) {
    EXPECT_THAT(ends[r].message(), AllOf(HasSubstr("worker 2 is lost"),
                                         HasSubstr("allreduce 2 of 1000 f32")));
  }
}

TEST_F(NcclTest, OneGpuForTwoMembersIsRefusedNamingBoth) {
  const Group group = MakeGroup(3);
  const std::vector<Script> scripts = SumsOfOnes(3, 1, 10);
  std::vector<std::unique_ptr<ScriptMember>> members;
  for (int r = 0; r < 3; ++r) {
    Group own = group;
    own.rank = r;
    members.push_back(std::make_unique<ScriptMember>(
        &NcclCollective::Create, own, OptionsOf(r == 2 ? 1 : r),
        scripts[static_cast<size_t>(r)]));
  }
  for (const Status& end : RunMembers(std::move(members))) {
    EXPECT_THAT(end.message(),
                HasSubstr("worker 1 and worker 2 have the same GPU"));
  }
}

TEST_F(NcclTest, AMemberWithoutAGpuIsRefusedNamingIt) {
  const Group group = MakeGroup(2);
  const std::vector<Script> scripts = SumsOfOnes(2, 1, 10);
  std::vector<std::unique_ptr<ScriptMember>> members;
  members.push_back(MemberOf(group, 0, scripts[0]));
  Group own = group;
  own.rank = 1;
  CollectiveOptions options = OptionsOf(1);
  options.open_device = [] {
    static ThreadPool pool(1);
    return StatusOr<std::shared_ptr<Device>>(
        std::shared_ptr<Device>(CreateCpuDevice(pool)));
  };
  members.push_back(std::make_unique<ScriptMember>(&NcclCollective::Create, own,
                                                   options, scripts[1]));
  const std::vector<Status> ends = RunMembers(std::move(members));
  EXPECT_THAT(ends[1].message(),
              AllOf(HasSubstr("cluster.collective: nccl"),
                    HasSubstr("device cpu has no collectives of its own")));
  // It may have gone before it was heard.
  EXPECT_THAT(ends[0].message(), HasSubstr("worker 1"));
}

// A node that ends while NCCL works leaves nothing behind that touches it, or
// what it gave.
TEST_F(NcclTest, ANodeMayEndInTheMiddle) {
  Plant("late:0:1:500,late:1:1:500");
  const Group group = MakeGroup(2);
  std::vector<std::unique_ptr<ScriptMember>> members;
  for (int r = 0; r < 2; ++r) {
    // Goes with the script, after the collective.
    const auto data = std::make_shared<std::vector<float>>(1000, 1.0F);
    Script script;
    script.emplace_back(
        [this, r, data](Collective& c, const Collective::Done& done) {
          const void* const terms[] = {data->data()};
          c.AllReduce(DType::kF32, terms, data->data(), 1000,
                      [](const Status& end) { EXPECT_FALSE(end.ok()); });
          // Nobody waits for it; by then it is under way.
          std::thread([this, r, done] {
            std::this_thread::sleep_for(200ms);
            pumps_[static_cast<size_t>(r)]->Post([done] { done(OkStatus()); });
          }).detach();
        });
    members.push_back(MemberOf(group, r, std::move(script)));
  }
  const Time before = std::chrono::steady_clock::now();
  for (const Status& end : RunMembers(std::move(members))) {
    EXPECT_TRUE(end.ok()) << end;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - before, 3s);
}

}  // namespace
}  // namespace shoal::comm
