#ifndef SHOAL_KERNELS_KERNEL_TESTING_H_
#define SHOAL_KERNELS_KERNEL_TESTING_H_

// Runs CPU kernels in tests: on every instruction set that the machine has and
// with 1, 2 and 3 threads, which must all give the same bits.

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/random.h"
#include "base/strcat.h"
#include "base/thread_pool.h"
#include "kernels/kernel.h"
#include "kernels/simd.h"

namespace shoal {

// A tensor that owns its elements, between guard bytes.
class TestTensor {
 public:
  TestTensor(const Shape& shape, DType dtype)
      : shape_(shape),
        dtype_(dtype),
        bytes_(static_cast<size_t>(2 * kGuard + size_bytes()), kGuardByte) {}

  template <typename T>
  static TestTensor Of(const Shape& shape, const std::vector<T>& values) {
    TestTensor tensor(shape, DTypeOf<T>::kValue);
    SHOAL_CHECK(static_cast<int64_t>(values.size()) == shape.num_elements());
    if (!values.empty()) {
      std::memcpy(tensor.data(), values.data(), values.size() * sizeof(T));
    }
    return tensor;
  }

  // In [low, high).
  static TestTensor Uniform(const Shape& shape, uint64_t seed,
                            double low = -1.0, double high = 1.0) {
    Random random(seed);
    std::vector<float> values(static_cast<size_t>(shape.num_elements()));
    for (float& value : values) {
      value = static_cast<float>(low + (high - low) * random.Uniform());
    }
    return Of(shape, values);
  }

  // Integers in [0, n).
  static TestTensor Index(const Shape& shape, uint64_t seed, int64_t n) {
    Random random(seed);
    std::vector<int32_t> values(static_cast<size_t>(shape.num_elements()));
    for (int32_t& value : values) {
      value = static_cast<int32_t>(random.Below(static_cast<uint64_t>(n)));
    }
    return Of(shape, values);
  }

  const Shape& shape() const { return shape_; }
  int64_t size() const { return shape_.num_elements(); }
  TensorView view() { return {data(), shape_, dtype_}; }
  template <typename T = float>
  const T* as() const {
    return reinterpret_cast<const T*>(bytes_.data() + kGuard);
  }
  float operator[](int64_t i) const { return as<float>()[i]; }

  bool GuardsIntact() const {
    for (size_t i = 0; i < kGuard; ++i) {
      if (bytes_[i] != kGuardByte ||
          bytes_[bytes_.size() - 1 - i] != kGuardByte) {
        return false;
      }
    }
    return true;
  }

 private:
  static constexpr int64_t kGuard = 64;
  static constexpr unsigned char kGuardByte = 0xff;  // f32 NaN where read

  int64_t size_bytes() const { return size() * SizeOf(dtype_); }
  void* data() { return bytes_.data() + kGuard; }

  Shape shape_;
  DType dtype_;
  std::vector<unsigned char> bytes_;
};

struct KernelCall {
  std::string op;
  std::vector<TestTensor> inputs;
  std::vector<Shape> outputs;  // f32
  std::vector<int64_t> ints = {};
  std::vector<double> floats = {};
};

// One run; outputs start as NaN. `outputs` is set if the kernel succeeds.
inline Status RunKernelOnce(KernelCall& call, ThreadPool& pool,
                            std::vector<TestTensor>* outputs) {
  const StatusOr<const Kernel*> kernel =
      KernelRegistry().Find(StrCat("cpu/", call.op));
  SHOAL_RETURN_IF_ERROR(kernel.status());
  std::vector<TensorView> in;
  for (TestTensor& input : call.inputs) {
    in.push_back(input.view());
  }
  outputs->clear();
  std::vector<TensorView> out;
  outputs->reserve(call.outputs.size());
  for (const Shape& shape : call.outputs) {
    out.push_back(outputs->emplace_back(shape, DType::kF32).view());
  }
  int64_t workspace_bytes = 0;
  if ((*kernel)->workspace_bytes != nullptr) {
    workspace_bytes =
        (*kernel)->workspace_bytes(in, out, call.ints, pool.num_threads());
  }
  TestTensor workspace(Shape{workspace_bytes / 4}, DType::kF32);
  const auto device = CreateCpuDevice(pool);
  const std::unique_ptr<Stream> stream = *device->CreateStream();
  const Status status = (*kernel)->run(
      {.inputs = in,
       .outputs = out,
       .ints = call.ints,
       .floats = call.floats,
       .workspace = {static_cast<std::byte*>(workspace.view().data),
                     static_cast<size_t>(workspace_bytes)}},
      *stream);
  EXPECT_TRUE(workspace.GuardsIntact()) << call.op;
  for (const TestTensor& tensor : *outputs) {
    EXPECT_TRUE(tensor.GuardsIntact()) << call.op;
  }
  return status;
}

inline bool SameBits(const TestTensor& a, const TestTensor& b) {
  for (int64_t i = 0; i < a.size(); ++i) {
    // One NaN is as good as another.
    if (std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i]) &&
        !(std::isnan(a[i]) && std::isnan(b[i]))) {
      return false;
    }
  }
  return true;
}

// Runs everywhere, expects the same bits and gives them back.
inline std::vector<TestTensor> RunEverywhere(KernelCall call) {
  std::vector<TestTensor> first;
  const SimdPath before = ActiveSimdPath();
  for (const SimdPath path :
       {SimdPath::kScalar, SimdPath::kAvx2, SimdPath::kAvx512}) {
    if (!IsSupported(path)) {
      continue;
    }
    EXPECT_TRUE(SetSimdPath(path).ok());
    for (const int threads : {1, 2, 3}) {
      ThreadPool pool(threads);
      std::vector<TestTensor> outputs;
      const Status status = RunKernelOnce(call, pool, &outputs);
      EXPECT_TRUE(status.ok()) << call.op << ": " << status;
      if (first.empty()) {
        first = outputs;
      }
      for (size_t i = 0; i < outputs.size(); ++i) {
        EXPECT_TRUE(SameBits(first[i], outputs[i]))
            << call.op << ": output " << i << " differs with " << Name(path)
            << " and " << threads << " threads";
      }
    }
  }
  EXPECT_TRUE(SetSimdPath(before).ok());
  return first;
}

// |got - want| <= bound, and NaN fails.
inline void ExpectNear(const TestTensor& got, const std::vector<double>& want,
                       double bound) {
  ASSERT_EQ(got.size(), static_cast<int64_t>(want.size()));
  for (int64_t i = 0; i < got.size(); ++i) {
    const double expected = want[static_cast<size_t>(i)];
    ASSERT_TRUE(std::abs(got[i] - expected) <= bound)
        << "element " << i << ": got " << got[i] << ", want " << expected
        << " +- " << bound;
  }
}

// The distance in units in the last place of f32 at `want`; infinite for NaN.
inline double UlpsFrom(float got, double want) {
  const auto rounded = static_cast<float>(want);
  if (std::isnan(want) || std::isinf(rounded)) {
    const bool same = std::isnan(want) ? std::isnan(got) : got == rounded;
    return same ? 0.0 : std::numeric_limits<double>::infinity();
  }
  const int exponent = std::max(std::ilogb(want == 0.0 ? 1e-300 : want), -126);
  const double ulps = std::abs(got - want) / std::ldexp(1.0, exponent - 23);
  return std::isnan(ulps) ? std::numeric_limits<double>::infinity() : ulps;
}

}  // namespace shoal

#endif  // SHOAL_KERNELS_KERNEL_TESTING_H_
