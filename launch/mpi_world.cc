#include "launch/mpi_world.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "base/plugin.h"
#include "base/strcat.h"
#include "launch/mpi_table.h"
#include "launch/supervisor.h"

namespace shoal::launch {
namespace {

// Addresses are far shorter; a fixed size needs one broadcast, not two.
constexpr size_t kTextBytesMax = 4096;

class LoadedMpiWorld : public MpiWorld {
 public:
  explicit LoadedMpiWorld(const ShoalMpiTable& table) : table_(table) {}

  Status Init() {
    return table_.init(&rank_, &size_, &host_size_) == 0
               ? OkStatus()
               : InternalError("MPI_Init_thread failed");
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  bool one_host() const override { return host_size_ == size_; }

  StatusOr<std::string> BroadcastFromFirst(const std::string& text,
                                           Duration within) override {
    if (text.size() >= kTextBytesMax) {
      return InternalError(
          StrCat("a text of ", text.size(), " bytes is too long to spread"));
    }
    std::vector<char> data(kTextBytesMax, '\0');
    std::memcpy(data.data(), text.data(), text.size());
    if (table_.start_broadcast(data.data(), static_cast<int>(data.size()), 0) !=
        0) {
      return InternalError("MPI_Ibcast failed");
    }
    const SystemClock clock;
    const Time end = clock.Now() + within;
    int done = 0;
    while (table_.test_broadcast(&done) == 0 && done == 0) {
      if (clock.Now() >= end) {
        return DeadlineExceededError(
            StrCat("waited ", ToString(within),
                   " for the coordinator's address from rank 0"));
      }
      // Blocking MPI calls spin; rank 0 needs the processor to read the data.
      std::this_thread::sleep_for(1ms);
    }
    if (done == 0) {
      return InternalError("MPI_Test failed");
    }
    return std::string(data.data());
  }

  Status AllReduceF32(float* data, int64_t count) override {
    return table_.allreduce_f32(data, count) == 0
               ? OkStatus()
               : InternalError("MPI_Allreduce failed");
  }

  Status Finalize() override {
    return table_.finalize() == 0 ? OkStatus()
                                  : InternalError("MPI_Finalize failed");
  }

 private:
  const ShoalMpiTable& table_;
  int rank_ = 0;
  int size_ = 1;
  int host_size_ = 1;
};

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

StatusOr<std::unique_ptr<MpiWorld>> MpiWorld::Create() {
  SHOAL_ASSIGN_OR_RETURN(const std::string path, PluginPath("shoal_mpi"));
  // MPI's own components look for its symbols, so they must be global.
  const StatusOr<void*> symbol =
      LoadPlugin(path, "ShoalMpiTableV3", /*global=*/true);
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
  auto world = std::make_unique<LoadedMpiWorld>(*table());
  SHOAL_RETURN_IF_ERROR(world->Init());
  return std::unique_ptr<MpiWorld>(std::move(world));
}

}  // namespace shoal::launch
