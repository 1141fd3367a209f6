#ifndef SHOAL_BASE_S3_S3_TESTING_H_
#define SHOAL_BASE_S3_S3_TESTING_H_

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/s3/client.h"

namespace shoal {

// A store with one bucket, "bucket", on a port of this machine: what S3Storage
// asks for, as Amazon documents it. It checks no signatures (tests/s3 has
// another store do that), and what it is told to, it does wrong.
class FakeStore {
 public:
  struct Request {
    std::string line;                            // "GET /bucket/key?query"
    std::map<std::string, std::string> headers;  // names in lower case
  };
  struct Response {
    int status = 200;
    std::string body;
    size_t announced = 0;  // length that it says; 0: the body's
    bool chunked = false;  // says no length
  };
  using Answer = std::function<Response(const Request&)>;
  static Answer Error(int status, const std::string& code,
                      const std::string& message);

  FakeStore();
  ~FakeStore();
  FakeStore(const FakeStore&) = delete;
  FakeStore& operator=(const FakeStore&) = delete;

  // With short waits.
  S3Options options() const;

  // The next requests get these answers, one each; an empty one: the right one.
  void Next(const std::vector<Answer>& answers);
  // All requests whose line begins so.
  void Always(const std::string& begin, Answer answer);
  void SetPageSize(size_t keys);

  std::vector<std::string> Lines();  // of all requests so far
  std::map<std::string, std::string> Files();
  size_t NumUploads();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal

#endif  // SHOAL_BASE_S3_S3_TESTING_H_
