#include "ps/memory_plan.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/dtype.h"
#include "base/strcat.h"

namespace shoal::ps {
namespace {

// Where the job names no folder: kept on disk, while /tmp may be in memory.
constexpr char kDefaultFolder[] = "/var/tmp";

// Of the store, as parts of the memory, and bounds where those are too little
// to work well, or more would bring nothing.
constexpr int64_t kCachePart = 16;
constexpr int64_t kCacheBytesMin = int64_t{256} << 10;
constexpr int64_t kCacheBytesMax = int64_t{512} << 20;
constexpr int64_t kWriteBufferPart = 64;
constexpr int64_t kWriteBufferBytesMin = int64_t{64} << 10;
constexpr int64_t kWriteBufferBytesMax = int64_t{32} << 20;
// Of ids that mark what changed since a checkpoint.
constexpr int64_t kMarkPart = 16;
// Of a row beside its values and state, about.
constexpr int64_t kBytesBesideRow = 48;

StatusOr<int64_t> RowBytes(const TableSpec& table) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Optimizer> optimizer,
                         CreateOptimizer(table.optimizer));
  return table.dim * SizeOf(table.format) +
         4 * (optimizer->StateFloats(table.dim) + table.rules.words()) +
         kBytesBesideRow;
}

StatusOr<int64_t> DenseBytes(const ModelSpec& model,
                             const ClusterPlan& cluster) {
  if (cluster.dense_on_workers()) {
    return 0;
  }
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Optimizer> optimizer,
                         CreateOptimizer(model.dense_optimizer));
  const int64_t n = model.num_dense_elements();
  return 4 * (n + optimizer->StateFloats(n));
}

// Of what is bounded by itself, and as a text.
struct Bounds {
  int64_t bytes = 0;
  std::string text;
  void Add(int64_t more, const std::string& what) {
    if (more > 0) {
      bytes += more;
      text += StrCat(text.empty() ? "" : ", ", what, " ", more);
    }
  }
};

}  // namespace

StatusOr<MemoryPlan> PlanMemory(const ModelSpec& model,
                                const ClusterPlan& cluster, int slot_bits) {
  MemoryPlan plan{.bytes_max = cluster.memory_per_shard,
                  .marks_changes = cluster.incremental_checkpoints};
  plan.table_bytes.resize(model.tables.size());
  const auto first_spilling =
      std::find_if(model.tables.begin(), model.tables.end(),
                   [](const TableSpec& table) { return table.spills; });
  // With those of candidates.
  const int64_t tables = std::count_if(model.tables.begin(), model.tables.end(),
                                       [](const TableSpec& table) {
                                         return table.rules.counts();
                                       }) +
                         static_cast<int64_t>(model.tables.size());
  if (plan.marks_changes && plan.bytes_max > 0) {
    // Two sets without an id, and ids.
    plan.mark_bytes = 2 * ChangedSet(slot_bits, true).bytes() +
                      plan.bytes_max / kMarkPart / std::max<int64_t>(1, tables);
  }
  if (first_spilling == model.tables.end()) {
    return plan;
  }
  if (plan.bytes_max < 1) {
    return InvalidArgumentError(
        StrCat("table '", first_spilling->name,
               "' is on disk beyond cluster.memory_per_server, which is not "
               "given"));
  }
  plan.cache_bytes =
      std::clamp(plan.bytes_max / kCachePart, kCacheBytesMin, kCacheBytesMax);
  plan.write_buffer_bytes =
      std::clamp(plan.bytes_max / kWriteBufferPart, kWriteBufferBytesMin,
                 kWriteBufferBytesMax);
  Bounds bounds;
  bounds.Add(plan.cache_bytes + 2 * plan.write_buffer_bytes, "RocksDB");
  SHOAL_ASSIGN_OR_RETURN(const int64_t dense, DenseBytes(model, cluster));
  bounds.Add(dense, "the dense variables");
  if (plan.marks_changes) {
    bounds.Add(tables * plan.mark_bytes, "what changes between checkpoints");
  }
  std::vector<int64_t> weights(model.tables.size());
  int64_t all = 0;
  for (size_t t = 0; t < model.tables.size(); ++t) {
    const TableSpec& table = model.tables[t];
    if (table.rules.counts()) {
      bounds.Add(table.rules.candidate_bytes,
                 StrCat("tables.", table.name, ".admission.candidate_bytes"));
    }
    if (table.rules.row_budget_bytes > 0 && !table.spills) {
      bounds.Add(table.rules.row_budget_bytes,
                 StrCat("tables.", table.name, ".eviction.row_budget_bytes"));
    } else {
      SHOAL_ASSIGN_OR_RETURN(weights[t], RowBytes(table));
      all += weights[t];
    }
  }
  const int64_t left = plan.bytes_max - bounds.bytes;
  if (left <= 0) {
    return ResourceExhaustedError(
        StrCat("cluster.memory_per_server gives a shard ", plan.bytes_max,
               " bytes, but no less than what is bounded by itself may take "
               "there (",
               bounds.text,
               "), which leaves none for tables on disk; raise "
               "it, or lower those"));
  }
  for (size_t t = 0; t < model.tables.size(); ++t) {
    if (model.tables[t].spills) {
      plan.table_bytes[t] = static_cast<int64_t>(
          static_cast<double>(left) * static_cast<double>(weights[t]) /
          static_cast<double>(all));
    }
  }
  return plan;
}

