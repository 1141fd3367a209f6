#include "launch/kubernetes/cluster_access.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <openssl/evp.h>

#include "base/strcat.h"
#include "launch/kubernetes/yaml_json.h"

namespace shoal::launch {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string Environment(const char* name) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing writes the environment.
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

StatusOr<std::string> DecodeBase64(std::string text, const std::string& what) {
  std::erase_if(text, [](char c) { return c == '\n' || c == '\r'; });
  std::string bytes(text.size() / 4 * 3 + 1, '\0');
  const int size =
      EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                      reinterpret_cast<const unsigned char*>(text.data()),
                      static_cast<int>(text.size()));
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  if (size < static_cast<int>(padding) ||
      text.find('=') < text.size() - padding) {
    return InvalidArgumentError(StrCat(what, " is not base64"));
  }
  bytes.resize(static_cast<size_t>(size) - padding);
  return bytes;
}

std::string EncodeBase64(const std::string& bytes) {
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');
  text.resize(static_cast<size_t>(
      EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                      reinterpret_cast<const unsigned char*>(bytes.data()),
                      static_cast<int>(bytes.size()))));
  return text;
}

// A text of a map; empty if it is not there.
std::string Text(const json& map, const char* key) {
  const auto it = map.find(key);
  return it != map.end() && it->is_string() ? it->get<std::string>() : "";
}

bool IsTrue(const json& map, const char* key) {
  const auto it = map.find(key);
  return it != map.end() && it->is_boolean() && it->get<bool>();
}

// The settings of a kubeconfig file, or several, by their names.
class KubeConfig {
 public:
  Status Add(const std::string& path) {
    SHOAL_ASSIGN_OR_RETURN(const std::string text, ReadText(path));
    SHOAL_ASSIGN_OR_RETURN(std::vector<json> documents, ParseYaml(text, path));
    if (documents.size() != 1 || !documents[0].is_object()) {
      return InvalidArgumentError(StrCat(path, ": is no kubeconfig file"));
    }
    files_.emplace_back(path, std::move(documents[0]));
    return OkStatus();
  }

  StatusOr<ClusterAccess> Resolve(const std::string& context_name) const {
    const std::string name =
        context_name.empty() ? CurrentContext() : context_name;
    if (name.empty()) {
      return NotFoundError(
          StrCat(Names(), ": no current-context; choose one by --context"));
    }
    ClusterAccess access;
    SHOAL_ASSIGN_OR_RETURN(const Entry context,
                           Find("contexts", "context", name));
    SHOAL_ASSIGN_OR_RETURN(
        const Entry cluster,
        Find("clusters", "cluster", Text(*context.value, "cluster")));
    SHOAL_RETURN_IF_ERROR(ReadCluster(cluster, &access));
    if (const std::string user = Text(*context.value, "user"); !user.empty()) {
      SHOAL_ASSIGN_OR_RETURN(const Entry entry, Find("users", "user", user));
      SHOAL_RETURN_IF_ERROR(ReadUser(entry, &access));
      SHOAL_RETURN_IF_ERROR(ReadExec(entry, cluster, &access));
    }
    if (std::string ns = Text(*context.value, "namespace"); !ns.empty()) {
      access.kube_namespace = std::move(ns);
    }
    access.source = StrCat("context ", name, " of ", context.path);
    return access;
  }

 private:
  struct Entry {
    std::string path;  // of its file
    std::string what;  // "FILE: user NAME"
    const json* value;
  };

  std::string Names() const {
    std::string names;
    for (const auto& [path, config] : files_) {
      names += StrCat(names.empty() ? "" : ":", path);
    }
    return names;
  }

  std::string CurrentContext() const {
    for (const auto& [path, config] : files_) {
      if (std::string name = Text(config, "current-context"); !name.empty()) {
        return name;
      }
    }
    return "";
  }

  StatusOr<Entry> Find(const char* list, const char* key,
                       const std::string& name) const {
    std::string known;
    for (const auto& [path, config] : files_) {
      const auto entries = config.find(list);
      if (entries == config.end() || !entries->is_array()) {
        continue;
      }
      for (const json& entry : *entries) {
        if (!entry.is_object()) {
          continue;
        }
        const auto value = entry.find(key);
        if (Text(entry, "name") == name && value != entry.end() &&
            value->is_object()) {
          return Entry{.path = path,
                       .what = StrCat(path, ": ", key, " ", name),
                       .value = &*value};
        }
        known += StrCat(known.empty() ? "" : ", ", Text(entry, "name"));
      }
    }
    return NotFoundError(
        StrCat(Names(), ": no ", key, " '", name,
               "'; there are: ", known.empty() ? "none" : known));
  }

