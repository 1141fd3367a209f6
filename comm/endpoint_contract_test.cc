// What Endpoint promises, on every transport that is linked in.

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/strcat.h"
#include "comm/comm_testing.h"
#include "comm/endpoint.h"
#include "comm/transport.h"

namespace shoal::comm {
namespace {

using ::testing::HasSubstr;

class EndpointContractTest : public ::testing::TestWithParam<std::string> {
 protected:
  static TestPeer Make(uint64_t id, const Endpoint::Options& base = {}) {
    Endpoint::Options options = base;
    options.self = EndpointId{id};
    StatusOr<std::unique_ptr<Endpoint>> endpoint =
        CreateEndpoint(GetParam(), options);
    EXPECT_TRUE(endpoint.ok()) << endpoint.status();
    TestPeer peer;
    peer.endpoint = *std::move(endpoint);
    peer.id = options.self;
    return peer;
  }

  static void Connect(TestPeer& from, const TestPeer& to) {
    const Status status = from.endpoint->Connect(to.id, to.endpoint->address());
    EXPECT_TRUE(status.ok()) << status;
  }

  // Sends a message and waits for it on the other side, so that both know each
  // other.
  static void Greet(TestPeer& from, TestPeer& to) {
    Connect(from, to);
    const size_t before = to.sink.received.size();
    ASSERT_TRUE(
        from.endpoint->Send(to.id, Lane::kUrgent, TestMessage(9999)).ok());
    ASSERT_TRUE(PollUntil({&from, &to},
                          [&] { return to.sink.received.size() > before; }));
    to.sink.received.pop_back();
  }

