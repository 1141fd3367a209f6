#include "kernels/cuda/blas.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/runtime.cuh"
#include "kernels/functors/activation.h"
#include "kernels/gemm.h"

namespace shoal::cuda {
namespace {

// A factor as lines along the summed axis, as in kernels/gemm.h: element p of
// line l is data[l * line_stride + p * depth_stride]; one stride is 1.
struct Factor {
  const float* data;
  int64_t lines;
  int64_t line_stride;
  int64_t depth_stride;
  bool aligned;  // groups of 4 along the stride of 1 are, and are whole
};

struct Output {
  float* data;
  int64_t row_stride;
  int64_t column_stride;
};

// As GemmEpilogue, whichever factor the columns of the result come from.
struct Epilogue {
  const float* bias;
  int64_t row_stride;  // in bias; one of the two is 0
  int64_t column_stride;
  Activation activation;
};

__device__ __forceinline__ float Activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return functors::ReluFn()(x);
    case Activation::kSigmoid:
      return functors::SigmoidFn()(x);
    case Activation::kTanh:
      return functors::TanhFn()(x);
  }
  return x;
}

// Tiles of kLines lines of one factor, kDepth deep, on their way through
// registers into shared memory, where a line is a column. In groups of 4
// along the factor's stride of 1.
template <int kLines, int kDepth, int kBlockThreads, bool kAlongDepth>
struct TileLoader {
  // Rows of the tile in shared memory are whole float4s and shifted against
  // each other by some banks.
  static constexpr int kPitch = kLines + 4;
  static constexpr int kGroups = kLines * kDepth / 4;
  static constexpr int kGroupsPerThread =
      (kGroups + kBlockThreads - 1) / kBlockThreads;
  static_assert(kLines % 4 == 0 && kDepth % 4 == 0);

  float4 held[kGroupsPerThread];

  __device__ __forceinline__ static bool Place(int q, int* line, int* depth) {
    const int group = static_cast<int>(threadIdx.x) + q * kBlockThreads;
    if constexpr (kAlongDepth) {
      *line = group / (kDepth / 4);
      *depth = group % (kDepth / 4) * 4;
    } else {
      *line = group % (kLines / 4) * 4;
      *depth = group / (kLines / 4);
    }
    return group < kGroups;
  }

  // What is outside the factor becomes 0.
  __device__ __forceinline__ void Load(const Factor& factor, int64_t first_line,
                                       int64_t first_depth, int64_t k) {
#pragma unroll
    for (int q = 0; q < kGroupsPerThread; ++q) {
      held[q] = {0.0F, 0.0F, 0.0F, 0.0F};
      int line = 0;
      int depth = 0;
      if (!Place(q, &line, &depth)) {
        continue;
      }
      const int64_t l = first_line + line;
      const int64_t p = first_depth + depth;
      if (l >= factor.lines || p >= k) {
        continue;
      }
      const float* const from =
          factor.data + l * factor.line_stride + p * factor.depth_stride;
      if (factor.aligned) {
        held[q] = *reinterpret_cast<const float4*>(from);
        continue;
      }
      const int64_t left = kAlongDepth ? k - p : factor.lines - l;
      held[q].x = from[0];
      held[q].y = left > 1 ? from[1] : 0.0F;
      held[q].z = left > 2 ? from[2] : 0.0F;
      held[q].w = left > 3 ? from[3] : 0.0F;
    }
  }

  __device__ __forceinline__ void Store(float (*tile)[kPitch]) const {
#pragma unroll
    for (int q = 0; q < kGroupsPerThread; ++q) {
      int line = 0;
      int depth = 0;
      if (!Place(q, &line, &depth)) {
        continue;
      }
      if constexpr (kAlongDepth) {
        tile[depth][line] = held[q].x;
        tile[depth + 1][line] = held[q].y;
        tile[depth + 2][line] = held[q].z;
        tile[depth + 3][line] = held[q].w;
      } else {
        *reinterpret_cast<float4*>(&tile[depth][line]) = held[q];
      }
    }
  }
};

