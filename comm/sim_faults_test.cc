// What befalls nodes beside crashes: parted networks, slowness, clocks that
// differ, disks that are full or lose what was being written.

#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/strcat.h"
#include "comm/comm_testing.h"
#include "comm/sim.h"
#include "comm/torn_storage.h"

namespace shoal::comm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

class SimListener : public Node {
 public:
  struct Record {
    NodeContext* context = nullptr;
    std::vector<std::pair<uint64_t, Time>> messages;
    std::vector<Time> downs;
  };
  SimListener(Record& record, const SimWorld& world)
      : record_(record), world_(world) {}
  void OnStart(NodeContext& context) override { record_.context = &context; }
  void OnMessage(EndpointId, Message message) override {
    record_.messages.emplace_back(message.header.request, world_.Now());
  }
  void OnPeerDown(EndpointId, const Status&) override {
    record_.downs.push_back(world_.Now());
  }

 private:
  Record& record_;
  const SimWorld& world_;
};

// Messages take 10 ms, a loss is seen after 50 ms, a partition after 400 ms.
SimOptions ExactFaults() {
  SimOptions options;
  options.delay_min = options.delay_max = 10ms;
  options.long_delay_chance = 0;
  options.detect_min = options.detect_max = 50ms;
  options.silence_min = options.silence_max = 400ms;
  options.storage_min = options.storage_max = 20ms;
  options.compute_min = options.compute_max = 7ms;
  return options;
}

class SimFaultsTest : public ::testing::Test {
 protected:
  void Begin(const SimOptions& options = ExactFaults(), uint64_t seed = 1) {
    world_ = std::make_unique<SimWorld>(seed, options);
    for (auto& [name, record] : records_) {
      world_->AddNode(name, [this, &record] {
        return std::make_unique<SimListener>(record, *world_);
      });
    }
    world_->RunFor(0ns);
    Connect();
    Send("a", "b", 1);
    Send("b", "a", 1);
    world_->RunFor(1s);
    for (auto& [name, record] : records_) {
      EXPECT_EQ(record.messages.size(), 1U);
      record.messages.clear();
    }
    begin_ = world_->Now();
  }
  void Connect() {
    EXPECT_TRUE(records_["a"]
                    .context->Connect(world_->id("b"), world_->address("b"))
                    .ok());
    EXPECT_TRUE(records_["b"]
                    .context->Connect(world_->id("a"), world_->address("a"))
                    .ok());
  }
  void Send(const std::string& from, const std::string& to, uint64_t request) {
    (void)records_[from].context->Send(world_->id(to), Lane::kBulk,
                                       TestMessage(request));
  }
  Time After(Duration length) const { return begin_ + length; }

  std::map<std::string, SimListener::Record> records_ = {{"a", {}}, {"b", {}}};
  std::unique_ptr<SimWorld> world_;
  Time begin_;
};

TEST_F(SimFaultsTest, ShortPartitionHoldsBackOneWayAlone) {
  Begin();
  world_->Partition("a", "b", 200ms);
  Send("a", "b", 2);
  Send("b", "a", 2);
  world_->RunFor(100ms);
  Send("a", "b", 3);
  world_->RunFor(1s);
  EXPECT_THAT(records_["a"].messages, ElementsAre(Pair(2, After(10ms))));
  EXPECT_THAT(records_["b"].messages,
              ElementsAre(Pair(2, After(210ms)), Pair(3, After(210ms + 1ns))));
  EXPECT_THAT(records_["a"].downs, IsEmpty());
  EXPECT_EQ(world_->num_losses(), 0);
}

