#include "base/etcd/address.h"

#include <unistd.h>

#include <charconv>
#include <cstdlib>

#include "base/strcat.h"

namespace shoal {
namespace {

constexpr std::string_view kScheme = "etcd://";
constexpr std::string_view kTlsScheme = "etcds://";
constexpr char kForm[] =
    "etcd://HOST:PORT[,HOST:PORT...][/NAME], or etcds:// for TLS";

std::string FromEnvironment(const char* name) {
  const char* const text = std::getenv(name);
  return text == nullptr ? "" : text;
}

}  // namespace

StatusOr<EtcdAddress> EtcdAddress::Parse(const std::string& text) {
  const auto wrong = [&text](const char* what) {
    return InvalidArgumentError(
        StrCat("'", text, "' ", what, "; expected ", kForm));
  };
  if (text.find('@') != std::string::npos) {
    // A password in it is not repeated.
    return InvalidArgumentError(
        StrCat("an address of etcd has a '@': a user and a password are read "
               "from ETCDCTL_USER; expected ",
               kForm));
  }
  EtcdAddress address;
  address.tls = text.starts_with(kTlsScheme);
  if (!address.tls && !text.starts_with(kScheme)) {
    return wrong("is no address of etcd");
  }
  std::string_view rest = std::string_view(text).substr(
      (address.tls ? kTlsScheme : kScheme).size());
  const size_t slash = rest.find('/');
  if (slash != std::string_view::npos) {
    address.name = rest.substr(slash + 1);
    rest = rest.substr(0, slash);
    if (address.name.empty() || address.name.ends_with('/')) {
      return wrong("has a '/' and no name after it");
    }
  }
  while (true) {
    const size_t comma = rest.find(',');
    const std::string_view host = rest.substr(0, comma);
    const size_t colon = host.rfind(':');
    int port = 0;
    if (colon == std::string_view::npos || colon == 0) {
      return wrong("has a member without host or port");
    }
    const char* const end = host.data() + host.size();
    const auto [at, error] =
        std::from_chars(host.data() + colon + 1, end, port);
    if (error != std::errc() || at != end || port < 1 || port > 65535) {
      return wrong("has a port that is no number from 1 to 65535");
    }
    if (host.find_first_of(" ?#\\\"'") != std::string_view::npos) {
      return wrong("has a member that is no host");
    }
    address.hosts.emplace_back(host);
    if (comma == std::string_view::npos) {
      return address;
    }
    rest = rest.substr(comma + 1);
  }
}

std::string EtcdAddress::HostsText() const {
  std::string text(tls ? kTlsScheme : kScheme);
  for (size_t i = 0; i < hosts.size(); ++i) {
    text += StrCat(i == 0 ? "" : ",", hosts[i]);
  }
  return text;
}

StatusOr<EtcdAccess> EtcdAccess::Read() {
  EtcdAccess access;
  for (const auto& [name, file] :
       {std::pair("ETCDCTL_CACERT", &access.ca_file),
        std::pair("ETCDCTL_CERT", &access.cert_file),
        std::pair("ETCDCTL_KEY", &access.key_file)}) {
    *file = FromEnvironment(name);
    if (!file->empty() && ::access(file->c_str(), R_OK) != 0) {
      return InvalidArgumentError(
          StrCat(name, ": can't read the file '", *file, "'"));
    }
  }
  if (access.cert_file.empty() != access.key_file.empty()) {
    return InvalidArgumentError(
        "of ETCDCTL_CERT and ETCDCTL_KEY one is given; a client's certificate "
        "goes with its key");
  }
  const std::string user = FromEnvironment("ETCDCTL_USER");
  const size_t colon = user.find(':');
  if (!user.empty() && (colon == 0 || colon == std::string::npos)) {
    return InvalidArgumentError("ETCDCTL_USER is not NAME:PASSWORD");
  }
  if (!user.empty()) {
    access.user = user.substr(0, colon);
    access.password = user.substr(colon + 1);
  }
  return access;
}

}  // namespace shoal
