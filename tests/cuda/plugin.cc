#include "tests/cuda/plugin.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

// The build says where it is; tools that read this file alone do not know.
#ifndef SHOAL_CUDA_SHIM
#define SHOAL_CUDA_SHIM "libshoal_cuda_shim.so"
#endif

namespace shoal {
namespace {

ShoalCudaTensor Describe(void* data, const Shape& shape, DType dtype) {
  ShoalCudaTensor tensor = {.data = data,
                            .dims = {},
                            .rank = shape.rank(),
                            .dtype = static_cast<int32_t>(dtype)};
  std::copy(shape.dims().begin(), shape.dims().end(), tensor.dims);
  return tensor;
}

void Check(int error) {
  SHOAL_CHECK(
      error == 0 ||
      (std::fprintf(stderr, "%s\n", Plugin::Get().table().error_text(error)),
       false));
}

// A buffer of the host as copies want it.
class Staging {
 public:
  explicit Staging(int64_t size_bytes) {
    Check(Plugin::Get().table().allocate_host(Plugin::Get().context(),
                                              size_bytes, &data_));
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  ~Staging() {
    Check(Plugin::Get().table().release_host(Plugin::Get().context(), data_));
  }
  unsigned char* data() const { return static_cast<unsigned char*>(data_); }

 private:
  void* data_ = nullptr;
};

void CopyAndWait(void* to, const void* from, int64_t size_bytes) {
  const Plugin& plugin = Plugin::Get();
  Check(plugin.table().copy(plugin.stream(), to, from, size_bytes));
  ShoalCudaFault fault;
  Check(plugin.table().synchronize(plugin.stream(), &fault));
}

}  // namespace

Plugin& Plugin::Get() {
  static Plugin plugin;
  return plugin;
}

Plugin::Plugin() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nobody sets it meanwhile.
  const char* path = std::getenv("SHOAL_CUDA_PLUGIN");
  is_stand_in_ = path == nullptr;
  void* const library =
      dlopen(is_stand_in_ ? SHOAL_CUDA_SHIM : path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());  // NOLINT(concurrency-mt-unsafe)
    std::abort();
  }
  const auto get = reinterpret_cast<decltype(&ShoalCudaTableV1)>(
      dlsym(library, "ShoalCudaTableV1"));
  SHOAL_CHECK(get != nullptr);
  table_ = get();
  SHOAL_CHECK(table_->version == SHOAL_CUDA_TABLE_VERSION);
  const auto check = [&](int error) {
    if (error != 0) {
      std::fprintf(stderr, "%s\n", table_->error_text(error));
      std::abort();
    }
  };
  check(table_->open(0, &context_));
  for (const ShoalCudaMath math : {SHOAL_CUDA_EXACT, SHOAL_CUDA_FAST}) {
    check(table_->create_stream(context_, math, &streams_[math]));
  }
}

const ShoalCudaKernel* Plugin::Find(const std::string& op) const {
  for (int i = 0; i < table_->num_kernels; ++i) {
    if (op == table_->kernels[i].op) {
      return &table_->kernels[i];
    }
  }
  return nullptr;
}

GpuBuffer::GpuBuffer(int64_t size_bytes, int64_t offset_bytes)
    : size_(size_bytes), offset_(offset_bytes) {
  const Plugin& plugin = Plugin::Get();
  Check(plugin.table().allocate(plugin.context(), total(), &base_));
  const Staging staging(total());
  std::fill_n(staging.data(), total(), 0xff);
  CopyAndWait(base_, staging.data(), total());
}

GpuBuffer::~GpuBuffer() {
  if (base_ != nullptr) {
    Check(Plugin::Get().table().release(Plugin::Get().context(), base_));
  }
}

void GpuBuffer::Write(const void* from) {
  if (size_ > 0) {
    const Staging staging(size_);
    std::copy_n(static_cast<const unsigned char*>(from), size_, staging.data());
    CopyAndWait(data(), staging.data(), size_);
  }
}

void GpuBuffer::Read(void* to, const std::string& what) const {
  const Staging staging(total());
  CopyAndWait(staging.data(), base_, total());
  const unsigned char* const all = staging.data();
  const unsigned char* const begin = all + kGuard + offset_;
  const auto is_guard = [](unsigned char byte) { return byte == 0xff; };
  EXPECT_TRUE(std::all_of(all, begin, is_guard))
      << what << ": wrote before the beginning";
  EXPECT_TRUE(std::all_of(begin + size_, all + total(), is_guard))
      << what << ": wrote beyond the end";
  std::copy_n(begin, size_, static_cast<unsigned char*>(to));
}

