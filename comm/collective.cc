#include "comm/collective.h"

#include <array>
#include <sstream>

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

std::vector<AllReduceSwitch> DefaultSwitches() {
  return {{0, AllReduceAlgorithm::kExchange},
          {(int64_t{16} << 10) + 1, AllReduceAlgorithm::kSegments},
          {int64_t{256} << 10, AllReduceAlgorithm::kHierarchical}};
}

std::vector<std::string> FormatSwitches(
    std::span<const AllReduceSwitch> switches) {
  std::vector<std::string> entries;
  for (const AllReduceSwitch& from : switches) {
    entries.push_back(StrCat(from.from_bytes, " ", Name(from.algorithm)));
  }
  return entries;
}

StatusOr<std::vector<AllReduceSwitch>> ParseSwitches(
    std::span<const std::string> entries) {
  std::vector<AllReduceSwitch> switches;
  for (const std::string& entry : entries) {
    std::istringstream words(entry);
    AllReduceSwitch from;
    std::string name;
    std::string more;
    if (!(words >> from.from_bytes >> name) || words >> more) {
      return InvalidArgumentError(StrCat(
          "'", entry, "' is not bytes and an algorithm, as '65536 segments'"));
    }
    const int64_t before = switches.empty() ? -1 : switches.back().from_bytes;
    if (switches.empty() ? from.from_bytes != 0 : from.from_bytes <= before) {
      return InvalidArgumentError(
          StrCat("'", entry, "' begins at ", from.from_bytes, " bytes, not at ",
                 switches.empty() ? "0" : StrCat("more than ", before)));
    }
    const StatusOr<AllReduceAlgorithm> algorithm =
        ParseAllReduceAlgorithm(name);
    if (!algorithm.ok()) {
      return algorithm.status().WithPrefix(StrCat("'", entry, "'"));
    }
    if (*algorithm == AllReduceAlgorithm::kAuto) {
      return InvalidArgumentError(
          StrCat("'", entry, "' says auto, which is the whole list"));
    }
    from.algorithm = *algorithm;
    switches.push_back(from);
  }
  return switches;
}

}  // namespace shoal::comm
