#ifndef SHOAL_BASE_CANCELLABLE_H_
#define SHOAL_BASE_CANCELLABLE_H_

namespace shoal {

// A second interface of what blocks for long when others are away.
class Cancellable {
 public:
  virtual ~Cancellable() = default;

  // Calls that block, and all to come, end with kCancelled within a second or
  // so. From any thread.
  virtual void Cancel() = 0;
};

}  // namespace shoal

#endif  // SHOAL_BASE_CANCELLABLE_H_
