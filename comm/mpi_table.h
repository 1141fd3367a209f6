#ifndef SHOAL_COMM_MPI_TABLE_H_
#define SHOAL_COMM_MPI_TABLE_H_

// What the program uses of MPI, as a C table that the plug-in hands over, so
// that the program itself needs no MPI.
//
// Functions return 0 or an error for describe(). But for those that say so they
// do not block. Which threads may call them is what init() granted; with
// SHOAL_MPI_SERIALIZED the plug-in takes a lock of its own around each call.

#define SHOAL_MPI_TABLE_VERSION 4
#define SHOAL_MPI_TABLE_SYMBOL "ShoalMpiTableV4"

// How many threads call MPI.
#define SHOAL_MPI_ONE 0         // only the one that called init()
#define SHOAL_MPI_SERIALIZED 1  // any, one at a time
#define SHOAL_MPI_MULTIPLE 2    // any, at once

extern "C" {

// An operation that goes on. Ends with test().
struct ShoalMpiRequest;
// A message that was found and waits for receive().
struct ShoalMpiMessage;
// Some of the ranks, for collectives among them.
struct ShoalMpiGroup;

struct ShoalMpiPiece {
  const void* data;
  long long bytes;  // less than 2^31
};

// to[i] += from[i], for types of 16 bits that MPI does not know.
typedef void (*ShoalMpiSumFn)(const void* from, void* to, int count);

struct ShoalMpiTable {
  int version;

  // Once, before all others. `threads` holds what is wanted, then what was
  // granted; `host_size`: ranks on the host of this one; tags of messages are
  // 0 .. tag_max.
  int (*init)(int* threads, ShoalMpiSumFn sum_f16, ShoalMpiSumFn sum_bf16,
              int* rank, int* size, int* host_size, int* tag_max);
  // All ranks call it, and wait for each other. Nothing may be called after.
  int (*finalize)();
  void (*describe)(int error, char* text, int text_bytes);

  // all[size, 256] becomes the names of the ranks' hosts. All ranks call it,
  // and wait for each other.
  int (*host_names)(char* all);
  // A group of the ranks that give the same color, ordered by key; null where
  // `color` is negative. All ranks call it, and wait for each other.
  int (*split)(int color, int key, ShoalMpiGroup** group);
  // This rank among those of a group.
  int (*group_rank)(ShoalMpiGroup* group, int* rank, int* size);

  // Whether it is done; then, and after an error, it is gone.
  int (*test)(ShoalMpiRequest* request, int* done);

  // Messages between ranks. The pieces stay until the request is done, which
  // is when the receiver has taken the message. One pair of ranks keeps the
  // order of a tag's messages.
  int (*send)(const ShoalMpiPiece* pieces, int num_pieces, int to, int tag,
              ShoalMpiRequest** request);
  // Finds a message with `tag` (negative: any). `message` is null if there is
  // none.
  int (*probe)(int tag, int* from, long long* bytes, ShoalMpiMessage** message);
  int (*receive)(ShoalMpiMessage* message, void* to, long long bytes,
                 ShoalMpiRequest** request);

  // Collectives of a group (null: all ranks), started by all in one order;
  // dtype as shoal::DType counts; memory stays until the request is done.
  int (*broadcast)(ShoalMpiGroup* group, void* data, int bytes, int root,
                   ShoalMpiRequest** request);
  int (*barrier)(ShoalMpiGroup* group, ShoalMpiRequest** request);
  int (*allreduce)(ShoalMpiGroup* group, int dtype, void* data, int count,
                   ShoalMpiRequest** request);
  // Rank r gets the next counts[r] elements of the sum.
  int (*reduce_scatter)(ShoalMpiGroup* group, int dtype, const void* from,
                        void* to, const int* counts, ShoalMpiRequest** request);
  // Rank r gives counts[r] elements, that lie at firsts[r] of its data.
  int (*all_gather)(ShoalMpiGroup* group, int dtype, void* data,
                    const int* counts, const int* firsts,
                    ShoalMpiRequest** request);
  int (*all_to_all)(ShoalMpiGroup* group, int dtype, const void* from, void* to,
                    int count, ShoalMpiRequest** request);

  // To measure against: data[count] becomes the sum over all ranks; blocks, and
  // spins.
  int (*allreduce_f32)(float* data, long long count);
};

// The only symbol of the plug-in.
const ShoalMpiTable* ShoalMpiTableV4();
}

#endif  // SHOAL_COMM_MPI_TABLE_H_
