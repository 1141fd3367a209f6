#include "launch/allreduce_bench.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/plugin.h"
#include "base/random.h"
#include "base/storage.h"
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
// Everything to everyone is hopeless beyond.
constexpr int64_t kExchangeBytesMax = int64_t{4} << 20;

// One measured system: starts one operation on `data`; `done` when it is over.
struct Contender {
  std::string name;
  // Of Shoal's, when all are tuned.
  comm::AllReduceAlgorithm algorithm = comm::AllReduceAlgorithm::kAuto;
  int64_t bytes_max = std::numeric_limits<int64_t>::max();
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
    for (comm::Group::Member& member : group_.members) {
      member.host = comm::HostOf(member.address);
    }
    auto made = comm::TransportCollective::Create(
        *context_, group_,
        {.timeout = kOperationWithin,
         .algorithm = *comm::ParseAllReduceAlgorithm(options_.algorithm),
         .look = options_.look});
    if (!made.ok()) {
      context_->Stop(made.status());
      return;
    }
    collective_ = *std::move(made);
    for (auto& [from, message] : early_) {
      collective_->OnMessage(from, message);
    }
    early_.clear();
    // After this all know whether they may read each other's memory.
    collective_->Barrier([this](const Status& why) {
      if (!why.ok()) {
        context_->Stop(why);
        return;
      }
      AddContenders();
      if (rank_ == 0) {
        PrintHead();
      }
      bytes_ = options_.min_bytes;
      BeginSize();
    });
  }

  void AddContenders() {
    using Algorithm = comm::AllReduceAlgorithm;
    const auto own = [this](float* data, int64_t count, auto done) {
      const void* terms[] = {data};
      collective_->AllReduce(DType::kF32, terms, data, count, std::move(done));
    };
    if (!options_.tune) {
      contenders_.push_back({.name = "shoal", .start = own});
    }
    for (const Algorithm algorithm :
         {Algorithm::kExchange, Algorithm::kSegments, Algorithm::kHalving,
          Algorithm::kRead, Algorithm::kHierarchical}) {
      collective_->SetAlgorithm(algorithm);
      // One that the ranks do not allow gives way to another.
      if (options_.tune && collective_->Choose(0) == algorithm) {
        contenders_.push_back({.name = std::string(comm::Name(algorithm)),
                               .algorithm = algorithm,
                               .bytes_max = algorithm == Algorithm::kExchange
                                                ? kExchangeBytesMax
                                                : options_.max_bytes,
                               .start = own});
      }
    }
    collective_->SetAlgorithm(
        *comm::ParseAllReduceAlgorithm(options_.algorithm));
    if (mpi_ != nullptr && !options_.tune) {
      contenders_.push_back(
          {.name = "MPI_Allreduce",
           .start = [this](float* data, int64_t count, auto done) {
             // Blocks this rank: that is how MPI_Allreduce is used.
             context_->Post(
                 [done = std::move(done),
                  status = mpi_->AllReduceF32(data, count)] { done(status); });
           }});
    }
  }

  // --- The measurement: sizes, rounds, contenders in turn, repeats ----------

  void BeginSize() {
    if (bytes_ > options_.max_bytes) {
      collective_->Barrier([this](const Status& why) {
        context_->Stop(why.ok() && rank_ == 0 && options_.tune ? KeepSwitches()
                                                               : why);
      });
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
    while (bytes_ > contenders_[contender_].bytes_max) {
      ++contender_;
    }
    BeginTurn();
  }

  // One whose sum is checked, then, of short vectors, many that are timed.
  void BeginTurn() {
    if (options_.tune) {
      collective_->SetAlgorithm(contenders_[contender_].algorithm);
    }
    for (int64_t i = 0; i < count_; ++i) {
      data_[static_cast<size_t>(i)] = Term(rank_, i);
    }
    TimeOf(1, [this] {
      if (const Status sum = CheckSum(); !sum.ok()) {
        context_->Stop(sum.WithPrefix(contenders_[contender_].name));
        return;
      }
      repeats_ == 1 ? EndTurn() : TimeOf(repeats_, [this] { EndTurn(); });
    });
  }

  // Leaves the time of all in turn_time_; all ranks begin together.
  void TimeOf(int repeats, std::function<void()> done) {
    collective_->Barrier(
        [this, repeats, done = std::move(done)](const Status& why) {
          if (!why.ok()) {
            context_->Stop(why);
            return;
          }
          turn_start_ = context_->Now();
          Repeat(repeats, done);
        });
  }

  void Repeat(int repeats, const std::function<void()>& done) {
    contenders_[contender_].start(
        data_.data(), count_, [this, repeats, done](const Status& why) {
          if (!why.ok()) {
            context_->Stop(why.WithPrefix(contenders_[contender_].name));
          } else if (repeats > 1) {
            Repeat(repeats - 1, done);
          } else {
            turn_time_ = context_->Now() - turn_start_;
            done();
          }
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
      times_[contender_].push_back(ToSeconds(turn_time_) / repeats_);
    }
    do {
      if (++contender_ == contenders_.size()) {
        contender_ = 0;
        ++round_;
      }
    } while (bytes_ > contenders_[contender_].bytes_max);
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
        "shoal looks for messages for %lld us, then sleeps; microseconds: "
        "median (min to max)\n%12s",
        size_, options_.transport.c_str(),
        options_.tune ? "each" : options_.algorithm.c_str(), options_.rounds,
        static_cast<long long>(options_.look.count() / 1000), "bytes");
    for (const Contender& contender : contenders_) {
      std::printf("  %28s", contender.name.c_str());
    }
    std::printf("  %s\n", options_.tune     ? "fastest"
                          : mpi_ == nullptr ? "algorithm"
                                            : "algorithm  mpi / shoal");
  }

  void PrintSize() {
    std::printf("%12lld", static_cast<long long>(bytes_));
    for (const std::vector<double>& times : times_) {
      char text[64] = "-";
      if (!times.empty()) {
        const Spread s = SpreadOf(times);
        std::snprintf(text, sizeof(text), "%.0f (%.0f to %.0f)", s.median * 1e6,
                      s.min * 1e6, s.max * 1e6);
      }
      std::printf("  %28s", text);
    }
    if (options_.tune) {
      std::printf("  %s\n", std::string(Name(FastestOfSize())).c_str());
    } else {
      std::printf("  %-9s",
                  std::string(Name(collective_->Choose(bytes_))).c_str());
      std::vector<double> ratios;
      for (size_t r = 0; mpi_ != nullptr && r < times_[0].size(); ++r) {
        ratios.push_back(times_[1][r] / times_[0][r]);
      }
      std::printf(ratios.empty() ? "\n" : "  %.2f\n",
                  ratios.empty() ? 0 : SpreadOf(ratios).median);
    }
    std::fflush(stdout);
  }

  // The one to take at this size; one that is hardly better than that of the
  // sizes below is noise.
  comm::AllReduceAlgorithm FastestOfSize() {
    constexpr double kBetter = 0.95;
    size_t best = times_.size();
    for (size_t c = 0; c < times_.size(); ++c) {
      if (!times_[c].empty() &&
          (best == times_.size() ||
           SpreadOf(times_[c]).median < SpreadOf(times_[best]).median)) {
        best = c;
      }
    }
    for (size_t c = 0; c < times_.size() && !switches_.empty(); ++c) {
      if (contenders_[c].algorithm == switches_.back().algorithm &&
          !times_[c].empty() &&
          SpreadOf(times_[best]).median >
              kBetter * SpreadOf(times_[c]).median) {
        return switches_.back().algorithm;
      }
    }
    // Half way (of the factor 4) from the size below.
    switches_.push_back(
        {switches_.empty() ? 0 : bytes_ / 2, contenders_[best].algorithm});
    return contenders_[best].algorithm;
  }

  Status KeepSwitches() const {
    std::string list;
    for (const std::string& entry : comm::FormatSwitches(switches_)) {
      list += StrCat(list.empty() ? "" : ", ", entry);
    }
    const std::string text =
        StrCat("# Measured by `shoal bench allreduce --tune`: ", size_,
               " ranks, transport ", options_.transport,
               ".\n# For job files: from so many bytes on, this algorithm.\n"
               "cluster:\n  allreduce: [",
               list, "]\n");
    std::printf("\n%s", text.c_str());
    if (options_.tune_file.empty()) {
      return OkStatus();
    }
    const Buffer pieces[] = {Buffer::CopyOf(text)};
    return CreateLocalStorage()->PublishFile(options_.tune_file, pieces);
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
  Time turn_start_;
  Duration turn_time_{};
  std::vector<std::vector<double>> times_;       // seconds; contender, round
  std::vector<comm::AllReduceSwitch> switches_;  // of the sizes so far
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
    std::vector<std::string> argv = {program,
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
                                     "--look-us",
                                     StrCat(options.look.count() / 1000),
                                     "--rounds",
                                     StrCat(options.rounds)};
    if (options.tune) {
      argv.emplace_back("--tune");
    }
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
  if (!options.tune && !options.tune_file.empty()) {
    return InvalidArgumentError(
        "bench allreduce: --tune-file is written by --tune alone");
  }
  if (options.rank >= 0) {
    return RunOneRank(options);
  }
  return comm::MpiWorld::Present() ? RunRanksOfMpi(options)
                                   : RunProcesses(options);
}

}  // namespace shoal::launch