TEST_F(SimFaultsTest, LongPartitionEndsTheConnectionAndRefusesAnother) {
  Begin();
  world_->Partition("a", "b", 2s);
  Send("a", "b", 2);
  world_->RunFor(1s);
  EXPECT_THAT(records_["a"].downs, ElementsAre(After(450ms)));
  EXPECT_THAT(records_["b"].downs, ElementsAre(After(450ms)));
  EXPECT_EQ(world_->num_losses(), 1);
  // Though it is the other way that is open.
  EXPECT_TRUE(records_["b"]
                  .context->Connect(world_->id("a"), world_->address("a"))
                  .ok());
  Send("b", "a", 3);
  world_->RunFor(1s);
  EXPECT_EQ(records_["b"].downs.size(), 2U);
  EXPECT_THAT(records_["a"].messages, IsEmpty());
  EXPECT_THAT(records_["b"].messages, IsEmpty());
  world_->RunFor(1s);
  Connect();
  Send("a", "b", 4);
  world_->RunFor(1s);
  EXPECT_THAT(records_["b"].messages, ElementsAre(Pair(4, After(3s + 10ms))));
}

TEST_F(SimFaultsTest, OneOfTheTwoMayLearnLate) {
  SimOptions options = ExactFaults();
  options.late_chance = 1;
  options.late_max = 1s;
  Begin(options);
  world_->LoseConnection("a", "b");
  world_->RunFor(2s);
  ASSERT_EQ(records_["a"].downs.size(), 1U);
  ASSERT_EQ(records_["b"].downs.size(), 1U);
  const Time first = std::min(records_["a"].downs[0], records_["b"].downs[0]);
  const Time last = std::max(records_["a"].downs[0], records_["b"].downs[0]);
  EXPECT_EQ(first, After(50ms));
  EXPECT_GT(last, first);
  EXPECT_LE(last, After(1050ms));
}

TEST_F(SimFaultsTest, SlowNodeTakesItsMessagesOneAfterAnother) {
  Begin();
  world_->SlowDown("b", 100, 500ms);  // 5 ms for each.
  for (uint64_t request = 2; request < 6; ++request) {
    Send("a", "b", request);
  }
  Time computed;
  records_["b"].context->StartCompute(
      0, [] {}, [&] { computed = world_->Now(); });
  world_->RunFor(490ms);
  Send("a", "b", 6);
  world_->RunFor(1s);
  EXPECT_THAT(records_["b"].messages,
              ElementsAre(Pair(2, After(10ms)), Pair(3, After(15ms)),
                          Pair(4, After(20ms)), Pair(5, After(25ms)),
                          Pair(6, After(500ms))));
  EXPECT_EQ(computed, After(700ms));
}

TEST_F(SimFaultsTest, ClocksDifferAndTimersGoByTheirOwn) {
  SimOptions options = ExactFaults();
  options.clock_offset_max = std::chrono::hours(1);
  options.clock_drift_max = 0.1;
  Begin(options);
  NodeContext& a = *records_["a"].context;
  NodeContext& b = *records_["b"].context;
  EXPECT_NE(a.Now(), b.Now());
  const Time a_before = a.Now();
  const Time b_before = b.Now();
  world_->RunFor(100s);
  const Duration a_passed = a.Now() - a_before;
  const Duration b_passed = b.Now() - b_before;
  EXPECT_NE(a_passed, b_passed);
  for (const Duration passed : {a_passed, b_passed}) {
    EXPECT_GE(passed, 90s);
    EXPECT_LE(passed, 110s);
  }
  const Time at = a.Now() + 10s;
  Time fired;
  a.SetTimer(at, [&] { fired = a.Now(); });
  world_->RunFor(20s);
  EXPECT_GE(fired, at);
  EXPECT_LT(fired, at + 10ns);
}

// --- Disks -----------------------------------------------------------------

Status WriteText(Storage& storage, const std::string& path,
                 const std::string& text) {
  const Buffer bytes = Buffer::CopyOf(text);
  return storage.PublishFile(path, std::span(&bytes, 1));
}

std::string TextIn(Storage& storage, const std::string& path) {
  const StatusOr<Buffer> bytes = storage.ReadFile(path);
  return bytes.ok() ? std::string(bytes->text()) : "";
}

