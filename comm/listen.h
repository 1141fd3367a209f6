#ifndef SHOAL_COMM_LISTEN_H_
#define SHOAL_COMM_LISTEN_H_

#include <string>

#include "base/status.h"
#include "base/time.h"

namespace shoal::comm {

// Where an endpoint listens for TCP, as Endpoint::Options::listen wants it.
// ListenAt() and ListenFacing() neither block nor ask a name server.

// At `port` (0: any that is free) of `where`: an address of this host, the name
// of one of its network interfaces ("eth0"), or empty for the first address
// that other hosts can reach (IPv4 before IPv6), 127.0.0.1 if there is none.
// Errors: kInvalidArgument (no such address or interface; lists what there is).
StatusOr<std::string> ListenAt(const std::string& where, int port);

// At a free port of the address by which `peer`, the address of an endpoint, is
// reached; empty if TCP is no way to it.
// Errors: kUnavailable (no route to it).
StatusOr<std::string> ListenFacing(const std::string& peer);

// The address of an endpoint with a host's name in its TCP part
// ("tcp://host:7") changed to the IP address of that host at which something
// listens; other addresses as they are. Blocks. Services that are just being
// started have names that are not known yet, and names of those that were
// started anew may still stand for an address of before: both are asked for
// again until `deadline`. Errors: kDeadlineExceeded (naming the host and what
// the name server or the host said).
StatusOr<std::string> ResolveAddress(const std::string& address, Time deadline);

}  // namespace shoal::comm

#endif  // SHOAL_COMM_LISTEN_H_
