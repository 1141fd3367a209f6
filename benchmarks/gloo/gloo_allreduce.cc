// One round of gloo's allreduces of f32, for benchmarks/allreduce.py:
//
//   gloo_allreduce RANKS MIN_BYTES MAX_BYTES
//
// Starts RANKS processes that meet over TCP on 127.0.0.1 and prints lines of
// "bytes algorithm microseconds", the time of one by the first rank's clock.
// Sizes go up by 4 and each is repeated as `shoal bench allreduce` does. Sums
// are checked outside the time that counts; a wrong one ends it with 1.

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <gloo/allreduce_bcube.h>
#include <gloo/allreduce_halving_doubling.h>
#include <gloo/allreduce_ring.h>
#include <gloo/allreduce_ring_chunked.h>
#include <gloo/barrier_all_to_one.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>
#include <sys/prctl.h>
#include <sys/wait.h>

namespace {

using Clock = std::chrono::steady_clock;

// Rank r's term of element i: small whole numbers, whose sum is exact.
float Term(int rank, int64_t i) {
  return static_cast<float>((i + 3 * rank) % 17);
}

bool SumIsRight(const std::vector<float>& data, int ranks) {
  for (size_t i = 0; i < data.size(); ++i) {
    float sum = 0;
    for (int r = 0; r < ranks; ++r) {
      sum += Term(r, static_cast<int64_t>(i));
    }
    if (data[i] != sum) {
      std::fprintf(stderr, "element %zu is %g, expected %g\n", i,
                   static_cast<double>(data[i]), static_cast<double>(sum));
      return false;
    }
  }
  return true;
}

template <template <typename> typename Algorithm>
bool Time(const char* name, const std::shared_ptr<gloo::Context>& context,
          std::vector<float>& data) {
  const int rank = context->rank;
  for (size_t i = 0; i < data.size(); ++i) {
    data[i] = Term(rank, static_cast<int64_t>(i));
  }
  const auto bytes = static_cast<int64_t>(data.size() * sizeof(float));
  const auto repeats =
      static_cast<int>(std::clamp<int64_t>((int64_t{4} << 20) / bytes, 1, 200));
  Algorithm<float> algorithm(context, {data.data()},
                             static_cast<int>(data.size()));
  gloo::BarrierAllToOne barrier(context);
  const auto time_of = [&](int times) {
    barrier.run();
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < times; ++i) {
      algorithm.run();
    }
    return std::chrono::duration<double, std::micro>(Clock::now() - start)
               .count() /
           times;
  };
  // The first warms its buffers up, so that it is timed again.
  (void)time_of(1);
  if (!SumIsRight(data, context->size)) {
    std::fprintf(stderr, "gloo %s: the sum is wrong\n", name);
    return false;
  }
  std::fill(data.begin(), data.end(), 0.0F);  // Sums of sums would overflow.
  const double microseconds = time_of(repeats);
  if (rank == 0) {
    std::printf("%lld %s %.2f\n", static_cast<long long>(bytes), name,
                microseconds);
    std::fflush(stdout);
  }
  return true;
}

bool RunRank(int rank, int ranks, int64_t min_bytes, int64_t max_bytes,
             const std::string& folder) {
  gloo::rendezvous::FileStore store(folder);
  auto device = gloo::transport::tcp::CreateDevice("127.0.0.1");
  const auto context = std::make_shared<gloo::rendezvous::Context>(rank, ranks);
  context->connectFullMesh(store, device);
  for (int64_t bytes = min_bytes; bytes <= max_bytes; bytes *= 4) {
    std::vector<float> data(static_cast<size_t>(bytes) / sizeof(float));
    if (!Time<gloo::AllreduceRing>("ring", context, data) ||
        !Time<gloo::AllreduceRingChunked>("ring_chunked", context, data) ||
        !Time<gloo::AllreduceHalvingDoubling>("halving_doubling", context,
                                              data) ||
        !Time<gloo::AllreduceBcube>("bcube", context, data)) {
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  const int ranks = argc == 4 ? std::atoi(argv[1]) : 0;
  const int64_t min_bytes = argc == 4 ? std::atoll(argv[2]) : 0;
  const int64_t max_bytes = argc == 4 ? std::atoll(argv[3]) : 0;
  if (ranks < 2 || min_bytes < 4096 || max_bytes < min_bytes) {
    std::fprintf(stderr,
                 "usage: gloo_allreduce RANKS MIN_BYTES MAX_BYTES, with 2 "
                 "ranks and 4096 bytes or more\n");
    return 2;
  }
  std::string folder =
      std::filesystem::temp_directory_path() / "gloo_allreduce_XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) {
    std::perror(folder.c_str());
    return 1;
  }
  std::vector<pid_t> children;
  for (int rank = 0; rank < ranks; ++rank) {
    const pid_t child = fork();
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      bool good = false;
      try {
        good = RunRank(rank, ranks, min_bytes, max_bytes, folder);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
      }
      // gloo's threads may still wait for ranks that are gone.
      std::fflush(stdout);
      _exit(good ? 0 : 1);
    }
    children.push_back(child);
  }
  bool good = true;
  for (size_t i = 0; i < children.size(); ++i) {
    int state = 0;
    const pid_t ended = wait(&state);
    if (ended < 0 || !WIFEXITED(state) || WEXITSTATUS(state) != 0) {
      if (good) {  // The others would wait for it.
        for (const pid_t child : children) {
          if (child != ended) {
            kill(child, SIGKILL);
          }
        }
      }
      good = false;
    }
  }
  std::filesystem::remove_all(folder);
  return good ? 0 : 1;
}
