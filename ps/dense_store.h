#ifndef SHOAL_PS_DENSE_STORE_H_
#define SHOAL_PS_DENSE_STORE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "ps/dense_layout.h"
#include "ps/global_phase.h"
#include "ps/model_spec.h"
#include "ps/optimizer.h"

namespace shoal::ps {

// The chunks of dense variables that a shard holds, or a worker. Each is values
// and then optimizer state, as a row of a table. First values are a function of
// (seed, variable, element). Belongs to the thread of its shard, or worker.
class DenseStore {
 public:
  // Errors: those of CreateOptimizer().
  static StatusOr<std::unique_ptr<DenseStore>> Create(
      const ModelSpec& model, std::vector<DenseChunk> chunks);

  // Rising by their offset.
  const std::vector<DenseChunk>& chunks() const { return chunks_; }
  // Over all chunks.
  int64_t num_elements() const { return num_elements_; }
  // Which of chunks() it is that a layout gives this offset; it must be there.
  size_t Find(const DenseChunk& chunk) const;

  // Of its values and state, whether it is there or not.
  int64_t FloatsOf(const DenseChunk& chunk) const;

  // With its first values, if it is not there; and away, if it is.
  void Add(const DenseChunk& chunk);
  void Remove(const DenseChunk& chunk);
  // Of values and state.
  int64_t memory_bytes() const;

  // A copy of the values of `chunks`, one after another.
  Buffer Copy(std::span<const DenseChunk> chunks) const;

  // `gradients` has those of `chunks`, one after another, and `computed_from`
  // the values that they are of, as many or none: those of now. `trust_ratios`
  // are by variable, see NormPhase; none: 1.
  void Apply(std::span<const DenseChunk> chunks,
             std::span<const float> gradients, double learning_rate_factor,
             std::span<const double> trust_ratios = {},
             std::span<const float> computed_from = {});

  // The optimizer needs to know of whole variables before Apply().
  bool needs_norms() const { return optimizer_->norm_phase() != nullptr; }
  size_t num_variables() const { return variables_.size(); }
  // Adds what it needs of `chunks` to sums[variable]; changes nothing else.
  // False: something is not finite, and the sums say little.
  bool AddNorms(std::span<const DenseChunk> chunks,
                std::span<const float> gradients,
                std::span<LayerSums> sums) const;

  // All chunks, with gradients, and values, as DenseLayout lays them out:
  // [size()].
  void ApplyFlat(const float* gradients, double learning_rate_factor);
  void CopyFlat(float* values) const;

  std::span<const float> values(size_t chunk) const;
  std::span<const float> state(size_t chunk) const;
  void Load(size_t chunk, std::span<const float> values,
            std::span<const float> state);

 private:
  explicit DenseStore(const ModelSpec& model)
      : variables_(model.variables), seed_(model.seed) {}
  void ApplyChunk(size_t chunk, const float* gradients, double factor,
                  double trust_ratio, const float* computed_from);

  std::vector<VariableSpec> variables_;
  uint64_t seed_;
  std::vector<DenseChunk> chunks_;
  int64_t num_elements_ = 0;
  std::unique_ptr<Optimizer> optimizer_;
  std::vector<std::vector<float>> rows_;  // per chunk: values, state
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_DENSE_STORE_H_
