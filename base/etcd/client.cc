#include "base/etcd/client.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include <curl/curl.h>
#include <nlohmann/json.hpp>
#include <openssl/evp.h>

#include "base/strcat.h"

namespace shoal {
namespace {

using Json = nlohmann::json;

// Of an answer; etcd takes no greater requests than 1.5 MiB.
constexpr size_t kAnswerBytesMax = size_t{8} << 20;

// Codes of gRPC that the gateway passes on.
constexpr int kGrpcDeadlineExceeded = 4;
constexpr int kGrpcNotFound = 5;
constexpr int kGrpcUnavailable = 14;

std::string ToBase64(const std::string& bytes) {
  std::string text(4 * ((bytes.size() + 2) / 3) + 1, '\0');
  const int size =
      EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                      reinterpret_cast<const unsigned char*>(bytes.data()),
                      static_cast<int>(bytes.size()));
  text.resize(static_cast<size_t>(size));
  return text;
}

std::optional<std::string> FromBase64(const std::string& text) {
  if (text.size() % 4 != 0) {
    return std::nullopt;
  }
  std::string bytes(text.size() / 4 * 3, '\0');
  const int size =
      EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                      reinterpret_cast<const unsigned char*>(text.data()),
                      static_cast<int>(text.size()));
  if (size < 0) {
    return std::nullopt;
  }
  // What the padding stands for counts as bytes there.
  const size_t padding =
      text.ends_with("==") ? 2U : (text.ends_with('=') ? 1U : 0U);
  bytes.resize(static_cast<size_t>(size) - padding);
  return bytes;
}

// Numbers of 64 bits are texts; those that are zero are left out.
std::optional<int64_t> NumberAt(const Json& json, const char* key) {
  if (!json.is_object()) {
    return std::nullopt;
  }
  const auto at = json.find(key);
  if (at == json.end()) {
    return 0;
  }
  if (at->is_number_integer()) {
    return at->get<int64_t>();
  }
  if (!at->is_string()) {
    return std::nullopt;
  }
  const std::string& text = at->get_ref<const std::string&>();
  int64_t number = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return number;
}

StatusOr<Json> ParseAnswer(const std::string& body) {
  Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return InternalError(
        StrCat("etcd's answer is no JSON object: ", body.substr(0, 100)));
  }
  return json;
}

Status OddAnswer(const char* what) {
  return InternalError(StrCat("etcd's answer has no ", what,
                              " as version 3.4 and later have it; is this "
                              "port another service's?"));
}

size_t OnWrite(const char* data, size_t size, size_t count, void* user) {
  auto& body = *static_cast<std::string*>(user);
  if (body.size() + size * count > kAnswerBytesMax) {
    return 0;  // Ends the transfer.
  }
  body.append(data, size * count);
  return size * count;
}

int OnProgress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return *static_cast<const std::atomic<bool>*>(user) ? 1 : 0;
}

// Tokens run out, and end with every change of who may do what.
bool IsOfAnOldToken(const std::string& body) {
  return body.find("invalid auth token") != std::string::npos ||
         body.find("revision of auth store is old") != std::string::npos;
}

// Whether another member may do better.
Status Refused(long http, const std::string& body) {
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  std::string said = StrCat("HTTP ", http);
  int64_t code = 0;
  if (json.is_object()) {
    const auto text = json.find("error");
    if (text != json.end() && text->is_string()) {
      said = text->get<std::string>();
    }
    code = NumberAt(json, "code").value_or(0);
  }
  if (code == kGrpcNotFound) {
    return NotFoundError(said);
  }
  if (code == kGrpcUnavailable || code == kGrpcDeadlineExceeded ||
      http == 503 || http == 504 || http == 429) {
    return UnavailableError(said);
  }
  if (json.is_discarded()) {
    return InternalError(StrCat(said, ", and no JSON: is this port etcd's?"));
  }
  return FailedPreconditionError(said);
}

}  // namespace

StatusOr<EtcdClient::Options> EtcdClient::OptionsFor(
    const EtcdAddress& address) {
  Options options{.hosts = address.hosts, .tls = address.tls};
  SHOAL_ASSIGN_OR_RETURN(options.access, EtcdAccess::Read());
  return options;
}

StatusOr<std::string> EtcdClient::PostTo(const std::string& host,
                                         const char* path,
                                         const std::string& body) {
  bool token_is_old = false;
  if (options_.access.user.empty()) {
    return PostOnce(host, path, body, "", token_is_old);
  }
  SHOAL_ASSIGN_OR_RETURN(std::string token, Token(host));
  StatusOr<std::string> answer =
      PostOnce(host, path, body, token, token_is_old);
  if (!token_is_old) {
    return answer;
  }
  {
    const MutexLock lock(mutex_);
    if (token_ == token) {
      token_.clear();
    }
  }
  SHOAL_ASSIGN_OR_RETURN(token, Token(host));
  return PostOnce(host, path, body, token, token_is_old);
}