GpuCall::GpuCall(const KernelCall& call, const GpuOptions& options)
    : call_(call), kernel_(Plugin::Get().Find(call.op)) {
  SHOAL_CHECK(kernel_ != nullptr);
  for (TestTensor& input : call_.inputs) {
    const TensorView view = input.view();
    GpuBuffer& buffer = buffers_.emplace_back(
        view.num_elements() * SizeOf(view.dtype), options.offset_bytes);
    buffer.Write(view.data);
    inputs_.push_back(Describe(buffer.data(), view.shape, view.dtype));
  }
  for (size_t i = 0; i < call_.outputs.size(); ++i) {
    const Shape& shape = call_.outputs[i];
    int buffer = i < options.in_place.size() ? options.in_place[i] : -1;
    if (buffer < 0) {
      buffer = static_cast<int>(buffers_.size());
      buffers_.emplace_back(4 * shape.num_elements(), options.offset_bytes);
    }
    output_buffers_.push_back(buffer);
    outputs_.push_back(Describe(buffers_[static_cast<size_t>(buffer)].data(),
                                shape, DType::kF32));
  }
  args_ = {.inputs = inputs_.data(),
           .num_inputs = static_cast<int32_t>(inputs_.size()),
           .outputs = outputs_.data(),
           .num_outputs = static_cast<int32_t>(outputs_.size()),
           .ints = call_.ints.data(),
           .num_ints = static_cast<int32_t>(call_.ints.size()),
           .floats = call_.floats.data(),
           .num_floats = static_cast<int32_t>(call_.floats.size()),
           .workspace = nullptr,
           .workspace_bytes = 0};
  if (kernel_->workspace_bytes != nullptr) {
    args_.workspace_bytes = kernel_->workspace_bytes(&args_);
    // Exactly as much, and its guards are looked at with the outputs.
    args_.workspace = buffers_.emplace_back(args_.workspace_bytes).data();
  }
}

int GpuCall::Enqueue(ShoalCudaStream* stream) const {
  return kernel_->run(&args_, stream);
}

std::vector<TestTensor> GpuCall::Outputs() const {
  std::vector<TestTensor> outputs;
  for (size_t i = 0; i < call_.outputs.size(); ++i) {
    TestTensor output(call_.outputs[i], DType::kF32);
    const auto buffer = static_cast<size_t>(output_buffers_[i]);
    buffers_[buffer].Read(output.view().data, StrCat(call_.op, ": output ", i));
    outputs.push_back(output);
  }
  if (args_.workspace != nullptr) {
    std::vector<char> bytes(static_cast<size_t>(args_.workspace_bytes));
    buffers_.back().Read(bytes.data(), StrCat(call_.op, ": workspace"));
  }
  return outputs;
}

GpuResult RunOnGpu(const KernelCall& call, const GpuOptions& options) {
  const Plugin& plugin = Plugin::Get();
  ShoalCudaStream* const stream = plugin.stream(options.math);
  const GpuCall on_gpu(call, options);
  GpuResult result;
  result.error = on_gpu.Enqueue(stream);
  if (result.error == 0) {
    result.error = plugin.table().synchronize(stream, &result.fault);
  }
  if (result.error != 0) {
    result.text = plugin.Text(result.error);
    return result;
  }
  result.outputs = on_gpu.Outputs();
  return result;
}

void ExpectBitsOfCpu(const KernelCall& call, const GpuOptions& options) {
  ThreadPool pool(1);
  KernelCall on_cpu = call;
  std::vector<TestTensor> want;
  const Status status = RunKernelOnce(on_cpu, pool, &want);
  ASSERT_TRUE(status.ok()) << call.op << ": " << status;
  const GpuResult got = RunOnGpu(call, options);
  ASSERT_EQ(got.error, 0) << call.op << ": " << got.text;
  EXPECT_EQ(got.fault.op, nullptr)
      << got.fault.op << ": " << got.fault.what << "[" << got.fault.position
      << "] is " << got.fault.value;
  ASSERT_EQ(got.outputs.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    const TestTensor& w = want[i];
    const TestTensor& g = got.outputs[i];
    if (SameBits(w, g)) {
      continue;
    }
    int64_t differ = 0;
    int64_t first = -1;
    for (int64_t e = 0; e < w.size(); ++e) {
      if (std::bit_cast<uint32_t>(w[e]) != std::bit_cast<uint32_t>(g[e]) &&
          !(std::isnan(w[e]) && std::isnan(g[e]))) {
        first = first < 0 ? e : first;
        ++differ;
      }
    }
    ADD_FAILURE() << call.op << ": output " << i << " " << w.shape().ToString()
                  << " differs from the CPU's in " << differ << " of "
                  << w.size() << " elements, first in " << first << ": "
                  << g[first] << " instead of " << w[first];
  }
}

}  // namespace shoal
