#ifndef SHOAL_TESTS_NCCL_STANDIN_HUB_H_
#define SHOAL_TESTS_NCCL_STANDIN_HUB_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

// What joins the members of a group: a thread that gets what each gives to a
// group of calls, and answers with what each gets.
namespace standin {

using Bytes = std::vector<char>;

enum Kind : int32_t {
  kAllReduce,
  kReduce,
  kReduceScatter,
  kAllGather,
  kBroadcast,
  kSend,
  kRecv,
};

// One operation of a group, as it goes to the hub.
struct Call {  // without gaps, since it is compared as bytes
  int32_t kind = 0;
  int32_t type = 0;
  int64_t peer = 0;  // or the root
  int64_t count = 0;
};

// What a member gives to a call, in bytes, and what it gets.
int64_t GivenBytes(const Call& call, int rank, int size);
int64_t GottenBytes(const Call& call, int rank, int size);

// Waits in small steps, so that `stop` ends it. False: stopped, or the other
// end has gone.
bool Transfer(int fd, char* data, size_t bytes, bool in,
              const std::function<bool()>& stop);
bool SendFrame(int fd, Bytes& frame, const std::function<bool()>& stop);
bool ReceiveFrame(int fd, Bytes& frame, const std::function<bool()>& stop);
void Append(Bytes& to, const void* data, size_t bytes);

// Serves one group until its members go; one that goes early leaves the others
// without an answer, as on a machine where nobody notices. A member says its
// rank and the size (int32 each), is answered when all are there, and then
// sends for each group of calls their number (int64), the calls, and what it
// gives to each; the answer begins with whether the calls fit together.
bool StartHub(const std::string& name);
// Negative: there is none.
int ConnectToHub(const std::string& name);

}  // namespace standin

#endif  // SHOAL_TESTS_NCCL_STANDIN_HUB_H_
