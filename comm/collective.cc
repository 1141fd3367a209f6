#include "comm/collective.h"

#include <array>

#include "base/step_tree.h"
#include "base/strcat.h"

namespace shoal::comm {
namespace {

constexpr std::array<std::string_view, 6> kNames = {
    "auto", "exchange", "segments", "halving", "read", "hierarchical"};

}  // namespace

void DealOneLeafEach(Group& group) {
  group.num_leaves = group.size();
  const StepTree tree(group.num_leaves);
  for (int rank = 0; rank < group.size(); ++rank) {
    group.members[static_cast<size_t>(rank)].nodes = {tree.Leaf(rank)};
  }
}

std::string HostOf(std::string_view address) {
  constexpr std::string_view kAuto = "auto:";
  if (address.starts_with("shm:")) {
    return "shm";  // Whoever can be reached by it is here.
  }
  if (address.starts_with(kAuto)) {
    const std::string_view rest = address.substr(kAuto.size());
    return std::string(rest.substr(0, rest.find(';')));
  }
  return "";
}

std::string_view Name(AllReduceAlgorithm algorithm) {
  return kNames[static_cast<size_t>(algorithm)];
}

StatusOr<AllReduceAlgorithm> ParseAllReduceAlgorithm(std::string_view name) {
  std::string known;
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) {
      return static_cast<AllReduceAlgorithm>(i);
    }
    known += StrCat(i == 0 ? "" : ", ", kNames[i]);
  }
  return InvalidArgumentError(StrCat("there is no allreduce algorithm '", name,
                                     "'; there are ", known));
}

}  // namespace shoal::comm
