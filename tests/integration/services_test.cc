// The roles of a job started one by one, as other systems start services.

#include <cstdlib>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/integration/job_fixture.h"
#include "tests/integration/program.h"

namespace shoal::integration {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class ServicesTest : public JobsTest {
 protected:
  // A shell script; $S is the program, $AT the coordinator's address, $JOB what
  // the coordinator is started with (2 servers, 2 workers).
  RunOutcome Script(const std::string& text) const {
    const std::string port = std::to_string(FreePort());
    return RunProgram(
        {"bash", "-c",
         "cd " + folder_.string() + "; S=" + SHOAL_PROGRAM +
             "; AT=tcp://localhost:" + port +
             "; JOB='job.yaml --out out --set cluster.servers=2 --set "
             "cluster.workers=2 --set cluster.listen=lo --set cluster.port=" +
             port + "'\n" + text});
  }
};

TEST_F(ServicesTest, StartedInAnyOrderTheyTrainTheSameModel) {
  ASSERT_EQ(Train("threads", {"--in-process"}).exit_code, 0);
  const RunOutcome run = Script(
      "$S worker --coordinator $AT & W=$!; $S server --coordinator $AT --index "
      "1 & S1=$!; sleep 0.3; $S coordinator $JOB & C=$!; sleep 0.3; "
      "$S server --coordinator $AT --index 0 & S0=$!; "
      "$S worker --coordinator $AT --index 1; echo $? > codes; "
      "for p in $W $S1 $C $S0; do wait $p; echo $? >> codes; done");
  ASSERT_EQ(run.exit_code, 0) << run.output;
  EXPECT_EQ(Read("codes"), "0\n0\n0\n0\n0\n");
  EXPECT_THAT(run.output, HasSubstr("waits for 2 servers and 2 workers"));
  EXPECT_EQ(Digest("out"), Digest("threads"));
}

// 75: starting the job again may help.
TEST_F(ServicesTest, StoppedMemberEndsTheJobAsOneToTryAgain) {
  const RunOutcome run = Script(
      "for i in 0 1; do $S server --coordinator $AT --index $i & done; "
      "$S worker --coordinator $AT --index 0 & "
      "$S worker --coordinator $AT --index 1 & W=$!; "
      "$S coordinator $JOB --set train.epochs=100000 & C=$!; "
      "until [ -e out/tensorboard ]; do sleep 0.05; kill -0 $C || break; done; "
      "sleep 0.5; "
      "kill -TERM $W; wait $W; echo worker $?; wait $C; echo coordinator $?; "
      "wait; echo all");
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("stopped by signal 15"), HasSubstr("worker 75"),
                    HasSubstr("worker 1 (host "), HasSubstr("coordinator 75"),
                    HasSubstr("all\n")));
}

TEST_F(ServicesTest, StoppedCoordinatorEndsTheMembers) {
  const RunOutcome run = Script(
      "for i in 0 1; do $S server --coordinator $AT --index $i & "
      "$S worker --coordinator $AT & done; "
      "$S coordinator $JOB --set train.epochs=100000 & C=$!; "
      "until [ -e out/tensorboard ]; do sleep 0.05; kill -0 $C || break; done; "
      "kill -TERM $C; wait $C; echo coordinator $?; wait; echo all");
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("coordinator 75"), HasSubstr("all\n"),
                    HasSubstr("the job was called off: stopped by signal 15")));
  EXPECT_THAT(Read("out/metrics.json"), HasSubstr("failed: "));
}

