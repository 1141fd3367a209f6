#include "kernels/gemm.h"

#include <algorithm>
#include <cstring>

#include "base/thread_pool.h"
#include "kernels/loops.h"
#include "kernels/simd.h"

namespace shoal {
namespace {

// Blocks in the manner of Goto and van de Geijn ("Anatomy of high-performance
// matrix multiplication", 2008): a panel of the right factor, 256 deep and 32
// wide, fills most of a first-level cache of 48 KiB; a block of the left one
// fits the second level many times over.
constexpr int64_t kDepthMax = 256;
constexpr int64_t kRowsMax = 84;       // a multiple of the tiles' 14, 6 and 4
constexpr int64_t kColumnsMax = 2048;  // a multiple of the panels' widths
constexpr int64_t kPanelMax = 64;
constexpr int64_t kAlignment = 64;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

const GemmKernels& ActiveGemm() {
#if defined(__x86_64__)
  switch (ActiveSimdPath()) {
    case SimdPath::kScalar:
      return ScalarGemm();
    case SimdPath::kAvx2:
      return Avx2Gemm();
    case SimdPath::kAvx512:
      return Avx512Gemm();
  }
#endif
  return ScalarGemm();
}

float* Aligned(std::span<std::byte> workspace) {
  const auto address = reinterpret_cast<uintptr_t>(workspace.data());
  return reinterpret_cast<float*>((address + kAlignment - 1) / kAlignment *
                                  kAlignment);
}

GemmFactor At(const GemmFactor& factor, int64_t line, int64_t depth) {
  return {factor.data + line * factor.line_stride + depth * factor.depth_stride,
          factor.line_stride, factor.depth_stride};
}

// How one block of c is split into tasks.
struct Split {
  int64_t rows;        // of c in one task
  int64_t num_rows;    // tasks along m
  int64_t panels;      // of the right factor in one task
  int64_t num_panels;  // tasks along n
};

Split SplitTasks(const GemmKernels& kernels, int64_t m, int64_t panels,
                 int num_threads) {
  Split split;
  int64_t tasks = CeilDiv(m, kRowsMax);
  tasks = CeilDiv(tasks, num_threads) * num_threads;
  split.rows = std::min(
      kRowsMax, CeilDiv(CeilDiv(m, tasks), kernels.rows) * kernels.rows);
  split.num_rows = CeilDiv(m, split.rows);
  // Few rows: split the columns too, though each task packs its rows again.
  const int64_t wanted =
      split.num_rows >= num_threads ? 1 : CeilDiv(num_threads, split.num_rows);
  split.panels = CeilDiv(panels, std::min(wanted, panels));
  split.num_panels = CeilDiv(panels, split.panels);
  return split;
}

ElementwiseLoop LoopOf(Activation activation) {
  const auto loop = [](ElementwiseOp op) {
    return ActiveLoops().elementwise[static_cast<int>(op)];
  };
  switch (activation) {
    case Activation::kNone:
      break;
    case Activation::kRelu:
      return loop(ElementwiseOp::kRelu);
    case Activation::kSigmoid:
      return loop(ElementwiseOp::kSigmoid);
    case Activation::kTanh:
      return loop(ElementwiseOp::kTanh);
  }
  return nullptr;
}

// On outputs that are complete, while the cache still has them: c[rows,
// columns], whose rows are `stride` apart.
void Finish(const GemmEpilogue* epilogue, int64_t first_column, int64_t rows,
            int64_t columns, float* c, int64_t stride) {
  if (epilogue == nullptr) {
    return;
  }
  const float* const bias = epilogue->bias + first_column;
  const ElementwiseLoop activation = LoopOf(epilogue->activation);
  const auto activate = [activation](float* row, int64_t n) {
    const float* const in = row;
    if (activation != nullptr) {
      activation(&in, 0.0F, &row, 0, n);
    }
  };
  if (columns == stride) {
    ActiveLoops().bias_add(c, bias, rows, columns, c);
    activate(c, rows * columns);
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* const row = c + r * stride;
    ActiveLoops().bias_add(row, bias, 1, columns, row);
    activate(row, columns);
  }
}

// One block of the sum: c[m, n] (+)= a[m, k] b[k, n], with k <= kDepthMax and
// n <= kColumnsMax. The last one has the epilogue.
void MultiplyBlock(const GemmKernels& kernels, const GemmSize& size,
                   const GemmFactor& a, const GemmFactor& b, bool first,
                   float* c, int64_t stride, float* packed, ThreadPool& pool,
                   const GemmEpilogue* epilogue) {
  const int64_t width = kernels.columns;
  const int64_t panels = CeilDiv(size.n, width);
  const bool pack = size.m > kernels.rows || b.line_stride != 1;
  pool.ParallelFor(pack ? panels : 0, CeilDiv(panels, pool.num_threads()),
                   [&](int64_t begin, int64_t end) {
                     kernels.pack_right(
                         At(b, begin * width, 0),
                         std::min(size.n, end * width) - begin * width, size.k,
                         packed + begin * width * size.k);
                   });
  const Split split = SplitTasks(kernels, size.m, panels, pool.num_threads());
  pool.ParallelFor(
      split.num_rows * split.num_panels, 1, [&](int64_t begin, int64_t end) {
        // Which thread runs a task is not known, so its scratch memory is on
        // the stack.
        alignas(kAlignment) float left[kRowsMax * kDepthMax];
        for (int64_t task = begin; task < end; ++task) {
          const int64_t row = task / split.num_panels * split.rows;
          const int64_t panel = task % split.num_panels * split.panels;
          const int64_t column = panel * width;
          const GemmSize part = {
              std::min(split.rows, size.m - row),
              std::min(split.panels * width, size.n - column), size.k};
          kernels.pack_left(At(a, row, 0), part.m, part.k, left);
          float* const to = c + row * stride + column;
          if (pack) {
            kernels.multiply(part, left, packed + column * size.k, first, to,
                             stride);
          } else {
            kernels.multiply_unpacked(part, left, At(b, column, 0), first, to,
                                      stride);
          }
          Finish(epilogue, column, part.m, part.n, to, stride);
        }
      });
}

}  // namespace

void Gemm(const GemmSize& size, const GemmFactor& a, const GemmFactor& b,
          float* c, std::span<std::byte> workspace, ThreadPool& pool,
          const GemmEpilogue* epilogue) {
  const int64_t m = size.m;
  const int64_t n = size.n;
  const int64_t k = size.k;
  if (m == 0 || n == 0) {
    return;
  }
  if (k == 0) {
    std::memset(c, 0, static_cast<size_t>(m * n) * sizeof(float));
    Finish(epilogue, 0, m, n, c, n);
    return;
  }
  const GemmKernels& kernels = ActiveGemm();
  if (m == 1 || n == 1) {
    // A single column is a single row of the transposed product.
    const GemmFactor& vector = n == 1 ? b : a;
    const GemmFactor& matrix = n == 1 ? a : b;
    if (vector.depth_stride == 1) {
      constexpr int64_t kGrain = 256;
      pool.ParallelFor(m * n, kGrain, [&](int64_t begin, int64_t end) {
        kernels.row_times(vector.data, At(matrix, begin, 0), end - begin, k,
                          c + begin);
        if (n == 1) {
          Finish(epilogue, 0, end - begin, 1, c + begin, 1);
        } else {
          Finish(epilogue, begin, 1, end - begin, c + begin, end - begin);
        }
      });
      return;
    }
  }
  const int64_t depth = CeilDiv(k, CeilDiv(k, kDepthMax));
  float* const packed = Aligned(workspace);
  for (int64_t j = 0; j < n; j += kColumnsMax) {
    const GemmEpilogue of_columns = {
        epilogue == nullptr ? nullptr : epilogue->bias + j,
        epilogue == nullptr ? Activation::kNone : epilogue->activation};
    for (int64_t p = 0; p < k; p += depth) {
      const bool last = epilogue != nullptr && p + depth >= k;
      const GemmSize block = {m, std::min(kColumnsMax, n - j),
                              std::min(depth, k - p)};
      MultiplyBlock(kernels, block, At(a, 0, p), At(b, j, p), p == 0, c + j, n,
                    packed, pool, last ? &of_columns : nullptr);
    }
  }
}

int64_t GemmWorkspaceBytes(const GemmSize& size) {
  const int64_t columns =
      std::min(kColumnsMax, CeilDiv(size.n, kPanelMax) * kPanelMax);
  const int64_t depth = std::min(kDepthMax, size.k);
  return columns * depth * static_cast<int64_t>(sizeof(float)) + kAlignment;
}

}  // namespace shoal
