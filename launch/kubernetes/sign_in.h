#ifndef SHOAL_LAUNCH_KUBERNETES_SIGN_IN_H_
#define SHOAL_LAUNCH_KUBERNETES_SIGN_IN_H_

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "base/time.h"

namespace shoal::launch {

// A sign-in program of a kubeconfig (`exec` of a user), as EKS, GKE and AKS
// have them: it prints an ExecCredential of client.authentication.k8s.io.
struct SignInProgram {
  std::string user;     // "FILE: user NAME", for messages
  std::string command;  // a path, or a name in PATH
  std::vector<std::string> args;
  std::vector<std::pair<std::string, std::string>> env;
  std::string api_version;
  std::string cluster_json;  // told to the program; empty: nothing
  std::string install_hint;
};

struct Credential {
  std::string token;
  std::string certificate_pem;  // with a key, or neither
  std::string key_pem;
};

// Runs a sign-in program, and again when what it gave expires or is refused.
// Thread-safe; threads that ask meanwhile wait.
class SignIn {
 public:
  // `within`: the time that the program has.
  explicit SignIn(SignInProgram program,
                  Duration within = std::chrono::seconds(60))
      : program_(std::move(program)), within_(within) {}

  // Blocks while the program runs; `cancelled` is asked every 50 ms.
  // Errors: kFailedPrecondition (there is no such program, or it gives no
  // credential), kUnavailable (it failed, or took too long: another time may
  // do), kCancelled. All name the program and say how to install it.
  StatusOr<Credential> Get(const std::function<bool()>& cancelled);

  // The server has refused `credential`: the next Get() asks anew.
  void Reject(const Credential& credential);

 private:
  Status Failed(StatusCode code, std::string_view why) const;
  StatusOr<std::string> Run(const std::function<bool()>& cancelled) const;

  const SignInProgram program_;
  const Duration within_;
  Mutex mutex_;
  bool known_ SHOAL_GUARDED_BY(mutex_) = false;
  Credential credential_ SHOAL_GUARDED_BY(mutex_);
  int64_t expires_ SHOAL_GUARDED_BY(mutex_) = 0;  // Unix time; 0: never
};

// "2026-01-31T12:00:00Z" and its other spellings by RFC 3339, as Unix time.
// Errors: kInvalidArgument.
StatusOr<int64_t> ParseTime(const std::string& text);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_KUBERNETES_SIGN_IN_H_
