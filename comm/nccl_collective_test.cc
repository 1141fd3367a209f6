// The collective by a device's library, beside a device of the test's: one
// whose work lies on its stream until it is let go, as on a GPU. What members
// do together is in tests/nccl.
#include "comm/nccl_collective.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/mutex.h"
#include "comm/collective_testing.h"
#include "comm/pump.h"

namespace shoal::comm {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

// What the test and the device share.
struct Gpu {
  void Enqueue(std::function<void()> work) {
    const MutexLock lock(mutex);
    queue.push_back(std::move(work));
    ++enqueued;
  }
  // Does what has been enqueued.
  void Run() {
    const MutexLock lock(mutex);
    for (const auto& work : std::exchange(queue, {})) {
      work();
    }
    finished = enqueued;
  }
  bool Finished(int64_t ticket) {
    const MutexLock lock(mutex);
    return finished >= ticket || broken;
  }

  Mutex mutex;
  std::deque<std::function<void()>> queue SHOAL_GUARDED_BY(mutex);
  int64_t enqueued SHOAL_GUARDED_BY(mutex) = 0;
  int64_t finished SHOAL_GUARDED_BY(mutex) = 0;
  std::atomic<bool> broken = false;
  std::atomic<bool> lost = false;   // says the library
  std::atomic<bool> stuck = false;  // is the library
  std::atomic<bool> called = false;
  std::atomic<bool> aborted = false;
};

class GpuEvent : public Event {
 public:
  GpuEvent(std::shared_ptr<Gpu> gpu, int64_t ticket)
      : gpu_(std::move(gpu)), ticket_(ticket) {}
  bool Done() const override { return gpu_->Finished(ticket_); }

 private:
  const std::shared_ptr<Gpu> gpu_;
  const int64_t ticket_;
};

class GpuStream : public Stream {
 public:
  explicit GpuStream(std::shared_ptr<Gpu> gpu) : gpu_(std::move(gpu)) {}
  ThreadPool* pool() override { return nullptr; }
  StatusOr<std::shared_ptr<Event>> Record() override {
    if (gpu_->broken) {
      return InternalError("the GPU is broken");
    }
    const MutexLock lock(gpu_->mutex);
    return std::shared_ptr<Event>(
        std::make_shared<GpuEvent>(gpu_, gpu_->enqueued));
  }
  Status Wait(const Event& /*event*/) override { return OkStatus(); }
  // After an abort there is nothing to wait for.
  Status Synchronize() override {
    EXPECT_TRUE(gpu_->aborted);
    return OkStatus();
  }

 private:
  const std::shared_ptr<Gpu> gpu_;
};

// Adds 100 to what is summed.
class GpuCollective : public DeviceCollective {
 public:
  explicit GpuCollective(std::shared_ptr<Gpu> gpu) : gpu_(std::move(gpu)) {}
  StatusOr<bool> Ready() override {
    while (gpu_->stuck) {
      std::this_thread::sleep_for(1ms);
    }
    if (gpu_->lost) {
      return UnavailableError("a member is lost");
    }
    return true;
  }
  Status Enqueue(const DeviceCollectiveCall& call, Stream& /*s*/) override {
    gpu_->Enqueue([call] {
      for (int64_t i = 0; i < call.count; ++i) {
        static_cast<float*>(call.data)[i] += 100;
      }
    });
    gpu_->called = true;
    return OkStatus();
  }
  Status Finish() override { return OkStatus(); }
  void Abort() override { gpu_->aborted = true; }

 private:
  const std::shared_ptr<Gpu> gpu_;
};

class GpuCollectives : public DeviceCollectives {
 public:
  explicit GpuCollectives(std::shared_ptr<Gpu> gpu) : gpu_(std::move(gpu)) {}
  std::string library() const override { return "the test's"; }
  StatusOr<std::string> DeviceId() const override {
    return std::string("0123456789abcdef");
  }
  StatusOr<Buffer> MakeGroupId() override { return Buffer::CopyOf("id"); }
  StatusOr<std::unique_ptr<DeviceCollective>> Join(
      std::span<const std::byte> group_id, int rank, int size) override {
    EXPECT_EQ(std::memcmp(group_id.data(), "id", 2), 0);
    EXPECT_EQ(rank, 0);
    EXPECT_EQ(size, 1);
    return std::unique_ptr<DeviceCollective>(
        std::make_unique<GpuCollective>(gpu_));
  }

