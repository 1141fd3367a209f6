#ifndef SHOAL_LAUNCH_SUPERVISOR_H_
#define SHOAL_LAUNCH_SUPERVISOR_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/status.h"
#include "base/time.h"

namespace shoal::launch {

// How a child process ended.
struct ChildExit {
  std::string name;
  pid_t pid = 0;
  int exit_code = 0;  // meaningless when a signal ended it
  int signal = 0;     // 0: it ended by itself

  bool ok() const { return exit_code == 0 && signal == 0; }
  // "worker 1 (pid 123) was killed by signal 9 (Killed)".
  std::string ToString() const;
};

// Starts child processes and watches them. No child outlives this object, nor
// this process, however it ends: the kernel kills the children of a process
// that is killed itself.
//
// A child is a process group of its own, so that Ctrl-C reaches this process
// alone, which then stops the children in order. Its standard input is empty;
// output and errors go where this process's go.
//
// Thread-compatible. Spawn() must be called by a thread that lives as long as
// the children: the kernel ends them with it.
class Supervisor {
 public:
  struct Options {
    // If set, SIGINT, SIGTERM and SIGHUP sent to this process call it, from
    // inside Wait() or StopAll(), instead of ending the process. It must not
    // call the Supervisor. Only one Supervisor at a time may have it.
    std::function<void(int signal)> on_signal;
  };

  // Errors: kFailedPrecondition (a second one with `on_signal`),
  // kResourceExhausted (no file descriptors left).
  static StatusOr<std::unique_ptr<Supervisor>> Create(Options options);

  // Kills what still runs.
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // Starts the program argv[0], a path. `name` stands for it in messages.
  // Errors: kNotFound, kInvalidArgument (the program can't be started: the
  // text says why), kResourceExhausted (no processes or descriptors left).
  StatusOr<pid_t> Spawn(const std::string& name,
                        const std::vector<std::string>& argv);

  // Waits until a child ends, a signal has been handled or `timeout` passes;
  // the exit if it was that. Each exit is reported once.
  std::optional<ChildExit> Wait(Duration timeout);

  // Asks all children to end (SIGTERM), kills those that still run after
  // `grace` or when a second signal arrives, and returns how each ended.
  std::vector<ChildExit> StopAll(Duration grace);

  int running() const;

 private:
  struct Impl;
  explicit Supervisor(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// "stopped by signal 2 (Ctrl-C)", as a reason to end.
Status StoppedBy(int signal);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_SUPERVISOR_H_
