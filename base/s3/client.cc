#include "base/s3/client.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <curl/curl.h>
#include <openssl/evp.h>

#include "base/log.h"
#include "base/mutex.h"
#include "base/random.h"
#include "base/strcat.h"

namespace shoal {
namespace {

constexpr Duration kFirstPause = 100ms;
constexpr Duration kPauseMax = 5s;
constexpr long kStalledBytesPerSecond = 1024;

std::string Variable(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing writes the environment.
    const char* const value = std::getenv(name);
    if (value != nullptr && value[0] != '\0') {
      return value;
    }
  }
  return "";
}

// Calls `take(data, size)` with the body's bytes until it returns false.
template <typename Take>
void VisitBody(const S3Request& request, int64_t skip, Take take) {
  int64_t at = request.begin + skip;  // in the pieces that are left
  int64_t left = request.size - skip;
  for (const Buffer& piece : request.pieces) {
    if (at >= piece.size()) {
      at -= piece.size();
      continue;
    }
    const int64_t n = std::min(left, piece.size() - at);
    if (n == 0 || !take(piece.data() + at, n)) {
      return;
    }
    at = 0;
    left -= n;
  }
}

// Part of the signature, so that any store refuses a body that was changed on
// its way, whichever checksum headers it knows.
std::string Sha256OfBody(const S3Request& request) {
  EVP_MD_CTX* const context = EVP_MD_CTX_new();
  EVP_DigestInit_ex(context, EVP_sha256(), nullptr);
  VisitBody(request, 0, [&](const std::byte* data, int64_t size) {
    return EVP_DigestUpdate(context, data, static_cast<size_t>(size)) == 1;
  });
  unsigned char digest[32];
  EVP_DigestFinal_ex(context, digest, nullptr);
  EVP_MD_CTX_free(context);
  std::string hex;
  for (const unsigned char byte : digest) {
    hex += "0123456789abcdef"[byte >> 4];
    hex += "0123456789abcdef"[byte & 15];
  }
  return hex;
}

// What the callbacks of one transfer work on.
struct Transfer {
  CURL* curl = nullptr;
  const S3Request* request = nullptr;
  int64_t sent = 0;
  int64_t body_bytes_max = 0;
  std::shared_ptr<std::vector<std::byte>> body;
  std::string etag;
  std::string bucket_region;
  bool too_large = false;
};

size_t OnRead(char* to, size_t size, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  size_t have = 0;
  VisitBody(*transfer.request, transfer.sent,
            [&](const std::byte* data, int64_t n) {
              const size_t take =
                  std::min(size * count - have, static_cast<size_t>(n));
              std::memcpy(to + have, data, take);
              have += take;
              return have < size * count;
            });
  transfer.sent += static_cast<int64_t>(have);
  return have;
}

// When a connection that was kept turns out to be closed.
int OnSeek(void* user, curl_off_t offset, int origin) {
  auto& transfer = *static_cast<Transfer*>(user);
  if (origin != SEEK_SET || offset > transfer.request->size) {
    return CURL_SEEKFUNC_CANTSEEK;
  }
  transfer.sent = offset;
  return CURL_SEEKFUNC_OK;
}

size_t OnWrite(const char* data, size_t size, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  const size_t n = size * count;
  std::vector<std::byte>& body = *transfer.body;
  if (body.empty()) {
    curl_off_t length = -1;
    curl_easy_getinfo(transfer.curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T,
                      &length);
    transfer.too_large = length > transfer.body_bytes_max;
    if (length > 0 && !transfer.too_large) {
      body.reserve(static_cast<size_t>(length));
    }
  }
  if (transfer.too_large ||
      static_cast<int64_t>(body.size() + n) > transfer.body_bytes_max) {
    transfer.too_large = true;
    return 0;  // Ends the transfer.
  }
  const auto* const bytes = reinterpret_cast<const std::byte*>(data);
  body.insert(body.end(), bytes, bytes + n);
  return n;
}

// Asked for all the time, once a second at least.
int OnProgress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return static_cast<const std::atomic<bool>*>(user)->load() ? 1 : 0;
}

