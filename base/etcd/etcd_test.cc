#include <httplib.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <nlohmann/json.hpp>

#include "base/etcd/client.h"
#include "base/etcd/election.h"
#include "base/mutex.h"
#include "base/strcat.h"

namespace shoal {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

// One member of etcd, with the answers that version 3.4 gives. Keys and values
// stay as they come, in base64. Leases run out when they are told to.
class FakeEtcd {
 public:
  struct Answer {
    int http = 200;
    std::string body;
    std::chrono::milliseconds after{0};
  };

  FakeEtcd() {
    server_.Post("/v3/(.*)", [this](const httplib::Request& request,
                                    httplib::Response& response) {
      Handle(request.matches[1], request.body,
             request.get_header_value("Authorization"), response);
    });
    port_ = server_.bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) {
      std::this_thread::yield();
    }
  }
  ~FakeEtcd() {
    server_.stop();
    thread_.join();
  }
  FakeEtcd(const FakeEtcd&) = delete;
  FakeEtcd& operator=(const FakeEtcd&) = delete;

  std::string host() const { return StrCat("127.0.0.1:", port_); }

  // The next requests get these answers instead.
  void Next(std::deque<Answer> answers) {
    const MutexLock lock(mutex_);
    next_ = std::move(answers);
  }
  // All requests.
  void Always(const Answer& answer) {
    const MutexLock lock(mutex_);
    always_ = answer;
  }
  void Never() {
    const MutexLock lock(mutex_);
    always_.reset();
  }
  void EndLeases() {
    const MutexLock lock(mutex_);
    leases_.clear();
    std::erase_if(entries_, [](const auto& e) { return e.second.lease != 0; });
  }
  int requests() const { return requests_; }
  // From now on there are users; tokens that were given are none any more.
  void EndTokens() {
    const MutexLock lock(mutex_);
    ++token_;
  }

 private:
  struct Entry {
    std::string value;
    int64_t created = 0;
    int64_t lease = 0;
  };

  void Handle(const std::string& path, const std::string& body,
              const std::string& token, httplib::Response& response) {
    ++requests_;
    Answer answer;
    {
      const MutexLock lock(mutex_);
      if (!next_.empty()) {
        answer = next_.front();
        next_.pop_front();
      } else if (always_.has_value()) {
        answer = *always_;
      } else if (path == "auth/authenticate") {
        const Json in = Json::parse(body);
        answer =
            in["name"] == "me" && in["password"] == "a:b"
                ? Answer{.body =
                             Json{{"token", std::to_string(++token_)}}.dump()}
                : Answer{.http = 400,
                         .body = R"({"error": "etcdserver: authentication )"
                                 R"(failed", "code": 3})"};
      } else if (token_ > 0 && token != std::to_string(token_)) {
        answer = {.http = 401,
                  .body = R"({"error": "etcdserver: invalid auth token", )"
                          R"("code": 16})"};
      } else {
        answer = Right(path, Json::parse(body));
      }
    }
    std::this_thread::sleep_for(answer.after);
    response.status = answer.http;
    response.set_content(answer.body, "application/json");
  }

  Json Header() const { return {{"revision", std::to_string(revision_)}}; }

  Answer Right(const std::string& path, const Json& in) SHOAL_REQUIRES(mutex_) {
    Json out = {{"header", Header()}};
    if (path == "lease/grant") {
      leases_.insert(++last_lease_);
      out["ID"] = std::to_string(last_lease_);
      out["TTL"] = in["TTL"];
    } else if (path == "lease/keepalive") {
      const int64_t id = std::stoll(in["ID"].get<std::string>());
      Json result = {{"ID", in["ID"]}};
      if (leases_.contains(id)) {
        result["TTL"] = "2";
      }
      out = {{"result", result}};
    } else if (path == "lease/revoke") {
      const int64_t id = std::stoll(in["ID"].get<std::string>());
      leases_.erase(id);
      std::erase_if(entries_,
                    [id](const auto& e) { return e.second.lease == id; });
    } else if (path == "kv/range") {
      const auto at = entries_.find(in["key"]);
      if (at != entries_.end()) {
        out["kvs"] = Json::array(
            {{{"key", in["key"]},
              {"create_revision", std::to_string(at->second.created)},
              {"lease", std::to_string(at->second.lease)},
              {"value", at->second.value}}});
      }
    } else if (path == "kv/txn") {
      const bool holds = std::all_of(
          in["compare"].begin(), in["compare"].end(),
          [this](const Json& compare) {
            const auto at = entries_.find(compare["key"]);
            const int64_t made = at == entries_.end() ? 0 : at->second.created;
            return std::to_string(made) == compare["create_revision"];
          });
      if (holds) {
        ++revision_;
        out["header"] = Header();
        out["succeeded"] = true;
        for (const Json& change : in["success"]) {
          if (change.contains("request_put")) {
            const Json& put = change["request_put"];
            Entry& entry = entries_[put["key"]];
            entry.created = entry.created == 0 ? revision_ : entry.created;
            entry.value = put["value"];
            entry.lease = std::stoll(put["lease"].get<std::string>());
          } else {
            entries_.erase(change["request_delete_range"]["key"]);
          }
        }
      }
    } else {
      return {.http = 404, .body = "Not Found\n"};
    }
    return {.http = 200, .body = out.dump()};
  }

  httplib::Server server_;
  int port_ = 0;
  std::thread thread_;
  std::atomic<int> requests_ = 0;
  int token_ SHOAL_GUARDED_BY(mutex_) = 0;
  Mutex mutex_;
  std::deque<Answer> next_ SHOAL_GUARDED_BY(mutex_);
  std::optional<Answer> always_ SHOAL_GUARDED_BY(mutex_);
  std::map<std::string, Entry> entries_ SHOAL_GUARDED_BY(mutex_);
  std::set<int64_t> leases_ SHOAL_GUARDED_BY(mutex_);
  int64_t last_lease_ SHOAL_GUARDED_BY(mutex_) = 7;
  int64_t revision_ = 1;
};

