// Memory, streams, events and graphs of the plug-in.
#include <gmock/gmock.h>

#include "tests/cuda/plugin.h"

namespace shoal {
namespace {

using testing::HasSubstr;

const ShoalCudaTable& Table() { return Plugin::Get().table(); }
ShoalCudaContext* Context() { return Plugin::Get().context(); }

void Synchronize(ShoalCudaStream* stream) {
  ShoalCudaFault fault;
  const int error = Table().synchronize(stream, &fault);
  ASSERT_EQ(error, 0) << Table().error_text(error);
  ASSERT_EQ(fault.op, nullptr) << fault.op;
}

KernelCall ScaleCall(float first, double by) {
  return {.op = "Scale",
          .inputs = {TestTensor::Of<float>({2}, {first, 1.0F})},
          .outputs = {Shape{2}},
          .floats = {by}};
}

TEST(CudaRuntimeTest, SaysWhatItFound) {
  int driver = 0;
  int runtime = 0;
  ASSERT_EQ(Table().versions(&driver, &runtime), 0);
  EXPECT_GE(runtime, 12000);
  EXPECT_GE(driver, 12000);
  int count = 0;
  ASSERT_EQ(Table().device_count(&count), 0);
  ASSERT_GE(count, 1);
  ShoalCudaInfo info;
  ASSERT_EQ(Table().device_info(0, &info), 0);
  EXPECT_STRNE(info.name, "");
  EXPECT_GE(info.major, 8);
  EXPECT_GE(info.multiprocessors, 1);
  EXPECT_GT(info.memory_bytes, 0);
  EXPECT_GT(info.free_bytes, 0);
  EXPECT_LE(info.free_bytes, info.memory_bytes);
  ShoalCudaContext* none = nullptr;
  const int error = Table().open(count, &none);
  EXPECT_NE(error, 0);
  EXPECT_THAT(Table().error_text(error), HasSubstr("invalid device ordinal"));
}

TEST(CudaRuntimeTest, AllocationsAreAlignedCountedAndReused) {
  ShoalCudaMemory before;
  ASSERT_EQ(Table().memory(Context(), &before), 0);
  constexpr int64_t kSize = 1000003;
  std::vector<void*> all;
  for (int i = 0; i < 5; ++i) {
    void* data = nullptr;
    ASSERT_EQ(Table().allocate(Context(), kSize, &data), 0);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 256, 0U);
    all.push_back(data);
  }
  ShoalCudaMemory during;
  ASSERT_EQ(Table().memory(Context(), &during), 0);
  EXPECT_GE(during.used_bytes, before.used_bytes + 5 * kSize);
  EXPECT_GE(during.used_bytes_max, during.used_bytes);
  EXPECT_GE(during.reserved_bytes, during.used_bytes);
  for (void* const data : all) {
    ASSERT_EQ(Table().release(Context(), data), 0);
  }
  // Nothing that grows: what was released is found again.
  for (int i = 0; i < 100; ++i) {
    Synchronize(Plugin::Get().stream());
    void* data = nullptr;
    ASSERT_EQ(Table().allocate(Context(), 5 * kSize, &data), 0);
    ASSERT_EQ(Table().release(Context(), data), 0);
  }
  ShoalCudaMemory after;
  ASSERT_EQ(Table().memory(Context(), &after), 0);
  EXPECT_LE(after.reserved_bytes_max, during.reserved_bytes_max + 40 * kSize);

