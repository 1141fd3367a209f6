#include "base/s3/names.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(S3PathTest, SpellingsOfOnePathAreOne) {
  for (const char* text : {"s3://my-bucket/a/b", "s3://my-bucket//a/./b/",
                           "s3://my-bucket/a//b"}) {
    const StatusOr<S3Path> path = ParseS3Path(text);
    ASSERT_TRUE(path.ok()) << path.status();
    EXPECT_EQ(path->bucket, "my-bucket");
    EXPECT_EQ(path->key, "a/b");
    EXPECT_EQ(path->Text(), "s3://my-bucket/a/b");
  }
  EXPECT_EQ(ParseS3Path("s3://my-bucket/").value().key, "");
  EXPECT_EQ(ParseS3Path("s3://my-bucket").value().Text(), "s3://my-bucket");
}

TEST(S3PathTest, WhatIsNoneIsRefusedSayingWhatIsExpected) {
  for (const char* text :
       {"s3:/bucket/a", "s3:bucket", "s3://", "s3:///a", "s3://ab/c",
        "s3://bu cket/a", "s3://bucket/a/../b", "s3://../../etc", "s3://b%2f/a",
        "s3://user:password@bucket/a", "s3://bucket?x/a"}) {
    const Status status = ParseS3Path(text).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(status.message(), HasSubstr("expected s3://BUCKET/PATH"));
    EXPECT_TRUE(IsS3Path(text)) << "and it is no local file";
  }
  EXPECT_FALSE(ParseS3Path("s3://bucket/" + std::string(1025, 'a')).ok());
  EXPECT_FALSE(IsS3Path("s3/a"));
  EXPECT_FALSE(IsS3Path("./s3:/a"));
}

TEST(S3PathTest, PercentEncodingIsThatOfSignatures) {
  EXPECT_EQ(PercentEncoded("AZaz09-._~", false), "AZaz09-._~");
  EXPECT_EQ(PercentEncoded("a/b c+d=\xc3\xa4", true), "a/b%20c%2Bd%3D%C3%A4");
  EXPECT_EQ(PercentEncoded("a/b", false), "a%2Fb");
}

TEST(S3AnswerTest, ListingHasKeysPrefixesAndWhereItGoesOn) {
  const StatusOr<S3Listing> listing = ParseS3Listing(
      R"(<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
  <Name>b</Name><Prefix>p/</Prefix><IsTruncated>true</IsTruncated>
  <Contents><Key>p/a&amp;b &lt;1&gt;</Key><Size>3</Size></Contents>
  <CommonPrefixes><Prefix>p/step-1/</Prefix></CommonPrefixes>
  <NextContinuationToken>to/ken==</NextContinuationToken>
</ListBucketResult>)");
  ASSERT_TRUE(listing.ok()) << listing.status();
  EXPECT_THAT(listing->keys, ElementsAre("p/a&b <1>"));
  EXPECT_THAT(listing->prefixes, ElementsAre("p/step-1/"));
  EXPECT_EQ(listing->next, "to/ken==");
}

TEST(S3AnswerTest, LastPageHasNoNext) {
  const StatusOr<S3Listing> listing = ParseS3Listing(
      "<ListBucketResult><IsTruncated>false</IsTruncated>"
      "<NextContinuationToken>x</NextContinuationToken></ListBucketResult>");
  ASSERT_TRUE(listing.ok());
  EXPECT_THAT(listing->next, IsEmpty());
  EXPECT_THAT(listing->keys, IsEmpty());
}

TEST(S3AnswerTest, WhatIsCutOffOrAnotherAnswerIsNoListing) {
  for (const char* text :
       {"", "<ListBucketResult><Contents><Key>a</Key></Contents>",
        "<html><body>Welcome</body></html>", "not xml",
        "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        "<ListBucketResult><Contents></ListBucketResult>"}) {
    EXPECT_EQ(ParseS3Listing(text).status().code(), StatusCode::kUnavailable)
        << text;
  }
}

TEST(S3AnswerTest, EntitiesOfADocumentTypeAreNotExpanded) {
  const StatusOr<S3Listing> listing = ParseS3Listing(
      R"(<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>
<ListBucketResult><Contents><Key>&f;</Key></Contents></ListBucketResult>)");
  ASSERT_TRUE(listing.ok()) << listing.status();
  EXPECT_THAT(listing->keys, ElementsAre("&f;"));
}

TEST(S3AnswerTest, ErrorsAreCutAndCleaned) {
  const S3Refusal refusal = ParseS3Refusal(
      "<Error><Code>AccessDenied</Code><Message>a\x1b[31m" +
      std::string(1000, 'x') + "</Message><AWSAccessKeyId>k</AWSAccessKeyId>" +
      "</Error>");
  EXPECT_EQ(refusal.code, "AccessDenied");
  EXPECT_EQ(refusal.message.size(), 300U);
  EXPECT_EQ(refusal.message.substr(0, 5), "a [31");
  EXPECT_EQ(ParseS3Refusal("<html>502</html>").code, "");
}

}  // namespace
}  // namespace shoal
