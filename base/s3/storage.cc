#include "base/s3/storage.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/cancellable.h"
#include "base/strcat.h"

namespace shoal {
namespace {

constexpr int64_t kPartsMax = 10'000;

class S3Storage : public Storage, public Cancellable {
 public:
  explicit S3Storage(const S3Options& options) : client_(options) {}

  void Cancel() override { client_.Cancel(); }

  StatusOr<Buffer> ReadFile(const std::string& path) override {
    SHOAL_ASSIGN_OR_RETURN(const S3Path file, FileOf(path));
    SHOAL_ASSIGN_OR_RETURN(S3Reply reply, client_.Send({.path = file}));
    return std::move(reply.body);
  }

  Status PublishFile(const std::string& path,
                     std::span<const Buffer> pieces) override {
    SHOAL_ASSIGN_OR_RETURN(const S3Path file, FileOf(path));
    int64_t size = 0;
    for (const Buffer& piece : pieces) {
      size += piece.size();
    }
    if (size <= client_.options().part_bytes) {
      return client_
          .Send({.method = "PUT", .path = file, .pieces = pieces, .size = size})
          .status();
    }
    Status status = PublishParts(file, pieces, size);
    if (status.code() == StatusCode::kNotFound) {
      // The upload is gone: somebody has ended it, or its end was asked for
      // twice because the first answer was lost.
      status = PublishParts(file, pieces, size);
    }
    return status;
  }

  StatusOr<std::vector<std::string>> ListFolder(
      const std::string& path) override {
    SHOAL_ASSIGN_OR_RETURN(const S3Path folder, ParseS3Path(path));
    const std::string prefix = FolderPrefix(folder);
    std::set<std::string> names;
    SHOAL_RETURN_IF_ERROR(List(folder, "/", [&](const S3Listing& page) {
      for (const auto* found : {&page.keys, &page.prefixes}) {
        for (std::string name : *found) {
          if (name.ends_with('/')) {
            name.pop_back();
          }
          // Some programs mark a folder by an object of its name.
          if (name.size() > prefix.size()) {
            names.insert(name.substr(prefix.size()));
          }
        }
      }
      return OkStatus();
    }));
    if (names.empty()) {
      return NotFoundError(
          StrCat("list '", path, "': there is no file of that folder"));
    }
    return std::vector<std::string>(names.begin(), names.end());
  }

  Status Remove(const std::string& path) override {
    SHOAL_ASSIGN_OR_RETURN(const S3Path file, FileOf(path));
    SHOAL_RETURN_IF_ERROR(RemoveFile(file));
    return List(file, "", [&](const S3Listing& page) -> Status {
      for (const std::string& key : page.keys) {
        SHOAL_RETURN_IF_ERROR(RemoveFile({.bucket = file.bucket, .key = key}));
      }
      return OkStatus();
    });
  }

  Status MoveFolder(const std::string& from, const std::string& to) override {
    SHOAL_ASSIGN_OR_RETURN(const S3Path source, FileOf(from));
    SHOAL_ASSIGN_OR_RETURN(const S3Path target, FileOf(to));
    const size_t skipped = FolderPrefix(source).size();
    std::vector<std::string> keys;
    SHOAL_RETURN_IF_ERROR(
        List(source, "", [&](const S3Listing& page) -> Status {
          keys.insert(keys.end(), page.keys.begin(), page.keys.end());
          return OkStatus();
        }));
    if (keys.empty()) {
      return NotFoundError(
          StrCat("move '", from, "': there is no file of that folder"));
    }
    // What makes a folder whole, a manifest, is to be there when all else is,
    // also if this is cut off half way.
    std::stable_partition(keys.begin(), keys.end(), [](const std::string& key) {
      return !key.ends_with(".json");
    });
    for (const std::string& key : keys) {
      SHOAL_RETURN_IF_ERROR(
          client_
              .Send(
                  {.method = "PUT",
                   .path = {.bucket = target.bucket,
                            .key = FolderPrefix(target) + key.substr(skipped)},
                   .headers = {StrCat("x-amz-copy-source: /", source.bucket,
                                      "/", PercentEncoded(key, true))},
                   .store_works = true})
              .status());
    }
    return Remove(from);
  }