size_t OnHeader(const char* data, size_t size, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  const std::string_view line(data, size * count);
  const auto take = [&](std::string_view name, std::string* value) {
    if (line.size() > name.size() &&
        curl_strnequal(line.data(), name.data(), name.size()) != 0) {
      const size_t begin = line.find_first_not_of(" \t\r\n", name.size());
      const size_t end = line.find_last_not_of(" \t\r\n");
      *value = begin == std::string_view::npos
                   ? ""
                   : std::string(line.substr(begin, end + 1 - begin));
    }
  };
  take("etag:", &transfer.etag);
  take("x-amz-bucket-region:", &transfer.bucket_region);
  return size * count;
}

// A connection that the store has closed must not end the process. The signal
// of a write comes to the thread that wrote.
class PipeSignalsBlocked {
 public:
  PipeSignalsBlocked() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~PipeSignalsBlocked() {
    if (sigismember(&before_, SIGPIPE) == 0) {
      const timespec now = {};
      while (sigtimedwait(&pipe_, nullptr, &now) > 0) {
      }
      pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    }
  }
  PipeSignalsBlocked(const PipeSignalsBlocked&) = delete;
  PipeSignalsBlocked& operator=(const PipeSignalsBlocked&) = delete;

 private:
  sigset_t pipe_;
  sigset_t before_;
};

long Milliseconds(Duration duration) {
  // 0 would mean for ever.
  return std::max<long>(
      1, std::chrono::ceil<std::chrono::milliseconds>(duration).count());
}

bool IsOneOf(const std::string& word,
             std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

}  // namespace

const std::array<const char*, 8> S3Options::kVariables = {
    "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL",  "AWS_REGION",
    "AWS_DEFAULT_REGION",  "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",   "AWS_CA_BUNDLE"};

S3Options S3Options::FromEnvironment() {
  S3Options options;
  options.endpoint = Variable({"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"});
  options.region = Variable({"AWS_REGION", "AWS_DEFAULT_REGION"});
  options.access_key = Variable({"AWS_ACCESS_KEY_ID"});
  options.secret_key = Variable({"AWS_SECRET_ACCESS_KEY"});
  options.session_token = Variable({"AWS_SESSION_TOKEN"});
  options.ca_file = Variable({"AWS_CA_BUNDLE"});
  return options;
}

// Handles that are not in use keep their connections.
struct S3Client::Connections {
  Mutex mutex;
  CondVar cancelling;
  std::atomic<bool> cancelled = false;
  std::vector<CURL*> idle SHOAL_GUARDED_BY(mutex);

  ~Connections() {
    for (CURL* const curl : idle) {
      curl_easy_cleanup(curl);
    }
  }
  CURL* Take() {
    {
      const MutexLock lock(mutex);
      if (!idle.empty()) {
        CURL* const curl = idle.back();
        idle.pop_back();
        return curl;
      }
    }
    return curl_easy_init();
  }
  void Give(CURL* curl) {
    curl_easy_reset(curl);  // All but its connections.
    const MutexLock lock(mutex);
    idle.push_back(curl);
  }
};

// What came of one try.
struct S3Client::Try {
  std::string trouble;  // of the connection; empty: the store has answered
  bool final = false;   // another try would fail alike
  Status status;        // of what is final and no answer
  long http = 0;
  S3Refusal refusal;
  std::string bucket_region;
  S3Reply reply;
};

S3Client::S3Client(S3Options options)
    : options_([&] {
        if (options.region.empty()) {
          options.region = "us-east-1";
        }
        while (options.endpoint.ends_with('/')) {
          options.endpoint.pop_back();
        }
        return std::move(options);
      }()),
      connections_(std::make_unique<Connections>()) {}

S3Client::~S3Client() = default;

