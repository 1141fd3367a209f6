#include "ps/sparse_table.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/random.h"
#include "ps/row_format.h"
#include "ps/slots.h"

namespace shoal::ps {
namespace {

SparseTable::Options TableOptions(int64_t dim, const std::string& optimizer) {
  SparseTable::Options options;
  options.name = "embedding";
  options.dim = dim;
  options.optimizer.kind = optimizer;
  options.optimizer.learning_rate = 0.1;
  options.initializer = {Initializer::Kind::kUniform, 0.5};
  options.seed = 5;
  return options;
}

std::unique_ptr<SparseTable> MakeTable(const SparseTable::Options& options) {
  auto made = SparseTable::Create(options);
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

std::vector<float> PulledRow(const SparseTable& table, uint64_t id) {
  std::vector<float> row(static_cast<size_t>(table.dim()));
  table.Pull({&id, 1}, row.data());
  return row;
}

// All rows with their state, in the order of the walk.
using TableRows = std::vector<std::pair<uint64_t, std::vector<float>>>;
TableRows AllRows(const SparseTable& table) {
  TableRows rows;
  table.ForEach([&](uint64_t id, std::span<const std::byte> values,
                    std::span<const float> state) {
    std::vector<float> row(static_cast<size_t>(table.dim()));
    WidenValues(table.format(), values.data(), row);
    row.insert(row.end(), state.begin(), state.end());
    rows.emplace_back(id, std::move(row));
  });
  return rows;
}

// Distinct ids of the shapes that trouble hash tables.
std::vector<uint64_t> TroublesomeIds(size_t n, uint64_t seed) {
  std::vector<uint64_t> ids = {0, ~uint64_t{0}, 1, uint64_t{1} << 63};
  Random random(seed);
  while (ids.size() < n) {
    const uint64_t i = ids.size();
    switch (random.Below(4)) {
      case 0:
        ids.push_back(i << 32 | 7);  // equal modulo 2^32
        break;
      case 1:
        ids.push_back(i * 1024 + (uint64_t{1} << 40));
        break;
      case 2:
        ids.push_back(i + 100);
        break;
      default:
        ids.push_back(random());
    }
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  for (size_t i = ids.size() - 1; i > 0; --i) {
    std::swap(ids[i], ids[random.Below(i + 1)]);
  }
  return ids;
}

std::vector<float> TableGradients(size_t n, uint64_t seed) {
  std::vector<float> gradients(n);
  Random random(seed);
  for (float& g : gradients) {
    g = static_cast<float>(random.Uniform() - 0.5);
  }
  return gradients;
}

// Against std::unordered_map: random pulls, pushes, loads and erased slots. The
// model row of momentum is v = 0.9 v + g; w -= 0.1 v in float.
TEST(SparseTableTest, AgreesWithAnUnorderedMap) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const int64_t dim = std::vector<int64_t>{1, 3, 16}[seed % 3];
    const auto d = static_cast<size_t>(dim);
    SparseTable::Options options = TableOptions(dim, "momentum");
    options.slot_bits = seed % 2 == 0 ? 10 : 2;
    const auto table = MakeTable(options);
    const auto pristine = MakeTable(options);
    std::unordered_map<uint64_t, std::vector<float>> model;  // values, state
    const auto ids = TroublesomeIds(4000, seed);
    for (int round = 0; round < 60; ++round) {
      const size_t n = random.Below(300);
      const size_t at = random.Below(ids.size() - n);
      const std::span<const uint64_t> batch(ids.data() + at, n);
      const uint64_t action = random.Below(8);
      if (action < 4) {
        const auto gradients = TableGradients(n * d, random());
        table->Apply(batch, gradients.data(), 1, round);
        for (size_t i = 0; i < n; ++i) {
          auto [it, added] = model.try_emplace(batch[i], 2 * d);
          if (added) {
            const auto first = PulledRow(*pristine, batch[i]);
            std::copy(first.begin(), first.end(), it->second.begin());
          }
          for (size_t j = 0; j < d; ++j) {
            float& v = it->second[d + j];
            v = 0.9F * v + gradients[i * d + j];
            it->second[j] -= 0.1F * v;
          }
        }
      } else if (action < 6) {
        std::vector<float> got(n * d, NAN);
        table->Pull(batch, got.data());
        for (size_t i = 0; i < n; ++i) {
          const auto it = model.find(batch[i]);
          const auto want =
              it == model.end() ? PulledRow(*pristine, batch[i]) : it->second;
          ASSERT_EQ(0, std::memcmp(want.data(), &got[i * d], d * 4))
              << "id " << batch[i];
        }
      } else if (action == 6 && n > 0) {
        const auto row = TableGradients(2 * d, random());
        table->Load(batch[0], std::as_bytes(std::span(row).first(d)),
                    std::span(row).last(d));
        model[batch[0]] = row;
      } else {
        const auto slot = static_cast<int64_t>(
            random.Below(uint64_t{1} << options.slot_bits));
        if (options.slot_bits == 2 && round % 5 != 0) {
          continue;  // A quarter of everything is gone: not every time.
        }
        table->EraseSlot(slot);
        std::erase_if(model, [&](const auto& entry) {
          return SlotOfHash(IdHash(entry.first), options.slot_bits) == slot;
        });
      }
      ASSERT_EQ(table->num_rows(), static_cast<int64_t>(model.size()));
    }
    const TableRows rows = AllRows(*table);
    ASSERT_EQ(rows.size(), model.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      ASSERT_TRUE(i == 0 || IdHash(rows[i - 1].first) < IdHash(rows[i].first));
      ASSERT_EQ(0, std::memcmp(rows[i].second.data(),
                               model.at(rows[i].first).data(), 2 * d * 4));
    }
    EXPECT_EQ(pristine->num_rows(), 0);  // Pulls changed nothing.
  }
}

TEST(SparseTableTest, PullsInsertNothingAndCostNoMemory) {
  const auto table = MakeTable(TableOptions(8, "adagrad"));
  const int64_t before = table->memory_bytes();
  const auto ids = TroublesomeIds(1000, 1);
  std::vector<float> out(ids.size() * 8);
  table->Pull(ids, out.data());
  EXPECT_EQ(table->num_rows(), 0);
  EXPECT_EQ(table->memory_bytes(), before);
  table->Pull({}, nullptr);
  // What was seen is what the first update starts from.
  const std::vector<float> gradients(ids.size() * 8, 0);
  table->Apply(ids, gradients.data(), 1, 0);
  std::vector<float> again(out.size());
  table->Pull(ids, again.data());
  EXPECT_EQ(0, std::memcmp(out.data(), again.data(), out.size() * 4));
}

TEST(SparseTableTest, FirstValuesHangOnSeedNameAndIdAlone) {
  SparseTable::Options options = TableOptions(4, "sgd");
  const auto first = PulledRow(*MakeTable(options), 42);
  options.slot_bits = 13;
  options.optimizer.kind = "adam";
  EXPECT_EQ(PulledRow(*MakeTable(options), 42), first);
  EXPECT_NE(PulledRow(*MakeTable(options), 43), first);
  options.seed = 6;
  EXPECT_NE(PulledRow(*MakeTable(options), 42), first);
  options.seed = 5;
  options.name = "linear";
  EXPECT_NE(PulledRow(*MakeTable(options), 42), first);
}

// Three steps, each over its own ids, dealt over `shards` tables in an order
// and in batches of the seed's choice: what is in all of them together.
std::map<uint64_t, std::vector<float>> TrainedRows(const std::string& optimizer,
                                                   DType format, int shards,
                                                   uint64_t order_seed) {
  SparseTable::Options options = TableOptions(5, optimizer);
  options.format = format;
  std::vector<std::unique_ptr<SparseTable>> tables;
  for (int s = 0; s < shards; ++s) {
    tables.push_back(MakeTable(options));
  }
  Random random(order_seed);
  const auto ids = TroublesomeIds(3000, 9);
  for (size_t step = 0; step < 3; ++step) {
    std::vector<uint64_t> todo(ids.begin() + static_cast<int64_t>(step) * 500,
                               ids.end());
    for (size_t i = todo.size() - 1; i > 0; --i) {
      std::swap(todo[i], todo[random.Below(i + 1)]);
    }
    std::vector<std::vector<uint64_t>> batches(tables.size());
    const auto flush = [&](size_t s) {
      std::vector<float> gradients;
      for (const uint64_t id : batches[s]) {
        const auto g = TableGradients(5, HashKey(id, step));
        gradients.insert(gradients.end(), g.begin(), g.end());
      }
      tables[s]->Apply(batches[s], gradients.data(), 0.7,
                       static_cast<int64_t>(step));
      batches[s].clear();
    };
    for (const uint64_t id : todo) {
      const auto s = static_cast<size_t>(
          SlotOfHash(IdHash(id), options.slot_bits) % shards);
      batches[s].push_back(id);
      if (random.Below(100) == 0) {
        flush(s);
      }
    }
    for (size_t s = 0; s < tables.size(); ++s) {
      flush(s);
    }
  }
  std::map<uint64_t, std::vector<float>> rows;
  for (const auto& table : tables) {
    for (auto& [id, row] : AllRows(*table)) {
      EXPECT_TRUE(rows.emplace(id, std::move(row)).second);
    }
  }
  return rows;
}

TEST(SparseTableTest, BitsDoNotDependOnOrderBatchesOrShards) {
  for (const DType format : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const std::string& optimizer : OptimizerRegistry().Names()) {
      const auto want = TrainedRows(optimizer, format, 1, 1);
      EXPECT_GT(want.size(), 2500U);
      for (const int shards : {1, 2, 5}) {
        const auto got = TrainedRows(optimizer, format, shards,
                                     static_cast<uint64_t>(shards) + 100);
        ASSERT_EQ(got.size(), want.size());
        for (const auto& [id, row] : want) {
          ASSERT_EQ(0,
                    std::memcmp(row.data(), got.at(id).data(), row.size() * 4))
              << optimizer << " in " << Name(format) << " on " << shards
              << " shards, id " << id;
        }
      }
    }
  }
}

// Updates far below half a step of the format: rounded to the nearest, none of
// them would count; by chance they add up. 4 sigma of the mean of 1,000 rows
// after 64 draws each.
TEST(SparseTableTest, SmallUpdatesAddUpInNarrowRows) {
  for (const DType format : {DType::kBF16, DType::kF16}) {
    SparseTable::Options options = TableOptions(3, "sgd");
    options.format = format;
    options.initializer = {Initializer::Kind::kConstant, 1};
    const auto table = MakeTable(options);
    const auto ids = TroublesomeIds(1000, 4);
    constexpr int kSteps = 64;
    const double spacing = format == DType::kBF16 ? 0x1p-7 : 0x1p-10;
    const std::vector<float> gradients(ids.size() * 3,
                                       static_cast<float>(-spacing / 16 / 0.1));
    for (int step = 0; step < kSteps; ++step) {
      table->Apply(ids, gradients.data(), 1, step);
    }
    std::vector<float> rows(ids.size() * 3);
    table->Pull(ids, rows.data());
    double sum = 0;
    double most = 0;
    for (const float value : rows) {
      sum += (value - 1) / spacing;
      most = std::max(most, (value - 1) / spacing);
    }
    // 8 sigma: each step draws anew, or some would have gone up in all.
    EXPECT_LT(most, 4 + 8 * std::sqrt(kSteps * (1.0 / 16)));
    const auto n = static_cast<double>(rows.size());
    const double deviation = std::sqrt(kSteps * (1.0 / 16) * (15.0 / 16) / n);
    EXPECT_NEAR(sum / n, kSteps / 16.0, 4 * deviation) << Name(format);
  }
}

TEST(SparseTableTest, NarrowRowsTakeLessAndFirstValuesAreOfTheFormat) {
  std::map<DType, int64_t> bytes;
  for (const DType format : {DType::kF32, DType::kBF16, DType::kF16}) {
    SparseTable::Options options = TableOptions(32, "sgd");
    options.format = format;
    const auto table = MakeTable(options);
    const auto ids = TroublesomeIds(100'000, 4);
    std::vector<float> before(ids.size() * 32);
    table->Pull(ids, before.data());
    const std::vector<float> gradients(before.size(), 0);
    table->Apply(ids, gradients.data(), 1, 0);
    std::vector<float> after(before.size());
    table->Pull(ids, after.data());
    EXPECT_EQ(0, std::memcmp(before.data(), after.data(), after.size() * 4));
    bytes[format] = table->memory_bytes();
  }
  EXPECT_GT(bytes[DType::kF32] - bytes[DType::kF16], 100'000 * 60);
  EXPECT_EQ(bytes[DType::kBF16], bytes[DType::kF16]);
}

TEST(SparseTableTest, ErasedRowsAreUsedAgain) {
  SparseTable::Options options = TableOptions(16, "adagrad");
  options.slot_bits = 1;
  const auto table = MakeTable(options);
  const auto ids = TroublesomeIds(30000, 3);
  const std::vector<float> gradients(ids.size() * 16, 1);
  table->Apply(ids, gradients.data(), 1, 0);
  const TableRows want = AllRows(*table);
  int64_t most = 0;
  for (int round = 0; round < 4; ++round) {
    table->EraseSlot(0);
    table->EraseSlot(1);
    EXPECT_EQ(table->num_rows(), 0);
    table->EraseSlot(1);  // Nothing is left to erase.
    table->Apply(ids, gradients.data(), 1, 0);
    // A used row starts anew: values and state.
    EXPECT_EQ(AllRows(*table), want);
    most = round == 0 ? table->memory_bytes() : most;
    EXPECT_EQ(table->memory_bytes(), most);
  }
}

TEST(SparseTableTest, SmallTableStaysSmall) {
  const auto table = MakeTable(TableOptions(16, "adagrad"));
  const uint64_t id = 3;
  const std::vector<float> gradients(16, 1);
  table->Apply({&id, 1}, gradients.data(), 1, 0);
  EXPECT_LT(table->memory_bytes(), 64 << 10);
}

TEST(SparseTableTest, ImpossibleOptionsAreRefused) {
  for (const int64_t dim :
       {int64_t{0}, int64_t{-1}, int64_t{1} << 20, int64_t{1} << 62}) {
    const auto made = SparseTable::Create(TableOptions(dim, "adam"));
    EXPECT_EQ(made.status().code(), StatusCode::kInvalidArgument) << dim;
    EXPECT_THAT(made.status().message(), ::testing::HasSubstr("embedding"));
  }
  for (const int bits : {0, -1, 25}) {
    SparseTable::Options options = TableOptions(1, "sgd");
    options.slot_bits = bits;
    EXPECT_EQ(SparseTable::Create(options).status().code(),
              StatusCode::kInvalidArgument);
  }
  SparseTable::Options options = TableOptions(1, "sgd");
  options.format = DType::kF64;
  EXPECT_EQ(SparseTable::Create(options).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(SparseTable::Create(TableOptions(1, "none")).status().code(),
            StatusCode::kNotFound);
}

int64_t ResidentBytes() {
  long pages = 0;
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr || std::fscanf(file, "%*s %ld", &pages) != 1) {
    pages = 0;
  }
  if (file != nullptr) {
    std::fclose(file);
  }
  return pages * ::sysconf(_SC_PAGESIZE);
}

// A million rows arrive in batches: at no moment does the table, by its own
// count or by the system's, take much more than at the end.
TEST(SparseTableTest, GrowthNeverTakesMuchMoreThanTheEnd) {
  const auto table = MakeTable(TableOptions(16, "adagrad"));
  constexpr uint64_t kRows = 1'000'000;
  constexpr uint64_t kBatch = 1000;
  const std::vector<float> gradients(kBatch * 16, 1);
  std::vector<uint64_t> ids(kBatch);
  [[maybe_unused]] const int64_t resident_before = ResidentBytes();
  int64_t most = 0;
  int64_t most_resident = 0;
  for (uint64_t at = 0; at < kRows; at += kBatch) {
    for (uint64_t i = 0; i < kBatch; ++i) {
      ids[i] = at + i;
    }
    table->Apply(ids, gradients.data(), 1, 0);
    most = std::max(most, table->memory_bytes());
    most_resident = std::max(most_resident, ResidentBytes());
  }
  const int64_t end = table->memory_bytes();
  EXPECT_EQ(table->num_rows(), static_cast<int64_t>(kRows));
  EXPECT_LT(static_cast<double>(most), 1.05 * static_cast<double>(end));
  // 128 bytes of row and 16 / 0.375 of index, at most, and a page.
  EXPECT_LT(static_cast<double>(end), kRows * (128 + 16 / 0.375) + (2 << 20));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  const int64_t resident_end = ResidentBytes() - resident_before;
  EXPECT_LT(static_cast<double>(most_resident - resident_before),
            1.05 * static_cast<double>(resident_end));
  EXPECT_LT(static_cast<double>(resident_end), 1.3 * static_cast<double>(end));
#endif
}

}  // namespace
}  // namespace shoal::ps
