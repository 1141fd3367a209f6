#ifndef SHOAL_LAUNCH_ALLREDUCE_BENCH_H_
#define SHOAL_LAUNCH_ALLREDUCE_BENCH_H_

#include <cstdint>
#include <string>

#include "base/status.h"
#include "base/time.h"

namespace shoal::launch {

struct AllReduceBenchOptions {
  int ranks = 2;  // processes; under mpirun there are as many as it started
  std::string transport = "auto";
  std::string algorithm = "auto";  // a name of comm::AllReduceAlgorithm
  int64_t min_bytes = 4 << 10;     // of the f32 vector; sizes go up by 4
  int64_t max_bytes = 64 << 20;
  int rounds = 5;
  Duration look = std::chrono::microseconds(50);  // before it sleeps
  // Measures all algorithms and prints from which size on which is the fastest;
  // to `tune_file` too, if it is not empty.
  bool tune = false;
  std::string tune_file;
  // Of a process that the first one started.
  int rank = -1;
  std::string coordinator_address;
};

// Times allreduces of f32 vectors over Shoal's own transports and prints a
// table: per size the median over rounds of the time of one, by the first
// rank's clock, with its spread. Under mpirun, MPI_Allreduce takes its turn in
// every round, and the table has the ratio. Sums are checked.
//
// Blocks until all ranks are done. Errors: those of the transport; whatever
// ends a collective; kInternal (a wrong sum).
Status RunAllReduceBench(const AllReduceBenchOptions& options);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_ALLREDUCE_BENCH_H_
