#include "base/strcat.h"
#include "graph/ops.h"
#include "worker/model_builder.h"

namespace shoal::worker {
namespace {

// DCN-V2 (Wang et al. 2021), parallel form: cross layers x' = x0 (x W + b) + x
// (equation 1) beside a network, joined by a last layer.
graph::NodeRef DcnV2(ModelBuilder& b) {
  const ModelBuilder::Wide x0 = b.DenseInput();
  ModelBuilder::Wide x = x0;
  for (int64_t i = 0; i < b.cross_layers(); ++i) {
    const ModelBuilder::Wide z = b.Layer(StrCat("cross/", i), x, x0.width);
    x.node = graph::CrossCombine(b.graph(), x0.node, z.node, x.node);
  }
  const ModelBuilder::Wide deep = b.Mlp("deep", x0, b.hidden());
  const ModelBuilder::Wide both = {
      graph::Concat(b.graph(), {x.node, deep.node}), x.width + deep.width};
  return b.Layer("out", both, b.classes()).node;
}

SHOAL_REGISTER_MODEL("dcn_v2", &DcnV2);

}  // namespace
}  // namespace shoal::worker
