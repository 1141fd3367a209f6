#ifndef SHOAL_PS_CHECKPOINT_TESTING_H_
#define SHOAL_PS_CHECKPOINT_TESTING_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "base/storage.h"
#include "ps/checkpoint_format.h"
#include "ps/dense_layout.h"
#include "ps/slots.h"

// For the tests of checkpoints: shards to be saved.
namespace shoal::ps {

// Odd numbers of floats: nothing is aligned by luck.
inline ModelSpec CheckpointModel(const std::string& optimizer) {
  ModelSpec model;
  model.variables = {{"deep/0/w", {3, 6001}, {Initializer::Kind::kNormal, 0.1}},
                     {"deep/0/b", {7}, {Initializer::Kind::kConstant, 0.5}}};
  model.tables.resize(2);
  model.tables[0].name = "linear";
  model.tables[0].dim = 1;
  model.tables[1].name = "embedding";
  model.tables[1].dim = 5;
  model.tables[1].format = DType::kBF16;
  for (TableSpec& table : model.tables) {
    table.optimizer.kind = optimizer;
    table.initializer = {Initializer::Kind::kUniform, 0.5};
  }
  model.dense_optimizer.kind = optimizer;
  return model;
}

// One shard of several, without the messages around it.
struct CheckpointShard {
  CheckpointShard(const ModelSpec& model, int shard, int shards)
      : model(model), shard(shard), shards(shards) {
    for (const TableSpec& table : model.tables) {
      tables.push_back(*SparseTable::Create({.name = table.name,
                                             .dim = table.dim,
                                             .optimizer = table.optimizer,
                                             .initializer = table.initializer,
                                             .seed = model.seed,
                                             .slot_bits = 10,
                                             .format = table.format}));
    }
    std::vector<DenseChunk> chunks;
    const DenseLayout layout(model);
    for (size_t c = 0; c < layout.chunks().size(); ++c) {
      if (static_cast<int>(c) % shards == shard) {
        chunks.push_back(layout.chunks()[c]);
      }
    }
    dense = *DenseStore::Create(model, std::move(chunks));
    for (int slot = 0; slot < 1024; ++slot) {
      slots.push_back(slot % shards == shard);
    }
  }

  bool Owns(uint64_t id) const {
    return SlotOfHash(IdHash(id), 10) % shards == shard;
  }
  ShardState state() const {
    return {.model = &model,
            .tables = tables,
            .dense = dense.get(),
            .chunks = dense->chunks(),
            .slot_bits = 10,
            .slots = &slots};
  }

  // Step t gives each of its ids a gradient of its own.
  void Train(uint64_t t) {
    for (const auto& table : tables) {
      std::vector<uint64_t> ids;
      std::vector<float> gradients;
      for (uint64_t i = t * 50; i < t * 50 + 301; ++i) {
        const uint64_t id = i % 3 == 0 ? ~i : i;
        if (Owns(id)) {
          ids.push_back(id);
          for (int64_t j = 0; j < table->dim(); ++j) {
            gradients.push_back(static_cast<float>(
                Random(HashKey(id + t, static_cast<uint64_t>(j))).Uniform() -
                0.5));
          }
        }
      }
      table->Apply(ids, gradients.data(), 1, static_cast<int64_t>(t));
    }
    std::vector<float> gradients;
    for (const DenseChunk& chunk : dense->chunks()) {
      for (int64_t i = 0; i < chunk.count; ++i) {
        gradients.push_back(
            static_cast<float>((chunk.offset + i + 3 * t) % 89) / 89 - 0.5F);
      }
    }
    dense->Apply(dense->chunks(), gradients, 1);
  }

  const ModelSpec& model;
  int shard;
  int shards;
  std::vector<std::unique_ptr<SparseTable>> tables;
  std::unique_ptr<DenseStore> dense;
  std::vector<bool> slots;
};

using CheckpointShards = std::vector<std::unique_ptr<CheckpointShard>>;

inline CheckpointShards MakeShards(const ModelSpec& model, int n) {
  CheckpointShards shards;
  for (int s = 0; s < n; ++s) {
    shards.push_back(std::make_unique<CheckpointShard>(model, s, n));
  }
  return shards;
}

inline void TrainAll(const CheckpointShards& shards, uint64_t from,
                     uint64_t until) {
  for (uint64_t t = from; t < until; ++t) {
    for (const auto& shard : shards) {
      shard->Train(t);
    }
  }
}

inline Status SaveAll(Storage& storage, const std::string& folder, int64_t step,
                      const CheckpointShards& shards,
                      const std::map<std::string, std::string>& texts = {},
                      int64_t part_bytes_max = kPartBytesMax) {
  std::vector<std::string> entries;
  for (const auto& shard : shards) {
    SHOAL_ASSIGN_OR_RETURN(
        const std::vector<std::string> files,
        SaveParts(storage, folder, "part-" + std::to_string(shard->shard),
                  shard->state(), part_bytes_max));
    entries.insert(entries.end(), files.begin(), files.end());
  }
  return PublishManifest(storage, folder, step, entries, texts);
}

}  // namespace shoal::ps

#endif  // SHOAL_PS_CHECKPOINT_TESTING_H_
