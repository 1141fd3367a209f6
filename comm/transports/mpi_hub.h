#ifndef SHOAL_COMM_TRANSPORTS_MPI_HUB_H_
#define SHOAL_COMM_TRANSPORTS_MPI_HUB_H_

#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "base/buffer.h"
#include "base/mutex.h"
#include "base/status.h"
#include "comm/message.h"

struct ShoalMpiRequest;

namespace shoal::comm {

class MpiWorld;

// Wakes the thread of an endpoint. Thread-safe.
class MpiBell {
 public:
  void Ring();
  // True once after Ring().
  bool Take();
  // Until Ring(), which stays to be taken, or `timeout` has passed.
  void Wait(Duration timeout);

 private:
  Mutex mutex_;
  CondVar changed_;
  bool rung_ SHOAL_GUARDED_BY(mutex_) = false;
};

// What MPI still does with memory that nobody else may need any more.
struct MpiTransfer {
  ShoalMpiRequest* request = nullptr;
  std::vector<Buffer> pieces;
  int64_t size_bytes = 0;
};

// What the endpoints of this process share, since MPI belongs to processes:
// their numbers, and what is left to do for those that are gone. Messages to
// endpoint n have the tags 2n (urgent) and 2n + 1 (bulk). Thread-safe.
class MpiHub {
 public:
  static MpiHub& Get();

  // A number for an endpoint; `wanted` 0: any. None is given twice.
  // Errors: kUnavailable (it is, or was, another's, or there are no more).
  StatusOr<int> Add(const MpiWorld& world, int wanted,
                    std::shared_ptr<MpiBell> bell);
  void Remove(int number);
  bool Has(int number);
  // Wakes endpoint `number` of this process, if it is there.
  void Ring(int number);

  // Keeps a transfer that nobody waits for until MPI is done with it.
  void Bury(MpiTransfer transfer);

  // Now and then: looks after what is buried, and takes what comes to endpoints
  // that are gone, so that it keeps no sender; calls are refused.
  void Sweep(const MpiWorld& world);

  // At the end of MPI, when all endpoints are gone: takes all that comes.
  void DropAll(const MpiWorld& world);

 private:
  void TestBuried(const MpiWorld& world) SHOAL_REQUIRES(mutex_);
  // False when there is nothing with `tag` (negative: any).
  bool TakeStray(const MpiWorld& world, int tag) SHOAL_REQUIRES(mutex_);
  void Refuse(const MpiWorld& world, int rank, const Buffer& call)
      SHOAL_REQUIRES(mutex_);

  Mutex mutex_;
  // By number; null: gone.
  std::map<int, std::shared_ptr<MpiBell>> endpoints_ SHOAL_GUARDED_BY(mutex_);
  std::deque<MpiTransfer> buried_ SHOAL_GUARDED_BY(mutex_);
  Time next_sweep_ SHOAL_GUARDED_BY(mutex_);
};

inline int MpiTag(int number, Lane lane) {
  return 2 * number + static_cast<int>(lane);
}

// Begins to send `pieces`; MPI reads them until the request is done.
StatusOr<MpiTransfer> StartMpiSend(const MpiWorld& world, int rank, int tag,
                                   std::vector<Buffer> pieces);

// A message with `tag` (negative: any) from `*rank`, on its way into the one
// piece of the transfer; its request is null if there is none.
StatusOr<MpiTransfer> StartMpiReceive(const MpiWorld& world, int tag,
                                      int* rank);

}  // namespace shoal::comm

#endif  // SHOAL_COMM_TRANSPORTS_MPI_HUB_H_
