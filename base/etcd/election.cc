#include "base/etcd/election.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/strcat.h"

namespace shoal {
namespace {

// Renewals in the time of a lease.
constexpr int kRenewals = 3;

}  // namespace

EtcdElection::~EtcdElection() { Resign(); }

StatusOr<std::optional<EtcdElection::Leader>> EtcdElection::Look() {
  SHOAL_ASSIGN_OR_RETURN(std::optional<EtcdEntry> entry, client_.Get(key_));
  if (!entry.has_value()) {
    return std::optional<Leader>();
  }
  return std::optional<Leader>(
      Leader{.epoch = entry->create_revision, .card = std::move(entry->value)});
}

StatusOr<bool> EtcdElection::Try(const std::string& card,
                                 std::span<const EtcdClient::Condition> only_if,
                                 std::span<const EtcdClient::Change> with) {
  const Time asked = clock_.Now();
  SHOAL_ASSIGN_OR_RETURN(lease_, client_.Grant(ttl_));
  std::vector<EtcdClient::Change> changes(with.begin(), with.end());
  changes.push_back({.key = key_, .value = card, .lease = lease_.id});
  std::vector<EtcdClient::Condition> conditions(only_if.begin(), only_if.end());
  conditions.push_back({.key = key_, .create_revision = 0});
  const StatusOr<int64_t> revision = client_.ChangeIf(conditions, changes);
  if (!revision.ok() || *revision == 0) {
    // Perhaps it was made all the same; without the lease it goes.
    (void)client_.Revoke(lease_.id);
    SHOAL_RETURN_IF_ERROR(revision.status());
    return false;
  }
  epoch_ = *revision;
  {
    const MutexLock lock(mutex_);
    surely_until_ = asked + lease_.ttl;
  }
  thread_ = std::thread([this] { Renew(); });
  return true;
}

Status EtcdElection::Tell(const std::string& card) {
  const EtcdClient::Change change{
      .key = key_, .value = card, .lease = lease_.id};
  return Change({&change, 1});
}

Status EtcdElection::Change(std::span<const EtcdClient::Change> changes) {
  SHOAL_RETURN_IF_ERROR(lost());
  const EtcdClient::Condition leads{.key = key_, .create_revision = epoch_};
  const StatusOr<int64_t> revision = client_.ChangeIf({&leads, 1}, changes);
  if (revision.status().code() == StatusCode::kNotFound) {
    Lose("its lease has run out");
  } else if (revision.ok() && *revision == 0) {
    Lose("it is another's, or nobody's");
  } else {
    return revision.status();
  }
  return lost();
}

bool EtcdElection::Leads() const {
  const MutexLock lock(mutex_);
  return lost_.ok() && clock_.Now() < surely_until_;
}

Status EtcdElection::lost() const {
  const MutexLock lock(mutex_);
  return lost_;
}

void EtcdElection::Lose(const std::string& why) {
  const MutexLock lock(mutex_);
  if (lost_.ok()) {
    lost_ = AbortedError(StrCat("leads no more: ", key_, ": ", why));
  }
}

void EtcdElection::Renew() {
  const Duration every = lease_.ttl / kRenewals;
  bool reached = true;
  while (true) {
    {
      const MutexLock lock(mutex_);
      // Who can't reach etcd tries more often: the lease may still live.
      const Time next = clock_.Now() + (reached ? every : every / 4);
      while (!resigned_ && clock_.Now() < next) {
        resigning_.WaitFor(mutex_, next - clock_.Now());
      }
      if (resigned_ || !lost_.ok()) {
        return;
      }
    }
    const Time asked = clock_.Now();
    const StatusOr<Duration> left = client_.KeepAlive(lease_.id);
    if (left.ok() && *left == Duration::zero()) {
      Lose("its lease has run out");
      return;
    }
    if (left.ok()) {
      const MutexLock lock(mutex_);
      surely_until_ = asked + *left;
    } else if (reached && left.status().code() != StatusCode::kCancelled) {
      LogWarning("the lease on ", key_,
                 " is not renewed: ", left.status().message());
    }
    reached = left.ok();
  }
}

void EtcdElection::Resign() {
  if (!thread_.joinable()) {
    return;
  }
  {
    const MutexLock lock(mutex_);
    resigned_ = true;
    surely_until_ = Time();
  }
  resigning_.NotifyAll();
  thread_.join();
  if (lost().ok()) {
    Lose("it has resigned");
    (void)client_.Revoke(lease_.id);  // Else it runs out.
  }
}

}  // namespace shoal
