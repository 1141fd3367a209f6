#ifndef SHOAL_BASE_ETCD_ADDRESS_H_
#define SHOAL_BASE_ETCD_ADDRESS_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace shoal {

// "etcd://HOST:PORT[,HOST:PORT...][/NAME]", or "etcds://" for TLS.
struct EtcdAddress {
  std::vector<std::string> hosts;  // "HOST:PORT"
  std::string name;                // may be empty
  bool tls = false;

  static bool Is(std::string_view text) { return text.starts_with("etcd"); }
  // Errors: kInvalidArgument (what is wrong, and how it is written).
  static StatusOr<EtcdAddress> Parse(const std::string& text);
  std::string HostsText() const;  // "etcd://HOST:PORT,..."
};

// How etcd is trusted, and who asks it.
struct EtcdAccess {
  std::string ca_file;    // PEM; empty: the system's authorities
  std::string cert_file;  // of the client, PEM; empty: none
  std::string key_file;
  std::string user;  // empty: none
  std::string password;

  // From the environment, by the names that etcdctl reads: ETCDCTL_CACERT,
  // ETCDCTL_CERT, ETCDCTL_KEY and ETCDCTL_USER (NAME:PASSWORD). Errors:
  // kInvalidArgument, which does not repeat the password.
  static StatusOr<EtcdAccess> Read();
};

}  // namespace shoal

#endif  // SHOAL_BASE_ETCD_ADDRESS_H_