TEST_F(ServicesTest, EachTellsOfItselfOverHttp) {
  const RunOutcome run = Script(
      "get() { P=$(sed -n 's/^http: port //p' $1); exec 3<>/dev/tcp/127.0.0.1/"
      "$P; printf 'GET %s HTTP/1.0\\r\\n\\r\\n' $2 >&3; cat <&3; exec 3>&-; };"
      "$S server --coordinator $AT --index 0 --http 0 2> s & "
      "until grep -q port s; do sleep 0.02; done; "
      "get s /healthz > alone; get s /readyz > alone_ready; "
      "$S server --coordinator $AT --index 1 & "
      "$S worker --coordinator $AT --index 0 --http 0 2> w & "
      "$S worker --coordinator $AT --index 1 & "
      "$S coordinator $JOB --set train.epochs=100000 --http 0 2> c & C=$!; "
      "until [ -e out/tensorboard ]; do sleep 0.05; kill -0 $C || break; done; "
      "sleep 2.5; "
      "for x in s w c; do get $x /readyz > ready_$x; get $x /metrics > m_$x; "
      "get $x /nothing > none_$x; done; kill -TERM $C; wait; echo all");
  EXPECT_THAT(run.output, HasSubstr("all\n"));
  EXPECT_THAT(Read("alone"), AllOf(HasSubstr("200"), HasSubstr("ok\n")));
  EXPECT_THAT(Read("alone_ready"), HasSubstr("503")) << "it has not joined yet";
  for (const char* x : {"s", "w", "c"}) {
    EXPECT_THAT(Read(std::string("ready_") + x), HasSubstr("200")) << x;
    EXPECT_THAT(Read(std::string("none_") + x), HasSubstr("404")) << x;
    EXPECT_THAT(Read(std::string("m_") + x),
                AllOf(HasSubstr("\nshoal_ready 1\n"),
                      HasSubstr("# TYPE shoal_step gauge\n")))
        << x;
  }
  const auto value = [&](const std::string& file, const std::string& metric) {
    const std::string text = Read(file);
    const size_t at = text.find("\n" + metric + " ");
    return at == std::string::npos
               ? -1
               : std::atof(text.c_str() + at + metric.size() + 2);
  };
  EXPECT_GT(value("m_s", "shoal_table_rows{shard=\"0\"}"), 100);
  EXPECT_GT(value("m_s", "shoal_rows_admitted_total{shard=\"0\"}"), 100);
  EXPECT_EQ(value("m_s", "shoal_rows_evicted_total{shard=\"0\"}"), 0);
  EXPECT_EQ(value("m_s", "shoal_table_candidates{shard=\"0\"}"), 0);
  EXPECT_GT(value("m_s", "shoal_step{shard=\"0\"}"), 0);
  EXPECT_GT(value("m_w", "shoal_examples_total"), 64);
  EXPECT_GT(value("m_c", "shoal_step"), 0);
  EXPECT_GT(value("m_c", "shoal_train_loss"), 0);
  EXPECT_GT(value("m_c", "shoal_test_metric{metric=\"auc\"}"), 0.4);
}

TEST_F(ServicesTest, TakenHttpPortIsNamed) {
  const RunOutcome run = Script(
      "$S server --coordinator $AT --index 0 --http 0 2> s & P=$!; "
      "until grep -q port s; do sleep 0.02; done; "
      "$S worker --coordinator $AT --http $(sed -n 's/^http: port //p' s); "
      "echo worker $?; kill -TERM $P; wait");
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("port is taken"), HasSubstr("worker 75")));
}

TEST_F(ServicesTest, WhoIsMissingIsNamedAndErrorsThatStayAreFatal) {
  const RunOutcome missing = Script(
      "$S server --coordinator $AT --index 0 --join-within 3 & "
      "$S coordinator $JOB --join-within 2; echo coordinator $?; wait");
  EXPECT_THAT(missing.output,
              AllOf(HasSubstr("server 1 shard 0, worker 0, worker 1"),
                    HasSubstr("coordinator 75")));
  const RunOutcome unknown = Script(
      "$S worker --coordinator tcp://no-such-host.invalid:7 --join-within 1; "
      "echo worker $?");
  EXPECT_THAT(unknown.output,
              AllOf(HasSubstr("no-such-host.invalid"), HasSubstr("worker 75")));
  const RunOutcome fatal = Script(
      "$S coordinator $JOB --set data.files=[none.csv]; echo coordinator $?");
  EXPECT_THAT(fatal.output,
              AllOf(HasSubstr("none.csv"), HasSubstr("coordinator 1")));
}

}  // namespace
}  // namespace shoal::integration
