#include "tests/simulation/simulated_etcd.h"

#include "base/strcat.h"

namespace shoal::simulation {

class SimulatedEtcd::Store : public ps::StateStore {
 public:
  Store(SimulatedEtcd& etcd, std::string who)
      : etcd_(etcd), who_(std::move(who)), epoch_(etcd.epoch_) {}

  const std::string& name() const override { return name_; }
  uint64_t epoch() const override { return epoch_; }
  bool leads() const override {
    return etcd_.believes || (epoch_ == etcd_.epoch_ && etcd_.Leads(who_));
  }
  StatusOr<Buffer> Read(Storage& /*storage*/) override {
    if (!etcd_.state_.has_value()) {
      return NotFoundError("no state");
    }
    return *etcd_.state_;
  }
  Status Write(Storage& /*storage*/, const Buffer& state) override {
    SHOAL_RETURN_IF_ERROR(Check());
    etcd_.state_ = state;
    return OkStatus();
  }
  Status Remove(Storage& /*storage*/, const Status& why) override {
    SHOAL_RETURN_IF_ERROR(Check());
    etcd_.state_.reset();
    etcd_.end_ = why;
    return OkStatus();
  }

 private:
  // The condition of every change: the leader's key is still this one's.
  Status Check() const {
    return epoch_ == etcd_.epoch_ && etcd_.leader_ == who_
               ? OkStatus()
               : AbortedError(StrCat(who_, " leads no more"));
  }

  SimulatedEtcd& etcd_;
  const std::string who_;
  const uint64_t epoch_;
  const std::string name_ = "etcd";
};

bool SimulatedEtcd::Try(const std::string& who) {
  if (world_.Now() < lease_until_ || world_.Now() < CutOffUntil(who)) {
    return false;
  }
  ++epoch_;
  leader_ = who;
  lease_until_ = world_.Now() + kLease;
  place_.reset();
  return true;
}

void SimulatedEtcd::Renew(const std::string& who) {
  if (leader_ == who && world_.Now() >= CutOffUntil(who) &&
      world_.Now() < lease_until_) {
    lease_until_ = world_.Now() + kLease;
  }
}

void SimulatedEtcd::Resign(const std::string& who) {
  if (leader_ == who && world_.Now() >= CutOffUntil(who)) {
    lease_until_ = world_.Now();
  }
}

void SimulatedEtcd::Publish(const std::string& who,
                            const ps::CoordinatorPlace& place) {
  if (leader_ == who) {
    place_ = place;
    place_->epoch = epoch_;
  }
}

void SimulatedEtcd::CutOff(const std::string& who, Duration length) {
  cut_off_[who] = world_.Now() + length;
}

Time SimulatedEtcd::CutOffUntil(const std::string& who) const {
  const auto at = cut_off_.find(who);
  return at == cut_off_.end() ? Time() : at->second;
}

bool SimulatedEtcd::Leads(const std::string& who) const {
  return leader_ == who && world_.Now() < lease_until_;
}

bool SimulatedEtcd::HasLost(const std::string& who) const {
  return world_.Now() >= CutOffUntil(who) && !Leads(who);
}

std::shared_ptr<ps::StateStore> SimulatedEtcd::StoreOf(const std::string& who) {
  return std::make_shared<Store>(*this, who);
}

StatusOr<ps::CoordinatorPlace> SimulatedEtcd::Find() const {
  if (!place_.has_value() || world_.Now() >= lease_until_) {
    return NotFoundError("nobody leads the job");
  }
  return *place_;
}

}  // namespace shoal::simulation
