#ifndef SHOAL_LAUNCH_KUBERNETES_CLUSTER_ACCESS_H_
#define SHOAL_LAUNCH_KUBERNETES_CLUSTER_ACCESS_H_

#include <memory>
#include <string>

#include "base/status.h"
#include "launch/kubernetes/sign_in.h"

namespace shoal::launch {

// Where a Kubernetes API server is, how it proves who it is, and how this
// program does. Certificates and keys are PEM texts; what is empty is not used.
struct ClusterAccess {
  std::string server;  // "https://HOST[:PORT][/PATH]"; http for proxies
  std::string ca_pem;  // empty: what the system trusts
  std::string client_certificate_pem;
  std::string client_key_pem;
  std::string token;
  std::string token_file;  // read before each request: tokens are renewed
  // A program that gives token or certificate, shared by all who connect.
  std::shared_ptr<SignIn> sign_in;
  std::string kube_namespace = "default";
  std::string source;  // where all of this was found, for messages
};

struct AccessOptions {
  std::string kubeconfig;  // a file; empty: $KUBECONFIG, then ~/.kube/config
  std::string context;     // empty: the current one
  std::string service_account_folder =
      "/var/run/secrets/kubernetes.io/serviceaccount";
};

// As kubectl does: the files named, else those of $KUBECONFIG (separated by
// ':', the first that has a name wins), else ~/.kube/config, else the service
// account of the pod that this process runs in.
//
// Errors: kNotFound (there is none of these, or no such context),
// kInvalidArgument (a file does not say what it must), kUnimplemented (it asks
// for what Shoal does not do: sign-in programs that want a terminal,
// connections without verification: the text says what to do instead).
StatusOr<ClusterAccess> FindCluster(const AccessOptions& options);

// All of a file. Errors: kNotFound (it can't be read).
StatusOr<std::string> ReadText(const std::string& path);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_KUBERNETES_CLUSTER_ACCESS_H_
