#include "launch/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <utility>

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/strcat.h"
#include "base/unique_fd.h"

namespace shoal::launch {
namespace {

constexpr int kStopSignals[] = {SIGINT, SIGTERM, SIGHUP};

std::string ErrnoText(int error) {
  char buffer[128];
  return strerror_r(error, buffer, sizeof(buffer));
}

Status ErrnoStatus(std::string_view what, int error) {
  const std::string text = StrCat(what, ": ", ErrnoText(error));
  switch (error) {
    case EAGAIN:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return ResourceExhaustedError(text);
    case ENOENT:
      return NotFoundError(text);
    default:
      return InvalidArgumentError(text);
  }
}

// glibc 2.36 declares pidfd_open() without C linkage.
UniqueFd OpenPidfd(pid_t pid) {
  return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
}

// The write end of the pipe of the Supervisor that listens to signals.
std::atomic<int> signal_pipe{-1};

void OnSignal(int signal) {
  const int saved_errno = errno;
  const char byte = static_cast<char>(signal);
  // A full pipe holds enough signals already.
  [[maybe_unused]] const ssize_t written =
      write(signal_pipe.load(std::memory_order_relaxed), &byte, 1);
  errno = saved_errno;
}

// Turns stop signals into bytes of a pipe while it lives.
class SignalPipe {
 public:
  static StatusOr<std::unique_ptr<SignalPipe>> Create() {
    SHOAL_ASSIGN_OR_RETURN(Pipe pipe, OpenPipe());
    for (const int fd : {pipe.read.get(), pipe.write.get()}) {
      fcntl(fd, F_SETFL, O_NONBLOCK);
    }
    int none = -1;
    if (!signal_pipe.compare_exchange_strong(none, pipe.write.get())) {
      return FailedPreconditionError(
          "supervisor: another one of this process listens to signals");
    }
    return std::unique_ptr<SignalPipe>(new SignalPipe(std::move(pipe)));
  }

  ~SignalPipe() {
    for (size_t i = 0; i < std::size(kStopSignals); ++i) {
      sigaction(kStopSignals[i], &before_[i], nullptr);
    }
    signal_pipe = -1;
  }
  SignalPipe(const SignalPipe&) = delete;
  SignalPipe& operator=(const SignalPipe&) = delete;

  int fd() const { return pipe_.read.get(); }

  // The next signal that came; 0: none.
  int Take() {
    char byte = 0;
    return read(fd(), &byte, 1) == 1 ? byte : 0;
  }

 private:
  explicit SignalPipe(Pipe pipe) : pipe_(std::move(pipe)) {
    struct sigaction action = {};
    action.sa_handler = &OnSignal;
    action.sa_flags = SA_RESTART;
    for (size_t i = 0; i < std::size(kStopSignals); ++i) {
      sigaction(kStopSignals[i], &action, &before_[i]);
    }
  }

  Pipe pipe_;
  struct sigaction before_[std::size(kStopSignals)];
};

// Between fork() and exec() of a process with threads, only calls that are
// safe in a signal handler may be made. What fails is written to `report` as an
// errno.
[[noreturn]] void BecomeChild(char* const* argv, pid_t parent, int null_fd,
                              int report) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) {
    _exit(127);  // The parent died before it could be watched.
  }
  setpgid(0, 0);
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGCHLD}) {
    sigaction(signal, &action, nullptr);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  dup2(null_fd, STDIN_FILENO);
  // Sockets and files of the parent, however they were opened, stay with it.
  constexpr unsigned kCloseOnExec = 1U << 2;  // CLOSE_RANGE_CLOEXEC
  syscall(SYS_close_range, 3U, ~0U, kCloseOnExec);
  execv(argv[0], argv);
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(report, &error, sizeof(error));
  _exit(127);
}

// Waits for the child's exec; its errno if that failed, else 0.
int AwaitExec(int report) {
  int error = 0;
  ssize_t got = 0;
  do {
    got = read(report, &error, sizeof(error));
  } while (got < 0 && errno == EINTR);
  return got == sizeof(error) ? error : 0;
}

// Rounded up, so that a wait does not end before its time.
int PollMilliseconds(Duration timeout) {
  const auto whole =
      std::chrono::ceil<std::chrono::milliseconds>(std::max(timeout, 0ns));
  return static_cast<int>(std::min<int64_t>(whole.count(), INT_MAX));
}

Time Now() { return std::chrono::steady_clock::now(); }

}  // namespace

std::string ChildExit::ToString() const {
  const std::string who = StrCat(name, " (pid ", pid, ")");
  if (signal != 0) {
    const char* const text = sigdescr_np(signal);
    return StrCat(who, " was killed by signal ", signal,
                  text == nullptr ? "" : StrCat(" (", text, ")"));
  }
  return exit_code == 0 ? StrCat(who, " ended")
                        : StrCat(who, " failed with exit code ", exit_code);
}

struct Supervisor::Impl {
  struct Child {
    std::string name;
    pid_t pid = 0;
    UniqueFd pidfd;  // readable once the child has ended
  };

  std::optional<ChildExit> WaitOnce(Duration timeout);
  // Forgets a child that has ended, or is about to.
  ChildExit Reap(size_t index);
  void HandleSignals();
  void SignalAll(int signal);

