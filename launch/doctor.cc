#include "launch/doctor.h"

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>

#include "base/plugin.h"
#include "base/random.h"
#include "base/strcat.h"
#include "base/thread_pool.h"
#include "comm/mpi_table.h"
#include "kernels/cuda_device.h"
#include "kernels/devices.h"
#include "kernels/kernel.h"
#include "kernels/simd.h"

namespace shoal::launch {
namespace {

void Line(std::string_view what, std::string_view text) {
  std::cout << std::left << std::setw(9) << what << text << "\n";
}

std::string Gib(double bytes) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(1) << bytes / (1 << 30) << " GiB";
  return out.str();
}

// "12.4" of 12040.
std::string CudaVersion(int version) {
  return StrCat(version / 1000, ".", version % 1000 / 10);
}

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "unknown";
}

void PrintHost() {
  Line("cpu", StrCat(CpuName(), ", ", std::thread::hardware_concurrency(),
                     " cores; kernels for ", Name(ActiveSimdPath())));
  struct sysinfo info = {};
  struct statvfs shared = {};
  if (sysinfo(&info) == 0 && statvfs("/dev/shm", &shared) == 0) {
    const double unit = info.mem_unit;
    Line("memory",
         StrCat(Gib(static_cast<double>(info.totalram) * unit), ", ",
                Gib(static_cast<double>(info.freeram + info.bufferram) * unit),
                " free; shared memory (transport shm) ",
                Gib(static_cast<double>(shared.f_bavail) *
                    static_cast<double>(shared.f_frsize)),
                " free"));
  }
  rlimit files = {};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    Line("files", StrCat(files.rlim_max,
                         " may be open; a process of a job needs two for each "
                         "other one"));
  }
}

void PrintMpi() {
  const StatusOr<std::string> path = PluginPath("shoal_mpi");
  const StatusOr<void*> symbol =
      path.ok() ? LoadPlugin(*path, SHOAL_MPI_TABLE_SYMBOL, /*global=*/true)
                : path.status();
  Line("mpi", symbol.ok() ? StrCat("the plug-in loads: ", *path)
                          : StrCat("no: ", symbol.status().message(),
                                   "; needed under mpirun alone: build it with "
                                   "Open MPI installed"));
}

// A product on the device, without a graph.
StatusOr<std::vector<float>> Multiply(Device& device, int threads,
                                      const std::vector<float>& values,
                                      int64_t n) {
  SHOAL_ASSIGN_OR_RETURN(const Kernel* const kernel,
                         FindKernel(device.name(), "MatMul"));
  const int64_t bytes = n * n * 4;
  SHOAL_ASSIGN_OR_RETURN(Buffer host, device.AllocateHost(bytes));
  SHOAL_ASSIGN_OR_RETURN(Buffer in, device.Allocate(bytes));
  SHOAL_ASSIGN_OR_RETURN(Buffer out, device.Allocate(bytes));
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Stream> stream,
                         device.CreateStream());
  const TensorView x = {in.data(), Shape{n, n}, DType::kF32};
  const TensorView y = {out.data(), Shape{n, n}, DType::kF32};
  const std::vector<TensorView> inputs = {x, x};
  const std::vector<int64_t> ints = {0, 1};
  const int64_t workspace_bytes =
      kernel->workspace_bytes
          ? kernel->workspace_bytes(inputs, {&y, 1}, ints, threads)
          : 0;
  SHOAL_ASSIGN_OR_RETURN(Buffer workspace, device.Allocate(workspace_bytes));
  std::memcpy(host.data(), values.data(), static_cast<size_t>(bytes));
  SHOAL_RETURN_IF_ERROR(device.Copy(in.data(), host.data(), bytes, *stream));
  SHOAL_RETURN_IF_ERROR(kernel->run(
      {.inputs = inputs,
       .outputs = {&y, 1},
       .ints = ints,
       .floats = {},
       .workspace = {workspace.data(), static_cast<size_t>(workspace_bytes)}},
      *stream));
  SHOAL_RETURN_IF_ERROR(device.Copy(host.data(), out.data(), bytes, *stream));
  SHOAL_RETURN_IF_ERROR(stream->Synchronize());
  const std::span<const float> result = host.As<float>();
  return std::vector<float>(result.begin(), result.end());
}

// Errors: those of the device; kInternal.
Status TryGpu(int gpu) {
  constexpr int64_t kSize = 200;
  Random random(1);
  std::vector<float> values(static_cast<size_t>(kSize * kSize));
  for (float& value : values) {
    value = static_cast<float>(random.Uniform() - 0.5);
  }
  ThreadPool pool(1);
  const std::unique_ptr<Device> cpu = CreateCpuDevice(pool);
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device,
                         OpenCudaDevice({.gpu = gpu}));
  SHOAL_ASSIGN_OR_RETURN(const std::vector<float> want,
                         Multiply(*cpu, 1, values, kSize));
  SHOAL_ASSIGN_OR_RETURN(const std::vector<float> got,
                         Multiply(*device, 1, values, kSize));
  return std::memcmp(want.data(), got.data(), want.size() * 4) == 0
             ? OkStatus()
             : InternalError(StrCat("GPU ", gpu,
                                    " multiplies matrices with other bits than "
                                    "the CPU; do not train on it"));
}

Status PrintCuda(bool need_gpu) {
  const CudaReport report = ProbeCuda();
  if (report.loaded) {
    Line("cuda",
         StrCat("the plug-in loads: ", report.plugin, "; driver ",
                report.driver == 0 ? "none" : CudaVersion(report.driver),
                ", runtime ", CudaVersion(report.runtime)));
  }
  const auto print_nccl = [&report] {
    if (report.loaded) {
      Line("nccl", report.nccl.ok()
                       ? StrCat(*report.nccl, " loads")
                       : StrCat("no: ", report.nccl.status().message(),
                                "; needed for cluster.collective: nccl alone"));
    }
  };
  Status all = report.status;
  if (!all.ok()) {
    constexpr std::string_view kSubject = "cuda: ";
    std::string_view why = all.message();
    why.remove_prefix(why.starts_with(kSubject) ? kSubject.size() : 0);
    Line(report.loaded ? "" : "cuda", StrCat("no: ", why));
    print_nccl();
    return need_gpu ? all : OkStatus();
  }
  for (size_t i = 0; i < report.gpus.size(); ++i) {
    const CudaReport::Gpu& gpu = report.gpus[i];
    const Status status = TryGpu(static_cast<int>(i));
    Line("",
         StrCat("GPU ", i, ": ", gpu.name, ", compute capability ", gpu.major,
                ".", gpu.minor, ", ", gpu.multiprocessors, " multiprocessors, ",
                Gib(static_cast<double>(gpu.memory_bytes)), ", ",
                Gib(static_cast<double>(gpu.free_bytes)), " free: ",
                status.ok() ? "works, with the CPU's bits" : status.message()));
    all = all.ok() ? status : all;
  }
  print_nccl();
  return all;
}

}  // namespace

Status RunDoctor(bool need_gpu) {
  PrintHost();
  PrintMpi();
  return PrintCuda(need_gpu);
}

}  // namespace shoal::launch
