#include "launch/coordinator_seat.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <span>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/random.h"
#include "base/strcat.h"
#include "launch/supervisor.h"

namespace shoal::launch {
namespace {

using Json = nlohmann::json;

// Between two looks of one that stands by.
constexpr Duration kLookPause = std::chrono::milliseconds(200);

// Before etcd is asked again that could not be reached.
constexpr Duration kRetryPause = std::chrono::milliseconds(100);

// etcd has all versions of a key until somebody compacts it, which is its
// owner's to do: a job that writes this much fills the 2 GiB that it takes by
// default in three weeks.
constexpr int64_t kStateBytesPerSecond = 1024;

// etcd grants no shorter leases than 2 s. Members wait for `timeout`: what the
// lease leaves of it is for the next one to read the data and find them.
Duration LeaseFor(Duration timeout) {
  return std::clamp<Duration>(timeout / 6, std::chrono::seconds(2),
                              std::chrono::seconds(5));
}

// How a training ended, for those that stood by.
struct JobEnd {
  Status status;
  int64_t epoch = 0;
  std::string run;
};

std::string ToJson(const JobEnd& end) {
  return Json{{"code", static_cast<int>(end.status.code())},
              {"text", end.status.ok() ? "" : end.status.message()},
              {"epoch", end.epoch},
              {"run", end.run}}
      .dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

StatusOr<JobEnd> EndFromJson(const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("code") || !json.contains("text") ||
      !json.contains("epoch") || !json.contains("run") ||
      !json["code"].is_number_integer() || !json["text"].is_string() ||
      !json["epoch"].is_number_integer() || !json["run"].is_string()) {
    return DataLossError(
        "says not how a job ended; something else has written it");
  }
  const auto code = json["code"].get<int64_t>();
  const bool known =
      code >= 0 && code <= static_cast<int64_t>(StatusCode::kDataLoss);
  JobEnd end{.epoch = json["epoch"].get<int64_t>(),
             .run = json["run"].get<std::string>()};
  if (code != 0) {
    end.status = Status(
        known ? static_cast<StatusCode>(code) : StatusCode::kInternal,
        StrCat("the job was called off: ", json["text"].get<std::string>()));
  }
  return end;
}

// Calls `ask` again while etcd can't be reached, for `within`.
template <typename Ask>
auto Persist(Duration within, Ask ask) {
  const SystemClock clock;
  const Time end = clock.Now() + within;
  while (true) {
    auto answer = ask();
    Status status;
    if constexpr (std::is_same_v<decltype(answer), Status>) {
      status = answer;
    } else {
      status = answer.status();
    }
    if (status.code() != StatusCode::kUnavailable || clock.Now() >= end) {
      return answer;
    }
    std::this_thread::sleep_for(kRetryPause);
  }
}

}  // namespace

class CoordinatorSeat::State : public ps::StateStore {
 public:
  explicit State(CoordinatorSeat& seat)
      : seat_(seat),
        name_(StrCat(seat.options_.etcd.HostsText(), ", key ",
                     seat.keys_.state)) {}

  const std::string& name() const override { return name_; }
  uint64_t epoch() const override {
    return static_cast<uint64_t>(seat_.election_.epoch());
  }
  bool leads() const override { return seat_.election_.Leads(); }
  Duration pause(int64_t state_bytes) const override {
    return std::chrono::seconds(1 + state_bytes / kStateBytesPerSecond);
  }

  StatusOr<Buffer> Read(Storage& /*storage*/) override {
    SHOAL_ASSIGN_OR_RETURN(const std::optional<EtcdEntry> entry,
                           Persist(seat_.options_.timeout, [this] {
                             return seat_.client_.Get(seat_.keys_.state);
                           }));
    if (!entry.has_value()) {
      return NotFoundError(name_);
    }
    return Buffer::CopyOf(entry->value);
  }

  Status Write(Storage& /*storage*/, const Buffer& state) override {
    const EtcdClient::Change change{.key = seat_.keys_.state,
                                    .value = std::string(state.text())};
    return Change({&change, 1}).WithPrefix(name_);
  }

