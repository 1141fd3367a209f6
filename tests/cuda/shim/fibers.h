#ifndef SHOAL_TESTS_CUDA_SHIM_FIBERS_H_
#define SHOAL_TESTS_CUDA_SHIM_FIBERS_H_

#include <cstdint>
#include <functional>
#include <string>

// The threads of a GPU's block as fibers on one thread of the host. A kernel is
// run by one thread of the program at a time.
namespace shim {

struct Index3 {
  unsigned x = 0;
  unsigned y = 0;
  unsigned z = 0;
};

// Of the fiber that runs.
extern Index3 threadIdx;
extern Index3 blockIdx;
extern Index3 blockDim;
extern Index3 gridDim;

// Waits for all threads of the block.
void SyncThreads();

// The value of the lane whose number differs by `lane_mask`, within groups of
// `width` lanes. Waits for all 32 threads of the warp.
float ShuffleXor(unsigned mask, float value, int lane_mask, int width);

// Runs `body` for every thread of every block, threads in rising order in even
// blocks and in falling order in odd ones. Empty, or what went wrong: threads
// wait at a barrier or a shuffle for others that never come.
std::string RunGrid(const std::string& name, int64_t blocks, int threads,
                    const std::function<void()>& body);

}  // namespace shim

#endif  // SHOAL_TESTS_CUDA_SHIM_FIBERS_H_
