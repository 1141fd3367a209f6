// The MPI plug-in: a library of its own, loaded only under `mpirun`, so that
// the program runs where there is no MPI. Its C table is launch/mpi_table.h.

#include <mpi.h>

#include "launch/mpi_table.h"

namespace {

int Init(int* rank, int* size, int* host_size) {
  int granted = 0;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &granted) !=
      MPI_SUCCESS) {
    return 1;
  }
  if (MPI_Comm_rank(MPI_COMM_WORLD, rank) != MPI_SUCCESS ||
      MPI_Comm_size(MPI_COMM_WORLD, size) != MPI_SUCCESS) {
    return 1;
  }
  MPI_Comm host = MPI_COMM_NULL;
  if (MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0,
                          MPI_INFO_NULL, &host) != MPI_SUCCESS ||
      MPI_Comm_size(host, host_size) != MPI_SUCCESS) {
    return 1;
  }
  return MPI_Comm_free(&host) == MPI_SUCCESS ? 0 : 1;
}

MPI_Request request = MPI_REQUEST_NULL;

int StartBroadcast(void* data, int size_bytes, int root) {
  return MPI_Ibcast(data, size_bytes, MPI_BYTE, root, MPI_COMM_WORLD,
                    &request) == MPI_SUCCESS
             ? 0
             : 1;
}

int TestBroadcast(int* done) {
  return MPI_Test(&request, done, MPI_STATUS_IGNORE) == MPI_SUCCESS ? 0 : 1;
}

int AllReduceF32(float* data, long long count) {
  // An int counts elements in MPI 3: longer vectors go in pieces.
  constexpr long long kCountMax = 1LL << 30;
  for (long long first = 0; first < count; first += kCountMax) {
    const long long n = count - first < kCountMax ? count - first : kCountMax;
    if (MPI_Allreduce(MPI_IN_PLACE, data + first, static_cast<int>(n),
                      MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD) != MPI_SUCCESS) {
      return 1;
    }
  }
  return 0;
}

int Finalize() { return MPI_Finalize() == MPI_SUCCESS ? 0 : 1; }

}  // namespace

extern "C" const ShoalMpiTable* ShoalMpiTableV3() {
  static const ShoalMpiTable kTable = {SHOAL_MPI_TABLE_VERSION, &Init,
                                       &StartBroadcast,         &TestBroadcast,
                                       &AllReduceF32,           &Finalize};
  return &kTable;
}
