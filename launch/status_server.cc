#include "launch/status_server.h"

#include <httplib.h>

#include <thread>

#include "base/strcat.h"

namespace shoal::launch {
namespace {

constexpr char kEverywhere[] = "0.0.0.0";
constexpr time_t kClientWithin = 5;  // seconds, to send or take anything
constexpr size_t kThreads = 2;

class HttpStatusServer : public StatusServer {
 public:
  explicit HttpStatusServer(const StatusBoard& board) {
    server_.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
    // By default two servers would share a port, and scrapes be dealt to them.
    server_.set_socket_options([](socket_t socket) {
      const int yes = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
    server_.set_read_timeout(kClientWithin);
    server_.set_write_timeout(kClientWithin);
    server_.set_keep_alive_max_count(1);
    server_.set_payload_max_length(1024);  // Nobody has anything to tell us.
    server_.Get("/healthz", [](const httplib::Request&, httplib::Response& r) {
      r.set_content("ok\n", "text/plain");
    });
    server_.Get("/readyz",
                [&board](const httplib::Request&, httplib::Response& r) {
                  const bool standby = board.standby();
                  const bool ready = standby || board.ready();
                  r.status = ready ? 200 : 503;
                  r.set_content(standby ? "standby\n"
                                : ready ? "ready\n"
                                        : "not ready\n",
                                "text/plain");
                });
    server_.Get(
        "/metrics", [&board](const httplib::Request&, httplib::Response& r) {
          r.set_content(board.MetricsText(), "text/plain; version=0.0.4");
        });
  }
  ~HttpStatusServer() override {
    server_.stop();
    if (thread_.joinable()) {
      thread_.join();
    }
  }

  Status Start(int port) {
    port_ = port == 0 ? server_.bind_to_any_port(kEverywhere)
                      : (server_.bind_to_port(kEverywhere, port) ? port : -1);
    if (port_ < 0) {
      return UnavailableError(
          StrCat("--http ", port, ": the port is taken or not allowed"));
    }
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    // stop() has no effect before that.
    while (!server_.is_running()) {
      std::this_thread::yield();
    }
    return OkStatus();
  }

  int port() const override { return port_; }

 private:
  httplib::Server server_;
  int port_ = -1;
  std::thread thread_;
};

}  // namespace

StatusOr<std::unique_ptr<StatusServer>> StatusServer::Create(
    int port, const StatusBoard& board) {
  auto server = std::make_unique<HttpStatusServer>(board);
  SHOAL_RETURN_IF_ERROR(server->Start(port));
  return std::unique_ptr<StatusServer>(std::move(server));
}

}  // namespace shoal::launch
