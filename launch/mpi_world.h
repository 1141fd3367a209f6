#ifndef SHOAL_LAUNCH_MPI_WORLD_H_
#define SHOAL_LAUNCH_MPI_WORLD_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "base/time.h"

namespace shoal::launch {

// This process among the ranks that `mpirun` started; the MPI plug-in is loaded
// for it. Only used to deal roles, to spread one address and to measure
// against: training travels over Shoal's own transports.
class MpiWorld {
 public:
  // Whether `mpirun` (or another PMI launcher) started this process.
  static bool Present();
  // Whether it says that there are more ranks than this one.
  static bool ManyRanks();

  // Errors: kNotFound (the plug-in is not there or does not load: the text says
  // why), kInternal (MPI does not start).
  static StatusOr<std::unique_ptr<MpiWorld>> Create();
  virtual ~MpiWorld() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual bool one_host() const = 0;  // all ranks run on one host

  // Rank 0 gives `text`, the others get it. Waits without using the processor.
  // Errors: kDeadlineExceeded.
  virtual StatusOr<std::string> BroadcastFromFirst(const std::string& text,
                                                   Duration within) = 0;

  // data[count] becomes the sum over all ranks. Blocks, and spins.
  virtual Status AllReduceF32(float* data, int64_t count) = 0;

  // All ranks must call it for an orderly end; a rank that ends without makes
  // mpirun end the others.
  virtual Status Finalize() = 0;
};

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_MPI_WORLD_H_
