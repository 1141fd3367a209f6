#include "base/s3/storage.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/cancellable.h"
#include "base/s3/s3_testing.h"

namespace shoal {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

constexpr char kFile[] = "s3://bucket/folder/file";

class S3StorageTest : public ::testing::Test {
 protected:
  std::unique_ptr<Storage> Make() { return CreateS3Storage(store_.options()); }

  Status Publish(const std::string& path, const std::string& a,
                 const std::string& b = "") {
    const Buffer pieces[] = {Buffer::CopyOf(a), Buffer(), Buffer::CopyOf(b)};
    return Make()->PublishFile(path, pieces);
  }

  void ExpectNoSecrets(const Status& status) {
    for (const char* secret : {"the-key", "the-secret", "the-token"}) {
      EXPECT_THAT(status.message(), Not(HasSubstr(secret)));
    }
  }

  FakeStore store_;
};

// Answers with a part of the body that it announces.
FakeStore::Response CutOff(const FakeStore::Request&) {
  return {.body = std::string(400, 'x'), .announced = 1000};
}

// Says nothing for longer than the client waits.
FakeStore::Response Hang(const FakeStore::Request&) {
  std::this_thread::sleep_for(1500ms);
  return {.body = "late"};
}

TEST_F(S3StorageTest, RequestsAreSignedWithTheHashOfTheirBody) {
  std::map<std::string, std::string> headers;
  store_.Next({[&](const FakeStore::Request& request) {
    headers = request.headers;
    return FakeStore::Response();
  }});
  ASSERT_TRUE(Publish(kFile, "ab", "c").ok());
  const auto header = [&](const char* name) {
    const auto it = headers.find(name);
    return it == headers.end() ? std::string() : it->second;
  };
  // sha256 of "abc", from FIPS 180-2.
  EXPECT_EQ(header("x-amz-content-sha256"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(header("x-amz-security-token"), "the-token");
  EXPECT_EQ(header("content-length"), "3");
  EXPECT_THAT(
      header("authorization"),
      AllOf(StartsWith("AWS4-HMAC-SHA256 Credential=the-key/"),
            HasSubstr("/us-east-1/s3/aws4_request"),
            HasSubstr("SignedHeaders=host;x-amz-content-sha256;x-amz-date;"
                      "x-amz-security-token")));
  EXPECT_THAT(header("authorization"), Not(HasSubstr("the-secret")));
}

TEST_F(S3StorageTest, NamesOfAllKindsAreFoundAgain) {
  const std::string name = "s3://bucket/a b/c+d&e=f?g#h%20i/\xc3\xa4";
  ASSERT_TRUE(Publish(name, "text").ok());
  EXPECT_EQ(store_.Files().begin()->first, "a b/c+d&e=f?g#h%20i/\xc3\xa4");
  EXPECT_EQ(Make()->ReadFile(name).value().text(), "text");
  EXPECT_THAT(Make()->ListFolder("s3://bucket/a b").value(),
              ElementsAre("c+d&e=f?g#h%20i"));
}

TEST_F(S3StorageTest, LargeFileGoesInPartsAndIsWhole) {
  std::string text;
  for (int i = 0; text.size() < 3500; ++i) {
    text += std::to_string(i) + ",";
  }
  ASSERT_TRUE(Publish(kFile, text.substr(0, 1700), text.substr(1700)).ok());
  EXPECT_EQ(Make()->ReadFile(kFile).value().text(), text);
  EXPECT_EQ(store_.NumUploads(), 0U);
  EXPECT_THAT(store_.Lines(),
              Contains(StartsWith("PUT /bucket/folder/file?partNumber=4&")));
}

// curl asks for a body by pieces of 64 KiB.
TEST_F(S3StorageTest, LargeBodyGoesAsAWholeAlsoWithAnotherTry) {
  std::string text;
  for (int i = 0; text.size() < 300'000; ++i) {
    text += std::to_string(i) + ",";
  }
  S3Options options = store_.options();
  options.part_bytes = 1 << 20;
  store_.Next({FakeStore::Error(503, "SlowDown", "slower")});
  const Buffer pieces[] = {Buffer::CopyOf(text.substr(0, 100)),
                           Buffer::CopyOf(text.substr(100, 150'000)),
                           Buffer::CopyOf(text.substr(150'100))};
  ASSERT_TRUE(CreateS3Storage(options)->PublishFile(kFile, pieces).ok());
  EXPECT_TRUE(store_.Files().at("folder/file") == text);
  EXPECT_TRUE(Make()->ReadFile(kFile).value().text() == text);
}

TEST_F(S3StorageTest, PartThatFailsAbortsTheUploadAndLeavesTheOldFile) {
  ASSERT_TRUE(Publish(kFile, "old").ok());
  store_.Always("PUT /bucket/folder/file?partNumber=2",
                FakeStore::Error(403, "AccessDenied", "no"));
  const Status status = Publish(kFile, std::string(2500, 'x'));
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_.NumUploads(), 0U);
  EXPECT_EQ(Make()->ReadFile(kFile).value().text(), "old");
}

TEST_F(S3StorageTest, UploadThatIsGoneIsBegunOnceMore) {
  // As if the first answer to the end of the upload had been lost.
  store_.Next({{}, {}, {}, FakeStore::Error(404, "NoSuchUpload", "gone")});
  const std::string text(1500, 'x');
  ASSERT_TRUE(Publish(kFile, text).ok());
  EXPECT_EQ(store_.Files().at("folder/file"), text);
}

TEST_F(S3StorageTest, FailureAfter200EndsAnUploadWithAnotherTry) {
  store_.Next({{}, {}, {}, FakeStore::Error(200, "InternalError", "sorry")});
  ASSERT_TRUE(Publish(kFile, std::string(1500, 'x')).ok());
  EXPECT_THAT(store_.Lines(), SizeIs(5));
  EXPECT_EQ(store_.Files().at("folder/file").size(), 1500U);
}

TEST_F(S3StorageTest, ListOfSeveralPagesIsWhole) {
  store_.SetPageSize(2);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(Publish(StrCat("s3://bucket/p/", i), "x").ok());
    ASSERT_TRUE(Publish(StrCat("s3://bucket/p/f", i, "/x"), "x").ok());
  }
  EXPECT_THAT(
      Make()->ListFolder("s3://bucket/p").value(),
      ElementsAre("0", "1", "2", "3", "4", "f0", "f1", "f2", "f3", "f4"));
  EXPECT_TRUE(Make()->Remove("s3://bucket/p").ok());
  EXPECT_THAT(store_.Files(), IsEmpty());
}

TEST_F(S3StorageTest, StoreThatGivesOnePageForEverIsLeft) {
  store_.Always("GET /bucket/?", [](const FakeStore::Request&) {
    return FakeStore::Response{
        .body =
            "<ListBucketResult><IsTruncated>true</IsTruncated>"
            "<NextContinuationToken>t</NextContinuationToken>"
            "</ListBucketResult>"};
  });
  EXPECT_EQ(Make()->ListFolder("s3://bucket/p").status().code(),
            StatusCode::kUnavailable);
}

TEST_F(S3StorageTest, WholeBucketIsNeverRemoved) {
  ASSERT_TRUE(Publish(kFile, "text").ok());
  EXPECT_EQ(Make()->Remove("s3://bucket/").code(),
            StatusCode::kInvalidArgument);
  EXPECT_THAT(store_.Files(), SizeIs(1));
}

TEST_F(S3StorageTest, BusyAndFailingStoresAreAskedAgain) {
  ASSERT_TRUE(Publish(kFile, "text").ok());
  store_.Next({FakeStore::Error(503, "SlowDown", "slower"),
               FakeStore::Error(500, "InternalError", "sorry"),
               FakeStore::Error(429, "", ""),
               FakeStore::Error(400, "RequestTimeout", "slow"), CutOff});
  S3Options options = store_.options();
  options.retry_within = 20s;
  const StatusOr<Buffer> read = CreateS3Storage(options)->ReadFile(kFile);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->text(), "text");
  EXPECT_THAT(store_.Lines(), SizeIs(7));
}

TEST_F(S3StorageTest, UploadsAreAskedAgainWithTheWholeBody) {
  store_.Next({FakeStore::Error(503, "SlowDown", "slower")});
  ASSERT_TRUE(Publish(kFile, "one ", "two").ok());
  EXPECT_EQ(store_.Files().at("folder/file"), "one two");
}

TEST_F(S3StorageTest, HungStoreIsLeftAndAskedAgain) {
  ASSERT_TRUE(Publish(kFile, "text").ok());
  store_.Next({Hang});
  EXPECT_EQ(Make()->ReadFile(kFile).value().text(), "text");
}

TEST_F(S3StorageTest, FailureUntilTheDeadlineNamesPathEndpointAndReason) {
  store_.Always("GET", FakeStore::Error(503, "SlowDown", "slower"));
  const SystemClock clock;
  const Time begin = clock.Now();
  const Status status = Make()->ReadFile(kFile).status();
  EXPECT_LT(clock.Now() - begin, 3s);
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(
      status.message(),
      AllOf(
          StartsWith(StrCat("GET ", kFile, " at ", store_.options().endpoint)),
          HasSubstr("HTTP 503 SlowDown: slower"), HasSubstr("given up after")));
  // Pauses grow: at 100 ms each there would be 20 or more.
  EXPECT_GE(store_.Lines().size(), 3U);
  EXPECT_LE(store_.Lines().size(), 8U);
  ExpectNoSecrets(status);
}

TEST_F(S3StorageTest, ReadThatIsAlwaysCutOffIsAnError) {
  store_.Always("GET", CutOff);
  EXPECT_EQ(Make()->ReadFile(kFile).status().code(), StatusCode::kUnavailable);
}

TEST_F(S3StorageTest, AnswerOfUnknownLengthIsNoFile) {
  store_.Always("GET", [](const FakeStore::Request&) {
    return FakeStore::Response{.body = "text", .chunked = true};
  });
  EXPECT_THAT(Make()->ReadFile(kFile).status().message(),
              HasSubstr("does not say how long it is"));
}

TEST_F(S3StorageTest, NobodyThereIsNamedAtTheDeadline) {
  S3Options options = store_.options();
  options.endpoint = "http://127.0.0.1:9";
  options.retry_within = 300ms;
  const Status status = CreateS3Storage(options)->ReadFile(kFile).status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("http://127.0.0.1:9"));
}

TEST_F(S3StorageTest, CancelEndsPausesAndTransfersAndAllToCome) {
  for (const FakeStore::Answer& answer :
       {FakeStore::Error(503, "SlowDown", "slower"),
        FakeStore::Answer([](const FakeStore::Request&) {
          std::this_thread::sleep_for(5s);
          return FakeStore::Response();
        })}) {
    store_.Always("GET", answer);
    S3Options options = store_.options();
    options.retry_within = 60s;
    options.stalled_within = 60s;
    options.request_within = 60s;
    const std::unique_ptr<Storage> storage = CreateS3Storage(options);
    const SystemClock clock;
    const Time begin = clock.Now();
    std::thread cancel([&] {
      std::this_thread::sleep_for(1s);
      dynamic_cast<Cancellable&>(*storage).Cancel();
    });
    EXPECT_EQ(storage->ReadFile(kFile).status().code(), StatusCode::kCancelled);
    cancel.join();
    EXPECT_LT(clock.Now() - begin, 4s);
    EXPECT_EQ(storage->ReadFile(kFile).status().code(), StatusCode::kCancelled);
  }
}

TEST_F(S3StorageTest, RefusalsAreFinalAndSayWhatToDo) {
  struct Case {
    int status;
    const char* code;
    StatusCode want;
    const char* text;
  };
  for (const Case& c : std::vector<Case>{
           {403, "AccessDenied", StatusCode::kFailedPrecondition,
            "s3:PutObject"},
           {403, "InvalidAccessKeyId", StatusCode::kFailedPrecondition,
            "check AWS_ACCESS_KEY_ID"},
           {403, "SignatureDoesNotMatch", StatusCode::kFailedPrecondition,
            "AWS_SECRET_ACCESS_KEY"},
           {403, "RequestTimeTooSkewed", StatusCode::kFailedPrecondition,
            "clock"},
           {400, "ExpiredToken", StatusCode::kFailedPrecondition,
            "AWS_SESSION_TOKEN"},
           {301, "PermanentRedirect", StatusCode::kFailedPrecondition,
            "AWS_REGION says us-east-1"},
           {404, "NoSuchBucket", StatusCode::kFailedPrecondition,
            "make the bucket"},
           {404, "NoSuchKey", StatusCode::kNotFound, "NoSuchKey"},
           {403, "QuotaExceeded", StatusCode::kResourceExhausted, "full"},
           {507, "XMinioStorageFull", StatusCode::kResourceExhausted, "full"},
           {501, "NotImplemented", StatusCode::kFailedPrecondition, "501"}}) {
    store_.Next({FakeStore::Error(c.status, c.code, "why")});
    const size_t before = store_.Lines().size();
    const Status status = Make()->ReadFile(kFile).status();
    EXPECT_EQ(status.code(), c.want) << status;
    EXPECT_THAT(status.message(), HasSubstr(c.text));
    EXPECT_THAT(status.message(), HasSubstr(kFile));
    EXPECT_EQ(store_.Lines().size(), before + 1) << "no other try";
    ExpectNoSecrets(status);
  }
}

TEST_F(S3StorageTest, MissingBucketIsNoMissingFile) {
  for (const Status& status : {Make()->ReadFile("s3://none/a").status(),
                               Make()->ListFolder("s3://none/a").status(),
                               Publish("s3://none/a", "")}) {
    EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
    EXPECT_THAT(status.message(), HasSubstr("s3://none"));
  }
}

TEST_F(S3StorageTest, FileLargerThanAllowedIsNotRead) {
  ASSERT_TRUE(Publish(kFile, std::string(900, 'x')).ok());
  S3Options options = store_.options();
  options.object_bytes_max = 899;
  EXPECT_EQ(CreateS3Storage(options)->ReadFile(kFile).status().code(),
            StatusCode::kResourceExhausted);
  options.object_bytes_max = 900;
  EXPECT_TRUE(CreateS3Storage(options)->ReadFile(kFile).ok());
  // No memory is taken for what a store only announces.
  store_.Always("GET", [](const FakeStore::Request&) {
    return FakeStore::Response{.body = "x", .announced = size_t{1} << 60};
  });
  EXPECT_EQ(Make()->ReadFile(kFile).status().code(),
            StatusCode::kResourceExhausted);
}

TEST_F(S3StorageTest, SettingsThatCantBeAreRefusedBeforeAnyRequest) {
  const auto with = [&](auto change) {
    S3Options options = store_.options();
    change(options);
    const Status status = CreateS3Storage(options)->ReadFile(kFile).status();
    EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
    return status.message();
  };
  EXPECT_THAT(with([](S3Options& o) { o.access_key.clear(); }),
              HasSubstr("set AWS_ACCESS_KEY_ID"));
  EXPECT_THAT(with([](S3Options& o) { o.secret_key.clear(); }),
              HasSubstr("set AWS_SECRET_ACCESS_KEY"));
  EXPECT_THAT(with([](S3Options& o) { o.endpoint = "127.0.0.1:9000"; }),
              HasSubstr("expected http://HOST:PORT"));
  EXPECT_THAT(with([](S3Options& o) { o.endpoint = "http://h/path"; }),
              HasSubstr("expected http://HOST:PORT"));
  EXPECT_THAT(with([](S3Options& o) { o.endpoint = "http://me:word@host"; }),
              AllOf(HasSubstr("'@'"), Not(HasSubstr("word"))));
  EXPECT_THAT(store_.Lines(), IsEmpty());
}

TEST_F(S3StorageTest, ThreadsReadAtOnce) {
  const std::unique_ptr<Storage> storage = Make();
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(
        Publish(StrCat("s3://bucket/", i), std::string(500, 'a' + i)).ok());
  }
  std::vector<std::thread> threads;
  std::vector<int> good(8);
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int n = 0; n < 10; ++n) {
        const StatusOr<Buffer> read =
            storage->ReadFile(StrCat("s3://bucket/", i));
        good[i] += read.ok() && read->text() == std::string(500, 'a' + i);
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(std::count(good.begin(), good.end(), 10), 8);
}

TEST(S3OptionsTest, EnvironmentNamesStoreAndCredentials) {
  const auto with = [](std::vector<const char*> variables) {
    for (const char* variable : variables) {
      ::putenv(const_cast<char*>(variable));
    }
    const S3Options options = S3Options::FromEnvironment();
    for (const char* name : S3Options::kVariables) {
      ::unsetenv(name);
    }
    return options;
  };
  const S3Options all = with({"AWS_ENDPOINT_URL=http://e", "AWS_REGION=r",
                              "AWS_DEFAULT_REGION=other", "AWS_ACCESS_KEY_ID=k",
                              "AWS_SECRET_ACCESS_KEY=s", "AWS_SESSION_TOKEN=t",
                              "AWS_CA_BUNDLE=/ca"});
  EXPECT_EQ(all.endpoint, "http://e");
  EXPECT_EQ(all.region, "r");
  EXPECT_EQ(all.access_key, "k");
  EXPECT_EQ(all.secret_key, "s");
  EXPECT_EQ(all.session_token, "t");
  EXPECT_EQ(all.ca_file, "/ca");
  EXPECT_EQ(with({"AWS_ENDPOINT_URL_S3=http://3", "AWS_ENDPOINT_URL=http://e"})
                .endpoint,
            "http://3");
  EXPECT_EQ(with({"AWS_DEFAULT_REGION=d"}).region, "d");
}

}  // namespace
}  // namespace shoal
