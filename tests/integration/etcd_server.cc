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

}  // namespace

bool EtcdServer::IsInstalled() { return std::filesystem::exists(kProgram); }

EtcdServer::EtcdServer(std::string folder)
    : folder_(std::move(folder)), port_(FreePort()) {
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
  return StrCat("etcd://127.0.0.1:", port_);
}

bool EtcdServer::Start() {
  const std::string clients = StrCat("http://127.0.0.1:", port_);
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
  EtcdClient client({.hosts = {StrCat("127.0.0.1:", port_)}});
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
