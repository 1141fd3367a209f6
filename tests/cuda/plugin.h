#ifndef SHOAL_TESTS_CUDA_PLUGIN_H_
#define SHOAL_TESTS_CUDA_PLUGIN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/table.h"
#include "kernels/kernel_testing.h"

namespace shoal {

// The plug-in under test: the one that SHOAL_CUDA_PLUGIN names, else the
// stand-in that g++ made of the same sources. Its memory is reached through
// its table alone, so the same tests run on a real GPU.
class Plugin {
 public:
  static Plugin& Get();

  const ShoalCudaTable& table() const { return *table_; }
  ShoalCudaContext* context() const { return context_; }
  ShoalCudaStream* stream(ShoalCudaMath math = SHOAL_CUDA_EXACT) const {
    return streams_[math];
  }
  bool is_stand_in() const { return is_stand_in_; }
  // Null if the table has no such op.
  const ShoalCudaKernel* Find(const std::string& op) const;
  std::string Text(int error) const { return table_->error_text(error); }

 private:
  Plugin();

  const ShoalCudaTable* table_ = nullptr;
  ShoalCudaContext* context_ = nullptr;
  ShoalCudaStream* streams_[2] = {};
  bool is_stand_in_ = true;
};

// Memory of the GPU between guard bytes, filled with NaN.
class GpuBuffer {
 public:
  // `offset_bytes` from an address that is a multiple of 256.
  explicit GpuBuffer(int64_t size_bytes, int64_t offset_bytes = 0);
  GpuBuffer(GpuBuffer&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)),
        size_(other.size_),
        offset_(other.offset_) {}
  GpuBuffer(const GpuBuffer&) = delete;
  GpuBuffer& operator=(const GpuBuffer&) = delete;
  GpuBuffer& operator=(GpuBuffer&&) = delete;
  ~GpuBuffer();

  void* data() const { return static_cast<char*>(base_) + kGuard + offset_; }
  void Write(const void* from);
  // Expects the guards to be whole.
  void Read(void* to, const std::string& what) const;

 private:
  static constexpr int64_t kGuard = 256;
#if defined(__SANITIZE_ADDRESS__)
  // AddressSanitizer watches what is beyond the end, for reads too.
  static constexpr int64_t kEndGuard = 0;
#else
  static constexpr int64_t kEndGuard = kGuard;
#endif
  int64_t total() const { return kGuard + offset_ + size_ + kEndGuard; }

  void* base_ = nullptr;
  int64_t size_;
  int64_t offset_;
};

struct GpuOptions {
  ShoalCudaMath math = SHOAL_CUDA_EXACT;
  // Of all tensors, from aligned addresses.
  int64_t offset_bytes = 0;
  // Output i is the memory of input in_place[i] where that is not negative.
  std::vector<int> in_place = {};
};

struct GpuResult {
  int error = 0;
  std::string text;
  ShoalCudaFault fault = {};
  std::vector<TestTensor> outputs;
};

// The arguments of a call in the memory of the GPU.
class GpuCall {
 public:
  GpuCall(const KernelCall& call, const GpuOptions& options);
  GpuCall(const GpuCall&) = delete;
  GpuCall& operator=(const GpuCall&) = delete;

  // 0 or an error of the table.
  int Enqueue(ShoalCudaStream* stream) const;
  std::vector<TestTensor> Outputs() const;

 private:
  KernelCall call_;
  const ShoalCudaKernel* kernel_;
  std::vector<GpuBuffer> buffers_;
  std::vector<int> output_buffers_;
  std::vector<ShoalCudaTensor> inputs_;
  std::vector<ShoalCudaTensor> outputs_;
  ShoalCudaArgs args_ = {};
};

GpuResult RunOnGpu(const KernelCall& call, const GpuOptions& options = {});

// Expects the kernel to give the bits of the CPU's, of one NaN those of any.
void ExpectBitsOfCpu(const KernelCall& call, const GpuOptions& options = {});

}  // namespace shoal

#endif  // SHOAL_TESTS_CUDA_PLUGIN_H_
