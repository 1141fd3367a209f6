#include <httplib.h>

#include <cctype>
#include <deque>
#include <thread>
#include <utility>

#include "base/mutex.h"
#include "base/s3/s3_testing.h"
#include "base/strcat.h"

// No tests: what others use of s3_testing.h.
namespace shoal {

struct FakeStore::Impl {
  Impl() {
    const auto handle = [this](const httplib::Request& request,
                               httplib::Response& response) {
      Send(Handle(request), response);
    };
    server.Get(".*", handle).Put(".*", handle).Post(".*", handle);
    server.Delete(".*", handle);
    server.set_keep_alive_max_count(1000);
    port = server.bind_to_any_port("127.0.0.1");
    thread = std::thread([this] { server.listen_after_bind(); });
    while (!server.is_running()) {
      std::this_thread::yield();
    }
  }
  ~Impl() {
    server.stop();
    thread.join();
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  static void Send(const Response& from, httplib::Response& to) {
    to.status = from.status;
    to.set_header("ETag", "\"e\"");
    if (from.chunked) {
      to.set_chunked_content_provider(
          "text/plain", [from](size_t, httplib::DataSink& sink) {
            sink.write(from.body.data(), from.body.size());
            sink.done();
            return true;
          });
    } else if (from.announced > 0) {
      to.set_content_provider(
          from.announced, "text/plain",
          [from](size_t offset, size_t, httplib::DataSink& sink) {
            return offset == 0 &&
                   sink.write(from.body.data(), from.body.size());
          });
    } else {
      to.set_content(from.body, "text/plain");
    }
  }

  Response Handle(const httplib::Request& request) {
    Request seen = {.line = StrCat(request.method, " ", request.target)};
    for (const auto& [name, value] : request.headers) {
      std::string lower = name;
      for (char& c : lower) {
        c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      }
      seen.headers[lower] = value;
    }
    Answer answer;
    {
      const MutexLock lock(mutex);
      lines.push_back(seen.line);
      for (const auto& [begin, other] : always) {
        if (seen.line.starts_with(begin)) {
          answer = other;
        }
      }
      if (!answer && !next.empty()) {
        answer = std::move(next.front());
        next.pop_front();
      }
      if (!answer) {
        return request.path.starts_with("/bucket/")
                   ? Do(request, request.path.substr(8))
                   : Error(404, "NoSuchBucket", "no such bucket")(seen);
      }
    }
    return answer(seen);
  }

  Response Do(const httplib::Request& request, const std::string& key)
      SHOAL_REQUIRES(mutex) {
    const std::string upload = request.get_param_value("uploadId");
    if (!upload.empty() && !uploads.contains(upload)) {
      return Error(404, "NoSuchUpload", "no such upload")({});
    }
    if (request.has_param("list-type")) {
      return {.body = List(request)};
    }
    if (request.method == "GET") {
      return files.contains(key) ? Response{.body = files[key]}
                                 : Error(404, "NoSuchKey", "no such key")({});
    }
    if (request.method == "DELETE") {
      upload.empty() ? files.erase(key) : uploads.erase(upload);
      return {.status = 204};
    }
    if (request.has_param("uploads")) {
      const std::string id = StrCat("upload+/", ++num_made);
      uploads[id];
      return {.body = StrCat("<InitiateMultipartUploadResult><UploadId>", id,
                             "</UploadId></InitiateMultipartUploadResult>")};
    }
    if (request.method == "POST") {
      std::string whole;
      for (const auto& [number, part] : uploads[upload]) {
        whole += part;
      }
      files[key] = whole;
      uploads.erase(upload);
      return {.body =
                  "<CompleteMultipartUploadResult><ETag>\"e\"</ETag>"
                  "</CompleteMultipartUploadResult>"};
    }
    if (request.has_header("x-amz-copy-source")) {
      const std::string from = httplib::detail::decode_url(
          request.get_header_value("x-amz-copy-source"), false);
      files[key] = files.at(from.substr(std::string("/bucket/").size()));
      return {.body =
                  "<CopyObjectResult><ETag>\"e\"</ETag></CopyObjectResult>"};
    }
    (upload.empty()
         ? files[key]
         : uploads[upload][std::stoi(request.get_param_value("partNumber"))]) =
        request.body;
    return {};
  }

  std::string List(const httplib::Request& request) SHOAL_REQUIRES(mutex) {
    const std::string prefix = request.get_param_value("prefix");
    const std::string delimiter = request.get_param_value("delimiter");
    const std::string after = request.get_param_value("continuation-token");
    std::map<std::string, bool> entries;  // whether it is a prefix
    for (const auto& [key, text] : files) {
      if (key.starts_with(prefix)) {
        const size_t end = delimiter.empty()
                               ? std::string::npos
                               : key.find(delimiter, prefix.size());
        entries[end == std::string::npos ? key : key.substr(0, end + 1)] =
            end != std::string::npos;
      }
    }
    std::string text = "<ListBucketResult>";
    std::string last;
    size_t count = 0;
    for (const auto& [entry, is_prefix] : entries) {
      if (entry <= after) {
        continue;
      }
      if (count++ == page_keys) {
        text += "<IsTruncated>true</IsTruncated>";
        break;
      }
      last = entry;
      text += is_prefix ? StrCat("<CommonPrefixes><Prefix>", entry,
                                 "</Prefix></CommonPrefixes>")
                        : StrCat("<Contents><Key>", entry, "</Key></Contents>");
    }
    return StrCat(text, "<NextContinuationToken>", last,
                  "</NextContinuationToken></ListBucketResult>");
  }

  httplib::Server server;
  int port = 0;
  std::thread thread;
  Mutex mutex;
  std::deque<Answer> next SHOAL_GUARDED_BY(mutex);
  std::map<std::string, Answer> always SHOAL_GUARDED_BY(mutex);
  std::vector<std::string> lines SHOAL_GUARDED_BY(mutex);
  std::map<std::string, std::string> files SHOAL_GUARDED_BY(mutex);
  std::map<std::string, std::map<int, std::string>> uploads
      SHOAL_GUARDED_BY(mutex);
  int num_made SHOAL_GUARDED_BY(mutex) = 0;
  size_t page_keys SHOAL_GUARDED_BY(mutex) = 1000;
};

FakeStore::FakeStore() : impl_(std::make_unique<Impl>()) {}
FakeStore::~FakeStore() = default;

FakeStore::Answer FakeStore::Error(int status, const std::string& code,
                                   const std::string& message) {
  return [=](const Request&) {
    return Response{
        .status = status,
        .body = StrCat("<?xml version=\"1.0\"?><Error><Code>", code,
                       "</Code><Message>", message, "</Message></Error>")};
  };
}

S3Options FakeStore::options() const {
  S3Options options;
  options.endpoint = StrCat("http://127.0.0.1:", impl_->port);
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

void FakeStore::Next(const std::vector<Answer>& answers) {
  const MutexLock lock(impl_->mutex);
  impl_->next.insert(impl_->next.end(), answers.begin(), answers.end());
}

void FakeStore::Always(const std::string& begin, Answer answer) {
  const MutexLock lock(impl_->mutex);
  impl_->always[begin] = std::move(answer);
}

void FakeStore::SetPageSize(size_t keys) {
  const MutexLock lock(impl_->mutex);
  impl_->page_keys = keys;
}

std::vector<std::string> FakeStore::Lines() {
  const MutexLock lock(impl_->mutex);
  return impl_->lines;
}

std::map<std::string, std::string> FakeStore::Files() {
  const MutexLock lock(impl_->mutex);
  return impl_->files;
}

size_t FakeStore::NumUploads() {
  const MutexLock lock(impl_->mutex);
  return impl_->uploads.size();
}

}  // namespace shoal
