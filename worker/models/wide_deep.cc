#include "graph/ops.h"
#include "worker/model_builder.h"

namespace shoal::worker {
namespace {

// Wide & Deep (Cheng et al. 2016): a linear part over the wide features beside
// a network over the embeddings of the deep ones and the numeric features.
graph::NodeRef WideDeep(ModelBuilder& b) {
  const ModelBuilder::Wide deep = b.Mlp("deep", b.DenseInput(), b.hidden());
  return graph::Add(b.graph(), b.Linear(),
                    b.Layer("deep/out", deep, b.classes()).node);
}

SHOAL_REGISTER_MODEL("wide_deep", &WideDeep);

}  // namespace
}  // namespace shoal::worker