  // What is given inline (KEY-data, base64) or as a file (KEY).
  static StatusOr<std::string> Pem(const Entry& entry, const std::string& key) {
    if (const std::string data = Text(*entry.value, (key + "-data").c_str());
        !data.empty()) {
      return DecodeBase64(data, StrCat(entry.what, ": ", key, "-data"));
    }
    const std::string path = Text(*entry.value, key.c_str());
    return path.empty() ? StatusOr<std::string>(std::string())
                        : ReadText(Beside(entry, path));
  }

  // Relative paths begin at the folder of the file that names them.
  static std::string Beside(const Entry& entry, const std::string& path) {
    return (fs::path(entry.path).parent_path() / path).string();
  }

  static Status ReadCluster(const Entry& entry, ClusterAccess* access) {
    access->server = Text(*entry.value, "server");
    if (access->server.empty()) {
      return InvalidArgumentError(StrCat(entry.what, ": has no server"));
    }
    if (IsTrue(*entry.value, "insecure-skip-tls-verify")) {
      return UnimplementedError(
          StrCat(entry.what,
                 ": insecure-skip-tls-verify: Shoal sends nothing to a server "
                 "that it can't verify; name its certificate-authority"));
    }
    for (const char* key : {"proxy-url", "tls-server-name"}) {
      if (!Text(*entry.value, key).empty()) {
        return UnimplementedError(
            StrCat(entry.what, ": ", key,
                   " is not supported; run `kubectl proxy` and name "
                   "http://127.0.0.1:8001 as the server"));
      }
    }
    SHOAL_ASSIGN_OR_RETURN(access->ca_pem, Pem(entry, "certificate-authority"));
    return OkStatus();
  }

  static Status ReadUser(const Entry& entry, ClusterAccess* access) {
    for (const char* key : {"auth-provider", "username"}) {
      if (entry.value->contains(key)) {
        return UnimplementedError(
            StrCat(entry.what, ": signs in by '", key,
                   "', which is not supported; run `kubectl proxy` and name "
                   "http://127.0.0.1:8001 as the server, or use the token of a "
                   "service account (`kubectl create token NAME`)"));
      }
    }
    access->token = Text(*entry.value, "token");
    if (const std::string file = Text(*entry.value, "tokenFile");
        !file.empty()) {
      access->token_file = Beside(entry, file);
    }
    SHOAL_ASSIGN_OR_RETURN(access->client_certificate_pem,
                           Pem(entry, "client-certificate"));
    SHOAL_ASSIGN_OR_RETURN(access->client_key_pem, Pem(entry, "client-key"));
    if (access->client_certificate_pem.empty() !=
        access->client_key_pem.empty()) {
      return InvalidArgumentError(StrCat(
          entry.what, ": client-certificate and client-key belong together"));
    }
    return OkStatus();
  }

  // What a sign-in program is told of the cluster if it asks for it.
  static std::string ClusterInfo(const Entry& cluster,
                                 const ClusterAccess& access) {
    json info = {{"server", access.server}};
    if (!access.ca_pem.empty()) {
      info["certificate-authority-data"] = EncodeBase64(access.ca_pem);
    }
    const auto extensions = cluster.value->find("extensions");
    if (extensions != cluster.value->end() && extensions->is_array()) {
      for (const json& extension : *extensions) {
        if (extension.is_object() && extension.contains("extension") &&
            Text(extension, "name") == "client.authentication.k8s.io/exec") {
          info["config"] = extension["extension"];
        }
      }
    }
    return info.dump(-1, ' ', false, json::error_handler_t::replace);
  }

