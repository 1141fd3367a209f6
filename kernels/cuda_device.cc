#include "kernels/cuda_device.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "base/device_collective.h"
#include "base/mutex.h"
#include "base/plugin.h"
#include "base/strcat.h"
#include "kernels/cuda/table.h"
#include "kernels/kernel.h"

namespace shoal {
namespace {

// Of the CUDA runtime; the rest are told apart by their texts alone.
constexpr int kOutOfMemory = 2;

Status CudaError(const ShoalCudaTable& table, std::string_view doing,
                 int error) {
  if (error == 0) {
    return OkStatus();
  }
  const std::string text = StrCat(
      "cuda: ", doing, ": ", table.error_text(error), " (error ", error, ")");
  return error == kOutOfMemory ? ResourceExhaustedError(text)
                               : InternalError(text);
}

std::string PluginToLoad() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing here sets the environment.
  if (const char* const path = std::getenv("SHOAL_CUDA_PLUGIN")) {
    return path;
  }
  const StatusOr<std::string> path = PluginPath("shoal_cuda");
  return path.ok() ? *path : "libshoal_cuda.so";
}

// A table that stays, or why there is none.
StatusOr<const ShoalCudaTable*> LoadTable(const std::string& path) {
  SHOAL_ASSIGN_OR_RETURN(
      void* const symbol,
      LoadPlugin(path, "ShoalCudaTableV1", /*global=*/false));
  using TableFn = const ShoalCudaTable* (*)();
  const ShoalCudaTable* const table = reinterpret_cast<TableFn>(symbol)();
  if (table == nullptr || table->version != SHOAL_CUDA_TABLE_VERSION) {
    return FailedPreconditionError(
        StrCat(path, " is the plug-in of another version of the program"));
  }
  return table;
}

StatusOr<const ShoalCudaTable*> Table() {
  static const auto* const kTable =
      new StatusOr<const ShoalCudaTable*>(LoadTable(PluginToLoad()));
  return *kTable;
}

struct Context {
  Context(const ShoalCudaTable& t, ShoalCudaContext* h, int g)
      : table(t), handle(h), gpu(g) {}
  ~Context() { table.close(handle); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // How much is taken and free, for errors.
  std::string MemoryText() const {
    ShoalCudaMemory memory = {};
    if (table.memory(handle, &memory) != 0) {
      return "";
    }
    constexpr int64_t kMib = int64_t{1} << 20;
    return StrCat("; this process has ", memory.used_bytes / kMib,
                  " MiB of the memory of GPU ", gpu, " in use and ",
                  memory.reserved_bytes / kMib,
                  " MiB reserved; lower train.batch_size or use a larger GPU");
  }

  const ShoalCudaTable& table;
  ShoalCudaContext* const handle;
  const int gpu;
};

class CudaEvent : public Event {
 public:
  CudaEvent(std::shared_ptr<Context> context, ShoalCudaEvent* handle)
      : context_(std::move(context)), handle_(handle) {}
  ~CudaEvent() override { context_->table.destroy_event(handle_); }

  bool Done() const override {
    int done = 0;
    // An error shows where the stream is waited for.
    return context_->table.done(handle_, &done) != 0 || done != 0;
  }

  const Context& context() const { return *context_; }
  const ShoalCudaEvent* handle() const { return handle_; }

 private:
  const std::shared_ptr<Context> context_;
  ShoalCudaEvent* const handle_;
};

class CudaGraph : public RecordedWork {
 public:
  CudaGraph(std::shared_ptr<Context> context, ShoalCudaGraph* handle)
      : context_(std::move(context)), handle_(handle) {}
  ~CudaGraph() override { context_->table.destroy_graph(handle_); }
  const ShoalCudaGraph* handle() const { return handle_; }

