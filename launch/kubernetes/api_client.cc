#include "launch/kubernetes/api_client.h"

#include <httplib.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include <nlohmann/json.hpp>
#include <openssl/pem.h>

#include "base/mutex.h"
#include "base/random.h"
#include "base/strcat.h"

namespace shoal::launch {
namespace {

constexpr time_t kConnectWithin = 5;  // seconds
constexpr time_t kReplyWithin = 30;   // seconds
constexpr Duration kFirstPause = 200ms;
constexpr Duration kPauseMax = std::chrono::seconds(10);
constexpr Duration kRetryAfterMax = std::chrono::seconds(60);
constexpr size_t kLineBytesMax = size_t{16} << 20;

template <typename T, void (*Free)(T*)>
struct OpenSslFree {
  void operator()(T* object) const { Free(object); }
};
using Bio = std::unique_ptr<BIO, OpenSslFree<BIO, BIO_free_all>>;
using Certificate = std::unique_ptr<X509, OpenSslFree<X509, X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, OpenSslFree<EVP_PKEY, EVP_PKEY_free>>;
using Store =
    std::unique_ptr<X509_STORE, OpenSslFree<X509_STORE, X509_STORE_free>>;

Bio Pem(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// Never asks the terminal for a password.
int NoPassword(char* /*buffer*/, int /*size*/, int /*write*/, void* /*data*/) {
  return -1;
}

StatusOr<Store> StoreOf(const std::string& pem) {
  Store store(X509_STORE_new());
  const Bio bio = Pem(pem);
  int count = 0;
  while (const Certificate certificate = Certificate(
             PEM_read_bio_X509(bio.get(), nullptr, &NoPassword, nullptr))) {
    X509_STORE_add_cert(store.get(), certificate.get());
    ++count;
  }
  if (count == 0) {
    return InvalidArgumentError("certificate-authority holds no certificate");
  }
  return store;
}

struct Url {
  bool tls = false;
  std::string host;
  int port = 0;
  std::string prefix;
};

StatusOr<Url> ParseUrl(const std::string& text) {
  Url url;
  std::string_view rest = text;
  url.tls = rest.starts_with("https://");
  if (!url.tls && !rest.starts_with("http://")) {
    return InvalidArgumentError(
        StrCat("'", text, "' is no https:// or http:// address"));
  }
  rest.remove_prefix(rest.find("//") + 2);
  const size_t slash = std::min(rest.find('/'), rest.size());
  url.prefix = rest.substr(slash);
  while (url.prefix.ends_with('/')) {
    url.prefix.pop_back();
  }
  std::string_view host = rest.substr(0, slash);
  url.port = url.tls ? 443 : 80;
  const size_t colon = host.rfind(':');
  if (colon != std::string_view::npos &&
      host.find(']', colon) == std::string_view::npos) {
    const std::string_view port = host.substr(colon + 1);
    const auto [at, error] =
        std::from_chars(port.data(), port.data() + port.size(), url.port);
    if (error != std::errc() || at != port.data() + port.size() ||
        url.port <= 0 || url.port > 65535) {
      return InvalidArgumentError(StrCat("'", text, "' has no valid port"));
    }
    host = host.substr(0, colon);
  }
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  }
  url.host = host;
  if (url.host.empty()) {
    return InvalidArgumentError(StrCat("'", text, "' names no host"));
  }
  return url;
}

class HttpApiClient : public ApiClient {
 public:
  explicit HttpApiClient(const ClusterAccess& access) : access_(access) {}

  Status Init(const std::function<bool()>& cancelled) {
    SHOAL_ASSIGN_OR_RETURN(url_, ParseUrl(access_.server));
    if (!url_.tls && (!access_.token.empty() || !access_.token_file.empty() ||
                      access_.sign_in != nullptr)) {
      return InvalidArgumentError(
          StrCat(access_.server, " is not https: no token is sent there"));
    }
    Credential credential = {.certificate_pem = access_.client_certificate_pem,
                             .key_pem = access_.client_key_pem};
    if (access_.sign_in != nullptr) {
      // A program that does not work is better said now than after retries.
      SHOAL_ASSIGN_OR_RETURN(credential, access_.sign_in->Get(cancelled));
    }
    return Connect(credential);
  }

  StatusOr<ApiReply> Call(const ApiRequest& request, Time deadline) override {
    const SystemClock clock;
    Duration pause = kFirstPause;
    while (true) {
      const StatusOr<ApiReply> reply = Send(request, kReplyWithin, nullptr);
      if (reply.ok() && !reply->transient()) {
        return reply;
      }
      if (!reply.ok() && reply.status().code() != StatusCode::kUnavailable) {
        return reply;
      }
      Duration wait = reply.ok() ? std::min(reply->retry_after, kRetryAfterMax)
                                 : Duration{};
      // Many clients that failed together must not come back together.
      const double jitter =
          0.5 + 0.5 * static_cast<double>(EntropySeed() % 1024) / 1024;
      wait = std::max(wait, FromSeconds(ToSeconds(pause) * jitter));
      pause = std::min(pause * 2, kPauseMax);
      if (clock.Now() + wait >= deadline) {
        return DeadlineExceededError(StrCat(
            access_.server, " ",
            reply.ok() ? StrCat("answers ", request.method, " ", request.path,
                                " with ", reply->ToString())
                       : reply.status().message(),
            "; gave up"));
      }
      if (!Pause(wait)) {
        return CancelledError("cancelled");
      }
    }
  }

