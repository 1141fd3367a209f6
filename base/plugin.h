#ifndef SHOAL_BASE_PLUGIN_H_
#define SHOAL_BASE_PLUGIN_H_

#include <string>

#include "base/status.h"

namespace shoal {

// Plug-ins are libraries that lie beside the program and hand over a C table,
// so that the program runs where what they need is not installed.

// The path of the running program.
StatusOr<std::string> OwnProgramPath();

// "<the program's folder>/lib<name>.so".
StatusOr<std::string> PluginPath(const std::string& name);

// Loads the library for good and looks up a symbol of it. `global`: what the
// library loads itself may use its symbols.
// Errors: kNotFound, with the loader's reason.
StatusOr<void*> LoadPlugin(const std::string& path, const char* symbol,
                           bool global);

}  // namespace shoal

#endif  // SHOAL_BASE_PLUGIN_H_
