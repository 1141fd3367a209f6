// Coordinators of one job with their state in a real etcd, as services.

#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/etcd/client.h"
#include "launch/coordinator_card.h"
#include "tests/integration/etcd_server.h"
#include "tests/integration/job_fixture.h"
#include "tests/integration/program.h"

namespace shoal::integration {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Those that need no etcd.
class EtcdAddressesTest : public JobsTest {
 protected:
  // $S is the program, $AT where etcd is, $JOB what a coordinator is started
  // with (a server, a worker), `members` starts these.
  RunOutcome Script(const std::string& at, const std::string& text) const {
    return RunProgram(
        {"bash", "-c",
         "cd " + folder_.string() + "; S=" + SHOAL_PROGRAM + "; AT=" + at +
             "; JOB='job.yaml --out out --set cluster.listen=lo "
             "--set cluster.timeout_seconds=6'\n"
             "members() { $S server --index 0 --coordinator $AT/small & "
             "$S worker --coordinator $AT/small & }\n" +
             text});
  }
};

TEST_F(EtcdAddressesTest, WrongOnesAreRefused) {
  const std::string nobody = "etcd://127.0.0.1:1";
  const RunOutcome run = Script(
      nobody,
      "ETCDCTL_CACERT=/none.pem $S coordinator $JOB --coordinator "
      "etcds://a:1; echo tls $?; "
      "$S coordinator $JOB --coordinator tcp://a:1; echo tcp $?; "
      "$S coordinator $JOB --coordinator $AT --set cluster.timeout_seconds=2; "
      "echo short $?; "
      "$S server --index 0 --coordinator $AT; echo nameless $?; "
      "$S worker; echo nowhere $?; "
      "$S worker --coordinator $AT/small --join-within 1; echo worker $?; "
      "$S coordinator $JOB --coordinator $AT; echo away $?");
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("ETCDCTL_CACERT: can't read"), HasSubstr("tls 1"),
                    HasSubstr("is no address of etcd"), HasSubstr("tcp 1"),
                    HasSubstr("at least 6"), HasSubstr("short 1")));
  EXPECT_THAT(
      run.output,
      AllOf(HasSubstr("which job of etcd://127.0.0.1:1"),
            HasSubstr("nameless 1"), HasSubstr("where is the coordinator?"),
            HasSubstr("nowhere 1"), HasSubstr("worker 75"),
            HasSubstr("etcd at 127.0.0.1:1: "), HasSubstr("away 75")));
}

class EtcdJobsTest : public EtcdAddressesTest {
 protected:
  void SetUp() override {
    if (!EtcdServer::IsInstalled()) {
      GTEST_SKIP() << "there is no etcd (Debian's package etcd-server)";
    }
    EtcdAddressesTest::SetUp();
    etcd_ = std::make_unique<EtcdServer>(folder_.string());
    ASSERT_TRUE(etcd_->Start()) << Read("etcd.log");
  }
  void TearDown() override {
    etcd_.reset();
    EtcdAddressesTest::TearDown();
  }
  RunOutcome Script(const std::string& text) const {
    return EtcdAddressesTest::Script(etcd_->address(), text);
  }

  std::unique_ptr<EtcdServer> etcd_;
};

TEST_F(EtcdJobsTest,
       KeyOfTheJobIsEnoughForAllAndARunThatEndedIsNotTrainedAgain) {
  ASSERT_EQ(Train("threads", {"--in-process"}).exit_code, 0);
  Write("job.yaml",
        Read("job.yaml") + "coordinator: " + etcd_->address() + "\n");
  const RunOutcome run = Script(
      "$S server --index 0 --job job.yaml & $S worker --job job.yaml & "
      "$S coordinator $JOB --run first; echo one $?; wait; "
      "$S coordinator $JOB --run first; echo two $?; "
      "$S coordinator $JOB --run second --join-within 1; echo three $?");
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("one 0"), HasSubstr("the job has ended"),
                    HasSubstr("two 0"), HasSubstr("missing: server 0 shard 0"),
                    HasSubstr("three 75")));
  EXPECT_EQ(Digest("out"), Digest("threads"));
  const RunOutcome here = Train("here", {});
  EXPECT_EQ(here.exit_code, 0);
  EXPECT_THAT(here.output, HasSubstr("note: the key `coordinator`"));
}

