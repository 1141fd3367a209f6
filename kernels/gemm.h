#ifndef SHOAL_KERNELS_GEMM_H_
#define SHOAL_KERNELS_GEMM_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace shoal {

class ThreadPool;

// A factor of a matrix product seen as lines along the summed axis: rows of the
// left factor, columns of the right one. Element `depth` of line `line` is
// data[line * line_stride + depth * depth_stride]; one of the strides is 1.
struct GemmFactor {
  const float* data;
  int64_t line_stride;
  int64_t depth_stride;
};

struct GemmSize {
  int64_t m;
  int64_t n;
  int64_t k;
};

// What a layer does with its product: adds bias[n] to each row, then applies an
// elementwise function.
enum class Activation : int64_t { kNone, kRelu, kSigmoid, kTanh };
struct GemmEpilogue {
  const float* bias;
  Activation activation;
};

// c[m, n] = a b, row-major. Each output is one chain of fused multiply-adds,
// c = fma(a[i, p], b[p, j], c) for p rising from 0 with c starting at 0,
// whatever the blocks, threads and instruction set: so are its bits.
// With an epilogue they are those of BiasAdd and the activation run after it.
// `workspace` has GemmWorkspaceBytes() or more.
void Gemm(const GemmSize& size, const GemmFactor& a, const GemmFactor& b,
          float* c, std::span<std::byte> workspace, ThreadPool& pool,
          const GemmEpilogue* epilogue = nullptr);

// Enough for every size that is nowhere larger.
int64_t GemmWorkspaceBytes(const GemmSize& size);

// What an instruction set provides; made in gemm_scalar.cc, gemm_avx2.cc and
// gemm_avx512.cc. A panel holds `rows` (or `columns`) lines side by side: the
// first elements of its lines, then the second ones, and so on.
struct GemmKernels {
  int rows;     // of a tile: lines in a panel of the left factor
  int columns;  // lines in a panel of the right factor

  // Packs `lines` x `depth` elements into consecutive panels. Lanes of the last
  // panel that have no line are 0 or left as they are: they are never stored.
  void (*pack_left)(const GemmFactor& a, int64_t lines, int64_t depth,
                    float* to);
  void (*pack_right)(const GemmFactor& b, int64_t lines, int64_t depth,
                     float* to);

  // c[m, n] = a b from packed panels, or += if not `first`; rows of c are
  // `stride` apart.
  void (*multiply)(const GemmSize& size, const float* left, const float* right,
                   bool first, float* c, int64_t stride);

  // The same without packing the right factor, whose line stride is 1: for
  // left factors of so few rows that a panel would be used once.
  void (*multiply_unpacked)(const GemmSize& size, const float* left,
                            const GemmFactor& right, bool first, float* c,
                            int64_t stride);

  // y[lines] = x[k] b: the same chains for a single row.
  void (*row_times)(const float* x, const GemmFactor& b, int64_t lines,
                    int64_t k, float* y);
};

const GemmKernels& ScalarGemm();
#if defined(__x86_64__)
const GemmKernels& Avx2Gemm();
const GemmKernels& Avx512Gemm();
#endif

}  // namespace shoal

#endif  // SHOAL_KERNELS_GEMM_H_
