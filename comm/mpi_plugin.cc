// The MPI plug-in: a library of its own, loaded only under `mpirun`, so that
// the program runs where there is no MPI. Its C table is comm/mpi_table.h.

#include <mpi.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

#include "base/dtype.h"
#include "comm/mpi_table.h"

struct ShoalMpiRequest {
  MPI_Request request = MPI_REQUEST_NULL;
  // What MPI reads until the operation ends.
  std::vector<int> counts;
  std::vector<int> firsts;
};

struct ShoalMpiMessage {
  MPI_Message message = MPI_MESSAGE_NULL;
};

struct ShoalMpiGroup {
  MPI_Comm comm = MPI_COMM_NULL;
};

namespace {

constexpr int kHostNameBytes = 256;

// Messages have a communicator of their own: no collective can meet them.
MPI_Comm messages = MPI_COMM_NULL;
MPI_Op sum_of_f16 = MPI_OP_NULL;
MPI_Op sum_of_bf16 = MPI_OP_NULL;
ShoalMpiSumFn add_f16 = nullptr;
ShoalMpiSumFn add_bf16 = nullptr;

// Around each call where MPI takes one at a time.
std::mutex one_at_a_time;
bool serialized = false;

class Turn {
 public:
  Turn() : lock_(one_at_a_time, std::defer_lock) {
    if (serialized) {
      lock_.lock();
    }
  }

 private:
  std::unique_lock<std::mutex> lock_;
};

void SumF16(void* from, void* to, int* count, MPI_Datatype* /*type*/) {
  add_f16(from, to, *count);
}
void SumBf16(void* from, void* to, int* count, MPI_Datatype* /*type*/) {
  add_bf16(from, to, *count);
}

int Init(int* threads, ShoalMpiSumFn sum_f16, ShoalMpiSumFn sum_bf16, int* rank,
         int* size, int* host_size, int* tag_max) {
  static constexpr int kLevels[] = {MPI_THREAD_FUNNELED, MPI_THREAD_SERIALIZED,
                                    MPI_THREAD_MULTIPLE};
  int granted = 0;
  int error = MPI_Init_thread(nullptr, nullptr, kLevels[*threads], &granted);
  if (error != MPI_SUCCESS) {
    return error;
  }
  const int wanted = *threads;
  *threads = SHOAL_MPI_ONE;
  for (int level = SHOAL_MPI_ONE; level <= wanted; ++level) {
    if (granted >= kLevels[level]) {
      *threads = level;
    }
  }
  serialized = *threads == SHOAL_MPI_SERIALIZED;
  add_f16 = sum_f16;
  add_bf16 = sum_bf16;
  MPI_Comm host = MPI_COMM_NULL;
  void* value = nullptr;
  int found = 0;
  // Errors come back as codes, also to the communicators made from this one.
  if ((error = MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN)) ||
      (error = MPI_Comm_rank(MPI_COMM_WORLD, rank)) ||
      (error = MPI_Comm_size(MPI_COMM_WORLD, size)) ||
      (error = MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0,
                                   MPI_INFO_NULL, &host)) ||
      (error = MPI_Comm_size(host, host_size)) ||
      (error = MPI_Comm_free(&host)) ||
      (error = MPI_Comm_dup(MPI_COMM_WORLD, &messages)) ||
      (error = MPI_Op_create(&SumF16, 1, &sum_of_f16)) ||
      (error = MPI_Op_create(&SumBf16, 1, &sum_of_bf16)) ||
      (error = MPI_Comm_get_attr(messages, MPI_TAG_UB, &value, &found))) {
    return error;
  }
  *tag_max = found != 0 ? *static_cast<int*>(value) : 32767;
  return MPI_SUCCESS;
}

int Finalize() { return MPI_Finalize(); }

void Describe(int error, char* text, int text_bytes) {
  char whole[MPI_MAX_ERROR_STRING] = "";
  int size = 0;
  if (MPI_Error_string(error, whole, &size) != MPI_SUCCESS) {
    std::strcpy(whole, "an unknown error of MPI");
  }
  const auto n = static_cast<size_t>(text_bytes);
  std::strncpy(text, whole, n - 1);
  text[n - 1] = '\0';
}

int HostNames(char* all) {
  char mine[std::max(kHostNameBytes, MPI_MAX_PROCESSOR_NAME)] = "";
  int size = 0;
  const int error = MPI_Get_processor_name(mine, &size);
  mine[kHostNameBytes - 1] = '\0';
  return error != MPI_SUCCESS
             ? error
             : MPI_Allgather(mine, kHostNameBytes, MPI_BYTE, all,
                             kHostNameBytes, MPI_BYTE, MPI_COMM_WORLD);
}