  static bool Near() { return GetParam() == "inproc"; }
  // Without a process of its own that can die, and without strangers.
  static bool Closed() { return Near() || GetParam() == "mpi"; }
};

// What only a transport without a thread of its own between the ends has.
class InprocContractTest : public EndpointContractTest {};

TEST_P(EndpointContractTest, MessageArrivesWithHeaderFramesAndSender) {
  TestPeer a = Make(101);
  TestPeer b = Make(102);
  Connect(a, b);
  Message message = TestMessage(
      7, {Buffer::CopyOf("one"), Buffer(), TestBytes(100'000, 1), Buffer()});
  message.header = {.request = 0x123456789abcdef0,
                    .method = 65535,
                    .kind = MessageKind::kReply,
                    .status = 200,
                    .reserved = 0xdeadbeef};
  ASSERT_TRUE(a.endpoint->Send(b.id, Lane::kBulk, message).ok());
  ASSERT_TRUE(PollUntil({&a, &b}, [&] { return !b.sink.received.empty(); }));
  const auto& [from, got] = b.sink.received[0];
  EXPECT_EQ(from, a.id);
  EXPECT_EQ(std::memcmp(&got.header, &message.header, sizeof(got.header)), 0);
  ASSERT_EQ(got.frames.size(), 4U);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(got.frames[i].text(), message.frames[i].text()) << "frame " << i;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(got.frames[i].data()) % 8, 0U);
  }
}

TEST_P(EndpointContractTest, ReceiverAnswersWithoutConnecting) {
  TestPeer a = Make(201);
  TestPeer b = Make(202);
  Connect(a, b);
  b.sink.on_message = [&](EndpointId from, const Message& message) {
    EXPECT_TRUE(b.endpoint->Send(from, Lane::kUrgent, message).ok());
  };
  for (uint64_t i = 0; i < 100; ++i) {
    ASSERT_TRUE(a.endpoint->Send(b.id, Lane::kUrgent, TestMessage(i)).ok());
  }
  ASSERT_TRUE(
      PollUntil({&a, &b}, [&] { return a.sink.received.size() == 100; }));
  for (uint64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(a.sink.received[i].message.header.request, i);
  }
}

TEST_P(EndpointContractTest, OrderHoldsPerLaneAndNothingComesTwice) {
  TestPeer a = Make(301);
  TestPeer b = Make(302);
  Connect(a, b);
  Connect(b, a);  // Both call at once.
  constexpr uint64_t kCount = 3000;
  const auto send = [&](TestPeer& from, TestPeer& to, uint64_t i) {
    const Lane lane = i % 3 == 0 ? Lane::kUrgent : Lane::kBulk;
    // Sizes from nothing to much more than a ring, a few of the latter.
    const int64_t size = i % 500 == 1 ? 3'000'000 : static_cast<int64_t>(i);
    const Status status =
        from.endpoint->Send(to.id, lane, TestMessage(i, {TestBytes(size, i)}));
    ASSERT_TRUE(status.ok()) << status;
  };
  for (uint64_t i = 0; i < kCount; ++i) {
    send(a, b, i);
    send(b, a, i);
    if (i % 100 == 0) {
      ASSERT_TRUE(a.Poll(0ms).ok());
      ASSERT_TRUE(b.Poll(0ms).ok());
    }
  }
  ASSERT_TRUE(PollUntil({&a, &b}, [&] {
    return a.sink.received.size() >= kCount && b.sink.received.size() >= kCount;
  }));
  for (const TestPeer* const peer : {&a, &b}) {
    ASSERT_EQ(peer->sink.received.size(), kCount);
    EXPECT_TRUE(peer->sink.downs.empty());
    uint64_t next[2] = {0, 1};
    for (const auto& [from, message] : peer->sink.received) {
      const uint64_t i = message.header.request;
      uint64_t& expected = next[i % 3 == 0 ? 0 : 1];
      ASSERT_EQ(i, expected);
      expected += i % 3 == 0 ? 3 : i % 3 == 1 ? 1 : 2;
      const int64_t size = i % 500 == 1 ? 3'000'000 : static_cast<int64_t>(i);
      ASSERT_EQ(message.frames[0].text(), TestBytes(size, i).text());
    }
  }
}

TEST_P(EndpointContractTest, BigFramesAndManyFramesArriveWhole) {
  TestPeer a = Make(401);
  TestPeer b = Make(402);
  Connect(a, b);
  const Buffer big = TestBytes(int64_t{64} << 20, 5);
  std::vector<Buffer> many(kMessageFramesMax, Buffer::CopyOf("x"));
  many[17] = Buffer();
  ASSERT_TRUE(
      a.endpoint->Send(b.id, Lane::kBulk, TestMessage(1, {big, big})).ok());
  ASSERT_TRUE(a.endpoint->Send(b.id, Lane::kBulk, TestMessage(2, many)).ok());
  ASSERT_TRUE(a.endpoint->Send(b.id, Lane::kUrgent, TestMessage(3)).ok());
  ASSERT_TRUE(PollUntil({&a, &b}, [&] { return b.sink.received.size() == 3; }));
  std::map<uint64_t, const Message*> got;
  for (const auto& [from, message] : b.sink.received) {
    got[message.header.request] = &message;
  }
  ASSERT_EQ(got[1]->frames.size(), 2U);
  EXPECT_TRUE(got[1]->frames[0].text() == big.text());
  EXPECT_TRUE(got[1]->frames[1].text() == big.text());
  ASSERT_EQ(got[2]->frames.size(), many.size());
  EXPECT_EQ(got[2]->frames[17].size(), 0);
  EXPECT_EQ(got[2]->frames[18].text(), "x");
  EXPECT_EQ(got[3]->frames.size(), 0U);
}

TEST_P(EndpointContractTest, FramesOutliveTheEndpointThatReceivedThem) {
  Buffer kept;
  const Buffer sent = TestBytes(1 << 20, 3);
  {
    TestPeer a = Make(411);
    TestPeer b = Make(412);
    Connect(a, b);
    ASSERT_TRUE(
        a.endpoint->Send(b.id, Lane::kBulk, TestMessage(1, {sent})).ok());
    ASSERT_TRUE(PollUntil({&a, &b}, [&] { return !b.sink.received.empty(); }));
    kept = b.sink.received[0].message.frames[0];
  }
  EXPECT_TRUE(kept.text() == sent.text());
}

TEST_P(EndpointContractTest, TwoThreadsExchangeManyMessages) {
  TestPeer a = Make(501);
  TestPeer b = Make(502);
  Connect(a, b);
  constexpr uint64_t kCount = 5000;
  std::thread echo([&] {
    b.sink.on_message = [&](EndpointId from, const Message& message) {
      EXPECT_TRUE(b.endpoint->Send(from, Lane::kBulk, message).ok());
    };
    EXPECT_TRUE(
        PollUntil({&b}, [&] { return b.sink.received.size() == kCount; }));
    EXPECT_TRUE(b.endpoint->Close(std::chrono::steady_clock::now() + 10s).ok());
  });
  uint64_t sent = 0;
  EXPECT_TRUE(PollUntil({&a}, [&] {
    while (sent < kCount && sent < a.sink.received.size() + 64) {
      const auto size = static_cast<int64_t>((sent * 977) % 20'000);
      const Buffer frame = TestBytes(size, sent);
      EXPECT_TRUE(
          a.endpoint->Send(b.id, Lane::kBulk, TestMessage(sent, {frame})).ok());
      ++sent;
    }
    return a.sink.received.size() == kCount;
  }));
  echo.join();
  for (uint64_t i = 0; i < a.sink.received.size(); ++i) {
    ASSERT_EQ(a.sink.received[i].message.header.request, i);
  }
}

TEST_P(EndpointContractTest, WakeFromAnotherThreadEndsAWait) {
  TestPeer a = Make(601);
  for (int i = 0; i < 20; ++i) {
    std::thread waker([&] { a.endpoint->Wake(); });
    const Time before = std::chrono::steady_clock::now();
    ASSERT_TRUE(a.Poll(10s).ok());
    EXPECT_LT(std::chrono::steady_clock::now() - before, 5s);
    waker.join();
    ASSERT_TRUE(a.Poll(0ms).ok());  // Takes a wake that came with something.
  }
}

TEST_P(EndpointContractTest, WakeBeforeAPollEndsIt) {
  TestPeer a = Make(611);
  a.endpoint->Wake();
  const Time before = std::chrono::steady_clock::now();
  ASSERT_TRUE(a.Poll(10s).ok());
  EXPECT_LT(std::chrono::steady_clock::now() - before, 5s);
}

TEST_P(EndpointContractTest, PollWithoutAnythingEndsByItsTimeout) {
  TestPeer a = Make(621);
  const Time before = std::chrono::steady_clock::now();
  ASSERT_TRUE(a.Poll(30ms).ok());
  EXPECT_GE(std::chrono::steady_clock::now() - before, 29ms);
}

TEST_P(EndpointContractTest, SendToAnUnknownPeerIsUnavailable) {
  TestPeer a = Make(701);
  const Status status =
      a.endpoint->Send(EndpointId{777}, Lane::kUrgent, TestMessage(1));
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("endpoint-309"));
}

TEST_P(EndpointContractTest, ForeignAddressIsInvalid) {
  TestPeer a = Make(711);
  for (const std::string address :
       {"", "nonsense", "inproc", "tcp://", "tcp://1.2.3.4:x", "shm:", "auto:1",
        "auto:;;;", "mpi:", "mpi:0", "mpi:0/", "mpi:x/1", "mpi:0/1x",
        "mpi:-1/1", "mpi:0/0", "mpi:999999/1", "pigeon:coo"}) {
    EXPECT_EQ(a.endpoint->Connect(EndpointId{777}, address).code(),
              StatusCode::kInvalidArgument)
        << address;
  }
}

TEST_P(EndpointContractTest, MessageOverTheLimitsIsRefused) {
  TestPeer a = Make(801);
  TestPeer b = Make(802);
  Connect(a, b);
  EXPECT_EQ(a.endpoint
                ->Send(b.id, Lane::kBulk,
                       TestMessage(1, std::vector<Buffer>(kMessageFramesMax + 1,
                                                          Buffer())))
                .code(),
            StatusCode::kInvalidArgument);
  // The same memory many times, so that the test needs little of it.
  const Buffer part = Buffer::Allocate(int64_t{1} << 20);
  const Status status = a.endpoint->Send(
      b.id, Lane::kBulk, TestMessage(1, std::vector<Buffer>(1024, part)));
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("1073741840"));
}

TEST_P(EndpointContractTest, FullQueueRefusesAndSaysWhenThereIsRoom) {
  Endpoint::Options options;
  options.send_queue_bytes_max = 8 << 20;
  TestPeer a = Make(901, options);
  TestPeer b = Make(902);
  Greet(a, b);
  // b does not poll, so that whatever lies between fills up.
  const Buffer frame = TestBytes(1 << 20, 1);
  int64_t num_sent = 0;
  Status status;
  while (num_sent < 200) {
    status =
        a.endpoint->Send(b.id, Lane::kBulk,
                         TestMessage(static_cast<uint64_t>(num_sent), {frame}));
    if (!status.ok()) {
      break;
    }
    ++num_sent;
    ASSERT_TRUE(a.Poll(1ms).ok());
  }
  ASSERT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_GE(num_sent, 7);
  EXPECT_TRUE(a.sink.sendable.empty());
  ASSERT_TRUE(PollUntil({&a, &b}, [&] {
    return !a.sink.sendable.empty() &&
           static_cast<int64_t>(b.sink.received.size()) == num_sent;
  }));
  EXPECT_EQ(a.sink.sendable[0], b.id);
  EXPECT_TRUE(a.endpoint->Send(b.id, Lane::kBulk, TestMessage(1)).ok());
}

TEST_P(EndpointContractTest, MessageBiggerThanTheQueuePassesAlone) {
  Endpoint::Options options;
  options.send_queue_bytes_max = 1000;
  TestPeer a = Make(911, options);
  TestPeer b = Make(912);
  Connect(a, b);
  const Buffer frame = TestBytes(5 << 20, 1);
  ASSERT_TRUE(
      a.endpoint->Send(b.id, Lane::kBulk, TestMessage(1, {frame})).ok());
  EXPECT_TRUE(PollUntil({&a, &b}, [&] { return b.sink.received.size() == 1; }));
}

TEST_P(EndpointContractTest, ClosedPeerIsReportedToWhoSentAndWhoReceived) {
  TestPeer a = Make(1001);
  TestPeer b = Make(1002);
  TestPeer c = Make(1003);
  Greet(a, b);
  Greet(b, c);
  std::thread closer([&] {
    EXPECT_TRUE(b.endpoint->Close(std::chrono::steady_clock::now() + 10s).ok());
  });
  EXPECT_TRUE(PollUntil({&a, &c}, [&] {
    return !a.sink.downs.empty() && !c.sink.downs.empty();
  }));
  closer.join();
  ASSERT_FALSE(a.sink.downs.empty());
  ASSERT_FALSE(c.sink.downs.empty());
  EXPECT_EQ(a.sink.downs[0].first, b.id);
  EXPECT_EQ(a.sink.downs[0].second.code(), StatusCode::kUnavailable);
  EXPECT_EQ(c.sink.downs[0].first, b.id);
  EXPECT_EQ(a.endpoint->Send(b.id, Lane::kUrgent, TestMessage(1)).code(),
            StatusCode::kUnavailable);
  ASSERT_TRUE(a.Poll(10ms).ok());
  EXPECT_EQ(a.sink.downs.size(), 1U);
}

TEST_P(EndpointContractTest, CloseDeliversWhatWasSentBefore) {
  TestPeer a = Make(1101);
  TestPeer b = Make(1102);
  Connect(a, b);
  constexpr uint64_t kCount = 200;
  for (uint64_t i = 0; i < kCount; ++i) {
    ASSERT_TRUE(
        a.endpoint
            ->Send(b.id, Lane::kBulk, TestMessage(i, {TestBytes(100'000, i)}))
            .ok());
  }
  std::thread closer([&] {
    EXPECT_TRUE(a.endpoint->Close(std::chrono::steady_clock::now() + 20s).ok());
  });
  ASSERT_TRUE(PollUntil({&b}, [&] { return !b.sink.downs.empty(); }));
  closer.join();
  ASSERT_EQ(b.sink.received.size(), kCount);
  EXPECT_EQ(b.sink.received.back().message.header.request, kCount - 1);
}

// The receiver hears of the sender only when it has gone.
TEST_P(InprocContractTest, WhatWasSentBeforeCloseComesHoweverLateItIsRead) {
  TestPeer a = Make(1105);
  TestPeer b = Make(1106);
  Connect(a, b);
  ASSERT_TRUE(a.endpoint->Send(b.id, Lane::kBulk, TestMessage(7)).ok());
  ASSERT_TRUE(a.endpoint->Close(std::chrono::steady_clock::now()).ok());
  ASSERT_TRUE(PollUntil({&b}, [&] { return !b.sink.downs.empty(); }));
  ASSERT_EQ(b.sink.received.size(), 1U);
  EXPECT_EQ(b.sink.received[0].message.header.request, 7U);
}

// Who disconnects from a peer that it has not heard of yet, never does.
TEST_P(InprocContractTest, DisconnectBeforeTheFirstMessageIsKept) {
  TestPeer a = Make(1107);
  TestPeer b = Make(1108);
  Connect(a, b);
  ASSERT_TRUE(a.endpoint->Send(b.id, Lane::kBulk, TestMessage(7)).ok());
  b.endpoint->Disconnect(a.id);
  ASSERT_TRUE(PollUntil({&a}, [&] { return !a.sink.downs.empty(); }));
  ASSERT_TRUE(b.Poll(10ms).ok());
  EXPECT_TRUE(b.sink.received.empty());
}

TEST_P(EndpointContractTest, CloseGivesUpAtItsDeadline) {
  if (Near()) {
    GTEST_SKIP() << "what is sent is in the peer's queue at once";
  }
  TestPeer a = Make(1111);
  TestPeer b = Make(1112);
  Greet(a, b);
  for (int i = 0; i < 32; ++i) {
    ASSERT_TRUE(
        a.endpoint
            ->Send(b.id, Lane::kBulk, TestMessage(1, {TestBytes(4 << 20, 1)}))
            .ok());
  }
  const Time before = std::chrono::steady_clock::now();
  EXPECT_EQ(a.endpoint->Close(before + 100ms).code(),
            StatusCode::kDeadlineExceeded);
  EXPECT_LT(std::chrono::steady_clock::now() - before, 5s);
}

TEST_P(EndpointContractTest, ClosedEndpointRefusesAllButWakeAndClose) {
  TestPeer a = Make(1121);
  TestPeer b = Make(1122);
  Greet(a, b);
  const Time soon = std::chrono::steady_clock::now() + 50ms;
  (void)a.endpoint->Close(soon);
  EXPECT_TRUE(a.endpoint->Close(soon).ok());
  a.endpoint->Wake();
  EXPECT_EQ(a.Poll(0ms).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(a.endpoint->Send(b.id, Lane::kBulk, TestMessage(1)).code(),
            StatusCode::kFailedPrecondition);
}

TEST_P(EndpointContractTest, AbsentPeerIsReportedByOnPeerDown) {
  TestPeer a = Make(1201);
  std::string address;
  EndpointId id;
  {
    TestPeer b = Make(1202);
    address = b.endpoint->address();
    id = b.id;
  }
  ASSERT_TRUE(a.endpoint->Connect(id, address).ok());
  ASSERT_TRUE(PollUntil({&a}, [&] { return !a.sink.downs.empty(); }));
  EXPECT_EQ(a.sink.downs[0].first, id);
  EXPECT_EQ(a.sink.downs[0].second.code(), StatusCode::kUnavailable);
  EXPECT_EQ(a.endpoint->Send(id, Lane::kUrgent, TestMessage(1)).code(),
            StatusCode::kUnavailable);
}

TEST_P(EndpointContractTest, AddressOfAnotherEndpointIsNotThePeer) {
  TestPeer a = Make(1211);
  TestPeer b = Make(1212);
  const EndpointId wrong{4242};
  ASSERT_TRUE(a.endpoint->Connect(wrong, b.endpoint->address()).ok());
  (void)a.endpoint->Send(wrong, Lane::kUrgent, TestMessage(1));
  ASSERT_TRUE(PollUntil({&a, &b}, [&] { return !a.sink.downs.empty(); }));
  EXPECT_EQ(a.sink.downs[0].first, wrong);
  EXPECT_TRUE(b.sink.received.empty());
}

TEST_P(EndpointContractTest, ForgottenPeerIsNotHeardUntilItIsConnectedAgain) {
  TestPeer a = Make(1301);
  TestPeer b = Make(1302);
  Greet(a, b);
  b.endpoint->Disconnect(a.id);
  EXPECT_EQ(b.endpoint->Send(a.id, Lane::kUrgent, TestMessage(1)).code(),
            StatusCode::kUnavailable);
  (void)a.endpoint->Send(b.id, Lane::kUrgent, TestMessage(1));
  ASSERT_TRUE(PollUntil({&a, &b}, [&] { return a.sink.downs.size() == 1; }));
  // It calls again, and is not heard.
  Connect(a, b);
  (void)a.endpoint->Send(b.id, Lane::kUrgent, TestMessage(2));
  ASSERT_TRUE(PollUntil({&a, &b}, [&] { return a.sink.downs.size() == 2; }));
  EXPECT_TRUE(b.sink.received.empty());
  EXPECT_TRUE(b.sink.downs.empty());
  // Until b wants it back.
  Connect(b, a);
  ASSERT_TRUE(b.endpoint->Send(a.id, Lane::kUrgent, TestMessage(3)).ok());
  ASSERT_TRUE(PollUntil({&a, &b}, [&] { return a.sink.received.size() == 1; }));
  ASSERT_TRUE(a.endpoint->Send(b.id, Lane::kUrgent, TestMessage(4)).ok());
  EXPECT_TRUE(PollUntil({&a, &b}, [&] { return b.sink.received.size() == 1; }));
}

TEST_P(EndpointContractTest, PeersConnectAgainAfterALoss) {
  TestPeer a = Make(1401);
  TestPeer b = Make(1402);
  for (uint64_t round = 1; round <= 5; ++round) {
    Greet(a, b);
    a.endpoint->Disconnect(b.id);
    ASSERT_TRUE(
        PollUntil({&a, &b}, [&] { return b.sink.downs.size() == round; }));
  }
  Greet(a, b);
  ASSERT_TRUE(b.endpoint->Send(a.id, Lane::kBulk, TestMessage(1)).ok());
  EXPECT_TRUE(PollUntil({&a, &b}, [&] { return a.sink.received.size() == 1; }));
}

TEST_P(EndpointContractTest, TakenAddressIsUnavailableNamingIt) {
  TestPeer a = Make(1501);
  std::string address = a.endpoint->address();
  if (GetParam() == "auto") {
    address = address.substr(address.find("tcp://"));
  }
  Endpoint::Options options;
  options.self = EndpointId{1502};
  options.listen = address;
  const Status status = CreateEndpoint(GetParam(), options).status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr(address));
}

TEST_P(EndpointContractTest, AddressThatIsNoneCannotBeListenedAt) {
  Endpoint::Options options;
  options.listen = "pigeon:coo";
  const Status status = CreateEndpoint(GetParam(), options).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("pigeon:coo"));
}

TEST_P(EndpointContractTest, ManyPeersTalkToOne) {
  TestPeer hub = Make(1600);
  std::vector<TestPeer> peers;
  for (uint64_t i = 0; i < 20; ++i) {
    peers.push_back(Make(1601 + i));
    Connect(peers.back(), hub);
    ASSERT_TRUE(peers.back()
                    .endpoint->Send(hub.id, Lane::kUrgent, TestMessage(i))
                    .ok());
  }
  hub.sink.on_message = [&](EndpointId from, const Message& message) {
    EXPECT_TRUE(hub.endpoint->Send(from, Lane::kUrgent, message).ok());
  };
  const Time end = std::chrono::steady_clock::now() + 20s;
  const auto done = [&] {
    return std::all_of(peers.begin(), peers.end(), [](const TestPeer& peer) {
      return peer.sink.received.size() == 1;
    });
  };
  while (!done() && std::chrono::steady_clock::now() < end) {
    ASSERT_TRUE(hub.Poll(1ms).ok());
    for (TestPeer& peer : peers) {
      ASSERT_TRUE(peer.Poll(0ms).ok());
    }
  }
  EXPECT_TRUE(done());
}

// --- A peer in another process, killed. ---

// Runs an endpoint in a child until it is killed.
class KilledChild {
 public:
  // The child makes its endpoint, sends its address and goes on with `live`.
  KilledChild(const std::string& transport, EndpointId id,
              const std::function<void(TestPeer&)>& live) {
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(ends[0]);
      Endpoint::Options options;
      options.self = id;
      TestPeer self;
      self.endpoint = CreateEndpoint(transport, options).value();
      self.id = id;
      const std::string line = self.endpoint->address() + "\n";
      if (::write(ends[1], line.data(), line.size()) < 0) {
        ::_exit(1);
      }
      ::close(ends[1]);
      live(self);
      while (self.Poll(1s).ok()) {
      }
      ::_exit(1);
    }
    ::close(ends[1]);
    char c = 0;
    while (::read(ends[0], &c, 1) == 1 && c != '\n') {
      address_ += c;
    }
    ::close(ends[0]);
  }
  ~KilledChild() { Kill(); }

  const std::string& address() const { return address_; }

  void Kill() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
      pid_ = -1;
    }
  }

 private:
  pid_t pid_ = -1;
  std::string address_;
};

TEST_P(EndpointContractTest, KilledProcessIsReportedToWhoSendsToIt) {
  if (Closed()) {
    GTEST_SKIP() << "in one process, or mpirun ends all";
  }
  const EndpointId child_id{1702};
  KilledChild child(GetParam(), child_id, [](TestPeer& self) {
    self.sink.on_message = [&self](EndpointId from, const Message& message) {
      (void)self.endpoint->Send(from, Lane::kUrgent, message);
    };
  });
  TestPeer a = Make(1701);
  ASSERT_TRUE(a.endpoint->Connect(child_id, child.address()).ok());
  ASSERT_TRUE(a.endpoint->Send(child_id, Lane::kUrgent, TestMessage(1)).ok());
  ASSERT_TRUE(PollUntil({&a}, [&] { return !a.sink.received.empty(); }));
  child.Kill();
  ASSERT_TRUE(PollUntil(
      {&a}, [&] { return !a.sink.downs.empty(); }, 2s));
  EXPECT_EQ(a.sink.downs[0].first, child_id);
}

TEST_P(EndpointContractTest, KilledProcessIsReportedToWhoOnlyReceived) {
  if (Closed()) {
    GTEST_SKIP() << "in one process, or mpirun ends all";
  }
  // The parent's address is needed before the fork, and no thread may run then:
  // so the child gets it through a pipe.
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const EndpointId parent_id{1711};
  const EndpointId child_id{1712};
  KilledChild child(GetParam(), child_id, [&](TestPeer& self) {
    ::close(ends[1]);
    std::string address;
    char c = 0;
    while (::read(ends[0], &c, 1) == 1) {
      address += c;
    }
    (void)self.endpoint->Connect(parent_id, address);
    (void)self.endpoint->Send(parent_id, Lane::kBulk, TestMessage(1));
  });
  TestPeer a = Make(parent_id.value);
  const std::string address = a.endpoint->address();
  ASSERT_EQ(::write(ends[1], address.data(), address.size()),
            static_cast<ssize_t>(address.size()));
  ::close(ends[1]);
  ::close(ends[0]);
  ASSERT_TRUE(PollUntil({&a}, [&] { return !a.sink.received.empty(); }));
  child.Kill();
  ASSERT_TRUE(PollUntil(
      {&a}, [&] { return !a.sink.downs.empty(); }, 2s));
  EXPECT_EQ(a.sink.downs[0].first, child_id);
}

// --- Strangers. ---

int ConnectRaw(const std::string& address) {
  if (const size_t at = address.find("shm:"); at != std::string::npos) {
    const std::string name =
        address.substr(at + 4, address.find(';', at) - at - 4);
    sockaddr_un to = {};
    to.sun_family = AF_UNIX;
    name.copy(to.sun_path + 1, sizeof(to.sun_path) - 1);
    const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET, 0);
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) +
                                             1 + name.size());
    EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&to), size), 0);
    return fd;
  }
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons(
      static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  return fd;
}

