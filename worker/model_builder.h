#ifndef SHOAL_WORKER_MODEL_BUILDER_H_
#define SHOAL_WORKER_MODEL_BUILDER_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"
#include "worker/input/record_schema.h"
#include "worker/model.h"

namespace shoal::worker {

class JobSpec;

// What the builders of the zoo share: the features of an example as nodes, and
// the usual parts of networks. Errors are collected by the graph's builder and
// come out of BuildModel().
class ModelBuilder {
 public:
  ModelBuilder(const JobSpec& job, const RecordSchema& schema,
               double label_mean, bool training, graph::GraphBuilder& graph);

  graph::GraphBuilder& graph() { return graph_; }
  const JobSpec& job() const { return job_; }
  int64_t classes() const { return classes_; }  // width of the logits
  int64_t dim() const;                          // of an embedding row
  std::vector<int64_t> hidden() const;
  std::vector<int64_t> bottom() const;
  int64_t cross_layers() const;

  int64_t num_numeric() const;
  graph::NodeRef Numeric();  // [batch, num_numeric()], which must be above 0

  // The first-order part: bias, numeric features times weights, and one weight
  // per looked-up id (table `linear`): [batch, classes()].
  graph::NodeRef Linear();

  // The looked-up rows of table `embedding`: [batch, num_fields(), dim]. A list
  // of values counts as one field, its rows pooled.
  graph::NodeRef Embeddings();
  int64_t num_fields() const;

  // Embeddings, then numeric features, side by side.
  struct Wide {
    graph::NodeRef node;  // [batch, width]
    int64_t width = 0;
  };
  Wide DenseInput();

  // x w + bias: [batch, x.width] -> [batch, to].
  Wide Layer(std::string_view name, const Wide& x, int64_t to);
  // Layers of these widths, each with activation and dropout.
  Wide Mlp(std::string_view name, const Wide& x,
           const std::vector<int64_t>& widths);
  graph::NodeRef AddAll(const std::vector<graph::NodeRef>& terms);

  // A dense weight that `l2_dense` shrinks.
  graph::NodeRef Weight(std::string_view name, std::vector<int64_t> dims,
                        graph::Initializer initializer);

  // The penalties so far, [1] each: over examples, and over dense weights.
  const std::vector<graph::NodeRef>& example_penalties() const {
    return example_penalties_;
  }
  const std::vector<graph::NodeRef>& weight_penalties() const {
    return weight_penalties_;
  }

  const std::vector<GroupFeatures>& groups() const { return groups_; }
  // The number of the group that a table is in.
  const std::map<std::string, int>& table_groups() const {
    return table_groups_;
  }

 private:
  // Placeholders of a group's features, made when first looked up.
  struct GroupNodes {
    graph::NodeRef index;
    struct Bag {
      graph::NodeRef index;
      graph::NodeRef offsets;
      graph::NodeRef weights;
    };
    std::vector<Bag> bags;
  };

  // [batch, fields, dim].
  graph::NodeRef LookUp(const std::string& table, int64_t dim,
                        const GroupFeatures& features);
  int GroupOf(const GroupFeatures& features);
  // All features, or those that a key of the job names.
  GroupFeatures FeaturesOf(std::string_view key, bool deep);
  double StartingBias() const;
  static graph::Initializer Glorot(int64_t from, int64_t to);
  graph::NodeRef Activate(graph::NodeRef x);

  const JobSpec& job_;
  const RecordSchema& schema_;
  double label_mean_;
  bool training_;
  graph::GraphBuilder& graph_;
  graph::Dim batch_;
  int64_t classes_ = 1;
  int num_dropouts_ = 0;
  graph::NodeRef numeric_;
  graph::NodeRef embeddings_;
  std::vector<GroupFeatures> groups_;
  std::vector<GroupNodes> group_nodes_;
  std::map<std::string, int> table_groups_;
  std::vector<graph::NodeRef> example_penalties_;
  std::vector<graph::NodeRef> weight_penalties_;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_MODEL_BUILDER_H_
