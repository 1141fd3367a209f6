#include "launch/placement.h"

#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/strcat.h"
#include "worker/job.pb.h"

namespace shoal::launch {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Words = std::vector<std::string>;

struct NamedSlots {
  const char* name;
  int slots;
};

worker::JobSpec MakeJob(int servers, int workers,
                        const std::vector<NamedSlots>& hosts = {},
                        const Words& server_hosts = {},
                        const Words& worker_hosts = {}) {
  worker::JobSpec job;
  job.mutable_cluster()->set_servers(servers);
  job.mutable_cluster()->set_workers(workers);
  worker::PlacementSpec& placement = *job.mutable_placement();
  for (const NamedSlots& host : hosts) {
    worker::HostSpec& added = *placement.add_hosts();
    added.set_name(host.name);
    added.set_slots(host.slots);
  }
  placement.mutable_servers()->Add(server_hosts.begin(), server_hosts.end());
  placement.mutable_workers()->Add(worker_hosts.begin(), worker_hosts.end());
  return job;
}

// "a: server 0, worker 1", a text per host.
Words Placed(const worker::JobSpec& job) {
  const auto placed = PlaceRoles(job);
  if (!placed.ok()) {
    return {placed.status().message()};
  }
  Words texts;
  for (const PlacedHost& host : *placed) {
    std::string text;
    for (const RankRole& role : host.roles) {
      text += StrCat(text.empty() ? "" : ", ", role.ToString());
    }
    texts.push_back(StrCat(host.name, ": ", text));
  }
  return texts;
}

Words Dealt(const worker::JobSpec& job, const Words& hosts) {
  const auto roles = DealRanks(job, hosts);
  if (!roles.ok()) {
    EXPECT_EQ(roles.status().code(), StatusCode::kInvalidArgument);
    return {roles.status().message()};
  }
  Words texts;
  for (const RankRole& role : *roles) {
    texts.push_back(role.ToString());
  }
  return texts;
}

TEST(PlacementTest, RolesAreDealtInTurnToTheHostsThatMayHaveThem) {
  EXPECT_THAT(Placed(MakeJob(2, 2)), IsEmpty());
  EXPECT_THAT(
      Placed(MakeJob(2, 3, {{"a", 8}, {"b", 8}})),
      ElementsAre("a: server 0, worker 0, worker 2", "b: server 1, worker 1"));
  EXPECT_THAT(Placed(MakeJob(2, 3, {{"a", 1}, {"b", 2}, {"c", 8}}, {"a", "b"},
                             {"b", "c"})),
              ElementsAre("a: server 0", "b: server 1, worker 0",
                          "c: worker 1, worker 2"));
}

TEST(PlacementTest, RolesThatDoNotFitAreRefusedWithHostsAndSlots) {
  EXPECT_THAT(
      Placed(MakeJob(1, 4, {{"a", 1}, {"b", 2}, {"c", 1}}, {"a"}, {"b", "c"})),
      ElementsAre(AllOf(HasSubstr("placement.workers: the job has 4"),
                        HasSubstr("room for 3 (slots: b has 2, c has 1;"))));
  EXPECT_THAT(Placed(MakeJob(2, 1, {{"a", 1}, {"b", 2}}, {"a"})),
              ElementsAre(HasSubstr("placement.servers: the job has 2")));
}

TEST(PlacementTest, WithoutAPlacementRanksGoByNumber) {
  const worker::JobSpec job = MakeJob(1, 2);
  EXPECT_THAT(Dealt(job, {"x", "x", "y"}),
              ElementsAre("server 0", "worker 0", "worker 1"));
  EXPECT_THAT(Dealt(job, {"x", "x", "y", "y"}),
              ElementsAre("coordinator", "server 0", "worker 0", "worker 1"));
}

TEST(PlacementTest, TooFewOrTooManyRanksSayWhatWasAskedAndWhatIsThere) {
  const worker::JobSpec job = MakeJob(1, 2);
  for (const Words& hosts : {Words{"x", "x"}, Words(5, "x")}) {
    EXPECT_THAT(
        Dealt(job, hosts),
        ElementsAre(AllOf(HasSubstr(StrCat("started ", hosts.size(), " ranks")),
                          HasSubstr("needs 3 (cluster.servers 1 + "
                                    "cluster.workers 2)"),
                          HasSubstr("mpirun -np 3"))));
  }
}

TEST(PlacementTest, RanksOfAPlacementGoByHostWhateverTheirOrder) {
  const worker::JobSpec job =
      MakeJob(2, 2, {{"a", 2}, {"b", 1}, {"c", 1}}, {"a", "b"}, {"a", "c"});
  EXPECT_THAT(Dealt(job, {"a", "a", "b", "c"}),
              ElementsAre("server 0", "worker 0", "server 1", "worker 1"));
  EXPECT_THAT(Dealt(job, {"c.cluster.local", "b", "a", "a"}),
              ElementsAre("worker 1", "server 1", "server 0", "worker 0"));
}

TEST(PlacementTest, RanksOnOtherHostsThanThePlacementsAreRefused) {
  const worker::JobSpec job = MakeJob(1, 2, {{"a", 1}, {"b", 2}}, {"a"}, {"b"});
  EXPECT_THAT(Dealt(job, {"a", "b", "z"}),
              ElementsAre(HasSubstr("rank 2 runs on host 'z', which "
                                    "placement.hosts does not name")));
  EXPECT_THAT(Dealt(job, {"a", "a", "b"}),
              ElementsAre(AllOf(HasSubstr("started 2 ranks on host 'a'"),
                                HasSubstr("has 1 servers and workers there"))));
  // There is no rank for a coordinator of its own.
  EXPECT_THAT(Dealt(job, {"a", "b", "b", "b"}),
              ElementsAre(HasSubstr("started 4 ranks")));
  EXPECT_THAT(Dealt(MakeJob(1, 1, {{"n.x", 2}}), {"n.y", "n.y"}),
              ElementsAre(HasSubstr("'n.y'")));
}

}  // namespace
}  // namespace shoal::launch