 private:
  const std::shared_ptr<Context> context_;
  ShoalCudaGraph* const handle_;
};

class CudaStream : public Stream {
 public:
  CudaStream(std::shared_ptr<Context> context, ShoalCudaStream* handle)
      : context_(std::move(context)), handle_(handle) {}
  ~CudaStream() override { table().destroy_stream(handle_); }

  ThreadPool* pool() override { return nullptr; }

  StatusOr<std::shared_ptr<Event>> Record() override {
    ShoalCudaEvent* event = nullptr;
    SHOAL_RETURN_IF_ERROR(
        Check("recording an event", table().record(handle_, &event)));
    return std::shared_ptr<Event>(std::make_shared<CudaEvent>(context_, event));
  }

  Status Wait(const Event& event) override {
    const auto* const other = dynamic_cast<const CudaEvent*>(&event);
    if (other == nullptr) {
      return FailedPreconditionError(
          "cuda: asked to wait for an event of another kind of device");
    }
    return Check("waiting for an event",
                 table().wait(handle_, other->handle()));
  }

  Status Synchronize() override {
    ShoalCudaFault fault = {};
    SHOAL_RETURN_IF_ERROR(
        Check("waiting for the GPU", table().synchronize(handle_, &fault)));
    if (fault.op == nullptr) {
      return OkStatus();
    }
    const Status status = InvalidArgumentError(
        StrCat(fault.op, ": ", fault.what, "[", fault.position, "] is ",
               fault.value, ", outside [", fault.low, ", ", fault.bound, ")"));
    return fault.label == nullptr ? status : status.WithPrefix(fault.label);
  }

  bool can_record() const override { return true; }
  Status BeginRecording() override {
    return Check("beginning a graph", table().begin_capture(handle_));
  }
  StatusOr<std::unique_ptr<RecordedWork>> EndRecording() override {
    ShoalCudaGraph* graph = nullptr;
    SHOAL_RETURN_IF_ERROR(
        Check("ending a graph", table().end_capture(handle_, &graph)));
    return std::unique_ptr<RecordedWork>(
        std::make_unique<CudaGraph>(context_, graph));
  }
  Status Launch(const RecordedWork& work) override {
    return Check(
        "launching a graph",
        table().launch(handle_, static_cast<const CudaGraph&>(work).handle()));
  }

  Status Copy(void* to, const void* from, int64_t size_bytes) {
    return size_bytes == 0
               ? OkStatus()
               : Check("copying", table().copy(handle_, to, from, size_bytes));
  }

  ShoalCudaStream* handle() const { return handle_; }

  Status Run(const ShoalCudaKernel& kernel, const KernelArgs& args) {
    SetTensors(args.inputs, inputs_);
    SetTensors(args.outputs, outputs_);
    ShoalCudaArgs plain = PlainArgs(inputs_, outputs_, args.ints);
    plain.floats = args.floats.data();
    plain.num_floats = static_cast<int32_t>(args.floats.size());
    plain.workspace = args.workspace.data();
    plain.workspace_bytes = static_cast<int64_t>(args.workspace.size());
    plain.label = args.label;
    return Check(kernel.op, kernel.run(&plain, handle_));
  }

  using Tensors = std::vector<ShoalCudaTensor>;
  static void SetTensors(std::span<const TensorView> views, Tensors& to) {
    to.clear();
    for (const TensorView& view : views) {
      ShoalCudaTensor tensor = {.data = view.data,
                                .dims = {},
                                .rank = view.shape.rank(),
                                .dtype = static_cast<int32_t>(view.dtype)};
      std::copy(view.shape.dims().begin(), view.shape.dims().end(),
                tensor.dims);
      to.push_back(tensor);
    }
  }
  static ShoalCudaArgs PlainArgs(const Tensors& inputs, const Tensors& outputs,
                                 std::span<const int64_t> ints) {
    ShoalCudaArgs plain = {};
    plain.inputs = inputs.data();
    plain.num_inputs = static_cast<int32_t>(inputs.size());
    plain.outputs = outputs.data();
    plain.num_outputs = static_cast<int32_t>(outputs.size());
    plain.ints = ints.data();
    plain.num_ints = static_cast<int32_t>(ints.size());
    return plain;
  }

