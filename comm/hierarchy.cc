#include "comm/hierarchy.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/step_tree.h"
#include "base/strcat.h"

namespace shoal::comm {
namespace {

// Marks the ids of the groups that a group is split into.
constexpr int kIdShift = 14;

// The ranks of each host; hosts in the order of their first rank.
std::vector<std::vector<int>> HostsOf(const Group& group) {
  std::vector<std::vector<int>> hosts;
  for (int rank = 0; rank < group.size(); ++rank) {
    const std::string& host = group.members[static_cast<size_t>(rank)].host;
    const auto it =
        std::find_if(hosts.begin(), hosts.end(), [&](const auto& ranks) {
          const auto first = static_cast<size_t>(ranks[0]);
          return !host.empty() && group.members[first].host == host;
        });
    it == hosts.end() ? hosts.push_back({rank}) : it->push_back(rank);
  }
  return hosts;
}

// The node that covers just what the members at `ranks` have; 0: none does.
int64_t NodeOf(const Group& group, const std::vector<int>& ranks) {
  const StepTree tree(group.num_leaves);
  int first = group.num_leaves;
  int last = 0;
  int leaves = 0;
  for (const int rank : ranks) {
    for (const int64_t node : group.members[static_cast<size_t>(rank)].nodes) {
      const auto [begin, end] = tree.Range(node);
      first = std::min(first, begin);
      last = std::max(last, end);
      leaves += end - begin;
    }
  }
  if (leaves == 0 || last - first != leaves) {
    return 0;
  }
  const std::vector<int64_t> cover = tree.Cover(first, last);
  return cover.size() == 1 ? cover[0] : 0;
}

}  // namespace

StatusOr<std::unique_ptr<Hierarchy>> Hierarchy::Create(
    NodeContext& context, const Group& group,
    const TransportCollective::Options& options) {
  const std::vector<std::vector<int>> hosts = HostsOf(group);
  const size_t size = hosts[0].size();
  if (hosts.size() == 1 || size == 1 ||
      (options.algorithm != AllReduceAlgorithm::kAuto &&
       options.algorithm != AllReduceAlgorithm::kHierarchical)) {
    return std::unique_ptr<Hierarchy>();
  }
  Group inside;
  Group between;
  between.num_leaves = inside.num_leaves = group.num_leaves;
  between.root = group.root;
  size_t place = 0;  // of this rank in its host
  for (const std::vector<int>& ranks : hosts) {
    const int64_t node = NodeOf(group, ranks);
    if (ranks.size() != size || node == 0) {
      return std::unique_ptr<Hierarchy>();
    }
    const auto own = std::find(ranks.begin(), ranks.end(), group.rank);
    if (own == ranks.end()) {
      continue;
    }
    place = static_cast<size_t>(own - ranks.begin());
    inside.root = node;
    inside.rank = static_cast<int>(place);
    for (const int rank : ranks) {
      inside.members.push_back(group.members[static_cast<size_t>(rank)]);
    }
  }
  for (const std::vector<int>& ranks : hosts) {
    if (ranks[place] == group.rank) {
      between.rank = between.size();
    }
    between.members.push_back(group.members[static_cast<size_t>(ranks[place])]);
    between.members.back().nodes = {NodeOf(group, ranks)};
    between.members.back().host.clear();
  }
  std::unique_ptr<Hierarchy> made(new Hierarchy(options.block_bytes));
  TransportCollective::Options own = options;
  own.algorithm = AllReduceAlgorithm::kSegments;
  const auto part = [&](Group& of, uint16_t number) {
    of.id = static_cast<uint16_t>(group.id | number << kIdShift);
    return TransportCollective::Create(context, of, own);
  };
  SHOAL_ASSIGN_OR_RETURN(made->inside_, part(inside, 1));
  SHOAL_ASSIGN_OR_RETURN(made->spread_, part(inside, 2));
  SHOAL_ASSIGN_OR_RETURN(made->between_, part(between, 3));
  return made;
}

void Hierarchy::AllReduce(DType dtype, std::span<const std::byte* const> terms,
                          std::byte* out, int64_t count,
                          Collective::Done done) {
  const int64_t each = std::max<int64_t>(block_bytes_ / SizeOf(dtype), 1);
  int64_t begin = 0;
  do {
    auto block = std::make_shared<Block>();
    block->dtype = dtype;
    block->count = std::min(each, count - begin);
    block->out = out + begin * SizeOf(dtype);
    std::vector<const void*> own;
    for (const std::byte* term : terms) {
      own.push_back(term + begin * SizeOf(dtype));
    }
    begin += block->count;
    if (begin == count) {
      block->done = std::move(done);
    }
    blocks_.push_back(block);
    inside_->ReduceScatter(dtype, own, block->out, block->count,
                           Then(Block::State::kSummed, block));
  } while (begin < count);
}

// Blocks do not outlive the hierarchy.
Collective::Done Hierarchy::Then(Block::State next,
                                 const std::shared_ptr<Block>& block) {
  return [this, next, weak = std::weak_ptr<Block>(block)](const Status& why) {
    const std::shared_ptr<Block> block = weak.lock();
    if (block == nullptr || lost_) {
      return;
    }
    if (why.ok()) {
      block->state = next;
      Advance();
      return;
    }
    lost_ = true;
    for (size_t i = 0; i < blocks_.size(); ++i) {
      if (blocks_[i]->done) {
        std::exchange(blocks_[i]->done, nullptr)(why);
      }
    }
  };
}

// All members start the operations of a collective in the order of the blocks.
void Hierarchy::Advance() {
  using State = Block::State;
  for (const std::shared_ptr<Block>& block : blocks_) {
    if (block->state == State::kInside) {
      break;
    }
    if (block->state == State::kSummed) {
      block->state = State::kBetween;
      const auto [begin, end] = SegmentOf(block->count, inside_->group().rank,
                                          inside_->group().size());
      std::byte* const segment = block->out + begin * SizeOf(block->dtype);
      const void* const terms[] = {segment};
      between_->AllReduce(block->dtype, terms, segment, end - begin,
                          Then(State::kCrossed, block));
    }
  }
  for (const std::shared_ptr<Block>& block : blocks_) {
    if (block->state < State::kCrossed) {
      break;
    }
    if (block->state == State::kCrossed) {
      block->state = State::kSpreading;
      spread_->AllGather(block->dtype, block->out, block->count,
                         Then(State::kDone, block));
    }
  }
  while (!blocks_.empty() && blocks_.front()->state == State::kDone) {
    const Collective::Done done = std::move(blocks_.front()->done);
    blocks_.pop_front();
    if (done) {
      done(OkStatus());
    }
  }
}

bool Hierarchy::OnMessage(EndpointId from, Message& message) {
  return inside_->OnMessage(from, message) ||
         between_->OnMessage(from, message) ||
         spread_->OnMessage(from, message);
}

void Hierarchy::OnPeerDown(EndpointId peer, const Status& why) {
  inside_->OnPeerDown(peer, why);
  between_->OnPeerDown(peer, why);
  spread_->OnPeerDown(peer, why);
}

void Hierarchy::OnSendable(EndpointId peer) {
  inside_->OnSendable(peer);
  between_->OnSendable(peer);
  spread_->OnSendable(peer);
}

void Hierarchy::Abandon(const Status& why) {
  inside_->Abandon(why);
  between_->Abandon(why);
  spread_->Abandon(why);
}

// Of the first that waits: what comes after it waits for it.
std::string Hierarchy::Awaited() const {
  for (const TransportCollective* part :
       {spread_.get(), between_.get(), inside_.get()}) {
    std::string names = part->Awaited();
    if (!names.empty()) {
      return names;
    }
  }
  return "";
}

}  // namespace shoal::comm
