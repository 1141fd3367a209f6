#include "worker/job.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/strcat.h"
#include "worker/job.pb.h"
#include "worker/yaml_document.h"

namespace shoal::worker {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

// The shortest csv job; tests add to it.
constexpr char kLeastJob[] =
    "data:\n"
    "  files: [a.csv]\n"
    "  label: late\n"
    "  features:\n"
    "    - column: origin\n";

StatusOr<std::unique_ptr<JobSpec>> ParseText(
    std::string_view text, const std::vector<std::string>& overrides = {}) {
  return ParseJob(text, "job.yaml", overrides);
}

// The error of a text, or "OK".
std::string ErrorOf(std::string_view text,
                    const std::vector<std::string>& overrides = {}) {
  const auto job = ParseText(text, overrides);
  if (job.ok()) {
    return "OK";
  }
  EXPECT_EQ(job.status().code(), StatusCode::kInvalidArgument);
  return job.status().message();
}

std::string ErrorOfSet(const std::vector<std::string>& overrides) {
  return ErrorOf(kLeastJob, overrides);
}

TEST(JobTest, ReadsEveryKindOfValue) {
  const auto read = ParseText(
      "name: flights  # a comment\n"
      "seed: 18446744073709551615\n"
      "cluster: {servers: 2, workers: 3, timeout_seconds: 2.5}\n"
      "data:\n"
      "  root: 'my data'\n"
      "  files:\n"
      "    - a.csv\n"
      "    - \"b \\\"x\\\".csv\"\n"
      "  label: arr_delay > 15\n"
      "  shuffle: false\n"
      "  csv:\n"
      "    missing: [NA, '?']\n"
      "    aliases: {sched: sched_dep, 'a.b': c}\n"
      "  features:\n"
      "    - {column: origin}\n"
      "    - name: hour\n"
      "      buckets: {edges: [1, 2.5, -3e1]}\n"
      "      column: dep_time\n"
      "model: {kind: mlp, hidden: 32, dim: +16}\n"
      "tables:\n"
      "  embedding: {init: normal, optimizer: {kind: ftrl, l1: 1e-3}}\n");
  ASSERT_TRUE(read.ok()) << read.status();
  const JobSpec& job = **read;
  EXPECT_EQ(job.name(), "flights");
  EXPECT_EQ(job.seed(), std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(job.cluster().servers(), 2);
  EXPECT_EQ(job.cluster().timeout_seconds(), 2.5);
  EXPECT_EQ(job.cluster().virtual_workers(), 4);  // its default
  EXPECT_EQ(job.data().root(), "my data");
  EXPECT_THAT(job.data().files(), ElementsAre("a.csv", "b \"x\".csv"));
  EXPECT_FALSE(job.data().shuffle());
  EXPECT_THAT(job.data().csv().missing(), ElementsAre("NA", "?"));
  EXPECT_EQ(job.data().csv().aliases().at("sched"), "sched_dep");
  EXPECT_EQ(job.data().csv().aliases().at("a.b"), "c");
  ASSERT_EQ(job.data().features_size(), 2);
  EXPECT_THAT(job.data().features(1).buckets().edges(),
              ElementsAre(1, 2.5, -30));
  EXPECT_THAT(job.model().hidden(), ElementsAre(32));  // one value is a list
  EXPECT_EQ(job.model().dim(), 16);
  EXPECT_EQ(job.tables().at("embedding").optimizer().l1(), 1e-3);
}

TEST(JobTest, UnknownKeyNamesLineAndNearestKey) {
  EXPECT_EQ(ErrorOf("seed: 1\ncluster:\n  servers: 1\n  worker: 2\n"),
            "job.yaml:4: unknown key 'worker' under cluster; did you mean "
            "'workers'?");
  EXPECT_EQ(ErrorOf("clutser: {}\n"),
            "job.yaml:1: unknown key 'clutser'; did you mean 'cluster'?");
}

TEST(JobTest, KeyOfAnotherSectionIsFoundThere) {
  EXPECT_EQ(ErrorOf("cluster: {batch_size: 5}\n"),
            "job.yaml:1: unknown key 'batch_size' under cluster; did you mean "
            "'train.batch_size'?");
  EXPECT_EQ(ErrorOf("cluster: {transport: zmq}\n"),
            "job.yaml:1: unknown key 'transport' under cluster; 'transport' "
            "belongs at the top level");
}

TEST(JobTest, KeyLikeNoOtherListsWhatThereIs) {
  EXPECT_THAT(ErrorOf("consistency: {xyzzyplugh: 5}\n"),
              HasSubstr("under consistency; there are: mode, tables, dense, "
                        "sharded_optimizer, staleness"));
}

TEST(JobTest, UnknownKeyInsideListNamesElement) {
  EXPECT_EQ(ErrorOf("data:\n  features:\n    - column: a\n    - colum: b\n"),
            "job.yaml:4: unknown key 'colum' under data.features.1; did you "
            "mean 'column'?");
}

TEST(JobTest, UnknownTableIsRefused) {
  EXPECT_EQ(ErrorOf("tables:\n  embeding: {}\n"),
            "job.yaml:2: unknown key 'embeding' under tables; did you mean "
            "'embedding'?");
}

TEST(JobTest, WrongTypeNamesKeyExpectedAndFound) {
  const auto cluster = [](const char* value) {
    return ErrorOf(std::string("cluster:\n  servers: ") + value + "\n");
  };
  EXPECT_EQ(cluster("two"),
            "job.yaml:2: cluster.servers: expected a whole number, found "
            "'two'");
  EXPECT_THAT(cluster("2.5"), HasSubstr("found '2.5'"));
  EXPECT_THAT(cluster("0x10"), HasSubstr("expected a whole number"));
  EXPECT_THAT(cluster("1-"), HasSubstr("expected a whole number"));
  EXPECT_THAT(cluster("'2'"), HasSubstr("leave the quotes out"));
  EXPECT_THAT(cluster("[1, 2]"), HasSubstr("found a list"));
  EXPECT_THAT(cluster("{a: 1}"), HasSubstr("found a map"));
  EXPECT_THAT(ErrorOf("model: {dropout: much}\n"),
              HasSubstr("model.dropout: expected a number, found 'much'"));
  EXPECT_THAT(ErrorOf("model: {dropout: .nan}\n"),
              HasSubstr("model.dropout: expected a number"));
  EXPECT_THAT(ErrorOf("data: {shuffle: maybe}\n"),
              HasSubstr("data.shuffle: expected true or false, found 'maybe'"));
  EXPECT_THAT(ErrorOf("data: {label: [a]}\n"),
              HasSubstr("data.label: expected text, found a list"));
  EXPECT_THAT(ErrorOf("cluster: 3\n"),
              HasSubstr("cluster: expected a map of keys (servers, "));
  EXPECT_THAT(ErrorOf("tables: [1]\n"), HasSubstr("expected a map"));
  EXPECT_THAT(ErrorOf("model: {hidden: [1, x]}\n"),
              HasSubstr("model.hidden.1: expected a list of whole numbers"));
  EXPECT_THAT(ErrorOf("- a\n"), HasSubstr("a job: expected a map"));
  EXPECT_THAT(ErrorOf("hello\n"), HasSubstr("a job: expected a map"));
}

TEST(JobTest, NullIsRefused) {
  for (const char* text : {"seed:\n", "seed: ~\n", "seed: null\n"}) {
    EXPECT_THAT(ErrorOf(text), AllOf(StartsWith("job.yaml:1: seed: expected"),
                                     HasSubstr("found nothing")));
  }
  EXPECT_THAT(ErrorOf("cluster:\nseed: 1\n"),
              StartsWith("job.yaml:1: cluster: expected a map"));
}

TEST(JobTest, KeyGivenTwiceNamesBothLines) {
  EXPECT_EQ(ErrorOf("seed: 1\nname: a\nseed: 2\n"),
            "job.yaml:3: not valid YAML: key 'seed' is given twice, first on "
            "line 1");
}

TEST(JobTest, BrokenYamlNamesLine) {
  EXPECT_THAT(ErrorOf("seed: 1\ncluster: {servers: 1\n"),
              StartsWith("job.yaml:3: not valid YAML: "));
  EXPECT_THAT(ErrorOf("seed: 1\n\tname: a\n"),
              StartsWith("job.yaml:2: not valid YAML: "));
  EXPECT_THAT(ErrorOf("seed: 1\nname: [a\nb: 2\n"),
              StartsWith("job.yaml:3: not valid YAML: "));
}

TEST(JobTest, SecondDocumentTagAndComplexKeyAreRefused) {
  EXPECT_THAT(ErrorOf("seed: 1\n---\nseed: 2\n"),
              HasSubstr("a second document begins"));
  EXPECT_THAT(ErrorOf("seed: !!int 1\n"), HasSubstr("tags such as"));
  EXPECT_THAT(ErrorOf("? [a, b]\n: 1\n"), HasSubstr("a key must be"));
}

TEST(JobTest, AnchorsAreExpandedWithinBounds) {
  const auto job = ParseText(std::string(kLeastJob) +
                             "dense: &o {kind: adam, learning_rate: 0.25}\n"
                             "tables: {linear: {optimizer: *o}}\n");
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ((*job)->tables().at("linear").optimizer().learning_rate(), 0.25);

  std::string bomb = "name: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 10; ++i) {
    const std::string last = "*a" + std::to_string(i - 1);
    bomb += "k" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + last;
    for (int j = 1; j < 10; ++j) {
      bomb += ", " + last;
    }
    bomb += "]\n";
  }
  EXPECT_THAT(ErrorOf(bomb), HasSubstr("aliases expand to more than"));
  EXPECT_THAT(ErrorOf("name: &a [*a]\n"), HasSubstr("inside its own anchor"));
}

TEST(JobTest, DeepLargeOrGarbledTextIsRefused) {
  EXPECT_THAT(ErrorOf(std::string(100'000, '[')), HasSubstr("levels"));
  EXPECT_THAT(ErrorOf(std::string(size_t{2} << 20, 'a')),
              HasSubstr("it has more than"));
  EXPECT_EQ(ErrorOf("seed: 1\nname: a\xff\n"),
            "job.yaml:2: a byte is not UTF-8; save the file as UTF-8");
  EXPECT_THAT(ErrorOf("name: \xe0\x80\xaf\n"), HasSubstr("not UTF-8"));
  EXPECT_THAT(ErrorOf("name: \xed\xa0\x80\n"), HasSubstr("not UTF-8"));
  EXPECT_THAT(ErrorOf("name: \"a\\0b\"\n"), HasSubstr("control character"));
}

TEST(JobTest, TextInOtherAlphabetsIsKept) {
  const auto job = ParseText(kLeastJob, {"name=Möwe 🐟 漢"});
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ((*job)->name(), "Möwe 🐟 漢");
}

TEST(JobTest, ValueOutOfBoundsNamesLineAndBounds) {
  EXPECT_EQ(ErrorOf("cluster:\n  servers: 0\n"),
            "job.yaml:2: cluster.servers: 0 is too small; allowed: 1 to 1024");
  EXPECT_EQ(ErrorOf("cluster:\n  servers: 2000\n"),
            "job.yaml:2: cluster.servers: 2000 is too large; allowed: 1 to "
            "1024");
  EXPECT_EQ(ErrorOf("cluster:\n  servers: 99999999999\n"),
            "job.yaml:2: cluster.servers: '99999999999' is out of range; "
            "allowed: 1 to 1024");
  EXPECT_EQ(ErrorOf("seed: -1\n"), "job.yaml:1: seed: '-1' is out of range");
  EXPECT_THAT(ErrorOf("model: {dropout: 1e999}\n"),
              HasSubstr("out of range; allowed: 0 to 0.95"));
  EXPECT_THAT(ErrorOf("model: {dropout: 1}\n"),
              HasSubstr("model.dropout: 1 is too large"));
  EXPECT_THAT(ErrorOf("model:\n  hidden:\n    - 4\n    - 0\n"),
              StartsWith("job.yaml:4: model.hidden.1: 0 is too small"));
  EXPECT_THAT(ErrorOf("tables: {linear: {init_scale: -1}}\n"),
              HasSubstr("tables.linear.init_scale: -1 is too small"));
}

TEST(JobTest, TextThatIsNoneOfTheAllowedSuggestsOne) {
  EXPECT_EQ(ErrorOf("consistency:\n  mode: snyc\n"),
            "job.yaml:2: consistency.mode: 'snyc' is not known; allowed: sync, "
            "bounded or async; did you mean 'sync'?");
}

TEST(JobTest, OverridesReplaceScalarsAndListsAndMergeMaps) {
  const auto read =
      ParseText(std::string(kLeastJob) +
                    "cluster: {servers: 1, workers: 2}\nmodel: {kind: deepfm, "
                    "hidden: [1, 2, 3]}\n",
                {"cluster.servers=3", "cluster={shards: 2}", "model.hidden=[7]",
                 "data.label=arr_delay > 15",
                 "tables.linear.optimizer.kind=ftrl", "data.csv.aliases.a.b=c",
                 "data.features.0.min_count=2", "name='true'", "name=last"});
  ASSERT_TRUE(read.ok()) << read.status();
  const JobSpec& job = **read;
  EXPECT_EQ(job.cluster().servers(), 3);
  EXPECT_EQ(job.cluster().shards(), 2);
  EXPECT_EQ(job.cluster().workers(), 2);
  EXPECT_THAT(job.model().hidden(), ElementsAre(7));
  EXPECT_EQ(job.data().label(), "arr_delay > 15");
  EXPECT_EQ(job.tables().at("linear").optimizer().kind(), "ftrl");
  EXPECT_EQ(job.data().csv().aliases().at("a.b"), "c");
  EXPECT_EQ(job.data().features(0).column(), "origin");
  EXPECT_EQ(job.data().features(0).min_count(), 2);
  EXPECT_EQ(job.name(), "last");
}

TEST(JobTest, OverrideErrorsRepeatTheOverride) {
  EXPECT_EQ(ErrorOfSet({"cluster.servres=3"}),
            "--set cluster.servres=3: unknown key 'servres' under cluster; did "
            "you mean 'servers'?");
  EXPECT_EQ(ErrorOfSet({"cluster.servers=two"}),
            "--set cluster.servers=two: cluster.servers: expected a whole "
            "number, found 'two'");
  EXPECT_THAT(ErrorOfSet({"cluster.servers=0"}),
              StartsWith("--set cluster.servers=0: cluster.servers: 0 is"));
  EXPECT_THAT(ErrorOfSet({"cluster.servers"}), HasSubstr("KEY=VALUE"));
  EXPECT_THAT(ErrorOfSet({"=3"}), HasSubstr("KEY=VALUE"));
  EXPECT_THAT(ErrorOfSet({"seed ="}), HasSubstr("blank"));
  EXPECT_THAT(ErrorOfSet({"seed="}), HasSubstr("found nothing"));
  EXPECT_THAT(ErrorOfSet({"cluster="}), HasSubstr("found nothing"));
  EXPECT_THAT(ErrorOfSet({"cluster..servers=1"}), HasSubstr("unknown key ''"));
  EXPECT_THAT(ErrorOfSet({"seed.x=1"}), HasSubstr("no key 'x' under it"));
  EXPECT_THAT(ErrorOfSet({"model.hidden=[1"}), HasSubstr("not valid YAML"));
  EXPECT_THAT(ErrorOfSet({"tables.foo.init=zero"}),
              HasSubstr("unknown key 'foo' under tables; there are: linear, "
                        "embedding"));
  EXPECT_THAT(ErrorOfSet({"data.features.1.column=x"}),
              HasSubstr("'1' is no element of data.features; it holds 1"));
}

TEST(JobTest, ProblemsOfDefaultsNameTheFile) {
  EXPECT_THAT(ErrorOf("seed: 1\n"), StartsWith("job.yaml: data.files: "));
}

struct RuleCase {
  std::vector<std::string> overrides;
  std::string error;  // how it goes on after the place
};

TEST(JobRulesTest, BrokenRulesNameKeyAndWhatToDo) {
  const std::vector<RuleCase> cases = {
      {{"cluster.workers=5"}, "cluster.virtual_workers: 4 is less than"},
      {{"cluster.workers=6", "cluster.backup_workers=1"},
       "cluster.virtual_workers: 4 is less than cluster.workers (5 without the "
       "backup_workers)"},
      {{"cluster.backup_workers=1"},
       "cluster.backup_workers: 1 of cluster.workers (1) leave none"},
      {{"cluster.workers=2", "cluster.backup_workers=1",
        "consistency.mode=async"},
       "cluster.backup_workers: workers stand for others in sync, with the "
       "dense variables on the servers; consistency.tables is async"},
      {{"cluster.workers=2", "cluster.backup_workers=1",
        "consistency.dense=allreduce"},
       "cluster.backup_workers: workers stand for others in sync, with the "
       "dense variables on the servers; consistency.dense is allreduce"},
      {{"train.batch_size=3"}, "train.batch_size: 3 is less than"},
      {{"consistency={mode: async, dense: sync}"},
       "consistency.dense: sync does not go with tables in async: a worker "
       "would wait"},
      {{"consistency.tables=bounded"},
       "consistency.dense: sync does not go with tables in bounded"},
      {{"consistency.dense=async"},
       "consistency.dense: async does not go with tables in sync: a step in "
       "sync ends with one commit"},
      {{"consistency={tables: bounded, dense: async}"},
       "consistency.dense: async does not go with tables in bounded: a step "
       "needs its rows and its dense variables"},
      {{"consistency={mode: async, dense: allreduce}",
        "cluster.rebalance=load"},
       "cluster.rebalance: beside dense variables that are reduced "
       "(consistency.dense: allreduce), slots move in sync only"},
      {{"consistency={mode: async, dense: auto}"},
       "consistency.dense: auto does not go with tables in async"},
      {{"consistency.sharded_optimizer=true"},
       "consistency.sharded_optimizer: it divides what workers hold"},
      {{"consistency={dense: auto, sharded_optimizer: true}"},
       "consistency.sharded_optimizer: it divides what workers hold, which "
       "they do with consistency.dense: allreduce; that is auto"},
      {{"data.files=[]"}, "data.files: it must name"},
      {{"data.label=''"}, "data.label: format csv needs it"},
      {{"data.features=[]"}, "data.features: format csv needs it"},
      {{"data.features=[{}]"}, "data.features.0: a feature needs exactly one"},
      {{"data.features=[{column: a, cross: [b, c]}]"},
       "data.features.0: a feature needs exactly one"},
      {{"data.features=[{column: a, cross_only: true}]"},
       "data.features: all are cross_only"},
      {{"data.features=[{when: {column: a}}]"},
       "data.features.0.when: `part` is missing"},
      {{"data.csv.delimiter=ab"}, "data.csv.delimiter: 'ab' can't be"},
      {{"data.csv.delimiter='\"'"}, "data.csv.delimiter: '\"' can't be"},
      {{"data.csv.header=false"}, "data.csv.columns: it must name"},
      {{"data.csv.columns=[a]"}, "data.csv.columns: given, but"},
      {{"data.format=libsvm"}, "data.features: it works on columns"},
      {{"data.format=libsvm", "data.features=[]"},
       "data.label: it works on columns"},
      {{"data.format=record", "data.features=[]", "data.label=''",
        "data.filter=[a present]"},
       "data.filter: it works on columns"},
      {{"data.format=criteo", "data.label=''"},
       "data.label: format criteo with features needs it"},
      {{"data.format=libsvm", "data.features=[]", "data.label=''",
        "data.split.by=hash"},
       "data.split.by: 'hash' needs columns"},
      {{"data.split.test=5"}, "data.split.test: 5 is no part of 0 to 4"},
      {{"data.split.by=hash"}, "data.split.column: it must name"},
      {{"data.split={by: range, column: a, from: 1}"},
       "data.split.from: split by range needs"},
      {{"data.split={by: range, column: a, from: 2, to: 1}"},
       "data.split.from: split by range needs"},
      {{"data.split.by=tail"}, "data.split.test_rows: split by tail needs"},
      {{"data.split.by=files"}, "data.test_files: split by files needs"},
      {{"data.test_files=[b.csv]"}, "data.test_files: given, but"},
      {{"model.kind=deepfm"}, "model.hidden: deepfm needs"},
      {{"model.classes=3"}, "model.classes: 3 classes, but model.task"},
      {{"model={kind: fm, task: multiclass, classes: 3}"},
       "model.task: the interactions of fm give one number"},
      {{"model={kind: lr, hidden: [4]}"}, "model.hidden: lr does not read it"},
      {{"model={kind: fm, cross_layers: 2}"},
       "model.cross_layers: fm does not read it (dcn_v2 does)"},
      {{"model={kind: mlp, hidden: [4], wide: [a]}"},
       "model.wide: mlp does not read it"},
      {{"tables.embedding.init=normal"},
       "tables.embedding: lr has no such table"},
      {{"tables.linear.format=f8"}, "tables.linear.format: 'f8'"},
      {{"model={kind: mlp, hidden: [4]}", "tables.linear.init=zero"},
       "tables.linear: mlp has no such table"},
      {{"tables.linear.init_scale=0.5"},
       "tables.linear.init_scale: the first values are zero"},
      {{"dense.learning_rate=1e39"},
       "dense.learning_rate: 1e+39 is more than 32-bit numbers hold"},
      {{"name=a/b"}, "name: 'a/b' can't be a folder's name"},
      {{"name=.."}, "name: '..' can't be a folder's name"},
      {{"name=''"}, "name: '' can't be a folder's name"},
      {{"model={kind: dlrm, hidden: [4]}"},
       "model.kind: dlrm needs at least one feature of kind numeric"},
      {{"model={kind: dlrm, hidden: [4]}", "data.features.0.kind=numeric"},
       "model.bottom: dlrm needs"},
      {{"model={kind: dlrm, hidden: [4], bottom: [16, 4]}",
        "data.features.0.kind=numeric"},
       "model.bottom: its last width is 4 but model.dim is 8"},
      {{"dense={initial_accumulator: 0, epsilon: 0}"},
       "dense.initial_accumulator: adagrad: 0 with epsilon 0"},
      {{"dense={kind: adam, beta1: 1}"}, "dense.beta1: adam: 1 never forgets"},
      {{"dense={kind: adam, beta2: 1}"}, "dense.beta2: adam: 1 never forgets"},
      {{"dense={kind: adam, epsilon: 0}"}, "dense.epsilon: adam: 0 divides"},
      {{"dense={kind: lazy_adam, beta1: 1}"}, "dense.beta1: lazy_adam: 1"},
      {{"dense={kind: rmsprop, rho: 1}"}, "dense.rho: rmsprop: 1 never learns"},
      {{"dense={kind: adadelta, epsilon: 0}"},
       "dense.epsilon: adadelta: 0 divides"},
      {{"dense={kind: adam, rho: 0.8}"},
       "dense.rho: adam does not read it (adadelta or rmsprop do)"},
      {{"dense={kind: sgd, momentum: 0.8}"},
       "dense.momentum: sgd does not read it (momentum, nesterov, rmsprop "
       "or lars do)"},
      {{"dense={kind: ftrl, weight_decay: 0.1}"},
       "dense.weight_decay: ftrl does not read it"},
      {{"dense={kind: adamw, decoupled: true}"},
       "dense.decoupled: adamw does not read it"},
      {{"dense={kind: adam, decoupled: true}"},
       "dense.decoupled: adam: there is no weight decay"},
      {{"dense={kind: sgd, clip_norm: 1}"},
       "dense.clip_norm: it is the norm of a row of a table"},
      {{"dense={kind: sgd, clip_value: -1}"}, "dense.clip_value: -1 is"},
      {{"dense.kind=rowwise_adagrad"},
       "dense.kind: 'rowwise_adagrad' works on the rows of tables"},
      {{"dense.kind=group_ftrl"},
       "dense.kind: 'group_ftrl' works on the rows of tables, which dense "
       "variables have not; use it in tables.NAME.optimizer, and ftrl here"},
      {{"tables.linear.optimizer={kind: group_ftrl, learning_rate: 0}"},
       "tables.linear.optimizer.learning_rate: group_ftrl: 0 divides"},
      {{"train.schedule={kind: cosine, gamma: 0.3}"},
       "train.schedule.gamma: cosine does not read it (step or exponential "
       "do)"},
      {{"train.schedule={kind: polynomial, power: 0}"},
       "train.schedule.power: 0 is"},
      {{"tables.linear.optimizer={kind: ftrl, learning_rate: 0}"},
       "tables.linear.optimizer.learning_rate: ftrl: 0 divides"},
      {{"tables.linear.optimizer={kind: ftrl, beta: 0, initial_accumulator: "
        "0}"},
       "tables.linear.optimizer.beta: ftrl: 0 with"},
      {{"model.task=regression", "train.early_stopping.patience=2"},
       "train.early_stopping.metric: model.task regression has no auc; use "
       "rmse"},
      {{"data.split.by=none", "train.early_stopping.patience=2"},
       "train.early_stopping.patience: early stopping watches the test part"},
      {{"train.eval.every_epoch=false", "train.early_stopping.patience=2"},
       "train.early_stopping.patience: early stopping needs evaluations"},
  };
  for (const RuleCase& c : cases) {
    EXPECT_THAT(ErrorOfSet(c.overrides), HasSubstr(": " + c.error))
        << testing::PrintToString(c.overrides);
  }
}

TEST(JobRulesTest, AllowedNeighboursOfBrokenRulesPass) {
  const std::vector<std::vector<std::string>> cases = {
      {"cluster.workers=4"},
      {"cluster.workers=6", "cluster.backup_workers=2"},
      {"cluster.workers=2", "cluster.backup_workers=1",
       "consistency.dense=auto"},
      {"train.batch_size=4"},
      {"dense={kind: adamw, weight_decay: 0}"},
      {"dense={kind: rmsprop, centered: true, momentum: 0.9, clip_value: 1}"},
      {"tables.linear.optimizer={kind: rowwise_adagrad, clip_norm: 1}"},
      {"tables.linear.optimizer={kind: group_ftrl, l21: 0.1}"},
      {"dense={kind: lazy_adam, weight_decay: 0.1, decoupled: true}"},
      {"dense={kind: sgd, beta1: 0.9}"},  // The default, as in a checkpoint.
      {"train.schedule={kind: exponential, gamma: 0.9, every_steps: 10}"},
      {"train.schedule={kind: polynomial, power: 0.5, final: 0.1}"},
      {"consistency.dense=allreduce"},
      {"consistency={mode: async, dense: async}"},
      {"consistency={mode: async, dense: allreduce}"},
      {"consistency={tables: bounded, dense: allreduce}"},
      {"consistency={mode: async, tables: sync, dense: sync}"},
      {"consistency={dense: allreduce, sharded_optimizer: true}"},
      {"consistency={tables: auto, dense: auto}"},
      {"consistency={mode: bounded, tables: auto}"},
      {"transport=shm", "cluster={listen: auto, port: 0}"},
      {"data.csv.delimiter=\"\\t\""},
      {"data.csv.delimiter=;"},
      {"data.csv.header=false", "data.csv.columns=[origin, late]"},
      {"data.format=libsvm", "data.features=[]", "data.label=''"},
      {"data.format=criteo", "data.features=[]", "data.label=''"},
      {"data.format=criteo", "data.features=[{column: C1}]"},
      {"data.split={by: range, column: a, from: 1, to: 1}"},
      {"data.split={by: hash, column: a}"},
      {"data.split.by=files", "data.test_files=b.csv"},
      {"data.split={by: tail, test_rows: 1}"},
      {"model={task: multiclass, classes: 10}"},
      {"model={kind: lr, dropout: 0, hidden: [], activation: relu}"},
      {"model={kind: mlp, hidden: [4]}", "tables.embedding.init_scale=0.5"},
      {"tables.linear={init: normal, init_scale: 0.5}"},
      {"model={kind: dlrm, hidden: [4], bottom: [16, 8]}",
       "data.features.0.kind=numeric"},
      {"model.task=regression",
       "train.early_stopping={patience: 1, metric: rmse}"},
      {"train.early_stopping={patience: 1, metric: log_loss}"},
  };
  for (const auto& overrides : cases) {
    EXPECT_EQ(ErrorOfSet(overrides), "OK") << testing::PrintToString(overrides);
  }
}

TEST(JobTest, CheckpointFitsJobsOfItsModelOnly) {
  const std::vector<std::string> base = {
      "model={kind: deepfm, hidden: [8, 4]}",
      "data.features=[{column: a}, {column: b, pooling: sum}]"};
  const auto check = [&](std::vector<std::string> then,
                         std::vector<std::string> now) {
    then.insert(then.begin(), base.begin(), base.end());
    now.insert(now.begin(), base.begin(), base.end());
    const auto before = ParseText(kLeastJob, then);
    const auto after = ParseText(kLeastJob, now);
    EXPECT_TRUE(before.ok()) << before.status();
    EXPECT_TRUE(after.ok()) << after.status();
    // As a checkpoint keeps it.
    const auto kept = ParseText(JobToYaml(**before), {});
    EXPECT_TRUE(kept.ok()) << kept.status();
    return CheckSameModel(**kept, **after).message();
  };
  const std::vector<std::pair<std::vector<std::string>, std::string>> others = {
      {{"model.kind=wide_deep"}, "model.kind"},
      {{"model.task=regression"}, "model.task"},
      {{"model.dim=4"}, "model.dim"},
      {{"model.hidden=[4, 8]"}, "model.hidden"},
      {{"model.activation=tanh"}, "model.activation"},
      {{"model.wide=[a]"}, "model.wide"},
      {{"dense.kind=adam"}, "dense.kind"},
      {{"tables.linear.optimizer.kind=ftrl"}, "ftrl"},
      {{"tables.embedding.format=bf16"}, "format"},
      {{"data.features=[{column: b}, {column: a}]"}, "data.features"},
      {{"data.features=[{column: a}, {column: b}, {column: c}]"},
       "data.features"},
      {{"data.features.0.min_count=2"}, "min_count"},
  };
  for (const auto& [now, named] : others) {
    EXPECT_THAT(check({}, now), HasSubstr(named))
        << testing::PrintToString(now);
    EXPECT_THAT(check(now, {}), HasSubstr(named))
        << testing::PrintToString(now);
  }
  const std::vector<std::vector<std::string>> same = {
      {"dense.learning_rate=0.5", "tables.linear.optimizer.learning_rate=0.5"},
      {"model={dropout: 0.5, l2_dense: 0.1, l2_linear: 1}"},
      {"data.features=[{column: a, hash_buckets: 0}, {column: b}]"},
      {"data.features=[{name: a, column: a}, {column: b}]"},
      {"tables.linear.optimizer.kind=adagrad"},  // that of dense
      {"tables.embedding.format=f32"},
      {"seed=7", "cluster={workers: 3, servers: 4}", "train.epochs=9",
       "data.files=[later.csv]", "consistency.mode=async"},
      {"consistency={dense: allreduce, sharded_optimizer: true}"},
  };
  for (const auto& now : same) {
    EXPECT_EQ(check({}, now), "") << testing::PrintToString(now);
    EXPECT_EQ(check(now, {}), "") << testing::PrintToString(now);
  }
}

TEST(JobTest, MissingFileAndFolderAreErrors) {
  const std::string folder = testing::TempDir() + "/job_test_folder";
  std::filesystem::create_directories(folder);
  const auto missing = LoadJob(folder + "/none.yaml", {});
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(missing.status().message(), HasSubstr("none.yaml: "));
  const auto is_folder = LoadJob(folder, {});
  EXPECT_EQ(is_folder.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(is_folder.status().message(), HasSubstr("is it a folder?"));
}

TEST(JobTest, LoadsFromFile) {
  const std::string path = testing::TempDir() + "/job_test_load.yaml";
  std::ofstream(path) << kLeastJob;
  const auto job = LoadJob(path, {"seed=9"});
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ((*job)->seed(), 9U);
  EXPECT_EQ((*job)->data().label(), "late");
  std::filesystem::remove(path);
}

// Equality of messages, independent of the order of maps.
std::string BytesOf(const JobSpec& job) { return SerializeJob(job); }

TEST(JobTest, SerializedJobReadsBackEqual) {
  const auto job =
      ParseText(kLeastJob, {"tables={linear: {init: zero}, embedding: {}}",
                            "data.csv.aliases={z: a, b: c, d: e}"});
  ASSERT_TRUE(job.ok()) << job.status();
  const auto again = ParseSerializedJob(SerializeJob(**job));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(BytesOf(**again), BytesOf(**job));
  EXPECT_EQ((*again)->data().csv().aliases().size(), 3U);
}

TEST(JobTest, SerializedGarbageIsRefused) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 1000; ++i) {
    std::string bytes(random() % 64, '\0');
    for (char& c : bytes) {
      c = static_cast<char>(random());
    }
    EXPECT_FALSE(ParseSerializedJob(bytes).ok()) << "round " << i;
  }
  JobSpec job;
  job.mutable_cluster()->set_servers(-5);
  const auto parsed = ParseSerializedJob(SerializeJob(job));
  EXPECT_EQ(parsed.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(parsed.status().message(), HasSubstr("cluster.servers: -5"));
  JobSpec tables;
  (*tables.mutable_tables())["other"];
  EXPECT_THAT(ValidateJob(tables).message(),
              HasSubstr("tables.other: unknown key"));
  JobSpec infinite;
  infinite.mutable_dense()->set_learning_rate(
      std::numeric_limits<double>::infinity());
  EXPECT_THAT(ValidateJob(infinite).message(), HasSubstr("not finite"));
}

TEST(JobTest, YamlOfJobReadsBackToTheSameYaml) {
  const auto job = ParseText(
      kLeastJob,
      {"name='yes'", "data.label='a \"b\" \\ c: d # e'", "seed=7",
       "data.csv.missing=['', '~', 'null', '-', '1']",
       "data.csv.aliases={'x: y': 'z', '3': a}",
       "data.features=[{cross: [a, b]}, {column: c, buckets: {}}, {when: "
       "{column: t, part: hour}}]",
       "tables={embedding: {}, linear: {optimizer: {learning_rate: 0.1}}}",
       "model.l2_dense=1e-7"});
  ASSERT_TRUE(job.ok()) << job.status();
  const std::string yaml = JobToYaml(**job);
  const auto again = ParseText(yaml);
  ASSERT_TRUE(again.ok()) << again.status() << "\n" << yaml;
  EXPECT_EQ(JobToYaml(**again), yaml);
  EXPECT_EQ((*again)->name(), "yes");
  EXPECT_EQ((*again)->data().label(), "a \"b\" \\ c: d # e");
  EXPECT_THAT((*again)->data().csv().missing(),
              ElementsAre("", "~", "null", "-", "1"));
  EXPECT_EQ((*again)->data().csv().aliases().at("x: y"), "z");
  EXPECT_TRUE((*again)->data().features(1).has_buckets());
  EXPECT_FALSE((*again)->data().features(0).has_buckets());
  EXPECT_TRUE((*again)->tables().contains("embedding"));
  EXPECT_FALSE((*again)->tables().at("embedding").has_optimizer());
  EXPECT_EQ((*again)->model().l2_dense(), 1e-7);
  EXPECT_THAT(yaml, HasSubstr("\n  virtual_workers: 4\n"));  // a default
}

// Checkpoints hold jobs so.
TEST(JobTest, DefaultsFilledInAreNoChoiceOfTheUser) {
  for (const char* transport : {"shm", "mpi", "inproc"}) {
    const auto job = ParseText(kLeastJob, {StrCat("transport=", transport)});
    ASSERT_TRUE(job.ok()) << job.status();
    const auto again = ParseText(JobToYaml(**job), {});
    EXPECT_TRUE(again.ok()) << again.status();
  }
  EXPECT_THAT(ErrorOfSet({"transport=shm", "cluster.port=7"}),
              HasSubstr("cluster.port: transport shm does not listen to TCP"));
  EXPECT_THAT(ErrorOfSet({"transport=mpi", "cluster.listen=eth0"}),
              HasSubstr("cluster.listen: transport mpi does not listen"));
}

TEST(JobTest, PlacementNamesItsHosts) {
  const auto error = [](const std::string& placement) {
    return ErrorOfSet({"placement=" + placement});
  };
  EXPECT_EQ(error("{hosts: [{name: a, slots: 2}, {name: b}], servers: [a], "
                  "workers: [a, b]}"),
            "OK");
  EXPECT_THAT(error("{hosts: [{name: node1}], servers: [node2]}"),
              HasSubstr("placement.servers.0: placement.hosts has no 'node2'; "
                        "did you mean 'node1'?"));
  EXPECT_THAT(error("{workers: [a]}"), HasSubstr("name the hosts there"));
  EXPECT_THAT(error("{hosts: [{name: a}, {name: a}]}"),
              HasSubstr("placement.hosts.1.name: 'a' is there twice"));
  EXPECT_THAT(error("{hosts: [{name: '-x'}]}"),
              HasSubstr("'-x' can't be a host's name"));
  EXPECT_THAT(error("{hosts: [{name: 'a,b'}]}"),
              HasSubstr("'a,b' can't be a host's name"));
  EXPECT_THAT(error("{hosts: [{slots: 2}]}"),
              HasSubstr("'' can't be a host's name"));
  EXPECT_THAT(error("{hosts: [{name: a, slots: 0}]}"),
              HasSubstr("0 is too small"));
}

TEST(JobTest, CollectiveBackendNeedsAllReduce) {
  EXPECT_EQ(ErrorOfSet({"cluster.collective=auto"}), "OK");
  EXPECT_EQ(
      ErrorOfSet({"cluster.collective=mpi", "consistency.dense=allreduce"}),
      "OK");
  EXPECT_THAT(ErrorOfSet({"cluster.collective=mpi"}),
              HasSubstr("cluster.collective: mpi sums gradients where "
                        "consistency.dense is allreduce"));
  const auto nccl = [](std::vector<std::string> more) {
    more.insert(more.end(),
                {"cluster.collective=nccl", "consistency.dense=allreduce",
                 "cluster.workers=2"});
    return ErrorOfSet(more);
  };
  EXPECT_EQ(nccl({"device=cuda"}), "OK");
  EXPECT_EQ(nccl({"device=auto"}), "OK");
  EXPECT_EQ(nccl({"device=cpu", "devices.workers=[cuda:0, cuda:1]"}), "OK");
  EXPECT_THAT(nccl({"device=cpu"}),
              HasSubstr("cluster.collective: nccl sums on the workers' GPUs, "
                        "but worker 0 computes on cpu; set device: cuda"));
  EXPECT_THAT(nccl({"device=shadow", "devices.workers=[cuda]"}),
              HasSubstr("but worker 1 computes on shadow"));
}

TEST(JobTest, StalenessIsOfBoundedAlone) {
  EXPECT_EQ(ErrorOfSet({"consistency.staleness=3", "consistency.mode=bounded"}),
            "OK");
  EXPECT_EQ(ErrorOfSet({"consistency.staleness=3", "consistency.tables=bounded",
                        "consistency.dense=allreduce"}),
            "OK");
  EXPECT_THAT(ErrorOfSet({"consistency.staleness=3"}),
              HasSubstr("consistency.staleness: it is about bounded, but "
                        "tables are in sync"));
}

TEST(JobTest, AllReduceSwitchesAreChecked) {
  const auto error = [](const std::string& entries,
                        std::vector<std::string> more = {}) {
    more.insert(more.end(), {"cluster.allreduce=" + entries,
                             "consistency.dense=allreduce"});
    return ErrorOfSet(more);
  };
  EXPECT_EQ(error("[0 exchange, 4096 halving]"), "OK");
  EXPECT_THAT(error("[0 spiral]"),
              HasSubstr("cluster.allreduce: '0 spiral': there is no allreduce "
                        "algorithm 'spiral'"));
  EXPECT_THAT(error("[9 read]"), HasSubstr("'9 read' begins at 9 bytes"));
  EXPECT_THAT(error("[0 read]", {"cluster.collective=mpi"}),
              HasSubstr("cluster.allreduce: it is about collective transport"));
  EXPECT_THAT(ErrorOfSet({"cluster.allreduce=[0 read]"}),
              HasSubstr("where consistency.dense is allreduce"));
}

TEST(JobTest, ExplainNamesEveryKeyWithinEightyColumns) {
  const std::string text = ExplainJob();
  EXPECT_THAT(text, HasSubstr("  servers: (whole number, 1 to 1024; default "
                              "1)\n      Server processes.\n"));
  EXPECT_THAT(text,
              HasSubstr("  mode: (sync, bounded or async; default sync)"));
  EXPECT_THAT(text, HasSubstr("  hidden: (list of whole numbers, "));
  EXPECT_THAT(text, HasSubstr("  linear or embedding:\n    optimizer:\n"));
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t end = text.find('\n', begin);
    EXPECT_LE(end - begin, 80U) << text.substr(begin, end - begin);
    begin = end + 1;
  }
}

// Every key, and every message below it, has a help text and readable bounds.
void ExpectExplained(const google::protobuf::Descriptor& type) {
  for (int i = 0; i < type.field_count(); ++i) {
    const google::protobuf::FieldDescriptor& field = *type.field(i);
    EXPECT_FALSE(field.options().GetExtension(help).empty())
        << field.full_name();
    if (field.is_map()) {
      if (field.message_type()->map_value()->message_type() != nullptr) {
        ExpectExplained(*field.message_type()->map_value()->message_type());
      }
    } else if (field.message_type() != nullptr) {
      ExpectExplained(*field.message_type());
    }
  }
}

TEST(JobTest, EveryKeyHasHelp) { ExpectExplained(*JobSpec::descriptor()); }

TEST(JobTest, RandomTextsNeverCrash) {
  static constexpr const char* kPieces[] = {
      "data",   ":", " ",    "\n",  "  ",   "-",     "[",  "]",    "{",
      "}",      ",", "'",    "\"",  "&a",   "*a",    "!",  "#",    "|",
      ">",      "?", "seed", "1",   "null", "files", "~",  "\t",   "model",
      "tables", "%", "---",  "...", "@",    "`",     "\\", "\xc3", "<<"};
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 3000; ++i) {
    std::string text;
    for (uint64_t n = random() % 30; n > 0; --n) {
      text += kPieces[random() % std::size(kPieces)];
    }
    const auto job = ParseText(text);  // random texts name no data files
    EXPECT_FALSE(job.ok()) << text;
    EXPECT_FALSE(ParseText(kLeastJob, {text}).ok() && text.empty());
  }
}

TEST(YamlDocumentTest, LinesAndQuotesAreKept) {
  int line = 0;
  const auto root = ParseYaml("a: 1\nb:\n  - 'x'\n  - |\n    y\n", &line);
  ASSERT_TRUE(root.ok()) << root.status();
  ASSERT_EQ(root->entries.size(), 2U);
  EXPECT_EQ(root->entries[0].second.line, 1);
  EXPECT_FALSE(root->entries[0].second.quoted);
  const YamlNode& list = root->entries[1].second;
  ASSERT_EQ(list.items.size(), 2U);
  EXPECT_EQ(list.items[0].line, 3);
  EXPECT_TRUE(list.items[0].quoted);
  EXPECT_TRUE(list.items[1].quoted);
  EXPECT_EQ(list.items[1].text, "y\n");
}

}  // namespace
}  // namespace shoal::worker
