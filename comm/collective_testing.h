#ifndef SHOAL_COMM_COLLECTIVE_TESTING_H_
#define SHOAL_COMM_COLLECTIVE_TESTING_H_

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

#include "base/step_tree.h"
#include "base/strcat.h"
#include "comm/node.h"
#include "comm/node_collective.h"

// For tests of backends that leave sums to a library. Values are small whole
// numbers, whose sums every type holds exactly in every order.
namespace shoal::comm {

// Runs a script of operations as one member: each step gets the collective and
// what to call when it is over.
class ScriptMember : public Node {
 public:
  using Step = std::function<void(Collective&, Collective::Done)>;

  ScriptMember(CollectiveFactory factory, Group group,
               CollectiveOptions options, std::vector<Step> script)
      : factory_(factory),
        group_(std::move(group)),
        options_(std::move(options)),
        script_(std::move(script)) {}

  void OnStart(NodeContext& context) override {
    context_ = &context;
    auto made = factory_(context, group_, options_);
    ASSERT_TRUE(made.ok()) << made.status();
    collective_ = *std::move(made);
    Next();
  }
  void OnMessage(EndpointId from, Message message) override {
    EXPECT_TRUE(collective_->OnMessage(from, message));
  }
  void OnPeerDown(EndpointId peer, const Status& why) override {
    collective_->OnPeerDown(peer, why);
  }
  void OnSendable(EndpointId peer) override { collective_->OnSendable(peer); }

  std::function<void(NodeContext&)> at_end;  // instead of stopping

 private:
  void Next() {
    if (next_ == script_.size()) {
      if (at_end) {
        return at_end(*context_);
      }
      return context_->Stop(OkStatus());
    }
    const auto inside = std::make_shared<bool>(true);
    script_[next_++](*collective_, [this, inside](const Status& why) {
      EXPECT_FALSE(*inside);
      if (!why.ok()) {
        return context_->Stop(why);
      }
      Next();
    });
    *inside = false;
  }

  const CollectiveFactory factory_;
  const Group group_;
  const CollectiveOptions options_;
  const std::vector<Step> script_;
  size_t next_ = 0;
  NodeContext* context_ = nullptr;
  std::unique_ptr<NodeCollective> collective_;
};

// A whole number up to 255 in the form of a type.
inline void PutWhole(DType dtype, int value, std::byte* to) {
  const auto put = [to](auto x) { std::memcpy(to, &x, sizeof(x)); };
  switch (dtype) {
    case DType::kF32:
      return put(static_cast<float>(value));
    case DType::kF64:
      return put(static_cast<double>(value));
    case DType::kF16:
      return put(static_cast<_Float16>(value));
    case DType::kBF16: {
      const auto f = static_cast<float>(value);
      uint32_t bits = 0;
      std::memcpy(&bits, &f, sizeof(bits));
      return put(static_cast<uint16_t>(bits >> 16));
    }
    case DType::kI32:
      return put(static_cast<int32_t>(value));
    case DType::kI64:
    case DType::kU64:
      return put(static_cast<int64_t>(value));
  }
}

// Calls every operation with every type and counts that divide well and badly,
// and knows what comes of it.
class EveryOperation {
 public:
  EveryOperation(int rank, int size, std::vector<int64_t> counts)
      : rank_(rank), size_(size) {
    for (const DType dtype : {DType::kF32, DType::kF64, DType::kF16,
                              DType::kBF16, DType::kI32, DType::kI64}) {
      for (const int64_t count : counts) {
        Add(dtype, count);
      }
    }
    script_.emplace_back([](Collective& c, Collective::Done done) {
      c.Barrier(std::move(done));
    });
  }

  const std::vector<ScriptMember::Step>& script() const { return script_; }

  void ExpectResults() const {
    for (const Result& result : results_) {
      EXPECT_TRUE(*result.data == result.want)
          << result.what << ", rank " << rank_ << " of " << size_;
    }
  }

