#include "base/status.h"

#include <cstdio>
#include <cstdlib>

#include "base/strcat.h"

namespace shoal {

std::string StatusCodeName(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return "OK";
    case StatusCode::kCancelled:
      return "CANCELLED";
    case StatusCode::kInvalidArgument:
      return "INVALID_ARGUMENT";
    case StatusCode::kDeadlineExceeded:
      return "DEADLINE_EXCEEDED";
    case StatusCode::kNotFound:
      return "NOT_FOUND";
    case StatusCode::kResourceExhausted:
      return "RESOURCE_EXHAUSTED";
    case StatusCode::kFailedPrecondition:
      return "FAILED_PRECONDITION";
    case StatusCode::kAborted:
      return "ABORTED";
    case StatusCode::kUnimplemented:
      return "UNIMPLEMENTED";
    case StatusCode::kInternal:
      return "INTERNAL";
    case StatusCode::kUnavailable:
      return "UNAVAILABLE";
    case StatusCode::kDataLoss:
      return "DATA_LOSS";
  }
  return StrCat("UNKNOWN(", static_cast<int>(code), ")");
}

Status::Status(StatusCode code, std::string_view message) {
  if (code != StatusCode::kOk) {
    rep_ = std::make_shared<const Rep>(Rep{code, std::string(message)});
  }
}

const std::string& Status::message() const {
  static const std::string kEmpty;
  return ok() ? kEmpty : rep_->message;
}

std::string Status::ToString() const {
  return ok() ? "OK" : StatusCodeName(rep_->code) + ": " + rep_->message;
}

Status Status::WithPrefix(std::string_view prefix) const {
  return ok() ? *this : Status(code(), StrCat(prefix, ": ", message()));
}

std::ostream& operator<<(std::ostream& out, const Status& status) {
  return out << status.ToString();
}

Status CancelledError(std::string_view message) {
  return Status(StatusCode::kCancelled, message);
}
Status InvalidArgumentError(std::string_view message) {
  return Status(StatusCode::kInvalidArgument, message);
}
Status DeadlineExceededError(std::string_view message) {
  return Status(StatusCode::kDeadlineExceeded, message);
}
Status NotFoundError(std::string_view message) {
  return Status(StatusCode::kNotFound, message);
}
Status ResourceExhaustedError(std::string_view message) {
  return Status(StatusCode::kResourceExhausted, message);
}
Status FailedPreconditionError(std::string_view message) {
  return Status(StatusCode::kFailedPrecondition, message);
}
Status AbortedError(std::string_view message) {
  return Status(StatusCode::kAborted, message);
}
Status UnimplementedError(std::string_view message) {
  return Status(StatusCode::kUnimplemented, message);
}
Status InternalError(std::string_view message) {
  return Status(StatusCode::kInternal, message);
}
Status UnavailableError(std::string_view message) {
  return Status(StatusCode::kUnavailable, message);
}
Status DataLossError(std::string_view message) {
  return Status(StatusCode::kDataLoss, message);
}

namespace internal {

void CheckFailed(const char* file, int line, const char* what,
                 const std::string& detail) {
  std::fprintf(stderr, "%s:%d: check failed: %s%s%s\n", file, line, what,
               detail.empty() ? "" : ": ", detail.c_str());
  std::abort();
}

}  // namespace internal
}  // namespace shoal
