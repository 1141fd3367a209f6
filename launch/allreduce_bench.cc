#include "launch/allreduce_bench.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/plugin.h"
#include "base/random.h"
#include "base/strcat.h"
#include "comm/listen.h"
#include "comm/mpi_world.h"
#include "comm/pump.h"
#include "comm/transport_collective.h"
#include "launch/supervisor.h"

namespace shoal::launch {
namespace {

// Ranks tell the first where they are, and hear from it where all are.
constexpr uint16_t kHello = 0xBE01;
constexpr uint16_t kPeers = 0xBE02;
constexpr Duration kMeetWithin = std::chrono::seconds(30);
constexpr Duration kOperationWithin = std::chrono::seconds(60);

// One measured system: starts one operation on `data`; `done` when it is over.
struct Contender {
  std::string name;
  std::function<void(float* data, int64_t count,
                     std::function<void(const Status&)> done)>
      start;
};

struct Spread {
  double median = 0;
  double min = 0;
  double max = 0;
};

Spread SpreadOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {values[values.size() / 2], values.front(), values.back()};
}

// Rank r's term of element i: small whole numbers, whose sum is exact.
float Term(int rank, int64_t i) {
  return static_cast<float>((i + 3 * rank) % 17);
}

class BenchNode : public comm::Node {
 public:
  BenchNode(const AllReduceBenchOptions& options, int rank, int size,
            comm::MpiWorld* mpi)
      : options_(options), rank_(rank), size_(size), mpi_(mpi) {}

  void OnStart(comm::NodeContext& context) override {
    context_ = &context;
    group_.rank = rank_;
    group_.members.resize(static_cast<size_t>(size_));
    context_->SetTimer(context_->Now() + kMeetWithin, [this] {
      if (collective_ == nullptr) {
        context_->Stop(DeadlineExceededError(StrCat("rank ", rank_, " waited ",
                                                    ToString(kMeetWithin),
                                                    " for the other ranks")));
      }
    });
    if (rank_ > 0) {
      if (const Status met = context_->Connect(comm::kCoordinator,
                                               options_.coordinator_address);
          !met.ok()) {
        context_->Stop(met);
        return;
      }
      SendHello();
    } else {
      SetMember(0, context_->self(), context_->address());
    }
  }

  void OnMessage(comm::EndpointId from, comm::Message message) override {
    switch (message.header.method) {
      case kHello:
        OnHello(from, message);
        return;
      case kPeers:
        OnPeers(message);
        return;
      default:
        if (collective_ == nullptr) {
          early_.emplace_back(from, std::move(message));
        } else {
          collective_->OnMessage(from, message);
        }
    }
  }
  void OnPeerDown(comm::EndpointId peer, const Status& why) override {
    if (collective_ != nullptr) {
      collective_->OnPeerDown(peer, why);
    } else if (rank_ > 0) {
      // The first rank may not listen yet.
      context_->SetTimer(context_->Now() + 50ms, [this] {
        if (collective_ == nullptr) {
          (void)context_->Connect(comm::kCoordinator,
                                  options_.coordinator_address);
          SendHello();
        }
      });
    }
  }
  void OnSendable(comm::EndpointId peer) override {
    if (collective_ != nullptr) {
      collective_->OnSendable(peer);
    }
  }

 private:
  void SetMember(int rank, comm::EndpointId id, std::string address) {
    group_.members[static_cast<size_t>(rank)] = {.endpoint = id,
                                                 .address = std::move(address),
                                                 .name = StrCat("rank ", rank),
                                                 .nodes = {}};
  }

  void SendHello() {
    comm::Message hello;
    hello.header.method = kHello;
    hello.header.reserved = static_cast<uint32_t>(rank_);
    hello.frames.push_back(Buffer::CopyOf(context_->address()));
    // If it is lost, OnPeerDown() says so, and it is sent again.
    (void)context_->Send(comm::kCoordinator, comm::Lane::kUrgent,
                         std::move(hello));
  }

