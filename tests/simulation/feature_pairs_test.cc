// Every pair of features of a table and its cluster, together in one job: with
// the bits of one server that nothing befalls, also from the checkpoint on; or
// refused before anything starts. docs/feature-pairs.md tells which are.

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

#include "base/strcat.h"
#include "ps/optimizer.h"
#include "tests/simulation/cluster_world.h"

namespace shoal::simulation {
namespace {

// Under sanitizers a part of the jobs runs; of every eighth none has many rows
// on disk.
constexpr size_t kEvery = kShare > 1 ? 7 : 1;

using Words = std::vector<std::string>;

struct Value {
  std::string name;
  Words keys = {};                                         // of the job
  std::function<void(RunPlan&)> in_run = [](RunPlan&) {};  // of its cluster
  // Leaves the bits as they are: the reference run goes without.
  bool keeps_bits = false;
};
struct Feature {
  std::string name;
  std::vector<Value> values;  // the first: without it
};

Value InBothTables(const std::string& name, const std::string& key,
                   const std::string& value) {
  return {.name = name,
          .keys = {StrCat("tables.linear.", key, "=", value),
                   StrCat("tables.embedding.", key, "=", value)}};
}

std::string SpillFolder() {
  return StrCat(std::filesystem::temp_directory_path().string(),
                "/shoal-feature-pairs-", getpid());
}

Feature Optimizers() {
  Feature optimizers{.name = "optimizer"};
  std::vector<std::string> kinds = ps::OptimizerRegistry().Names();
  kinds.push_back("adamw");  // adam with another decay
  for (const std::string& kind : kinds) {
    optimizers.values.push_back(InBothTables(
        kind, "optimizer", StrCat("{kind: ", kind, ", learning_rate: 0.05}")));
  }
  return optimizers;
}

// A new feature, or a new value of one, is one line here; a new optimizer none.
std::vector<Feature> Features() {
  Value disk = InBothTables("disk", "tier", "disk");
  disk.keys.insert(disk.keys.end(),
                   {"cluster.memory_per_server=1500000",
                    StrCat("cluster.spill_folder=", SpillFolder())});
  disk.keeps_bits = true;
  const auto replicas = [](int number) {
    return Value{.name = StrCat(number),
                 .in_run =
                     [number](RunPlan& plan) {
                       plan.replicas = number;
                       plan.server_crashes = number > 1 ? 2 : 0;
                     },
                 .keeps_bits = true};
  };
  // What it counts takes memory beside the rows.
  Value min_count = InBothTables("min_count", "admission",
                                 "{min_count: 2, candidate_bytes: 49152}");
  min_count.keys.push_back("cluster.memory_per_server=1700000");
  // What it marks takes memory too, of which so much is left that no row is on
  // disk; incremental_test.cc has some there.
  const Value incremental = {
      .name = "incremental",
      .keys = {"checkpoint.full_every=3", "cluster.memory_per_server=2100000"},
      .keeps_bits = true};
  return {
      {.name = "tier", .values = {{.name = "memory"}, disk}},
      {.name = "admission",
       .values = {{.name = "all"},
                  min_count,
                  InBothTables("probability", "admission",
                               "{probability: 0.5}")}},
      {.name = "eviction",
       .values = {{.name = "none"},
                  InBothTables("age", "eviction", "{max_age_steps: 8}"),
                  InBothTables("lru", "eviction", "{row_budget_bytes: 200000}"),
                  InBothTables("lfu", "eviction",
                               "{row_budget_bytes: 200000, policy: lfu}")}},
      Optimizers(),
      {.name = "format",
       .values = {{.name = "f32"},
                  InBothTables("bf16", "format", "bf16"),
                  InBothTables("f16", "format", "f16")}},
      {.name = "checkpoint", .values = {{.name = "full"}, incremental}},
      {.name = "resharding",
       .values = {{.name = "none"},
                  {.name = "while it trains",
                   .in_run = [](RunPlan& plan) { plan.scales = 2; },
                   .keeps_bits = true}}},
      {.name = "replicas", .values = {replicas(1), replicas(2), replicas(3)}},
  };
}

// A shard that has all slots has more than its memory holds.
Words ShortJob() {
  return {FeaturesOfManyIds(), "train.max_steps=24", "checkpoint.every_steps=6",
          "checkpoint.keep=4"};
}

// The value of each feature, by number.
using Choice = std::vector<size_t>;

Words KeysOf(const std::vector<Feature>& features, const Choice& choice,
             bool with_all) {
  Words keys = ShortJob();
  for (size_t f = 0; f < features.size(); ++f) {
    const Value& value = features[f].values[choice[f]];
    if (with_all || !value.keeps_bits) {
      keys.insert(keys.end(), value.keys.begin(), value.keys.end());
    }
  }
  return keys;
}

std::string NameOf(const std::vector<Feature>& features, const Choice& choice) {
  std::string name;
  for (size_t f = 0; f < features.size(); ++f) {
    name += StrCat(f == 0 ? "" : ", ", features[f].name, " ",
                   features[f].values[choice[f]].name);
  }
  return name;
}

// A feature and its value, twice.
using Point = std::pair<size_t, size_t>;
using Pair = std::pair<Point, Point>;

std::vector<Pair> AllPairs(const std::vector<Feature>& features) {
  std::vector<Pair> pairs;
  for (size_t a = 0; a < features.size(); ++a) {
    for (size_t b = a + 1; b < features.size(); ++b) {
      for (size_t i = 0; i < features[a].values.size(); ++i) {
        for (size_t j = 0; j < features[b].values.size(); ++j) {
          pairs.push_back({{a, i}, {b, j}});
        }
      }
    }
  }
  return pairs;
}

// Why jobs with a value, or with a pair of values that are not refused alone,
// do not start.
struct Refusals {
  std::map<Point, std::string> values;
  std::map<Pair, std::string> pairs;