// etcd that trusts certificates only, and then users too.
TEST_F(EtcdAddressesTest, TlsAndUsersAreThoseOfEtcdctl) {
  if (!EtcdServer::IsInstalled()) {
    GTEST_SKIP() << "there is no etcd (Debian's package etcd-server)";
  }
  ASSERT_EQ(Train("threads", {"--in-process"}).exit_code, 0);
  EtcdServer etcd(folder_.string(), /*tls=*/true);
  ASSERT_TRUE(etcd.Start()) << Read("etcd.log");
  Write("users.py", R"(
import json, ssl, sys, urllib.request
context = ssl.create_default_context(cafile="ca.pem")
context.load_cert_chain("client.pem", "client.key")
for path, body in [("user/add", {"name": "root", "password": "pw"}),
                   ("role/add", {"name": "root"}),
                   ("user/grant", {"user": "root", "role": "root"}),
                   ("enable", {})]:
    url = sys.argv[1].replace("etcds", "https") + "/v3/auth/" + path
    urllib.request.urlopen(url, json.dumps(body).encode(), context=context)
)");
  const RunOutcome run =
      Script(etcd.address(),
             "$S coordinator $JOB --coordinator $AT; echo untrusted $?; "
             "export ETCDCTL_CACERT=ca.pem; "
             "$S coordinator $JOB --coordinator $AT; echo uncertain $?; "
             "export ETCDCTL_CERT=client.pem ETCDCTL_KEY=client.key; "
             "python3 users.py $AT; echo users $?; "
             "$S coordinator $JOB --coordinator $AT; echo nameless $?; "
             "ETCDCTL_USER=root:no $S coordinator $JOB --coordinator $AT; "
             "echo stranger $?; "
             "export ETCDCTL_USER=root:pw; members; "
             "$S coordinator $JOB --coordinator $AT; echo trained $?; wait");
  EXPECT_THAT(
      run.output,
      AllOf(HasSubstr("ETCDCTL_CACERT, ETCDCTL_CERT"), HasSubstr("untrusted 1"),
            HasSubstr("users 0"), HasSubstr("nameless 1"),
            HasSubstr("stranger 1"), HasSubstr("trained 0")));
  EXPECT_THAT(run.output, Not(HasSubstr("uncertain 0")));
  EXPECT_EQ(Digest("out"), Digest("threads"));
}

TEST_F(EtcdJobsTest, StandbySaysSoAndEndsWithTheJob) {
  const RunOutcome run = Script(
      "get() { P=$(sed -n 's/^http: port //p' $1); exec 3<>/dev/tcp/127.0.0.1/"
      "$P; printf 'GET %s HTTP/1.0\\r\\n\\r\\n' $2 >&3; cat <&3; exec 3>&-; };"
      "members; $S coordinator $JOB --set train.epochs=100000 --coordinator "
      "$AT "
      "2> leader & L=$!; "
      "until [ -e out/tensorboard ]; do sleep 0.05; kill -0 $L || break; done; "
      "for i in 1 2; do $S coordinator $JOB --set train.epochs=100000 --http 0 "
      "--coordinator $AT 2> standby$i & eval S$i=$!; done; "
      "until grep -q data: standby1 && grep -q data: standby2; do sleep 0.05; "
      "done; get standby1 /readyz > ready; get standby1 /metrics > metrics; "
      "kill -TERM $S2; wait $S2; echo second $?; "
      "$S status --coordinator $AT/small | head -1; "
      "$S train job.yaml --out out; echo train $?; "
      "kill -TERM $L; wait $L; echo leader $?; wait $S1; echo first $?; wait");
  EXPECT_THAT(Read("ready"), AllOf(HasSubstr("200"), HasSubstr("standby\n")));
  EXPECT_THAT(Read("metrics"), HasSubstr("\nshoal_ready 0\n"));
  EXPECT_THAT(run.output, AllOf(HasSubstr("second 75"), HasSubstr("step "),
                                HasSubstr("another training is writing there"),
                                HasSubstr("train 1"), HasSubstr("leader 75"),
                                HasSubstr("first 75")));
  EXPECT_THAT(Read("standby1"),
              AllOf(HasSubstr("stands by for the coordinator at tcp://"),
                    HasSubstr("the job was called off: stopped by signal 15")));
  EXPECT_THAT(Read("out/metrics.json"), HasSubstr("failed: "));
}

TEST_F(EtcdJobsTest, AnotherJobOfTheNameIsRefusedWhetherItLeadsOrLeftItsState) {
  const RunOutcome run = Script(
      "members; $S coordinator $JOB --set train.epochs=100000 --coordinator "
      "$AT "
      "2> leader & L=$!; "
      "until [ -e out/tensorboard ]; do sleep 0.05; kill -0 $L || break; done; "
      "$S coordinator $JOB --set seed=2 --coordinator $AT; echo leads $?; "
      "$S coordinator job.yaml --set name=other --join-within 1 --out other "
      "--coordinator $AT; echo other $?; kill -9 $L; sleep 3; "
      "$S coordinator $JOB --set seed=2 --coordinator $AT; echo left $?; "
      "kill %1 %2");
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("another job of the name 'small' is led there by "
                              "the coordinator at tcp://"),
                    HasSubstr("leads 1"), HasSubstr("other 75")));
  EXPECT_THAT(run.output, AllOf(HasSubstr("/shoal/small/state: is of another "
                                          "job, whose coordinator was lost"),
                                HasSubstr("left 1")));
  EtcdClient client({.hosts = EtcdAddress::Parse(etcd_->address())->hosts});
  EXPECT_TRUE((*client.Get(launch::EtcdJobKeys("small").state)).has_value())
      << "it may still be gone on with";
}

}  // namespace
}  // namespace shoal::integration