  void* nothing = &after;
  EXPECT_EQ(Table().allocate(Context(), 0, &nothing), 0);
  EXPECT_EQ(nothing, nullptr);
  EXPECT_EQ(Table().release(Context(), nullptr), 0);
}

TEST(CudaRuntimeTest, OutOfMemorySaysSoAndTheRestGoesOn) {
  void* data = nullptr;
  const int error = Table().allocate(Context(), int64_t{1} << 46, &data);
  ASSERT_NE(error, 0);
  EXPECT_EQ(data, nullptr);
  EXPECT_THAT(Table().error_text(error), HasSubstr("out of memory"));
  EXPECT_THAT(Table().error_text(error), HasSubstr("70368744 MB"));
  const GpuResult got = RunOnGpu(ScaleCall(3.0F, 2.0));
  ASSERT_EQ(got.error, 0) << got.text;
  EXPECT_EQ(got.outputs[0][0], 6.0F);
}

TEST(CudaRuntimeTest, CopiesGoEitherWayAndWithinTheDevice) {
  void* host = nullptr;
  constexpr int64_t kSize = 300007;
  ASSERT_EQ(Table().allocate_host(Context(), kSize, &host), 0);
  auto* const bytes = static_cast<unsigned char*>(host);
  for (int64_t i = 0; i < kSize; ++i) {
    bytes[i] = static_cast<unsigned char>(i * i % 251);
  }
  void* gpu[2] = {};
  for (void*& data : gpu) {
    ASSERT_EQ(Table().allocate(Context(), kSize, &data), 0);
  }
  ShoalCudaStream* const stream = Plugin::Get().stream();
  ASSERT_EQ(Table().copy(stream, gpu[0], host, kSize), 0);
  ASSERT_EQ(Table().copy(stream, gpu[1], gpu[0], kSize), 0);
  ASSERT_EQ(Table().copy(stream, gpu[1], gpu[0], 0), 0);
  Synchronize(stream);
  std::fill_n(bytes, kSize, 0);
  ASSERT_EQ(Table().copy(stream, host, gpu[1], kSize), 0);
  Synchronize(stream);
  for (int64_t i = 0; i < kSize; ++i) {
    ASSERT_EQ(bytes[i], static_cast<unsigned char>(i * i % 251)) << i;
  }
  for (void* const data : gpu) {
    ASSERT_EQ(Table().release(Context(), data), 0);
  }
  ASSERT_EQ(Table().release_host(Context(), host), 0);
}

// Released while a stream still uses it, and taken again at once.
TEST(CudaRuntimeTest, MemoryIsNotReusedBeforeStreamsAreDone) {
  ShoalCudaStream* const stream = Plugin::Get().stream();
  const KernelCall product = {.op = "MatMul",
                              .inputs = {TestTensor::Uniform({512, 512}, 1),
                                         TestTensor::Uniform({512, 512}, 2)},
                              .outputs = {Shape{512, 512}},
                              .ints = {0, 0}};
  const GpuCall slow(product, {});
  constexpr int64_t kSize = int64_t{1} << 20;
  void* host = nullptr;
  ASSERT_EQ(Table().allocate_host(Context(), 2 * kSize, &host), 0);
  auto* const bytes = static_cast<unsigned char*>(host);
  std::fill_n(bytes, kSize, 1);
  std::fill_n(bytes + kSize, kSize, 2);
  void* result = nullptr;
  ASSERT_EQ(Table().allocate(Context(), kSize, &result), 0);
  for (int round = 0; round < 3; ++round) {
    void* first = nullptr;
    ASSERT_EQ(Table().allocate(Context(), kSize, &first), 0);
    ASSERT_EQ(Table().copy(stream, first, bytes, kSize), 0);
    for (int i = 0; i < (Plugin::Get().is_stand_in() ? 1 : 50); ++i) {
      ASSERT_EQ(slow.Enqueue(stream), 0);
    }
    ASSERT_EQ(Table().copy(stream, result, first, kSize), 0);
    ASSERT_EQ(Table().release(Context(), first), 0);

    ShoalCudaStream* const other = Plugin::Get().stream(SHOAL_CUDA_FAST);
    void* second = nullptr;
    ASSERT_EQ(Table().allocate(Context(), kSize, &second), 0);
    ASSERT_EQ(Table().copy(other, second, bytes + kSize, kSize), 0);
    Synchronize(other);
    Synchronize(stream);
    void* back = nullptr;
    ASSERT_EQ(Table().allocate_host(Context(), kSize, &back), 0);
    ASSERT_EQ(Table().copy(stream, back, result, kSize), 0);
    Synchronize(stream);
    const auto* const got = static_cast<unsigned char*>(back);
    EXPECT_EQ(std::count(got, got + kSize, 1), kSize);
    ASSERT_EQ(Table().release_host(Context(), back), 0);
    ASSERT_EQ(Table().release(Context(), second), 0);
  }
  ASSERT_EQ(Table().release(Context(), result), 0);
  ASSERT_EQ(Table().release_host(Context(), host), 0);
}

TEST(CudaRuntimeTest, StreamsWaitForEvents) {
  ShoalCudaStream* const a = Plugin::Get().stream();
  ShoalCudaStream* b = nullptr;
  ASSERT_EQ(Table().create_stream(Context(), SHOAL_CUDA_EXACT, &b), 0);
  const GpuCall call(ScaleCall(3.0F, 2.0), {.in_place = {0}});
  for (int i = 0; i < 20; ++i) {
    ShoalCudaStream* const now = i % 2 == 0 ? a : b;
    ShoalCudaStream* const next = i % 2 == 0 ? b : a;
    ASSERT_EQ(call.Enqueue(now), 0);
    ShoalCudaEvent* event = nullptr;
    ASSERT_EQ(Table().record(now, &event), 0);
    ASSERT_EQ(Table().wait(next, event), 0);
    Table().destroy_event(event);
  }
  ShoalCudaEvent* event = nullptr;
  ASSERT_EQ(Table().record(a, &event), 0);
  Synchronize(a);
  int done = 0;
  ASSERT_EQ(Table().done(event, &done), 0);
  EXPECT_EQ(done, 1);
  Table().destroy_event(event);
  Table().destroy_stream(b);
  EXPECT_EQ(call.Outputs()[0][0], 3.0F * 1048576.0F);
}

// Two streams that meet again, with copies and sorts; launched on a third.
TEST(CudaRuntimeTest, GraphsRepeatWhatWasCaptured) {
  ShoalCudaStream* streams[3] = {};
  for (ShoalCudaStream*& stream : streams) {
    ASSERT_EQ(Table().create_stream(Context(), SHOAL_CUDA_FAST, &stream), 0);
  }
  const GpuCall doubled(ScaleCall(3.0F, 2.0), {.in_place = {0}});
  const GpuCall tripled(ScaleCall(1.0F, 3.0), {.in_place = {0}});
  const KernelCall gather_grad = {.op = "GatherGrad",
                                  .inputs = {TestTensor::Uniform({500, 4}, 1),
                                             TestTensor::Index({500}, 2, 30)},
                                  .outputs = {Shape{30, 4}}};
  const GpuCall sorted(gather_grad, {});
  const KernelCall matmul = {.op = "MatMul",
                             .inputs = {TestTensor::Uniform({40, 30}, 1),
                                        TestTensor::Uniform({30, 20}, 2)},
                             .outputs = {Shape{40, 20}},
                             .ints = {0, 0}};
  const GpuCall product(matmul, {});
  // What a graph needs is loaded before.
  ASSERT_EQ(sorted.Enqueue(streams[0]), 0);
  ASSERT_EQ(product.Enqueue(streams[1]), 0);
  Synchronize(streams[0]);
  Synchronize(streams[1]);

  ASSERT_EQ(Table().begin_capture(streams[0]), 0);
  ASSERT_EQ(doubled.Enqueue(streams[0]), 0);
  ShoalCudaEvent* event = nullptr;
  ASSERT_EQ(Table().record(streams[0], &event), 0);
  ASSERT_EQ(Table().wait(streams[1], event), 0);
  Table().destroy_event(event);
  ASSERT_EQ(tripled.Enqueue(streams[1]), 0);
  ASSERT_EQ(product.Enqueue(streams[1]), 0);
  ASSERT_EQ(sorted.Enqueue(streams[0]), 0);
  // Memory comes and goes meanwhile.
  void* data = nullptr;
  ASSERT_EQ(Table().allocate(Context(), 1000, &data), 0);
  ASSERT_EQ(Table().release(Context(), data), 0);
  ShoalCudaFault fault;
  int error = Table().synchronize(streams[0], &fault);
  EXPECT_NE(error, 0);
  EXPECT_THAT(Table().error_text(error), HasSubstr("captured"));
  ASSERT_EQ(Table().record(streams[1], &event), 0);
  ASSERT_EQ(Table().wait(streams[0], event), 0);
  Table().destroy_event(event);
  ShoalCudaGraph* graph = nullptr;
  error = Table().end_capture(streams[0], &graph);
  ASSERT_EQ(error, 0) << Table().error_text(error);

  // Nothing has run yet.
  EXPECT_EQ(doubled.Outputs()[0][0], 3.0F);
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(Table().launch(streams[2], graph), 0);
  }
  Synchronize(streams[2]);
  EXPECT_EQ(doubled.Outputs()[0][0], 24.0F);
  EXPECT_EQ(tripled.Outputs()[0][0], 27.0F);
  EXPECT_TRUE(SameBits(sorted.Outputs()[0], RunOnGpu(gather_grad).outputs[0]));
  EXPECT_TRUE(SameBits(product.Outputs()[0],
                       RunOnGpu(matmul, {.math = SHOAL_CUDA_FAST}).outputs[0]));
  // All three streams run by themselves again.
  ASSERT_EQ(doubled.Enqueue(streams[1]), 0);
  Synchronize(streams[1]);
  EXPECT_EQ(doubled.Outputs()[0][0], 48.0F);
  Table().destroy_graph(graph);
  for (ShoalCudaStream* const stream : streams) {
    Table().destroy_stream(stream);
  }
}

