#include "tests/nccl/standin/hub.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <thread>

#include <sys/socket.h>
#include <sys/un.h>

namespace standin {
namespace {

constexpr int kTickMs = 5;

int64_t SizeOf(int type) {
  constexpr int kSizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
  return kSizes[type];
}

sockaddr_un AddressOf(const std::string& name, socklen_t* length) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  // Abstract: it goes with its process.
  name.copy(address.sun_path + 1, sizeof(address.sun_path) - 2);
  *length =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

}  // namespace

bool Transfer(int fd, char* data, size_t bytes, bool in,
              const std::function<bool()>& stop) {
  while (bytes > 0) {
    if (stop()) {
      return false;
    }
    pollfd wait = {.fd = fd,
                   .events = static_cast<int16_t>(in ? POLLIN : POLLOUT),
                   .revents = 0};
    if (poll(&wait, 1, kTickMs) <= 0) {
      continue;
    }
    const ssize_t n = in ? recv(fd, data, bytes, MSG_DONTWAIT)
                         : send(fd, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
      return false;
    }
    if (n > 0) {
      data += n;
      bytes -= static_cast<size_t>(n);
    }
  }
  return true;
}

bool SendFrame(int fd, Bytes& frame, const std::function<bool()>& stop) {
  uint64_t size = frame.size();
  return Transfer(fd, reinterpret_cast<char*>(&size), sizeof(size), false,
                  stop) &&
         Transfer(fd, frame.data(), frame.size(), false, stop);
}

bool ReceiveFrame(int fd, Bytes& frame, const std::function<bool()>& stop) {
  uint64_t size = 0;
  if (!Transfer(fd, reinterpret_cast<char*>(&size), sizeof(size), true, stop)) {
    return false;
  }
  frame.resize(size);
  return Transfer(fd, frame.data(), size, true, stop);
}

void Append(Bytes& to, const void* data, size_t bytes) {
  const char* const begin = static_cast<const char*>(data);
  to.insert(to.end(), begin, begin + bytes);
}

int64_t GivenBytes(const Call& call, int rank, int size) {
  const int64_t bytes = call.count * SizeOf(call.type);
  switch (call.kind) {
    case kReduceScatter:
      return bytes * size;
    case kBroadcast:
      return rank == call.peer ? bytes : 0;
    case kRecv:
      return 0;
    default:
      return bytes;
  }
}
int64_t GottenBytes(const Call& call, int rank, int size) {
  const int64_t bytes = call.count * SizeOf(call.type);
  switch (call.kind) {
    case kAllGather:
      return bytes * size;
    case kReduce:
      return rank == call.peer ? bytes : 0;
    case kSend:
      return 0;
    default:
      return bytes;
  }
}

namespace {

// --- Sums -------------------------------------------------------------------

float FromBfloat16(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value = 0;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

uint16_t ToBfloat16(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float FromFloat16(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int digits = bits & 1023;
  const float size =
      exponent == 0 ? std::ldexp(static_cast<float>(digits), -24)
      : exponent == 31
          ? (digits == 0 ? INFINITY : NAN)
          : std::ldexp(static_cast<float>(digits + 1024), exponent - 25);
  return (bits & 0x8000) != 0 ? -size : size;
}

uint16_t ToFloat16(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (std::isnan(value) || size >= 65520) {
    return sign | (std::isnan(value) ? 0x7e00 : 0x7c00);
  }
  int exponent = size < 6.2e-5F ? -14 : std::max(-14, std::ilogb(size));
  // To nearest even.
  int digits =
      static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  if (digits == 2048) {
    digits = 1024;
    ++exponent;
  }
  return static_cast<uint16_t>(
      sign |
      (digits < 1024 ? digits : ((exponent + 15) << 10) | (digits - 1024)));
}

template <typename T>
struct As {
  static T Read(T stored) { return stored; }
  static T Write(T sum) { return sum; }
};
struct AsFloat16 {
  static float Read(uint16_t stored) { return FromFloat16(stored); }
  static uint16_t Write(float sum) { return ToFloat16(sum); }
};
struct AsBfloat16 {
  static float Read(uint16_t stored) { return FromBfloat16(stored); }
  static uint16_t Write(float sum) { return ToBfloat16(sum); }
};

template <typename T, typename Form = As<T>>
void AddAs(char* to, const char* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    T a;
    T b;
    std::memcpy(&a, to + i * sizeof(T), sizeof(T));
    std::memcpy(&b, from + i * sizeof(T), sizeof(T));
    a = Form::Write(Form::Read(a) + Form::Read(b));
    std::memcpy(to + i * sizeof(T), &a, sizeof(T));
  }
}

void Add(int type, char* to, const char* from, int64_t count) {
  switch (type) {
    case 2:
      return AddAs<uint32_t>(to, from, count);
    case 4:
    case 5:
      return AddAs<uint64_t>(to, from, count);
    case 6:
      return AddAs<uint16_t, AsFloat16>(to, from, count);
    case 7:
      return AddAs<float>(to, from, count);
    case 8:
      return AddAs<double>(to, from, count);
    case 9:
      return AddAs<uint16_t, AsBfloat16>(to, from, count);
    default:
      return;
  }
}

// One member's group of calls: the calls, and what it gives to each.
struct Given {
  std::vector<Call> calls;
  std::vector<Bytes> data;
};

Given Parse(const Bytes& frame, int rank, int size) {
  Given given;
  int64_t num = 0;
  std::memcpy(&num, frame.data(), sizeof(num));
  const char* at = frame.data() + sizeof(num);
  given.calls.resize(static_cast<size_t>(num));
  std::memcpy(given.calls.data(), at, given.calls.size() * sizeof(Call));
  at += given.calls.size() * sizeof(Call);
  for (const Call& call : given.calls) {
    const int64_t bytes = GivenBytes(call, rank, size);
    given.data.emplace_back(at, at + bytes);
    at += bytes;
  }
  return given;
}

// The sum of all members' data of a call, from the last rank to the first:
// another order than the step tree's.
Bytes SumOf(const std::vector<Given>& given, size_t i) {
  Bytes sum = given.back().data[i];
  const int type = given[0].calls[i].type;
  for (size_t r = given.size() - 1; r-- > 0;) {
    Add(type, sum.data(), given[r].data[i].data(),
        static_cast<int64_t>(sum.size()) / SizeOf(type));
  }
  return sum;
}

bool Alike(const std::vector<Given>& given, size_t i) {
  for (const Given& other : given) {
    if (other.calls.size() <= i ||
        other.calls.size() != given[0].calls.size() ||
        std::memcmp(&other.calls[i], &given[0].calls[i], sizeof(Call)) != 0) {
      return false;
    }
  }
  return true;
}

// What each member gets of its call i; false when they do not fit together.
bool Answer(const std::vector<Given>& given, size_t rank, size_t i,
            std::vector<std::vector<size_t>>& sent, Bytes& out) {
  const Call& call = given[rank].calls[i];
  if (call.kind == kSend) {
    return true;
  }
  if (call.kind == kRecv) {
    // The next of what the peer sends here.
    const auto peer = static_cast<size_t>(call.peer);
    size_t& next = sent[rank][peer];
    const Given& other = given[peer];
    while (next < other.calls.size() &&
           (other.calls[next].kind != kSend ||
            other.calls[next].peer != static_cast<int64_t>(rank))) {
      ++next;
    }
    if (next == other.calls.size() || other.calls[next].count != call.count) {
      return false;
    }
    Append(out, other.data[next].data(), other.data[next].size());
    ++next;
    return true;
  }
  if (!Alike(given, i)) {
    return false;
  }
  const auto root = static_cast<size_t>(call.peer);
  if (call.kind == kBroadcast) {
    Append(out, given[root].data[i].data(), given[root].data[i].size());
  } else if (call.kind == kAllGather) {
    for (const Given& other : given) {
      Append(out, other.data[i].data(), other.data[i].size());
    }
  } else if (call.kind != kReduce || rank == root) {
    const Bytes sum = SumOf(given, i);
    const size_t part = sum.size() / given.size();
    if (call.kind == kReduceScatter) {
      Append(out, sum.data() + rank * part, part);
    } else {
      Append(out, sum.data(), sum.size());
    }
  }
  return true;
}

bool Never() { return false; }

void RunHub(int listener) {
  struct Hello {
    int32_t rank;
    int32_t size;
  };
  std::vector<int> members;
  size_t missing = 1;
  bool all = true;
  while (all && missing > 0) {
    const int fd = accept(listener, nullptr, nullptr);
    Hello hello = {};
    all = fd >= 0 && Transfer(fd, reinterpret_cast<char*>(&hello),
                              sizeof(hello), true, Never);
    if (all) {
      if (members.empty()) {
        members.assign(static_cast<size_t>(hello.size), -1);
        missing = members.size();
      }
      members[static_cast<size_t>(hello.rank)] = fd;
      --missing;
    }
  }
  close(listener);
  const auto size = static_cast<int>(members.size());
  for (bool joining = true; all; joining = false) {
    std::vector<Given> given(members.size());
    for (size_t r = 0; !joining && all && r < members.size(); ++r) {
      Bytes frame;
      all = ReceiveFrame(members[r], frame, Never);
      if (all) {
        given[r] = Parse(frame, static_cast<int>(r), size);
      }
    }
    std::vector<std::vector<size_t>> sent(members.size(),
                                          std::vector<size_t>(members.size()));
    std::vector<Bytes> answers(members.size(), Bytes(1, 0));
    char ok = 1;
    for (size_t r = 0; r < members.size(); ++r) {
      for (size_t i = 0; i < given[r].calls.size(); ++i) {
        ok = ok != 0 && Answer(given, r, i, sent, answers[r]) ? 1 : 0;
      }
    }
    for (size_t r = 0; all && r < members.size(); ++r) {
      answers[r][0] = ok;
      all = SendFrame(members[r], answers[r], Never);
    }
  }
  // Until they go, they wait.
  for (const int fd : members) {
    Bytes rest(1 << 16);
    while (fd >= 0 && recv(fd, rest.data(), rest.size(), 0) > 0) {
    }
  }
  for (const int fd : members) {
    close(fd);
  }
}

}  // namespace

bool StartHub(const std::string& name) {
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  socklen_t length = 0;
  const sockaddr_un address = AddressOf(name, &length);
  if (bind(listener, reinterpret_cast<const sockaddr*>(&address), length) !=
          0 ||
      listen(listener, 64) != 0) {
    close(listener);
    return false;
  }
  std::thread(RunHub, listener).detach();
  return true;
}

int ConnectToHub(const std::string& name) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  socklen_t length = 0;
  const sockaddr_un address = AddressOf(name, &length);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    close(fd);
    return -1;
  }
  return fd;
}

}  // namespace standin