  bool Has(const Point& a, const Point& b) const {
    return values.contains(a) || values.contains(b) ||
           pairs.contains(a < b ? Pair(a, b) : Pair(b, a));
  }
};

Refusals FindRefusals(const std::vector<Feature>& features) {
  Refusals refusals;
  const auto refused = [&](const Choice& choice) -> std::string {
    const auto made = SimulatedJob::Create(KeysOf(features, choice, true));
    return made.ok() ? "" : made.status().message();
  };
  const Choice without(features.size(), 0);
  EXPECT_EQ(refused(without), "");
  for (size_t f = 0; f < features.size(); ++f) {
    for (size_t v = 0; v < features[f].values.size(); ++v) {
      Choice choice = without;
      choice[f] = v;
      if (const std::string why = refused(choice); !why.empty()) {
        refusals.values[{f, v}] = why;
      }
    }
  }
  for (const Pair& pair : AllPairs(features)) {
    if (refusals.Has(pair.first, pair.second)) {
      continue;
    }
    Choice choice = without;
    choice[pair.first.first] = pair.first.second;
    choice[pair.second.first] = pair.second.second;
    if (const std::string why = refused(choice); !why.empty()) {
      refusals.pairs[pair] = why;
    }
  }
  return refusals;
}

// Jobs such that each pair that is not refused is in one of them: each takes
// the first pair that is left, and of every other feature the value that brings
// most pairs that are left.
std::vector<Choice> CoverPairs(const std::vector<Feature>& features,
                               const Refusals& refusals) {
  std::set<Pair> left;
  for (const Pair& pair : AllPairs(features)) {
    if (!refusals.Has(pair.first, pair.second)) {
      left.insert(pair);
    }
  }
  std::vector<Choice> jobs;
  while (!left.empty()) {
    const Pair first = *left.begin();
    std::vector<Point> chosen = {first.first, first.second};
    for (size_t f = 0; f < features.size(); ++f) {
      if (f == first.first.first || f == first.second.first) {
        continue;
      }
      size_t best = features[f].values.size();
      int64_t most = -1;
      for (size_t v = 0; v < features[f].values.size(); ++v) {
        const Point point = {f, v};
        int64_t brings = 0;
        for (const Point& other : chosen) {
          if (refusals.Has(point, other)) {
            brings = -1;
            break;
          }
          brings += left.contains(point < other ? Pair(point, other)
                                                : Pair(other, point));
        }
        if (brings > most) {
          most = brings;
          best = v;
        }
      }
      EXPECT_LT(best, features[f].values.size()) << "nothing goes with all";
      chosen.emplace_back(f, best);
    }
    Choice job(features.size());
    for (const Point& a : chosen) {
      job[a.first] = a.second;
      for (const Point& b : chosen) {
        left.erase({a, b});
      }
    }
    jobs.push_back(job);
  }
  return jobs;
}

class FeaturePairsTest : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(SpillFolder()); }
  void TearDown() override {
    // Each table has removed what it had there.
    EXPECT_TRUE(std::filesystem::is_empty(SpillFolder()));
    std::error_code ignored;
    std::filesystem::remove_all(SpillFolder(), ignored);
  }
};

