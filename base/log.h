#ifndef SHOAL_BASE_LOG_H_
#define SHOAL_BASE_LOG_H_

#include <string_view>

#include "base/strcat.h"

namespace shoal {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Lines to standard error: time, level, role, text. Thread-safe.
void Log(LogLevel level, std::string_view text);

// `role` ("server 1") goes into every line of this process from here on.
void SetLogRole(std::string_view role);
void SetLogLevel(LogLevel level);

template <typename... Args>
void LogInfo(const Args&... args) {
  Log(LogLevel::kInfo, StrCat(args...));
}
template <typename... Args>
void LogWarning(const Args&... args) {
  Log(LogLevel::kWarning, StrCat(args...));
}
template <typename... Args>
void LogError(const Args&... args) {
  Log(LogLevel::kError, StrCat(args...));
}

}  // namespace shoal

#endif  // SHOAL_BASE_LOG_H_
