#ifndef SHOAL_BASE_S3_NAMES_H_
#define SHOAL_BASE_S3_NAMES_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace shoal {

// An object of an S3-compatible store, or what a folder is there: the
// beginning of the keys of its files.
struct S3Path {
  std::string bucket;
  std::string key;  // "a/b/c", without a slash at either end; empty: the bucket

  std::string Text() const;  // "s3://bucket/a/b/c"
};

// Also for "s3:/bucket", which is a slip and no local folder.
bool IsS3Path(std::string_view path);

// Doubled slashes, slashes at the end and "." count for nothing.
// Errors: kInvalidArgument.
StatusOr<S3Path> ParseS3Path(std::string_view text);

// As signatures have it: all but letters, digits and "-._~" as %XX, and a slash
// too unless it is to stay.
std::string PercentEncoded(std::string_view text, bool keep_slashes);

// One answer to ListObjectsV2.
struct S3Listing {
  std::vector<std::string> keys;
  std::vector<std::string> prefixes;  // up to and with the next slash
  std::string next;                   // continuation token; empty: the last one
};

// Errors of both: kUnavailable (it is not that answer, or cut off).
StatusOr<S3Listing> ParseS3Listing(std::string_view xml);
// The text of `element` in an answer that begins with `root`.
StatusOr<std::string> ParseS3Answer(std::string_view xml, const char* root,
                                    const char* element);

// What an error's answer says; empty where it says nothing.
struct S3Refusal {
  std::string code;     // "NoSuchKey"
  std::string message;  // at most 300 bytes, without control characters
};
S3Refusal ParseS3Refusal(std::string_view xml);

}  // namespace shoal

#endif  // SHOAL_BASE_S3_NAMES_H_
