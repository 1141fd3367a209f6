// Coordinators of which one leads and another stands by, with their state in a
// real etcd: killed, stopped and continued, and cut off from etcd.

#include <chrono>
#include <csignal>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/etcd/client.h"
#include "base/strcat.h"
#include "launch/coordinator_card.h"
#include "tests/fault/fault_fixture.h"
#include "tests/integration/etcd_server.h"

namespace shoal::fault {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

class StandbyFaultTest : public FaultTest {
 protected:
  void SetUp() override {
    if (!integration::EtcdServer::IsInstalled()) {
      GTEST_SKIP() << "there is no etcd (Debian's package etcd-server)";
    }
    FaultTest::SetUp();
    etcd_ = std::make_unique<integration::EtcdServer>(folder_.string());
    ASSERT_TRUE(etcd_->Start()) << Read("etcd.log");
    const StatusOr<EtcdAddress> address = EtcdAddress::Parse(etcd_->address());
    client_ = std::make_unique<EtcdClient>(
        EtcdClient::Options{.hosts = address->hosts});
  }
  void TearDown() override {
    etcd_.reset();
    FaultTest::TearDown();
  }

  // 0: nobody leads, or takes no calls yet.
  pid_t Leader() const {
    const StatusOr<launch::FoundCoordinator> found =
        launch::LookForCoordinator(*client_, "small");
    return found.ok() ? static_cast<pid_t>(found->card.pid) : 0;
  }
  // Nothing of the job is left but how it ended.
  void ExpectTidy() const {
    const launch::EtcdJobKeys keys("small");
    EXPECT_FALSE((*client_->Get(keys.state)).has_value());
    EXPECT_FALSE((*client_->Get(keys.leader)).has_value());
    EXPECT_TRUE((*client_->Get(keys.end)).has_value());
  }

