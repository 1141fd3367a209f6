#ifndef SHOAL_BASE_STATUS_H_
#define SHOAL_BASE_STATUS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>

namespace shoal {

// What the caller may do next:
//   kUnavailable, kResourceExhausted   back off, then the same call again
//   kAborted                           refresh (routes, step), then redo
//   kDeadlineExceeded                  the named wait took too long
//   kInvalidArgument, kNotFound,
//   kFailedPrecondition, kUnimplemented  do not repeat the same call
//   kDataLoss                          restore from a checkpoint
//   kCancelled                         somebody asked for the end
//   kInternal                          a bug in Shoal
enum class StatusCode : uint8_t {
  kOk = 0,
  kCancelled = 1,
  kInvalidArgument = 2,
  kDeadlineExceeded = 3,
  kNotFound = 4,
  kResourceExhausted = 5,
  kFailedPrecondition = 6,
  kAborted = 7,
  kUnimplemented = 8,
  kInternal = 9,
  kUnavailable = 10,
  kDataLoss = 11,
};

// "INVALID_ARGUMENT" and so on; "UNKNOWN(17)" for a value that is none of ours.
std::string StatusCodeName(StatusCode code);

// A code and a text that says who, found, expected. An OK status has no text
// and costs no allocation.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string_view message);

  bool ok() const { return rep_ == nullptr; }
  StatusCode code() const { return ok() ? StatusCode::kOk : rep_->code; }
  const std::string& message() const;

  // "OK" or "INVALID_ARGUMENT: text".
  std::string ToString() const;

  // The same code with `prefix` and ": " before the text. OK stays OK.
  Status WithPrefix(std::string_view prefix) const;

 private:
  struct Rep {
    StatusCode code;
    std::string message;
  };
  std::shared_ptr<const Rep> rep_;
};

std::ostream& operator<<(std::ostream& out, const Status& status);

inline Status OkStatus() { return Status(); }
Status CancelledError(std::string_view message);
Status InvalidArgumentError(std::string_view message);
Status DeadlineExceededError(std::string_view message);
Status NotFoundError(std::string_view message);
Status ResourceExhaustedError(std::string_view message);
Status FailedPreconditionError(std::string_view message);
Status AbortedError(std::string_view message);
Status UnimplementedError(std::string_view message);
Status InternalError(std::string_view message);
Status UnavailableError(std::string_view message);
Status DataLossError(std::string_view message);

namespace internal {
[[noreturn]] void CheckFailed(const char* file, int line, const char* what,
                              const std::string& detail);
}  // namespace internal

// A value, or the reason why there is none. Reading the value of an error is a
// bug and stops the program.
template <typename T>
class [[nodiscard]] StatusOr {
 public:
  // NOLINTNEXTLINE(google-explicit-constructor): `return value;` reads well.
  StatusOr(T value) : value_(std::move(value)) {}
  // NOLINTNEXTLINE(google-explicit-constructor)
  StatusOr(Status status) : status_(std::move(status)) {
    if (status_.ok()) {
      status_ = InternalError("StatusOr made from an OK status");
    }
  }

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }

  T& value() & {
    Require();
    return *value_;
  }
  const T& value() const& {
    Require();
    return *value_;
  }
  T&& value() && {
    Require();
    return *std::move(value_);
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  void Require() const {
    if (!value_.has_value()) {
      internal::CheckFailed(__FILE__, __LINE__, "StatusOr has a value",
                            status_.ToString());
    }
  }

  std::optional<T> value_;
  Status status_;
};

}  // namespace shoal

#define SHOAL_CONCAT_INNER(a, b) a##b
#define SHOAL_CONCAT(a, b) SHOAL_CONCAT_INNER(a, b)

#define SHOAL_RETURN_IF_ERROR(expr)                                  \
  do {                                                               \
    if (::shoal::Status shoal_status_ = (expr); !shoal_status_.ok()) \
        [[unlikely]] {                                               \
      return shoal_status_;                                          \
    }                                                                \
  } while (false)

#define SHOAL_ASSIGN_OR_RETURN(lhs, expr) \
  SHOAL_ASSIGN_OR_RETURN_IMPL(SHOAL_CONCAT(shoal_or_, __LINE__), lhs, expr)
#define SHOAL_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                                \
  if (!tmp.ok()) [[unlikely]] {                     \
    return tmp.status();                            \
  }                                                 \
  lhs = *std::move(tmp)

// For bugs only: nothing that a network, disk, flag or user sends may reach it.
#define SHOAL_CHECK(condition)                                            \
  do {                                                                    \
    if (!(condition)) [[unlikely]] {                                      \
      ::shoal::internal::CheckFailed(__FILE__, __LINE__, #condition, ""); \
    }                                                                     \
  } while (false)

#endif  // SHOAL_BASE_STATUS_H_
