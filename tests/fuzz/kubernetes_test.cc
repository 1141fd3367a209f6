// What `shoal launch k8s` reads of others: kubeconfig files and the answers of
// API servers, changed at random.

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <nlohmann/json.hpp>

#include "base/random.h"
#include "base/strcat.h"
#include "launch/kubernetes/api_client.h"
#include "launch/kubernetes/cluster_access.h"
#include "launch/kubernetes/collection_watch.h"
#include "launch/kubernetes/job_view.h"
#include "tests/fuzz/mutate.h"

namespace shoal::fuzz {
namespace {

using launch::ApiReply;
using nlohmann::json;
using ::testing::AnyOf;

constexpr char kConfig[] = R"(apiVersion: v1
kind: Config
current-context: here
contexts:
  - name: here
    context: {cluster: fake, user: me, namespace: train}
clusters:
  - name: fake
    cluster:
      server: "https://127.0.0.1:6443/prefix"
      certificate-authority-data: LS0tLS1CRUdJTg==
      extensions: [{name: client.authentication.k8s.io/exec, extension: {a: 1}}]
users:
  - name: me
    user:
      token: abc
      client-certificate-data: QUJD
      client-key-data: QUI=
  - name: exec
    user: &exec
      exec:
        command: aws
        apiVersion: client.authentication.k8s.io/v1
        args: [get, 7]
        env: [{name: A, value: b}, {name: C}]
        installHint: none
        interactiveMode: Never
        provideClusterInfo: true
)";

TEST(KubernetesFuzzTest, KubeconfigFilesAreTakenOrRefused) {
  const std::string path = (std::filesystem::temp_directory_path() /
                            StrCat("shoal-fuzz-kube-", getpid()))
                               .string();
  Random random(1);
  uint64_t taken = 0;
  for (uint64_t run = 0; run < Runs(1500); ++run) {
    std::string text = Mutate(kConfig, random);
    if (run % 2 == 0) {
      const size_t user = text.find("user: me");
      if (user != std::string::npos) {
        text.replace(user, 8, "user: exec");
      }
    }
    std::ofstream(path, std::ios::binary) << text;
    auto access = launch::FindCluster({.kubeconfig = path});
    if (!access.ok()) {
      EXPECT_THAT(access.status().code(),
                  AnyOf(StatusCode::kInvalidArgument, StatusCode::kNotFound,
                        StatusCode::kUnimplemented))
          << access.status();
      continue;
    }
    ++taken;
    EXPECT_FALSE(access->server.empty());
    access->sign_in = nullptr;  // It would run what the file says.
    const auto client =
        launch::ApiClient::Create(*access, [] { return false; });
    EXPECT_TRUE(client.ok() ||
                client.status().code() == StatusCode::kInvalidArgument)
        << client.status();
  }
  EXPECT_GT(taken, 50U);
  std::filesystem::remove(path);
}

constexpr char kPod[] =
    R"({"metadata":{"name":"a-server-0","creationTimestamp":"2026","labels":{)"
    R"("app.kubernetes.io/component":"server"},"resourceVersion":"7"},)"
    R"("status":{"phase":"Failed","reason":"Evicted","conditions":[{"type":)"
    R"("Ready","status":"True"},{"type":"Complete","status":"True","reason":)"
    R"("x","message":"y"}],"containerStatuses":[{"restartCount":2,"state":{)"
    R"("terminated":{"exitCode":137,"reason":"OOMKilled","finishedAt":"t"}},)"
    R"("lastState":{"terminated":{"exitCode":75,"finishedAt":"s"}}}]}})";

// Answers every list and every watch with changed texts, for a while.
class FuzzedClient : public launch::ApiClient {
 public:
  explicit FuzzedClient(uint64_t seed) : random_(seed) {}

  StatusOr<ApiReply> Call(const launch::ApiRequest& /*request*/,
                          Time /*deadline*/) override {
    return ApiReply{.code = 200,
                    .body = Mutate(StrCat(R"({"kind":"List","metadata":{)"
                                          R"("resourceVersion":"5"},"items":[)",
                                          kPod, ",", kPod, "]}"),
                                   random_)};
  }
  StatusOr<ApiReply> Stream(
      const std::string& /*path*/, Duration /*silence_max*/,
      const std::function<bool(std::string_view)>& on_line) override {
    for (const char* type : {"ADDED", "MODIFIED", "DELETED", "BOOKMARK"}) {
      if (!on_line(
              Mutate(StrCat(R"({"type":")", type, R"(","object":)", kPod, "}"),
                     random_))) {
        break;
      }
    }
    return --streams_ > 0 ? StatusOr<ApiReply>(ApiReply{.code = 200})
                          : CancelledError("enough");
  }
  bool Pause(Duration /*duration*/) override { return true; }
  void Cancel() override {}

 private:
  Random random_;
  int streams_ = 3;
};

TEST(KubernetesFuzzTest, AnswersOfServersAreUnderstoodOrRefused) {
  uint64_t cancelled = 0;
  for (uint64_t run = 0; run < Runs(3000); ++run) {
    FuzzedClient client(run);
    launch::JobView view({.servers = 1, .workers = 1});
    const Status ended =
        launch::WatchCollection(client, "/api/v1/namespaces/x/pods", "a=b", 1s,
                                [&](const launch::CollectionChange& change) {
                                  // Whoever asked catches what these throw.
                                  view.OnPods(change);
                                  view.OnJobs(change);
                                  (void)view.Line();
                                  (void)view.Waiting();
                                  (void)view.ExitCode("server", true);
                                });
    cancelled += ended.code() == StatusCode::kCancelled ? 1 : 0;
    EXPECT_THAT(ended.code(),
                AnyOf(StatusCode::kCancelled, StatusCode::kFailedPrecondition))
        << ended;
  }
  EXPECT_GT(cancelled, 30U);
}

}  // namespace
}  // namespace shoal::fuzz