StatusOr<std::string> EtcdClient::Token(const std::string& host) {
  {
    const MutexLock lock(mutex_);
    if (!token_.empty()) {
      return token_;
    }
  }
  bool token_is_old = false;
  SHOAL_ASSIGN_OR_RETURN(const std::string body,
                         PostOnce(host, "auth/authenticate",
                                  Json{{"name", options_.access.user},
                                       {"password", options_.access.password}}
                                      .dump(-1, ' ', /*ensure_ascii=*/false,
                                            Json::error_handler_t::replace),
                                  "", token_is_old));
  SHOAL_ASSIGN_OR_RETURN(const Json json, ParseAnswer(body));
  const auto token = json.find("token");
  if (token == json.end() || !token->is_string()) {
    return OddAnswer("token");
  }
  const MutexLock lock(mutex_);
  token_ = token->get<std::string>();
  return token_;
}

StatusOr<std::string> EtcdClient::PostOnce(const std::string& host,
                                           const char* path,
                                           const std::string& body,
                                           const std::string& token,
                                           bool& token_is_old) {
  token_is_old = false;
  static const CURLcode kStarted = curl_global_init(CURL_GLOBAL_DEFAULT);
  (void)kStarted;
  // One for each call: a call that waits must not keep another from leaving.
  CURL* const curl = curl_easy_init();
  const std::string scheme = options_.tls ? "https" : "http";
  const std::string url = StrCat(scheme, "://", host, "/v3/", path);
  const long within = std::max<long>(
      1, std::chrono::ceil<std::chrono::milliseconds>(options_.request_within)
             .count());
  std::string answer;
  char detail[CURL_ERROR_SIZE] = "";
  curl_slist* headers =
      curl_slist_append(nullptr, "Content-Type: application/json");
  if (!token.empty()) {
    headers =
        curl_slist_append(headers, StrCat("Authorization: ", token).c_str());
  }
  const auto set = [curl](CURLoption option, auto value) {
    curl_easy_setopt(curl, option, value);
  };
  set(CURLOPT_URL, url.c_str());
  set(CURLOPT_NOPROXY, "*");  // What proxies are for is not behind this wall.
  set(CURLOPT_PROTOCOLS_STR, scheme.c_str());
  const EtcdAccess& access = options_.access;
  if (options_.tls && !access.ca_file.empty()) {
    set(CURLOPT_CAINFO, access.ca_file.c_str());
  }
  if (options_.tls && !access.cert_file.empty()) {
    set(CURLOPT_SSLCERT, access.cert_file.c_str());
    set(CURLOPT_SSLKEY, access.key_file.c_str());
  }
  set(CURLOPT_HTTPHEADER, headers);
  set(CURLOPT_POSTFIELDS, body.c_str());
  set(CURLOPT_POSTFIELDSIZE, static_cast<long>(body.size()));
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_ERRORBUFFER, detail);
  set(CURLOPT_CONNECTTIMEOUT_MS, within);
  set(CURLOPT_TIMEOUT_MS, within);
  set(CURLOPT_WRITEFUNCTION, &OnWrite);
  set(CURLOPT_WRITEDATA, &answer);
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, &OnProgress);
  set(CURLOPT_XFERINFODATA, &cancelled_);
  const CURLcode code = curl_easy_perform(curl);
  long http = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &http);
  curl_easy_cleanup(curl);
  curl_slist_free_all(headers);
  if (code == CURLE_WRITE_ERROR) {
    return InternalError(
        StrCat("its answer has more than ", kAnswerBytesMax, " bytes"));
  }
  if (code == CURLE_PEER_FAILED_VERIFICATION ||
      code == CURLE_SSL_CACERT_BADFILE || code == CURLE_SSL_CERTPROBLEM) {
    return FailedPreconditionError(
        StrCat(detail[0] != '\0' ? detail : curl_easy_strerror(code),
               "; see ETCDCTL_CACERT, ETCDCTL_CERT and ETCDCTL_KEY"));
  }
  if (code != CURLE_OK) {
    return UnavailableError(detail[0] != '\0' ? detail
                                              : curl_easy_strerror(code));
  }
  if (http != 200) {
    token_is_old = IsOfAnOldToken(answer);
    return Refused(http, answer);
  }
  return answer;
}

StatusOr<std::string> EtcdClient::Post(const char* path,
                                       const std::string& body) {
  const size_t first = first_;
  std::string why;
  for (size_t i = 0; i < options_.hosts.size(); ++i) {
    const size_t at = (first + i) % options_.hosts.size();
    const std::string& host = options_.hosts[at];
    StatusOr<std::string> answer = PostTo(host, path, body);
    if (cancelled_) {
      return CancelledError(StrCat("etcd at ", host, ": called off"));
    }
    if (answer.status().code() != StatusCode::kUnavailable) {
      first_ = at;
      return answer.ok() ? std::move(answer)
                         : answer.status().WithPrefix(
                               StrCat("etcd at ", host, ", ", path));
    }
    why += StrCat(why.empty() ? "" : "; ", "etcd at ", host, ": ",
                  answer.status().message());
  }
  return UnavailableError(why);
}

