#include "comm/transports/tcp_address.h"

#include <ifaddrs.h>

#include <charconv>
#include <system_error>

#include <arpa/inet.h>
#include <netinet/in.h>

namespace shoal::comm {
namespace {

constexpr std::string_view kTcpPrefix = "tcp://";

}  // namespace

bool SplitTcpAddress(std::string_view address, std::string_view* host,
                     int* port) {
  if (!address.starts_with(kTcpPrefix)) {
    return false;
  }
  address.remove_prefix(kTcpPrefix.size());
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos || colon == 0) {
    return false;
  }
  *host = address.substr(0, colon);
  const std::string_view digits = address.substr(colon + 1);
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), *port);
  return error == std::errc() && end == digits.data() + digits.size() &&
         *port >= 0 && *port <= 65535;
}

std::string HostAddress() {
  std::string found = "127.0.0.1";
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) {
    return found;
  }
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != AF_INET) {
      continue;
    }
    const auto* const address =
        reinterpret_cast<const sockaddr_in*>(entry->ifa_addr);
    char text[INET_ADDRSTRLEN] = {};
    if ((ntohl(address->sin_addr.s_addr) >> 24) != 127 &&
        ::inet_ntop(AF_INET, &address->sin_addr, text, sizeof(text)) !=
            nullptr) {
      found = text;
      break;
    }
  }
  ::freeifaddrs(list);
  return found;
}

}  // namespace shoal::comm
