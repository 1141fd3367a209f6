// Incremental checkpoints in a simulated world: whatever befalls the job, each
// of them has the bits of the full one of an undisturbed run; and bugs of them,
// planted on purpose, are found.

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

#include "base/storage.h"
#include "base/strcat.h"
#include "comm/torn_storage.h"
#include "ps/checkpoint_format.h"
#include "ps/checkpoint_parts.h"
#include "ps/protocol.pb.h"
#include "ps/wire.h"
#include "tests/simulation/cluster_world.h"
#include "tests/simulation/forwarding.h"
#include "tests/simulation/planted_bug.h"

namespace shoal::simulation {
namespace {

using ps::Method;

// Ten checkpoints, in between which rows come, change and go.
std::vector<std::string> Keys(const std::string& full_every) {
  return {"checkpoint.every_steps=5", "checkpoint.full_every=" + full_every,
          "tables.embedding.eviction={max_age_steps: 6}",
          "tables.linear.admission={min_count: 2}"};
}

// Now and then a shard gives up its part of a checkpoint, as one does in which
// too much changes before it is written: of one whose base is the one before,
// since what follows one that was given up stops the training, and is not.
class GivingUpNode : public ForwardingNode {
 public:
  GivingUpNode(std::unique_ptr<comm::Node> to, int64_t* given_up)
      : ForwardingNode(std::move(to)), given_up_(given_up) {}
  void OnMessage(comm::EndpointId from, comm::Message message) override {
    ps::wire::Save save;
    if (Is(message, Method::kSave) && ps::Decode(message, save).ok() &&
        save.step() != step_) {
      gives_up_ =
          save.has_base() && save.base() == step_ && save.step() % 15 == 0;
      step_ = save.step();
    }
    if (Is(message, Method::kParts) && gives_up_) {
      asked_ = {from, std::move(message)};
      // It may get no push, of nothing that it is head of.
      context_->SetTimer(context_->Now() + 3s, [this, step = step_] {
        if (asked_.has_value() && step == step_) {
          const auto [by, request] = *std::exchange(asked_, std::nullopt);
          ForwardingNode::OnMessage(by, request);
        }
      });
      return;
    }
    ps::wire::Push push;
    if (asked_.has_value() && Is(message, Method::kPush) &&
        ps::Decode(message, push).ok() && push.step() >= step_) {
      // Training goes on: all have made the cut.
      const auto [by, request] = *std::exchange(asked_, std::nullopt);
      ++*given_up_;
      (void)context_->Send(
          by, comm::Lane::kBulk,
          comm::MakeErrorReply(request, AbortedError("too much has changed")));
    }
    ForwardingNode::OnMessage(from, std::move(message));
  }

 private:
  int64_t* const given_up_;
  int64_t step_ = -1;
  bool gives_up_ = false;
  std::optional<std::pair<comm::EndpointId, comm::Message>> asked_;
};

class IncrementalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = SimulatedJob::Create(Keys("4"));
    ASSERT_TRUE(made.ok()) << made.status();
    job_ = *std::move(made);
  }

  // What `plan` leaves at each checkpoint when nothing befalls it, saved full.
  std::map<int64_t, std::string> CalmDigests(const RunPlan& plan) const {
    RunPlan calm = {.mode = plan.mode,
                    .workers = plan.workers,
                    .faults = false,
                    .crashes = 0};
    std::map<int64_t, std::string> digests;
    std::vector<std::string> keys = Keys("1");
    keys.emplace_back("checkpoint.keep=99");
    const auto job = SimulatedJob::Create(keys);
    EXPECT_TRUE(job.ok()) << job.status();
    const RunResult result = RunJob(**job, calm);
    EXPECT_TRUE(result.status.ok()) << result.status;
    EXPECT_EQ(result.digests.size(), 10U);
    return result.digests;
  }

  // Counts what servers are asked for, and has them give up some of it.
  Decorate Watch() {
    return [this](const std::string& name, std::unique_ptr<comm::Node> node)
               -> std::unique_ptr<comm::Node> {
      if (!name.starts_with("server")) {
        return node;
      }
      return std::make_unique<ChangingNode>(
          std::make_unique<GivingUpNode>(std::move(node), &given_up_),
          [this](comm::NodeContext&, comm::EndpointId, comm::Message& message) {
            ps::wire::Save save;
            if (Is(message, Method::kSave) && ps::Decode(message, save).ok()) {
              incremental_ += save.has_base() ? 1 : 0;
            }
            return true;
          });
    };
  }

