#include "launch/mpi_state.h"

#include <fcntl.h>
#include <sysexits.h>
#include <unistd.h>

#include <fstream>

#include "base/strcat.h"
#include "launch/services.h"

namespace shoal::launch {
namespace {

// What mpirun of Open MPI 4 and 5 ends with, as tried, where it is not the exit
// code of a rank: 128 and the number of the signal that ended one, or its own
// errors as bytes (1, 132, 183, 213: bad arguments, no program).
constexpr int kSignalExit = 128;
constexpr int kSignalMax = 31;
constexpr int kNoProgramExit = 132;    // of Open MPI 4; also SIGILL's
constexpr int kDaemonLostExit = 205;   // of Open MPI 4
constexpr int kUnreachableExit = 255;  // and ssh's, of both

}  // namespace

void MpiState::WriteTo(const std::string& path) const {
  const std::string text =
      StrCat(begun ? 1 : 0, " ",
             ended.has_value() ? static_cast<int>(*ended) : -1, " .\n");
  // Never made here: it would stay on a host that the launcher is not on.
  const int file = path.empty() ? -1 : open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (file >= 0) {
    (void)!pwrite(file, text.data(), text.size(), 0);
    (void)fsync(file);
    close(file);
  }
}

MpiState MpiState::ReadFrom(const std::string& path) {
  int begun = 0;
  int ended = -1;
  char whole = 0;
  std::ifstream(path) >> begun >> ended >> whole;
  MpiState state;
  if (whole == '.') {
    state.begun = begun == 1;
    if (ended >= 0) {
      state.ended = static_cast<StatusCode>(ended);
    }
  }
  return state;
}

int SignalOf(int exit_code) {
  return exit_code > kSignalExit && exit_code <= kSignalExit + kSignalMax &&
                 exit_code != kNoProgramExit
             ? exit_code - kSignalExit
             : 0;
}

bool AnotherTryMayHelp(int exit_code, const MpiState& state) {
  if (SignalOf(exit_code) != 0 || exit_code == kDaemonLostExit ||
      exit_code == kUnreachableExit || exit_code == EX_TEMPFAIL) {
    return true;
  }
  // Lost without a word, if it had begun.
  return state.ended.has_value()
             ? ServiceExitCode(Status(*state.ended, "")) == EX_TEMPFAIL
             : state.begun;
}

}  // namespace shoal::launch
