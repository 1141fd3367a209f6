#ifndef SHOAL_WORKER_MODEL_H_
#define SHOAL_WORKER_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/registry.h"
#include "base/status.h"
#include "graph/graph.h"
#include "ps/model_spec.h"
#include "worker/input/record_schema.h"
#include "worker/step_input.h"

namespace shoal::worker {

class JobSpec;
class ModelBuilder;

// A model as its workers run it and its servers hold it.
//
// Feeds: the variables and tables of `spec` by their names, and placeholders:
// "labels" [batch, 1]; "numeric" [batch, n]; "loss_scale" and "push_fraction"
// [1]; "dropout:K" [1] u64; per group G "index:G" [batch, m] i32 and per bag B
// of it "bag_index:G:B" [values] i32, "bag_offsets:G:B" [batch + 1] i32,
// "bag_weights:G:B" [values]. Symbols: "batch", "rows:G", "values:G:B".
struct ModelGraph {
  ps::ModelSpec spec;
  std::vector<GroupFeatures> groups;  // as spec.groups

  // Training: the sum of the examples' losses, and the gradients of all that is
  // pulled, in the order of spec; a ref that is not valid stands for zeros.
  graph::Graph train;
  graph::NodeRef loss_sum;
  std::vector<graph::NodeRef> variable_gradients;
  std::vector<graph::NodeRef> table_gradients;

  // Scoring: the same model without dropout.
  graph::Graph score;
  graph::NodeRef scores;
  int score_width = 1;  // per example
};

// Builds the logits [batch, 1] ([batch, classes] for multiclass) of one kind of
// model; loss, penalties and gradients are the same for all. Registered by the
// name that the job file uses: SHOAL_REGISTER_MODEL("fm", &Fm).
using ModelFn = graph::NodeRef (*)(ModelBuilder& builder);
Registry<ModelFn>& ModelRegistry();

#define SHOAL_REGISTER_MODEL(name, fn)                               \
  [[maybe_unused]] static const bool SHOAL_CONCAT(model_registered_, \
                                                  __COUNTER__) =     \
      ::shoal::worker::ModelRegistry().Add(name, fn, __FILE__)

// Errors: kInvalidArgument, naming the key of the job or the node of the graph
// that does not fit; kNotFound (no such model).
StatusOr<ModelGraph> BuildModel(const JobSpec& job, const RecordSchema& schema,
                                double label_mean);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_MODEL_H_
