// Look-ups, updates and inserts of SparseTable, without the network, beside
// absl's flat_hash_map with prefetch and std::unordered_map, and the optimizers
// on dense chunks. benchmarks/sparse_table.md has what it gave.
//
// Sketch: tables of random ids, rows of 16 f32, batches of 50,000 present ids
// in random order. A look-up misses the caches twice, in the index and in the
// row, 100 ns each; with dozens under way at once memory gives about 60 million
// lines a second to a core, so 30 million look-ups; a flat_hash_map reads
// control bytes and an entry of 72 bytes, three lines: 20 million. An insert
// writes a line of the index and the row and, every 32,768 rows, has the kernel
// clear a huge page (50 to 200 us): 12 million a second; a flat_hash_map copies
// every row about twice while it grows: 4 million. Adam reads and writes 3
// floats and reads one per element: 492k elements are 14 MB, below 1 ms at 15
// GB/s.
//
// Threads are timed by their own CPU: the figures hold on a machine that others
// use too.
#include <time.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <unordered_map>
#include <vector>

#include <absl/container/flat_hash_map.h>
#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include "base/random.h"
#include "ps/memory_plan.h"
#include "ps/model_spec.h"
#include "ps/optimizer.h"
#include "ps/row_rules.h"
#include "ps/slots.h"
#include "ps/sparse_table.h"
#include "ps/table_snapshot.h"

