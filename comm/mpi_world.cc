#include "comm/mpi_world.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

#include "base/plugin.h"
#include "base/strcat.h"
#include "comm/mpi_table.h"
#include "comm/transports/mpi_hub.h"
#include "comm/tree_sum.h"

namespace shoal::comm {
namespace {

// Addresses are far shorter; a fixed size needs one broadcast, not two.
constexpr size_t kTextBytesMax = 4096;
constexpr size_t kHostNameBytes = 256;
// For the other ranks to end their work.
constexpr Duration kFinalizeWithin = std::chrono::seconds(60);

std::atomic<MpiWorld*> current = nullptr;

template <DType dtype>
void AddTo(const void* from, void* to, int count) {
  AddElements(dtype, static_cast<const std::byte*>(from),
              static_cast<const std::byte*>(to), static_cast<std::byte*>(to),
              count);
}

}  // namespace

bool MpiWorld::Present() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"}) {
    // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing writes the environment.
    if (std::getenv(name) != nullptr) {
      return true;
    }
  }
  return false;
}

bool MpiWorld::ManyRanks() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing writes the environment.
    const char* size = std::getenv(name);
    if (size != nullptr && std::atoi(size) > 1) {
      return true;
    }
  }
  return false;
}

MpiWorld* MpiWorld::Current() { return current.load(); }

StatusOr<std::unique_ptr<MpiWorld>> MpiWorld::Create(Threads threads) {
  SHOAL_ASSIGN_OR_RETURN(const std::string path, PluginPath("shoal_mpi"));
  // MPI's own components look for its symbols, so they must be global.
  const StatusOr<void*> symbol =
      LoadPlugin(path, SHOAL_MPI_TABLE_SYMBOL, /*global=*/true);
  if (!symbol.ok()) {
    return NotFoundError(StrCat(
        "mpirun started this process, but the MPI plug-in does not "
        "load (",
        symbol.status().message(), "); build it with Open MPI installed"));
  }
  using TableFn = const ShoalMpiTable* (*)();
  const auto table = reinterpret_cast<TableFn>(*symbol);
  if (table()->version != SHOAL_MPI_TABLE_VERSION) {
    return NotFoundError(
        StrCat(path, " is the plug-in of another version of the program"));
  }
  std::unique_ptr<MpiWorld> world(new MpiWorld(*table(), threads));
  SHOAL_RETURN_IF_ERROR(world->Init());
  current = world.get();
  return world;
}

MpiWorld::~MpiWorld() { current = nullptr; }

Status MpiWorld::Init() {
  int threads = static_cast<int>(threads_);
  SHOAL_RETURN_IF_ERROR(
      Check(table_.init(&threads, &AddTo<DType::kF16>, &AddTo<DType::kBF16>,
                        &rank_, &size_, &host_size_, &tag_max_),
            "MPI_Init_thread"));
  if (threads == SHOAL_MPI_ONE && threads_ != Threads::kOne) {
    return FailedPreconditionError(
        "this MPI lets no thread but the first one call it, which transport "
        "mpi and collective mpi need; use transport auto");
  }
  threads_ = static_cast<Threads>(threads);
  return OkStatus();
}

Status MpiWorld::Check(int error, const char* what) const {
  if (error == 0) {
    return OkStatus();
  }
  char text[512] = "";
  table_.describe(error, text, sizeof(text));
  return InternalError(StrCat(what, ": ", text));
}

StatusOr<std::vector<std::string>> MpiWorld::HostNames() {
  std::vector<char> all(static_cast<size_t>(size_) * kHostNameBytes, '\0');
  SHOAL_RETURN_IF_ERROR(Check(table_.host_names(all.data()), "MPI_Allgather"));
  std::vector<std::string> names;
  for (int rank = 0; rank < size_; ++rank) {
    names.emplace_back(all.data() + static_cast<size_t>(rank) * kHostNameBytes);
  }
  return names;
}

Status MpiWorld::JoinGroup(int color, int key) {
  return Check(table_.split(color, key, &group_), "MPI_Comm_split");
}

StatusOr<std::string> MpiWorld::BroadcastFromFirst(const std::string& text,
                                                   Duration within) {
  if (text.size() >= kTextBytesMax) {
    return InternalError(
        StrCat("a text of ", text.size(), " bytes is too long to spread"));
  }
  Buffer data = Buffer::Allocate(kTextBytesMax);
  std::memset(data.data(), 0, kTextBytesMax);
  std::memcpy(data.data(), text.data(), text.size());
  ShoalMpiRequest* request = nullptr;
  SHOAL_RETURN_IF_ERROR(
      Check(table_.broadcast(nullptr, data.data(), kTextBytesMax, 0, &request),
            "MPI_Ibcast"));
  const SystemClock clock;
  const Time end = clock.Now() + within;
  while (true) {
    int done = 0;
    SHOAL_RETURN_IF_ERROR(Check(table_.test(request, &done), "MPI_Ibcast"));
    if (done != 0) {
      return std::string(reinterpret_cast<const char*>(data.data()));
    }
    if (clock.Now() >= end) {
      // MPI may still write to it.
      MpiHub::Get().Bury({.request = request, .pieces = {data}});
      return DeadlineExceededError(
          StrCat("waited ", ToString(within),
                 " for the coordinator's address from rank 0"));
    }
    // Blocking MPI calls spin; rank 0 needs the processor to read the data.
    std::this_thread::sleep_for(1ms);
  }
}

Status MpiWorld::AllReduceF32(float* data, int64_t count) {
  return Check(table_.allreduce_f32(data, count), "MPI_Allreduce");
}

Status MpiWorld::Finalize() {
  // While a rank may still send, what comes must be taken: a message that
  // nobody takes keeps its sender.
  ShoalMpiRequest* request = nullptr;
  SHOAL_RETURN_IF_ERROR(
      Check(table_.barrier(nullptr, &request), "MPI_Ibarrier"));
  const SystemClock clock;
  const Time end = clock.Now() + kFinalizeWithin;
  while (true) {
    int done = 0;
    SHOAL_RETURN_IF_ERROR(Check(table_.test(request, &done), "MPI_Ibarrier"));
    MpiHub::Get().DropAll(*this);
    if (done != 0) {
      break;
    }
    if (clock.Now() >= end) {
      return DeadlineExceededError(
          StrCat("rank ", rank_, " is done, but waited ",
                 ToString(kFinalizeWithin), " for the other ranks to end"));
    }
    std::this_thread::sleep_for(1ms);
  }
  return Check(table_.finalize(), "MPI_Finalize");
}

}  // namespace shoal::comm