  std::unique_ptr<integration::EtcdServer> etcd_;
  std::unique_ptr<EtcdClient> client_;
};

// The leading one, whenever another one has taken over and stands behind it;
// every other time a server with it.
TEST_F(StandbyFaultTest, LeadersKilledLeaveTheBitsOfTheUndisturbedRun) {
  const int kills_wanted = Nightly() ? 12 : 4;
  UntilLongEnough(60, [&](int epochs) {
    int kills = 0;
    int servers_killed = 0;
    int evaluations_then = 0;
    pid_t killed = 0;
    Words settings = Cluster(2, epochs, "zmq");
    settings.insert(settings.end(), {"--set", "cluster.timeout_seconds=12"});
    const RunOutcome run = DisturbedServices(
        "out", settings,
        [&](const JobView& job, const std::string& at) {
          if (kills == kills_wanted || job.evaluations() <= evaluations_then ||
              Count(job.output, "goes on with the job") < kills ||
              Count(job.output, "stands by for") <= kills ||
              ServicesWith(at, "coordinator").size() != 2) {
            return;
          }
          const pid_t leader = Leader();
          const std::vector<pid_t> servers = ServicesWith(at, "server");
          if (leader == 0 || leader == killed || servers.size() != 1 ||
              !AllReplicasAreThere(at)) {
            return;
          }
          evaluations_then = job.evaluations();
          killed = leader;
          kill(leader, SIGKILL);
          if (++kills % 2 == 0) {
            ++servers_killed;
            kill(servers[0], SIGKILL);
          }
        },
        etcd_->address());
    EXPECT_EQ(run.exit_code, 0) << run.output;
    EXPECT_THAT(run.output, HasSubstr("coordinators: 0 0")) << run.output;
    EXPECT_EQ(Count(run.output, "goes on with the job"), kills) << run.output;
    ExpectTidy();
    TrainUndisturbed("undisturbed", epochs);
    EXPECT_EQ(Digest("out"), Digest("undisturbed"));
    return kills == kills_wanted && servers_killed == kills_wanted / 2;
  });
}

// It is not told that it was replaced: it must find out, and do nothing.
TEST_F(StandbyFaultTest,
       StoppedLeaderThatComesToItselfLeavesAndChangesNothing) {
  UntilLongEnough(60, [&](int epochs) {
    Words settings = Cluster(2, epochs, "zmq");
    settings.insert(settings.end(), {"--set", "cluster.timeout_seconds=12"});
    pid_t stopped = 0;
    int evaluations_then = 0;
    SteadyClock::time_point continued_at;
    bool continued = false;
    double left_after = 0;
    const RunOutcome run = DisturbedServices(
        "out", settings,
        [&](const JobView& job, const std::string& at) {
          if (stopped == 0) {
            if (job.evaluations() > 0 &&
                Count(job.output, "stands by for") > 0 &&
                ServicesWith(at, "coordinator").size() == 2) {
              stopped = Leader();
              evaluations_then = job.evaluations();
              if (stopped != 0) {
                kill(stopped, SIGSTOP);
              }
            }
          } else if (!continued &&
                     Count(job.output, "goes on with the job") == 1 &&
                     job.evaluations() >= evaluations_then + 3) {
            EXPECT_TRUE(integration::IsRunning(stopped));
            kill(stopped, SIGCONT);
            continued = true;
            continued_at = SteadyClock::now();
          } else if (continued && left_after == 0 &&
                     !integration::IsRunning(stopped)) {
            left_after = SecondsSince(continued_at);
          }
        },
        etcd_->address());
    EXPECT_EQ(run.exit_code, 0) << run.output;
    if (stopped != 0 && !continued) {
      kill(stopped, SIGKILL);
    }
    if (left_after == 0) {
      return false;
    }
    EXPECT_LT(left_after, 5);
    EXPECT_THAT(run.output, AnyOf(HasSubstr("coordinators: 75 0"),
                                  HasSubstr("coordinators: 0 75")));
    EXPECT_THAT(run.output,
                AllOf(HasSubstr("leads no more"), HasSubstr(") leads\n"),
                      Not(HasSubstr("called off"))));
    ExpectTidy();
    TrainUndisturbed("undisturbed", epochs);
    EXPECT_EQ(Digest("out"), Digest("undisturbed"));
    return true;
  });
}

// It talks with the members still, and is followed by none of them: it lets the
// others go on.
TEST_F(StandbyFaultTest, LeaderThatIsCutOffFromEtcdLeavesTheJobToTheOther) {
  UntilLongEnough(100, [&](int epochs) {
    Words settings = Cluster(2, epochs, "zmq");
    settings.insert(settings.end(), {"--set", "cluster.timeout_seconds=12"});
    pid_t cut_off = 0;
    SteadyClock::time_point cut_at;
    double left_after = 0;
    const RunOutcome run = DisturbedServices(
        "out", settings,
        [&](const JobView& job, const std::string& at) {
          if (cut_off == 0) {
            const std::vector<pid_t> proxies =
                integration::AllRunningWith("python3 " + ProxyWords());
            if (job.evaluations() > 0 && proxies.size() == 1 &&
                Count(job.output, "stands by for") > 0 &&
                ServicesWith(at, "coordinator").size() == 2) {
              cut_off = Leader();
              kill(proxies[0], SIGKILL);
              cut_at = SteadyClock::now();
            }
          } else if (left_after == 0 && !integration::IsRunning(cut_off)) {
            left_after = SecondsSince(cut_at);
          }
        },
        etcd_->address());
    EXPECT_EQ(run.exit_code, 0) << run.output;
    if (left_after == 0) {
      return false;
    }
    EXPECT_THAT(run.output, HasSubstr("coordinators: 75 0"));
    EXPECT_EQ(Count(run.output, "goes on with the job"), 1) << run.output;
    EXPECT_THAT(run.output, Not(HasSubstr("called off")));
    ExpectTidy();
    TrainUndisturbed("undisturbed", epochs);
    EXPECT_EQ(Digest("out"), Digest("undisturbed"));
    return true;
  });
}

// Longer than a lease lasts: nobody knows who leads, so all wait.
TEST_F(StandbyFaultTest, StepsWaitWhileEtcdIsAwayAndNothingIsLost) {
  UntilLongEnough(60, [&](int epochs) {
    Words settings = Cluster(2, epochs, "zmq");
    SteadyClock::time_point killed_at;
    int evaluations_then = -1;
    enum class Phase : uint8_t { kBefore, kAway, kWaits, kBack };
    Phase phase = Phase::kBefore;
    const RunOutcome run = DisturbedServices(
        "out", settings,
        [&](const JobView& job, const std::string& at) {
          if (phase == Phase::kBefore && job.evaluations() > 0 &&
              ServicesWith(at, "coordinator").size() == 2) {
            etcd_->Kill();
            killed_at = SteadyClock::now();
            phase = Phase::kAway;
          } else if (phase == Phase::kAway && SecondsSince(killed_at) > 4.5) {
            evaluations_then = job.evaluations();
            phase = Phase::kWaits;
          } else if (phase == Phase::kWaits && SecondsSince(killed_at) > 6) {
            EXPECT_EQ(job.evaluations(), evaluations_then);
            EXPECT_TRUE(etcd_->Start());
            phase = Phase::kBack;
          }
        },
        etcd_->address());
    EXPECT_EQ(run.exit_code, 0) << run.output;
    if (phase != Phase::kBack) {
      EXPECT_TRUE(etcd_->Start());
      return false;
    }
    EXPECT_THAT(run.output, AllOf(HasSubstr("coordinators: 0 0"),
                                  HasSubstr("is not renewed"),
                                  Not(HasSubstr("goes on with the job"))));
    ExpectTidy();
    TrainUndisturbed("undisturbed", epochs);
    EXPECT_EQ(Digest("out"), Digest("undisturbed"));
    return true;
  });
}

}  // namespace
}  // namespace shoal::fault
