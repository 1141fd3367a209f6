#include "worker/model_builder.h"

namespace shoal::worker {
namespace {

// A network over embeddings and numeric features.
graph::NodeRef Mlp(ModelBuilder& b) {
  return b.Layer("out", b.Mlp("mlp", b.DenseInput(), b.hidden()), b.classes())
      .node;
}

SHOAL_REGISTER_MODEL("mlp", &Mlp);

}  // namespace
}  // namespace shoal::worker
