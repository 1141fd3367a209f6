#ifndef SHOAL_BASE_REGISTRY_H_
#define SHOAL_BASE_REGISTRY_H_

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/strcat.h"

namespace shoal {

// Named parts of one kind (ops, optimizers, transports ...). Filled by static
// objects before main() starts and only read afterwards, so it needs no lock.
template <typename T>
class Registry {
 public:
  // `kind` names the parts in errors: "transport".
  explicit Registry(std::string_view kind) : kind_(kind) {}

  // A name taken twice stops the program naming both files.
  bool Add(std::string_view name, T part, const char* file) {
    const auto [it, added] =
        parts_.emplace(std::string(name), Entry{std::move(part), file});
    if (!added) {
      std::fprintf(stderr, "%s '%s' is registered by %s and by %s\n",
                   kind_.c_str(), it->first.c_str(), it->second.file, file);
      std::abort();
    }
    return true;
  }

  // Errors: kNotFound, with the known names.
  StatusOr<const T*> Find(std::string_view name) const {
    const auto it = parts_.find(name);
    if (it == parts_.end()) {
      std::string known;
      for (const auto& [key, entry] : parts_) {
        known += known.empty() ? key : ", " + key;
      }
      return NotFoundError(
          StrCat("no ", kind_, " is called '", name, "'; there are: ", known));
    }
    return &it->second.part;
  }

  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& [key, entry] : parts_) {
      names.push_back(key);
    }
    return names;
  }

 private:
  struct Entry {
    T part;
    const char* file;
  };
  std::string kind_;
  std::map<std::string, Entry, std::less<>> parts_;
};

}  // namespace shoal

#endif  // SHOAL_BASE_REGISTRY_H_