Status S3Client::CheckSettings() const {
  const std::string& endpoint = options_.endpoint;
  const size_t scheme = endpoint.find("://");
  // A password in the URL is not repeated.
  if (endpoint.find('@') != std::string::npos) {
    return FailedPreconditionError(
        "AWS_ENDPOINT_URL has a '@': credentials do not belong there, but in "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
  }
  if (!endpoint.empty() &&
      ((!endpoint.starts_with("http://") &&
        !endpoint.starts_with("https://")) ||
       scheme + 3 == endpoint.size() ||
       endpoint.find_first_of("/?# ", scheme + 3) != std::string::npos)) {
    return FailedPreconditionError(
        StrCat("AWS_ENDPOINT_URL is '", endpoint,
               "'; expected http://HOST:PORT or https://HOST"));
  }
  if (options_.access_key.empty() || options_.secret_key.empty()) {
    return FailedPreconditionError(StrCat(
        "there are no credentials: set ",
        options_.access_key.empty() ? "AWS_ACCESS_KEY_ID" : "",
        options_.access_key.empty() && options_.secret_key.empty() ? " and "
                                                                   : "",
        options_.secret_key.empty() ? "AWS_SECRET_ACCESS_KEY" : "",
        " (and AWS_SESSION_TOKEN for temporary ones) in the environment "
        "of every process of the job"));
  }
  return OkStatus();
}

std::string S3Client::UrlOf(const S3Request& request) const {
  const std::string& bucket = request.path.bucket;
  std::string url;
  if (!options_.endpoint.empty()) {
    url = StrCat(options_.endpoint, "/", bucket, "/");
  } else if (bucket.find('.') != std::string::npos) {
    // No certificate is for a host name with more dots.
    url =
        StrCat("https://s3.", options_.region, ".amazonaws.com/", bucket, "/");
  } else {
    url =
        StrCat("https://", bucket, ".s3.", options_.region, ".amazonaws.com/");
  }
  url += PercentEncoded(request.path.key, true);
  // Signatures want them sorted, each with its '='.
  char separator = '?';
  for (const auto& [name, value] : request.query) {
    url += separator;
    url +=
        StrCat(PercentEncoded(name, false), "=", PercentEncoded(value, false));
    separator = '&';
  }
  return url;
}

S3Client::Try S3Client::SendOnce(const S3Request& request,
                                 const std::string& url,
                                 const std::string& sha256) {
  static const CURLcode kStarted = curl_global_init(CURL_GLOBAL_DEFAULT);
  (void)kStarted;
  CURL* const curl = connections_->Take();
  Transfer transfer = {.curl = curl,
                       .request = &request,
                       .body_bytes_max = options_.object_bytes_max,
                       .body = std::make_shared<std::vector<std::byte>>()};
  char detail[CURL_ERROR_SIZE] = "";
  const std::string provider = StrCat("aws:amz:", options_.region, ":s3");
  const std::string user =
      StrCat(options_.access_key, ":", options_.secret_key);
  curl_slist* headers = nullptr;
  const auto add = [&](const std::string& line) {
    headers = curl_slist_append(headers, line.c_str());
  };
  add(StrCat("x-amz-content-sha256: ", sha256));
  if (!options_.session_token.empty()) {
    add(StrCat("x-amz-security-token: ", options_.session_token));
  }
  for (const std::string& line : request.headers) {
    add(line);
  }
  const auto set = [&](CURLoption option, auto value) {
    curl_easy_setopt(curl, option, value);
  };
  set(CURLOPT_URL, url.c_str());
  set(CURLOPT_PATH_AS_IS, 1L);
  set(CURLOPT_CUSTOMREQUEST, request.method);
  set(CURLOPT_AWS_SIGV4, provider.c_str());
  set(CURLOPT_USERPWD, user.c_str());
  set(CURLOPT_HTTPHEADER, headers);
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_ERRORBUFFER, detail);
  set(CURLOPT_CONNECTTIMEOUT_MS, Milliseconds(options_.connect_within));
  set(CURLOPT_TIMEOUT_MS, Milliseconds(options_.request_within));
  set(CURLOPT_LOW_SPEED_LIMIT,
      request.store_works ? 0L : kStalledBytesPerSecond);
  set(CURLOPT_LOW_SPEED_TIME,
      (Milliseconds(options_.stalled_within) + 999) / 1000);
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, &OnProgress);
  set(CURLOPT_XFERINFODATA, &connections_->cancelled);
  set(CURLOPT_WRITEFUNCTION, &OnWrite);
  set(CURLOPT_WRITEDATA, &transfer);
  set(CURLOPT_HEADERFUNCTION, &OnHeader);
  set(CURLOPT_HEADERDATA, &transfer);
  if (std::string_view(request.method).starts_with('P')) {  // PUT, POST
    set(CURLOPT_UPLOAD, 1L);
    set(CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(request.size));
    set(CURLOPT_READFUNCTION, &OnRead);
    set(CURLOPT_READDATA, &transfer);
    set(CURLOPT_SEEKFUNCTION, &OnSeek);
    set(CURLOPT_SEEKDATA, &transfer);
  }
  if (!options_.ca_file.empty()) {
    set(CURLOPT_CAINFO, options_.ca_file.c_str());
  }
  CURLcode code = CURLE_OK;
  {
    const PipeSignalsBlocked blocked;
    code = curl_easy_perform(curl);
  }
  Try result;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &result.http);
  curl_off_t length = -1;
  curl_easy_getinfo(curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
  connections_->Give(curl);
  curl_slist_free_all(headers);

  std::vector<std::byte>& body = *transfer.body;
  if (transfer.too_large) {
    result.final = true;
    result.status = ResourceExhaustedError(
        StrCat("it has more than ", options_.object_bytes_max, " bytes"));
  } else if (code != CURLE_OK) {
    result.trouble =
        StrCat(curl_easy_strerror(code), detail[0] == '\0' ? "" : ": ", detail);
    result.final = code == CURLE_URL_MALFORMAT ||
                   code == CURLE_UNSUPPORTED_PROTOCOL ||
                   code == CURLE_PEER_FAILED_VERIFICATION ||
                   code == CURLE_SSL_CACERT_BADFILE;
    result.status = FailedPreconditionError(result.trouble);
  } else if (result.http == 200 && length < 0 &&
             std::string_view(request.method) == "GET" &&
             request.query.empty()) {
    // Its end can't be told from a loss of the connection.
    result.trouble = "the answer does not say how long it is";
  } else if (result.http >= 200 && result.http < 300) {
    const S3Refusal late = ParseS3Refusal(
        {reinterpret_cast<const char*>(body.data()), body.size()});
    if (!late.code.empty() && std::string_view(request.method) != "GET") {
      // Long work begins its answer before it knows how it ends.
      result.http = 500;
      result.refusal = late;
      return result;
    }
    std::byte* const data = body.data();
    const auto size = static_cast<int64_t>(body.size());
    result.reply = {.body = Buffer::Wrap(data, size, std::move(transfer.body)),
                    .etag = std::move(transfer.etag)};
  } else {
    result.refusal = ParseS3Refusal(
        {reinterpret_cast<const char*>(body.data()), body.size()});
  }
  result.bucket_region = std::move(transfer.bucket_region);
  return result;
}

