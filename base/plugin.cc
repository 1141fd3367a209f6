#include "base/plugin.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

#include "base/strcat.h"

namespace shoal {

StatusOr<std::string> OwnProgramPath() {
  char path[PATH_MAX];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof(path));
  if (size <= 0 || size == static_cast<ssize_t>(sizeof(path))) {
    return InternalError(
        StrCat("the path of this program is not known (/proc): errno ", errno));
  }
  return std::string(path, static_cast<size_t>(size));
}

StatusOr<std::string> PluginPath(const std::string& name) {
  SHOAL_ASSIGN_OR_RETURN(const std::string program, OwnProgramPath());
  return StrCat(program.substr(0, program.rfind('/') + 1), "lib", name, ".so");
}

StatusOr<void*> LoadPlugin(const std::string& path, const char* symbol,
                           bool global) {
  void* const library =
      dlopen(path.c_str(), RTLD_NOW | (global ? RTLD_GLOBAL : RTLD_LOCAL));
  if (library == nullptr) {
    // NOLINTNEXTLINE(concurrency-mt-unsafe): glibc's is per thread.
    return NotFoundError(dlerror());
  }
  void* const found = dlsym(library, symbol);
  if (found == nullptr) {
    return NotFoundError(StrCat(path, " has no symbol ", symbol,
                                ": it is the plug-in of another version of "
                                "the program"));
  }
  return found;
}

}  // namespace shoal