  Status Remove(Storage& /*storage*/, const Status& why) override {
    const EtcdClient::Change changes[] = {
        {.key = seat_.keys_.state, .value = std::nullopt},
        {.key = seat_.keys_.end,
         .value = ToJson({.status = why,
                          .epoch = seat_.election_.epoch(),
                          .run = seat_.options_.run})}};
    return Change(changes).WithPrefix(name_);
  }

 private:
  Status Change(std::span<const EtcdClient::Change> changes) {
    return Persist(seat_.options_.timeout,
                   [&] { return seat_.election_.Change(changes); });
  }

  CoordinatorSeat& seat_;
  const std::string name_;
};

struct OwnFiles {
  const std::unique_ptr<Storage> own = shoal::CreateStorage();
};

class CoordinatorSeat::Files : private OwnFiles, public ps::FencedStorage {
 public:
  explicit Files(CoordinatorSeat& seat)
      : FencedStorage(*own,
                      [this, &seat] { return seat.LeadsWithin(cancelled_); }) {}

  void Cancel() override {
    cancelled_ = true;
    FencedStorage::Cancel();
  }

 private:
  std::atomic<bool> cancelled_ = false;
};

CoordinatorSeat::CoordinatorSeat(Options options, EtcdClient::Options client)
    : options_(std::move(options)),
      keys_(options_.etcd.name),
      client_options_(std::move(client)),
      client_(client_options_),
      election_(client_, keys_.leader, LeaseFor(options_.timeout)),
      state_(std::make_shared<State>(*this)) {
  char host[256] = "";
  (void)gethostname(host, sizeof(host) - 1);
  card_.host = host;
  card_.pid = getpid();
  card_.job = options_.job;
  // Members tell coordinators that follow one another apart by it.
  while (card_.endpoint.value <= comm::kCoordinator.value) {
    card_.endpoint.value = EntropySeed();
  }
}

CoordinatorSeat::~CoordinatorSeat() = default;

StatusOr<std::unique_ptr<CoordinatorSeat>> CoordinatorSeat::Take(
    Options options) {
  SHOAL_ASSIGN_OR_RETURN(EtcdClient::Options client,
                         EtcdClient::OptionsFor(options.etcd));
  auto seat = std::unique_ptr<CoordinatorSeat>(
      new CoordinatorSeat(std::move(options), std::move(client)));
  SHOAL_ASSIGN_OR_RETURN(const bool leads, seat->StandBy());
  if (!leads) {
    return std::unique_ptr<CoordinatorSeat>();
  }
  return seat;
}

// Gives false when there is nothing left to lead.
StatusOr<bool> CoordinatorSeat::StandBy() {
  Status stopped;
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Supervisor> supervisor,
                         Supervisor::Create({.on_signal = [&](int signal) {
                           stopped = StoppedBy(signal);
                         }}));
  Time give_up = clock_.Now() + options_.timeout;
  bool reached = true;
  while (stopped.ok()) {
    const StatusOr<bool> leads = Step();
    if (over_.has_value()) {
      SHOAL_RETURN_IF_ERROR(*over_);
      return false;
    }
    if (leads.ok() && *leads) {
      return true;
    }
    if (leads.ok()) {
      give_up = clock_.Now() + options_.timeout;
    } else if (leads.status().code() != StatusCode::kUnavailable ||
               clock_.Now() >= give_up) {
      return leads;
    } else if (reached) {
      LogWarning(leads.status().message(), "; trying again for up to ",
                 ToString(options_.timeout));
    }
    reached = leads.ok();
    supervisor->Wait(kLookPause);  // There are no children, but signals.
  }
  return stopped;
}