TEST_P(EndpointContractTest, GarbageFromAStrangerChangesNothing) {
  if (Closed()) {
    GTEST_SKIP() << "takes no strangers";
  }
  TestPeer a = Make(1801);
  TestPeer b = Make(1802);
  Greet(a, b);
  std::vector<int> strangers;
  for (uint64_t i = 0; i < 20; ++i) {
    const int fd = ConnectRaw(b.endpoint->address());
    const Buffer bytes = TestBytes(static_cast<int64_t>(i * i * 4), i);
    (void)!::send(fd, bytes.data(), static_cast<size_t>(bytes.size()),
                  MSG_NOSIGNAL | MSG_DONTWAIT);
    strangers.push_back(fd);
    ASSERT_TRUE(b.Poll(1ms).ok());
  }
  ASSERT_TRUE(a.endpoint->Send(b.id, Lane::kBulk, TestMessage(5)).ok());
  EXPECT_TRUE(PollUntil({&a, &b}, [&] { return b.sink.received.size() == 1; }));
  for (const int fd : strangers) {
    ::close(fd);
  }
  ASSERT_TRUE(a.endpoint->Send(b.id, Lane::kBulk, TestMessage(6)).ok());
  EXPECT_TRUE(PollUntil({&a, &b}, [&] { return b.sink.received.size() == 2; }));
  EXPECT_TRUE(b.sink.downs.empty());
}

TEST_P(EndpointContractTest, EndpointsLeaveNoOpenDescriptors) {
  const auto count = [] {
    int n = 0;
    for ([[maybe_unused]] const auto& entry :
         std::filesystem::directory_iterator("/proc/self/fd")) {
      ++n;
    }
    return n;
  };
  const int before = count();
  {
    TestPeer a = Make(1901);
    TestPeer b = Make(1902);
    Greet(a, b);
    Greet(b, a);
  }
  EXPECT_EQ(count(), before);
}

INSTANTIATE_TEST_SUITE_P(Inproc, InprocContractTest,
                         ::testing::Values("inproc"));
INSTANTIATE_TEST_SUITE_P(All, EndpointContractTest,
                         ::testing::ValuesIn(TransportsHere()),
                         [](const auto& test) { return test.param; });

TEST(TransportRegistryTest, UnknownTransportNamesTheKnown) {
  const Status status = CreateEndpoint("pigeon", {}).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  for (const char* const name : {"auto", "inproc", "mpi", "shm", "zmq"}) {
    EXPECT_THAT(status.message(), HasSubstr(name));
  }
}

}  // namespace
}  // namespace shoal::comm