int Split(int color, int key, ShoalMpiGroup** group) {
  MPI_Comm comm = MPI_COMM_NULL;
  const int error = MPI_Comm_split(
      MPI_COMM_WORLD, color < 0 ? MPI_UNDEFINED : color, key, &comm);
  *group = error != MPI_SUCCESS || comm == MPI_COMM_NULL
               ? nullptr
               : new ShoalMpiGroup{comm};
  return error;
}

MPI_Comm CommOf(const ShoalMpiGroup* group) {
  return group == nullptr ? MPI_COMM_WORLD : group->comm;
}

int GroupRank(ShoalMpiGroup* group, int* rank, int* size) {
  const Turn turn;
  const int error = MPI_Comm_rank(CommOf(group), rank);
  return error != MPI_SUCCESS ? error : MPI_Comm_size(CommOf(group), size);
}

int Test(ShoalMpiRequest* request, int* done) {
  int error = MPI_SUCCESS;
  {
    const Turn turn;
    error = MPI_Test(&request->request, done, MPI_STATUS_IGNORE);
  }
  if (error != MPI_SUCCESS || *done != 0) {
    delete request;
  }
  return error;
}

// Hands over a request that `start` has begun.
template <typename StartFn>
int Begin(ShoalMpiRequest** request, const StartFn& start) {
  auto* made = new ShoalMpiRequest;
  int error = MPI_SUCCESS;
  {
    const Turn turn;
    error = start(*made);
  }
  if (error != MPI_SUCCESS) {
    delete made;
    made = nullptr;
  }
  *request = made;
  return error;
}

int Send(const ShoalMpiPiece* pieces, int num_pieces, int to, int tag,
         ShoalMpiRequest** request) {
  // Synchronous ones, so that what no receiver has taken counts as unsent
  // instead of piling up with it.
  return Begin(request, [&](ShoalMpiRequest& made) {
    if (num_pieces == 1) {
      return MPI_Issend(pieces[0].data, static_cast<int>(pieces[0].bytes),
                        MPI_BYTE, to, tag, messages, &made.request);
    }
    std::vector<int> sizes;
    std::vector<MPI_Aint> places;
    for (int i = 0; i < num_pieces; ++i) {
      MPI_Aint place = 0;
      MPI_Get_address(pieces[i].data, &place);
      places.push_back(place);
      sizes.push_back(static_cast<int>(pieces[i].bytes));
    }
    MPI_Datatype type = MPI_DATATYPE_NULL;
    int error = MPI_Type_create_hindexed(num_pieces, sizes.data(),
                                         places.data(), MPI_BYTE, &type);
    if (error == MPI_SUCCESS && (error = MPI_Type_commit(&type)) == 0) {
      error = MPI_Issend(MPI_BOTTOM, 1, type, to, tag, messages, &made.request);
      MPI_Type_free(&type);  // MPI keeps it for the operation.
    }
    return error;
  });
}

int Probe(int tag, int* from, long long* bytes, ShoalMpiMessage** message) {
  MPI_Status status;
  MPI_Message found = MPI_MESSAGE_NULL;
  int flag = 0;
  int size = 0;
  *message = nullptr;
  const Turn turn;
  int error = MPI_Improbe(MPI_ANY_SOURCE, tag < 0 ? MPI_ANY_TAG : tag, messages,
                          &flag, &found, &status);
  if (error != MPI_SUCCESS || flag == 0) {
    return error;
  }
  if ((error = MPI_Get_count(&status, MPI_BYTE, &size)) != MPI_SUCCESS) {
    return error;
  }
  *from = status.MPI_SOURCE;
  *bytes = size;
  *message = new ShoalMpiMessage{found};
  return MPI_SUCCESS;
}

int Receive(ShoalMpiMessage* message, void* to, long long bytes,
            ShoalMpiRequest** request) {
  const int error = Begin(request, [&](ShoalMpiRequest& made) {
    return MPI_Imrecv(to, static_cast<int>(bytes), MPI_BYTE, &message->message,
                      &made.request);
  });
  delete message;
  return error;
}

