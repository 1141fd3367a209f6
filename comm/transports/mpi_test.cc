// Transport `mpi` between ranks. The contract test has what one rank can show;
// these need `mpirun -np 2` and run on both ranks alike (MpiTest of
// integration_tests starts them).

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <sys/resource.h>

#include "base/strcat.h"
#include "comm/comm_testing.h"
#include "comm/mpi_table.h"
#include "comm/mpi_world.h"
#include "comm/transport.h"

namespace shoal::comm {
namespace {

using ::testing::HasSubstr;

// MPI for all tests of this program, where mpirun started it.
class MpiEnvironment : public ::testing::Environment {
 public:
  void SetUp() override {
    if (MpiWorld::Present()) {
      // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing writes the environment.
      const bool serialized = std::getenv("SHOAL_TEST_SERIALIZED") != nullptr;
      auto made = MpiWorld::Create(serialized ? MpiWorld::Threads::kSerialized
                                              : MpiWorld::Threads::kMultiple);
      ASSERT_TRUE(made.ok()) << made.status();
      world_ = *std::move(made);
      // Collectives among all; see MpiCollectiveTest.
      ASSERT_TRUE(world_->JoinGroup(0, world_->rank()).ok());
    }
  }
  void TearDown() override {
    if (world_ != nullptr) {
      const Status ended = world_->Finalize();
      EXPECT_TRUE(ended.ok()) << ended;
    }
  }

 private:
  std::unique_ptr<MpiWorld> world_;
};

const auto* const environment =
    ::testing::AddGlobalTestEnvironment(new MpiEnvironment);

class MpiRanksTest : public ::testing::Test {
 protected:
  void SetUp() override {
    world_ = MpiWorld::Current();
    if (world_ == nullptr || world_->size() != 2) {
      GTEST_SKIP() << "not under mpirun -np 2; MpiTest of integration_tests is";
    }
    // Ids of the two ranks' endpoints differ, and from one test to the next.
    static uint64_t next = 10'000;
    next += 10;
    mine_.id = EndpointId{next + static_cast<uint64_t>(world_->rank())};
    theirs_ = EndpointId{next + static_cast<uint64_t>(1 - world_->rank())};
  }

  void Open(const Endpoint::Options& base = {}) {
    Endpoint::Options options = base;
    options.self = mine_.id;
    StatusOr<std::unique_ptr<Endpoint>> made = CreateEndpoint("mpi", options);
    ASSERT_TRUE(made.ok()) << made.status();
    mine_.endpoint = *std::move(made);
    // Both make the same endpoints in the same order.
    address_ = mine_.endpoint->address();
    address_.replace(0, 5, StrCat("mpi:", 1 - world_->rank()));
  }
  void Connect() {
    const Status status = mine_.endpoint->Connect(theirs_, address_);
    ASSERT_TRUE(status.ok()) << status;
  }
  Status Send(Lane lane, Message message) {
    return mine_.endpoint->Send(theirs_, lane, std::move(message));
  }

  // Until the other rank is here too.
  void Meet() {
    ShoalMpiRequest* request = nullptr;
    ASSERT_EQ(world_->table().barrier(nullptr, &request), 0);
    for (int done = 0; done == 0;) {
      ASSERT_EQ(world_->table().test(request, &done), 0);
      std::this_thread::sleep_for(1ms);
    }
  }