FakeEtcd::Answer Error(int http, int code, const std::string& text) {
  return {
      .http = http,
      .body = Json{{"error", text}, {"message", text}, {"code", code}}.dump()};
}

TEST(EtcdAddressTest, HostsAndNameAreRead) {
  const StatusOr<EtcdAddress> one = EtcdAddress::Parse("etcd://localhost:2379");
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_THAT(one->hosts, testing::ElementsAre("localhost:2379"));
  EXPECT_EQ(one->name, "");
  const StatusOr<EtcdAddress> more =
      EtcdAddress::Parse("etcd://a:1,[::1]:65535,10.0.0.1:2/team/job");
  ASSERT_TRUE(more.ok()) << more.status();
  EXPECT_THAT(more->hosts,
              testing::ElementsAre("a:1", "[::1]:65535", "10.0.0.1:2"));
  EXPECT_EQ(more->name, "team/job");
  EXPECT_EQ(more->HostsText(), "etcd://a:1,[::1]:65535,10.0.0.1:2");
  const StatusOr<EtcdAddress> tls = EtcdAddress::Parse("etcds://a:1/job");
  ASSERT_TRUE(tls.ok()) << tls.status();
  EXPECT_TRUE(tls->tls && !more->tls);
  EXPECT_EQ(tls->HostsText(), "etcds://a:1");
}

TEST(EtcdAddressTest, OthersAreRefusedSayingHowItIsWritten) {
  for (const char* text :
       {"", "etcd", "etcd://", "etcd://a", "etcd://a:", "etcd://:1",
        "etcd://a:0", "etcd://a:65536", "etcd://a:1x", "etcd://a:1,",
        "etcd://a:1,b", "etcd://a:1/", "etcd://a:1/b/", "etcd://a b:1",
        "http://a:1", "tcp://a:1", "etcds://a", "etcd://u:secret@a:1"}) {
    const Status status = EtcdAddress::Parse(text).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(status.message(), HasSubstr("etcd://HOST:PORT")) << text;
    EXPECT_THAT(status.message(), testing::Not(HasSubstr("secret")));
  }
}

