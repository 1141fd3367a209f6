// A table that is larger than its memory, beside the same table in memory.
//
// Sketch: 10 million rows of 16 f32 with Adagrad (128 bytes, 1.3 GB with 45 of
// index and marks each) in 400 MiB, of which a sixteenth is RocksDB's cache and
// as much is left for whole pages: 2.2 million rows. A stream that is drawn by
// Zipf(1.05) until a batch has 50,000 distinct ids finds some 70 % of them
// there; the other 15,000 cost about 5 us each to read, from the system's cache
// of files, and 3 us to write later: 0.12 s a batch, 400 thousand rows/s. What
// an exact LRU of as many rows would have found is counted beside it; second
// chance is to find 0.95 of that or more.
//
// Every table has applied the same stream at the end, and must hold the same
// values.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <ctime>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include "base/random.h"
#include "ps/memory_plan.h"
#include "ps/model_spec.h"
#include "ps/slots.h"
#include "ps/sparse_table.h"
#include "ps/spill_store.h"

namespace {

using shoal::Random;
using shoal::ps::SparseTable;

constexpr int64_t kDim = 16;
constexpr size_t kBatch = 50'000;
constexpr int kWarmUp = 60;  // batches
constexpr int kMeasured = 60;

// Of the wall, and of this thread's processor, which says more where others
// want it too.
struct Timer {
  std::chrono::steady_clock::time_point start =
      std::chrono::steady_clock::now();
  double cpu_start = Cpu();

  static double Cpu() {
    timespec at{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
    return static_cast<double>(at.tv_sec) +
           1e-9 * static_cast<double>(at.tv_nsec);
  }
  double Seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() -
                                         start)
        .count();
  }
  double CpuSeconds() const { return Cpu() - cpu_start; }
};

uint64_t IdOf(uint64_t rank) { return rank * 0x9e3779b97f4a7c15ULL + 1; }

void SortAsClients(std::vector<uint64_t>& ranks) {
  std::sort(ranks.begin(), ranks.end(), [](uint64_t a, uint64_t b) {
    return shoal::ps::IdHash(IdOf(a)) < shoal::ps::IdHash(IdOf(b));
  });
}

// Batches of distinct ranks below n, rank r drawn with (r + 1)^-1.05.
class ZipfBatches {
 public:
  explicit ZipfBatches(int64_t n) : cumulated_(static_cast<size_t>(n)) {
    double sum = 0;
    for (size_t r = 0; r < cumulated_.size(); ++r) {
      sum += std::pow(static_cast<double>(r + 1), -1.05);
      cumulated_[r] = sum;
    }
    drawn_in_.resize(cumulated_.size(), 0);
  }
  std::vector<uint64_t> Next() {
    ++batch_;
    std::vector<uint64_t> ranks;
    while (ranks.size() < kBatch) {
      const double u = random_.Uniform() * cumulated_.back();
      const auto at =
          std::upper_bound(cumulated_.begin(), cumulated_.end() - 1, u);
      const auto rank = static_cast<size_t>(at - cumulated_.begin());
      if (drawn_in_[rank] != batch_) {
        drawn_in_[rank] = batch_;
        ranks.push_back(rank);
      }
    }
    SortAsClients(ranks);
    return ranks;
  }

 private:
  std::vector<double> cumulated_;
  std::vector<uint32_t> drawn_in_;
  uint32_t batch_ = 0;
  Random random_{11};
};

// The `size` ranks used last, exactly.
class Lru {
 public:
  Lru(size_t ranks, size_t size)
      : next_(ranks + 1, kNowhere), last_(ranks + 1), size_(size) {
    next_[ranks] = last_[ranks] = static_cast<uint32_t>(ranks);
  }
  // Whether it was there.
  bool Use(uint64_t rank) {
    const auto r = static_cast<uint32_t>(rank);
    const bool there = next_[r] != kNowhere;
    if (there) {
      Unlink(r);
    } else if (++used_ > size_) {
      --used_;
      Unlink(last_[end()]);
    }
    next_[r] = next_[end()];
    last_[r] = end();
    last_[next_[r]] = r;
    next_[end()] = r;
    return there;
  }

