#ifndef SHOAL_TESTS_INTEGRATION_ETCD_SERVER_H_
#define SHOAL_TESTS_INTEGRATION_ETCD_SERVER_H_

#include <string>

#include <sys/types.h>

namespace shoal::integration {

// A real etcd of one member, with ports and a folder of its own. It ends with
// this object, or with this process.
class EtcdServer {
 public:
  // Debian's package is etcd-server.
  static bool IsInstalled();

  // `folder`: an existing one, for its data and its log. With `tls` clients
  // need a certificate: ca.pem, client.pem and client.key are made there.
  explicit EtcdServer(std::string folder, bool tls = false);
  ~EtcdServer();
  EtcdServer(const EtcdServer&) = delete;
  EtcdServer& operator=(const EtcdServer&) = delete;

  // "etcd://127.0.0.1:PORT", or "etcds://...".
  std::string address() const;

  // Starts it, on what it had kept. Blocks until it answers; false: it does
  // not within 20 s.
  bool Start();
  // As kill -9.
  void Kill();

 private:
  const std::string folder_;
  const bool tls_;
  int port_ = 0;
  int peer_port_ = 0;
  pid_t pid_ = 0;
};

}  // namespace shoal::integration

#endif  // SHOAL_TESTS_INTEGRATION_ETCD_SERVER_H_