StatusOr<bool> CoordinatorSeat::Step() {
  SHOAL_ASSIGN_OR_RETURN(const std::optional<EtcdElection::Leader> leader,
                         election_.Look());
  if (leader.has_value()) {
    if (leader->epoch != behind_) {
      SHOAL_ASSIGN_OR_RETURN(const CoordinatorCard card,
                             CoordinatorCard::FromJson(leader->card));
      if (card.job != options_.job) {
        return FailedPreconditionError(
            StrCat(options_.etcd.HostsText(), ", key ", keys_.leader,
                   ": another job of the name '", options_.etcd.name,
                   "' is led there by ", card.Name(),
                   "; give one of them another name"));
      }
      SHOAL_RETURN_IF_ERROR(TellThatItStandsBy(*leader, card));
    }
    return false;
  }
  EtcdClient::Condition end{.key = keys_.end};
  SHOAL_ASSIGN_OR_RETURN(end.create_revision, LookForEnd());
  if (over_.has_value()) {
    return false;
  }
  // Not one that is written while this one sleeps: the job would begin anew.
  const EtcdClient::Change forget{.key = keys_.end, .value = std::nullopt};
  SHOAL_ASSIGN_OR_RETURN(
      const bool leads, election_.Try(card_.ToJson(), {&end, 1}, {&forget, 1}));
  if (leads && options_.board != nullptr) {
    options_.board->SetStandby(false);
  }
  return leads;
}

Status CoordinatorSeat::TellThatItStandsBy(const EtcdElection::Leader& leader,
                                           const CoordinatorCard& card) {
  const bool first = behind_ == 0;
  behind_ = leader.epoch;
  std::fprintf(stderr, "coordinator: stands by for %s\n", card.Name().c_str());
  if (options_.board != nullptr) {
    options_.board->SetStandby(true);
  }
  return first && options_.stands_by ? options_.stands_by() : OkStatus();
}

// While this one stood by, or this very run: what another one left may be of
// any time before.
StatusOr<int64_t> CoordinatorSeat::LookForEnd() {
  SHOAL_ASSIGN_OR_RETURN(const std::optional<EtcdEntry> entry,
                         client_.Get(keys_.end));
  if (!entry.has_value()) {
    return 0;
  }
  const StatusOr<JobEnd> end = EndFromJson(entry->value);
  if (!end.ok()) {
    return end.status().WithPrefix(keys_.end);
  }
  const bool while_standing_by = behind_ > 0 && end->epoch >= behind_;
  const bool same_run =
      end->status.ok() && !options_.run.empty() && end->run == options_.run;
  if (while_standing_by || same_run) {
    over_ = end->status;
  }
  return entry->create_revision;
}

StatusOr<bool> CoordinatorSeat::GoesOn() {
  SHOAL_ASSIGN_OR_RETURN(
      const std::optional<EtcdEntry> entry,
      Persist(options_.timeout, [this] { return client_.Get(keys_.state); }));
  return entry.has_value();
}

Status CoordinatorSeat::Publish(const std::string& transport,
                                const std::string& address) {
  card_.transport = transport;
  card_.address = address;
  return Persist(options_.timeout,
                 [this] { return election_.Tell(card_.ToJson()); });
}

std::shared_ptr<ps::StateStore> CoordinatorSeat::state() const {
  return state_;
}

std::unique_ptr<Storage> CoordinatorSeat::CreateStorage() {
  return std::make_unique<Files>(*this);
}

// Who can't reach etcd for a moment mostly leads on.
bool CoordinatorSeat::LeadsWithin(const std::atomic<bool>& cancelled) const {
  const Time end = clock_.Now() + options_.timeout;
  while (!election_.Leads()) {
    if (cancelled || !election_.lost().ok() || clock_.Now() >= end) {
      return false;
    }
    std::this_thread::sleep_for(kRetryPause);
  }
  return true;
}

Status CoordinatorSeat::Lost() {
  const Status lost = election_.lost();
  if (lost.ok()) {
    return lost;
  }
  EtcdClient client(client_options_);  // Not given up.
  const StatusOr<FoundCoordinator> found =
      LookForCoordinator(client, options_.etcd.name);
  return AbortedError(StrCat(lost.message(), "; ",
                             found.ok() ? StrCat(found->card.Name(), " leads")
                                        : found.status().message()));
}

void CoordinatorSeat::GiveUp() { client_.Cancel(); }

}  // namespace shoal::launch
