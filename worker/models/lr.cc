#include "worker/model_builder.h"

namespace shoal::worker {
namespace {

// Logistic (or linear, or softmax) regression.
graph::NodeRef Lr(ModelBuilder& b) { return b.Linear(); }

SHOAL_REGISTER_MODEL("lr", &Lr);

}  // namespace
}  // namespace shoal::worker
