#include "comm/listen.h"

#include <ifaddrs.h>
#include <netdb.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "base/strcat.h"
#include "comm/transports/tcp_address.h"

namespace shoal::comm {
namespace {

constexpr char kLoopback[] = "127.0.0.1";
constexpr Duration kResolvePause = 500ms;
constexpr int kAnswerWithinMs = 2000;  // to a connection

struct HostAddress {
  std::string interface;
  std::string address;
  bool loopback = false;
};

// As it stands in an endpoint's address: IPv6 ones in brackets.
std::string AddressText(const sockaddr& address) {
  char text[INET6_ADDRSTRLEN + IF_NAMESIZE + 1] = {};
  const bool v6 = address.sa_family == AF_INET6;
  ::getnameinfo(&address, v6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in), text,
                sizeof(text), nullptr, 0, NI_NUMERICHOST);
  return v6 ? StrCat("[", text, "]") : text;
}

bool IsLinkLocal(const sockaddr& address) {
  return address.sa_family == AF_INET6 &&
         IN6_IS_ADDR_LINKLOCAL(
             &reinterpret_cast<const sockaddr_in6&>(address).sin6_addr);
}

// IPv4 before IPv6.
std::vector<HostAddress> ListAddresses() {
  std::vector<HostAddress> addresses;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) {
    return addresses;
  }
  for (const int family : {AF_INET, AF_INET6}) {
    for (const ifaddrs* entry = list; entry != nullptr;
         entry = entry->ifa_next) {
      if (entry->ifa_addr != nullptr && entry->ifa_addr->sa_family == family &&
          (entry->ifa_flags & IFF_UP) != 0 && !IsLinkLocal(*entry->ifa_addr)) {
        addresses.push_back({entry->ifa_name, AddressText(*entry->ifa_addr),
                             (entry->ifa_flags & IFF_LOOPBACK) != 0});
      }
    }
  }
  ::freeifaddrs(list);
  return addresses;
}

// The source address that the kernel would take towards `host`.
StatusOr<std::string> AddressFacing(std::string host) {
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  }
  addrinfo hints = {};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* to = nullptr;
  if (::getaddrinfo(host.c_str(), "9", &hints, &to) != 0) {
    return UnavailableError(
        StrCat("listen: '", host, "' is not an IP address"));
  }
  const int fd = ::socket(to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sockaddr_storage from = {};
  socklen_t size = sizeof(from);
  // Connecting a datagram socket only looks up the route: nothing is sent.
  const bool found =
      fd >= 0 && ::connect(fd, to->ai_addr, to->ai_addrlen) == 0 &&
      ::getsockname(fd, reinterpret_cast<sockaddr*>(&from), &size) == 0;
  const int error = errno;
  if (fd >= 0) {
    ::close(fd);
  }
  ::freeaddrinfo(to);
  if (!found) {
    return UnavailableError(
        StrCat("listen: no way to ", host, ": ", strerror(error)));
  }
  return AddressText(reinterpret_cast<const sockaddr&>(from));
}

// Whether something accepts connections there: 0, or an errno.
int TryConnect(const addrinfo& to) {
  const int fd =
      ::socket(to.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) {
    return errno;
  }
  int error = ::connect(fd, to.ai_addr, to.ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    pollfd wait = {.fd = fd, .events = POLLOUT, .revents = 0};
    socklen_t size = sizeof(error);
    if (::poll(&wait, 1, kAnswerWithinMs) <= 0) {
      error = ETIMEDOUT;
    } else if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) {
      error = errno;
    }
  }
  ::close(fd);
  return error;
}

std::string TcpAddress(const std::string& host, int port) {
  return StrCat("tcp://", host, ":", port);
}

}  // namespace

StatusOr<std::string> ListenAt(const std::string& where, int port) {
  std::string known;
  for (const HostAddress& address : ListAddresses()) {
    if (where.empty()
            ? !address.loopback
            : where == address.interface || where == address.address ||
                  StrCat("[", where, "]") == address.address) {
      return TcpAddress(address.address, port);
    }
    known += StrCat(known.empty() ? "" : ", ", address.interface, " (",
                    address.address, ")");
  }
  if (where.empty()) {
    return TcpAddress(kLoopback, port);
  }
  return InvalidArgumentError(StrCat(
      "listen: '", where,
      "' is no network interface or address of this host; it has ", known));
}

StatusOr<std::string> ResolveAddress(const std::string& address,
                                     Time deadline) {
  const size_t at = address.find(kTcpPrefix);
  std::string_view found;
  int port = 0;
  if (at == std::string::npos ||
      !SplitTcpAddress(std::string_view(address).substr(at), &found, &port) ||
      found.starts_with('[')) {
    return address;
  }
  const std::string host(found);
  in_addr literal = {};
  if (::inet_pton(AF_INET, host.c_str(), &literal) == 1) {
    return address;
  }
  const std::string service = std::to_string(port);
  addrinfo hints = {};
  hints.ai_flags = AI_ADDRCONFIG | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  while (true) {
    std::string why;
    addrinfo* list = nullptr;
    const int unknown =
        ::getaddrinfo(host.c_str(), service.c_str(), &hints, &list);
    if (unknown != 0) {
      why = StrCat("the address of '", host,
                   "' is not known: ", ::gai_strerror(unknown));
    }
    const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owned(
        list, [](addrinfo* l) {
          if (l != nullptr) {
            ::freeaddrinfo(l);
          }
        });
    for (const addrinfo* to = list; to != nullptr; to = to->ai_next) {
      const std::string ip = AddressText(*to->ai_addr);
      const int error = TryConnect(*to);
      if (error == 0) {
        return StrCat(address.substr(0, at), TcpAddress(ip, port));
      }
      why = StrCat("nothing listens at ", host, " (", ip, "), port ", port,
                   ": ", strerror(error));
    }
    if (std::chrono::steady_clock::now() >= deadline) {
      return DeadlineExceededError(why);
    }
    std::this_thread::sleep_for(kResolvePause);
  }
}

StatusOr<std::string> ListenFacing(const std::string& peer) {
  const size_t at = peer.find(kTcpPrefix);
  std::string_view host;
  int port = 0;
  if (at == std::string::npos ||
      !SplitTcpAddress(std::string_view(peer).substr(at), &host, &port)) {
    return std::string();
  }
  SHOAL_ASSIGN_OR_RETURN(const std::string own,
                         AddressFacing(std::string(host)));
  return TcpAddress(own, 0);
}

}  // namespace shoal::comm