 private:
  // Not a whole bucket.
  static StatusOr<S3Path> FileOf(const std::string& path) {
    SHOAL_ASSIGN_OR_RETURN(S3Path file, ParseS3Path(path));
    if (file.key.empty()) {
      return InvalidArgumentError(
          StrCat("'", path, "' is a bucket; name a file or folder in it"));
    }
    return file;
  }

  static std::string FolderPrefix(const S3Path& folder) {
    return folder.key.empty() ? "" : folder.key + "/";
  }

  // Hands `visit` what is below `folder`, page by page.
  template <typename Visit>
  Status List(const S3Path& folder, const std::string& delimiter, Visit visit) {
    S3Request request = {
        .path = {.bucket = folder.bucket},
        .query = {{"list-type", "2"}, {"prefix", FolderPrefix(folder)}}};
    if (!delimiter.empty()) {
      request.query["delimiter"] = delimiter;
    }
    while (true) {
      SHOAL_ASSIGN_OR_RETURN(const S3Reply reply, client_.Send(request));
      StatusOr<S3Listing> page = ParseS3Listing(reply.body.text());
      if (!page.ok()) {
        return page.status().WithPrefix(StrCat("list ", folder.Text()));
      }
      SHOAL_RETURN_IF_ERROR(visit(*page));
      if (page->next.empty()) {
        return OkStatus();
      }
      if (page->next ==
          std::exchange(request.query["continuation-token"], page->next)) {
        return UnavailableError(StrCat("list ", folder.Text(),
                                       ": the store gives one page for ever"));
      }
    }
  }

  Status RemoveFile(const S3Path& file) {
    const Status status =
        client_.Send({.method = "DELETE", .path = file}).status();
    return status.code() == StatusCode::kNotFound ? OkStatus() : status;
  }

  Status PublishParts(const S3Path& file, std::span<const Buffer> pieces,
                      int64_t size) {
    SHOAL_ASSIGN_OR_RETURN(
        const S3Reply begun,
        client_.Send(
            {.method = "POST", .path = file, .query = {{"uploads", ""}}}));
    const StatusOr<std::string> upload = ParseS3Answer(
        begun.body.text(), "InitiateMultipartUploadResult", "UploadId");
    if (!upload.ok()) {
      return upload.status().WithPrefix(StrCat("write ", file.Text()));
    }
    Status status = SendParts(file, *upload, pieces, size);
    if (!status.ok()) {
      // What it says does not matter: the error is the one before.
      (void)client_.Send(
          {.method = "DELETE", .path = file, .query = {{"uploadId", *upload}}});
    }
    return status;
  }

  Status SendParts(const S3Path& file, const std::string& upload,
                   std::span<const Buffer> pieces, int64_t size) {
    const int64_t part_bytes =
        std::max(client_.options().part_bytes, (size - 1) / kPartsMax + 1);
    std::string list = "<CompleteMultipartUpload>";
    int number = 1;
    for (int64_t begin = 0; begin < size; begin += part_bytes, ++number) {
      SHOAL_ASSIGN_OR_RETURN(
          const S3Reply part,
          client_.Send({.method = "PUT",
                        .path = file,
                        .query = {{"partNumber", std::to_string(number)},
                                  {"uploadId", upload}},
                        .pieces = pieces,
                        .begin = begin,
                        .size = std::min(part_bytes, size - begin)}));
      list += StrCat("<Part><PartNumber>", number, "</PartNumber><ETag>",
                     part.etag, "</ETag></Part>");
    }
    const Buffer end = Buffer::CopyOf(list + "</CompleteMultipartUpload>");
    SHOAL_ASSIGN_OR_RETURN(const S3Reply done,
                           client_.Send({.method = "POST",
                                         .path = file,
                                         .query = {{"uploadId", upload}},
                                         .pieces = {&end, 1},
                                         .size = end.size(),
                                         .store_works = true}));
    return ParseS3Answer(done.body.text(), "CompleteMultipartUploadResult",
                         "ETag")
        .status()
        .WithPrefix(StrCat("write ", file.Text()));
  }

  S3Client client_;
};

}  // namespace

std::unique_ptr<Storage> CreateS3Storage(const S3Options& options) {
  return std::make_unique<S3Storage>(options);
}

}  // namespace shoal
