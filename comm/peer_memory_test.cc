#include "comm/peer_memory.h"

#include <unistd.h>

#include <csignal>
#include <cstdint>

#include "gtest/gtest.h"
#include <sys/wait.h>

namespace shoal::comm {
namespace {

TEST(PeerMemoryTest, AnotherProcessIsReadUntilItEnds) {
  // A child has the parent's addresses and token, and another number.
  static volatile uint64_t word = 1;
  MemoryPass pass = OwnMemoryPass();
  int changed[2];
  ASSERT_EQ(::pipe(changed), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    word = 2;
    if (::write(changed[1], "x", 1) == 1) {
      ::pause();
    }
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(changed[0], &byte, 1), 1);
  pass.pid = static_cast<uint64_t>(child);
  const StatusOr<PeerMemory> memory = PeerMemory::Open(pass);
  // Where a filter forbids it there is nothing to test.
  if (!memory.ok()) {
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    GTEST_SKIP() << memory.status();
  }
  uint64_t read = 0;
  const auto address = reinterpret_cast<uint64_t>(&word);
  EXPECT_TRUE(memory->Read(address, &read, sizeof(read)).ok());
  EXPECT_EQ(read, 2);
  EXPECT_EQ(memory->Read(8, &read, sizeof(read)).code(),
            StatusCode::kUnavailable);  // Nothing lies there.

  MemoryPass wrong = pass;
  ++wrong.token;
  EXPECT_EQ(PeerMemory::Open(wrong).status().code(), StatusCode::kUnavailable);

  ::kill(child, SIGKILL);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_EQ(memory->Read(address, &read, sizeof(read)).code(),
            StatusCode::kUnavailable);
  EXPECT_EQ(PeerMemory::Open(pass).status().code(), StatusCode::kUnavailable);
  ::close(changed[0]);
  ::close(changed[1]);
}

}  // namespace
}  // namespace shoal::comm
