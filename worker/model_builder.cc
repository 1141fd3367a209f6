#include "worker/model_builder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/strcat.h"
#include "graph/ops.h"
#include "worker/job.pb.h"

namespace shoal::worker {

using graph::NodeRef;

ModelBuilder::ModelBuilder(const JobSpec& job, const RecordSchema& schema,
                           double label_mean, bool training,
                           graph::GraphBuilder& graph)
    : job_(job),
      schema_(schema),
      label_mean_(label_mean),
      training_(training),
      graph_(graph),
      batch_(graph.Symbol("batch")),
      classes_(job.model().task() == "multiclass" ? job.model().classes() : 1) {
}

int64_t ModelBuilder::dim() const { return job_.model().dim(); }
std::vector<int64_t> ModelBuilder::hidden() const {
  return {job_.model().hidden().begin(), job_.model().hidden().end()};
}
std::vector<int64_t> ModelBuilder::bottom() const {
  return {job_.model().bottom().begin(), job_.model().bottom().end()};
}
int64_t ModelBuilder::cross_layers() const {
  return job_.model().cross_layers();
}
int64_t ModelBuilder::num_numeric() const {
  return static_cast<int64_t>(schema_.numeric.size());
}

NodeRef ModelBuilder::Numeric() {
  if (!numeric_.valid()) {
    numeric_ = graph_.Placeholder("numeric", {batch_, num_numeric()});
  }
  return numeric_;
}

// --- Lookups ---------------------------------------------------------------

GroupFeatures ModelBuilder::FeaturesOf(std::string_view key, bool deep) {
  const auto& names = deep ? job_.model().deep() : job_.model().wide();
  GroupFeatures features;
  if (names.empty()) {
    for (size_t i = 0; i < schema_.categorical.size(); ++i) {
      features.categorical.push_back(static_cast<int>(i));
    }
    for (size_t i = 0; i < schema_.bags.size(); ++i) {
      features.bags.push_back(static_cast<int>(i));
    }
    return features;
  }
  for (const std::string& name : names) {
    const auto field =
        std::find(schema_.categorical.begin(), schema_.categorical.end(), name);
    const auto bag =
        std::find_if(schema_.bags.begin(), schema_.bags.end(),
                     [&name](const BagField& b) { return b.name == name; });
    if (field != schema_.categorical.end()) {
      features.categorical.push_back(
          static_cast<int>(field - schema_.categorical.begin()));
    } else if (bag != schema_.bags.end()) {
      features.bags.push_back(static_cast<int>(bag - schema_.bags.begin()));
    } else {
      std::string known;
      for (const std::string& feature : schema_.categorical) {
        known += (known.empty() ? "" : ", ") + feature;
      }
      graph_.SetError(InvalidArgumentError(
          StrCat(key, ": there is no categorical feature '", name,
                 "'; there are: ", known)));
    }
  }
  return features;
}

int ModelBuilder::GroupOf(const GroupFeatures& features) {
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (groups_[g].categorical == features.categorical &&
        groups_[g].bags == features.bags) {
      return static_cast<int>(g);
    }
  }
  const size_t g = groups_.size();
  GroupNodes nodes;
  if (!features.categorical.empty()) {
    nodes.index = graph_.Placeholder(
        StrCat("index:", g),
        {batch_, static_cast<int64_t>(features.categorical.size())},
        DType::kI32);
  }
  for (size_t b = 0; b < features.bags.size(); ++b) {
    const graph::Dim values = graph_.Symbol(StrCat("values:", g, ":", b));
    nodes.bags.push_back(
        {.index = graph_.Placeholder(StrCat("bag_index:", g, ":", b), {values},
                                     DType::kI32),
         .offsets = graph_.Placeholder(StrCat("bag_offsets:", g, ":", b),
                                       {batch_ + graph::Dim(1)}, DType::kI32),
         .weights =
             graph_.Placeholder(StrCat("bag_weights:", g, ":", b), {values})});
  }
  groups_.push_back(features);
  group_nodes_.push_back(std::move(nodes));
  return static_cast<int>(g);
}

NodeRef ModelBuilder::LookUp(const std::string& table, int64_t dim,
                             const GroupFeatures& features) {
  const int group = GroupOf(features);
  table_groups_[table] = group;
  const NodeRef rows = graph_.TableRows(table, std::to_string(group), dim);
  const GroupNodes& nodes = group_nodes_[static_cast<size_t>(group)];
  const auto fields = static_cast<int64_t>(features.categorical.size());
  const auto bags = static_cast<int64_t>(features.bags.size());
  std::vector<NodeRef> parts;
  if (fields > 0) {
    const NodeRef gathered = graph::Gather(graph_, rows, nodes.index);
    if (bags == 0) {
      return gathered;
    }
    parts.push_back(graph::Reshape(graph_, gathered, {batch_, fields * dim}));
  }
  for (int64_t b = 0; b < bags; ++b) {
    const auto& bag = nodes.bags[static_cast<size_t>(b)];
    const BagField& field =
        schema_
            .bags[static_cast<size_t>(features.bags[static_cast<size_t>(b)])];
    parts.push_back(
        graph::Reshape(graph_,
                       graph::BagPool(graph_, rows, bag.index, bag.offsets,
                                      bag.weights, 1, field.pooling == "mean"),
                       {batch_, dim}));
  }
  const NodeRef all =
      parts.size() == 1 ? parts[0] : graph::Concat(graph_, parts);
  return graph::Reshape(graph_, all, {batch_, fields + bags, dim});
}

