#include "launch/kubernetes/sign_in.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <map>
#include <system_error>

#include <nlohmann/json.hpp>
#include <sys/wait.h>

#include "base/strcat.h"
#include "base/unique_fd.h"

extern char** environ;

namespace shoal::launch {
namespace {

using nlohmann::json;

constexpr Duration kLookEvery = 50ms;
constexpr size_t kOutputBytesMax = size_t{1} << 20;
constexpr size_t kErrorBytesShown = 400;
// Before it expires, since a request takes time.
constexpr int64_t kRenewEarlySeconds = 10;

// Its last words in one line.
std::string LastWords(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  while (text.ends_with(' ')) {
    text.pop_back();
  }
  return text.size() > kErrorBytesShown
             ? "..." + text.substr(text.size() - kErrorBytesShown)
             : text;
}

std::vector<char*> Raw(const std::vector<std::string>& texts) {
  std::vector<char*> raw;
  raw.reserve(texts.size() + 1);
  for (const std::string& text : texts) {
    raw.push_back(const_cast<char*>(text.c_str()));
  }
  raw.push_back(nullptr);
  return raw;
}

std::string Text(const json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

}  // namespace

StatusOr<int64_t> ParseTime(const std::string& text) {
  std::tm time = {};
  int used = 0;
  int hours = 0;
  int minutes = 0;
  char sign[2] = "+";
  const bool date =
      std::sscanf(text.c_str(), "%4d-%2d-%2dT%2d:%2d:%2d%n", &time.tm_year,
                  &time.tm_mon, &time.tm_mday, &time.tm_hour, &time.tm_min,
                  &time.tm_sec, &used) == 6;
  std::string rest = date ? text.substr(static_cast<size_t>(used)) : "";
  if (rest.starts_with('.')) {
    rest.erase(0,
               std::min(rest.find_first_not_of("0123456789", 1), rest.size()));
  }
  int end = 0;
  const bool zone =
      rest == "Z" || (std::sscanf(rest.c_str(), "%1[+-]%2d:%2d%n", sign, &hours,
                                  &minutes, &end) == 3 &&
                      static_cast<size_t>(end) == rest.size());
  if (!zone || time.tm_mon < 1 || time.tm_mon > 12 || time.tm_mday < 1 ||
      time.tm_mday > 31 || time.tm_hour > 23 || time.tm_min > 59 ||
      time.tm_sec > 60) {
    return InvalidArgumentError(StrCat("'", text, "' is no time"));
  }
  time.tm_year -= 1900;
  time.tm_mon -= 1;
  const int64_t offset = int64_t{hours} * 3600 + int64_t{minutes} * 60;
  return int64_t{timegm(&time)} - (sign[0] == '-' ? -offset : offset);
}

Status SignIn::Failed(StatusCode code, std::string_view why) const {
  return Status(
      code, StrCat(program_.user, ": the sign-in program '", program_.command,
                   "' ", why, program_.install_hint.empty() ? "" : "\n",
                   program_.install_hint));
}

StatusOr<std::string> SignIn::Run(
    const std::function<bool()>& cancelled) const {
  SHOAL_ASSIGN_OR_RETURN(Pipe output, OpenPipe());
  SHOAL_ASSIGN_OR_RETURN(Pipe errors, OpenPipe());
  std::vector<std::string> argv = {program_.command};
  argv.insert(argv.end(), program_.args.begin(), program_.args.end());
  std::map<std::string, std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable;
    const size_t equals = std::min(text.find('='), text.size());
    variables[text.substr(0, equals)] = text.substr(equals);
  }
  for (const auto& [name, value] : program_.env) {
    variables[name] = "=" + value;
  }
  json info = {{"apiVersion", program_.api_version},
               {"kind", "ExecCredential"},
               {"spec", {{"interactive", false}}}};
  if (!program_.cluster_json.empty()) {
    info["spec"]["cluster"] = json::parse(program_.cluster_json);
  }
  variables["KUBERNETES_EXEC_INFO"] = "=" + info.dump();
  std::vector<std::string> environment;
  for (const auto& [name, value] : variables) {
    environment.push_back(name + value);
  }