TEST(CudaRuntimeTest, FaultsInAGraphReachTheStreamThatLaunchedIt) {
  ShoalCudaStream* captured = nullptr;
  ASSERT_EQ(Table().create_stream(Context(), SHOAL_CUDA_EXACT, &captured), 0);
  const GpuCall bad({.op = "Gather",
                     .inputs = {TestTensor::Uniform({4, 3}, 1),
                                TestTensor::Of<int32_t>({3}, {0, 5, 1})},
                     .outputs = {Shape{3, 3}}},
                    {});
  ASSERT_EQ(bad.Enqueue(captured), 0);
  ShoalCudaFault fault;
  ASSERT_EQ(Table().synchronize(captured, &fault), 0);
  ASSERT_NE(fault.op, nullptr);
  ASSERT_EQ(Table().begin_capture(captured), 0);
  ASSERT_EQ(bad.Enqueue(captured), 0);
  ShoalCudaGraph* graph = nullptr;
  ASSERT_EQ(Table().end_capture(captured, &graph), 0);
  Synchronize(captured);
  Table().destroy_stream(captured);

  ShoalCudaStream* const stream = Plugin::Get().stream();
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(Table().launch(stream, graph), 0);
    ASSERT_EQ(Table().synchronize(stream, &fault), 0);
    ASSERT_NE(fault.op, nullptr) << "launch " << i;
    EXPECT_STREQ(fault.op, "Gather");
    EXPECT_EQ(fault.position, 1);
    Synchronize(stream);
  }
  Table().destroy_graph(graph);
}