// An answer that is no success, as a status: kUnavailable alone is worth
// another try.
Status S3Client::Refused(const Try& result) const {
  const std::string& code = result.refusal.code;
  const std::string said = StrCat(
      "HTTP ", result.http, code.empty() ? "" : " ", code,
      result.refusal.message.empty() ? "" : ": ", result.refusal.message);
  if (result.http == 507 ||
      IsOneOf(code, {"QuotaExceeded", "XMinioStorageFull"})) {
    return ResourceExhaustedError(StrCat(said, "; the store is full"));
  }
  if (result.http == 429 || (result.http >= 500 && result.http != 501) ||
      IsOneOf(code, {"SlowDown", "RequestTimeout", "InternalError",
                     "OperationAborted"})) {
    return UnavailableError(said);
  }
  if (code == "NoSuchBucket") {
    return FailedPreconditionError(
        StrCat(said, "; make the bucket, or correct its name or the endpoint"));
  }
  if (result.http == 404) {
    return NotFoundError(said);
  }
  if (result.http == 301 || result.http == 307 ||
      code == "AuthorizationHeaderMalformed") {
    return FailedPreconditionError(
        StrCat(said, "; the bucket is in ",
               result.bucket_region.empty() ? "another region"
                                            : "region " + result.bucket_region,
               ", and AWS_REGION says ", options_.region));
  }
  if (code == "RequestTimeTooSkewed") {
    return FailedPreconditionError(
        StrCat(said, "; set the clock of this machine"));
  }
  if (code == "ExpiredToken") {
    return FailedPreconditionError(
        StrCat(said, "; get new credentials: AWS_SESSION_TOKEN is too old"));
  }
  if (code == "AccessDenied") {
    return FailedPreconditionError(StrCat(
        said,
        "; the credentials do not allow that: s3:ListBucket, s3:GetObject, "
        "s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload are needed "
        "(without s3:ListBucket, a file that is not there is refused so too)"));
  }
  if (result.http == 401 || result.http == 403) {
    return FailedPreconditionError(
        StrCat(said,
               "; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
               "AWS_SESSION_TOKEN"));
  }
  return FailedPreconditionError(said);
}

