#ifndef SHOAL_KERNELS_SHADOW_DEVICE_H_
#define SHOAL_KERNELS_SHADOW_DEVICE_H_

#include <cstdint>
#include <memory>

#include "base/device.h"
#include "base/time.h"

namespace shoal {

// A device for tests, "shadow": it computes with the CPU's kernels, and so with
// their bits, but behaves as a GPU does, so that what would go wrong on one
// goes wrong where none is.
//
// - Its memory is at addresses that the host can't touch (the process dies).
// - Memory of AllocateHost() can't be touched by the host while a copy to it is
//   under way, nor written while one from it is: until the host has waited.
// - Each stream is a thread, and waits for up to `delay_max` before each piece
//   of work.
// - Whatever the delays turn out to be, an error says what is wrong with the
//   order of what was enqueued: a vector clock per stream tells whether a read
//   or write is ordered after the ones before it by streams, events and waits
//   of the host (as in Flanagan & Freund, "FastTrack", PLDI 2009). A read of
//   memory that nothing wrote, memory of neither kind, and memory that is freed
//   before its use is waited for, or used afterwards, are errors too.
//
// An error of that kind is kFailedPrecondition and comes back from every call
// from then on. Addresses are never used again.
struct ShadowOptions {
  int threads = 1;
  uint64_t seed = 0;
  Duration delay_max = std::chrono::microseconds(20);
  // For tests of what uses it: the so-manyth wait for an event is forgotten.
  int64_t forget_wait = -1;
};
std::unique_ptr<Device> CreateShadowDevice(const ShadowOptions& options);

}  // namespace shoal

#endif  // SHOAL_KERNELS_SHADOW_DEVICE_H_