class EtcdClientTest : public ::testing::Test {
 protected:
  FakeEtcd etcd_;
  EtcdClient client_{
      {.hosts = {etcd_.host()}, .request_within = std::chrono::seconds(2)}};
};

TEST_F(EtcdClientTest, ChangesAreMadeTogetherWhenTheConditionHolds) {
  const std::string bytes("\0\xff zero and more", 16);
  EXPECT_FALSE(client_.Get("a")->has_value());
  const EtcdClient::Change puts[] = {{.key = "a", .value = bytes},
                                     {.key = "b", .value = ""}};
  const EtcdClient::Condition new_ones[] = {{.key = "a"}, {.key = "b"}};
  const StatusOr<int64_t> made = client_.ChangeIf(new_ones, puts);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_GT(*made, 0);
  EXPECT_EQ((*client_.Get("a"))->value, bytes);
  EXPECT_EQ((*client_.Get("a"))->create_revision, *made);
  EXPECT_EQ((*client_.Get("b"))->value, "");

  const EtcdClient::Change more[] = {{.key = "a", .value = "other"},
                                     {.key = "b", .value = std::nullopt}};
  const EtcdClient::Condition right[] = {
      {.key = "a", .create_revision = *made},
      {.key = "b", .create_revision = *made}};
  for (const int64_t revision : {int64_t{0}, *made + 1}) {
    const EtcdClient::Condition wrong{.key = "a", .create_revision = revision};
    const EtcdClient::Condition one_wrong[] = {right[1], wrong};
    EXPECT_EQ(*client_.ChangeIf({&wrong, 1}, more), 0);
    EXPECT_EQ(*client_.ChangeIf(one_wrong, more), 0);
    EXPECT_EQ((*client_.Get("a"))->value, bytes);
    EXPECT_TRUE(client_.Get("b")->has_value());
  }
  EXPECT_GT(*client_.ChangeIf(right, more), 0);
  EXPECT_EQ((*client_.Get("a"))->value, "other");
  EXPECT_FALSE(client_.Get("b")->has_value());
}

TEST_F(EtcdClientTest, UserIsNamedByATokenThatIsAskedForAgain) {
  etcd_.EndTokens();
  EXPECT_EQ(client_.Get("a").status().code(), StatusCode::kFailedPrecondition);
  EtcdClient::Options options{.hosts = {etcd_.host()},
                              .access = {.user = "me", .password = "a:b"}};
  EtcdClient mine(options);
  EXPECT_TRUE(mine.Get("a").ok());
  const int before = etcd_.requests();
  EXPECT_TRUE(mine.Get("a").ok());
  EXPECT_EQ(etcd_.requests(), before + 1) << "the token is kept";
  etcd_.EndTokens();
  EXPECT_TRUE(mine.Get("a").ok());
  options.access.password = "wrong";
  const Status refused = EtcdClient(options).Get("a").status();
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.message(), HasSubstr("authentication failed"));
  EXPECT_THAT(refused.message(), testing::Not(HasSubstr("wrong")));
}

