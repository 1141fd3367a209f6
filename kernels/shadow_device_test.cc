// What goes wrong on a GPU must go wrong here, whatever the delays are: each
// mistake is made a hundred times with another seed and caught each time.
#include "kernels/shadow_device.h"

#include <cstring>
#include <functional>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/kernel.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kCount = 1000;
constexpr int64_t kBytes = kCount * 4;

// x of the host -> x of the device -> y = x * x -> y of the host, with copies
// on a stream of their own.
struct Pipeline {
  explicit Pipeline(uint64_t seed)
      : device(CreateShadowDevice({.threads = 1, .seed = seed})),
        compute(*device->CreateStream()),
        copies(*device->CreateStream()),
        x_host(*device->AllocateHost(kBytes)),
        y_host(*device->AllocateHost(kBytes)),
        x(*device->Allocate(kBytes)),
        y(*device->Allocate(kBytes)) {
    for (int64_t i = 0; i < kCount; ++i) {
      x_host.MutableAs<float>()[static_cast<size_t>(i)] = static_cast<float>(i);
    }
  }

  static TensorView View(Buffer& buffer) {
    return {buffer.data(), Shape{kCount}, DType::kF32};
  }

  Status CopyIn() {
    return device->Copy(x.data(), x_host.data(), kBytes, *copies);
  }
  Status CopyOut() {
    return device->Copy(y_host.data(), y.data(), kBytes, *copies);
  }
  Status Square(Buffer& from, Buffer& to) {
    const Kernel& kernel = **FindKernel("shadow", "Square");
    const TensorView in = View(from);
    const TensorView out = View(to);
    return kernel.run({.inputs = {&in, 1},
                       .outputs = {&out, 1},
                       .ints = {},
                       .floats = {},
                       .workspace = {}},
                      *compute);
  }
  // What `after` gets next starts when `before` is done.
  static Status Order(Stream& before, Stream& after) {
    SHOAL_ASSIGN_OR_RETURN(const std::shared_ptr<Event> event, before.Record());
    return after.Wait(*event);
  }

  std::unique_ptr<Device> device;
  std::unique_ptr<Stream> compute;
  std::unique_ptr<Stream> copies;
  Buffer x_host;
  Buffer y_host;
  Buffer x;
  Buffer y;
};

// Skips nothing (-1) or one of the steps of the pipeline.
enum Mistake : int {
  kNone,
  kNoCopyIn,
  kNoWaitForCopyIn,
  kNoWaitForKernel,
  kHostMemoryForKernel,
};
Status RunPipeline(Pipeline& p, Mistake mistake) {
  if (mistake != kNoCopyIn) {
    SHOAL_RETURN_IF_ERROR(p.CopyIn());
  }
  if (mistake != kNoWaitForCopyIn) {
    SHOAL_RETURN_IF_ERROR(Pipeline::Order(*p.copies, *p.compute));
  }
  SHOAL_RETURN_IF_ERROR(
      p.Square(mistake == kHostMemoryForKernel ? p.x_host : p.x, p.y));
  if (mistake != kNoWaitForKernel) {
    SHOAL_RETURN_IF_ERROR(Pipeline::Order(*p.compute, *p.copies));
  }
  SHOAL_RETURN_IF_ERROR(p.CopyOut());
  return p.copies->Synchronize();
}

void ExpectSquares(const Pipeline& p) {
  for (int64_t i = 0; i < kCount; ++i) {
    ASSERT_EQ(p.y_host.As<float>()[static_cast<size_t>(i)],
              static_cast<float>(i * i));
  }
}

TEST(ShadowDeviceTest, RightOrderComputesWhatTheCpuDoes) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Pipeline p(seed);
    for (int run = 0; run < 3; ++run) {
      const Status status = RunPipeline(p, kNone);
      ASSERT_TRUE(status.ok()) << "seed " << seed << ": " << status;
      ExpectSquares(p);
    }
  }
}

void ExpectCaught(Mistake mistake, const char* text) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Pipeline p(seed);
    const Status status = RunPipeline(p, mistake);
    ASSERT_EQ(status.code(), StatusCode::kFailedPrecondition)
        << "seed " << seed;
    ASSERT_THAT(status.message(), HasSubstr(text)) << "seed " << seed;
    // It stays.
    ASSERT_FALSE(p.compute->Synchronize().ok());
  }
}

TEST(ShadowDeviceTest, AMissingCopyIsCaught) {
  ExpectCaught(kNoCopyIn,
               "Square reads bytes [0, 4000) of memory that nothing");
}

TEST(ShadowDeviceTest, AMissingWaitForACopyIsCaught) {
  ExpectCaught(kNoWaitForCopyIn,
               "Square on stream 0 reads what a copy on stream 1 writes");
}

TEST(ShadowDeviceTest, AMissingWaitForAKernelIsCaught) {
  ExpectCaught(kNoWaitForKernel,
               "a copy on stream 1 reads what Square on stream 0 writes");
}

TEST(ShadowDeviceTest, MemoryThatAKernelStillReadsIsNotOverwritten) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Pipeline p(seed);
    ASSERT_TRUE(RunPipeline(p, kNone).ok());
    ASSERT_TRUE(p.Square(p.x, p.y).ok());
    ASSERT_THAT(p.CopyIn().message(),
                HasSubstr("a copy on stream 1 writes to what Square on stream "
                          "0 uses"))
        << "seed " << seed;
  }
}

