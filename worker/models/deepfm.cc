#include "graph/ops.h"
#include "worker/model_builder.h"

namespace shoal::worker {
namespace {

// DeepFM (Guo et al. 2017): a factorization machine and a network on the same
// embeddings.
graph::NodeRef DeepFm(ModelBuilder& b) {
  const ModelBuilder::Wide deep = b.Mlp("deep", b.DenseInput(), b.hidden());
  return b.AddAll({b.Linear(), graph::FmInteraction(b.graph(), b.Embeddings()),
                   b.Layer("deep/out", deep, 1).node});
}

SHOAL_REGISTER_MODEL("deepfm", &DeepFm);

}  // namespace
}  // namespace shoal::worker