  StatusOr<ApiReply> Stream(
      const std::string& path, Duration silence_max,
      const std::function<bool(std::string_view)>& on_line) override {
    return Send({.path = path},
                static_cast<time_t>(std::max(1.0, ToSeconds(silence_max))),
                &on_line);
  }

  bool Pause(Duration duration) override {
    const SystemClock clock;
    const Time end = clock.Now() + duration;
    const MutexLock lock(mutex_);
    while (!cancelled_ && clock.Now() < end) {
      cancel_.WaitFor(mutex_, end - clock.Now());
    }
    return !cancelled_;
  }

  void Cancel() override {
    std::shared_ptr<httplib::ClientImpl> http;
    {
      const MutexLock lock(mutex_);
      cancelled_ = true;
      http = http_;
    }
    cancel_.NotifyAll();
    http->stop();
  }

 private:
  // Makes `http_`, with the certificate of `credential` if it has one.
  Status Connect(const Credential& credential) {
    std::shared_ptr<httplib::ClientImpl> http;
    if (url_.tls) {
      SHOAL_ASSIGN_OR_RETURN(http, TlsClient(credential));
    } else {
      tls_ = nullptr;
      http = std::make_shared<httplib::ClientImpl>(url_.host, url_.port);
    }
    http->set_connection_timeout(kConnectWithin);
    http->set_write_timeout(kReplyWithin);
    http->set_keep_alive(true);
    http->set_tcp_nodelay(true);
    http->set_url_encode(false);
    certificate_pem_ = credential.certificate_pem;
    const MutexLock lock(mutex_);
    http_ = std::move(http);
    return OkStatus();
  }

  StatusOr<std::shared_ptr<httplib::ClientImpl>> TlsClient(
      const Credential& credential) {
    Certificate certificate;
    Key key;
    if (!credential.certificate_pem.empty()) {
      certificate.reset(PEM_read_bio_X509(Pem(credential.certificate_pem).get(),
                                          nullptr, &NoPassword, nullptr));
      key.reset(PEM_read_bio_PrivateKey(Pem(credential.key_pem).get(), nullptr,
                                        &NoPassword, nullptr));
      if (certificate == nullptr || key == nullptr ||
          X509_check_private_key(certificate.get(), key.get()) != 1) {
        return InvalidArgumentError(
            StrCat(access_.source,
                   ": client-certificate and client-key are no pair of PEM "
                   "texts without a password"));
      }
    }
    auto tls = std::make_shared<httplib::SSLClient>(
        url_.host, url_.port, certificate.get(), key.get());
    if (!tls->is_valid()) {
      return InvalidArgumentError(
          StrCat(access_.source, ": TLS does not take the certificates"));
    }
    if (!access_.ca_pem.empty()) {
      StatusOr<Store> store = StoreOf(access_.ca_pem);
      if (!store.ok()) {
        return store.status().WithPrefix(access_.source);
      }
      tls->set_ca_cert_store(store->release());  // takes it over
    }
    tls->enable_server_certificate_verification(true);
    tls_ = tls.get();
    return std::shared_ptr<httplib::ClientImpl>(std::move(tls));
  }

  bool cancelled() {
    const MutexLock lock(mutex_);
    return cancelled_;
  }

  // Once, and once more if the server refuses a credential that a sign-in
  // program gave and can give anew. Errors: those of Once().
  StatusOr<ApiReply> Send(
      const ApiRequest& call, time_t silence_max,
      const std::function<bool(std::string_view)>* on_line) {
    for (int tries = 1;; ++tries) {
      Credential credential;
      if (access_.sign_in != nullptr) {
        StatusOr<Credential> got =
            access_.sign_in->Get([this] { return cancelled(); });
        if (!got.ok()) {
          return got.status().WithPrefix("is not asked");
        }
        credential = *std::move(got);
        if (credential.certificate_pem != certificate_pem_) {
          SHOAL_RETURN_IF_ERROR(Connect(credential));
        }
      }
      http_->set_read_timeout(silence_max);
      StatusOr<ApiReply> reply = Once(call, credential.token, on_line);
      if (access_.sign_in == nullptr || !reply.ok() || reply->code != 401 ||
          tries > 1) {
        return reply;
      }
      access_.sign_in->Reject(credential);
    }
  }

