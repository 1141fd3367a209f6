#include "launch/kubernetes/cluster_access.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal::launch {
namespace {

using testing::HasSubstr;

// kubeconfig files: tests/k8s/test_access.py.
class ServiceAccountTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "shoal-account";
    std::filesystem::create_directories(folder_);
    // NOLINTBEGIN(concurrency-mt-unsafe): one thread.
    setenv("HOME", "/nonexistent", 1);
    unsetenv("KUBECONFIG");
    setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1", 1);
    setenv("KUBERNETES_SERVICE_PORT", "443", 1);
    // NOLINTEND(concurrency-mt-unsafe)
  }
  void TearDown() override {
    std::filesystem::remove_all(folder_);
    unsetenv("KUBERNETES_SERVICE_HOST");  // NOLINT(concurrency-mt-unsafe)
  }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ + "/" + name) << text;
  }

  std::string folder_;
};

TEST_F(ServiceAccountTest, OfThePodThatItRunsIn) {
  Write("token", "abc");
  Write("ca.crt", "PEM");
  Write("namespace", "train");
  const auto access = FindCluster({.service_account_folder = folder_});
  ASSERT_TRUE(access.ok()) << access.status();
  EXPECT_EQ(access->server, "https://10.96.0.1:443");
  EXPECT_EQ(access->token_file, folder_ + "/token");
  EXPECT_EQ(access->token, "");
  EXPECT_EQ(access->ca_pem, "PEM");
  EXPECT_EQ(access->kube_namespace, "train");
}

TEST_F(ServiceAccountTest, PodWithoutOneIsNotFound) {
  const auto access = FindCluster({.service_account_folder = folder_});
  EXPECT_EQ(access.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(access.status().message(),
              HasSubstr("the pod has no service account"));
}

}  // namespace
}  // namespace shoal::launch