 private:
  static constexpr uint32_t kNowhere = ~uint32_t{0};
  uint32_t end() const { return static_cast<uint32_t>(next_.size() - 1); }
  void Unlink(uint32_t r) {
    next_[last_[r]] = next_[r];
    last_[next_[r]] = last_[r];
    next_[r] = kNowhere;
  }
  std::vector<uint32_t> next_;  // towards those used before
  std::vector<uint32_t> last_;
  size_t size_;
  size_t used_ = 0;
};

// Rows of which a table in memory is made too: more take 17 GB.
constexpr int64_t kComparedMax = 10'000'000;

struct Spilled {
  shoal::ps::ModelSpec model;
  shoal::ps::MemoryPlan plan;
  std::unique_ptr<shoal::ps::SpillStore> store;
  std::vector<std::unique_ptr<SparseTable>> tables;
};

// In `bytes` of memory; 0: all of it in memory.
Spilled MakeTable(int64_t bytes) {
  Spilled out;
  out.model.tables.push_back(
      {.name = "embedding", .dim = kDim, .spills = bytes > 0});
  out.model.tables[0].optimizer.kind = "adagrad";
  out.model.tables[0].initializer = {shoal::ps::Initializer::Kind::kUniform,
                                     0.01};
  out.model.groups = {{0}};
  const shoal::ps::ClusterPlan cluster{.memory_per_shard = bytes};
  out.plan = *shoal::ps::PlanMemory(out.model, cluster);
  out.store = *shoal::ps::OpenStore(out.plan, cluster);
  out.tables = *shoal::ps::MakeTables(out.model, 10, out.plan, out.store.get());
  return out;
}

int64_t ResidentBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

// What a step does: pull, then push.
struct Stepper {
  SparseTable& table;
  std::vector<float> values = std::vector<float>(kBatch * kDim);
  std::vector<float> gradients = std::vector<float>(kBatch * kDim, 0.01F);
  std::vector<uint64_t> ids = {};
  int64_t step = 0;

  void Run(std::span<const uint64_t> ranks) {
    ids.clear();
    for (const uint64_t rank : ranks) {
      ids.push_back(IdOf(rank));
    }
    table.PullAndKeep(ids, values.data());
    table.Apply(ids, gradients.data(), 1, ++step);
  }
};

// All ranks once, in an order that has nothing to do with them.
std::vector<uint32_t> EachOnce(int64_t n) {
  std::vector<uint32_t> order(static_cast<size_t>(n));
  for (size_t i = 0; i < order.size(); ++i) {
    order[i] = static_cast<uint32_t>(i);
  }
  Random random(3);
  for (size_t i = order.size() - 1; i > 0; --i) {
    std::swap(order[i], order[random.Below(i + 1)]);
  }
  return order;
}

template <typename Use>
void InBatches(const std::vector<uint32_t>& order, const Use& use) {
  for (size_t at = 0; at < order.size(); at += kBatch) {
    std::vector<uint64_t> ranks(
        order.begin() + static_cast<std::ptrdiff_t>(at),
        order.begin() +
            static_cast<std::ptrdiff_t>(std::min(order.size(), at + kBatch)));
    SortAsClients(ranks);
    use(ranks);
  }
}

double SumOf(const SparseTable& table, int64_t n) {
  double sum = 0;
  std::vector<float> row(kDim);
  for (int64_t rank = 0; rank < n; rank += 997) {
    const uint64_t id = IdOf(static_cast<uint64_t>(rank));
    table.Pull({&id, 1}, row.data());
    for (const float value : row) {
      sum += static_cast<double>(value);
    }
  }
  return sum;
}