TEST(EtcdAccessTest, ComesFromTheEnvironmentAndIsChecked) {
  const auto read = [](const char* name, const char* value) {
    setenv(name, value, 1);
    const StatusOr<EtcdAccess> access = EtcdAccess::Read();
    unsetenv(name);
    return access;
  };
  const StatusOr<EtcdAccess> user = read("ETCDCTL_USER", "me:a:b");
  ASSERT_TRUE(user.ok()) << user.status();
  EXPECT_EQ(user->user, "me");
  EXPECT_EQ(user->password, "a:b");
  const auto error = [&read](const char* name, const char* value) {
    const Status status = read(name, value).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(
      error("ETCDCTL_USER", "secret"),
      AllOf(HasSubstr("NAME:PASSWORD"), testing::Not(HasSubstr("secret"))));
  EXPECT_THAT(error("ETCDCTL_CACERT", "/none.pem"),
              AllOf(HasSubstr("ETCDCTL_CACERT"), HasSubstr("/none.pem")));
  EXPECT_THAT(error("ETCDCTL_CERT", "/dev/null"), HasSubstr("ETCDCTL_KEY"));
}

TEST_F(EtcdClientTest, LeasesAreRenewedUntilTheyAreGone) {
  const StatusOr<EtcdClient::Lease> lease = client_.Grant(1500ms);
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_EQ(lease->ttl, 2s) << "whole seconds";
  EXPECT_EQ(*client_.KeepAlive(lease->id), 2s);
  EXPECT_TRUE(client_.Revoke(lease->id).ok());
  EXPECT_EQ(*client_.KeepAlive(lease->id), 0s);
  etcd_.Next({Error(404, 5, "etcdserver: requested lease not found")});
  EXPECT_TRUE(client_.Revoke(lease->id).ok()) << "it is gone already";
}

TEST_F(EtcdClientTest, AnswersThatAreNotEtcdsAreRefusedNamingTheEndpoint) {
  for (const char* body :
       {"", "not json", "[]", "1", "{}", "{\"kvs\": 7}",
        "{\"header\":{}, \"kvs\": 7}", "{\"header\":{}, \"kvs\": []}",
        "{\"header\":{}, \"kvs\": [7]}",
        "{\"header\":{}, \"kvs\": [{\"value\": \"YQ==\"}]}",
        "{\"header\":{}, \"kvs\": [{\"create_revision\": \"x\"}]}",
        "{\"header\":{}, \"kvs\": [{\"create_revision\": \"-1\"}]}",
        "{\"header\":{}, \"kvs\": [{\"create_revision\": \"1\", \"value\": "
        "7}]}",
        "{\"header\":{}, \"kvs\": [{\"create_revision\": \"1\", \"value\": "
        "\"a\"}]}",
        "{\"header\":{}, \"kvs\": [{\"create_revision\": \"1\", \"value\": "
        "\"!!!!\"}]}"}) {
    etcd_.Next({{.http = 200, .body = body}});
    const Status status = client_.Get("a").status();
    EXPECT_EQ(status.code(), StatusCode::kInternal) << body;
    EXPECT_TRUE(etcd_.requests() > 0);
  }
  for (const char* body :
       {"{}", "{\"header\": 7}", "{\"header\": {\"revision\": \"0\"}}",
        "{\"header\": {\"revision\": \"3\"}, \"succeeded\": \"yes\"}"}) {
    etcd_.Next({{.http = 200, .body = body}});
    EXPECT_EQ(client_.ChangeIf({}, {}).status().code(), StatusCode::kInternal)
        << body;
  }
  for (const char* body : {"{}", "{\"ID\": \"7\"}", "{\"TTL\": \"7\"}",
                           "{\"ID\": \"7\", \"TTL\": \"-1\"}"}) {
    etcd_.Next({{.http = 200, .body = body}});
    EXPECT_EQ(client_.Grant(2s).status().code(), StatusCode::kInternal) << body;
  }
  for (const char* body : {"{}", "{\"result\": 7}",
                           "{\"result\": {\"ID\": \"8\", \"TTL\": \"2\"}}",
                           "{\"result\": {\"ID\": \"7\", \"TTL\": \"x\"}}"}) {
    etcd_.Next({{.http = 200, .body = body}});
    EXPECT_EQ(client_.KeepAlive(7).status().code(), StatusCode::kInternal)
        << body;
  }
  etcd_.Next({{.http = 404, .body = "<html>"}});
  const Status other = client_.Get("a").status();
  EXPECT_EQ(other.code(), StatusCode::kInternal);
  EXPECT_THAT(other.message(),
              AllOf(HasSubstr(etcd_.host()), HasSubstr("is this port")));
  etcd_.Next({{.http = 200, .body = std::string(9 << 20, ' ')}});
  EXPECT_EQ(client_.Get("a").status().code(), StatusCode::kInternal);
}

TEST_F(EtcdClientTest, RefusalsSayWhetherAnotherTryMayHelp) {
  struct Case {
    FakeEtcd::Answer answer;
    StatusCode code;
  };
  for (const Case& c :
       {Case{Error(503, 14, "etcdserver: no leader"), StatusCode::kUnavailable},
        Case{Error(504, 4, "etcdserver: request timed out"),
             StatusCode::kUnavailable},
        Case{Error(404, 5, "etcdserver: requested lease not found"),
             StatusCode::kNotFound},
        Case{Error(400, 3, "etcdserver: request is too large"),
             StatusCode::kFailedPrecondition},
        Case{Error(401, 16, "etcdserver: invalid auth token"),
             StatusCode::kFailedPrecondition},
        Case{{.http = 503, .body = "busy"}, StatusCode::kUnavailable}}) {
    etcd_.Next({c.answer});
    const Status status = client_.Get("a").status();
    EXPECT_EQ(status.code(), c.code) << c.answer.body;
    EXPECT_THAT(status.message(), HasSubstr(etcd_.host()));
    if (c.answer.body.front() == '{') {
      EXPECT_THAT(status.message(), HasSubstr("etcdserver: "));
    }
  }
  etcd_.Next({{.body = "{\"error\": {\"message\": \"no leader\"}}"}});
  EXPECT_EQ(client_.KeepAlive(7).status().code(), StatusCode::kUnavailable);
}

TEST_F(EtcdClientTest, SilentMemberEndsACallInTimeNamingIt) {
  EtcdClient client({.hosts = {etcd_.host()}, .request_within = 100ms});
  etcd_.Next({{.body = "{}", .after = 600ms}});
  const SystemClock clock;
  const Time begin = clock.Now();
  const Status status = client.Get("a").status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr(etcd_.host()));
  EXPECT_LT(clock.Now() - begin, 500ms);
}

