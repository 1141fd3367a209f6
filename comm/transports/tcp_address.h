#ifndef SHOAL_COMM_TRANSPORTS_TCP_ADDRESS_H_
#define SHOAL_COMM_TRANSPORTS_TCP_ADDRESS_H_

#include <string>
#include <string_view>

namespace shoal::comm {

// "tcp://10.0.0.1:7000" in its parts; false if it is not of that form.
bool SplitTcpAddress(std::string_view address, std::string_view* host,
                     int* port);

// How others reach a socket that is bound to all addresses of this host.
std::string HostAddress();

}  // namespace shoal::comm

#endif  // SHOAL_COMM_TRANSPORTS_TCP_ADDRESS_H_