void S3Client::Cancel() {
  {
    const MutexLock lock(connections_->mutex);
    connections_->cancelled = true;
  }
  connections_->cancelling.NotifyAll();
}

bool S3Client::PauseUnlessCancelled(Duration pause) {
  const SystemClock clock;
  const Time end = clock.Now() + pause;
  const MutexLock lock(connections_->mutex);
  while (!connections_->cancelled && clock.Now() < end) {
    connections_->cancelling.WaitFor(connections_->mutex, end - clock.Now());
  }
  return !connections_->cancelled;
}

StatusOr<S3Reply> S3Client::Send(const S3Request& request) {
  const SystemClock clock;
  const Time begin = clock.Now();
  const Time end = begin + options_.retry_within;
  const std::string what = StrCat(request.method, " ", request.path.Text());
  SHOAL_RETURN_IF_ERROR(CheckSettings().WithPrefix(what));
  const std::string url = UrlOf(request);
  const std::string where = StrCat(
      what, " at ", url.substr(0, url.find('/', std::strlen("https://"))));
  const std::string sha256 = Sha256OfBody(request);
  Random random(EntropySeed());
  Duration pause = kFirstPause;
  for (int tries = 1;; ++tries) {
    Try result = SendOnce(request, url, sha256);
    Status status;
    if (result.final) {
      status = std::move(result.status);
    } else if (!result.trouble.empty()) {
      status = UnavailableError(result.trouble);
    } else if (result.http >= 200 && result.http < 300) {
      return std::move(result.reply);
    } else {
      status = Refused(result);
    }
    if (connections_->cancelled) {
      return CancelledError(StrCat(where, ": called off"));
    }
    if (status.code() != StatusCode::kUnavailable) {
      return status.WithPrefix(where);
    }
    // Half of the pause is by chance, so that many clients do not come at once.
    const Duration wait =
        FromSeconds(ToSeconds(pause) * (0.5 + 0.5 * random.Uniform()));
    if (clock.Now() + wait >= end) {
      return UnavailableError(StrCat(where, ": ", status.message(),
                                     " (given up after ", tries,
                                     tries == 1 ? " try" : " tries", " in ",
                                     ToString(clock.Now() - begin), ")"));
    }
    if (tries == 1) {
      LogWarning(where, ": ", status.message(), "; trying again for up to ",
                 ToString(options_.retry_within));
    }
    if (!PauseUnlessCancelled(wait)) {
      return CancelledError(StrCat(where, ": called off"));
    }
    pause = std::min(2 * pause, kPauseMax);
  }
}

}  // namespace shoal
