#include "graph/ops.h"
#include "worker/model_builder.h"

namespace shoal::worker {
namespace {

// Factorization machine of degree 2 (Rendle 2010); numeric features take part
// in its first-order terms.
graph::NodeRef Fm(ModelBuilder& b) {
  return graph::Add(b.graph(), b.Linear(),
                    graph::FmInteraction(b.graph(), b.Embeddings()));
}

SHOAL_REGISTER_MODEL("fm", &Fm);

}  // namespace
}  // namespace shoal::worker