void BM_SpilledTable(benchmark::State& state) {
  const int64_t n = state.range(0);
  for (auto _ : state) {
    const int64_t before = ResidentBytes();
    ZipfBatches zipf(n);
    std::vector<std::vector<uint64_t>> batches;
    for (int b = 0; b < kWarmUp + kMeasured; ++b) {
      batches.push_back(zipf.Next());
    }
    const std::vector<uint32_t> order = EachOnce(n);
    const int64_t beside = ResidentBytes();
    struct Outcome {
      double fill_rate;
      double rate;
      double cpu_rate;
      double hit_rate;
    };
    const auto run = [&](SparseTable& table) {
      Outcome out{};
      Stepper stepper{table};
      const Timer fill;
      InBatches(order, [&](const std::vector<uint64_t>& ranks) {
        stepper.Run(ranks);
      });
      out.fill_rate = static_cast<double>(n) / fill.Seconds();
      for (int b = 0; b < kWarmUp; ++b) {
        stepper.Run(batches[static_cast<size_t>(b)]);
      }
      const int64_t fetched = table.rows_fetched();
      const Timer timer;
      for (int b = kWarmUp; b < kWarmUp + kMeasured; ++b) {
        stepper.Run(batches[static_cast<size_t>(b)]);
      }
      constexpr auto kRows = static_cast<double>(kMeasured * kBatch);
      out.rate = kRows / timer.Seconds();
      out.cpu_rate = kRows / timer.CpuSeconds();
      out.hit_rate =
          1 - static_cast<double>(table.rows_fetched() - fetched) / kRows;
      return out;
    };
    const int64_t budget = state.range(1) << 20;
    Spilled spilled = MakeTable(budget);
    SparseTable& table = *spilled.tables[0];
    const Outcome disk = run(table);
    const int64_t peak = ResidentBytes();
    const double sum = SumOf(table, n);
    if (!CheckMemory(spilled.model, spilled.plan, spilled.tables, 0,
                     spilled.store.get())
             .ok()) {
      return state.SkipWithError("the budget is not kept");
    }
    const auto rows_max = static_cast<size_t>(table.rows_in_memory_max());
    spilled = {};
    Lru lru(static_cast<size_t>(n), rows_max);
    InBatches(order, [&](const std::vector<uint64_t>& ranks) {
      for (const uint64_t rank : ranks) {
        lru.Use(rank);
      }
    });
    int64_t hits = 0;
    for (size_t b = 0; b < batches.size(); ++b) {
      for (const uint64_t rank : batches[b]) {
        const bool hit = lru.Use(rank);
        hits += hit && b >= kWarmUp ? 1 : 0;
      }
    }
    const double lru_rate =
        static_cast<double>(hits) / static_cast<double>(kMeasured * kBatch);
    if (n <= kComparedMax) {
      const Spilled memory = MakeTable(0);
      const Outcome in_memory = run(*memory.tables[0]);
      if (SumOf(*memory.tables[0], n) != sum) {
        return state.SkipWithError("the values are not those in memory");
      }
      state.counters["in_memory_rows_per_s"] = in_memory.rate;
      state.counters["in_memory_rows_per_cpu_s"] = in_memory.cpu_rate;
    }
    state.counters["rows_in_memory"] = static_cast<double>(rows_max);
    state.counters["hit_rate"] = disk.hit_rate;
    state.counters["lru_hit_rate"] = lru_rate;
    state.counters["of_lru"] = disk.hit_rate / lru_rate;
    state.counters["rows_per_s"] = disk.rate;
    state.counters["rows_per_cpu_s"] = disk.cpu_rate;
    state.counters["fill_rows_per_s"] = disk.fill_rate;
    state.counters["peak_bytes_more"] =
        static_cast<double>(peak - std::max(before, beside));
  }
}
// Rows, and MiB of memory.
BENCHMARK(BM_SpilledTable)
    ->Args({2'500'000, 100})
    ->Args({10'000'000, 400})
    ->Args({100'000'000, 4096})
    ->Iterations(1)
    ->Unit(benchmark::kSecond);

}  // namespace
