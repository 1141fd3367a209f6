#include "ps/durable_state.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "ps/ps_testing.h"

namespace shoal::ps {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kFile[] = "out/state";

class DurableStateTest : public ::testing::Test {
 protected:
  DurableState Make(const std::string& path = kFile) {
    return {context_, CreateFileState(path),
            [this](const Status& why) { failed_ = why; }};
  }
  void Keep(DurableState& state, const std::string& text) {
    state.Keep(Buffer::CopyOf(text), [this, text] { kept_.push_back(text); });
  }
  StatusOr<std::string> Read() {
    DurableState state = Make();
    StatusOr<std::string> text = InternalError("nothing was read");
    state.Read([&text](const StatusOr<Buffer>& read) {
      text = read.ok() ? StatusOr<std::string>(std::string(read->text()))
                       : read.status();
    });
    context_.RunStorage();
    return text;
  }

  FakeContext context_{comm::kCoordinator};
  std::vector<std::string> kept_;
  Status failed_;
};

TEST_F(DurableStateTest, WhatWasKeptIsReadUntilItIsRemoved) {
  EXPECT_EQ(*Read(), "");
  DurableState state = Make();
  Keep(state, "first");
  EXPECT_FALSE(state.settled());
  EXPECT_THAT(kept_, IsEmpty()) << "it is not there yet";
  context_.RunStorage();
  EXPECT_TRUE(state.settled());
  EXPECT_THAT(kept_, ElementsAre("first"));
  EXPECT_EQ(*Read(), "first");
  Keep(state, "second");
  context_.RunStorage();
  EXPECT_EQ(*Read(), "second");
  bool removed = false;
  state.Remove(OkStatus(), [&removed] { removed = true; });
  context_.RunStorage();
  EXPECT_TRUE(removed);
  EXPECT_EQ(*Read(), "");
}

TEST_F(DurableStateTest, NewerOnesOvertakeThoseThatWait) {
  DurableState state = Make();
  for (const char* text : {"a", "b", "c"}) {
    Keep(state, text);
  }
  EXPECT_EQ(context_.num_works(), 1) << "one write at a time";
  context_.RunStorage();
  EXPECT_THAT(kept_, ElementsAre("a", "b", "c"));
  EXPECT_EQ(*Read(), "c");
}

TEST_F(DurableStateTest, NothingIsWrittenAfterTheRemoval) {
  DurableState state = Make();
  Keep(state, "under way");
  Keep(state, "waits");
  state.Remove(OkStatus(), [] {});
  Keep(state, "too late");
  context_.RunStorage();
  EXPECT_EQ(*Read(), "");
  EXPECT_THAT(kept_, ElementsAre("under way"));
}

TEST_F(DurableStateTest, FullDiskIsToldAndNothingGoesOn) {
  DurableState state = Make();
  context_.storage.SetCapacity(1);
  Keep(state, "too much");
  Keep(state, "as much");
  context_.RunStorage();
  EXPECT_THAT(kept_, IsEmpty());
  EXPECT_EQ(failed_.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(failed_.message(), HasSubstr(kFile));
}

TEST_F(DurableStateTest, DamagedFileIsRefusedNamingIt) {
  DurableState state = Make();
  Keep(state, "all of it");
  context_.RunStorage();
  const Buffer whole = *context_.storage.ReadFile(kFile);
  for (int64_t i = 0; i < whole.size(); ++i) {
    Buffer changed = Buffer::CopyOf(whole.text());
    changed.data()[i] ^= std::byte{1};
    const Buffer cut = Buffer::CopyOf(whole.text().substr(0, i));
    for (const Buffer& bad : {changed, cut}) {
      ASSERT_TRUE(context_.storage.PublishFile(kFile, {&bad, 1}).ok());
      const StatusOr<std::string> read = Read();
      EXPECT_EQ(read.status().code(), StatusCode::kDataLoss) << i;
      EXPECT_THAT(read.status().message(), HasSubstr(kFile));
    }
  }
}

TEST_F(DurableStateTest, WithoutAFileAllIsDoneAtOnce) {
  DurableState state = Make("");
  Keep(state, "anything");
  EXPECT_THAT(kept_, ElementsAre("anything"));
  EXPECT_TRUE(state.settled());
  EXPECT_EQ(context_.num_works(), 0);
}

}  // namespace
}  // namespace shoal::ps