TEST(CudaRuntimeTest, CapturesOutOfTurnAreRefused) {
  ShoalCudaStream* const stream = Plugin::Get().stream();
  ShoalCudaGraph* graph = nullptr;
  int error = Table().end_capture(stream, &graph);
  EXPECT_NE(error, 0);
  EXPECT_THAT(Table().error_text(error), HasSubstr("not being captured"));
  ASSERT_EQ(Table().begin_capture(stream), 0);
  error = Table().begin_capture(stream);
  EXPECT_NE(error, 0);
  EXPECT_THAT(Table().error_text(error), HasSubstr("already"));
  ASSERT_EQ(Table().end_capture(stream, &graph), 0);
  // An empty graph is one too.
  ASSERT_EQ(Table().launch(stream, graph), 0);
  Synchronize(stream);
  Table().destroy_graph(graph);
}

// What the stand-in GPU plays from the environment, for the texts.
class CudaDriverTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!Plugin::Get().is_stand_in()) {
      GTEST_SKIP() << "of the stand-in alone";
    }
  }
  // NOLINTBEGIN(concurrency-mt-unsafe): no thread runs beside the test.
  void SetDriver(const char* version) {
    setenv("SHOAL_SHIM_DRIVER", version, 1);
  }
  void SetDevices(const char* count) { setenv("SHOAL_SHIM_DEVICES", count, 1); }
  void TearDown() override {
    unsetenv("SHOAL_SHIM_DRIVER");
    unsetenv("SHOAL_SHIM_DEVICES");
  }
  // NOLINTEND(concurrency-mt-unsafe)
};

TEST_F(CudaDriverTest, NoDriverAndOldDriverAreTold) {
  int count = 7;
  SetDriver("0");
  int error = Table().device_count(&count);
  EXPECT_EQ(count, 0);
  EXPECT_THAT(Table().error_text(error),
              HasSubstr("no CUDA driver (error 35)"));
  SetDriver("12040");
  error = Table().device_count(&count);
  EXPECT_THAT(Table().error_text(error),
              HasSubstr("for CUDA 12.4 at most, this plug-in needs 13.0"));
  ShoalCudaContext* none = nullptr;
  EXPECT_NE(Table().open(0, &none), 0);
}

TEST_F(CudaDriverTest, GpusHaveMemoryAndStreamsOfTheirOwn) {
  SetDevices("2");
  ShoalCudaContext* second = nullptr;
  ASSERT_EQ(Table().open(1, &second), 0);
  ShoalCudaStream* stream = nullptr;
  ASSERT_EQ(Table().create_stream(second, SHOAL_CUDA_EXACT, &stream), 0);
  ShoalCudaMemory before;
  ASSERT_EQ(Table().memory(Context(), &before), 0);
  constexpr int64_t kSize = 1000000;
  void* theirs = nullptr;
  ASSERT_EQ(Table().allocate(second, kSize, &theirs), 0);
  ShoalCudaMemory first_after;
  ShoalCudaMemory second_after;
  ASSERT_EQ(Table().memory(Context(), &first_after), 0);
  ASSERT_EQ(Table().memory(second, &second_after), 0);
  EXPECT_EQ(first_after.used_bytes, before.used_bytes);
  EXPECT_GE(second_after.used_bytes, kSize);

  // Each works whichever was used last.
  EXPECT_EQ(Table().copy(stream, theirs, theirs, kSize), 0);
  const GpuResult got = RunOnGpu(ScaleCall(3.0F, 2.0));
  ASSERT_EQ(got.error, 0) << got.text;
  Synchronize(stream);
  EXPECT_NE(Table().copy(Plugin::Get().stream(), theirs, theirs, kSize), 0);
  ASSERT_EQ(Table().release(second, theirs), 0);
  Table().destroy_stream(stream);
  Table().close(second);
}

}  // namespace
}  // namespace shoal