// kCount lines of a tile's row for one thread: runs of up to 4 that lie
// kLines / (runs) apart, so that a warp reads shared memory without conflicts.
template <int kLines, int kCount>
struct Run {
  static constexpr int kWidth = kCount < 4 ? kCount : 4;
  static constexpr int kApart = kLines / (kCount / kWidth);

  __device__ __forceinline__ static int LineOf(int thread, int i) {
    return i / kWidth * kApart + thread * kWidth + i % kWidth;
  }

  __device__ __forceinline__ static void Read(const float* row, int thread,
                                              float (&values)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; i += kWidth) {
      const float* const from = row + LineOf(thread, i);
      if constexpr (kWidth == 4) {
        const float4 four = *reinterpret_cast<const float4*>(from);
        values[i] = four.x;
        values[i + 1] = four.y;
        values[i + 2] = four.z;
        values[i + 3] = four.w;
      } else {
#pragma unroll
        for (int j = 0; j < kWidth; ++j) {
          values[i + j] = from[j];
        }
      }
    }
  }
};

template <int kTileRows, int kTileColumns, int kTileDepth, int kThreadRows,
          int kThreadColumns>
struct Tiling {
  static constexpr int kRows = kTileRows;
  static constexpr int kColumns = kTileColumns;
  static constexpr int kDepth = kTileDepth;
  static constexpr int kM = kThreadRows;
  static constexpr int kN = kThreadColumns;
  static constexpr int kThreadsAcross = kColumns / kN;
  static constexpr int kBlockThreads = kRows / kM * kThreadsAcross;
};

// c = a b. Each output is one chain of fused multiply-adds in a register, for
// p rising from 0, starting at 0: what kernels/gemm.h says, bit for bit. Tiles
// are double-buffered: the next one is loaded while this one is used.
template <typename T, bool kLeftAlongDepth, bool kRightAlongDepth,
          bool kHasEpilogue = false>
__global__ void __launch_bounds__(T::kBlockThreads)
    GemmKernel(Factor left, Factor right, int64_t k, int64_t tiles_across,
               int64_t num_tiles, Output c, Epilogue epilogue) {
  using Left =
      TileLoader<T::kRows, T::kDepth, T::kBlockThreads, kLeftAlongDepth>;
  using Right =
      TileLoader<T::kColumns, T::kDepth, T::kBlockThreads, kRightAlongDepth>;
  using LeftRun = Run<T::kRows, T::kM>;
  using RightRun = Run<T::kColumns, T::kN>;
  alignas(16) __shared__ float left_tile[2][T::kDepth][Left::kPitch];
  alignas(16) __shared__ float right_tile[2][T::kDepth][Right::kPitch];
  const int down = static_cast<int>(threadIdx.x) / T::kThreadsAcross;
  const int across = static_cast<int>(threadIdx.x) % T::kThreadsAcross;

  for (int64_t work = blockIdx.x; work < num_tiles; work += gridDim.x) {
    const int64_t first_row = work / tiles_across * T::kRows;
    const int64_t first_column = work % tiles_across * T::kColumns;
    float acc[T::kM][T::kN] = {};
    Left left_loader;
    Right right_loader;
    left_loader.Load(left, first_row, 0, k);
    right_loader.Load(right, first_column, 0, k);
    left_loader.Store(left_tile[0]);
    right_loader.Store(right_tile[0]);
    __syncthreads();
    int buffer = 0;
    for (int64_t p0 = 0; p0 < k; p0 += T::kDepth) {
      const bool more = p0 + T::kDepth < k;
      if (more) {
        left_loader.Load(left, first_row, p0 + T::kDepth, k);
        right_loader.Load(right, first_column, p0 + T::kDepth, k);
      }
      const auto step = [&](int p) {
        float a[T::kM];
        float b[T::kN];
        LeftRun::Read(left_tile[buffer][p], down, a);
        RightRun::Read(right_tile[buffer][p], across, b);
#pragma unroll
        for (int i = 0; i < T::kM; ++i) {
#pragma unroll
          for (int j = 0; j < T::kN; ++j) {
            acc[i][j] = fmaf(a[i], b[j], acc[i][j]);
          }
        }
      };
      // Zeros beyond the depth must not be added: they would change -0.
      if (p0 + T::kDepth <= k) {
#pragma unroll
        for (int p = 0; p < T::kDepth; ++p) {
          step(p);
        }
      } else {
        for (int p = 0; p < static_cast<int>(k - p0); ++p) {
          step(p);
        }
      }
      if (more) {
        // Nobody reads the other buffer any more: all passed the barrier that
        // ended the tile in it.
        buffer ^= 1;
        left_loader.Store(left_tile[buffer]);
        right_loader.Store(right_tile[buffer]);
      }
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < T::kM; ++i) {
      const int64_t row = first_row + LeftRun::LineOf(down, i);
#pragma unroll
      for (int j = 0; j < T::kN; ++j) {
        const int64_t column = first_column + RightRun::LineOf(across, j);
        if (row < left.lines && column < right.lines) {
          float value = acc[i][j];
          if constexpr (kHasEpilogue) {
            value = Activate(
                epilogue.activation,
                value + epilogue.bias[row * epilogue.row_stride +
                                      column * epilogue.column_stride]);
          }
          c.data[row * c.row_stride + column * c.column_stride] = value;
        }
      }
    }
  }
}