  std::function<void(int)> on_signal;
  std::unique_ptr<SignalPipe> signals;
  std::vector<Child> children;
  int signals_handled = 0;
};

std::optional<ChildExit> Supervisor::Impl::WaitOnce(Duration timeout) {
  std::vector<pollfd> polled;
  for (const Child& child : children) {
    polled.push_back({.fd = child.pidfd.get(), .events = POLLIN, .revents = 0});
  }
  if (signals != nullptr) {
    polled.push_back({.fd = signals->fd(), .events = POLLIN, .revents = 0});
  }
  const int ready =
      poll(polled.data(), polled.size(), PollMilliseconds(timeout));
  HandleSignals();  // also when one interrupted the wait
  for (size_t i = 0; ready > 0 && i < children.size(); ++i) {
    if (polled[i].revents != 0) {
      return Reap(i);
    }
  }
  return std::nullopt;
}

ChildExit Supervisor::Impl::Reap(size_t index) {
  Child child = std::move(children[index]);
  children.erase(children.begin() + static_cast<ptrdiff_t>(index));
  // As long as the child is not waited for, its number can't be another's:
  // what it may have started goes with it.
  kill(-child.pid, SIGKILL);
  siginfo_t info = {};
  while (waitid(P_PID, static_cast<id_t>(child.pid), &info, WEXITED) != 0 &&
         errno == EINTR) {
  }
  ChildExit exit{.name = child.name, .pid = child.pid};
  if (info.si_code == CLD_EXITED) {
    exit.exit_code = info.si_status;
  } else {
    exit.signal = info.si_status;
  }
  return exit;
}

void Supervisor::Impl::HandleSignals() {
  while (signals != nullptr) {
    const int signal = signals->Take();
    if (signal == 0) {
      break;
    }
    ++signals_handled;
    on_signal(signal);
  }
}

void Supervisor::Impl::SignalAll(int signal) {
  for (const Child& child : children) {
    kill(-child.pid, signal);
  }
}

Supervisor::Supervisor(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

StatusOr<std::unique_ptr<Supervisor>> Supervisor::Create(Options options) {
  auto impl = std::make_unique<Impl>();
  if (options.on_signal != nullptr) {
    impl->on_signal = std::move(options.on_signal);
    SHOAL_ASSIGN_OR_RETURN(impl->signals, SignalPipe::Create());
  }
  return std::unique_ptr<Supervisor>(new Supervisor(std::move(impl)));
}

Supervisor::~Supervisor() {
  impl_->SignalAll(SIGKILL);
  while (!impl_->children.empty()) {
    impl_->Reap(0);
  }
}

StatusOr<pid_t> Supervisor::Spawn(const std::string& name,
                                  const std::vector<std::string>& argv) {
  if (argv.empty()) {
    return InvalidArgumentError(StrCat(name, ": no program to start"));
  }
  std::vector<char*> args;
  for (const std::string& arg : argv) {
    args.push_back(const_cast<char*>(arg.c_str()));
  }
  args.push_back(nullptr);
  SHOAL_ASSIGN_OR_RETURN(Pipe report, OpenPipe());
  const UniqueFd null_fd(open("/dev/null", O_RDONLY | O_CLOEXEC));

  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) {
    return ErrnoStatus(StrCat(name, ": can't start a process"), errno);
  }
  if (pid == 0) {
    BecomeChild(args.data(), parent, null_fd.get(), report.write.get());
  }
  report.write.Reset();
  Impl::Child child{.name = name, .pid = pid, .pidfd = {}};
  const int exec_error = AwaitExec(report.read.get());
  child.pidfd = OpenPidfd(pid);
  const int pidfd_error = errno;
  const bool watched = child.pidfd.get() >= 0;
  if (exec_error == 0 && watched) {
    impl_->children.push_back(std::move(child));
    return pid;
  }
  kill(pid, SIGKILL);
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  return exec_error != 0
             ? ErrnoStatus(StrCat(name, ": can't start ", argv[0]), exec_error)
             : ErrnoStatus(StrCat(name, ": can't watch its process"),
                           pidfd_error);
}

std::optional<ChildExit> Supervisor::Wait(Duration timeout) {
  return impl_->WaitOnce(timeout);
}

std::vector<ChildExit> Supervisor::StopAll(Duration grace) {
  std::vector<ChildExit> exits;
  const Time deadline = Now() + grace;
  const int signals_before = impl_->signals_handled;
  impl_->SignalAll(SIGTERM);
  while (!impl_->children.empty()) {
    const Duration left = deadline - Now();
    if (left <= 0ns || impl_->signals_handled > signals_before) {
      impl_->SignalAll(SIGKILL);
    }
    // SIGKILL can't be refused, so the second wait is short.
    if (auto exit = impl_->WaitOnce(left > 0ns ? left : Duration(1s));
        exit.has_value()) {
      exits.push_back(*std::move(exit));
    }
  }
  return exits;
}

int Supervisor::running() const {
  return static_cast<int>(impl_->children.size());
}

Status StoppedBy(int signal) {
  return CancelledError(StrCat("stopped by signal ", signal,
                               signal == SIGINT ? " (Ctrl-C)" : ""));
}

}  // namespace shoal::launch
