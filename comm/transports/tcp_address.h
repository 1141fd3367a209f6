#ifndef SHOAL_COMM_TRANSPORTS_TCP_ADDRESS_H_
#define SHOAL_COMM_TRANSPORTS_TCP_ADDRESS_H_

#include <string_view>

namespace shoal::comm {

constexpr std::string_view kTcpPrefix = "tcp://";

// "tcp://10.0.0.1:7000" in its parts; false if it is not of that form.
bool SplitTcpAddress(std::string_view address, std::string_view* host,
                     int* port);

}  // namespace shoal::comm

#endif  // SHOAL_COMM_TRANSPORTS_TCP_ADDRESS_H_
