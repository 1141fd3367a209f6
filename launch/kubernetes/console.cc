#include "launch/kubernetes/console.h"

#include <unistd.h>

#include <cstdio>

#include <sys/ioctl.h>

namespace shoal::launch {

Console::Console() : terminal_(isatty(STDERR_FILENO) == 1) {}

Console::~Console() {
  const MutexLock lock(mutex_);
  Erase();
}

void Console::Erase() {
  if (terminal_ && !line_.empty()) {
    std::fputs("\r\033[K", stderr);
  }
}

void Console::Draw() {
  if (terminal_ && !line_.empty()) {
    // One that wraps could not be erased.
    winsize size = {};
    const bool known =
        ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
    std::fputs(line_.substr(0, known ? size.ws_col - 1 : line_.size()).c_str(),
               stderr);
    std::fflush(stderr);
  }
}

void Console::Log(std::string_view line) {
  const MutexLock lock(mutex_);
  Erase();
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fputc('\n', stdout);
  std::fflush(stdout);
  Draw();
}

void Console::Say(std::string_view line) {
  const MutexLock lock(mutex_);
  Erase();
  std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
  Draw();
}

void Console::SetLine(const std::string& line) {
  const MutexLock lock(mutex_);
  if (line != line_) {
    Erase();
    line_ = line;
    Draw();
  }
}

}  // namespace shoal::launch