  void ExpectBits(uint64_t seeds,
                  const std::function<RunPlan(int seed)>& plan_of) {
    std::map<int64_t, std::string> want = CalmDigests(plan_of(1));
    for (uint64_t seed = 1; seed <= seeds; ++seed) {
      SCOPED_TRACE(StrCat("seed ", seed));
      RunPlan plan = plan_of(static_cast<int>(seed));
      plan.seed = seed;
      plan.digests = want;
      plan.decorate = Watch();
      const RunResult result = RunJob(*job_, plan);
      ASSERT_TRUE(result.status.ok()) << result.status;
      ASSERT_EQ(result.violation, "");
      ASSERT_EQ(result.digest, want.rbegin()->second);
    }
    std::cout << "incremental parts: " << incremental_ << ", given up "
              << given_up_ << "\n";
    EXPECT_GT(given_up_, static_cast<int64_t>(seeds));
    EXPECT_GT(incremental_, static_cast<int64_t>(seeds));
  }

  std::unique_ptr<SimulatedJob> job_;
  int64_t incremental_ = 0;
  int64_t given_up_ = 0;
};

TEST_F(IncrementalTest, LostMembersLeaveTheBitsOfFullOnes) {
  ExpectBits(120 / kShare, [](int seed) {
    const int replicas = 1 + seed % 3;
    return RunPlan{.crashes = seed % 2,
                   .replicas = replicas,
                   .server_crashes = replicas > 1 ? 3 : 0,
                   .coordinator_crashes = seed % 4 == 0 ? 1 : 0,
                   .scales = seed % 5 == 0 ? 2 : 0,
                   .partitions = seed % 3,
                   .slow_processes = seed % 2};
  });
}

TEST_F(IncrementalTest, LostLeadersAndMovedSlotsLeaveTheBitsOfFullOnes) {
  ExpectBits(80 / kShare, [](int seed) {
    const int replicas = 1 + seed % 3;
    return RunPlan{.crashes = 1,
                   .replicas = replicas,
                   .server_crashes = replicas > 1 ? 1 : 0,
                   .coordinator_crashes = 1,
                   .coordinators = 2 + seed % 2,
                   .cut_offs = seed % 3,
                   .scales = 3};
  });
}

// With one worker the order of pushes is the same.
TEST_F(IncrementalTest, OutsideSyncLostServersLeaveTheBitsOfFullOnes) {
  ExpectBits(80 / kShare, [](int seed) {
    return RunPlan{.mode = ps::Mode::kBounded,
                   .workers = 1,
                   .crashes = 0,
                   .replicas = 2 + seed % 2,
                   .server_crashes = 3};
  });
}

// Rows that changed since the last checkpoint may be on disk by the next.
TEST_F(IncrementalTest, RowsOnDiskAreOfTheBitsOfFullOnes) {
  std::vector<std::string> keys = {FeaturesOfManyIds(),
                                   "model.dim=16",
                                   "train.max_steps=24",
                                   "checkpoint.every_steps=4",
                                   "tables.embedding.eviction={max_age_steps: "
                                   "10}",
                                   "checkpoint.keep=99"};
  const auto full = SimulatedJob::Create(keys);
  ASSERT_TRUE(full.ok()) << full.status();
  const RunResult want = RunJob(**full, {.faults = false, .crashes = 0});
  ASSERT_TRUE(want.status.ok()) << want.status;
  keys.insert(keys.end(),
              {"checkpoint.full_every=4", "cluster.memory_per_server=1900000",
               "tables.linear.tier=disk", "tables.embedding.tier=disk"});
  const auto job = SimulatedJob::Create(keys);
  ASSERT_TRUE(job.ok()) << job.status();
  int64_t rows_on_disk = 0;
  for (uint64_t seed = 1; seed <= 10 / std::min<uint64_t>(kShare, 5); ++seed) {
    SCOPED_TRACE(StrCat("seed ", seed));
    const RunResult result = RunJob(**job, {.seed = seed,
                                            .crashes = 0,
                                            .replicas = 3,
                                            .server_crashes = 2,
                                            .digests = want.digests,
                                            .reports = true,
                                            .decorate = Watch()});
    ASSERT_TRUE(result.status.ok()) << result.status;
    EXPECT_EQ(result.violation, "");
    EXPECT_EQ(result.digest, want.digest);
    rows_on_disk = std::max(rows_on_disk, result.rows_on_disk);
  }
  EXPECT_GT(incremental_, 10);
  EXPECT_GT(rows_on_disk, 100) << "none was on disk";
}