// On one server that nothing befalls; on three, with all that is chosen, lost
// connections and lost servers; and again from the second checkpoint of those.
void ExpectTheSameBits(const std::vector<Feature>& features,
                       const Choice& choice, uint64_t seed,
                       int64_t& rows_on_disk) {
  const auto reference = SimulatedJob::Create(KeysOf(features, choice, false));
  ASSERT_TRUE(reference.ok()) << reference.status();
  const RunResult want =
      RunJob(**reference, {.servers = 1, .faults = false, .crashes = 0});
  ASSERT_TRUE(want.status.ok()) << want.status;
  ASSERT_EQ(want.digests.size(), 4U);

  const auto job = SimulatedJob::Create(KeysOf(features, choice, true));
  ASSERT_TRUE(job.ok()) << job.status();
  RunPlan plan = {
      .seed = seed, .crashes = 1, .digests = want.digests, .reports = true};
  for (size_t f = 0; f < features.size(); ++f) {
    features[f].values[choice[f]].in_run(plan);
  }
  const RunResult result = RunJob(**job, plan);
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.violation, "");
  EXPECT_EQ(result.digests, want.digests);

  // The second: an incremental one is based on the first.
  RestoreFrom(std::next(result.digests.begin())->first, plan);
  plan.files = result.files;
  plan.servers = std::max(2, plan.replicas);
  const RunResult rest = RunJob(**job, plan);
  ASSERT_TRUE(rest.status.ok()) << rest.status;
  EXPECT_EQ(rest.violation, "");
  EXPECT_EQ(rest.digests, want.digests);
  rows_on_disk =
      std::max({rows_on_disk, result.rows_on_disk, rest.rows_on_disk});
}

std::string DocOf(const std::vector<Feature>& features,
                  const Refusals& refusals, size_t num_jobs) {
  size_t pairs = 0;
  for (const Pair& pair : AllPairs(features)) {
    pairs += refusals.Has(pair.first, pair.second) ? 0 : 1;
  }
  std::string text = StrCat(
      "# Pairs of features\n\n"
      "Generated by tests/simulation/feature_pairs_test.cc, which runs each "
      "pair of the values below that is not refused: ",
      pairs, " pairs, in ", num_jobs,
      " jobs that each have one value of every feature. A job runs three "
      "times: on one server that nothing befalls, without what is to leave "
      "the bits alone (tier, resharding, replicas); on three servers with all "
      "of it, lost connections and, with replicas, lost servers; and from the "
      "second checkpoint of that run on, on other servers. All three end with "
      "the same bits.\n\n"
      "| feature | values |\n| --- | --- |\n");
  for (const Feature& feature : features) {
    std::string values;
    for (const Value& value : feature.values) {
      values += (values.empty() ? "" : ", ") + value.name;
    }
    text += StrCat("| ", feature.name, " | ", values, " |\n");
  }
  text += "\n## Refused when the job starts\n\n| what | why |\n| --- | --- |\n";
  const auto name = [&](const Point& point) {
    return StrCat(features[point.first].name, " ",
                  features[point.first].values[point.second].name);
  };
  for (const auto& [point, why] : refusals.values) {
    text += StrCat("| ", name(point), ", with anything | ", why, " |\n");
  }
  for (const auto& [pair, why] : refusals.pairs) {
    text += StrCat("| ", name(pair.first), " with ", name(pair.second), " | ",
                   why, " |\n");
  }
  return text;
}

TEST_F(FeaturePairsTest, EveryPairHasTheBitsOfOneServerOrIsRefused) {
  const std::vector<Feature> features = Features();
  const Refusals refusals = FindRefusals(features);
  const std::vector<Choice> jobs = CoverPairs(features, refusals);
  std::set<Pair> ran;
  int64_t rows_on_disk = 0;
  for (size_t i = 0; i < jobs.size(); i += kEvery) {
    SCOPED_TRACE(NameOf(features, jobs[i]));
    ExpectTheSameBits(features, jobs[i], i + 1, rows_on_disk);
    for (size_t a = 0; a < features.size(); ++a) {
      for (size_t b = a + 1; b < features.size(); ++b) {
        ran.insert({{a, jobs[i][a]}, {b, jobs[i][b]}});
      }
    }
  }
  for (const Pair& pair : AllPairs(features)) {
    EXPECT_TRUE(kEvery > 1 || ran.contains(pair) ||
                refusals.Has(pair.first, pair.second));
  }
  EXPECT_GT(rows_on_disk, 100) << "the tier had nothing to do";
  const std::string want = DocOf(features, refusals, jobs.size());
  const std::string path = SHOAL_SOURCE "/docs/feature-pairs.md";
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing sets the environment.
  if (std::getenv("SHOAL_WRITE_DOCS") != nullptr) {
    std::ofstream(path) << want;
  }
  std::ifstream in(path);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), want)
      << "docs/feature-pairs.md is old; SHOAL_WRITE_DOCS=1 writes it";
}

}  // namespace
}  // namespace shoal::simulation
