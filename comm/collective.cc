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

std::string FormatSwitches(std::span<const AllReduceSwitch> switches) {
  std::string text;
  for (const AllReduceSwitch& from : switches) {
    text += StrCat(from.from_bytes, " ", Name(from.algorithm), "\n");
  }
  return text;
}

StatusOr<std::vector<AllReduceSwitch>> ParseSwitches(std::string_view text) {
  std::vector<AllReduceSwitch> switches;
  std::istringstream lines{std::string(text)};
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.empty() || line[0] == '#') {
      continue;
    }
    std::istringstream words(line);
    AllReduceSwitch from;
    std::string name;
    std::string more;
    if (!(words >> from.from_bytes >> name) || words >> more) {
      return InvalidArgumentError(
          StrCat("line ", number, " is '", line,
                 "'; expected bytes and an algorithm, as '65536 read'"));
    }
    const int64_t before = switches.empty() ? -1 : switches.back().from_bytes;
    if (switches.empty() ? from.from_bytes != 0 : from.from_bytes <= before) {
      return InvalidArgumentError(StrCat(
          "line ", number, " begins at ", from.from_bytes, " bytes; expected ",
          switches.empty() ? "0" : StrCat("more than ", before)));
    }
    const StatusOr<AllReduceAlgorithm> algorithm =
        ParseAllReduceAlgorithm(name);
    if (!algorithm.ok()) {
      return algorithm.status().WithPrefix(StrCat("line ", number));
    }
    if (*algorithm == AllReduceAlgorithm::kAuto) {
      return InvalidArgumentError(
          StrCat("line ", number, " says 'auto', which is the whole list"));
    }
    from.algorithm = *algorithm;
    switches.push_back(from);
  }
  if (switches.empty()) {
    return InvalidArgumentError("there is no line with an algorithm");
  }
  return switches;
}

}  // namespace shoal::comm