 private:
  const ShoalCudaTable& table() const { return context_->table; }
  Status Check(std::string_view doing, int error) const {
    return error == 0 ? OkStatus() : CudaError(table(), doing, error);
  }

  const std::shared_ptr<Context> context_;
  ShoalCudaStream* const handle_;
  Tensors inputs_;  // of the kernel under way
  Tensors outputs_;
};

KernelMap KernelsOf(const ShoalCudaTable& table) {
  KernelMap kernels;
  for (int i = 0; i < table.num_kernels; ++i) {
    const ShoalCudaKernel& kernel = table.kernels[i];
    Kernel& added = kernels[kernel.op];
    added.run = [&kernel](const KernelArgs& args, Stream& stream) {
      return static_cast<CudaStream&>(stream).Run(kernel, args);
    };
    if (kernel.workspace_bytes != nullptr) {
      added.workspace_bytes = [&kernel](std::span<const TensorView> inputs,
                                        std::span<const TensorView> outputs,
                                        std::span<const int64_t> ints,
                                        int /*num_threads*/) {
        CudaStream::Tensors in;
        CudaStream::Tensors out;
        CudaStream::SetTensors(inputs, in);
        CudaStream::SetTensors(outputs, out);
        const ShoalCudaArgs plain = CudaStream::PlainArgs(in, out, ints);
        return kernel.workspace_bytes(&plain);
      };
    }
  }
  return kernels;
}

// Errors of NCCL say whose they are.
Status NcclError(const ShoalCudaTable& table, int error, bool lost) {
  const std::string text = table.error_text(error);
  return lost ? UnavailableError(text) : InternalError(text);
}

class CudaCollective : public DeviceCollective {
 public:
  CudaCollective(std::shared_ptr<Context> context, ShoalNccl* handle)
      : context_(std::move(context)), handle_(handle) {}
  ~CudaCollective() override { Abort(); }

  StatusOr<bool> Ready() override {
    int ready = 0;
    int lost = 0;
    const int error = table().nccl_ready(handle_, &ready, &lost);
    if (error != 0) {
      return NcclError(table(), error, lost != 0);
    }
    return ready != 0;
  }
  Status Enqueue(const DeviceCollectiveCall& call, Stream& stream) override {
    const ShoalNcclCall plain = {.kind = static_cast<int32_t>(call.kind),
                                 .dtype = static_cast<int32_t>(call.dtype),
                                 .data = call.data,
                                 .from = call.from,
                                 .count = call.count,
                                 .root = call.root};
    return Check(table().nccl_enqueue(
        handle_, &plain, static_cast<CudaStream&>(stream).handle()));
  }
  Status Finish() override { return Check(table().nccl_finish(handle_)); }
  void Abort() override { table().nccl_close(std::exchange(handle_, nullptr)); }

 private:
  const ShoalCudaTable& table() const { return context_->table; }
  Status Check(int error) const {
    return error == 0 ? OkStatus() : NcclError(table(), error, false);
  }

  const std::shared_ptr<Context> context_;
  ShoalNccl* handle_;
};

StatusOr<std::string> NcclLibrary(const ShoalCudaTable& table) {
  int version = 0;
  if (const int error = table.nccl_version(&version); error != 0) {
    return FailedPreconditionError(table.error_text(error));
  }
  return StrCat("NCCL ", version / 10000, ".", version % 10000 / 100, ".",
                version % 100);
}

class CudaCollectives : public DeviceCollectives {
 public:
  explicit CudaCollectives(std::shared_ptr<Context> context)
      : context_(std::move(context)) {}

