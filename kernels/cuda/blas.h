#ifndef SHOAL_KERNELS_CUDA_BLAS_H_
#define SHOAL_KERNELS_CUDA_BLAS_H_

#include <cstdint>

struct CUstream_st;

namespace shoal::cuda {

// Matrix products in f32 by cuBLASLt: a handle, its workspace, and what it
// chose for the sizes it has met. Of one stream.
struct Blas;

// c[m, n] = op(a) op(b), row-major; op transposes or not. Where there is a
// bias[n], it is added to each row; then relu may take the sum.
struct Product {
  const float* a;
  const float* b;
  float* c;
  int64_t m;
  int64_t n;
  int64_t k;
  bool transpose_a;
  bool transpose_b;
  const float* bias = nullptr;
  bool relu = false;  // only with a bias
};

// These return 0 or an error of error_text().
int CreateBlas(Blas** blas);
void DestroyBlas(Blas* blas);
// Enqueues the product, none of whose sizes is 0.
int Multiply(Blas& blas, CUstream_st* stream, const Product& product);
const char* BlasErrorText(int status);

}  // namespace shoal::cuda

#endif  // SHOAL_KERNELS_CUDA_BLAS_H_
