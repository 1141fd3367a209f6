#include "launch/kubernetes/sign_in.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/status.h"

namespace shoal::launch {
namespace {

using testing::HasSubstr;

// More, with a real API server's stand-in: tests/k8s/test_access.py.

SignInProgram SignInShell(const std::string& script) {
  return {.user = "config: user me",
          .command = "sh",
          .args = {"-c", script},
          .api_version = "client.authentication.k8s.io/v1",
          .install_hint = "buy it"};
}

const auto kGoesOn = [] { return false; };

TEST(SignInTest, ProgramThatHangsIsEndedAtItsDeadline) {
  // One that waits, one whose child holds its output, one that is deaf.
  for (const char* script :
       {"exec sleep 100", "sleep 100 & exit 0", "trap '' TERM; sleep 100"}) {
    SignIn sign_in(SignInShell(script), 300ms);
    const SystemClock clock;
    const Time begin = clock.Now();
    const Status status = sign_in.Get(kGoesOn).status();
    EXPECT_EQ(status.code(), StatusCode::kUnavailable) << script;
    EXPECT_THAT(status.message(),
                HasSubstr("user me: the sign-in program 'sh' gave no "
                          "credential within 300 ms\nbuy it"));
    EXPECT_LT(clock.Now() - begin, std::chrono::seconds(5));
  }
  SignIn sign_in(SignInShell("sleep 100"));
  EXPECT_EQ(sign_in.Get([] { return true; }).status().code(),
            StatusCode::kCancelled);
}

TEST(SignInTest, CredentialIsKeptUntilItIsRefused) {
  const std::string counter = testing::TempDir() + "shoal-sign-in";
  std::remove(counter.c_str());
  SignIn sign_in(
      SignInShell("echo >> " + counter +
                  "; echo '{\"kind\": \"ExecCredential\", \"apiVersion\": "
                  "\"client.authentication.k8s.io/v1\", \"status\": "
                  "{\"token\": \"'$(wc -l < " +
                  counter + ")'\"}}'"));
  const StatusOr<Credential> first = sign_in.Get(kGoesOn);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->token, "1");
  EXPECT_EQ(sign_in.Get(kGoesOn)->token, "1");
  sign_in.Reject(*first);
  EXPECT_EQ(sign_in.Get(kGoesOn)->token, "2");
  // Another thread has seen the old one refused too.
  sign_in.Reject(*first);
  EXPECT_EQ(sign_in.Get(kGoesOn)->token, "2");
  std::remove(counter.c_str());
}

TEST(ParseTimeTest, TakesTheSpellingsOfRfc3339) {
  EXPECT_EQ(*ParseTime("1970-01-02T00:00:01Z"), 86401);
  EXPECT_EQ(*ParseTime("2026-11-27T14:00:00.123456Z"), 1795788000);
  EXPECT_EQ(*ParseTime("2026-11-27T15:30:00+01:30"), 1795788000);
  EXPECT_EQ(*ParseTime("2026-11-27T12:00:00-02:00"), 1795788000);
  for (const char* bad : {"", "soon", "2026-11-27", "2026-11-27T14:00:00",
                          "2026-13-27T14:00:00Z", "2026-11-27T14:00:00Zx",
                          "2026-11-27T14:00:00+1", "2026-11-27T25:0:0Z"}) {
    EXPECT_EQ(ParseTime(bad).status().code(), StatusCode::kInvalidArgument)
        << bad;
  }
}

}  // namespace
}  // namespace shoal::launch