// All processes die at one moment, also while they write or remove files; the
// job goes on from its newest checkpoint, on other servers, over what is there.
TEST_F(IncrementalTest, PowerFailureLeavesTheLastCheckpointAndItsBases) {
  const std::map<int64_t, std::string> want = CalmDigests({});
  int restored = 0;
  for (uint64_t seed = 1; seed <= 80 / kShare; ++seed) {
    SCOPED_TRACE(StrCat("seed ", seed));
    const double after = 0.05 + 8 * static_cast<double>(seed * 79 % 80) / 80;
    const RunResult result = RunJob(*job_, {.seed = seed,
                                            .crashes = 0,
                                            .power_fails_after = after,
                                            .digests = want});
    ASSERT_TRUE(!result.ended || result.status.ok()) << result.status;
    ASSERT_EQ(result.violation, "");
    RunPlan rest = PlanOfRest(result, seed, want);
    if (!result.digests.empty()) {
      // Also one that others are based on, which make way.
      auto from = result.digests.rbegin();
      if (seed % 2 == 0 && result.digests.size() > 1) {
        ++from;
      }
      RestoreFrom(from->first, rest);
      ++restored;
    }
    const RunResult ended = RunJob(*job_, rest);
    ASSERT_TRUE(ended.status.ok()) << ended.status;
    EXPECT_EQ(ended.violation, "");
    EXPECT_EQ(ended.digest, want.rbegin()->second);
  }
  EXPECT_GT(static_cast<uint64_t>(restored), 40 / kShare);
}

// --- Planted bugs ----------------------------------------------------------

class IncrementalBugsTest : public PlantedBugTest {
 protected:
  static void SetUpTestSuite() {
    auto made = SimulatedJob::Create(Keys("4"));
    ASSERT_TRUE(made.ok()) << made.status();
    job = made->release();
  }

  static RunPlan Losing() {
    return {.crashes = 0,
            .replicas = 2,
            .server_crashes = 3,
            .scales = 2,
            .slow_processes = 1};
  }
};

// The marks of a cut go with it, though its checkpoint was given up: what is
// written is what changed since that cut.
TEST_F(IncrementalBugsTest, FindsMarksThatAreDroppedWithASaveThatIsGivenUp) {
  int64_t given_up = 0;
  const auto make = [&](std::unique_ptr<comm::Node> node) {
    return std::make_unique<GivingUpNode>(
        std::make_unique<ChangingNode>(
            std::move(node),
            [last = std::optional<int64_t>()](comm::NodeContext&,
                                              comm::EndpointId,
                                              comm::Message& message) mutable {
              ps::wire::Save save;
              if (Is(message, Method::kSave) &&
                  ps::Decode(message, save).ok()) {
                if (save.has_base() && last.has_value() &&
                    *last < save.step()) {
                  save.set_base(*last);
                  message.frames[0] = ps::Encode(save);
                }
                last = save.step();
              }
              return true;
            }),
        &given_up);
  };
  EXPECT_TRUE(Finds(Losing(), Around("server", make)));
  EXPECT_GT(given_up, 0);
}

// Changes the tensors of what a server writes of an incremental checkpoint.
class ChangesPartsContext : public ForwardingContext {
 public:
  using ForwardingContext::ForwardingContext;
  void StartStorage(std::function<StatusOr<Buffer>(Storage&)> work,
                    std::function<void(StatusOr<Buffer>)> done) override {
    ForwardingContext::StartStorage(
        [this, work = std::move(work)](Storage& storage) {
          return Changed(work, storage);
        },
        std::move(done));
  }

 protected:
  virtual void Change(ps::Tensors& tensors) = 0;

  static void Replace(ps::GatheredRows& rows, const std::string& prefix,
                      ps::Tensors& tensors) {
    ps::TensorsWriter writer;
    rows.MoveTo(writer, prefix);
    MemoryStorage storage;
    const auto file = writer.Publish(storage, "f", "rows");
    const auto read = ps::ReadTensors(storage, "f", *file);
    for (const auto& [name, tensor] : *read) {
      tensors[name] = tensor;
    }
  }