using Large = Tiling<128, 128, 8, 8, 8>;
using Medium = Tiling<64, 64, 16, 4, 4>;
using Small = Tiling<32, 32, 32, 2, 4>;
using Narrow = Tiling<16, 4, 64, 1, 1>;

// The product of no columns and rows, of which the epilogue is left.
__global__ void ClearKernel(float* y, int64_t size, int64_t n,
                            Epilogue epilogue) {
  for (int64_t i = FirstItem(); i < size; i += ItemStep()) {
    y[i] = epilogue.bias == nullptr
               ? 0.0F
               : Activate(epilogue.activation, 0.0F + epilogue.bias[i % n]);
  }
}

// In place; what cuBLASLt's epilogues do not have.
__global__ void ActivateKernel(float* y, int64_t size, Activation activation) {
  for (int64_t i = FirstItem(); i < size; i += ItemStep()) {
    y[i] = Activate(activation, y[i]);
  }
}

template <typename T>
int64_t NumTiles(const Factor& left, const Factor& right) {
  return CeilDiv(left.lines, T::kRows) * CeilDiv(right.lines, T::kColumns);
}

template <typename T>
int GemmTiles(ShoalCudaStream& stream, const Factor& left, const Factor& right,
              int64_t k, const Output& c, const Epilogue& epilogue) {
  const int64_t across = CeilDiv(right.lines, T::kColumns);
  const int64_t tiles = NumTiles<T>(left, right);
  const auto launch = [&](auto kernel) {
    return Launch(stream, Blocks(tiles, 1), T::kBlockThreads, kernel, left,
                  right, k, across, tiles, c, epilogue);
  };
  const bool left_along = left.depth_stride == 1;
  const bool right_along = right.depth_stride == 1;
  // A layer's factors are not transposed; the other way round, its columns are
  // so few that tiles are narrow.
  if (epilogue.bias != nullptr) {
    if constexpr (std::is_same_v<T, Narrow>) {
      if (!left_along) {
        return launch(&GemmKernel<T, false, true, true>);
      }
    }
    return launch(&GemmKernel<T, true, false, true>);
  }
  if (left_along && right_along) {
    return launch(&GemmKernel<T, true, true>);
  }
  if (left_along) {
    return launch(&GemmKernel<T, true, false>);
  }
  if (right_along) {
    return launch(&GemmKernel<T, false, true>);
  }
  return launch(&GemmKernel<T, false, false>);
}