  // Not fork(): other threads hold locks. A group of its own, so that what it
  // started ends with it.
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&files);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, output.write.get(), 1);
  posix_spawn_file_actions_adddup2(&files, errors.write.get(), 2);
  sigset_t signals;
  sigemptyset(&signals);
  posix_spawnattr_setsigmask(&attributes, &signals);
  for (const int signal : {SIGPIPE, SIGINT, SIGTERM, SIGHUP}) {
    sigaddset(&signals, signal);
  }
  posix_spawnattr_setsigdefault(&attributes, &signals);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP |
                                            POSIX_SPAWN_SETSIGMASK |
                                            POSIX_SPAWN_SETSIGDEF);
  pid_t pid = 0;
  const int error = posix_spawnp(&pid, argv[0].c_str(), &files, &attributes,
                                 Raw(argv).data(), Raw(environment).data());
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    return Failed(
        StatusCode::kFailedPrecondition,
        StrCat("can't be run: ", std::generic_category().message(error)));
  }
  output.write.Reset();
  errors.write.Reset();

  const SystemClock clock;
  const Time end = clock.Now() + within_;
  std::array<std::string, 2> texts;
  std::array<pollfd, 2> polls = {
      {{output.read.get(), POLLIN, 0}, {errors.read.get(), POLLIN, 0}}};
  Status ended;
  int status = 0;
  bool exited = false;
  // Until it has ended and closed its output, which those it started may hold.
  while (ended.ok() && !(exited && polls[0].fd < 0)) {
    poll(polls.data(), polls.size(),
         static_cast<int>(kLookEvery / std::chrono::milliseconds(1)));
    for (size_t i = 0; i < polls.size(); ++i) {
      std::array<char, 4096> bytes;
      const ssize_t size = polls[i].fd >= 0 && polls[i].revents != 0
                               ? read(polls[i].fd, bytes.data(), bytes.size())
                               : -1;
      if (size > 0) {
        texts[i].append(bytes.data(), static_cast<size_t>(size));
      } else if (size == 0) {
        polls[i].fd = -1;
      }
    }
    exited = exited || waitpid(pid, &status, WNOHANG) == pid;
    if (cancelled()) {
      ended = CancelledError("cancelled");
    } else if (clock.Now() >= end) {
      ended = Failed(StatusCode::kUnavailable,
                     StrCat("gave no credential within ", ToString(within_)));
    } else if (texts[0].size() > kOutputBytesMax ||
               texts[1].size() > kOutputBytesMax) {
      ended = Failed(StatusCode::kFailedPrecondition, "prints more than 1 MiB");
    }
  }
  kill(-pid, SIGKILL);
  while (!exited && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  SHOAL_RETURN_IF_ERROR(ended);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    const std::string words = LastWords(texts[1]);
    return Failed(
        StatusCode::kUnavailable,
        StrCat(WIFEXITED(status)
                   ? StrCat("ended with exit code ", WEXITSTATUS(status))
                   : StrCat("was ended by signal ", WTERMSIG(status)),
               words.empty() ? "" : ": ", words));
  }
  return std::move(texts[0]);
}

StatusOr<Credential> SignIn::Get(const std::function<bool()>& cancelled) {
  const MutexLock lock(mutex_);
  if (known_ &&
      (expires_ == 0 || std::time(nullptr) + kRenewEarlySeconds < expires_)) {
    return credential_;
  }
  known_ = false;
  SHOAL_ASSIGN_OR_RETURN(const std::string text, Run(cancelled));
  const auto bad = [this](std::string_view why) {
    return Failed(StatusCode::kFailedPrecondition, why);
  };
  const json answer = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!answer.is_object() || Text(answer, "kind") != "ExecCredential") {
    return bad("prints no ExecCredential");
  }
  if (Text(answer, "apiVersion") != program_.api_version) {
    return bad(StrCat("answers by ", Text(answer, "apiVersion"),
                      ", not by the ", program_.api_version,
                      " of the kubeconfig"));
  }
  const auto status = answer.find("status");
  if (status == answer.end() || !status->is_object()) {
    return bad("gives no status");
  }
  Credential got = {.token = Text(*status, "token"),
                    .certificate_pem = Text(*status, "clientCertificateData"),
                    .key_pem = Text(*status, "clientKeyData")};
  if (got.certificate_pem.empty() != got.key_pem.empty()) {
    return bad(
        "gives clientCertificateData or clientKeyData without the other");
  }
  if (got.token.empty() && got.key_pem.empty()) {
    return bad("gives neither a token nor a certificate");
  }
  if (std::any_of(got.token.begin(), got.token.end(),
                  [](unsigned char c) { return c <= ' ' || c == 127; })) {
    return bad("gives a token with blanks in it");
  }
  expires_ = 0;
  if (const std::string time = Text(*status, "expirationTimestamp");
      !time.empty()) {
    const StatusOr<int64_t> expires = ParseTime(time);
    if (!expires.ok()) {
      return bad("gives an expirationTimestamp that is no time: " + time);
    }
    expires_ = *expires;
  }
  credential_ = std::move(got);
  known_ = true;
  return credential_;
}

void SignIn::Reject(const Credential& credential) {
  const MutexLock lock(mutex_);
  if (known_ && credential.token == credential_.token &&
      credential.key_pem == credential_.key_pem) {
    known_ = false;
  }
}

}  // namespace shoal::launch
