#include "tests/integration/program.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include <netinet/in.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>
#include <sys/wait.h>

namespace shoal::integration {
namespace {

std::string ReadWhole(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(in)),
                   std::istreambuf_iterator<char>());
  for (char& c : text) {
    c = c == '\0' ? ' ' : c;
  }
  return text;
}

}  // namespace

std::string Program() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing writes the environment.
  const char* const other = std::getenv("SHOAL_TEST_PROGRAM");
  return other == nullptr ? SHOAL_PROGRAM : other;
}

RunOutcome RunProgram(const std::vector<std::string>& argv,
                      const std::function<void(pid_t)>& meanwhile,
                      std::chrono::seconds limit) {
  return RunWatched(
      argv,
      [&meanwhile](pid_t pid, const std::string&) {
        if (meanwhile) {
          meanwhile(pid);
        }
      },
      limit);
}

RunOutcome RunWatched(
    const std::vector<std::string>& argv,
    const std::function<void(pid_t, const std::string& output)>& watch,
    std::chrono::seconds limit) {
  const auto start = std::chrono::steady_clock::now();
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return {};
  }
  std::vector<char*> raw;
  for (const std::string& arg : argv) {
    raw.push_back(const_cast<char*>(arg.c_str()));
  }
  raw.push_back(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    setpgid(0, 0);
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    execvp(raw[0], raw.data());
    _exit(127);
  }
  close(ends[1]);
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  RunOutcome outcome;
  int status = 0;
  bool ended = false;
  const auto drain = [&] {
    char bytes[4096];
    ssize_t n = 0;
    while ((n = read(ends[0], bytes, sizeof(bytes))) > 0) {
      outcome.output.append(bytes, static_cast<size_t>(n));
    }
  };
  while (!ended && std::chrono::steady_clock::now() - start < limit) {
    drain();
    ended = waitpid(pid, &status, WNOHANG) == pid;
    if (!ended) {
      watch(pid, outcome.output);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  outcome.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  if (!ended) {
    kill(-pid, SIGKILL);
    waitpid(pid, &status, 0);
    outcome.output += "\n(ran past its time limit)";
  } else if (WIFEXITED(status)) {
    outcome.exit_code = WEXITSTATUS(status);
  }
  drain();
  close(ends[0]);
  return outcome;
}

std::vector<pid_t> ChildrenWith(pid_t parent, const std::string& words) {
  std::vector<pid_t> found;
  std::error_code error;
  const std::string tasks = "/proc/" + std::to_string(parent) + "/task";
  for (std::filesystem::directory_iterator task(tasks, error), end;
       !error && task != end; task.increment(error)) {
    std::ifstream in(task->path() / "children");
    pid_t child = 0;
    while (in >> child) {
      if (ReadWhole("/proc/" + std::to_string(child) + "/cmdline")
              .find(words) != std::string::npos) {
        found.push_back(child);
      }
    }
  }
  return found;
}

bool IsRunning(pid_t pid) {
  const std::string stat = ReadWhole("/proc/" + std::to_string(pid) + "/stat");
  return !stat.empty() && stat.find(") Z ") == std::string::npos;
}

std::vector<pid_t> AllRunningWith(const std::string& words) {
  std::vector<pid_t> found;
  std::error_code error;
  for (std::filesystem::directory_iterator entry("/proc", error), end;
       !error && entry != end; entry.increment(error)) {
    if (ReadWhole((entry->path() / "cmdline").string()).find(words) !=
        std::string::npos) {
      found.push_back(std::atoi(entry->path().filename().c_str()));
    }
  }
  return found;
}

int FreePort() {
  for (int port = 20000 + getpid() % 5000;; ++port) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(port));
    const bool free =
        bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    close(fd);
    if (free) {
      return port;
    }
  }
}

std::vector<double> LossesOf(const std::string& metrics) {
  std::vector<double> losses;
  const auto json = nlohmann::json::parse(metrics);
  for (const auto& point : json["losses"]) {
    losses.push_back(point["loss"]);
  }
  return losses;
}

}  // namespace shoal::integration
