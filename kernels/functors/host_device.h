#ifndef SHOAL_KERNELS_FUNCTORS_HOST_DEVICE_H_
#define SHOAL_KERNELS_FUNCTORS_HOST_DEVICE_H_

// Functors are compiled several times in one program, for the host's
// instruction sets and for the GPU. Inlining is forced so that no copy made
// for one instruction set can be linked into the code of another.
#if defined(__CUDACC__)
#define SHOAL_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SHOAL_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace shoal {

// Two results of one functor.
template <typename T>
struct Pair {
  T first;
  T second;
};

}  // namespace shoal

#endif  // SHOAL_KERNELS_FUNCTORS_HOST_DEVICE_H_
