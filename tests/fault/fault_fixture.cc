#include "tests/fault/fault_fixture.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>

#include "base/storage.h"
#include "base/strcat.h"
#include "ps/checkpoint_format.h"
#include "ps/safetensors.h"

namespace shoal::fault {
namespace {

// Hands connections on: from port argv[1] of this machine to port argv[2].
constexpr char kProxy[] = R"(import socket, sys, threading
def copy(source, to):
    try:
        while data := source.recv(65536):
            to.sendall(data)
    except OSError:
        pass
    source.close()
    to.close()
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    one, _ = listener.accept()
    try:
        other = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
    except OSError:
        one.close()
        continue
    for pair in ((one, other), (other, one)):
        threading.Thread(target=copy, args=pair, daemon=True).start()
)";

uint32_t BitsOf(float number) {
  uint32_t bits = 0;
  std::memcpy(&bits, &number, sizeof(bits));
  return bits;
}

void CountUpdates(const ps::Tensors& tensors,
                  std::vector<std::string>& counts) {
  constexpr std::string_view kState = "/state";
  for (const auto& [name, tensor] : tensors) {
    if (!name.ends_with(kState)) {
      continue;
    }
    const std::string owner = name.substr(0, name.size() - kState.size());
    const auto state = tensor.data.As<float>();
    const auto ids = tensors.find(owner + "/ids");
    if (ids == tensors.end()) {
      counts.push_back(StrCat(owner, " ", BitsOf(state.back())));
      continue;
    }
    const auto rows = ids->second.data.As<uint64_t>();
    const auto width = static_cast<size_t>(tensor.shape.at(1));
    for (size_t i = 0; i < rows.size(); ++i) {
      counts.push_back(StrCat(owner, " ", rows[i], " ",
                              BitsOf(state[i * width + width - 1])));
    }
  }
}

}  // namespace

double SecondsSince(SteadyClock::time_point then) {
  return std::chrono::duration<double>(SteadyClock::now() - then).count();
}

int Count(const std::string& text, const std::string& words) {
  int count = 0;
  for (size_t at = text.find(words); at != std::string::npos;
       at = text.find(words, at + 1)) {
    ++count;
  }
  return count;
}

std::vector<pid_t> JobView::servers() const {
  return integration::ChildrenWith(launcher, " server --index");
}

std::vector<pid_t> JobView::workers() const {
  return integration::ChildrenWith(launcher, " worker --index");
}

bool Killer::Recovered(const JobView& job) const {
  if (kills_ == 0) {
    return job.evaluations() > 0;
  }
  // The evaluation that was under way does not tell.
  return (!options_.servers || job.repairs() >= servers_killed_) &&
         (!options_.workers || job.evaluations() >= evaluations_then_ + 2);
}

bool Killer::KillOneOf(const std::vector<pid_t>& processes) {
  return !processes.empty() &&
         kill(processes[random_() % processes.size()], SIGKILL) == 0;
}

void Killer::operator()(const JobView& job) {
  if (kills_ >= options_.kills || !Recovered(job) ||
      (options_.when && !options_.when(job))) {
    return;
  }
  evaluations_then_ = job.evaluations();
  if (options_.workers && !KillOneOf(job.workers())) {
    return;
  }
  if (options_.servers && KillOneOf(job.servers())) {
    ++servers_killed_;
  }
  ++kills_;
}

Words FaultTest::Cluster(int replicas, int epochs,
                         const std::string& transport) {
  return integration::Sets({StrCat("cluster.servers=", replicas),
                            StrCat("cluster.replicas=", replicas),
                            "cluster.workers=2", "cluster.restarts=1000",
                            StrCat("train.epochs=", epochs),
                            "transport=" + transport});
}

RunOutcome FaultTest::Disturbed(const std::string& out, const Words& settings,
                                const Disturb& disturb) const {
  return integration::RunWatched(
      TrainCommand(out, settings),
      [&disturb](pid_t launcher, const std::string& output) {
        disturb({.launcher = launcher, .output = output});
      });
}

