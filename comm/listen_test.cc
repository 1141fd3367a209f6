#include "comm/listen.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/endpoint.h"

namespace shoal::comm {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(ListenTest, AnInterfaceOrAnAddressOfThisHost) {
  EXPECT_EQ(*ListenAt("lo", 7000), "tcp://127.0.0.1:7000");
  EXPECT_EQ(*ListenAt("127.0.0.1", 0), "tcp://127.0.0.1:0");
  EXPECT_THAT(*ListenAt("", 7000),
              AllOf(StartsWith("tcp://"), HasSubstr(":7000")));
}

TEST(ListenTest, NoSuchInterfaceListsThoseThatThereAre) {
  const StatusOr<std::string> listen = ListenAt("eth99", 0);
  EXPECT_EQ(listen.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(listen.status().message(),
              AllOf(HasSubstr("eth99"), HasSubstr("lo (127.0.0.1)")));
  EXPECT_FALSE(ListenAt("192.0.2.99", 0).ok());
}

TEST(ListenTest, NamesInAddressesBecomeAddresses) {
  const Time now = std::chrono::steady_clock::now();
  for (const char* own : {"tcp://127.0.0.1:7", "tcp://[::1]:7"}) {
    const auto resolved = ResolveAddress(own, now);
    ASSERT_TRUE(resolved.ok()) << resolved.status();
    EXPECT_EQ(*resolved, own);
  }
  Endpoint::Options options;
  options.self = EndpointId{1};
  options.listen = "tcp://127.0.0.1:0";
  auto endpoint = CreateEndpoint("zmq", options);
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  const std::string address = (*endpoint)->address();
  const std::string port = address.substr(address.rfind(':'));
  const auto local = ResolveAddress("tcp://localhost" + port, now);
  ASSERT_TRUE(local.ok()) << local.status();
  EXPECT_EQ(*local, "tcp://127.0.0.1" + port);
  // A name that is known, but of a host where nothing listens: it may be that
  // of a service's earlier life.
  ASSERT_TRUE((*endpoint)->Close(now).ok());
  endpoint->reset();
  const auto silent = ResolveAddress("tcp://localhost" + port, now);
  EXPECT_EQ(silent.status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_THAT(silent.status().message(),
              AllOf(HasSubstr("nothing listens at localhost (127.0.0.1)"),
                    HasSubstr("refused")));
  EXPECT_EQ(*ResolveAddress("shm:here", now), "shm:here");
  const auto unknown = ResolveAddress("tcp://no-such-host.invalid:7", now);
  EXPECT_EQ(unknown.status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_THAT(unknown.status().message(), HasSubstr("no-such-host.invalid"));
}

TEST(ListenTest, FacesThePeerByTheSameNetwork) {
  EXPECT_EQ(*ListenFacing("tcp://127.0.0.1:7000"), "tcp://127.0.0.1:0");
  EXPECT_EQ(*ListenFacing("auto:8f;shm:x;tcp://127.0.0.1:7000"),
            "tcp://127.0.0.1:0");
  EXPECT_EQ(*ListenFacing("shm:x"), "");
  EXPECT_EQ(*ListenFacing("inproc:1"), "");
  EXPECT_FALSE(ListenFacing("tcp://some.name:7000").ok());
}

// What one endpoint says of itself is what another takes to face it.
TEST(ListenTest, FacesARealEndpoint) {
  for (const char* transport : {"zmq", "auto"}) {
    Endpoint::Options options;
    options.self = EndpointId{1};
    options.listen = *ListenAt("", 0);
    const StatusOr<std::unique_ptr<Endpoint>> first =
        CreateEndpoint(transport, options);
    ASSERT_TRUE(first.ok()) << first.status().message();
    const StatusOr<std::string> facing = ListenFacing((*first)->address());
    ASSERT_TRUE(facing.ok()) << facing.status().message();
    options.self = EndpointId{2};
    options.listen = *facing;
    EXPECT_TRUE(CreateEndpoint(transport, options).ok()) << *facing;
  }
}

}  // namespace
}  // namespace shoal::comm
