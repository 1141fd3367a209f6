#ifndef SHOAL_BASE_DEVICE_COLLECTIVE_H_
#define SHOAL_BASE_DEVICE_COLLECTIVE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/buffer.h"
#include "base/dtype.h"
#include "base/status.h"

namespace shoal {

class Stream;

// What the members of a DeviceCollective ask of it, all alike and in the same
// order. Memory is the device's; counts are in elements. Rank r's segment of
// data[count] is [count * r / size, count * (r + 1) / size).
struct DeviceCollectiveCall {
  enum class Kind : uint8_t {
    kAllReduce,      // data becomes the sum of all members'
    kReduceScatter,  // the own segment of data becomes that of the sum
    kAllGather,      // the other segments of data become those of their ranks
    // Row r of from[size, count] goes to rank r, row r of data comes from it.
    kAllToAll,
    kBroadcast,  // data becomes that of `root`
  };
  Kind kind = Kind::kAllReduce;
  DType dtype = DType::kF32;
  void* data = nullptr;
  const void* from = nullptr;  // of kAllToAll
  int64_t count = 0;
  int root = 0;
};

// One member of a group of devices that exchange memory among themselves, by
// their maker's library. Nothing waits for other members: what a call asks for
// is under way until Ready() says otherwise, and no other call but Abort() is
// allowed before. Destroying it aborts what is under way.
//
// Thread-compatible.
class DeviceCollective {
 public:
  virtual ~DeviceCollective() = default;

  // Whether the member has joined, the last call is enqueued on its stream, or
  // the member has finished. Errors: what has gone wrong since, also of what
  // was enqueued before: kUnavailable (another member, or the way to it),
  // kInternal.
  virtual StatusOr<bool> Ready() = 0;

  // Enqueues it on a stream of the same device.
  virtual Status Enqueue(const DeviceCollectiveCall& call, Stream& stream) = 0;

  // Leaves the group once everything that was enqueued has been done.
  virtual Status Finish() = 0;

  // Ends what is under way, on the device too. No other call after it.
  virtual void Abort() = 0;
};

// The collectives that a device has of its own. Thread-safe; belongs to the
// device.
class DeviceCollectives {
 public:
  virtual ~DeviceCollectives() = default;

  // "NCCL 2.28.9": members need the same.
  virtual std::string library() const = 0;

  // Sixteen bytes that no other device in the world has.
  virtual StatusOr<std::string> DeviceId() const = 0;

  // What the members of one group join by: one makes it, and must live until
  // all have joined.
  virtual StatusOr<Buffer> MakeGroupId() = 0;

  // Begins to join; see DeviceCollective::Ready().
  virtual StatusOr<std::unique_ptr<DeviceCollective>> Join(
      std::span<const std::byte> group_id, int rank, int size) = 0;
};

}  // namespace shoal

#endif  // SHOAL_BASE_DEVICE_COLLECTIVE_H_
