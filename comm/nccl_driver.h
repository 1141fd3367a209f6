#ifndef SHOAL_COMM_NCCL_DRIVER_H_
#define SHOAL_COMM_NCCL_DRIVER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/device.h"
#include "base/device_collective.h"
#include "base/mutex.h"
#include "base/status.h"
#include "base/time.h"
#include "comm/collective.h"

namespace shoal::comm {

// An operation of NcclCollective, which the driver works on beside the node.
struct NcclOperation {
  uint64_t sequence = 0;
  const char* name = "";
  Collective::Done done;      // the node's
  DeviceCollectiveCall call;  // but for its memory, which is the driver's
  // Of the memory on the device, in bytes: all, what comes from the caller, and
  // what goes back.
  int64_t bytes = 0;
  std::pair<int64_t, int64_t> in;
  std::pair<int64_t, int64_t> out;
  // The caller's memory, from the first byte of all: what comes is the sum of
  // `terms`.
  std::vector<const std::byte*> terms;
  std::byte* to = nullptr;

  // Waits until nobody touches the caller's memory, and nobody will.
  void GiveUp();
  // Both are false once it has been given up. `staging` is for all bytes.
  bool CopyIn(std::byte* staging);
  bool CopyOut(const std::byte* staging);

 private:
  bool Touch(std::pair<int64_t, int64_t> range,
             const std::function<void(int64_t, int64_t)>& copy);

  Mutex mutex_;
  bool given_up_ SHOAL_GUARDED_BY(mutex_) = false;
};

// The thread that talks to a device and to its library of collectives for one
// member: what either does may block, and neither has deadlines. What is under
// way is on a stream of its own, through pinned memory of the host.
//
// Thread-safe but for the callbacks, which are run by `post`.
class NcclDriver {
 public:
  // What the members tell each other before they join.
  struct Greeting {
    std::string library;
    std::string device_id;
    Buffer group_id;  // of rank 0
  };
  struct Options {
    int rank = 0;
    int size = 0;
    std::function<StatusOr<std::shared_ptr<Device>>()> open_device;
    // Runs a task on the node's thread.
    std::function<void(std::function<void()>)> post;
    // Called there: once, with the greeting or why there is none; and at the
    // end of each operation, joining (0) among them. Nothing more comes after
    // an error.
    std::function<void(StatusOr<Greeting>)> on_open;
    std::function<void(uint64_t, const Status&)> on_ended;
  };

  static std::shared_ptr<NcclDriver> Start(Options options);
  ~NcclDriver();
  NcclDriver(const NcclDriver&) = delete;
  NcclDriver& operator=(const NcclDriver&) = delete;

  void Join(Buffer group_id);
  // After it has joined.
  void Add(std::shared_ptr<NcclOperation> operation);
  // Gives up everything, on the device too.
  void Abort();
  // No callback begins after it. Leaves the group in order where nothing is
  // under way, and waits for that; a thread that hangs is left behind.
  void Leave();

 private:
  struct Memory {
    Buffer host;
    Buffer data;
    Buffer from;
  };
  struct Running {
    std::shared_ptr<NcclOperation> operation;
    Memory memory;
    bool enqueued = false;
    std::shared_ptr<Event> event;  // null: nothing was to do
  };

  explicit NcclDriver(Options options) : options_(std::move(options)) {}
  void Work();
  StatusOr<Greeting> Open();
  Status Serve();
  void Finish();
  Status Begin(std::shared_ptr<NcclOperation> operation);
  Status EndDone();
  StatusOr<Memory> Take(int64_t bytes, int64_t from_bytes);
  Status Await(const std::function<StatusOr<bool>()>& ready);
  void Pause(Time begin);
  void Post(std::function<void()> task);
  void Ended(uint64_t sequence, const Status& status);

  const Options options_;
  Mutex mutex_;
  CondVar changed_;
  std::optional<Buffer> group_id_ SHOAL_GUARDED_BY(mutex_);
  std::deque<std::shared_ptr<NcclOperation>> added_ SHOAL_GUARDED_BY(mutex_);
  bool aborted_ SHOAL_GUARDED_BY(mutex_) = false;
  bool left_ SHOAL_GUARDED_BY(mutex_) = false;
  bool over_ SHOAL_GUARDED_BY(mutex_) = false;  // the thread

  // The thread's, in the order in which they may go last.
  std::shared_ptr<Device> device_;
  DeviceCollectives* collectives_ = nullptr;
  std::unique_ptr<Stream> stream_;
  std::vector<Memory> spare_;
  std::deque<Running> running_;
  std::unique_ptr<DeviceCollective> member_;
  std::thread thread_;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_NCCL_DRIVER_H_