StatusOr<std::optional<EtcdEntry>> EtcdClient::Get(const std::string& key) {
  SHOAL_ASSIGN_OR_RETURN(const std::string body,
                         Post("kv/range", Json{{"key", ToBase64(key)}}.dump()));
  SHOAL_ASSIGN_OR_RETURN(const Json json, ParseAnswer(body));
  if (!json.contains("header")) {
    return OddAnswer("header");
  }
  const auto kvs = json.find("kvs");
  if (kvs == json.end()) {
    return std::optional<EtcdEntry>();
  }
  if (!kvs->is_array() || kvs->size() != 1) {
    return OddAnswer("list of one entry");
  }
  const Json& kv = kvs->front();
  const std::optional<int64_t> created = NumberAt(kv, "create_revision");
  const std::optional<int64_t> lease = NumberAt(kv, "lease");
  if (!created.has_value() || *created <= 0 || !lease.has_value()) {
    return OddAnswer("create_revision");
  }
  EtcdEntry entry{.create_revision = *created, .lease = *lease};
  const auto value = kv.find("value");
  if (value != kv.end()) {
    const std::optional<std::string> bytes =
        value->is_string() ? FromBase64(value->get<std::string>())
                           : std::nullopt;
    if (!bytes.has_value()) {
      return OddAnswer("value in base64");
    }
    entry.value = *bytes;
  }
  return std::optional<EtcdEntry>(std::move(entry));
}

StatusOr<int64_t> EtcdClient::ChangeIf(std::span<const Condition> conditions,
                                       std::span<const Change> changes) {
  Json request;
  request["compare"] = Json::array();
  for (const Condition& condition : conditions) {
    request["compare"].push_back(
        {{"key", ToBase64(condition.key)},
         {"target", "CREATE"},
         {"result", "EQUAL"},
         {"create_revision", std::to_string(condition.create_revision)}});
  }
  request["success"] = Json::array();
  for (const Change& change : changes) {
    Json operation = {{"key", ToBase64(change.key)}};
    if (change.value.has_value()) {
      operation["value"] = ToBase64(*change.value);
      operation["lease"] = std::to_string(change.lease);
      request["success"].push_back({{"request_put", operation}});
    } else {
      request["success"].push_back({{"request_delete_range", operation}});
    }
  }
  SHOAL_ASSIGN_OR_RETURN(const std::string body,
                         Post("kv/txn", request.dump()));
  SHOAL_ASSIGN_OR_RETURN(const Json json, ParseAnswer(body));
  const auto header = json.find("header");
  const std::optional<int64_t> revision =
      header == json.end() ? std::nullopt : NumberAt(*header, "revision");
  if (!revision.has_value() || *revision <= 0) {
    return OddAnswer("revision");
  }
  const auto succeeded = json.find("succeeded");
  if (succeeded != json.end() && !succeeded->is_boolean()) {
    return OddAnswer("succeeded");
  }
  return succeeded != json.end() && succeeded->get<bool>() ? *revision : 0;
}

StatusOr<EtcdClient::Lease> EtcdClient::Grant(Duration ttl) {
  const int64_t seconds = std::chrono::ceil<std::chrono::seconds>(ttl).count();
  SHOAL_ASSIGN_OR_RETURN(
      const std::string body,
      Post("lease/grant", Json{{"TTL", std::to_string(seconds)}}.dump()));
  SHOAL_ASSIGN_OR_RETURN(const Json json, ParseAnswer(body));
  const int64_t id = NumberAt(json, "ID").value_or(0);
  const int64_t given = NumberAt(json, "TTL").value_or(0);
  if (id == 0 || given <= 0 || given > 86400) {
    return OddAnswer("lease");
  }
  return Lease{.id = id, .ttl = std::chrono::seconds(given)};
}

StatusOr<Duration> EtcdClient::KeepAlive(int64_t lease) {
  SHOAL_ASSIGN_OR_RETURN(
      const std::string body,
      Post("lease/keepalive", Json{{"ID", std::to_string(lease)}}.dump()));
  SHOAL_ASSIGN_OR_RETURN(const Json json, ParseAnswer(body));
  if (json.contains("error")) {
    // Of a stream that has begun: etcd has no leader now, or it stops.
    return UnavailableError(StrCat("no renewal: ", body.substr(0, 200)));
  }
  const auto result = json.find("result");
  if (result == json.end() || NumberAt(*result, "ID").value_or(0) != lease) {
    return OddAnswer("result");
  }
  const int64_t left = NumberAt(*result, "TTL").value_or(-1);
  if (left < 0 || left > 86400) {
    return OddAnswer("TTL");
  }
  return Duration(std::chrono::seconds(left));
}

Status EtcdClient::Revoke(int64_t lease) {
  const Status status =
      Post("lease/revoke", Json{{"ID", std::to_string(lease)}}.dump()).status();
  return status.code() == StatusCode::kNotFound ? OkStatus() : status;
}

}  // namespace shoal
