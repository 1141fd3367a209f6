// NCCL for the table of kernels/cuda/table.h, loaded when it is asked for.
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/cuda/nccl.h"
#include "kernels/cuda/nccl_api.h"
#include "kernels/cuda/runtime.cuh"

// Opened by nccl_join(), and ended by nccl_close().
struct ShoalNccl {
  ShoalCudaContext* context = nullptr;
  shoal::cuda::NcclComm* comm = nullptr;
  int rank = 0;
  int size = 0;
  bool finished = false;  // and ready afterwards
  bool ready = false;
};

namespace shoal::cuda {
namespace {

struct Api {
#define SHOAL_NCCL_MEMBER(member, symbol, arguments) int(*member) arguments;
  SHOAL_NCCL_FUNCTIONS(SHOAL_NCCL_MEMBER, cudaStream_t)
#undef SHOAL_NCCL_MEMBER
  NcclGetVersionFn get_version;
  NcclGetErrorStringFn get_error_string;
  NcclGetLastErrorFn get_last_error;
};

struct Loaded {
  Api api = {};
  int version = 0;
  std::string error;  // empty: `api` is whole
};

std::string VersionText(int version) {
  return std::to_string(version / 10000) + "." +
         std::to_string(version % 10000 / 100) + "." +
         std::to_string(version % 100);
}

Loaded Load() {
  Loaded loaded;
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing here sets the environment.
  const char* const named = std::getenv("SHOAL_NCCL");
  const std::string path = named == nullptr ? "libnccl.so.2" : named;
  const std::string to_do =
      "; install NCCL " + VersionText(kNcclVersionMin) +
      " or later for this CUDA, or let SHOAL_NCCL name its libnccl.so.2";
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const why = dlerror();  // NOLINT(concurrency-mt-unsafe)
    loaded.error = "NCCL does not load (" + std::string(why) + ")" + to_do;
    return loaded;
  }
  std::string missing;
  const auto find = [&](auto& function, const char* symbol) {
    using Function = std::remove_reference_t<decltype(function)>;
    function = reinterpret_cast<Function>(dlsym(library, symbol));
    if (function == nullptr && missing.empty()) {
      missing = symbol;
    }
  };
  find(loaded.api.get_version, "ncclGetVersion");
  // An old one lacks symbols, which says less than that it is old.
  if (loaded.api.get_version != nullptr &&
      loaded.api.get_version(&loaded.version) == kNcclSuccess &&
      loaded.version < kNcclVersionMin) {
    loaded.error = "NCCL " + VersionText(loaded.version) + " (" + path +
                   ") is too old" + to_do;
    return loaded;
  }
#define SHOAL_NCCL_FIND(member, symbol, arguments) \
  find(loaded.api.member, #symbol);
  SHOAL_NCCL_FUNCTIONS(SHOAL_NCCL_FIND, cudaStream_t)
#undef SHOAL_NCCL_FIND
  find(loaded.api.get_error_string, "ncclGetErrorString");
  find(loaded.api.get_last_error, "ncclGetLastError");
  if (!missing.empty()) {
    loaded.error = path + " has no " + missing + ", so it is no NCCL" + to_do;
  }
  return loaded;
}

// Loaded for good.
const Loaded& Nccl() {
  static const auto* const loaded = new Loaded(Load());
  return *loaded;
}

// `comm` may be null.
int Check(int result, const char* doing, NcclComm* comm) {
  if (result == kNcclSuccess || result == kNcclInProgress) {
    return 0;
  }
  const Api& api = Nccl().api;
  std::string text = std::string("NCCL: ") + doing + ": " +
                     api.get_error_string(result) + " (result " +
                     std::to_string(result) + ")";
  const char* const last = api.get_last_error(comm);
  if (last != nullptr && *last != '\0') {
    text += std::string(": ") + last;
  }
  return Fail(kNcclError, text + "; NCCL_DEBUG=WARN shows more");
}

#define SHOAL_NCCL_TRY(expression)                                       \
  if (const int shoal_result = (expression);                             \
      shoal_result != kNcclSuccess && shoal_result != kNcclInProgress) { \
    return shoal_result;                                                 \
  }

// By shoal::DType's numbers.
struct Type {
  int nccl;
  int64_t bytes;
};
constexpr Type kTypes[] = {
    {kNcclFloat32, 4}, {kNcclFloat64, 8}, {kNcclFloat16, 2}, {kNcclBfloat16, 2},
    {kNcclInt32, 4},   {kNcclInt64, 8},   {kNcclUint64, 8}};

enum Kind { kAllReduce, kReduceScatter, kAllGather, kAllToAll, kBroadcast };

// A call as NCCL takes it. Segments that are not equal go as one reduction or
// one broadcast each, since NCCL's own operations want them equal.
int Issue(const Api& api, const ShoalNccl& nccl, const ShoalNcclCall& call,
          cudaStream_t stream) {
  const Type type = kTypes[call.dtype];
  char* const data = static_cast<char*>(call.data);
  const auto count = static_cast<size_t>(call.count);
  const int64_t size = nccl.size;
  const bool equal = call.count % size == 0;
  const auto begin_of = [&](int64_t rank) { return call.count * rank / size; };
  const auto at = [&](int64_t rank) {
    return data + begin_of(rank) * type.bytes;
  };
  switch (call.kind) {
    case kAllReduce:
      return api.all_reduce(data, data, count, type.nccl, kNcclSum, nccl.comm,
                            stream);
    case kBroadcast:
      return api.broadcast(data, data, count, type.nccl, call.root, nccl.comm,
                           stream);
    case kReduceScatter:
      if (equal) {
        return api.reduce_scatter(data, at(nccl.rank), count / size, type.nccl,
                                  kNcclSum, nccl.comm, stream);
      }
      break;
    case kAllGather:
      if (equal) {
        return api.all_gather(at(nccl.rank), data, count / size, type.nccl,
                              nccl.comm, stream);
      }
      break;
    default:
      break;
  }
  for (int rank = 0; rank < nccl.size; ++rank) {
    if (call.kind == kAllToAll) {
      const int64_t row = call.count * rank * type.bytes;
      SHOAL_NCCL_TRY(api.send(static_cast<const char*>(call.from) + row, count,
                              type.nccl, rank, nccl.comm, stream));
      SHOAL_NCCL_TRY(
          api.recv(data + row, count, type.nccl, rank, nccl.comm, stream));
      continue;
    }
    const auto part = static_cast<size_t>(begin_of(rank + 1) - begin_of(rank));
    if (part > 0 && call.kind == kReduceScatter) {
      SHOAL_NCCL_TRY(api.reduce(at(rank), at(rank), part, type.nccl, kNcclSum,
                                rank, nccl.comm, stream));
    } else if (part > 0) {
      SHOAL_NCCL_TRY(api.broadcast(at(rank), at(rank), part, type.nccl, rank,
                                   nccl.comm, stream));
    }
  }
  return kNcclSuccess;
}

}  // namespace

int NcclVersion(int* version) {
  const Loaded& loaded = Nccl();
  *version = loaded.version;
  return loaded.error.empty() ? 0 : Fail(kNcclError, loaded.error);
}

int NcclDeviceId(ShoalCudaContext* context, char id[16]) {
  cudaDeviceProp properties;
  SHOAL_CUDA_TRY(cudaGetDeviceProperties(&properties, context->device));
  static_assert(sizeof(properties.uuid) == 16);
  std::memcpy(id, &properties.uuid, sizeof(properties.uuid));
  return 0;
}

int NcclGroupId(char id[SHOAL_NCCL_ID_BYTES]) {
  NcclId made = {};
  SHOAL_CUDA_TRY(
      Check(Nccl().api.get_unique_id(&made), "making an id", nullptr));
  static_assert(sizeof(made) == SHOAL_NCCL_ID_BYTES);
  std::memcpy(id, &made, sizeof(made));
  return 0;
}

int NcclJoin(ShoalCudaContext* context, const char* group_id, int rank,
             int size, ShoalNccl** nccl) {
  SHOAL_CUDA_TRY(cudaSetDevice(context->device));
  auto made = std::make_unique<ShoalNccl>();
  made->context = context;
  made->rank = rank;
  made->size = size;
  NcclId id = {};
  std::memcpy(&id, group_id, sizeof(id));
  NcclConfig config;
  const int error =
      Check(Nccl().api.init_rank(&made->comm, size, id, rank, &config),
            "joining", nullptr);
  if (error != 0) {
    return error;
  }
  *nccl = made.release();
  return 0;
}

int NcclReady(ShoalNccl* nccl, int* ready, int* lost) {
  *lost = 0;
  int state = kNcclSuccess;
  SHOAL_CUDA_TRY(Check(Nccl().api.get_async_error(nccl->comm, &state),
                       "asking for errors", nccl->comm));
  nccl->ready = state == kNcclSuccess;
  *ready = nccl->ready ? 1 : 0;
  *lost = state == kNcclRemoteError || state == kNcclSystemError ? 1 : 0;
  return Check(state, "working", nccl->comm);
}

int NcclEnqueue(ShoalNccl* nccl, const ShoalNcclCall* call,
                ShoalCudaStream* stream) {
  if (call->count <= 0) {
    return 0;
  }
  SHOAL_CUDA_TRY(cudaSetDevice(nccl->context->device));
  const Api& api = Nccl().api;
  SHOAL_CUDA_TRY(Check(api.group_start(), "beginning a group", nccl->comm));
  const int issued = Issue(api, *nccl, *call, stream->stream);
  // A group that was begun is ended, whatever happened in it.
  const int ended = api.group_end();
  SHOAL_CUDA_TRY(Check(issued, "beginning an operation", nccl->comm));
  return Check(ended, "enqueueing an operation", nccl->comm);
}

int NcclFinish(ShoalNccl* nccl) {
  SHOAL_CUDA_TRY(cudaSetDevice(nccl->context->device));
  nccl->finished = true;
  nccl->ready = false;
  return Check(Nccl().api.finalize(nccl->comm), "finishing", nccl->comm);
}

void NcclClose(ShoalNccl* nccl) {
  if (nccl == nullptr) {
    return;
  }
  cudaSetDevice(nccl->context->device);
  if (nccl->finished && nccl->ready) {
    Nccl().api.destroy(nccl->comm);
  } else {
    Nccl().api.abort(nccl->comm);
  }
  delete nccl;
}

}  // namespace shoal::cuda
