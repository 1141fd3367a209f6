#include "base/buffer.h"

#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/status.h"

namespace shoal {
namespace {
constexpr int64_t kAlignment = 64;
}  // namespace

Buffer Buffer::Allocate(int64_t size_bytes) {
  SHOAL_CHECK(size_bytes >= 0);
  Buffer buffer;
  if (size_bytes > 0) {
    const int64_t rounded =
        (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
    void* data = std::aligned_alloc(kAlignment, static_cast<size_t>(rounded));
    SHOAL_CHECK(data != nullptr);
    buffer.owner_ = std::shared_ptr<void>(data, &std::free);
    buffer.data_ = static_cast<std::byte*>(data);
    buffer.size_ = size_bytes;
  }
  return buffer;
}

Buffer Buffer::Wrap(void* data, int64_t size_bytes,
                    std::shared_ptr<const void> owner) {
  Buffer buffer;
  buffer.owner_ = std::move(owner);
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.size_ = size_bytes;
  return buffer;
}

Buffer Buffer::CopyOf(std::string_view bytes) {
  return CopyOf(bytes.data(), static_cast<int64_t>(bytes.size()));
}

Buffer Buffer::CopyOf(const void* data, int64_t size_bytes) {
  Buffer buffer = Allocate(size_bytes);
  if (size_bytes > 0) {
    std::memcpy(buffer.data_, data, static_cast<size_t>(size_bytes));
  }
  return buffer;
}

Buffer Buffer::Slice(int64_t begin, int64_t size_bytes) const {
  SHOAL_CHECK(begin >= 0 && size_bytes >= 0 && begin + size_bytes <= size_);
  Buffer slice = *this;
  slice.data_ += begin;
  slice.size_ = size_bytes;
  return slice;
}

}  // namespace shoal
