#include "comm/transports/tcp_address.h"

#include <charconv>
#include <system_error>

namespace shoal::comm {

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

}  // namespace shoal::comm