TEST_F(EtcdClientTest, NextMemberIsTriedAndKept) {
  FakeEtcd second;
  const std::string nobody = "127.0.0.1:1";
  EtcdClient client({.hosts = {nobody, etcd_.host(), second.host()}});
  etcd_.Next({Error(503, 14, "etcdserver: no leader")});
  EXPECT_TRUE(client.Get("a").ok());
  EXPECT_EQ(etcd_.requests(), 1);
  EXPECT_EQ(second.requests(), 1);
  EXPECT_TRUE(client.Get("a").ok());
  EXPECT_EQ(etcd_.requests(), 1) << "the one that answered is asked first";

  second.Always(Error(503, 14, "etcdserver: no leader"));
  etcd_.Always(Error(503, 14, "etcdserver: stopped"));
  const Status status = client.Get("a").status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr(nobody), HasSubstr(etcd_.host()),
                    HasSubstr(second.host()), HasSubstr("stopped")));
}

TEST_F(EtcdClientTest, CancelEndsCallsUnderWayAndToCome) {
  etcd_.Next({{.body = "{}", .after = 1500ms}});
  std::thread other([this] {
    while (etcd_.requests() == 0) {
      std::this_thread::yield();
    }
    client_.Cancel();
  });
  const SystemClock clock;
  const Time begin = clock.Now();
  EXPECT_EQ(client_.Get("a").status().code(), StatusCode::kCancelled);
  EXPECT_LT(clock.Now() - begin, 1400ms);
  other.join();
  EXPECT_EQ(client_.Get("a").status().code(), StatusCode::kCancelled);
}

// --- The election ----------------------------------------------------------

class EtcdElectionTest : public EtcdClientTest {
 protected:
  static constexpr char kKey[] = "job/leader";
  bool Await(const std::function<bool()>& what) const {
    const SystemClock clock;
    const Time end = clock.Now() + 10s;
    while (!what() && clock.Now() < end) {
      std::this_thread::sleep_for(5ms);
    }
    return what();
  }
};