  std::string library() const override {
    const StatusOr<std::string> name = NcclLibrary(table());
    return name.ok() ? *name : "";
  }
  StatusOr<std::string> DeviceId() const override {
    std::string id(16, '\0');
    SHOAL_RETURN_IF_ERROR(
        CudaError(table(), "asking for the GPU's number",
                  table().nccl_device_id(context_->handle, id.data())));
    return id;
  }
  StatusOr<Buffer> MakeGroupId() override {
    Buffer id = Buffer::Allocate(SHOAL_NCCL_ID_BYTES);
    const int error = table().nccl_group_id(reinterpret_cast<char*>(id.data()));
    if (error != 0) {
      return NcclError(table(), error, false);
    }
    return id;
  }
  StatusOr<std::unique_ptr<DeviceCollective>> Join(
      std::span<const std::byte> group_id, int rank, int size) override {
    if (group_id.size() < SHOAL_NCCL_ID_BYTES) {
      return InvalidArgumentError("this is no id of a group of NCCL's");
    }
    ShoalNccl* handle = nullptr;
    const int error = table().nccl_join(
        context_->handle, reinterpret_cast<const char*>(group_id.data()), rank,
        size, &handle);
    if (error != 0) {
      return NcclError(table(), error, false);
    }
    return std::unique_ptr<DeviceCollective>(
        std::make_unique<CudaCollective>(context_, handle));
  }

 private:
  const ShoalCudaTable& table() const { return context_->table; }

  const std::shared_ptr<Context> context_;
};

class CudaDevice : public Device {
 public:
  CudaDevice(std::shared_ptr<Context> context, bool fast_math)
      : context_(std::move(context)),
        collectives_(context_),
        math_(fast_math ? SHOAL_CUDA_FAST : SHOAL_CUDA_EXACT) {}

  std::string_view name() const override { return "cuda"; }
  bool host_can_read() const override { return false; }

  StatusOr<Buffer> Allocate(int64_t size_bytes) override {
    return AllocateWith(size_bytes, table().allocate, table().release,
                        StrCat("the memory of GPU ", context_->gpu));
  }
  StatusOr<Buffer> AllocateHost(int64_t size_bytes) override {
    return AllocateWith(size_bytes, table().allocate_host, table().release_host,
                        "pinned memory of the host");
  }

  StatusOr<std::unique_ptr<Stream>> CreateStream() override {
    ShoalCudaStream* stream = nullptr;
    SHOAL_RETURN_IF_ERROR(
        CudaError(table(), "making a stream",
                  table().create_stream(context_->handle, math_, &stream)));
    return std::unique_ptr<Stream>(
        std::make_unique<CudaStream>(context_, stream));
  }

  Status Copy(void* to, const void* from, int64_t size_bytes,
              Stream& stream) override {
    return static_cast<CudaStream&>(stream).Copy(to, from, size_bytes);
  }

  StatusOr<DeviceCollectives*> collectives() override {
    SHOAL_RETURN_IF_ERROR(NcclLibrary(table()).status());
    return &collectives_;
  }

 private:
  using AllocateFn = int (*)(ShoalCudaContext*, int64_t, void**);
  using ReleaseFn = int (*)(ShoalCudaContext*, void*);

  StatusOr<Buffer> AllocateWith(int64_t size_bytes, AllocateFn allocate,
                                ReleaseFn release, std::string_view what) {
    if (size_bytes == 0) {
      return Buffer();
    }
    void* data = nullptr;
    Status status = CudaError(
        table(), StrCat("allocating ", size_bytes, " bytes of ", what),
        allocate(context_->handle, size_bytes, &data));
    if (status.code() == StatusCode::kResourceExhausted) {
      status = ResourceExhaustedError(
          StrCat(status.message(), context_->MemoryText()));
    }
    SHOAL_RETURN_IF_ERROR(status);
    return Buffer::Wrap(
        data, size_bytes,
        std::shared_ptr<const void>(
            data, [context = context_, release](const void* memory) {
              release(context->handle, const_cast<void*>(memory));
            }));
  }

