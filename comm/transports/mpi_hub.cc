#include "comm/transports/mpi_hub.h"

#include <chrono>
#include <utility>

#include "base/strcat.h"
#include "comm/mpi_table.h"
#include "comm/mpi_world.h"
#include "comm/transports/mpi_wire.h"

namespace shoal::comm {
namespace {

constexpr Duration kSweepPause = 5ms;

}  // namespace

void MpiBell::Ring() {
  {
    const MutexLock lock(mutex_);
    rung_ = true;
  }
  changed_.NotifyOne();
}

bool MpiBell::Take() {
  const MutexLock lock(mutex_);
  return std::exchange(rung_, false);
}

void MpiBell::Wait(Duration timeout) {
  const MutexLock lock(mutex_);
  if (!rung_) {
    changed_.WaitFor(mutex_, timeout);
  }
}

StatusOr<MpiTransfer> StartMpiSend(const MpiWorld& world, int rank, int tag,
                                   std::vector<Buffer> pieces) {
  MpiTransfer transfer;
  std::vector<ShoalMpiPiece> parts;
  for (const Buffer& piece : pieces) {
    parts.push_back({std::as_const(piece).data(), piece.size()});
    transfer.size_bytes += piece.size();
  }
  transfer.pieces = std::move(pieces);
  SHOAL_RETURN_IF_ERROR(world.Check(
      world.table().send(parts.data(), static_cast<int>(parts.size()), rank,
                         tag, &transfer.request),
      "MPI_Issend"));
  return transfer;
}

StatusOr<MpiTransfer> StartMpiReceive(const MpiWorld& world, int tag,
                                      int* rank) {
  MpiTransfer transfer;
  ShoalMpiMessage* message = nullptr;
  long long bytes = 0;
  SHOAL_RETURN_IF_ERROR(world.Check(
      world.table().probe(tag, rank, &bytes, &message), "MPI_Improbe"));
  if (message == nullptr) {
    return transfer;
  }
  transfer.size_bytes = bytes;
  transfer.pieces.push_back(Buffer::Allocate(bytes));
  SHOAL_RETURN_IF_ERROR(
      world.Check(world.table().receive(message, transfer.pieces[0].data(),
                                        bytes, &transfer.request),
                  "MPI_Imrecv"));
  return transfer;
}

MpiHub& MpiHub::Get() {
  static auto* const hub = new MpiHub;
  return *hub;
}

StatusOr<int> MpiHub::Add(const MpiWorld& world, int wanted,
                          std::shared_ptr<MpiBell> bell) {
  const MutexLock lock(mutex_);
  const int number = wanted != 0          ? wanted
                     : endpoints_.empty() ? 1
                                          : endpoints_.rbegin()->first + 1;
  if (endpoints_.contains(number)) {
    return UnavailableError(
        StrCat("listen: 'mpi:", world.rank(), "/", number,
               "' is or was another endpoint of this process: choose another"));
  }
  if (number > (world.tag_max() - 1) / 2) {
    return UnavailableError(StrCat("listen: this MPI has no tags for 'mpi:",
                                   world.rank(), "/", number, "'"));
  }
  endpoints_[number] = std::move(bell);
  return number;
}

void MpiHub::Remove(int number) {
  const MutexLock lock(mutex_);
  endpoints_[number] = nullptr;
}

bool MpiHub::Has(int number) {
  const MutexLock lock(mutex_);
  const auto it = endpoints_.find(number);
  return it != endpoints_.end() && it->second != nullptr;
}

void MpiHub::Ring(int number) {
  std::shared_ptr<MpiBell> bell;
  {
    const MutexLock lock(mutex_);
    const auto it = endpoints_.find(number);
    if (it != endpoints_.end()) {
      bell = it->second;
    }
  }
  if (bell != nullptr) {
    bell->Ring();
  }
}

void MpiHub::Bury(MpiTransfer transfer) {
  const MutexLock lock(mutex_);
  buried_.push_back(std::move(transfer));
}

void MpiHub::Sweep(const MpiWorld& world) {
  const Time now = std::chrono::steady_clock::now();
  const MutexLock lock(mutex_);
  if (now < next_sweep_) {
    return;
  }
  next_sweep_ = now + kSweepPause;
  TestBuried(world);
  for (const auto& [number, bell] : endpoints_) {
    for (const Lane lane : {Lane::kUrgent, Lane::kBulk}) {
      while (bell == nullptr && TakeStray(world, MpiTag(number, lane))) {
      }
    }
  }
}

void MpiHub::DropAll(const MpiWorld& world) {
  const MutexLock lock(mutex_);
  TestBuried(world);
  while (TakeStray(world, -1)) {
  }
}

void MpiHub::TestBuried(const MpiWorld& world) {
  for (size_t rest = buried_.size(); rest > 0; --rest) {
    MpiTransfer transfer = std::move(buried_.front());
    buried_.pop_front();
    int done = 0;
    if (world.table().test(transfer.request, &done) == 0 && done == 0) {
      buried_.push_back(std::move(transfer));
    }
  }
}

bool MpiHub::TakeStray(const MpiWorld& world, int tag) {
  int rank = 0;
  StatusOr<MpiTransfer> transfer = StartMpiReceive(world, tag, &rank);
  if (!transfer.ok() || transfer->request == nullptr) {
    return false;
  }
  int done = 0;
  // A call is short and there at once.
  if (world.table().test(transfer->request, &done) == 0 && done == 0) {
    buried_.push_back(*std::move(transfer));
  } else if (done != 0) {
    Refuse(world, rank, transfer->pieces[0]);
  }
  return true;
}

void MpiHub::Refuse(const MpiWorld& world, int rank, const Buffer& call) {
  const StatusOr<MpiReceived> got = DecodeMpi(call);
  if (!got.ok() || got->envelope.kind != MpiEnvelope::kHello) {
    return;
  }
  const MpiEnvelope& hello = got->envelope;
  MpiEnvelope refuse;
  refuse.kind = MpiEnvelope::kRefuse;
  refuse.from = hello.to;
  refuse.to = hello.from;
  refuse.to_session = hello.from_session;
  StatusOr<MpiTransfer> sent = StartMpiSend(
      world, rank, MpiTag(static_cast<int>(hello.from_number), Lane::kUrgent),
      EncodeMpi(refuse, Message()));
  if (sent.ok()) {
    buried_.push_back(*std::move(sent));
  }
}

}  // namespace shoal::comm