TEST_F(EtcdElectionTest, OneLeadsUntilItResignsAndTheNextHasAGreaterEpoch) {
  EtcdElection first(client_, kKey, 2s);
  EtcdElection second(client_, kKey, 2s);
  EXPECT_FALSE(first.Look()->has_value());
  EXPECT_FALSE(first.Leads());
  const EtcdClient::Change with{.key = "job/other", .value = "x"};
  const EtcdClient::Condition there{.key = "job/other", .create_revision = 7};
  const EtcdClient::Condition new_one{.key = "job/other"};
  EXPECT_FALSE(*first.Try("one", {&there, 1}, {&with, 1}));
  EXPECT_FALSE(first.Look()->has_value());
  EXPECT_FALSE(client_.Get("job/other")->has_value());
  ASSERT_TRUE(*first.Try("one", {&new_one, 1}, {&with, 1}));
  EXPECT_TRUE(first.Leads());
  EXPECT_TRUE(client_.Get("job/other")->has_value());
  EXPECT_FALSE(*second.Try("two"));
  EXPECT_FALSE(second.Leads());
  EXPECT_EQ((*second.Look())->card, "one");
  EXPECT_EQ((*second.Look())->epoch, first.epoch());
  ASSERT_TRUE(first.Tell("one, at home").ok());
  EXPECT_EQ((*second.Look())->card, "one, at home");
  EXPECT_EQ((*second.Look())->epoch, first.epoch()) << "the same key";

  first.Resign();
  EXPECT_FALSE(first.Leads());
  ASSERT_TRUE(*second.Try("two"));
  EXPECT_GT(second.epoch(), first.epoch());
}

// The fence: what one that was thought dead changes, it changes in vain.
TEST_F(EtcdElectionTest, OneThatLostItsLeaseChangesNothing) {
  EtcdElection first(client_, kKey, 60s);  // It does not notice by itself.
  EtcdElection second(client_, kKey, 60s);
  ASSERT_TRUE(*first.Try("one"));
  etcd_.EndLeases();
  ASSERT_TRUE(*second.Try("two"));
  EXPECT_TRUE(first.Leads()) << "as far as it knows";
  const EtcdClient::Change state{.key = "job/state", .value = "of the first"};
  const Status status = first.Change({&state, 1});
  EXPECT_EQ(status.code(), StatusCode::kAborted);
  EXPECT_THAT(status.message(), HasSubstr(kKey));
  EXPECT_FALSE(client_.Get("job/state")->has_value());
  EXPECT_FALSE(first.Leads());
  EXPECT_EQ(first.lost().code(), StatusCode::kAborted);
  EXPECT_EQ(first.Tell("still here").code(), StatusCode::kAborted);
  EXPECT_EQ((*second.Look())->card, "two");
  EXPECT_TRUE(second.Change({&state, 1}).ok());
  first.Resign();
  EXPECT_TRUE((*second.Look()).has_value()) << "that is not its key any more";
}

TEST_F(EtcdElectionTest, RenewalsNoticeThatTheLeaseHasRunOut) {
  EtcdElection election(client_, kKey, 2s);
  ASSERT_TRUE(*election.Try("one"));
  etcd_.EndLeases();
  EXPECT_TRUE(Await([&] { return !election.lost().ok(); }));
  EXPECT_THAT(election.lost().message(), HasSubstr("lease"));
  EXPECT_FALSE(election.Leads());
}

TEST_F(EtcdElectionTest, OneThatCannotReachEtcdLeadsAgainIfTheLeaseLives) {
  EtcdElection election(client_, kKey, 2s);
  ASSERT_TRUE(*election.Try("one"));
  etcd_.Always(Error(503, 14, "etcdserver: no leader"));
  EXPECT_TRUE(Await([&] { return !election.Leads(); }));
  EXPECT_TRUE(election.lost().ok()) << "nobody says that it does not lead";
  const EtcdClient::Change state{.key = "job/state", .value = "x"};
  EXPECT_EQ(election.Change({&state, 1}).code(), StatusCode::kUnavailable);
  etcd_.Never();
  EXPECT_TRUE(Await([&] { return election.Leads(); }));
  EXPECT_TRUE(election.Change({&state, 1}).ok());
}

TEST_F(EtcdElectionTest, TryThatFailsLeavesNoLeader) {
  EtcdElection election(client_, kKey, 2s);
  etcd_.Next({Error(503, 14, "etcdserver: no leader")});
  EXPECT_EQ(election.Try("one").status().code(), StatusCode::kUnavailable);
  EXPECT_FALSE(election.Leads());
  EXPECT_FALSE(election.Look()->has_value());
  EXPECT_TRUE(*election.Try("one"));
}

}  // namespace
}  // namespace shoal
