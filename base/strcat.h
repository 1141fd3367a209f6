#ifndef SHOAL_BASE_STRCAT_H_
#define SHOAL_BASE_STRCAT_H_

#include <sstream>
#include <string>
#include <string_view>

namespace shoal {

// Joins its arguments as `operator<<` prints them. Meant for messages, not for
// the step path.
template <typename... Args>
std::string StrCat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

}  // namespace shoal

#endif  // SHOAL_BASE_STRCAT_H_