// The largest tiles of which there are enough for every multiprocessor.
int GemmExact(ShoalCudaStream& stream, const Factor& left, const Factor& right,
              int64_t k, const Output& c, const Epilogue& epilogue) {
  // Narrow tiles have few columns.
  constexpr int64_t kNarrowMax = 8;
  if (left.lines < right.lines && left.lines <= kNarrowMax) {
    return GemmExact(stream, right, left, k,
                     {c.data, c.column_stride, c.row_stride},
                     {epilogue.bias, epilogue.column_stride,
                      epilogue.row_stride, epilogue.activation});
  }
  const int64_t enough = stream.context->multiprocessors;
  if (right.lines <= kNarrowMax) {
    return GemmTiles<Narrow>(stream, left, right, k, c, epilogue);
  }
  if (NumTiles<Large>(left, right) >= enough) {
    return GemmTiles<Large>(stream, left, right, k, c, epilogue);
  }
  if (NumTiles<Medium>(left, right) >= enough) {
    return GemmTiles<Medium>(stream, left, right, k, c, epilogue);
  }
  return GemmTiles<Small>(stream, left, right, k, c, epilogue);
}

Factor FactorOf(const float* data, int64_t lines, int64_t depth,
                bool along_depth) {
  const int64_t stride = along_depth ? depth : lines;
  return {data, lines, along_depth ? depth : 1, along_depth ? 1 : lines,
          stride % 4 == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0};
}

// None of the sizes need be above 0.
int RunProduct(ShoalCudaStream& stream, const Product& p,

               const Epilogue& epilogue) {
  const int64_t size = p.m * p.n;
  if (size == 0) {
    return 0;
  }
  if (p.k == 0) {
    return Launch(stream, Blocks(size), kThreads, &ClearKernel, p.c, size, p.n,
                  epilogue);
  }
  if (stream.math == SHOAL_CUDA_FAST) {
    // Streams for copies never need one.
    if (stream.blas == nullptr) {
      SHOAL_CUDA_TRY(CreateBlas(&stream.blas));
    }
    SHOAL_CUDA_TRY(Multiply(*stream.blas, stream.stream, p));
    return epilogue.activation == Activation::kNone || p.relu
               ? 0
               : Launch(stream, Blocks(size), kThreads, &ActivateKernel, p.c,
                        size, epilogue.activation);
  }
  return GemmExact(stream, FactorOf(p.a, p.m, p.k, !p.transpose_a),
                   FactorOf(p.b, p.n, p.k, p.transpose_b), p.k, {p.c, p.n, 1},
                   epilogue);
}

}  // namespace

int Dense(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const ShoalCudaTensor& a = args.inputs[0];
  const ShoalCudaTensor& b = args.inputs[1];
  const auto* const bias = As<const float>(args.inputs[2]);
  const auto activation = static_cast<Activation>(args.ints[0]);
  return RunProduct(stream,
                    {.a = As<const float>(a),
                     .b = As<const float>(b),
                     .c = As<float>(args.outputs[0]),
                     .m = a.dims[0],
                     .n = b.dims[1],
                     .k = a.dims[1],
                     .transpose_a = false,
                     .transpose_b = false,
                     .bias = bias,
                     .relu = activation == Activation::kRelu},
                    {bias, 0, 1, activation});
}

int MatMul(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const ShoalCudaTensor& a = args.inputs[0];
  const ShoalCudaTensor& b = args.inputs[1];
  const bool transpose_a = args.ints[0] != 0;
  const bool transpose_b = args.ints[1] != 0;
  const int64_t m = a.dims[transpose_a ? 1 : 0];
  const int64_t k = a.dims[transpose_a ? 0 : 1];
  const int64_t n = b.dims[transpose_b ? 0 : 1];
  return RunProduct(stream,
                    {.a = As<const float>(a),
                     .b = As<const float>(b),
                     .c = As<float>(args.outputs[0]),
                     .m = m,
                     .n = n,
                     .k = k,
                     .transpose_a = transpose_a,
                     .transpose_b = transpose_b},
                    {nullptr, 0, 0, Activation::kNone});
}

}  // namespace shoal::cuda