RunOutcome FaultTest::DisturbedServices(
    const std::string& out, const Words& settings,
    const std::function<void(const JobView&, const std::string& at)>& disturb,
    const std::string& etcd) const {
  const std::string port = std::to_string(integration::FreePort());
  const std::string at =
      etcd.empty() ? "tcp://localhost:" + port : etcd + "/small";
  std::string keys;
  std::string more;  // for the members, which do not read the job
  for (const std::string& word : settings) {
    keys += " '" + word + "'";
    if (word.starts_with("transport=")) {
      more = " --transport " + word.substr(word.find('=') + 1);
    }
  }
  // In a file, so that no command line but theirs has their words.
  Write("services.sh",
        StrCat("keep() {\n"
               "  while :; do \"$@\"; code=$?\n"
               "    [ $code -gt 128 ] || return $code\n"
               "  done\n"
               "}\n"
               "S=",
               integration::Program(),
               "\n"
               "for i in 0 1; do\n"
               "  keep $S server --index $i --coordinator ",
               at, more,
               " &\n"
               "  keep $S worker --index $i --coordinator ",
               at, more,
               " &\n"
               "done\n"
               "coordinator() {\n"
               "  keep $S coordinator ",
               Path("job.yaml"), " --out ", Path(out), keys,
               " --set cluster.listen=lo \"$@\"\n"
               "}\n",
               etcd.empty()
                   ? StrCat("coordinator --set cluster.port=", port,
                            "\n"
                            "code=$?; wait; exit $code\n")
                   : StrCat("python3 ", ProxyWords(), " ", port, " ",
                            etcd.substr(etcd.rfind(':') + 1),
                            " & P=$!\n"
                            "until echo > /dev/tcp/127.0.0.1/",
                            port,
                            "; do sleep 0.1; done 2> /dev/null\n"
                            "coordinator --coordinator etcd://127.0.0.1:",
                            port,
                            " & A=$!; sleep 2\n"
                            "coordinator --coordinator ",
                            etcd,
                            " & B=$!\n"
                            "wait $A; a=$?; wait $B; b=$?\n"
                            "kill $P; wait 2> /dev/null\n"
                            "echo coordinators: $a $b\n")));
  Write("proxy.py", kProxy);
  return integration::RunWatched(
      {"bash", Path("services.sh")},
      [&](pid_t script, const std::string& output) {
        disturb({.launcher = script, .output = output}, at);
      },
      std::chrono::seconds(etcd.empty() ? 60 : 120));
}

std::vector<pid_t> FaultTest::ServicesWith(const std::string& at,
                                           const std::string& role) const {
  return role == "coordinator"
             ? integration::AllRunningWith(
                   StrCat(" coordinator ", Path("job.yaml")))
             : integration::AllRunningWith(
                   StrCat(" ", role, " --index 1 --coordinator ", at));
}

bool FaultTest::AllReplicasAreThere(const std::string& at) {
  const RunOutcome status = integration::RunProgram(
      {integration::Program(), "status", "--coordinator", at});
  return status.exit_code == 0 &&
         status.output.find(": 0 lack some, 0 are being copied") !=
             std::string::npos;
}

void FaultTest::UntilLongEnough(
    int epochs, const std::function<bool(int epochs)>& attempt) {
  constexpr int kMostTimes = 8;
  for (int times = 1; times <= kMostTimes; times *= 2) {
    if (attempt(epochs * times) || HasFatalFailure()) {
      return;
    }
    std::cout << "a job of " << epochs * times
              << " epochs ended before all kills\n";
  }
  FAIL() << "the job ended before all kills";
}

void FaultTest::KillDuring(
    const Killer::Options& options, int epochs,
    const std::function<void(int epochs, const Disturb& killer)>& attempt) {
  UntilLongEnough(epochs, [&](int so_many) {
    Killer killer(options);
    attempt(so_many, [&killer](const JobView& job) { killer(job); });
    return killer.kills() == options.kills;
  });
}

void FaultTest::TrainUndisturbed(const std::string& out, int epochs,
                                 const Words& more) const {
  Words words = {"--in-process", "--set", StrCat("train.epochs=", epochs)};
  words.insert(words.end(), more.begin(), more.end());
  const RunOutcome run = Train(out, words);
  ASSERT_EQ(run.exit_code, 0) << run.output;
}

std::vector<std::string> FaultTest::UpdateCounts(const std::string& out) const {
  const std::unique_ptr<Storage> storage = CreateLocalStorage();
  const StatusOr<std::string> folder = ps::FindCheckpoint(*storage, Path(out));
  EXPECT_TRUE(folder.ok()) << folder.status().ToString();
  const StatusOr<ps::Manifest> manifest = ps::ReadManifest(*storage, *folder);
  EXPECT_TRUE(manifest.ok()) << manifest.status().ToString();
  std::vector<std::string> counts;
  for (const ps::ManifestPart& part : manifest->parts) {
    const StatusOr<ps::Tensors> tensors =
        ps::ReadTensors(*storage, *folder, part.file);
    EXPECT_TRUE(tensors.ok()) << tensors.status().ToString();
    CountUpdates(*tensors, counts);
  }
  std::sort(counts.begin(), counts.end());
  return counts;
}

bool Nightly() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing writes the environment.
  return std::getenv("SHOAL_NIGHTLY") != nullptr;
}

}  // namespace shoal::fault
