// Matrix products of the models' shapes, one thread, beside oneDNN's.
//
// Sketch: a core that starts two multiply-adds of 16 numbers a cycle at 4 GHz
// does 256 GFLOP/s, one with half that width 117 at 3.6 GHz. Packing the left
// factor costs about 2 per cent at 400 columns, so expect 0.95 of the peak, and
// at least 0.85 of oneDNN.
#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include <benchmark/benchmark.h>

#include "base/random.h"
#include "base/thread_pool.h"
#include "kernels/gemm.h"
#include "kernels/simd.h"

namespace {

using shoal::GemmFactor;
using shoal::GemmSize;
using Sgemm = int (*)(char, char, int64_t, int64_t, int64_t, float,
                      const float*, int64_t, const float*, int64_t, float,
                      float*, int64_t);

// Loaded by name, so that the benchmark needs no package to build. Its threads
// are OpenMP's: run with OMP_NUM_THREADS=1.
Sgemm OneDnn() {
  static void* const library = dlopen("libdnnl.so.2", RTLD_NOW | RTLD_LOCAL);
  return library == nullptr
             ? nullptr
             : reinterpret_cast<Sgemm>(dlsym(library, "dnnl_sgemm"));
}

std::vector<float> RandomMatrix(int64_t n, uint64_t seed) {
  shoal::Random random(seed);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& value : x) {
    value = static_cast<float>(random.Uniform() - 0.5);
  }
  return x;
}

struct Problem {
  explicit Problem(const benchmark::State& state)
      : size{state.range(0), state.range(1), state.range(2)},
        transpose_a(state.range(3) != 0),
        transpose_b(state.range(4) != 0),
        a(RandomMatrix(size.m * size.k, 1)),
        b(RandomMatrix(size.k * size.n, 2)),
        c(static_cast<size_t>(size.m * size.n)) {}

  GemmFactor left() const {
    return {a.data(), transpose_a ? 1 : size.k, transpose_a ? size.m : 1};
  }
  GemmFactor right() const {
    return {b.data(), transpose_b ? size.k : 1, transpose_b ? 1 : size.n};
  }

  // A few outputs against sums in double precision.
  bool Verify() const {
    for (int64_t s = 0; s < 64; ++s) {
      const int64_t i = s * 7919 % size.m;
      const int64_t j = s * 104729 % size.n;
      double want = 0.0;
      for (int64_t p = 0; p < size.k; ++p) {
        want +=
            double{
                left().data[i * left().line_stride + p * left().depth_stride]} *
            right().data[j * right().line_stride + p * right().depth_stride];
      }
      if (!(std::abs(c[static_cast<size_t>(i * size.n + j)] - want) < 1e-4)) {
        return false;
      }
    }
    return true;
  }

  void Report(benchmark::State& state) const {
    if (!Verify()) {
      return state.SkipWithError("the product is wrong");
    }
    state.counters["GFLOP/s"] =
        benchmark::Counter(2e-9 * static_cast<double>(size.m * size.n * size.k),
                           benchmark::Counter::kIsIterationInvariantRate);
  }

  GemmSize size;
  bool transpose_a;
  bool transpose_b;
  std::vector<float> a;
  std::vector<float> b;
  std::vector<float> c;
};

void BM_Shoal(benchmark::State& state) {
  Problem problem(state);
  std::vector<std::byte> workspace(
      static_cast<size_t>(shoal::GemmWorkspaceBytes(problem.size)));
  shoal::ThreadPool pool(static_cast<int>(state.range(5)));
  for (auto _ : state) {
    shoal::Gemm(problem.size, problem.left(), problem.right(), problem.c.data(),
                workspace, pool);
    benchmark::ClobberMemory();
  }
  problem.Report(state);
}

void BM_OneDnn(benchmark::State& state) {
  const Sgemm sgemm = OneDnn();
  if (sgemm == nullptr) {
    return state.SkipWithError("libdnnl.so.2 is not there");
  }
  Problem problem(state);
  const auto [m, n, k] = problem.size;
  for (auto _ : state) {
    sgemm(problem.transpose_a ? 'T' : 'N', problem.transpose_b ? 'T' : 'N', m,
          n, k, 1.0F, problem.a.data(), problem.transpose_a ? m : k,
          problem.b.data(), problem.transpose_b ? k : n, 0.0F, problem.c.data(),
          n);
    benchmark::ClobberMemory();
  }
  problem.Report(state);
}

// m, n, k, transpose a, transpose b, threads.
void Shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"m", "n", "k", "ta", "tb", "threads"});
  const std::vector<std::vector<int64_t>> shapes = {
      {2048, 400, 416, 0, 0}, {1024, 400, 400, 0, 0}, {512, 400, 429, 0, 0},
      {512, 400, 400, 0, 0},  {429, 400, 512, 1, 0},  {400, 400, 512, 1, 0},
      {416, 400, 2048, 1, 0}, {512, 429, 400, 0, 1},  {512, 400, 400, 0, 1},
      {2048, 416, 400, 0, 1}, {512, 1, 400, 0, 0},    {400, 1, 512, 1, 0},
      {512, 400, 1, 0, 1},    {13, 512, 512, 1, 0},   {512, 512, 13, 0, 0},
      {512, 13, 512, 0, 1},   {1, 400, 429, 0, 0}};
  for (std::vector<int64_t> shape : shapes) {
    shape.push_back(1);
    benchmark->Args(shape);
  }
  benchmark->Args({2048, 400, 416, 0, 0, 2});
}

BENCHMARK(BM_OneDnn)->Apply(Shapes)->MinTime(0.1)->UseRealTime();
BENCHMARK(BM_Shoal)->Apply(Shapes)->MinTime(0.1)->UseRealTime();

}  // namespace
