#include "base/log.h"

#include <memory>
#include <string>

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

namespace shoal {
namespace {

spdlog::logger& Logger() {
  static const std::shared_ptr<spdlog::logger> kLogger = [] {
    auto logger = spdlog::stderr_color_mt("shoal");
    logger->set_level(spdlog::level::info);
    logger->set_pattern("%H:%M:%S.%e %^%l%$ %v");
    return logger;
  }();
  return *kLogger;
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

}  // namespace

void Log(LogLevel level, std::string_view text) {
  Logger().log(ToSpdlog(level), "{}", text);
}

void SetLogRole(std::string_view role) {
  Logger().set_pattern(StrCat("%H:%M:%S.%e %^%l%$ [", role, "] %v"));
}

void SetLogLevel(LogLevel level) { Logger().set_level(ToSpdlog(level)); }

}  // namespace shoal
