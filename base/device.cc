#include "base/device.h"

#include <cstring>

#include "base/strcat.h"
#include "base/thread_pool.h"

namespace shoal {
namespace {

class DoneEvent : public Event {
 public:
  bool Done() const override { return true; }
};

// Kernels run on the caller's thread and finish before they return, so a stream
// never has anything to wait for.
class CpuStream : public Stream {
 public:
  explicit CpuStream(ThreadPool& pool) : pool_(pool) {}
  ThreadPool* pool() override { return &pool_; }
  StatusOr<std::shared_ptr<Event>> Record() override {
    return std::shared_ptr<Event>(std::make_shared<DoneEvent>());
  }
  Status Wait(const Event& event) override {
    return event.Done() ? OkStatus()
                        : FailedPreconditionError(
                              "cpu stream: asked to wait for an event of "
                              "another device; synchronize that stream");
  }
  Status Synchronize() override { return OkStatus(); }

 private:
  ThreadPool& pool_;
};

class CpuDevice : public Device {
 public:
  explicit CpuDevice(ThreadPool& pool) : pool_(pool) {}
  std::string_view name() const override { return "cpu"; }
  bool host_can_read() const override { return true; }
  StatusOr<Buffer> Allocate(int64_t size_bytes) override {
    return Buffer::Allocate(size_bytes);
  }
  StatusOr<Buffer> AllocateHost(int64_t size_bytes) override {
    return Buffer::Allocate(size_bytes);
  }
  StatusOr<std::unique_ptr<Stream>> CreateStream() override {
    return std::unique_ptr<Stream>(std::make_unique<CpuStream>(pool_));
  }
  Status Copy(void* to, const void* from, int64_t size_bytes,
              Stream& /*stream*/) override {
    std::memcpy(to, from, static_cast<size_t>(size_bytes));
    return OkStatus();
  }

 private:
  ThreadPool& pool_;
};

Status CanNotRecord() {
  return UnimplementedError("this device's streams can't record work");
}

}  // namespace

Status Stream::BeginRecording() { return CanNotRecord(); }
StatusOr<std::unique_ptr<RecordedWork>> Stream::EndRecording() {
  return CanNotRecord();
}
Status Stream::Launch(const RecordedWork& /*work*/) { return CanNotRecord(); }

StatusOr<DeviceCollectives*> Device::collectives() {
  return FailedPreconditionError(
      StrCat("device ", name(), " has no collectives of its own"));
}

std::unique_ptr<Device> CreateCpuDevice(ThreadPool& pool) {
  return std::make_unique<CpuDevice>(pool);
}

}  // namespace shoal
