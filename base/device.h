#ifndef SHOAL_BASE_DEVICE_H_
#define SHOAL_BASE_DEVICE_H_

#include <string_view>

#include "base/buffer.h"
#include "base/status.h"

namespace shoal {

class DeviceCollectives;
class ThreadPool;

// A point in a stream's work. Thread-safe.
class Event {
 public:
  virtual ~Event() = default;
  virtual bool Done() const = 0;
};

// Work that was recorded by a stream, to be begun at once.
class RecordedWork {
 public:
  virtual ~RecordedWork() = default;
};

// An ordered queue of work on a device. A kernel is handed its stream, enqueues
// and returns; on `cpu` it has finished when it returns.
// Thread-compatible: one thread enqueues.
class Stream {
 public:
  virtual ~Stream() = default;

  // The threads that a CPU kernel may split its outputs over; null elsewhere.
  virtual ThreadPool* pool() = 0;

  // An event that is done when all that was enqueued so far is.
  virtual StatusOr<std::shared_ptr<Event>> Record() = 0;

  // What is enqueued from here on starts after `event`.
  // Errors: kFailedPrecondition (an event of another device).
  virtual Status Wait(const Event& event) = 0;

  // Blocks until all that was enqueued is done. Errors: those of the kernels.
  virtual Status Synchronize() = 0;

  // Where it can record: what is enqueued between the two calls becomes one
  // piece of work, and does not run. Launch() enqueues it.
  virtual bool can_record() const { return false; }
  virtual Status BeginRecording();
  virtual StatusOr<std::unique_ptr<RecordedWork>> EndRecording();
  virtual Status Launch(const RecordedWork& work);
};

// Where buffers live and kernels run. Its kernels are found by its name
// (kernels/kernel.h). Thread-safe; outlives its streams, not its buffers.
class Device {
 public:
  virtual ~Device() = default;
  virtual std::string_view name() const = 0;  // "cpu", "cuda", "shadow"
  virtual bool host_can_read() const = 0;

  // Errors: kResourceExhausted, with what is taken and what is free.
  virtual StatusOr<Buffer> Allocate(int64_t size_bytes) = 0;

  // Memory of the host that Copy() can run to and from while the host goes on.
  // Errors: kResourceExhausted.
  virtual StatusOr<Buffer> AllocateHost(int64_t size_bytes) = 0;

  virtual StatusOr<std::unique_ptr<Stream>> CreateStream() = 0;

  // Enqueues a copy between this device's memory and the host's, either way, or
  // within the device. The host's side is of AllocateHost(), and is the copy's
  // until it is done.
  // Errors: kFailedPrecondition (memory of neither kind).
  virtual Status Copy(void* to, const void* from, int64_t size_bytes,
                      Stream& stream) = 0;

  // What sums among devices of this kind; may block to load a library.
  // Errors: kFailedPrecondition (there is none, or it can't be used, and why).
  virtual StatusOr<DeviceCollectives*> collectives();
};

// The host. `pool` must outlive the device.
std::unique_ptr<Device> CreateCpuDevice(ThreadPool& pool);

}  // namespace shoal

#endif  // SHOAL_BASE_DEVICE_H_