 private:
  const std::shared_ptr<Gpu> gpu_;
};

class GpuDevice : public Device {
 public:
  explicit GpuDevice(const std::shared_ptr<Gpu>& gpu)
      : gpu_(gpu), collectives_(gpu) {}
  std::string_view name() const override { return "test"; }
  bool host_can_read() const override { return false; }
  StatusOr<Buffer> Allocate(int64_t bytes) override {
    return Buffer::Allocate(bytes);
  }
  StatusOr<Buffer> AllocateHost(int64_t bytes) override {
    return Buffer::Allocate(bytes);
  }
  StatusOr<std::unique_ptr<Stream>> CreateStream() override {
    return std::unique_ptr<Stream>(std::make_unique<GpuStream>(gpu_));
  }
  Status Copy(void* to, const void* from, int64_t bytes,
              Stream& /*stream*/) override {
    gpu_->Enqueue([to, from, bytes] {
      std::memcpy(to, from, static_cast<size_t>(bytes));
    });
    return OkStatus();
  }
  StatusOr<DeviceCollectives*> collectives() override { return &collectives_; }

 private:
  const std::shared_ptr<Gpu> gpu_;
  GpuCollectives collectives_;
};

class NcclCollectiveTest : public ::testing::Test {
 protected:
  // A sum of one member; `meanwhile` is called once it is on the device.
  Status Sum(const std::function<void()>& meanwhile, Duration timeout) {
    Pump::Options options;
    options.transport = "inproc";
    static uint64_t next = 90'000;
    options.endpoint.self = EndpointId{++next};
    auto pump = Pump::Create(options);
    SHOAL_CHECK(pump.ok());
    Group group;
    group.members.push_back({.endpoint = options.endpoint.self,
                             .address = (*pump)->address(),
                             .name = "worker 0",
                             .nodes = {}});
    DealOneLeafEach(group);
    ScriptMember member(&NcclCollective::Create, group,
                        {.timeout = timeout,
                         .open_device =
                             [gpu = gpu_] {
                               return StatusOr<std::shared_ptr<Device>>(
                                   std::make_shared<GpuDevice>(gpu));
                             }},
                        {[this](Collective& c, Collective::Done done) {
                          const void* const terms[] = {data_.data()};
                          c.AllReduce(DType::kF32, terms, data_.data(), 500,
                                      std::move(done));
                        }});
    std::thread other([this, &meanwhile] {
      while (!gpu_->called) {
        std::this_thread::sleep_for(1ms);
      }
      std::this_thread::sleep_for(50ms);
      meanwhile();
    });
    const Status end = (*pump)->Run(member);
    other.join();
    return end;
  }

  const std::shared_ptr<Gpu> gpu_ = std::make_shared<Gpu>();
  std::vector<float> data_ = std::vector<float>(500, 1.0F);
};

TEST_F(NcclCollectiveTest, ResultsAreWaitedForOnTheDevice) {
  const Status end = Sum(
      [this] {
        // By now one that did not wait has taken what is not there.
        EXPECT_THAT(data_, Each(1.0F));
        gpu_->Run();
      },
      20s);
  EXPECT_TRUE(end.ok()) << end;
  EXPECT_THAT(data_, Each(101.0F));
}

TEST_F(NcclCollectiveTest, WhatHangsOnTheDeviceIsAbortedAtTheDeadline) {
  const Time before = std::chrono::steady_clock::now();
  const Status end = Sum([] {}, 400ms);
  EXPECT_LT(std::chrono::steady_clock::now() - before, 3s);
  EXPECT_THAT(end.message(), HasSubstr("allreduce 1 of 500 f32: waited 400 ms "
                                       "for NCCL"));
  EXPECT_TRUE(gpu_->aborted);
  EXPECT_THAT(data_, Each(1.0F));
}

TEST_F(NcclCollectiveTest, ErrorsWhileTheDeviceWorksEndTheOperation) {
  const Status end = Sum([this] { gpu_->lost = true; }, 20s);
  EXPECT_THAT(end.message(),
              AllOf(HasSubstr("allreduce 1 of 500 f32: a member is lost"),
                    HasSubstr("no member has lost its connection")));
  EXPECT_TRUE(gpu_->aborted);
}

TEST_F(NcclCollectiveTest, ResultsOfADeviceThatHasFailedAreNotTaken) {
  const Status end = Sum([this] { gpu_->broken = true; }, 20s);
  EXPECT_THAT(end.message(),
              HasSubstr("allreduce 1 of 500 f32: the GPU is broken"));
  EXPECT_THAT(data_, Each(1.0F));
}

TEST_F(NcclCollectiveTest, AThreadThatHangsInTheLibraryIsLeftBehind) {
  const Time before = std::chrono::steady_clock::now();
  const Status end = Sum([this] { gpu_->stuck = true; }, 400ms);
  // The deadline, and what it is waited for.
  EXPECT_LT(std::chrono::steady_clock::now() - before, 8s);
  EXPECT_THAT(end.message(), HasSubstr("waited 400 ms for NCCL"));
  EXPECT_FALSE(gpu_->aborted);
  gpu_->stuck = false;
  while (!gpu_->aborted) {
    std::this_thread::sleep_for(1ms);
  }
}

}  // namespace
}  // namespace shoal::comm