  const ShoalCudaTable& table() const { return context_->table; }

  const std::shared_ptr<Context> context_;
  CudaCollectives collectives_;
  const ShoalCudaMath math_;
};

constexpr const char* kToDo =
    "; install or update the NVIDIA driver, or set device: cpu";

// Errors: kFailedPrecondition (why no GPU can be used, and what to do).
StatusOr<const ShoalCudaTable*> LoadedTable() {
  StatusOr<const ShoalCudaTable*> table = Table();
  if (!table.ok()) {
    return FailedPreconditionError(StrCat(
        "cuda: the plug-in does not load (", table.status().message(), "); ",
        table.status().code() == StatusCode::kFailedPrecondition
            ? "install the one that was built with this program, "
            : "install the CUDA toolkit's libraries and build with nvcc, ",
        "or set device: cpu"));
  }
  return table;
}

// One or more. Errors: kFailedPrecondition.
StatusOr<int> CountGpus(const ShoalCudaTable& table) {
  int count = 0;
  if (const int error = table.device_count(&count); error != 0) {
    return FailedPreconditionError(
        StrCat("cuda: no GPU can be used: ", table.error_text(error),
               " (error ", error, ")", kToDo));
  }
  if (count < 1) {
    return FailedPreconditionError(
        StrCat("cuda: the driver finds no GPU", kToDo));
  }
  return count;
}

// Of each GPU, which begins to use it.
Status DescribeGpus(const ShoalCudaTable& table, CudaReport& report) {
  SHOAL_RETURN_IF_ERROR(
      CudaError(table, "asking for versions",
                table.versions(&report.driver, &report.runtime)));
  SHOAL_ASSIGN_OR_RETURN(const int count, CountGpus(table));
  for (int i = 0; i < count; ++i) {
    ShoalCudaInfo info = {};
    SHOAL_RETURN_IF_ERROR(CudaError(table, StrCat("asking GPU ", i),
                                    table.device_info(i, &info)));
    report.gpus.push_back({.name = info.name,
                           .major = info.major,
                           .minor = info.minor,
                           .multiprocessors = info.multiprocessors,
                           .memory_bytes = info.memory_bytes,
                           .free_bytes = info.free_bytes});
  }
  return OkStatus();
}

}  // namespace

CudaReport ProbeCuda() {
  CudaReport report;
  report.plugin = PluginToLoad();
  const StatusOr<const ShoalCudaTable*> table = LoadedTable();
  report.loaded = table.ok();
  report.status = table.ok() ? DescribeGpus(**table, report) : table.status();
  if (table.ok()) {
    report.nccl = NcclLibrary(**table);
  }
  return report;
}

StatusOr<int> CountGpus() {
  SHOAL_ASSIGN_OR_RETURN(const ShoalCudaTable* const table, LoadedTable());
  return CountGpus(*table);
}

StatusOr<std::unique_ptr<Device>> OpenCudaDevice(const CudaOptions& options) {
  SHOAL_ASSIGN_OR_RETURN(const ShoalCudaTable* const table, LoadedTable());
  SHOAL_ASSIGN_OR_RETURN(const int count, CountGpus(*table));
  const int gpu = options.wrap ? options.gpu % count : options.gpu;
  if (gpu < 0 || gpu >= count) {
    return InvalidArgumentError(StrCat("cuda: there is no GPU ", gpu,
                                       "; this machine has ", count,
                                       ", numbered from 0"));
  }
  ShoalCudaContext* handle = nullptr;
  SHOAL_RETURN_IF_ERROR(CudaError(*table, StrCat("opening GPU ", gpu),
                                  table->open(gpu, &handle)));
  AddKernels("cuda", KernelsOf(*table));
  return std::unique_ptr<Device>(std::make_unique<CudaDevice>(
      std::make_shared<Context>(*table, handle, gpu), options.fast_math));
}

}  // namespace shoal
