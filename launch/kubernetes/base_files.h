#ifndef SHOAL_LAUNCH_KUBERNETES_BASE_FILES_H_
#define SHOAL_LAUNCH_KUBERNETES_BASE_FILES_H_

#include <span>
#include <string_view>

namespace shoal::launch {

struct BaseFile {
  std::string_view name;
  std::string_view text;
};

// The manifests of k8s/job and k8s/base, put into the program when it is built.
std::span<const BaseFile> BaseFiles();

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_KUBERNETES_BASE_FILES_H_