namespace {

using shoal::HashKey;
using shoal::Random;
using shoal::ps::SparseTable;

constexpr int64_t kDim = 16;
constexpr int64_t kBatch = 50000;

uint64_t IdOf(int64_t i) { return HashKey(77, static_cast<uint64_t>(i)); }

std::unique_ptr<SparseTable> NewTable(const std::string& optimizer) {
  SparseTable::Options options;
  options.name = "t";
  options.dim = kDim;
  options.optimizer.kind = optimizer;
  options.optimizer.learning_rate = 1;
  return *SparseTable::Create(options);
}

// Rows 0 .. n of value -1 (a gradient of 1, a rate of 1, from 0).
std::unique_ptr<SparseTable> FilledTable(const std::string& optimizer,
                                         int64_t n) {
  auto table = NewTable(optimizer);
  const std::vector<float> gradients(kBatch * kDim, 1);
  std::vector<uint64_t> ids(kBatch);
  for (int64_t at = 0; at < n; at += kBatch) {
    for (int64_t i = 0; i < kBatch; ++i) {
      ids[static_cast<size_t>(i)] = IdOf(at + i);
    }
    table->Apply(ids, gradients.data(), 1, 0);
  }
  return table;
}

// Twenty batches of present ids, so that none stays in a cache.
std::vector<std::vector<uint64_t>> Batches(int64_t n, int thread = 0) {
  std::vector<std::vector<uint64_t>> batches(20);
  Random random(5 + static_cast<uint64_t>(thread));
  for (auto& batch : batches) {
    for (int64_t i = 0; i < kBatch; ++i) {
      batch.push_back(
          IdOf(static_cast<int64_t>(random.Below(static_cast<uint64_t>(n)))));
    }
  }
  return batches;
}

// In the order in which ids reach a shard: the client sorts them, and a shard
// refuses others.
std::vector<std::vector<uint64_t>> SortedBatches(int64_t n, int thread) {
  auto batches = Batches(n, thread);
  for (auto& batch : batches) {
    std::sort(batch.begin(), batch.end(), [](uint64_t a, uint64_t b) {
      return shoal::ps::IdHash(a) < shoal::ps::IdHash(b);
    });
  }
  return batches;
}

// One table for all threads and repetitions of a size: filled by growth.
const SparseTable& PulledTable(int64_t n) {
  static std::map<int64_t, std::unique_ptr<SparseTable>> tables;
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  auto& table = tables[n];
  if (table == nullptr) {
    tables.clear();  // The ones of other sizes have had their turn.
    return *(tables[n] = FilledTable("sgd", n));
  }
  return *table;
}

void BM_TablePull(benchmark::State& state, bool sorted) {
  const int64_t n = state.range(0);
  const SparseTable& table = PulledTable(n);
  const auto batches = sorted ? SortedBatches(n, state.thread_index())
                              : Batches(n, state.thread_index());
  std::vector<float> out(kBatch * kDim);
  size_t next = 0;
  for (auto _ : state) {
    table.Pull(batches[next++ % batches.size()], out.data());
    benchmark::DoNotOptimize(out.data());
  }
  for (const float value : out) {
    if (value != -1) {
      return state.SkipWithError("a row is not what was stored");
    }
  }
  state.SetItemsProcessed(state.iterations() * kBatch);
  if (state.thread_index() == 0) {
    state.counters["bytes_per_row"] =
        static_cast<double>(table.memory_bytes()) / static_cast<double>(n);
  }
}
BENCHMARK_CAPTURE(BM_TablePull, as_a_shard, true)
    ->Arg(10'000'000)
    ->ThreadRange(1, 2);
BENCHMARK_CAPTURE(BM_TablePull, random_order, false)
    ->Arg(10'000'000)
    ->ThreadRange(1, 2);

using AbslMap = absl::flat_hash_map<uint64_t, std::array<float, kDim>>;

AbslMap FilledAbslMap(int64_t n) {
  AbslMap map;
  for (int64_t i = 0; i < n; ++i) {
    map[IdOf(i)].fill(-1);
  }
  return map;
}

void BM_AbslPull(benchmark::State& state) {
  const int64_t n = state.range(0);
  static const AbslMap map = FilledAbslMap(n);
  const auto batches = Batches(n, state.thread_index());
  std::vector<float> out(kBatch * kDim);
  size_t next = 0;
  for (auto _ : state) {
    const std::vector<uint64_t>& ids = batches[next++ % batches.size()];
    float* to = out.data();
    for (size_t i = 0; i < ids.size(); ++i, to += kDim) {
      if (i + 16 < ids.size()) {
        map.prefetch(ids[i + 16]);
      }
      std::memcpy(to, map.find(ids[i])->second.data(), kDim * sizeof(float));
    }
    benchmark::DoNotOptimize(out.data());
  }
  for (const float value : out) {
    if (value != -1) {
      return state.SkipWithError("a row is not what was stored");
    }
  }
  state.SetItemsProcessed(state.iterations() * kBatch);
}
BENCHMARK(BM_AbslPull)->Arg(10'000'000)->ThreadRange(1, 2);

void BM_UnorderedMapFind(benchmark::State& state) {
  const int64_t n = state.range(0);
  std::unordered_map<uint64_t, std::array<float, kDim>> map;
  for (int64_t i = 0; i < n; ++i) {
    map[IdOf(i)].fill(-1);
  }
  const auto batches = Batches(n);
  std::vector<float> out(kBatch * kDim);
  size_t next = 0;
  for (auto _ : state) {
    float* to = out.data();
    for (const uint64_t id : batches[next++ % batches.size()]) {
      std::memcpy(to, map.find(id)->second.data(), kDim * sizeof(float));
      to += kDim;
    }
    benchmark::DoNotOptimize(out.data());
  }
  for (const float value : out) {
    if (value != -1) {
      return state.SkipWithError("a row is not what was stored");
    }
  }
  state.SetItemsProcessed(state.iterations() * kBatch);
}
BENCHMARK(BM_UnorderedMapFind)->Arg(1'000'000)->Arg(10'000'000)->UseRealTime();

// Rows of 16 values and 16 of state: two lines each, read and written.
void BM_TableApplyAdagrad(benchmark::State& state) {
  const int64_t n = state.range(0);
  const auto table = FilledTable("adagrad", n);
  const auto batches = Batches(n);
  const std::vector<float> gradients(kBatch * kDim, 0.5F);
  size_t next = 0;
  for (auto _ : state) {
    table->Apply(batches[next++ % batches.size()], gradients.data(), 1, 0);
  }
  if (table->num_rows() != n) {
    return state.SkipWithError("present rows were inserted");
  }
  state.SetItemsProcessed(state.iterations() * kBatch);
}
BENCHMARK(BM_TableApplyAdagrad)->Arg(1'000'000)->UseRealTime();

// A stream of ids of which the n-th is drawn about 1/n as often as the first,
// in the order of a shard's pushes: 200 steps of 50,000 draws, again and again.
std::vector<std::vector<uint64_t>> ZipfSteps() {
  constexpr double kIds = 50e6;
  std::vector<std::vector<uint64_t>> steps(200);
  Random random(9);
  for (auto& step : steps) {
    for (int64_t i = 0; i < kBatch; ++i) {
      step.push_back(
          IdOf(static_cast<int64_t>(std::pow(kIds, random.Uniform()))));
    }
    std::sort(step.begin(), step.end(), [](uint64_t a, uint64_t b) {
      return shoal::ps::IdHash(a) < shoal::ps::IdHash(b);
    });
    step.erase(std::unique(step.begin(), step.end()), step.end());
  }
  return steps;
}

// What the rules of rows cost, per id that is pushed. Sketch: a push reads and
// writes two or three lines of a row and one of the index; admission by count
// adds a look-up of about as much for ids without a row; an eviction reads one
// line of eight rows for each that goes, a sweep one line of at most eight rows
// for each that is pushed: 1.2 to 3 times a plain table.
void BM_TableApplyRules(benchmark::State& state,
                        const shoal::ps::RowRules& rules) {
  static const auto steps = ZipfSteps();
  const shoal::ps::ModelSpec model = {
      .tables = {{.name = "t",
                  .dim = kDim,
                  .optimizer = {.kind = "adagrad"},
                  .rules = rules}},
      .groups = {{0}}};
  const auto tables = *shoal::ps::MakeTables(model, 10);
  const std::vector<float> gradients(kBatch * kDim, 0.5F);
  int64_t step = 0;
  const auto apply = [&] {
    const auto& ids = steps[static_cast<size_t>(step) % steps.size()];
    tables[0]->Apply(ids, gradients.data(), 1, ++step);
    return static_cast<int64_t>(ids.size());
  };
  int64_t most = 0;
  while (step < 200) {
    apply();
    most = std::max(most, tables[0]->memory_bytes());
  }
  const int64_t evicted_before = tables[0]->rows_evicted();
  int64_t pushed = 0;
  for (auto _ : state) {
    pushed += apply();
    most = std::max(most, tables[0]->memory_bytes());
  }
  if (rules.row_budget_bytes > 0 &&
      most > rules.row_budget_bytes + (int64_t{4} << 20)) {
    return state.SkipWithError("the budget was not kept");
  }
  state.SetItemsProcessed(pushed);
  state.counters["rows"] = static_cast<double>(tables[0]->num_rows());
  state.counters["most_bytes"] = static_cast<double>(most);
  state.counters["evicted_per_push"] =
      static_cast<double>(tables[0]->rows_evicted() - evicted_before) /
      static_cast<double>(pushed);
  state.counters["candidate_bytes"] =
      static_cast<double>(tables.size() > 1 ? tables[1]->memory_bytes() : 0);
}
constexpr int64_t kBudget = int64_t{128} << 20;
BENCHMARK_CAPTURE(BM_TableApplyRules, none, {})->Iterations(200);
BENCHMARK_CAPTURE(BM_TableApplyRules, age, {.max_age_steps = 400})
    ->Iterations(200);
BENCHMARK_CAPTURE(BM_TableApplyRules, lru, {.row_budget_bytes = kBudget})
    ->Iterations(200);
BENCHMARK_CAPTURE(BM_TableApplyRules, lfu,
                  {.row_budget_bytes = kBudget,
                   .policy = shoal::ps::RowRules::Policy::kLfu})
    ->Iterations(200);
BENCHMARK_CAPTURE(BM_TableApplyRules, min_count, {.min_count = 3})
    ->Iterations(200);
BENCHMARK_CAPTURE(BM_TableApplyRules, min_count_lru,
                  {.min_count = 3, .row_budget_bytes = kBudget})
    ->Iterations(200);

void BM_TableInsert(benchmark::State& state) {
  const int64_t n = state.range(0);
  for (auto _ : state) {
    const auto table = FilledTable("sgd", n);
    if (table->num_rows() != n) {
      return state.SkipWithError("rows are missing");
    }
  }
  state.SetItemsProcessed(state.iterations() * n);
}
BENCHMARK(BM_TableInsert)->Arg(10'000'000)->Iterations(1);

void BM_AbslInsert(benchmark::State& state) {
  const int64_t n = state.range(0);
  for (auto _ : state) {
    const AbslMap map = FilledAbslMap(n);
    if (static_cast<int64_t>(map.size()) != n) {
      return state.SkipWithError("rows are missing");
    }
  }
  state.SetItemsProcessed(state.iterations() * n);
}
BENCHMARK(BM_AbslInsert)->Arg(10'000'000)->Iterations(1);

int64_t PeakResidentBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

// A table that grows to its size: what it takes at rest, and the most that the
// process took on the way. Run alone (--benchmark_filter=Grow).
void BM_TableGrowAdagrad(benchmark::State& state) {
  const int64_t n = state.range(0);
  for (auto _ : state) {
    const auto table = FilledTable("adagrad", n);
    const auto rows = static_cast<double>(n);
    state.counters["bytes_per_row"] =
        static_cast<double>(table->memory_bytes()) / rows;
    state.counters["of_id_row_state"] =
        static_cast<double>(table->memory_bytes()) /
        (rows * (8 + 2 * kDim * sizeof(float)));
    state.counters["peak_rss_bytes"] = static_cast<double>(PeakResidentBytes());
  }
  state.SetItemsProcessed(state.iterations() * n);
}
BENCHMARK(BM_TableGrowAdagrad)
    ->Arg(20'000'000)
    ->Arg(100'000'000)
    ->Iterations(1);

double ThreadSeconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) +
         static_cast<double>(now.tv_nsec) * 1e-9;
}