 private:
  using Bytes = std::vector<std::byte>;
  struct Result {
    std::string what;
    std::shared_ptr<Bytes> data;
    Bytes want;
  };

  static int Term(int rank, int64_t i) {
    return (rank * 3 + static_cast<int>(i % 7)) % 16;
  }
  // count values, value(i) each.
  template <typename ValueFn>
  static Bytes Make(DType dtype, int64_t count, const ValueFn& value) {
    Bytes bytes(static_cast<size_t>(count * SizeOf(dtype)));
    for (int64_t i = 0; i < count; ++i) {
      PutWhole(dtype, value(i), bytes.data() + i * SizeOf(dtype));
    }
    return bytes;
  }
  std::shared_ptr<Bytes> Keep(const std::string& what, Bytes begin,
                              Bytes want) {
    results_.push_back(
        {what, std::make_shared<Bytes>(std::move(begin)), std::move(want)});
    return results_.back().data;
  }

  void Add(DType dtype, int64_t count) {
    const std::string of = StrCat(" of ", count, " ", Name(dtype));
    const auto mine = [&](int64_t i) { return Term(rank_, i); };
    const auto sum = [&](int64_t i) {
      int total = 0;
      for (int r = 0; r < size_; ++r) {
        total += Term(r, i);
      }
      return total;
    };
    const auto segment = [&](int64_t i, const auto& inside,
                             const auto& outside) {
      const auto [begin, end] = SegmentOf(count, rank_, size_);
      return i >= begin && i < end ? inside(i) : outside(i);
    };
    const auto zero = [](int64_t) { return 0; };
    const auto index = [](int64_t i) { return static_cast<int>(i % 200); };
    // In place.
    auto data = Keep("allreduce" + of, Make(dtype, count, mine),
                     Make(dtype, count, sum));
    script_.emplace_back([=](Collective& c, Collective::Done done) {
      const void* const terms[] = {data->data()};
      c.AllReduce(dtype, terms, data->data(), count, std::move(done));
    });
    auto term = std::make_shared<Bytes>(Make(dtype, count, mine));
    data = Keep(
        "reduce-scatter" + of, Make(dtype, count, zero),
        Make(dtype, count, [&](int64_t i) { return segment(i, sum, zero); }));
    script_.emplace_back([=](Collective& c, Collective::Done done) {
      const void* const terms[] = {term->data()};
      c.ReduceScatter(dtype, terms, data->data(), count, std::move(done));
    });
    data = Keep(
        "all-gather" + of,
        Make(dtype, count, [&](int64_t i) { return segment(i, index, zero); }),
        Make(dtype, count, index));
    script_.emplace_back([=](Collective& c, Collective::Done done) {
      c.AllGather(dtype, data->data(), count, std::move(done));
    });
    const int64_t all = count * size_;
    auto rows = std::make_shared<Bytes>(Make(dtype, all, [&](int64_t i) {
      return rank_ * 16 + static_cast<int>(i / count);
    }));
    data = Keep("all-to-all" + of, Make(dtype, all, zero),
                Make(dtype, all, [&](int64_t i) {
                  return static_cast<int>(i / count) * 16 + rank_;
                }));
    script_.emplace_back([=](Collective& c, Collective::Done done) {
      c.AllToAll(dtype, rows->data(), data->data(), count, std::move(done));
    });
    const int root = static_cast<int>(count) % size_;
    // Not what an operation before it has left in memory that is used again.
    const auto falling = [](int64_t i) {
      return 255 - static_cast<int>(i % 200);
    };
    data = Keep("broadcast" + of,
                Make(dtype, count,
                     [&](int64_t i) { return rank_ == root ? falling(i) : 0; }),
                Make(dtype, count, falling));
    script_.emplace_back([=](Collective& c, Collective::Done done) {
      c.Broadcast(dtype, data->data(), count, root, std::move(done));
    });
  }

  const int rank_;
  const int size_;
  std::vector<ScriptMember::Step> script_;
  std::vector<Result> results_;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_COLLECTIVE_TESTING_H_
