#include "kernels/cuda/lanes.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/runtime.cuh"

namespace shoal::cuda {
namespace {

// [examples, fields, dim]
struct FieldVectors {
  const float* x;
  int64_t examples;
  int64_t fields;
  int64_t dim;

  __device__ int64_t size() const { return fields * dim; }
};

FieldVectors VectorsOf(const ShoalCudaTensor& x) {
  return {As<const float>(x), x.dims[0], x.dims[1], x.dims[2]};
}

// Half a warp has an example. Its lanes go through the dimensions in the chunks
// of kernels/lanes_impl.h: 16s, then an 8, then what is left, each of which
// starts at lane 0.
__global__ void FmKernel(FieldVectors v, float* y) {
  const int lane = Lane();
  const int64_t after_16s = v.dim / kLanes * kLanes;
  const int64_t after_8 = after_16s + (v.dim - after_16s) / 8 * 8;
  for (int64_t e = FirstRow(); e < RowsOfWholeWarps(v.examples);
       e += RowStep()) {
    float terms = 0.0F;
    const auto add_term = [&](int64_t k) {
      const float* const from = v.x + e * v.size() + k;
      float sum = 0.0F;
      float squares = 0.0F;
#pragma unroll 4
      for (int64_t f = 0; f < v.fields; ++f) {
        const float value = from[f * v.dim];
        sum += value;
        squares += value * value;
      }
      terms += sum * sum - squares;
    };
    if (e < v.examples) {
      for (int64_t k = lane; k < after_16s; k += kLanes) {
        add_term(k);
      }
      if (after_16s + lane < after_8) {
        add_term(after_16s + lane);
      }
      if (after_8 + lane < v.dim) {
        add_term(after_8 + lane);
      }
    }
    const float sum = SumOfLanes(terms);
    if (lane == 0 && e < v.examples) {
      y[e] = 0.5F * sum;
    }
  }
}

__global__ void FmGradKernel(FieldVectors v, const float* dy, float* dx) {
  const int64_t columns = v.examples * v.dim;
  for (int64_t i = FirstItem(); i < columns; i += ItemStep()) {
    const RowColumn at = Split(i, v.dim);
    const int64_t first = at.row * v.size() + at.column;
    const float* const from = v.x + first;
    float* const to = dx + first;
    float sum = 0.0F;
#pragma unroll 4
    for (int64_t f = 0; f < v.fields; ++f) {
      sum += from[f * v.dim];
    }
    const float slope = dy[at.row];
#pragma unroll 4
    for (int64_t f = 0; f < v.fields; ++f) {
      to[f * v.dim] = slope * (sum - from[f * v.dim]);
    }
  }
}

// A block computes the products of 32 fields with 32 fields of one example;
// a thread those of 2 with 2.
constexpr int kTile = 32;
constexpr int kDepth = 32;

__device__ __forceinline__ void LoadTile(const FieldVectors& v, const float* x,
                                         int64_t field, int64_t k0,
                                         float (*tile)[kTile + 1]) {
  for (int t = static_cast<int>(threadIdx.x); t < kTile * kDepth;
       t += kThreads) {
    const int64_t f = field + t / kDepth;
    const int64_t k = k0 + t % kDepth;
    tile[t % kDepth][t / kDepth] =
        f < v.fields && k < v.dim ? x[f * v.dim + k] : 0.0F;
  }
}

// Pair (i, j), j < i, stands at i (i - 1) / 2 + j. Each is one chain over
// dimensions.
__global__ void DotKernel(FieldVectors v, int64_t tiles, float* y) {
  __shared__ float left[kDepth][kTile + 1];
  __shared__ float right[kDepth][kTile + 1];
  const int64_t tiles_of_example = tiles * (tiles + 1) / 2;
  const int64_t pairs = v.fields * (v.fields - 1) / 2;
  const int ti = 2 * (static_cast<int>(threadIdx.x) / (kTile / 2));
  const int tj = 2 * (static_cast<int>(threadIdx.x) % (kTile / 2));
  for (int64_t work = blockIdx.x; work < v.examples * tiles_of_example;
       work += gridDim.x) {
    const int64_t e = work / tiles_of_example;
    int64_t tile_j = work % tiles_of_example;
    int64_t tile_i = 0;
    while (tile_j > tile_i) {
      ++tile_i;
      tile_j -= tile_i;
    }
    const float* const x = v.x + e * v.size();
    float acc[2][2] = {};
    for (int64_t k0 = 0; k0 < v.dim; k0 += kDepth) {
      LoadTile(v, x, tile_i * kTile, k0, left);
      LoadTile(v, x, tile_j * kTile, k0, right);
      __syncthreads();
      const int depth =
          static_cast<int>(v.dim - k0 < kDepth ? v.dim - k0 : kDepth);
#pragma unroll 4
      for (int k = 0; k < depth; ++k) {
        for (int a = 0; a < 2; ++a) {
          for (int b = 0; b < 2; ++b) {
            acc[a][b] += left[k][ti + a] * right[k][tj + b];
          }
        }
      }
      __syncthreads();
    }
    for (int a = 0; a < 2; ++a) {
      for (int b = 0; b < 2; ++b) {
        const int64_t i = tile_i * kTile + ti + a;
        const int64_t j = tile_j * kTile + tj + b;
        if (i < v.fields && j < i) {
          y[e * pairs + i * (i - 1) / 2 + j] = acc[a][b];
        }
      }
    }
  }
}

__global__ void DotGradKernel(FieldVectors v, const float* dy, float* dx) {
  const int64_t pairs = v.fields * (v.fields - 1) / 2;
  const int64_t size = v.examples * v.size();
  for (int64_t n = FirstItem(); n < size; n += ItemStep()) {
    const RowColumn example = Split(n, v.size());
    const RowColumn at = Split(example.column, v.dim);
    const int64_t i = at.row;
    const float* const from = v.x + example.row * v.size() + at.column;
    const float* const slopes = dy + example.row * pairs;
    float acc = 0.0F;
#pragma unroll 4
    for (int64_t j = 0; j < i; ++j) {
      acc += slopes[i * (i - 1) / 2 + j] * from[j * v.dim];
    }
#pragma unroll 4
    for (int64_t j = i + 1; j < v.fields; ++j) {
      acc += slopes[j * (j - 1) / 2 + i] * from[j * v.dim];
    }
    dx[n] = acc;
  }
}

}  // namespace

int FmInteraction(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const FieldVectors v = VectorsOf(args.inputs[0]);
  return Launch(stream, Blocks(v.examples, kRowsPerBlock), kThreads, &FmKernel,
                v, As<float>(args.outputs[0]));
}

int FmInteractionGrad(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const FieldVectors v = VectorsOf(args.inputs[0]);
  return Launch(stream, Blocks(v.examples * v.dim), kThreads, &FmGradKernel, v,
                As<const float>(args.inputs[1]), As<float>(args.outputs[0]));
}

int DotInteraction(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const FieldVectors v = VectorsOf(args.inputs[0]);
  const int64_t tiles = v.fields < 2 ? 0 : CeilDiv(v.fields, kTile);
  return Launch(stream, Blocks(v.examples * (tiles * (tiles + 1) / 2), 1),
                kThreads, &DotKernel, v, tiles, As<float>(args.outputs[0]));
}

int DotInteractionGrad(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const FieldVectors v = VectorsOf(args.inputs[0]);
  return Launch(stream, Blocks(v.examples * v.fields * v.dim), kThreads,
                &DotGradKernel, v, As<const float>(args.inputs[1]),
                As<float>(args.outputs[0]));
}

}  // namespace shoal::cuda