  // Errors: kUnavailable (no reply), kFailedPrecondition, kCancelled.
  StatusOr<ApiReply> Once(
      const ApiRequest& call, const std::string& signed_token,
      const std::function<bool(std::string_view)>* on_line) {
    if (cancelled()) {
      return CancelledError("cancelled");
    }
    httplib::Request request;
    request.method = call.method;
    request.path = url_.prefix + call.path;
    request.headers = {{"Accept", "application/json"}, {"User-Agent", "shoal"}};
    SHOAL_RETURN_IF_ERROR(AddToken(signed_token, &request));
    if (!call.body.empty()) {
      request.headers.emplace("Content-Type", call.content_type);
      request.body = call.body;
    }
    ApiReply reply;
    std::string line;
    bool enough = false;
    if (on_line != nullptr) {
      request.response_handler = [&](const httplib::Response& response) {
        reply.code = response.status;
        return true;
      };
      request.content_receiver = [&](const char* data, size_t size,
                                     uint64_t /*offset*/, uint64_t /*total*/) {
        if (!reply.ok()) {
          reply.body.append(data, size);
          return true;
        }
        line.append(data, size);
        size_t begin = 0;
        for (size_t end = 0;
             (end = line.find('\n', begin)) != std::string::npos && !enough;
             begin = end + 1) {
          enough =
              !(*on_line)(std::string_view(line).substr(begin, end - begin));
        }
        line.erase(0, begin);
        return !enough && line.size() < kLineBytesMax;
      };
    }
    const httplib::Result result = http_->send(request);
    if (result == nullptr && !(enough && reply.ok())) {
      return Lost(result.error());
    }
    if (result != nullptr) {
      reply.code = result->status;
      if (on_line == nullptr) {
        reply.body = result->body;
      }
      const std::string after = result->get_header_value("Retry-After");
      int seconds = 0;
      std::from_chars(after.data(), after.data() + after.size(), seconds);
      reply.retry_after = std::chrono::seconds(seconds);
    }
    return reply;
  }

  Status AddToken(const std::string& signed_token,
                  httplib::Request* request) const {
    std::string token = signed_token.empty() ? access_.token : signed_token;
    if (!access_.token_file.empty()) {
      const StatusOr<std::string> text = ReadText(access_.token_file);
      token = text.ok() ? *text : "";
      while (!token.empty() && (token.back() == '\n' || token.back() == ' ')) {
        token.pop_back();
      }
      if (token.empty()) {
        return FailedPreconditionError(
            StrCat("the token in ", access_.token_file, " can't be read"));
      }
    }
    if (!token.empty()) {
      request->headers.emplace("Authorization", "Bearer " + token);
    }
    return OkStatus();
  }

  Status Lost(httplib::Error error) {
    if (cancelled()) {
      return CancelledError("cancelled");
    }
    if (error == httplib::Error::SSLServerVerification) {
      const long result = tls_->get_openssl_verify_result();
      return FailedPreconditionError(
          StrCat(access_.server, ": the server's certificate is not trusted: ",
                 result == X509_V_OK ? "it is for another name"
                                     : X509_verify_cert_error_string(result),
                 " (", access_.source, ")"));
    }
    if (error == httplib::Error::SSLLoadingCerts) {
      return FailedPreconditionError(StrCat(access_.server,
                                            ": the certificates of ",
                                            access_.source, " do not load"));
    }
    return UnavailableError(
        StrCat("does not answer: ", httplib::to_string(error)));
  }

  const ClusterAccess access_;
  Url url_;
  std::string certificate_pem_;        // that `http_` shows
  httplib::SSLClient* tls_ = nullptr;  // `http_` if it speaks TLS
  // Changed by the thread that calls, under `mutex_`, since others cancel it.
  std::shared_ptr<httplib::ClientImpl> http_;
  Mutex mutex_;
  CondVar cancel_;
  bool cancelled_ SHOAL_GUARDED_BY(mutex_) = false;
};

}  // namespace

std::string ApiReply::ToString() const {
  const nlohmann::json status =
      nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
  std::string text = std::to_string(code);
  if (status.is_object()) {
    for (const char* key : {"reason", "message"}) {
      if (status.contains(key) && status[key].is_string()) {
        text +=
            StrCat(key[0] == 'r' ? " " : ": ", status[key].get<std::string>());
      }
    }
  }
  return text;
}

std::string EncodeQuery(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' ||
        c == '.' || c == '_') {
      out += c;
    } else {
      char code[4];
      std::snprintf(code, sizeof(code), "%%%02X",
                    static_cast<unsigned char>(c));
      out += code;
    }
  }
  return out;
}

StatusOr<std::unique_ptr<ApiClient>> ApiClient::Create(
    const ClusterAccess& access, const std::function<bool()>& cancelled) {
  auto client = std::make_unique<HttpApiClient>(access);
  SHOAL_RETURN_IF_ERROR(client->Init(cancelled));
  return std::unique_ptr<ApiClient>(std::move(client));
}

}  // namespace shoal::launch
