#include "comm/node_collective.h"

#include "base/strcat.h"

namespace shoal::comm {
namespace {

constexpr int kSequenceBits = 48;

}  // namespace

Registry<CollectiveFactory>& CollectiveRegistry() {
  static auto* const registry =
      new Registry<CollectiveFactory>("collective backend");
  return *registry;
}

uint64_t CollectiveRequest(const Group& group, uint64_t sequence) {
  return (uint64_t{group.id} << kSequenceBits) | sequence;
}

bool IsOfGroup(const Message& message, const Group& group) {
  return message.header.method == kCollectiveMethod &&
         message.header.request >> kSequenceBits == group.id;
}

uint64_t SequenceOf(const Message& message) {
  return message.header.request & ((uint64_t{1} << kSequenceBits) - 1);
}

Status GaveUpError(const Group::Member& member, const Message& message) {
  return AbortedError(StrCat(
      member.name,
      " gave up: ", message.frames.empty() ? "" : message.frames[0].text()));
}

}  // namespace shoal::comm