 private:
  StatusOr<Buffer> Changed(
      const std::function<StatusOr<Buffer>(Storage&)>& work, Storage& storage) {
    MemoryStorage written;
    StatusOr<Buffer> entry = work(written);
    const auto files = comm::FilesIn(written, kCheckpoints);
    if (!entry.ok() || files.size() != 1) {
      return work(storage);  // It reads.
    }
    if (files.begin()->first.find("/changes-") == std::string::npos) {
      SHOAL_RETURN_IF_ERROR(storage.PublishFile(files.begin()->first,
                                                {&files.begin()->second, 1}));
      return entry;
    }
    SHOAL_RETURN_IF_ERROR(ps::PublishManifest(
        written, "manifest", 1, {std::string(entry->text())}, {}));
    const auto manifest = ps::ReadManifest(written, "manifest");
    ps::ManifestPart part = manifest->parts[0];
    const std::string& path = files.begin()->first;
    const std::string folder = path.substr(0, path.rfind('/'));
    auto tensors = ps::ReadTensors(written, folder, part.file);
    Change(*tensors);
    ps::TensorsWriter writer;
    for (const auto& [name, tensor] : *tensors) {
      writer.Add(name, tensor.dtype.c_str(), tensor.shape, tensor.data);
    }
    SHOAL_ASSIGN_OR_RETURN(part.file,
                           writer.Publish(storage, folder, part.file.file));
    return Buffer::CopyOf(ps::DescribePart(part));
  }
};

class HidesRemovedContext : public ChangesPartsContext {
 public:
  using ChangesPartsContext::ChangesPartsContext;

 protected:
  void Change(ps::Tensors& tensors) override {
    std::erase_if(tensors, [](const auto& entry) {
      return entry.first.ends_with("/removed");
    });
  }
};

TEST_F(IncrementalBugsTest, FindsRemovedRowsThatAreNotTold) {
  EXPECT_TRUE(FindsContext<HidesRemovedContext>(Losing(), "server"));
}

// Of a slot that came from another shard nothing is marked: it is written as
// if nothing had changed in it.
class TrustsEmptyMarksContext : public ChangesPartsContext {
 public:
  using ChangesPartsContext::ChangesPartsContext;

 protected:
  void Change(ps::Tensors& tensors) override {
    for (const char* table : {"embedding", "linear", "linear/candidates"}) {
      const std::string prefix = StrCat(table, "/");
      const auto ids = tensors.find(prefix + "ids");
      if (ids == tensors.end()) {
        continue;
      }
      if (tensors.contains(prefix + "whole")) {
        const auto found = ps::TableOf(tensors, "part", table);
        whole_[table] = ps::SlotFlags();
        EXPECT_TRUE(found->AddWholeTo(whole_[table]));
        tensors.erase(prefix + "whole");
      }
      const ps::SlotFlags& whole = whole_[table];
      const auto found = ps::TableOf(tensors, "part", table);
      ps::GatheredRows kept(found->form);
      for (size_t i = 0; i < found->ids.size(); ++i) {
        if (!whole.Has(ps::IdHash(found->ids[i]))) {
          kept.Add(found->ids[i], found->values_of(i), found->state_of(i));
        }
      }
      for (const uint64_t id : found->removed) {
        kept.AddRemoved(id);
      }
      Replace(kept, prefix, tensors);
    }
  }

 private:
  std::map<std::string, ps::SlotFlags> whole_;  // of the last first file
};

TEST_F(IncrementalBugsTest, FindsAReceivedSlotThatIsWrittenByItsMarks) {
  EXPECT_TRUE(FindsContext<TrustsEmptyMarksContext>(Losing(), "server"));
}

// Of each file one row is not marked, the first.
class SkipsARowContext : public ChangesPartsContext {
 public:
  using ChangesPartsContext::ChangesPartsContext;

 protected:
  void Change(ps::Tensors& tensors) override {
    const std::string table = "embedding";
    if (!tensors.contains(table + "/ids") ||
        tensors.contains(table + "/whole")) {
      return;
    }
    const auto found = ps::TableOf(tensors, "part", table);
    ps::GatheredRows kept(found->form);
    for (size_t i = 1; i < found->ids.size(); ++i) {
      kept.Add(found->ids[i], found->values_of(i), found->state_of(i));
    }
    Replace(kept, table + "/", tensors);
  }
};

TEST_F(IncrementalBugsTest, FindsARowThatIsNotMarked) {
  EXPECT_TRUE(FindsContext<SkipsARowContext>(Losing(), "server"));
}

}  // namespace
}  // namespace shoal::simulation
