#include "kernels/shadow_memory.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include <sys/mman.h>

#include "base/strcat.h"

namespace shoal {

void VectorClock::Set(size_t queue, uint64_t count) {
  if (queue >= done_.size()) {
    done_.resize(queue + 1, 0);
  }
  done_[queue] = count;
}

void VectorClock::Join(const VectorClock& other) {
  done_.resize(std::max(done_.size(), other.done_.size()), 0);
  for (size_t i = 0; i < other.done_.size(); ++i) {
    done_[i] = std::max(done_[i], other.done_[i]);
  }
}

ShadowRanges::ShadowRanges(int64_t size_bytes, bool written) {
  ranges_[0] = {
      .end = size_bytes, .written = written, .write = {}, .reads = {}};
}

ShadowRanges::Ranges::iterator ShadowRanges::SplitAt(int64_t position) {
  auto at = std::prev(ranges_.upper_bound(position));
  if (at->first == position) {
    return at;
  }
  Range second = at->second;
  at->second.end = position;
  return ranges_.emplace(position, std::move(second)).first;
}

Status ShadowRanges::Read(int64_t begin, int64_t end, const ShadowWork& work) {
  if (begin == end) {
    return OkStatus();
  }
  if (end < ranges_.rbegin()->second.end) {
    SplitAt(end);
  }
  for (auto at = SplitAt(begin); at != ranges_.end() && at->first < end; ++at) {
    Range& range = at->second;
    if (!range.written) {
      return FailedPreconditionError(
          StrCat(work.what, " reads bytes [", at->first, ", ",
                 std::min(end, range.end), ") of memory that nothing wrote"));
    }
    if (range.write &&
        work.before.of(range.write->queue) < range.write->count) {
      return FailedPreconditionError(
          StrCat(work.what, " on stream ", work.queue, " reads what ",
                 range.write->what, " on stream ", range.write->queue,
                 " writes, without waiting for it"));
    }
    std::erase_if(range.reads,
                  [&](const Access& a) { return a.queue == work.queue; });
    range.reads.push_back({work.queue, work.count, work.what});
  }
  return OkStatus();
}

Status ShadowRanges::Write(int64_t begin, int64_t end, const ShadowWork& work) {
  if (begin == end) {
    return OkStatus();
  }
  if (end < ranges_.rbegin()->second.end) {
    SplitAt(end);
  }
  const auto first = SplitAt(begin);
  auto at = first;
  for (; at != ranges_.end() && at->first < end; ++at) {
    const Range& range = at->second;
    std::vector<Access> others = range.reads;
    if (range.write) {
      others.push_back(*range.write);
    }
    for (const Access& other : others) {
      // A piece of work may write where it reads.
      const bool itself =
          other.queue == work.queue && other.count == work.count;
      if (!itself && work.before.of(other.queue) < other.count) {
        return FailedPreconditionError(
            StrCat(work.what, " on stream ", work.queue, " writes to what ",
                   other.what, " on stream ", other.queue,
                   " uses, without waiting for it"));
      }
    }
  }
  ranges_.erase(first, at);
  ranges_[begin] = {.end = end,
                    .written = true,
                    .write = Access{work.queue, work.count, work.what},
                    .reads = {}};
  return OkStatus();
}

Status ShadowRanges::CheckIdle(const VectorClock& done) const {
  for (const auto& [begin, range] : ranges_) {
    std::vector<Access> users = range.reads;
    if (range.write) {
      users.push_back(*range.write);
    }
    for (const Access& user : users) {
      if (done.of(user.queue) < user.count) {
        return FailedPreconditionError(
            StrCat("memory that ", user.what, " on stream ", user.queue,
                   " uses is freed without waiting for it"));
      }
    }
  }
  return OkStatus();
}

StatusOr<std::unique_ptr<ShadowPages>> ShadowPages::Create(int64_t size_bytes,
                                                           bool for_device) {
  std::unique_ptr<ShadowPages> pages(new ShadowPages);
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  pages->size_bytes_ = size_bytes;
  pages->for_device_ = for_device;
  pages->mapped_bytes_ =
      (std::max<size_t>(1, static_cast<size_t>(size_bytes)) + page - 1) / page *
      page;
  const auto failed = [&] {
    return ResourceExhaustedError(
        StrCat("shadow device: no memory for ", size_bytes, " bytes"));
  };
  const size_t bytes = pages->mapped_bytes_;
  const int file = memfd_create("shoal-shadow", MFD_CLOEXEC);
  if (file < 0) {
    return failed();
  }
  void* address = MAP_FAILED;
  void* inner = MAP_FAILED;
  if (ftruncate(file, static_cast<off_t>(bytes)) == 0) {
    inner = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    address =
        for_device
            ? mmap(nullptr, bytes, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
            : mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  }
  close(file);
  if (inner != MAP_FAILED) {
    pages->inner_ = static_cast<std::byte*>(inner);
  }
  if (address != MAP_FAILED) {
    pages->address_ = static_cast<std::byte*>(address);
  }
  if (pages->inner_ == nullptr || pages->address_ == nullptr) {
    return failed();
  }
  return pages;
}

ShadowPages::~ShadowPages() {
  if (inner_ != nullptr) {
    munmap(inner_, mapped_bytes_);
  }
  if (address_ != nullptr && !for_device_) {
    munmap(address_, mapped_bytes_);
  }
}

void ShadowPages::Allow(HostMay what) {
  if (for_device_ || what == allowed_) {
    return;
  }
  allowed_ = what;
  const int rights = what == HostMay::kNothing ? PROT_NONE
                     : what == HostMay::kRead  ? PROT_READ
                                               : PROT_READ | PROT_WRITE;
  SHOAL_CHECK(mprotect(address_, mapped_bytes_, rights) == 0);
}

}  // namespace shoal
