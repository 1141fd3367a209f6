#ifndef SHOAL_BASE_S3_S3_TESTING_H_
#define SHOAL_BASE_S3_S3_TESTING_H_

#include <httplib.h>

#include <deque>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/s3/client.h"
#include "base/strcat.h"

namespace shoal {

// A store with one bucket, "bucket", on a port of this machine: what S3Storage
// asks for, as Amazon documents it. It checks no signatures (tests/s3 has
// another store do that), and what it is told to, it does wrong.
class FakeStore {
 public:
  using Answer =
      std::function<void(const httplib::Request&, httplib::Response&)>;

  FakeStore() {
    const auto handle = [this](const httplib::Request& request,
                               httplib::Response& response) {
      Handle(request, response);
    };
    server_.Get(".*", handle).Put(".*", handle).Post(".*", handle);
    server_.Delete(".*", handle);
    server_.set_keep_alive_max_count(1000);
    port_ = server_.bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) {
      std::this_thread::yield();
    }
  }
  ~FakeStore() {
    server_.stop();
    thread_.join();
  }
  FakeStore(const FakeStore&) = delete;
  FakeStore& operator=(const FakeStore&) = delete;

  // With short waits.
  S3Options options() const {
    S3Options options;
    options.endpoint = StrCat("http://127.0.0.1:", port_);
    options.access_key = "the-key";
    options.secret_key = "the-secret";
    options.session_token = "the-token";
    options.connect_within = 1s;
    options.stalled_within = 1s;
    options.request_within = 5s;
    options.retry_within = 2s;
    options.part_bytes = 1000;
    return options;
  }

  // The next requests get these answers, one each.
  void Next(std::vector<Answer> answers) {
    const MutexLock lock(mutex_);
    next_.insert(next_.end(), answers.begin(), answers.end());
  }
  // All requests whose line ("GET /bucket/key?query") begins so.
  void Always(const std::string& begin, Answer answer) {
    const MutexLock lock(mutex_);
    always_[begin] = std::move(answer);
  }
  void SetPageSize(size_t keys) {
    const MutexLock lock(mutex_);
    page_ = keys;
  }

  // The lines of all requests so far.
  std::vector<std::string> Lines() {
    const MutexLock lock(mutex_);
    return lines_;
  }
  std::map<std::string, std::string> Files() {
    const MutexLock lock(mutex_);
    return files_;
  }
  size_t NumUploads() {
    const MutexLock lock(mutex_);
    return uploads_.size();
  }

  static Answer Error(int status, const std::string& code,
                      const std::string& message) {
    return [=](const httplib::Request&, httplib::Response& response) {
      Refuse(response, status, code, message);
    };
  }

 private:
  static void Refuse(httplib::Response& response, int status,
                     const std::string& code, const std::string& message) {
    response.status = status;
    response.set_content(
        StrCat("<?xml version=\"1.0\"?><Error><Code>", code, "</Code><Message>",
               message, "</Message></Error>"),
        "application/xml");
  }

  void Handle(const httplib::Request& request, httplib::Response& response) {
    const MutexLock lock(mutex_);
    const std::string line = StrCat(request.method, " ", request.target);
    lines_.push_back(line);
    for (const auto& [begin, answer] : always_) {
      if (line.starts_with(begin)) {
        return answer(request, response);
      }
    }
    if (!next_.empty()) {
      const Answer answer = std::move(next_.front());
      next_.pop_front();
      if (answer) {
        return answer(request, response);
      }
    }
    if (!request.path.starts_with("/bucket/")) {
      return Refuse(response, 404, "NoSuchBucket", "no such bucket");
    }
    Do(request, request.path.substr(8), response);
  }

