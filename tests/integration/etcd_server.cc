#include "tests/integration/etcd_server.h"

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <thread>
#include <utility>
#include <vector>

#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/etcd/client.h"
#include "base/strcat.h"
#include "base/time.h"
#include "tests/integration/program.h"

namespace shoal::integration {
namespace {

constexpr char kProgram[] = "/usr/bin/etcd";

constexpr char kMakeCertificates[] = R"(
set -e
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
  -keyout ca.key -out ca.pem -days 2 -subj /CN=authority
for name in server client; do
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -keyout $name.key -out $name.csr -subj /O=$name
  openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
    -out $name.pem -days 2 -extfile <(echo subjectAltName=IP:127.0.0.1)
done
)";

}  // namespace

bool EtcdServer::IsInstalled() { return std::filesystem::exists(kProgram); }

EtcdServer::EtcdServer(std::string folder, bool tls)
    : folder_(std::move(folder)), tls_(tls), port_(FreePort()) {
  // Held, so that the other one is another.
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port_));
  (void)bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address));
  peer_port_ = FreePort();
  close(fd);
}

EtcdServer::~EtcdServer() { Kill(); }

std::string EtcdServer::address() const {
  return StrCat(tls_ ? "etcds" : "etcd", "://127.0.0.1:", port_);
}

bool EtcdServer::Start() {
  const std::string clients =
      StrCat(tls_ ? "https" : "http", "://127.0.0.1:", port_);
  const std::string peers = StrCat("http://127.0.0.1:", peer_port_);
  const std::string log = folder_ + "/etcd.log";
  std::vector<std::string> argv = {kProgram,
                                   "--data-dir",
                                   folder_ + "/etcd",
                                   "--listen-client-urls",
                                   clients,
                                   "--advertise-client-urls",
                                   clients,
                                   "--listen-peer-urls",
                                   peers,
                                   "--initial-advertise-peer-urls",
                                   peers,
                                   "--initial-cluster",
                                   "default=" + peers,
                                   "--heartbeat-interval",
                                   "50",
                                   "--election-timeout",
                                   "500"};
  EtcdClient::Options options{.hosts = {StrCat("127.0.0.1:", port_)},
                              .tls = tls_};
  if (tls_) {
    const RunOutcome made =
        RunProgram({"bash", "-c", StrCat("cd ", folder_, kMakeCertificates)});
    if (made.exit_code != 0) {
      return false;
    }
    options.access = {.ca_file = folder_ + "/ca.pem",
                      .cert_file = folder_ + "/client.pem",
                      .key_file = folder_ + "/client.key"};
    argv.insert(argv.end(),
                {"--client-cert-auth", "--trusted-ca-file", folder_ + "/ca.pem",
                 "--cert-file", folder_ + "/server.pem", "--key-file",
                 folder_ + "/server.key"});
  }
  std::vector<char*> raw;
  for (std::string& word : argv) {
    raw.push_back(word.data());
  }
  raw.push_back(nullptr);
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int fd = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    execv(raw[0], raw.data());
    _exit(127);
  }
  EtcdClient client(options);
  const SystemClock clock;
  const Time end = clock.Now() + 20s;
  while (clock.Now() < end) {
    if (client.Get("any").ok()) {
      return true;
    }
    std::this_thread::sleep_for(50ms);
  }
  return false;
}

void EtcdServer::Kill() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
}

}  // namespace shoal::integration
