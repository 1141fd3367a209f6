#ifndef SHOAL_BASE_BUFFER_H_
#define SHOAL_BASE_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace shoal {

// A reference-counted piece of memory. Copies share; a Slice() keeps the whole
// alive. Who holds it may read it from any thread; writing is for its maker,
// before it is shared.
//
// Allocate() aligns to 64 bytes; what Wrap() or a transport hands out has the
// alignment of what it points to (transports keep 8 bytes).
class Buffer {
 public:
  Buffer() = default;

  // Uninitialized memory of `size_bytes` >= 0.
  static Buffer Allocate(int64_t size_bytes);

  // Memory that somebody else made; `owner` keeps it alive.
  static Buffer Wrap(void* data, int64_t size_bytes,
                     std::shared_ptr<const void> owner);

  static Buffer CopyOf(std::string_view bytes);
  static Buffer CopyOf(const void* data, int64_t size_bytes);

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  int64_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  // [begin, begin + size) must lie inside.
  Buffer Slice(int64_t begin, int64_t size_bytes) const;

  std::string_view text() const {
    return {reinterpret_cast<const char*>(data_), static_cast<size_t>(size_)};
  }

  // As whole elements of T; a remainder is left out, and so is everything when
  // the memory is not aligned for T.
  template <typename T>
  std::span<const T> As() const {
    if (reinterpret_cast<uintptr_t>(data_) % alignof(T) != 0) {
      return {};
    }
    return {reinterpret_cast<const T*>(data_),
            static_cast<size_t>(size_) / sizeof(T)};
  }
  template <typename T>
  std::span<T> MutableAs() {
    return {reinterpret_cast<T*>(data_),
            static_cast<size_t>(size_) / sizeof(T)};
  }

 private:
  std::shared_ptr<const void> owner_;
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace shoal

#endif  // SHOAL_BASE_BUFFER_H_
