#ifndef SHOAL_LAUNCH_MPI_TABLE_H_
#define SHOAL_LAUNCH_MPI_TABLE_H_

// What the program uses of MPI, as a C table that the plug-in hands over. All
// functions return 0 or an error, and belong to the thread that called Init().

#define SHOAL_MPI_TABLE_VERSION 3

extern "C" {

struct ShoalMpiTable {
  int version;
  // `host_size`: ranks on the host of this one.
  int (*init)(int* rank, int* size, int* host_size);
  // One broadcast at a time; `data` stays until test says that it is done.
  int (*start_broadcast)(void* data, int size_bytes, int root);
  int (*test_broadcast)(int* done);
  // data[count] becomes the sum over all ranks; blocks, and spins.
  int (*allreduce_f32)(float* data, long long count);
  int (*finalize)();
};

// The only symbol of the plug-in.
const ShoalMpiTable* ShoalMpiTableV3();
}

#endif  // SHOAL_LAUNCH_MPI_TABLE_H_