  static Status ReadExec(const Entry& entry, const Entry& cluster,
                         ClusterAccess* access) {
    const auto it = entry.value->find("exec");
    if (it == entry.value->end() || it->is_null()) {
      return OkStatus();
    }
    const auto bad = [&](std::string_view why) {
      return InvalidArgumentError(StrCat(entry.what, ": exec: ", why));
    };
    if (!it->is_object()) {
      return bad("is no map");
    }
    SignInProgram program = {.user = entry.what,
                             .command = Text(*it, "command"),
                             .api_version = Text(*it, "apiVersion"),
                             .install_hint = Text(*it, "installHint")};
    if (program.command.empty()) {
      return bad("has no command");
    }
    // A name is looked for in PATH.
    if (program.command.find('/') != std::string::npos) {
      program.command = Beside(entry, program.command);
    }
    if (program.api_version != "client.authentication.k8s.io/v1" &&
        program.api_version != "client.authentication.k8s.io/v1beta1") {
      return bad(StrCat("apiVersion '", program.api_version,
                        "' is none of client.authentication.k8s.io/v1 and "
                        "v1beta1; a newer ",
                        program.command, " writes such a kubeconfig"));
    }
    if (const std::string mode = Text(*it, "interactiveMode");
        mode == "Always") {
      return UnimplementedError(StrCat(
          entry.what, ": exec: ", program.command,
          " wants a terminal (interactiveMode: Always), which a launcher "
          "of long jobs has not; use the token of a service account "
          "(`kubectl create token NAME`)"));
    } else if (!mode.empty() && mode != "Never" && mode != "IfAvailable") {
      return bad(StrCat("interactiveMode '", mode, "' is unknown"));
    }
    if (const auto args = it->find("args");
        args != it->end() && !args->is_null()) {
      if (!args->is_array()) {
        return bad("args is no list");
      }
      for (const json& arg : *args) {
        // Plain scalars may look like numbers.
        program.args.push_back(arg.is_string() ? arg.get<std::string>()
                                               : arg.dump());
      }
    }
    if (const auto env = it->find("env"); env != it->end() && !env->is_null()) {
      if (!env->is_array()) {
        return bad("env is no list");
      }
      for (const json& variable : *env) {
        const std::string name =
            variable.is_object() ? Text(variable, "name") : "";
        if (name.empty() || name.find('=') != std::string::npos) {
          return bad("a variable of env has no valid name");
        }
        const auto value = variable.find("value");
        program.env.emplace_back(name, value == variable.end() ? ""
                                       : value->is_string()
                                           ? value->get<std::string>()
                                           : value->dump());
      }
    }
    if (IsTrue(*it, "provideClusterInfo")) {
      program.cluster_json = ClusterInfo(cluster, *access);
    }
    access->sign_in = std::make_shared<SignIn>(std::move(program));
    return OkStatus();
  }

  std::vector<std::pair<std::string, json>> files_;  // path and what it says
};

StatusOr<ClusterAccess> OfThisPod(const std::string& folder,
                                  const std::string& host) {
  ClusterAccess access;
  const std::string port = Environment("KUBERNETES_SERVICE_PORT");
  access.server = StrCat(
      "https://",
      host.find(':') == std::string::npos ? host : StrCat("[", host, "]"), ":",
      port.empty() ? "443" : port);
  access.token_file = folder + "/token";
  SHOAL_RETURN_IF_ERROR(ReadText(access.token_file)
                            .status()
                            .WithPrefix("the pod has no service account"));
  SHOAL_ASSIGN_OR_RETURN(access.ca_pem, ReadText(folder + "/ca.crt"));
  SHOAL_ASSIGN_OR_RETURN(access.kube_namespace,
                         ReadText(folder + "/namespace"));
  access.source = "the service account of this pod";
  return access;
}

}  // namespace

StatusOr<std::string> ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)),
                   std::istreambuf_iterator<char>());
  if (!file) {
    return NotFoundError(StrCat("'", path, "' can't be read"));
  }
  return text;
}

StatusOr<ClusterAccess> FindCluster(const AccessOptions& options) {
  std::vector<std::string> paths;
  if (!options.kubeconfig.empty()) {
    paths = {options.kubeconfig};
  } else if (std::string list = Environment("KUBECONFIG"); !list.empty()) {
    for (size_t at = 0; at <= list.size();) {
      const size_t end = std::min(list.find(':', at), list.size());
      const std::string path = list.substr(at, end - at);
      if (fs::exists(path)) {
        paths.push_back(path);
      }
      at = end + 1;
    }
    if (paths.empty()) {
      return NotFoundError(StrCat("KUBECONFIG is ", list, ": no such file"));
    }
  } else if (std::string file = Environment("HOME") + "/.kube/config";
             fs::exists(file)) {
    paths = {file};
  }
  if (!paths.empty()) {
    KubeConfig config;
    for (const std::string& path : paths) {
      SHOAL_RETURN_IF_ERROR(config.Add(path));
    }
    return config.Resolve(options.context);
  }
  if (const std::string host = Environment("KUBERNETES_SERVICE_HOST");
      !host.empty()) {
    return OfThisPod(options.service_account_folder, host);
  }
  return NotFoundError(
      "no Kubernetes cluster is known: give --kubeconfig FILE, set KUBECONFIG, "
      "or run in a pod with a service account");
}

}  // namespace shoal::launch