  void OnHello(comm::EndpointId from, const comm::Message& message) {
    const auto rank = static_cast<int>(message.header.reserved);
    if (rank_ != 0 || rank < 1 || rank >= size_ || message.frames.empty() ||
        collective_ != nullptr) {
      return;
    }
    SetMember(rank, from, std::string(message.frames[0].text()));
    const bool all = std::all_of(
        group_.members.begin(), group_.members.end(),
        [](const comm::Group::Member& m) { return !m.address.empty(); });
    if (!all) {
      return;
    }
    comm::Message peers;
    peers.header.method = kPeers;
    for (const comm::Group::Member& member : group_.members) {
      peers.frames.push_back(
          Buffer::CopyOf(&member.endpoint.value, sizeof(uint64_t)));
      peers.frames.push_back(Buffer::CopyOf(member.address));
    }
    for (int r = 1; r < size_; ++r) {
      const Status sent =
          context_->Send(group_.members[static_cast<size_t>(r)].endpoint,
                         comm::Lane::kUrgent, peers);
      if (!sent.ok()) {
        context_->Stop(sent);
        return;
      }
    }
    Begin();
  }

  void OnPeers(const comm::Message& message) {
    if (collective_ != nullptr ||
        message.frames.size() != 2 * group_.members.size()) {
      return;
    }
    for (int r = 0; r < size_; ++r) {
      const auto id = message.frames[static_cast<size_t>(2 * r)].As<uint64_t>();
      if (id.size() != 1) {
        return;
      }
      SetMember(
          r, comm::EndpointId{id[0]},
          std::string(message.frames[static_cast<size_t>(2 * r + 1)].text()));
    }
    Begin();
  }

  void Begin() {
    comm::DealOneLeafEach(group_);
    using Algorithm = comm::AllReduceAlgorithm;
    auto made = comm::TransportCollective::Create(
        *context_, group_,
        {.timeout = kOperationWithin,
         .algorithm = options_.algorithm == "exchange"   ? Algorithm::kExchange
                      : options_.algorithm == "segments" ? Algorithm::kSegments
                                                         : Algorithm::kAuto});
    if (!made.ok()) {
      context_->Stop(made.status());
      return;
    }
    collective_ = *std::move(made);
    for (auto& [from, message] : early_) {
      collective_->OnMessage(from, message);
    }
    early_.clear();
    contenders_.push_back(
        {"shoal", [this](float* data, int64_t count, auto done) {
           const void* terms[] = {data};
           collective_->AllReduce(DType::kF32, terms, data, count,
                                  std::move(done));
         }});
    if (mpi_ != nullptr) {
      contenders_.push_back(
          {"mpi", [this](float* data, int64_t count, auto done) {
             // Blocks this rank: that is how MPI_Allreduce is used.
             context_->Post(
                 [done = std::move(done),
                  status = mpi_->AllReduceF32(data, count)] { done(status); });
           }});
    }
    if (rank_ == 0) {
      PrintHead();
    }
    bytes_ = options_.min_bytes;
    BeginSize();
  }

  // --- The measurement: sizes, rounds, contenders in turn, repeats ----------

  void BeginSize() {
    if (bytes_ > options_.max_bytes) {
      collective_->Barrier([this](const Status& why) { context_->Stop(why); });
      return;
    }
    count_ = bytes_ / 4;
    data_.resize(static_cast<size_t>(count_));
    // Short ones are repeated until the clock can tell.
    repeats_ = static_cast<int>(
        std::clamp<int64_t>((int64_t{4} << 20) / bytes_, 1, 200));
    times_.assign(contenders_.size(), {});
    round_ = -1;  // Warms up.
    contender_ = 0;
    BeginTurn();
  }

  void BeginTurn() {
    for (int64_t i = 0; i < count_; ++i) {
      data_[static_cast<size_t>(i)] = Term(rank_, i);
    }
    repeat_ = 0;
    collective_->Barrier([this](const Status& why) {
      if (!why.ok()) {
        context_->Stop(why);
        return;
      }
      turn_start_ = context_->Now();
      Repeat();
    });
  }

