#ifndef SHOAL_COMM_MPI_WORLD_H_
#define SHOAL_COMM_MPI_WORLD_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/time.h"

struct ShoalMpiGroup;
struct ShoalMpiTable;

namespace shoal::comm {

// This process among the ranks that `mpirun` started; the MPI plug-in is loaded
// for it. Roles are dealt with it, transport `mpi` and collective `mpi` run on
// it, and other transports learn the coordinator's address.
//
// Belongs to the thread that made it, but for the table.
class MpiWorld {
 public:
  // Which threads of this process call MPI. Fewer cost MPI less.
  enum class Threads { kOne = 0, kSerialized = 1, kMultiple = 2 };

  // Whether `mpirun` (or another PMI launcher) started this process.
  static bool Present();
  // Whether it says that there are more ranks than this one.
  static bool ManyRanks();

  // Once per process. kMultiple is content with kSerialized where MPI grants no
  // more. Errors: kNotFound (the plug-in is not there or does not load: the
  // text says why), kFailedPrecondition (MPI lets one thread call it alone),
  // kInternal (MPI does not start).
  static StatusOr<std::unique_ptr<MpiWorld>> Create(Threads threads);
  // The one of this process, or null.
  static MpiWorld* Current();
  ~MpiWorld();
  MpiWorld(const MpiWorld&) = delete;
  MpiWorld& operator=(const MpiWorld&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool one_host() const { return host_size_ == size_; }
  Threads threads() const { return threads_; }
  int tag_max() const { return tag_max_; }
  const ShoalMpiTable& table() const { return table_; }

  // "what: the text of MPI's error"; OK for 0.
  Status Check(int error, const char* what) const;

  // The names of the ranks' hosts. All ranks call it; blocks until they have.
  StatusOr<std::vector<std::string>> HostNames();

  // Makes the ranks that give the same `color` a group, ordered by `key`, for
  // collective `mpi`; negative: in none. All ranks call it; blocks until they
  // have.
  Status JoinGroup(int color, int key);
  // Null: in none.
  ShoalMpiGroup* group() const { return group_; }

  // Rank 0 gives `text`, the others get it. Waits without using the processor.
  // Errors: kDeadlineExceeded.
  StatusOr<std::string> BroadcastFromFirst(const std::string& text,
                                           Duration within);

  // data[count] becomes the sum over all ranks. Blocks, and spins.
  Status AllReduceF32(float* data, int64_t count);

  // All ranks must call it for an orderly end; a rank that ends without makes
  // mpirun end the others. Takes what is still under way to endpoints that are
  // gone. Errors: kDeadlineExceeded (not all ranks came).
  Status Finalize();

 private:
  MpiWorld(const ShoalMpiTable& table, Threads threads)
      : table_(table), threads_(threads) {}
  Status Init();

  const ShoalMpiTable& table_;
  Threads threads_;
  int rank_ = 0;
  int size_ = 1;
  int host_size_ = 1;
  int tag_max_ = 0;
  ShoalMpiGroup* group_ = nullptr;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_MPI_WORLD_H_
