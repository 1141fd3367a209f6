#ifndef SHOAL_BASE_S3_CLIENT_H_
#define SHOAL_BASE_S3_CLIENT_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/s3/names.h"
#include "base/status.h"
#include "base/time.h"

namespace shoal {

struct S3Options {
  std::string endpoint;  // http(s)://HOST[:PORT]; empty: Amazon's of `region`
  std::string region;    // empty: us-east-1
  std::string access_key;
  std::string secret_key;
  std::string session_token;  // empty: the credentials are lasting ones
  std::string ca_file;        // certificates to trust; empty: the system's

  Duration connect_within = 10s;  // each try
  Duration stalled_within = 20s;  // each try moves 1 KiB/s at least
  Duration request_within = std::chrono::minutes(5);  // each try
  // From the first try of a request on; then none is begun any more.
  Duration retry_within = std::chrono::minutes(2);
  int64_t object_bytes_max = int64_t{16} << 30;  // larger ones are not read
  // Files larger than this are sent in parts of this size. Stores want 5 MiB
  // or more and at most 10,000 parts.
  int64_t part_bytes = int64_t{64} << 20;

  // Reads the variables that programs for S3 have in common:
  // AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, AWS_REGION or AWS_DEFAULT_REGION,
  // AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_CA_BUNDLE.
  static S3Options FromEnvironment();
  static const std::array<const char*, 8> kVariables;  // their names
};

struct S3Request {
  const char* method = "GET";
  S3Path path;
  std::map<std::string, std::string> query;
  std::vector<std::string> headers;  // "name: value"
  // The body: bytes [begin, begin + size) of `pieces` one after another.
  std::span<const Buffer> pieces;
  int64_t begin = 0;
  int64_t size = 0;
  // The answer may take long, while nothing is sent either way.
  bool store_works = false;
};

struct S3Reply {
  Buffer body;
  std::string etag;
};

// Signed requests to one store.
//
// Thread-safe: requests of several threads go at once, over connections that
// are kept for later ones.
class S3Client {
 public:
  explicit S3Client(S3Options options);
  ~S3Client();
  S3Client(const S3Client&) = delete;
  S3Client& operator=(const S3Client&) = delete;

  // Blocks. Where the store is busy, fails or can't be reached, or its answer
  // is cut off, tries again, after pauses that double, until `retry_within`.
  // The texts name the path, the endpoint and what to do, never a secret.
  // Errors: kNotFound (no such object or upload), kResourceExhausted (the store
  // is full, or the object too large), kFailedPrecondition (no credentials, or
  // the store refuses them; no such bucket; another region; a certificate that
  // is not trusted), kUnavailable (it has not worked until the deadline).
  StatusOr<S3Reply> Send(const S3Request& request);

  // Requests that are under way, and all to come, end with kCancelled within a
  // second or so. From any thread.
  void Cancel();

  const S3Options& options() const { return options_; }

 private:
  struct Connections;
  struct Try;
  bool PauseUnlessCancelled(Duration pause);
  std::string UrlOf(const S3Request& request) const;
  Status CheckSettings() const;
  Try SendOnce(const S3Request& request, const std::string& url,
               const std::string& sha256);
  Status Refused(const Try& result) const;

  const S3Options options_;
  const std::unique_ptr<Connections> connections_;
};

}  // namespace shoal

#endif  // SHOAL_BASE_S3_CLIENT_H_