  void Repeat() {
    contenders_[contender_].start(
        data_.data(), count_, [this](const Status& why) {
          Status status = why;
          if (status.ok() && repeat_ == 0) {
            status = CheckSum();
          }
          if (!status.ok()) {
            context_->Stop(status.WithPrefix(contenders_[contender_].name));
            return;
          }
          ++repeat_ < repeats_ ? Repeat() : EndTurn();
        });
  }

  Status CheckSum() const {
    for (int64_t i = 0; i < count_; ++i) {
      float sum = 0;
      for (int r = 0; r < size_; ++r) {
        sum += Term(r, i);
      }
      if (data_[static_cast<size_t>(i)] != sum) {
        return InternalError(StrCat("element ", i, " is ",
                                    data_[static_cast<size_t>(i)],
                                    ", expected ", sum));
      }
    }
    return OkStatus();
  }

  void EndTurn() {
    if (round_ >= 0) {
      times_[contender_].push_back(ToSeconds(context_->Now() - turn_start_) /
                                   repeats_);
    }
    if (++contender_ == contenders_.size()) {
      contender_ = 0;
      ++round_;
    }
    if (round_ < options_.rounds) {
      BeginTurn();
      return;
    }
    if (rank_ == 0) {
      PrintSize();
    }
    bytes_ *= 4;
    BeginSize();
  }

  void PrintHead() const {
    std::printf(
        "allreduce of f32, %d ranks, transport %s, algorithm %s, %d rounds; "
        "microseconds: median (min to max)\n",
        size_, options_.transport.c_str(), options_.algorithm.c_str(),
        options_.rounds);
    std::printf("%12s  %28s  %8s", "bytes", "shoal", "GB/s");
    if (mpi_ != nullptr) {
      std::printf("  %28s  %s", "MPI_Allreduce", "mpi / shoal");
    }
    std::printf("\n");
  }

  void PrintSize() const {
    const auto cell = [](const Spread& s) {
      char text[64];
      std::snprintf(text, sizeof(text), "%.0f (%.0f to %.0f)", s.median * 1e6,
                    s.min * 1e6, s.max * 1e6);
      return std::string(text);
    };
    const Spread own = SpreadOf(times_[0]);
    std::printf("%12lld  %28s  %8.2f", static_cast<long long>(bytes_),
                cell(own).c_str(),
                static_cast<double>(bytes_) / own.median / 1e9);
    if (mpi_ != nullptr) {
      std::vector<double> ratios;
      for (size_t r = 0; r < times_[0].size(); ++r) {
        ratios.push_back(times_[1][r] / times_[0][r]);
      }
      std::printf("  %28s  %.2f", cell(SpreadOf(times_[1])).c_str(),
                  SpreadOf(ratios).median);
    }
    std::printf("\n");
    std::fflush(stdout);
  }

  const AllReduceBenchOptions options_;
  const int rank_;
  const int size_;
  comm::MpiWorld* const mpi_;  // null: not under mpirun
  comm::NodeContext* context_ = nullptr;
  comm::Group group_;
  std::unique_ptr<comm::TransportCollective> collective_;
  std::vector<std::pair<comm::EndpointId, comm::Message>> early_;