// A snapshot read in pieces of 1 MiB, as a checkpoint reads it, with a batch of
// pushes after every fourth, beside the same pushes without one. A piece is
// what a shard stops for; the first one of a part of the index sorts its rows.
void BM_TableSnapshot(benchmark::State& state) {
  const int64_t n = state.range(0);
  constexpr int64_t kRowBytes = 8 + 2 * kDim * sizeof(float);
  for (auto _ : state) {
    const auto table = FilledTable("adagrad", n);
    const auto batches = SortedBatches(n, 0);
    const std::vector<float> gradients(kBatch * kDim, 0.5F);
    int64_t step = 1;
    const auto push = [&] {
      const double start = ThreadSeconds();
      table->Apply(batches[static_cast<size_t>(step) % batches.size()],
                   gradients.data(), 1, step);
      ++step;
      return ThreadSeconds() - start;
    };
    std::vector<double> pushes_before;
    for (int i = 0; i < 20; ++i) {
      pushes_before.push_back(push());
    }
    std::vector<double> pushes;
    std::vector<double> pieces;
    std::vector<std::byte> out;
    shoal::ps::TableSnapshot snapshot(*table, nullptr);
    int64_t rows = 0;
    int64_t kept = 0;
    for (bool more = true; more;) {
      out.clear();
      int64_t left = (int64_t{1} << 20) / kRowBytes;
      const double start = ThreadSeconds();
      more = snapshot.Next([&](uint64_t, std::span<const std::byte> values,
                               std::span<const float> row_state) {
        out.insert(out.end(), values.begin(), values.end());
        const auto bytes = std::as_bytes(row_state);
        out.insert(out.end(), bytes.begin(), bytes.end());
        ++rows;
        return --left > 0;
      });
      pieces.push_back(ThreadSeconds() - start);
      if (pieces.size() % 4 == 0 && pushes.size() < 200) {
        pushes.push_back(push());
        kept = std::max(kept, snapshot.kept_bytes());
      }
    }
    if (rows != n) {
      return state.SkipWithError("rows are missing");
    }
    const auto median = [](std::vector<double> of) {
      std::nth_element(of.begin(), of.begin() + of.size() / 2, of.end());
      return of[of.size() / 2];
    };
    state.counters["longest_piece_ms"] =
        1e3 * *std::max_element(pieces.begin(), pieces.end());
    state.counters["median_piece_ms"] = 1e3 * median(pieces);
    state.counters["read_bytes_per_s"] =
        static_cast<double>(n * kRowBytes) /
        std::accumulate(pieces.begin(), pieces.end(), 0.0);
    state.counters["push_ms_before"] = 1e3 * median(pushes_before);
    state.counters["push_ms_meanwhile"] = 1e3 * median(pushes);
    state.counters["kept_bytes"] = static_cast<double>(kept);
  }
}
BENCHMARK(BM_TableSnapshot)
    ->Arg(10'000'000)
    ->Arg(50'000'000)
    ->Iterations(1)
    ->Unit(benchmark::kSecond);

