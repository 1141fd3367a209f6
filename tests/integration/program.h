#ifndef SHOAL_TESTS_INTEGRATION_PROGRAM_H_
#define SHOAL_TESTS_INTEGRATION_PROGRAM_H_

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace shoal::integration {

using Words = std::vector<std::string>;  // of a command line

struct RunOutcome {
  int exit_code = -1;  // -1: a signal ended it, or it ran past the limit
  std::string output;  // standard output and error together
  double seconds = 0;
};

// The program under test: $SHOAL_TEST_PROGRAM, or that of this build.
std::string Program();

// Runs a program with a time limit. `meanwhile` is called about every 20 ms
// with its process id. Its children are gone afterwards, whatever happens.
RunOutcome RunProgram(const std::vector<std::string>& argv,
                      const std::function<void(pid_t)>& meanwhile = {},
                      std::chrono::seconds limit = std::chrono::seconds(60));

// The same; `watch` is also given what the program has written so far.
RunOutcome RunWatched(
    const std::vector<std::string>& argv,
    const std::function<void(pid_t, const std::string& output)>& watch,
    std::chrono::seconds limit = std::chrono::seconds(60));

// The process ids of a process's children whose command line has `words`.
std::vector<pid_t> ChildrenWith(pid_t parent, const std::string& words);

bool IsRunning(pid_t pid);

// The points of the curve in a metrics.json.
std::vector<double> LossesOf(const std::string& metrics);

// The process ids of this machine's processes whose command line has `words`.
std::vector<pid_t> AllRunningWith(const std::string& words);
inline bool AnyRunningWith(const std::string& words) {
  return !AllRunningWith(words).empty();
}

// A TCP port of 127.0.0.1 that nobody uses, below those that the kernel deals
// to whoever asks for any.
int FreePort();

}  // namespace shoal::integration

#endif  // SHOAL_TESTS_INTEGRATION_PROGRAM_H_