  void Do(const httplib::Request& request, const std::string& key,
          httplib::Response& response) SHOAL_REQUIRES(mutex_) {
    const auto xml = [&](const std::string& text) {
      response.set_content("<?xml version=\"1.0\"?>" + text, "application/xml");
    };
    const std::string upload = request.get_param_value("uploadId");
    if (!upload.empty() && !uploads_.contains(upload)) {
      return Refuse(response, 404, "NoSuchUpload", "no such upload");
    }
    if (request.has_param("list-type")) {
      return xml(List(request));
    }
    if (request.method == "GET") {
      if (!files_.contains(key)) {
        return Refuse(response, 404, "NoSuchKey", "no such key");
      }
      response.set_content(files_[key], "application/octet-stream");
    } else if (request.method == "DELETE") {
      upload.empty() ? files_.erase(key) : uploads_.erase(upload);
      response.status = 204;
    } else if (request.has_param("uploads")) {
      const std::string id = StrCat("upload+/", ++made_);
      uploads_[id];
      xml(StrCat("<InitiateMultipartUploadResult><UploadId>", id,
                 "</UploadId></InitiateMultipartUploadResult>"));
    } else if (request.method == "POST") {
      std::string whole;
      for (const auto& [number, part] : uploads_[upload]) {
        whole += part;
      }
      files_[key] = whole;
      uploads_.erase(upload);
      xml("<CompleteMultipartUploadResult><ETag>\"e\"</ETag>"
          "</CompleteMultipartUploadResult>");
    } else if (request.has_header("x-amz-copy-source")) {
      const std::string from = httplib::detail::decode_url(
          request.get_header_value("x-amz-copy-source"), false);
      files_[key] = files_.at(from.substr(std::string("/bucket/").size()));
      xml("<CopyObjectResult><ETag>\"e\"</ETag></CopyObjectResult>");
    } else if (upload.empty()) {
      files_[key] = request.body;
    } else {
      uploads_[upload][std::stoi(request.get_param_value("partNumber"))] =
          request.body;
      response.set_header("ETag", "\"part\"");
    }
  }

  std::string List(const httplib::Request& request) SHOAL_REQUIRES(mutex_) {
    const std::string prefix = request.get_param_value("prefix");
    const std::string delimiter = request.get_param_value("delimiter");
    std::map<std::string, bool> entries;  // whether it is a prefix
    for (const auto& [key, text] : files_) {
      if (key.starts_with(prefix)) {
        const size_t end = delimiter.empty()
                               ? std::string::npos
                               : key.find(delimiter, prefix.size());
        entries[end == std::string::npos ? key : key.substr(0, end + 1)] =
            end != std::string::npos;
      }
    }
    std::string text = "<ListBucketResult>";
    size_t count = 0;
    const std::string after = request.get_param_value("continuation-token");
    for (const auto& [entry, is_prefix] : entries) {
      if (entry <= after) {
        continue;
      }
      if (count++ == page_) {
        text += "<IsTruncated>true</IsTruncated>";
        break;
      }
      last_ = entry;
      text += is_prefix ? StrCat("<CommonPrefixes><Prefix>", entry,
                                 "</Prefix></CommonPrefixes>")
                        : StrCat("<Contents><Key>", entry, "</Key></Contents>");
    }
    return StrCat(text, "<NextContinuationToken>", last_,
                  "</NextContinuationToken></ListBucketResult>");
  }

  httplib::Server server_;
  int port_ = 0;
  std::thread thread_;
  Mutex mutex_;
  std::deque<Answer> next_ SHOAL_GUARDED_BY(mutex_);
  std::map<std::string, Answer> always_ SHOAL_GUARDED_BY(mutex_);
  std::vector<std::string> lines_ SHOAL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> files_ SHOAL_GUARDED_BY(mutex_);
  std::map<std::string, std::map<int, std::string>> uploads_
      SHOAL_GUARDED_BY(mutex_);
  int made_ SHOAL_GUARDED_BY(mutex_) = 0;
  size_t page_ SHOAL_GUARDED_BY(mutex_) = 1000;
  std::string last_ SHOAL_GUARDED_BY(mutex_);
};

}  // namespace shoal

#endif  // SHOAL_BASE_S3_S3_TESTING_H_