// The dense part of LIMITS' deepfm: 492k elements in chunks of 16384.
void BM_DenseApply(benchmark::State& state, const std::string& optimizer) {
  constexpr int64_t kChunk = 16384;
  constexpr int64_t kChunks = 30;
  const auto made = shoal::ps::CreateOptimizer({.kind = optimizer});
  std::vector<std::vector<float>> chunks(kChunks);
  for (auto& chunk : chunks) {
    chunk.resize(static_cast<size_t>(kChunk + (*made)->StateFloats(kChunk)));
    (*made)->InitState(chunk.data() + kChunk, kChunk);
  }
  std::vector<float> gradients(kChunk * kChunks, 0.01F);
  for (auto _ : state) {
    for (size_t c = 0; c < chunks.size(); ++c) {
      float* row = chunks[c].data();
      (*made)->Apply({.rows = &row,
                      .gradients = gradients.data() + c * kChunk,
                      .num_rows = 1,
                      .dim = kChunk});
    }
  }
  if (!(chunks[0][0] < 0) || chunks[0][0] != chunks[29][kChunk - 1]) {
    return state.SkipWithError("equal gradients gave other values");
  }
  state.SetItemsProcessed(state.iterations() * kChunk * kChunks);
}
BENCHMARK_CAPTURE(BM_DenseApply, sgd, "sgd");
BENCHMARK_CAPTURE(BM_DenseApply, adagrad, "adagrad");
BENCHMARK_CAPTURE(BM_DenseApply, adam, "adam");
BENCHMARK_CAPTURE(BM_DenseApply, ftrl, "ftrl");

void BM_FirstValues(benchmark::State& state,
                    shoal::ps::Initializer::Kind kind) {
  const shoal::ps::Initializer initializer{kind, 0.1};
  std::vector<float> out(16384);
  for (auto _ : state) {
    initializer.Fill(1, 0, out);
    benchmark::DoNotOptimize(out.data());
  }
  state.SetItemsProcessed(state.iterations() * 16384);
}
BENCHMARK_CAPTURE(BM_FirstValues, uniform,
                  shoal::ps::Initializer::Kind::kUniform);
BENCHMARK_CAPTURE(BM_FirstValues, normal,
                  shoal::ps::Initializer::Kind::kNormal);

}  // namespace
