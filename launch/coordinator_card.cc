#include "launch/coordinator_card.h"

#include <optional>
#include <thread>

#include <nlohmann/json.hpp>

#include "base/strcat.h"

namespace shoal::launch {
namespace {

using Json = nlohmann::json;

constexpr Duration kLookPause = std::chrono::milliseconds(200);

}  // namespace

EtcdJobKeys::EtcdJobKeys(const std::string& name)
    : leader(StrCat("/shoal/", name, "/leader")),
      state(StrCat("/shoal/", name, "/state")),
      end(StrCat("/shoal/", name, "/end")) {}

std::string CoordinatorCard::ToJson() const {
  return Json{{"endpoint", endpoint.value},
              {"transport", transport},
              {"address", address},
              {"host", host},
              {"pid", pid},
              {"job", job}}
      .dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

StatusOr<CoordinatorCard> CoordinatorCard::FromJson(const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto has = [&json](const char* key, auto is) {
    return json.is_object() && json.contains(key) && (json.at(key).*is)();
  };
  for (const char* key : {"endpoint", "pid", "job"}) {
    if (!has(key, &Json::is_number_integer)) {
      return DataLossError(StrCat("the leader's key has no number '", key,
                                  "'; something else has written it"));
    }
  }
  for (const char* key : {"transport", "address", "host"}) {
    if (!has(key, &Json::is_string)) {
      return DataLossError(StrCat("the leader's key has no text '", key,
                                  "'; something else has written it"));
    }
  }
  return CoordinatorCard{
      .endpoint = comm::EndpointId{json["endpoint"].get<uint64_t>()},
      .transport = json["transport"].get<std::string>(),
      .address = json["address"].get<std::string>(),
      .host = json["host"].get<std::string>(),
      .pid = json["pid"].get<int64_t>(),
      .job = json["job"].get<uint64_t>()};
}

std::string CoordinatorCard::Name() const {
  const size_t tcp = address.find("tcp://");  // the part for people
  return StrCat(
      "the coordinator ",
      address.empty()
          ? "that prepares its data"
          : StrCat("at ", address.substr(tcp == std::string::npos ? 0 : tcp)),
      " (host ", host, ", pid ", pid, ")");
}

StatusOr<FoundCoordinator> LookForCoordinator(EtcdClient& client,
                                              const std::string& name) {
  const EtcdJobKeys keys(name);
  SHOAL_ASSIGN_OR_RETURN(const std::optional<EtcdEntry> entry,
                         client.Get(keys.leader));
  if (!entry.has_value()) {
    return UnavailableError(
        StrCat("no coordinator leads the job '", name, "' now"));
  }
  StatusOr<CoordinatorCard> card = CoordinatorCard::FromJson(entry->value);
  if (!card.ok()) {
    return card.status().WithPrefix(keys.leader);
  }
  if (card->address.empty()) {
    return UnavailableError(StrCat(card->Name(), " takes no calls yet"));
  }
  return FoundCoordinator{
      .card = *std::move(card),
      .epoch = static_cast<uint64_t>(entry->create_revision)};
}

StatusOr<FoundCoordinator> AwaitCoordinator(const EtcdAddress& address,
                                            Time deadline) {
  if (address.name.empty()) {
    return InvalidArgumentError(StrCat("which job of ", address.HostsText(),
                                       "? add its name: ", address.HostsText(),
                                       "/NAME"));
  }
  const SystemClock clock;
  SHOAL_ASSIGN_OR_RETURN(EtcdClient::Options options,
                         EtcdClient::OptionsFor(address));
  EtcdClient client(std::move(options));
  while (true) {
    StatusOr<FoundCoordinator> found = LookForCoordinator(client, address.name);
    if (found.status().code() != StatusCode::kUnavailable) {
      return found;
    }
    if (clock.Now() >= deadline) {
      return DeadlineExceededError(found.status().message());
    }
    std::this_thread::sleep_for(kLookPause);
  }
}

}  // namespace shoal::launch
