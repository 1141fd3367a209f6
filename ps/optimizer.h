#ifndef SHOAL_PS_OPTIMIZER_H_
#define SHOAL_PS_OPTIMIZER_H_

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>

#include "base/registry.h"
#include "base/status.h"

namespace shoal::ps {

struct OptimizerConfig {
  std::string kind = "adagrad";
  double learning_rate = 0.05;
  double momentum = 0.9;
  double initial_accumulator = 0.1;
  double epsilon = 1e-8;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double l1 = 0;
  double l2 = 0;
  double beta = 1;
  double rho = 0.9;
  double l21 = 0;
  double trust_coefficient = 0.001;
  // For all kinds; see ps/optimizers/delay.h. 0: none.
  double delay_compensation = 0;
  double delay_decay = 0.95;
  // For all kinds; see ps/optimizers/settings.h. 0: none.
  double weight_decay = 0;
  double clip_value = 0;
  double clip_norm = 0;
  bool decoupled = false;  // of weight_decay
  bool centered = false;
};

// The rows that one Apply() changes. A row is `dim` values and then its state,
// StateFloats(dim) of it, all f32; rows[i] gets gradients[i, dim].
struct ApplyBatch {
  float* const* rows = nullptr;
  const float* gradients = nullptr;
  int64_t num_rows = 0;
  int64_t dim = 0;
  double learning_rate_factor = 1;
  // Of tables: which update of the job it is, from 1. 0: a row goes by the
  // number of its own updates.
  int64_t step = 0;
  // What NormPhase gave for the variable that the rows are parts of.
  double trust_ratio = 1;
  // The values that the gradients were computed from, [num_rows, dim]; null:
  // those of now. Read where delays are compensated.
  const float* computed_from = nullptr;
};

// Sums of squares over one row.
struct RowNorms {
  double values = 0;
  double updates = 0;
};

// The part of an optimizer that needs norms over a whole variable before it
// changes any of its chunks: their sums of squares are added up, the ratio that
// comes of them goes with Apply(). Thread-safe.
class NormPhase {
 public:
  virtual ~NormPhase() = default;

  // Of a row of `dim` values with its state, and of the update that Apply()
  // would make of `gradient` before rate and ratio. Changes nothing.
  virtual RowNorms Norms(const float* row, const float* gradient,
                         int64_t dim) const = 0;

  // Of the norms of a whole variable and of its whole update.
  virtual double TrustRatio(double values, double updates) const = 0;
};

// How gradients change values; used by table rows and dense chunks alike (a
// chunk is one long row). Equal bits on every SIMD path: plain IEEE operations
// in a fixed order per element. Thread-safe.
//
// Where an optimizer needs a time (Adam's bias correction), a row counts its
// own updates: for a dense chunk that is the job's step in `sync` and the
// chunk's own updates otherwise. Rows of tables go by the job's updates, those
// of `lazy_adam` by their own.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  virtual int64_t StateFloats(int64_t dim) const = 0;
  virtual void InitState(float* state, int64_t dim) const = 0;
  virtual void Apply(const ApplyBatch& batch) const = 0;
  // What it needs to know of whole variables; null: nothing.
  virtual const NormPhase* norm_phase() const { return nullptr; }
};

// Errors: kNotFound (no such optimizer; lists the known), kInvalidArgument (a
// number that the optimizer can't work with).
StatusOr<std::unique_ptr<Optimizer>> CreateOptimizer(
    const OptimizerConfig& config);

using OptimizerFactory =
    StatusOr<std::unique_ptr<Optimizer>> (*)(const OptimizerConfig&);
Registry<OptimizerFactory>& OptimizerRegistry();
bool RegisterOptimizer(OptimizerFactory factory,
                       std::initializer_list<std::string_view> names,
                       const char* file);

// Once per file; the names may be several, which share a factory that tells
// them by OptimizerConfig::kind.
#define SHOAL_REGISTER_OPTIMIZER(factory, ...)                    \
  [[maybe_unused]] static const bool shoal_optimizer_registered = \
      ::shoal::ps::RegisterOptimizer(factory, {__VA_ARGS__}, __FILE__)

}  // namespace shoal::ps

#endif  // SHOAL_PS_OPTIMIZER_H_