// Where there is no type of MPI's: two bytes with a sum of our own.
MPI_Datatype TypeOf(int dtype) {
  switch (static_cast<shoal::DType>(dtype)) {
    case shoal::DType::kF32:
      return MPI_FLOAT;
    case shoal::DType::kF64:
      return MPI_DOUBLE;
    case shoal::DType::kF16:
    case shoal::DType::kBF16:
      return MPI_UINT16_T;
    case shoal::DType::kI32:
      return MPI_INT32_T;
    case shoal::DType::kI64:
      return MPI_INT64_T;
    case shoal::DType::kU64:
      return MPI_UINT64_T;
  }
  return MPI_DATATYPE_NULL;
}

MPI_Op SumOf(int dtype) {
  const auto type = static_cast<shoal::DType>(dtype);
  return type == shoal::DType::kF16    ? sum_of_f16
         : type == shoal::DType::kBF16 ? sum_of_bf16
                                       : MPI_SUM;
}

int Broadcast(ShoalMpiGroup* group, void* data, int bytes, int root,
              ShoalMpiRequest** request) {
  return Begin(request, [&](ShoalMpiRequest& made) {
    return MPI_Ibcast(data, bytes, MPI_BYTE, root, CommOf(group),
                      &made.request);
  });
}

int Barrier(ShoalMpiGroup* group, ShoalMpiRequest** request) {
  return Begin(request, [&](ShoalMpiRequest& made) {
    return MPI_Ibarrier(CommOf(group), &made.request);
  });
}

int AllReduce(ShoalMpiGroup* group, int dtype, void* data, int count,
              ShoalMpiRequest** request) {
  return Begin(request, [&](ShoalMpiRequest& made) {
    return MPI_Iallreduce(MPI_IN_PLACE, data, count, TypeOf(dtype),
                          SumOf(dtype), CommOf(group), &made.request);
  });
}

// `counts` of all ranks of a group, kept with the request.
std::vector<int> Kept(const ShoalMpiGroup* group, const int* counts) {
  int size = 0;
  MPI_Comm_size(CommOf(group), &size);
  return {counts, counts + size};
}

int ReduceScatter(ShoalMpiGroup* group, int dtype, const void* from, void* to,
                  const int* counts, ShoalMpiRequest** request) {
  return Begin(request, [&](ShoalMpiRequest& made) {
    made.counts = Kept(group, counts);
    return MPI_Ireduce_scatter(from, to, made.counts.data(), TypeOf(dtype),
                               SumOf(dtype), CommOf(group), &made.request);
  });
}

int AllGather(ShoalMpiGroup* group, int dtype, void* data, const int* counts,
              const int* firsts, ShoalMpiRequest** request) {
  return Begin(request, [&](ShoalMpiRequest& made) {
    made.counts = Kept(group, counts);
    made.firsts = Kept(group, firsts);
    return MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data,
                           made.counts.data(), made.firsts.data(),
                           TypeOf(dtype), CommOf(group), &made.request);
  });
}

int AllToAll(ShoalMpiGroup* group, int dtype, const void* from, void* to,
             int count, ShoalMpiRequest** request) {
  return Begin(request, [&](ShoalMpiRequest& made) {
    return MPI_Ialltoall(from, count, TypeOf(dtype), to, count, TypeOf(dtype),
                         CommOf(group), &made.request);
  });
}

int AllReduceF32(float* data, long long count) {
  // An int counts elements in MPI 3: longer vectors go in pieces.
  constexpr long long kCountMax = 1LL << 30;
  for (long long first = 0; first < count; first += kCountMax) {
    const long long n = std::min(kCountMax, count - first);
    const int error =
        MPI_Allreduce(MPI_IN_PLACE, data + first, static_cast<int>(n),
                      MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    if (error != MPI_SUCCESS) {
      return error;
    }
  }
  return MPI_SUCCESS;
}

}  // namespace

extern "C" const ShoalMpiTable* ShoalMpiTableV4() {
  static const ShoalMpiTable kTable = {.version = SHOAL_MPI_TABLE_VERSION,
                                       .init = &Init,
                                       .finalize = &Finalize,
                                       .describe = &Describe,
                                       .host_names = &HostNames,
                                       .split = &Split,
                                       .group_rank = &GroupRank,
                                       .test = &Test,
                                       .send = &Send,
                                       .probe = &Probe,
                                       .receive = &Receive,
                                       .broadcast = &Broadcast,
                                       .barrier = &Barrier,
                                       .allreduce = &AllReduce,
                                       .reduce_scatter = &ReduceScatter,
                                       .all_gather = &AllGather,
                                       .all_to_all = &AllToAll,
                                       .allreduce_f32 = &AllReduceF32};
  return &kTable;
}