  MpiWorld* world_ = nullptr;
  TestPeer mine_;
  EndpointId theirs_;
  std::string address_;
};

TEST_F(MpiRanksTest, BothCallAndExchangeInOrder) {
  Open();
  Meet();
  Connect();
  constexpr uint64_t kCount = 2000;
  uint64_t sent = 0;
  ASSERT_TRUE(PollUntil({&mine_}, [&] {
    while (sent < kCount && sent < mine_.sink.received.size() + 64) {
      // A few are longer than what MPI sends at once.
      const int64_t size =
          sent % 400 == 1 ? 5'000'000 : static_cast<int64_t>(sent * 37);
      EXPECT_TRUE(Send(sent % 3 == 0 ? Lane::kUrgent : Lane::kBulk,
                       TestMessage(sent, {TestBytes(size, sent)}))
                      .ok());
      ++sent;
    }
    return sent == kCount && mine_.sink.received.size() == kCount;
  }));
  uint64_t next[2] = {0, 1};
  for (const auto& [from, message] : mine_.sink.received) {
    const uint64_t i = message.header.request;
    uint64_t& expected = next[i % 3 == 0 ? 0 : 1];
    ASSERT_EQ(from, theirs_);
    ASSERT_EQ(i, expected);
    expected += i % 3 == 0 ? 3 : i % 3 == 1 ? 1 : 2;
    const int64_t size =
        i % 400 == 1 ? 5'000'000 : static_cast<int64_t>(i * 37);
    ASSERT_TRUE(message.frames[0].text() == TestBytes(size, i).text()) << i;
  }
  // Its own last messages may still be here.
  EXPECT_TRUE(
      mine_.endpoint->Close(std::chrono::steady_clock::now() + 10s).ok());
  Meet();
}

TEST_F(MpiRanksTest, PeerThatReadsNothingFillsTheQueueAndUrgentOnesPass) {
  Endpoint::Options options;
  options.send_queue_bytes_max = 4 << 20;
  Open(options);
  Meet();
  uint64_t sent = 0;
  if (world_->rank() == 0) {
    Connect();
    ASSERT_TRUE(Send(Lane::kUrgent, TestMessage(99)).ok());
    ASSERT_TRUE(PollUntil({&mine_}, [&] {
      return !mine_.sink.received.empty();  // The session is there.
    }));
    mine_.sink.received.clear();
    // Short ones too are bounded, however long it takes: MPI itself would move
    // them to the receiver's memory.
    int64_t refused = 0;
    const Buffer frame = TestBytes(1000, 1);
    const Time end = std::chrono::steady_clock::now() + 500ms;
    while (std::chrono::steady_clock::now() < end) {
      const Status status = Send(Lane::kBulk, TestMessage(sent, {frame}));
      if (status.ok()) {
        ++sent;
      } else {
        ASSERT_EQ(status.code(), StatusCode::kResourceExhausted);
        ++refused;
      }
      ASSERT_TRUE(mine_.Poll(status.ok() ? 0ms : 1ms).ok());
    }
    EXPECT_GT(refused, 0);
    EXPECT_TRUE(mine_.sink.sendable.empty());
    EXPECT_LT(sent, 4200U);
    EXPECT_GT(sent, 3000U);
    Meet();  // From here on rank 1 reads.
    ASSERT_TRUE(
        PollUntil({&mine_}, [&] { return !mine_.sink.sendable.empty(); }));
    ASSERT_TRUE(Send(Lane::kUrgent, TestMessage(1'000'000)).ok());
    ASSERT_TRUE(PollUntil({&mine_}, [&] {
      return !mine_.sink.received.empty();  // It has all.
    }));
    EXPECT_EQ(mine_.sink.received[0].message.header.request, sent + 1);
  } else {
    ASSERT_TRUE(
        PollUntil({&mine_}, [&] { return !mine_.sink.received.empty(); }));
    ASSERT_TRUE(Send(Lane::kUrgent, TestMessage(98)).ok());
    ASSERT_TRUE(mine_.Poll(0ms).ok());
    mine_.sink.received.clear();
    Meet();
    ASSERT_TRUE(PollUntil({&mine_}, [&] {
      const auto& got = mine_.sink.received;
      return std::any_of(got.begin(), got.end(), [](const auto& one) {
        return one.message.header.request == 1'000'000;
      });
    }));
    // Nothing was lost: what was sent before in all is there soon.
    (void)PollUntil(
        {&mine_}, [] { return false; }, 300ms);
    ASSERT_TRUE(
        Send(Lane::kUrgent, TestMessage(mine_.sink.received.size())).ok());
  }
  ASSERT_TRUE(
      mine_.endpoint->Close(std::chrono::steady_clock::now() + 10s).ok());
  Meet();
}

TEST_F(MpiRanksTest, GoodbyeComesAfterAllThatWasSent) {
  Open();
  Meet();
  if (world_->rank() == 0) {
    Connect();
    for (uint64_t i = 0; i < 100; ++i) {
      ASSERT_TRUE(
          Send(Lane::kBulk, TestMessage(i, {TestBytes(100'000, i)})).ok());
    }
    EXPECT_TRUE(
        mine_.endpoint->Close(std::chrono::steady_clock::now() + 10s).ok());
  } else {
    ASSERT_TRUE(PollUntil({&mine_}, [&] { return !mine_.sink.downs.empty(); }));
    EXPECT_EQ(mine_.sink.received.size(), 100U);
    EXPECT_EQ(mine_.sink.downs[0].first, theirs_);
    EXPECT_EQ(mine_.sink.downs[0].second.code(), StatusCode::kUnavailable);
    EXPECT_THAT(mine_.sink.downs[0].second.message(), HasSubstr("ended"));
  }
  Meet();
}

// Calls to an endpoint that has gone are refused by another one of its rank.
TEST_F(MpiRanksTest, GoneEndpointOfALivingRankIsReported) {
  Open();
  TestPeer other;  // keeps rank 1 at work
  Endpoint::Options options;
  options.self = EndpointId{mine_.id.value + 5};
  other.endpoint = CreateEndpoint("mpi", options).value();
  if (world_->rank() == 1) {
    ASSERT_TRUE(
        mine_.endpoint->Close(std::chrono::steady_clock::now() + 1s).ok());
    Meet();
    const Time end = std::chrono::steady_clock::now() + 300ms;
    while (std::chrono::steady_clock::now() < end) {
      ASSERT_TRUE(other.Poll(10ms).ok());
    }
  } else {
    Meet();
    Connect();
    const Time before = std::chrono::steady_clock::now();
    ASSERT_TRUE(PollUntil({&mine_}, [&] { return !mine_.sink.downs.empty(); }));
    EXPECT_EQ(mine_.sink.downs[0].first, theirs_);
    EXPECT_LT(std::chrono::steady_clock::now() - before, 5s)
        << "not by the deadline of the call";
  }
  Meet();
}

TEST_F(MpiRanksTest, IdleEndpointSleeps) {
  Open();
  Meet();
  Connect();
  ASSERT_TRUE(Send(Lane::kUrgent, TestMessage(1)).ok());
  ASSERT_TRUE(
      PollUntil({&mine_}, [&] { return !mine_.sink.received.empty(); }));
  const auto used = [] {
    rusage usage = {};
    getrusage(RUSAGE_THREAD, &usage);
    return std::chrono::seconds(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           std::chrono::microseconds(usage.ru_utime.tv_usec +
                                     usage.ru_stime.tv_usec);
  };
  const auto before = used();
  const Time end = std::chrono::steady_clock::now() + 1s;
  while (std::chrono::steady_clock::now() < end) {
    ASSERT_TRUE(mine_.Poll(100ms).ok());
  }
  EXPECT_LT(used() - before, 150ms) << "of a second without messages";
  Meet();
}

TEST(MpiTransportTest, WithoutMpirunItSaysWhatToDo) {
  if (MpiWorld::Current() != nullptr) {
    GTEST_SKIP() << "under mpirun";
  }
  const Status status = CreateEndpoint("mpi", {}).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("mpirun -np"));
}

}  // namespace
}  // namespace shoal::comm