NodeRef ModelBuilder::Embeddings() {
  if (!embeddings_.valid()) {
    const GroupFeatures features = FeaturesOf("model.deep", true);
    embeddings_ = LookUp("embedding", dim(), features);
    if (job_.model().l2_embedding() > 0) {
      example_penalties_.push_back(
          graph::Scale(graph_, graph::L2Penalty(graph_, embeddings_),
                       job_.model().l2_embedding()));
    }
  }
  return embeddings_;
}

int64_t ModelBuilder::num_fields() const {
  const auto& names = job_.model().deep();
  return names.empty() ? static_cast<int64_t>(schema_.categorical.size() +
                                              schema_.bags.size())
                       : names.size();
}

double ModelBuilder::StartingBias() const {
  if (!job_.model().bias_from_data() || classes_ > 1) {
    return 0;
  }
  if (job_.model().task() == "regression") {
    return label_mean_;
  }
  // A part with one class alone has no finite logit.
  const double p = std::clamp(label_mean_, 1e-6, 1 - 1e-6);
  return std::log(p / (1 - p));
}

NodeRef ModelBuilder::Linear() {
  std::vector<NodeRef> terms;
  const GroupFeatures features = FeaturesOf("model.wide", false);
  const auto fields =
      static_cast<int64_t>(features.categorical.size() + features.bags.size());
  if (fields > 0) {
    const NodeRef rows = LookUp("linear", classes_, features);
    const NodeRef flat =
        graph::Reshape(graph_, rows, {batch_, fields * classes_});
    if (classes_ == 1) {
      terms.push_back(graph::RowSum(graph_, flat));
    } else {
      for (int64_t f = 0; f < fields; ++f) {
        terms.push_back(graph::Slice(graph_, flat, f * classes_, classes_));
      }
    }
    if (job_.model().l2_linear() > 0) {
      example_penalties_.push_back(graph::Scale(
          graph_, graph::L2Penalty(graph_, rows), job_.model().l2_linear()));
    }
  }
  if (num_numeric() > 0) {
    terms.push_back(graph::MatMul(graph_, Numeric(),
                                  Weight("linear/w", {num_numeric(), classes_},
                                         graph::Initializer::Zero())));
  }
  if (terms.empty()) {
    graph_.SetError(InvalidArgumentError(
        "data.features: the model has no feature to look at"));
    return {};
  }
  const NodeRef bias =
      graph_.Variable("bias", std::vector<int64_t>{classes_},
                      graph::Initializer::Constant(StartingBias()));
  return graph::BiasAdd(graph_, AddAll(terms), bias);
}

// --- Networks --------------------------------------------------------------

NodeRef ModelBuilder::AddAll(const std::vector<NodeRef>& terms) {
  return terms.size() == 1 ? terms[0] : graph::AddN(graph_, terms);
}

ModelBuilder::Wide ModelBuilder::DenseInput() {
  std::vector<NodeRef> parts;
  int64_t width = 0;
  if (num_fields() > 0) {
    width = num_fields() * dim();
    parts.push_back(graph::Reshape(graph_, Embeddings(), {batch_, width}));
  }
  if (num_numeric() > 0) {
    parts.push_back(Numeric());
    width += num_numeric();
  }
  if (parts.empty()) {
    graph_.SetError(InvalidArgumentError(
        "data.features: the model has no feature to look at"));
    return {};
  }
  return {parts.size() == 1 ? parts[0] : graph::Concat(graph_, parts), width};
}

// Uniform, so that forward and backward signals keep their size (Glorot and
// Bengio 2010, equation 16).
graph::Initializer ModelBuilder::Glorot(int64_t from, int64_t to) {
  return graph::Initializer::Uniform(
      std::sqrt(6 / static_cast<double>(from + to)));
}

NodeRef ModelBuilder::Weight(std::string_view name, std::vector<int64_t> dims,
                             graph::Initializer initializer) {
  const NodeRef weight = graph_.Variable(name, dims, initializer);
  if (job_.model().l2_dense() > 0) {
    weight_penalties_.push_back(graph::Scale(
        graph_, graph::L2Penalty(graph_, weight), job_.model().l2_dense()));
  }
  return weight;
}

ModelBuilder::Wide ModelBuilder::Layer(std::string_view name, const Wide& x,
                                       int64_t to) {
  const graph::GraphBuilder::Scope scope(graph_, name);
  const NodeRef w = Weight("w", {x.width, to}, Glorot(x.width, to));
  const NodeRef bias = graph_.Variable("b", std::vector<int64_t>{to},
                                       graph::Initializer::Zero());
  return {graph::BiasAdd(graph_, graph::MatMul(graph_, x.node, w), bias), to};
}

NodeRef ModelBuilder::Activate(NodeRef x) {
  const std::string& kind = job_.model().activation();
  return kind == "tanh"      ? graph::Tanh(graph_, x)
         : kind == "sigmoid" ? graph::Sigmoid(graph_, x)
                             : graph::Relu(graph_, x);
}

ModelBuilder::Wide ModelBuilder::Mlp(std::string_view name, const Wide& x,
                                     const std::vector<int64_t>& widths) {
  const graph::GraphBuilder::Scope scope(graph_, name);
  Wide out = x;
  for (size_t i = 0; i < widths.size(); ++i) {
    out = Layer(std::to_string(i), out, widths[i]);
    out.node = Activate(out.node);
    if (training_ && job_.model().dropout() > 0) {
      const NodeRef seed = graph_.Placeholder(
          StrCat("dropout:", num_dropouts_++), {1}, DType::kU64);
      out.node = graph::Dropout(graph_, out.node, seed, job_.model().dropout());
    }
  }
  return out;
}

}  // namespace shoal::worker
