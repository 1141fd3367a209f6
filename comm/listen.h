#ifndef SHOAL_COMM_LISTEN_H_
#define SHOAL_COMM_LISTEN_H_

#include <string>

#include "base/status.h"

namespace shoal::comm {

// Where an endpoint listens for TCP, as Endpoint::Options::listen wants it.
// Neither blocks nor asks a name server.

// At `port` (0: any that is free) of `where`: an address of this host, the name
// of one of its network interfaces ("eth0"), or empty for the first address
// that other hosts can reach (IPv4 before IPv6), 127.0.0.1 if there is none.
// Errors: kInvalidArgument (no such address or interface; lists what there is).
StatusOr<std::string> ListenAt(const std::string& where, int port);

// At a free port of the address by which `peer`, the address of an endpoint, is
// reached; empty if TCP is no way to it.
// Errors: kUnavailable (no route to it).
StatusOr<std::string> ListenFacing(const std::string& peer);

}  // namespace shoal::comm

#endif  // SHOAL_COMM_LISTEN_H_
