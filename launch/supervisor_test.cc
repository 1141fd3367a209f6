#include "launch/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

namespace shoal::launch {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Far more than anything here takes; a test that waits so long has failed.
constexpr Duration kLongWait = 60s;

std::unique_ptr<Supervisor> NewSupervisor(
    std::function<void(int)> on_signal = nullptr) {
  auto made = Supervisor::Create({.on_signal = std::move(on_signal)});
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

std::vector<std::string> Shell(const std::string& script) {
  return {"/bin/sh", "-c", script};
}

// A pipe with a name, by which a child tells that it is ready.
class Fifo {
 public:
  Fifo()
      : path_(testing::TempDir() + "/supervisor_test." +
              std::to_string(getpid()) + "." + std::to_string(count_++)) {
    unlink(path_.c_str());
    EXPECT_EQ(mkfifo(path_.c_str(), 0600), 0);
  }
  ~Fifo() { unlink(path_.c_str()); }
  const std::string& path() const { return path_; }
  // Blocks until a writer has closed it.
  std::string Read() {
    std::ifstream in(path_);
    std::string word;
    in >> word;
    return word;
  }

 private:
  static inline int count_ = 0;
  std::string path_;
};

// Whether a process, which must be a child or descendant that is reparented to
// this process, ends in time. Its wait status goes to `status`.
bool EndsInTime(pid_t pid, int* status) {
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (fd < 0) {
    return true;  // gone, and waited for by somebody else
  }
  pollfd polled = {.fd = fd, .events = POLLIN, .revents = 0};
  const bool ended = poll(&polled, 1, 10'000) == 1;
  close(fd);
  if (!ended) {
    kill(pid, SIGKILL);
  }
  waitpid(pid, status, 0);
  return ended;
}

TEST(SupervisorTest, ExitIsReportedOnceWithNameAndCode) {
  const auto supervisor = NewSupervisor();
  const auto pid = supervisor->Spawn("server 0", Shell("exit 3"));
  ASSERT_TRUE(pid.ok()) << pid.status();
  const auto exit = supervisor->Wait(kLongWait);
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->ToString(), "server 0 (pid " + std::to_string(*pid) +
                                  ") failed with exit code 3");
  EXPECT_FALSE(exit->ok());
  EXPECT_EQ(supervisor->running(), 0);
  EXPECT_FALSE(supervisor->Wait(0s).has_value());
}

TEST(SupervisorTest, GoodExitIsOk) {
  const auto supervisor = NewSupervisor();
  ASSERT_TRUE(supervisor->Spawn("w", Shell("exit 0")).ok());
  const auto exit = supervisor->Wait(kLongWait);
  ASSERT_TRUE(exit.has_value());
  EXPECT_TRUE(exit->ok());
  EXPECT_THAT(exit->ToString(), HasSubstr(") ended"));
}

TEST(SupervisorTest, DeathBySignalNamesIt) {
  const auto supervisor = NewSupervisor();
  ASSERT_TRUE(supervisor->Spawn("worker 0", {"/bin/sleep", "1000"}).ok());
  const auto pid = supervisor->Spawn("worker 1", {"/bin/sleep", "1000"});
  ASSERT_TRUE(pid.ok()) << pid.status();
  EXPECT_EQ(supervisor->running(), 2);
  ASSERT_EQ(kill(*pid, SIGKILL), 0);
  const auto exit = supervisor->Wait(kLongWait);
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->ToString(), "worker 1 (pid " + std::to_string(*pid) +
                                  ") was killed by signal 9 (Killed)");
  EXPECT_EQ(supervisor->running(), 1);
}

TEST(SupervisorTest, ProgramThatCannotStartIsAnError) {
  const auto supervisor = NewSupervisor();
  const auto missing = supervisor->Spawn("server 0", {"/no/such/program"});
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(missing.status().message(),
              HasSubstr("server 0: can't start /no/such/program"));
  EXPECT_EQ(supervisor->Spawn("s", {"/"}).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(supervisor->Spawn("s", {}).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(supervisor->running(), 0);
}

TEST(SupervisorTest, WaitWithoutEventEndsByTimeout) {
  const auto supervisor = NewSupervisor();
  ASSERT_TRUE(supervisor->Spawn("w", {"/bin/sleep", "1000"}).ok());
  EXPECT_FALSE(supervisor->Wait(1ms).has_value());
  EXPECT_EQ(supervisor->running(), 1);
}

TEST(SupervisorTest, StopAllLetsChildrenEndInOrder) {
  Fifo ready;
  const auto supervisor = NewSupervisor();
  ASSERT_TRUE(
      supervisor
          ->Spawn("w", Shell("trap 'exit 5' TERM; echo x > " + ready.path() +
                             "; while :; do sleep 1000 & wait; done"))
          .ok());
  EXPECT_EQ(ready.Read(), "x");
  const auto exits = supervisor->StopAll(kLongWait);
  ASSERT_EQ(exits.size(), 1U);
  EXPECT_EQ(exits[0].exit_code, 5);
  EXPECT_EQ(exits[0].signal, 0);
  EXPECT_EQ(supervisor->running(), 0);
}

TEST(SupervisorTest, StopAllKillsWhoDoesNotEnd) {
  Fifo ready;
  const auto supervisor = NewSupervisor();
  ASSERT_TRUE(
      supervisor
          ->Spawn("deaf", Shell("trap '' TERM; echo x > " + ready.path() +
                                "; while :; do sleep 1000; done"))
          .ok());
  EXPECT_EQ(ready.Read(), "x");
  const auto exits = supervisor->StopAll(20ms);
  ASSERT_EQ(exits.size(), 1U);
  EXPECT_EQ(exits[0].signal, SIGKILL);
}

TEST(SupervisorTest, SecondSignalCutsTheGraceShort) {
  Fifo ready;
  const auto supervisor = NewSupervisor([](int) {});
  ASSERT_TRUE(
      supervisor
          ->Spawn("deaf", Shell("trap '' TERM; echo x > " + ready.path() +
                                "; while :; do sleep 1000; done"))
          .ok());
  EXPECT_EQ(ready.Read(), "x");
  raise(SIGINT);
  const auto exits = supervisor->StopAll(std::chrono::hours(1));
  ASSERT_EQ(exits.size(), 1U);
  EXPECT_EQ(exits[0].signal, SIGKILL);
}

TEST(SupervisorTest, SignalsCallBackAndLeaveChildrenAlone) {
  std::vector<int> seen;
  auto supervisor = NewSupervisor([&](int signal) { seen.push_back(signal); });
  ASSERT_TRUE(supervisor->Spawn("w", {"/bin/sleep", "1000"}).ok());
  raise(SIGINT);
  raise(SIGTERM);
  EXPECT_FALSE(supervisor->Wait(kLongWait).has_value());
  EXPECT_THAT(seen, ElementsAre(SIGINT, SIGTERM));
  EXPECT_EQ(supervisor->running(), 1);

  const auto second = Supervisor::Create({.on_signal = [](int) {}});
  EXPECT_EQ(second.status().code(), StatusCode::kFailedPrecondition);
  supervisor.reset();
  struct sigaction after = {};
  sigaction(SIGINT, nullptr, &after);
  EXPECT_EQ(after.sa_handler, SIG_DFL);
}

TEST(SupervisorTest, ChildHasAGroupOfItsOwnEmptyInputAndNoForeignFiles) {
  const auto supervisor = NewSupervisor();
  const int fd = open("/dev/null", O_RDONLY);  // without O_CLOEXEC
  ASSERT_GE(fd, 0);
  const auto pid = supervisor->Spawn(
      "w", Shell("test ! -e /proc/self/fd/" + std::to_string(fd) +
                 " || exit 2; read x && exit 3; exit 0"));
  ASSERT_TRUE(pid.ok()) << pid.status();
  EXPECT_EQ(getpgid(*pid), *pid);
  const auto exit = supervisor->Wait(kLongWait);
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->exit_code, 0) << "2: a file came along, 3: there is input";
  close(fd);
}

TEST(SupervisorTest, DestructorLeavesNothingRunning) {
  pid_t pid = 0;
  {
    const auto supervisor = NewSupervisor();
    const auto spawned = supervisor->Spawn("w", {"/bin/sleep", "1000"});
    ASSERT_TRUE(spawned.ok()) << spawned.status();
    pid = *spawned;
  }
  EXPECT_EQ(kill(pid, 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

TEST(SupervisorTest, WhatAChildStartedEndsWithIt) {
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  Fifo started;
  const auto supervisor = NewSupervisor();
  ASSERT_TRUE(supervisor
                  ->Spawn("w", Shell("sleep 1000 & echo $! > " +
                                     started.path() + "; exit 0"))
                  .ok());
  const pid_t grandchild = std::atoi(started.Read().c_str());
  ASSERT_GT(grandchild, 0);
  ASSERT_TRUE(supervisor->Wait(kLongWait).has_value());
  int status = 0;
  EXPECT_TRUE(EndsInTime(grandchild, &status));
  prctl(PR_SET_CHILD_SUBREAPER, 0);
}

// Runs in a process of its own: starts two children, tells their ids, and then
// does nothing until it is killed.
[[noreturn]] void StartTwoAndHang(int report) {
  const auto supervisor = NewSupervisor();
  for (int i = 0; i < 2; ++i) {
    const auto pid = supervisor->Spawn("w", {"/bin/sleep", "1000"});
    const pid_t told = pid.ok() ? *pid : -1;
    if (write(report, &told, sizeof(told)) != sizeof(told)) {
      _exit(1);
    }
  }
  while (true) {
    pause();
  }
}

TEST(SupervisorTest, ChildrenDieWhenTheirParentIsKilled) {
  // Orphans become children of this process, which can then wait for them.
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  int report[2];
  ASSERT_EQ(pipe2(report, O_CLOEXEC), 0);
  const pid_t parent = fork();
  ASSERT_GE(parent, 0);
  if (parent == 0) {
    StartTwoAndHang(report[1]);
  }
  close(report[1]);
  pid_t children[2] = {0, 0};
  for (pid_t& child : children) {
    ASSERT_EQ(read(report[0], &child, sizeof(child)), ssize_t{sizeof(child)});
    ASSERT_GT(child, 0);
  }
  close(report[0]);
  ASSERT_EQ(kill(parent, SIGKILL), 0);
  int status = 0;
  ASSERT_EQ(waitpid(parent, &status, 0), parent);
  for (const pid_t child : children) {
    EXPECT_TRUE(EndsInTime(child, &status)) << "an orphan is left";
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  }
  prctl(PR_SET_CHILD_SUBREAPER, 0);
}

}  // namespace
}  // namespace shoal::launch
