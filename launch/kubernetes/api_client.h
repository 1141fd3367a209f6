#ifndef SHOAL_LAUNCH_KUBERNETES_API_CLIENT_H_
#define SHOAL_LAUNCH_KUBERNETES_API_CLIENT_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"
#include "base/time.h"
#include "launch/kubernetes/cluster_access.h"

namespace shoal::launch {

struct ApiRequest {
  std::string method = "GET";
  std::string path;  // "/api/v1/...?query", encoded
  std::string body;
  std::string content_type = "application/json";
};

struct ApiReply {
  int code = 0;      // of HTTP
  std::string body;  // JSON
  Duration retry_after{};

  bool ok() const { return code >= 200 && code < 300; }
  // A server that is overloaded or has failed: the same again, later.
  bool transient() const { return code == 429 || code >= 500; }
  // "409 Conflict: Operation cannot be fulfilled ...".
  std::string ToString() const;
};

// "job metadata.name=a&b" as a value in a query.
std::string EncodeQuery(std::string_view text);

// Speaks HTTP with the API server of one cluster; https with a server whose
// certificate is verified. Blocks. One thread at a time, but for Cancel().
class ApiClient {
 public:
  // Blocks while a sign-in program runs; `cancelled` is asked meanwhile.
  // Errors: kInvalidArgument (the server's URL, a certificate or a key), those
  // of SignIn::Get().
  static StatusOr<std::unique_ptr<ApiClient>> Create(
      const ClusterAccess& access, const std::function<bool()>& cancelled);
  virtual ~ApiClient() = default;

  // Repeats the request with growing pauses (or those that the server asks for)
  // while the server can't be reached or answers 429 or 5xx. Other replies are
  // the caller's to judge.
  // Errors: kDeadlineExceeded (naming the last reason), kFailedPrecondition
  // (the server is not who it should be), kCancelled.
  virtual StatusOr<ApiReply> Call(const ApiRequest& request, Time deadline) = 0;

  // One GET whose reply comes line by line until the server ends it or
  // `on_line` returns false; nothing for `silence_max` counts as lost. A reply
  // with an error's code comes as such, without lines.
  // Errors: kUnavailable (not reached, or lost), kFailedPrecondition,
  // kCancelled.
  virtual StatusOr<ApiReply> Stream(
      const std::string& path, Duration silence_max,
      const std::function<bool(std::string_view)>& on_line) = 0;

  // Waits; false if cancelled meanwhile.
  virtual bool Pause(Duration duration) = 0;

  // Ends what runs and all later calls, from any thread. It may have to be
  // called again while a call is about to connect.
  virtual void Cancel() = 0;
};

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_KUBERNETES_API_CLIENT_H_
