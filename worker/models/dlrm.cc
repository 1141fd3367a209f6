#include "graph/ops.h"
#include "worker/model_builder.h"

namespace shoal::worker {
namespace {

// DLRM (Naumov et al. 2019): the numeric features become one more vector
// through the bottom network; dot products of all pairs, beside that vector,
// feed the top network.
graph::NodeRef Dlrm(ModelBuilder& b) {
  graph::GraphBuilder& graph = b.graph();
  if (b.num_numeric() == 0 || b.num_fields() == 0) {
    graph.SetError(InvalidArgumentError(
        "data.features: dlrm needs numeric and categorical features"));
    return {};
  }
  const int64_t dim = b.dim();
  const int64_t vectors = b.num_fields() + 1;
  const graph::Dim batch = graph.Symbol("batch");
  const ModelBuilder::Wide dense =
      b.Mlp("bottom", {b.Numeric(), b.num_numeric()}, b.bottom());
  const graph::NodeRef flat =
      graph::Reshape(graph, b.Embeddings(), {batch, b.num_fields() * dim});
  const graph::NodeRef all = graph::Reshape(
      graph, graph::Concat(graph, {dense.node, flat}), {batch, vectors, dim});
  const ModelBuilder::Wide top = {
      graph::Concat(graph, {dense.node, graph::DotInteraction(graph, all)}),
      dim + vectors * (vectors - 1) / 2};
  return b.Layer("top/out", b.Mlp("top", top, b.hidden()), b.classes()).node;
}

SHOAL_REGISTER_MODEL("dlrm", &Dlrm);

}  // namespace
}  // namespace shoal::worker