  std::vector<Contender> contenders_;
  int64_t bytes_ = 0;
  int64_t count_ = 0;
  std::vector<float> data_;
  int repeats_ = 1;
  int round_ = 0;  // -1: the first, which does not count
  size_t contender_ = 0;
  int repeat_ = 0;
  Time turn_start_;
  std::vector<std::vector<double>> times_;  // seconds; contender, round
};

StatusOr<std::unique_ptr<comm::Pump>> MakePump(
    const AllReduceBenchOptions& options, int rank, bool one_host) {
  comm::Pump::Options pump;
  pump.transport = options.transport;
  if (rank > 0) {
    pump.endpoint.self = comm::EndpointId{EntropySeed()};
    SHOAL_ASSIGN_OR_RETURN(pump.endpoint.listen,
                           comm::ListenFacing(options.coordinator_address));
  } else {
    pump.endpoint.self = comm::kCoordinator;
    if (options.transport != "shm") {
      SHOAL_ASSIGN_OR_RETURN(pump.endpoint.listen,
                             comm::ListenAt(one_host ? "127.0.0.1" : "", 0));
    }
  }
  return comm::Pump::Create(pump);
}

Status RunRanksOfMpi(AllReduceBenchOptions options) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<comm::MpiWorld> world,
                         comm::MpiWorld::Create(comm::MpiWorld::Threads::kOne));
  const int rank = world->rank();
  std::unique_ptr<comm::Pump> pump;
  if (rank == 0) {
    SHOAL_ASSIGN_OR_RETURN(pump, MakePump(options, 0, world->one_host()));
    SHOAL_RETURN_IF_ERROR(
        world->BroadcastFromFirst(pump->address(), kMeetWithin).status());
  } else {
    SHOAL_ASSIGN_OR_RETURN(options.coordinator_address,
                           world->BroadcastFromFirst("", kMeetWithin));
    SHOAL_ASSIGN_OR_RETURN(pump, MakePump(options, rank, world->one_host()));
  }
  BenchNode node(options, rank, world->size(), world.get());
  SHOAL_RETURN_IF_ERROR(pump->Run(node));
  return world->Finalize();
}

Status RunOneRank(const AllReduceBenchOptions& options) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<comm::Pump> pump,
                         MakePump(options, options.rank, true));
  BenchNode node(options, options.rank, options.ranks, nullptr);
  return pump->Run(node);
}

// The first rank is this process, the others are its children.
Status RunProcesses(const AllReduceBenchOptions& options) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<comm::Pump> pump,
                         MakePump(options, 0, true));
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Supervisor> supervisor,
                         Supervisor::Create({.on_signal = [&pump](int signal) {
                           pump->Interrupt(StoppedBy(signal));
                         }}));
  SHOAL_ASSIGN_OR_RETURN(const std::string program, OwnProgramPath());
  for (int rank = 1; rank < options.ranks; ++rank) {
    const std::vector<std::string> argv = {program,
                                           "bench",
                                           "allreduce",
                                           "--rank",
                                           StrCat(rank),
                                           "--ranks",
                                           StrCat(options.ranks),
                                           "--coordinator",
                                           pump->address(),
                                           "--transport",
                                           options.transport,
                                           "--algorithm",
                                           options.algorithm,
                                           "--min-bytes",
                                           StrCat(options.min_bytes),
                                           "--max-bytes",
                                           StrCat(options.max_bytes),
                                           "--rounds",
                                           StrCat(options.rounds)};
    SHOAL_RETURN_IF_ERROR(
        supervisor->Spawn(StrCat("rank ", rank), argv).status());
  }
  BenchNode node(options, 0, options.ranks, nullptr);
  Status status;
  std::atomic<bool> done = false;
  std::thread first([&] {
    status = pump->Run(node);
    done = true;
  });
  while (!done) {
    const std::optional<ChildExit> exit = supervisor->Wait(50ms);
    if (exit.has_value() && !exit->ok()) {
      pump->Interrupt(UnavailableError(exit->ToString()));
    }
  }
  first.join();
  supervisor->StopAll(2s);
  return status;
}

}  // namespace

Status RunAllReduceBench(const AllReduceBenchOptions& options) {
  if (options.min_bytes < 4 || options.max_bytes < options.min_bytes) {
    return InvalidArgumentError(
        StrCat("bench allreduce: sizes from ", options.min_bytes, " to ",
               options.max_bytes, " bytes; expected 4 or more, rising"));
  }
  if (options.rank >= 0) {
    return RunOneRank(options);
  }
  return comm::MpiWorld::Present() ? RunRanksOfMpi(options)
                                   : RunProcesses(options);
}

}  // namespace shoal::launch