TEST(TornStorageTest, WhatWasSafeStaysAndTheRestIsTakenBack) {
  MemoryStorage files;
  ASSERT_TRUE(WriteText(files, "x/one", "old").ok());
  ASSERT_TRUE(WriteText(files, "y/a", "a").ok());
  TornStorage torn(files);
  EXPECT_TRUE(WriteText(torn, "x/one", "new").ok());         // 1
  EXPECT_TRUE(WriteText(torn, "x/two", "0123456789").ok());  // 2
  EXPECT_TRUE(torn.MoveFolder("y", "z").ok());               // 3
  EXPECT_TRUE(torn.Remove("x").ok());                        // 4
  EXPECT_TRUE(torn.Remove("nothing").ok());
  EXPECT_EQ(torn.num_changes(), 4U);
  torn.TearAfter(1, 0.5);
  EXPECT_EQ(TextIn(files, "x/one"), "new");
  EXPECT_EQ(TextIn(files, "x/two"), "");
  EXPECT_EQ(TextIn(files, "x/two.tmp-torn"), "01234");
  EXPECT_EQ(TextIn(files, "y/a"), "a");
  EXPECT_EQ(TextIn(files, "z/a"), "");
  EXPECT_EQ(FilesIn(files, "").size(), 3U);
}

TEST(TornStorageTest, FolderIsHalfRemoved) {
  MemoryStorage files;
  for (const char* name : {"x/a", "x/b", "x/c", "x/d", "other"}) {
    ASSERT_TRUE(WriteText(files, name, name).ok());
  }
  TornStorage torn(files);
  EXPECT_TRUE(torn.Remove("x").ok());
  EXPECT_EQ(FilesIn(files, "").size(), 1U);
  torn.TearAfter(0, 0.5);
  EXPECT_EQ(FilesIn(files, "").size(), 3U);
  torn.TearAfter(0, 0);  // Nothing more to take back.
  EXPECT_EQ(FilesIn(files, "").size(), 3U);
}

// Of ten files that a work writes, a crash in its midst leaves some first ones.
TEST_F(SimFaultsTest, CrashCutsAStorageWorkOff) {
  std::set<int> left;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    Begin(ExactFaults(), seed);
    bool done = false;
    records_["a"].context->StartStorage(
        [](Storage& storage) -> StatusOr<Buffer> {
          for (int i = 0; i < 10; ++i) {
            SHOAL_RETURN_IF_ERROR(
                WriteText(storage, StrCat("file-", i), "text"));
          }
          return Buffer();
        },
        [&](const StatusOr<Buffer>&) { done = true; });
    world_->RunFor(10ms);
    world_->CrashNode("a");
    world_->RunFor(1s);
    EXPECT_FALSE(done);
    int files = 0;
    while (TextIn(world_->storage(), StrCat("file-", files)) == "text") {
      ++files;
    }
    // No hole, and one torn file beside at most.
    EXPECT_LE(FilesIn(world_->storage(), "").size(),
              static_cast<size_t>(files + 1));
    left.insert(files);
  }
  EXPECT_GT(left.size(), 7U);
}

TEST_F(SimFaultsTest, FullDiskRefusesForAWhile) {
  Begin();
  std::vector<StatusCode> codes;
  const auto write = [&] {
    records_["a"].context->StartStorage(
        [](Storage& storage) -> StatusOr<Buffer> {
          SHOAL_RETURN_IF_ERROR(WriteText(storage, "file", "text"));
          return Buffer();
        },
        [&](const StatusOr<Buffer>& written) {
          codes.push_back(written.status().code());
        });
    world_->RunFor(50ms);
  };
  world_->FillDisk(200ms);
  write();
  world_->RunFor(200ms);
  write();
  EXPECT_THAT(codes,
              ElementsAre(StatusCode::kResourceExhausted, StatusCode::kOk));
}

}  // namespace
}  // namespace shoal::comm