StatusOr<std::unique_ptr<SpillStore>> OpenStore(const MemoryPlan& plan,
                                                const ClusterPlan& cluster) {
  if (!plan.spills()) {
    return std::unique_ptr<SpillStore>();
  }
  return OpenSpillStore(
      {.parent = cluster.spill_folder.empty() ? std::string(kDefaultFolder)
                                              : cluster.spill_folder,
       // Less would be of no use to tables that are larger than memory.
       .free_bytes_min = plan.bytes_max,
       .cache_bytes = plan.cache_bytes,
       .write_buffer_bytes = plan.write_buffer_bytes});
}

StatusOr<std::vector<std::unique_ptr<SparseTable>>> MakeTables(
    const ModelSpec& model, int slot_bits, const MemoryPlan& plan,
    SpillStore* store) {
  std::vector<std::unique_ptr<SparseTable>> tables;
  std::vector<std::unique_ptr<SparseTable>> candidates;
  for (size_t t = 0; t < model.tables.size(); ++t) {
    const TableSpec& table = model.tables[t];
    SparseTable::Options options = {.name = table.name,
                                    .dim = table.dim,
                                    .optimizer = table.optimizer,
                                    .initializer = table.initializer,
                                    .seed = model.seed,
                                    .slot_bits = slot_bits,
                                    .format = table.format,
                                    .rules = table.rules,
                                    .marks_changes = plan.marks_changes,
                                    .mark_bytes_max = plan.mark_bytes};
    if (plan.spills() && table.spills) {
      options.spill = store;
      options.spill_table = static_cast<int>(t);
      options.memory_bytes_max = plan.table_bytes[t];
    }
    if (table.rules.counts()) {
      auto counts = SparseTable::Create(CandidateOptions(options));
      SHOAL_RETURN_IF_ERROR(
          counts.status().WithPrefix("admission.candidate_bytes"));
      options.candidates = counts->get();
      candidates.push_back(*std::move(counts));
    }
    SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<SparseTable> made,
                           SparseTable::Create(options));
    tables.push_back(std::move(made));
  }
  std::move(candidates.begin(), candidates.end(), std::back_inserter(tables));
  return tables;
}

Status CheckMemory(const ModelSpec& model, const MemoryPlan& plan,
                   const std::vector<std::unique_ptr<SparseTable>>& tables,
                   int64_t dense_bytes, const SpillStore* store) {
  if (store != nullptr) {
    SHOAL_RETURN_IF_ERROR(store->status());
  }
  if (plan.bytes_max == 0) {
    return OkStatus();
  }
  int64_t bytes = dense_bytes + (store == nullptr ? 0 : store->memory_bytes());
  for (const auto& table : tables) {
    bytes += table->memory_bytes();
  }
  if (bytes <= plan.bytes_max) {
    return OkStatus();
  }
  // Who spills keeps to its share.
  const SparseTable* most = nullptr;
  for (size_t t = 0; t < tables.size(); ++t) {
    const bool spills = t < model.tables.size() && model.tables[t].spills;
    if (!spills &&
        (most == nullptr || tables[t]->memory_bytes() > most->memory_bytes())) {
      most = tables[t].get();
    }
  }
  const std::string text =
      StrCat("needs ", bytes, " bytes for rows and variables, more than the ",
             plan.bytes_max, " that cluster.memory_per_server leaves a shard");
  if (most == nullptr) {
    return ResourceExhaustedError(text + "; raise it, or use more servers");
  }
  return ResourceExhaustedError(
      StrCat(text, "; table '", most->name(), "' takes ", most->memory_bytes(),
             " of them for ", most->num_rows(),
             " rows: raise it, use more servers, set tables.", most->name(),
             ".tier to disk, or bound the table by tables.", most->name(),
             ".eviction.row_budget_bytes"));
}

}  // namespace shoal::ps
