// The declarations of kernels/cuda/nccl_api.h beside those of nccl.h, where
// there is one; the build needs none.
#include "kernels/cuda/nccl_api.h"

#include <cstddef>

#include "gtest/gtest.h"

#if __has_include(<nccl.h>) && __has_include(<cuda_runtime.h>)
#include <nccl.h>
#endif

namespace shoal::cuda {
namespace {

#ifdef NCCL_H_

// Whether a function of NCCL's takes what we pass: pointers, sizes and enums of
// the same sizes in the same order.
template <typename Ours, typename Theirs>
constexpr bool kSameArgument =
    sizeof(Ours) == sizeof(Theirs) &&
    std::is_pointer_v<Ours> ==
        std::is_pointer_v<Theirs>&& std::is_class_v<Ours> ==
        std::is_class_v<Theirs>;

template <typename Ours, typename Theirs>
constexpr bool kSameFunction = false;
template <typename... Ours, typename... Theirs>
constexpr bool kSameFunction<int (*)(Ours...), ncclResult_t (*)(Theirs...)> =
    [] {
      if constexpr (sizeof...(Ours) == sizeof...(Theirs)) {
        return (kSameArgument<Ours, Theirs> && ...);
      } else {
        return false;
      }
    }();

TEST(NcclApiTest, FunctionsTakeWhatNcclHDeclares) {
#define SHOAL_NCCL_COMPARE(member, symbol, arguments) \
  static_assert(kSameFunction<int(*) arguments, decltype(&symbol)>, #symbol);
  SHOAL_NCCL_FUNCTIONS(SHOAL_NCCL_COMPARE, cudaStream_t)
#undef SHOAL_NCCL_COMPARE
  static_assert(sizeof(NcclId) == sizeof(ncclUniqueId));
  static_assert(sizeof(ncclResult_t) == sizeof(int));
}

TEST(NcclApiTest, NumbersAreThoseOfNcclH) {
  EXPECT_EQ(kNcclSuccess, ncclSuccess);
  EXPECT_EQ(kNcclSystemError, ncclSystemError);
  EXPECT_EQ(kNcclRemoteError, ncclRemoteError);
  EXPECT_EQ(kNcclInProgress, ncclInProgress);
  EXPECT_EQ(kNcclInt32, ncclInt32);
  EXPECT_EQ(kNcclInt64, ncclInt64);
  EXPECT_EQ(kNcclUint64, ncclUint64);
  EXPECT_EQ(kNcclFloat16, ncclFloat16);
  EXPECT_EQ(kNcclFloat32, ncclFloat32);
  EXPECT_EQ(kNcclFloat64, ncclFloat64);
  EXPECT_EQ(kNcclBfloat16, ncclBfloat16);
  EXPECT_EQ(kNcclSum, ncclSum);
}

TEST(NcclApiTest, ConfigIsTheBeginningOfNcclHs) {
  const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
  const NcclConfig ours;
  EXPECT_EQ(ours.magic, theirs.magic);
  EXPECT_EQ(offsetof(NcclConfig, size), offsetof(ncclConfig_t, size));
  EXPECT_EQ(offsetof(NcclConfig, magic), offsetof(ncclConfig_t, magic));
  EXPECT_EQ(offsetof(NcclConfig, version), offsetof(ncclConfig_t, version));
  EXPECT_EQ(offsetof(NcclConfig, blocking), offsetof(ncclConfig_t, blocking));
  EXPECT_EQ(ours.version, NCCL_VERSION(2, 14, 0));
}

#else

TEST(NcclApiTest, ComparedWithNcclH) { GTEST_SKIP() << "there is no nccl.h"; }

#endif

}  // namespace
}  // namespace shoal::cuda