TEST(ShadowDeviceTest, UseAfterFreeIsCaught) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Pipeline p(seed);
    ASSERT_TRUE(RunPipeline(p, kNone).ok());
    const TensorView gone = Pipeline::View(p.x);
    p.x = *p.device->Allocate(kBytes);  // other memory, and the first is freed
    ASSERT_NE(p.x.data(), gone.data);
    const Kernel& kernel = **FindKernel("shadow", "Square");
    const TensorView out = Pipeline::View(p.y);
    const Status status = kernel.run({.inputs = {&gone, 1},
                                      .outputs = {&out, 1},
                                      .ints = {},
                                      .floats = {},
                                      .workspace = {}},
                                     *p.compute);
    ASSERT_THAT(status.message(), HasSubstr("the memory was freed"))
        << "seed " << seed;
  }
}

TEST(ShadowDeviceTest, MemoryFreedBeforeItsUseIsOverIsCaught) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Pipeline p(seed);
    ASSERT_TRUE(p.CopyIn().ok());
    p.x = Buffer();
    ASSERT_THAT(p.copies->Synchronize().message(),
                HasSubstr("freed without waiting for it"))
        << "seed " << seed;
  }
}

TEST(ShadowDeviceTest, AKernelOnTheHostsMemoryIsCaught) {
  ExpectCaught(kHostMemoryForKernel, "not (or no longer) the device's");
}

TEST(ShadowDeviceTest, ACopyOfMemoryThatIsNotPinnedIsCaught) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Pipeline p(seed);
    std::vector<float> pageable(kCount);
    ASSERT_THAT(p.device->Copy(p.x.data(), pageable.data(), kBytes, *p.copies)
                    .message(),
                HasSubstr("not (or no longer) the device's"));
  }
}

using ShadowDeviceDeathTest = ::testing::Test;

TEST(ShadowDeviceDeathTest, AFaultThatNobodyAskedForIsTold) {
  for (uint64_t seed = 0; seed < 5; ++seed) {
    EXPECT_DEATH(
        {
          Pipeline p(seed);
          (void)p.CopyIn();
          p.x = Buffer();
        },
        "freed without waiting for it");
  }
}

// The host's mistakes kill it: it reads or writes what is not its own.
void ExpectDeath(const std::function<void(Pipeline&)>& mistake) {
  for (uint64_t seed = 0; seed < 5; ++seed) {
    EXPECT_EXIT(
        {
          Pipeline p(seed);
          if (RunPipeline(p, kNone).ok()) {
            mistake(p);
          }
          std::_Exit(0);
        },
        [](int status) {
          return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
        },
        "")
        << "seed " << seed;
  }
}

TEST(ShadowDeviceDeathTest, TheHostCanNotReadTheDevicesMemory) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  ExpectDeath([](Pipeline& p) {
    volatile float sink = p.y.As<float>()[0];
    static_cast<void>(sink);
  });
}

TEST(ShadowDeviceDeathTest, TheHostCanNotReadWhatACopyMayStillWrite) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  ExpectDeath([](Pipeline& p) {
    if (p.CopyOut().ok()) {
      volatile float sink = p.y_host.As<float>()[0];
      static_cast<void>(sink);
    }
  });
}

TEST(ShadowDeviceDeathTest, TheHostCanNotWriteWhatACopyMayStillRead) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  ExpectDeath([](Pipeline& p) {
    if (p.CopyIn().ok()) {
      p.x_host.MutableAs<float>()[0] = 1;
    }
  });
}

TEST(ShadowDeviceTest, AnEventThatIsDoneCountsAsWaitedFor) {
  Pipeline p(1);
  ASSERT_TRUE(p.CopyIn().ok());
  const StatusOr<std::shared_ptr<Event>> event = p.copies->Record();
  ASSERT_TRUE(event.ok()) << event.status();
  while (!(*event)->Done()) {
  }
  p.x_host.MutableAs<float>()[0] = 1;
  EXPECT_TRUE(p.Square(p.x, p.y).ok());
  EXPECT_TRUE(p.compute->Synchronize().ok());
}

TEST(ShadowDeviceTest, AKernelsErrorComesWithItsLabelWhenWaitedFor) {
  Pipeline p(1);
  ASSERT_TRUE(p.CopyIn().ok());
  ASSERT_TRUE(Pipeline::Order(*p.copies, *p.compute).ok());
  const Kernel& kernel = **FindKernel("shadow", "Gather");
  const std::vector<TensorView> in = {{p.x.data(), Shape{1, 2}, DType::kF32},
                                      {p.x.data(), Shape{1, 3}, DType::kI32}};
  const TensorView out = {p.y.data(), Shape{1, 3, 2}, DType::kF32};
  ASSERT_TRUE(kernel
                  .run({.inputs = in,
                        .outputs = {&out, 1},
                        .ints = {},
                        .floats = {},
                        .workspace = {},
                        .label = "node 'lookup'"},
                       *p.compute)
                  .ok());
  const Status status = p.compute->Synchronize();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("node 'lookup': Gather: index[1]"));
  // Unlike a mistake in the order it is over with that.
  EXPECT_TRUE(p.compute->Synchronize().ok());
}

TEST(ShadowDeviceTest, AnEventOfAnotherDeviceIsRefused) {
  Pipeline p(1);
  Pipeline q(2);
  const StatusOr<std::shared_ptr<Event>> event = q.compute->Record();
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_EQ(p.compute->Wait(**event).code(), StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace shoal
