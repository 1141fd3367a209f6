#!/usr/bin/env python3
"""What replicas of servers cost, and what they are worth when a server is killed.

  python3 benchmarks/failover.py {failover,repair,calm,cost} DATA
      [--program build/release/shoal] [--trials 50] [--minutes 3] [--rounds 5] [--mode sync]

DATA is the folder nycflights13. Each prints one line of JSON with units, and ends with 1 if a
bar is missed, or in `cost` a model has other bits. (tests/fault compares those of jobs whose
servers are killed.)

failover: from kill -9 of a server to the next push that is served without it. The launcher
  sees a child end at once; then a route travels, and the step under way begins again: tens of
  milliseconds. Pushes are timed by the workers' timelines (--trace). At the kill step s is the
  last that a worker was told of; s + 1 may have been committed and be on its way; so what is
  taken is the end of the first push of a step from s + 2 on, which is one step too late. Where
  steps are dealt it is the first end of a push that has begun since the kill.
repair: from the start of a new server until it holds 200 MB of slots, in the launcher's words.
  A copy of 200 MB through shared memory or loopback takes 0.1 to 0.2 s, starting a process and
  filling its tables as much again.
calm: a job beside four busy processes per core; nobody may be given up.
cost: a job with replicas 2 and with 1 in turn. Every gradient goes to two servers, and each
  applies all of it: twice the servers' work, of which the heads' part is before the answer.
"""
import argparse
import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

REPLICATED = "all replicas are there again after"


class Job:
    """A training under way, whose launcher's words come line by line."""

    def __init__(self, program, job, out, settings, trace=False):
        self.program = program
        self.out = out
        words = [program, "train", job, "--out", out] + (["--trace"] if trace else [])
        for setting in settings:
            words += ["--set", setting]
        self.log = open(out + ".log", "w+", encoding="utf-8")  # pylint: disable=consider-using-with
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=self.log)
        self.seen = ""

    def text(self):
        self.log.flush()
        with open(self.out + ".log", encoding="utf-8", errors="replace") as file:
            self.seen = file.read()
        return self.seen

    def running(self):
        return self.process.poll() is None

    def children(self, role):
        found = []
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{self.process.pid}/task"):
                with open(f"/proc/{self.process.pid}/task/{task}/children",
                          encoding="utf-8") as file:
                    found += file.read().split()
        return [int(pid) for pid in found if f" {role} --index" in command_line(pid)]

    def wait_for(self, words, times, within=60):
        until = time.monotonic() + within
        while self.text().count(words) < times:
            if not self.running() or time.monotonic() > until:
                self.stop()
                sys.exit(f"waited for '{words}', {times} times; the job said:\n{self.seen[-2000:]}")
            time.sleep(0.005)

    def stop(self):
        if self.running():
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def finish(self, within=900):
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.stop()
            code = "none in time"
        if code != 0:
            sys.exit(f"the job ended with {code}:\n{self.text()[-2000:]}")

    def metrics(self):
        with open(os.path.join(self.out, "metrics.json"), encoding="utf-8") as file:
            return json.load(file)

    def digest(self):
        return subprocess.run([self.program, "checkpoint", "digest", self.out], check=True,
                              capture_output=True, text=True).stdout.strip()


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def cpu_seconds(pid):
    total = 0
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat", encoding="utf-8") as file:
                total += int(file.read().split()[0])
    return total / 1e9


def flights(args, replicas, *more):
    return [f"data.root={args.data}", "cluster.servers=2", "cluster.workers=4",
            f"cluster.replicas={replicas}", "cluster.restarts=100000",
            f"consistency.mode={args.mode}", *more]


def push_ends(folder):
    """(end, begin, step) of all workers' pushes, rising; s of the host's clock."""
    ends = []
    for name in os.listdir(folder):
        if name.startswith("trace-worker"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                for event in json.load(file)["traceEvents"]:
                    if event["name"] == "push" and "dur" in event:
                        begin = event["ts"] / 1e6
                        ends.append((begin + event["dur"] / 1e6, begin, event["args"]["number"]))
    return sorted(ends)


def histogram(values, edges):
    """Numbers of values, in s, from each edge on, in ms."""
    return {f"from {low} ms": sum(low <= value * 1000 < high for value in values)
            for low, high in zip(edges, edges[1:] + [float("inf")])}


def load():
    return os.getloadavg()[0]


def failover(args, folder):
    job = Job(args.program, args.job, os.path.join(folder, "killed"),
              flights(args, 2, "train.epochs=1000", "train.eval.every_epoch=false"), trace=True)
    kills = []
    while job.running() and not os.path.exists(os.path.join(job.out, "tensorboard")):
        time.sleep(0.05)  # It is made when training starts.
    time.sleep(1)
    for trial in range(args.trials):
        time.sleep(random.uniform(0.05, 0.3))
        victim = random.choice(job.children("server"))
        kills.append(time.monotonic())
        os.kill(victim, signal.SIGKILL)
        job.wait_for(REPLICATED, trial + 1)
    time.sleep(2)
    job.stop()
    ends = push_ends(os.path.join(job.out, "trace"))
    times = []
    for kill in kills:
        if args.mode == "sync":
            last = max((step for end, _, step in ends if end <= kill), default=0)
            served = (end for end, _, step in ends if end > kill and step >= last + 2)
        else:
            served = (end for end, begin, _ in ends if begin > kill)
        times.append(min(served) - kill)
    median, worst = statistics.median(times), max(times)
    return {"what": "kill -9 of a server to the next served push", "trials": len(times),
            "median_s": round(median, 3), "worst_s": round(worst, 3),
            "p90_s": round(sorted(times)[int(0.9 * len(times))], 3),
            "step_s": round((ends[-1][0] - ends[0][0]) / max(1, max(s for _, _, s in ends)), 4),
            "histogram": histogram(times, [0, 25, 50, 75, 100, 150, 200, 300, 500, 1000])}, \
        median < 0.5 and worst < 1


def repair(args, folder):
    # 200,000 rows of 128 values and as many sums of squares, with their ids: 206 MB.
    with open(os.path.join(folder, "rows.csv"), "w", encoding="utf-8") as file:
        file.write("clicked,user\n")
        file.writelines(f"{i // 6 % 2},u{i}\n" for i in range(240_000))
    with open(os.path.join(folder, "job.yaml"), "w", encoding="utf-8") as file:
        file.write(f"""name: large
data:
  root: {folder}
  files: [rows.csv]
  label: clicked
  split: {{by: mod, n: 6, test: 5}}
  features: [{{column: user}}]
model: {{kind: deepfm, dim: 128, hidden: [16]}}
tables:
  embedding: {{optimizer: {{kind: adagrad, learning_rate: 0.1}}}}
train: {{epochs: 1, batch_size: 2048, eval: {{every_epoch: false}}}}
""")
    args.job = os.path.join(folder, "job.yaml")
    first = Job(args.program, args.job, os.path.join(folder, "first"),
                ["cluster.servers=2", "cluster.workers=2"])
    first.finish()
    size = sum(os.path.getsize(os.path.join(path, name))
               for path, _, names in os.walk(os.path.join(first.out, "checkpoints"))
               for name in names)
    job = Job(args.program, args.job, os.path.join(folder, "killed"),
              ["cluster.servers=2", "cluster.workers=2", "cluster.replicas=2",
               "cluster.restarts=1000", f"checkpoint.restore={first.out}", "train.epochs=10000",
               "train.eval.every_steps=20"])
    job.wait_for(": test ", 1)
    for trial in range(args.trials):
        time.sleep(0.5)
        os.kill(random.choice(job.children("server")), signal.SIGKILL)
        job.wait_for(REPLICATED, trial + 1)
    job.stop()
    times = [float(t) for t in re.findall(REPLICATED + r" ([\d.]+) s", job.text())]
    median, worst = statistics.median(times), max(times)
    return {"what": "repair of a server", "state_mb": round(size / 1e6, 1), "trials": len(times),
            "median_s": round(median, 2), "min_s": min(times), "worst_s": round(worst, 2)}, \
        worst <= 2


def calm(args, folder):
    count = 4 * (os.cpu_count() or 1)
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"],
                                preexec_fn=lambda: os.nice(args.nice)) for _ in range(count)]
    try:
        job = Job(args.program, args.job, os.path.join(folder, "calm"),
                  flights(args, 2, "train.epochs=100000"))
        begin = time.monotonic()
        loads = []
        while job.running() and time.monotonic() < begin + 60 * args.minutes:
            time.sleep(1)
            loads.append(load())
        alive = job.running()
        job.stop()
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    given_up = job.text().count("started again")
    steps = max([int(s) for s in re.findall(r"step (\d+)", job.text())], default=0)
    return {"what": "servers given up beside busy processes", "busy": count, "nice": args.nice,
            "minutes": args.minutes, "mean_load": round(statistics.mean(loads), 1),
            "steps": steps, "given_up": given_up, "job_went_on": alive}, alive and given_up == 0


def cost(args, folder):
    seconds = {1: [], 2: []}
    cpu = {1: [], 2: []}
    digests = set()
    for number in range(args.rounds):
        for replicas in (1, 2) if number % 2 == 0 else (2, 1):
            job = Job(args.program, args.job, os.path.join(folder, f"run{replicas}"),
                      flights(args, replicas, "train.epochs=1", "train.eval.every_epoch=false",
                              f"train.max_steps={args.steps}"))
            used = {}
            while job.running():
                for pid in job.children("server"):
                    used[pid] = max(used.get(pid, 0), cpu_seconds(pid))
                time.sleep(0.02)
            job.finish()
            digests.add(job.digest())
            done = job.metrics()
            seconds[replicas].append(done["seconds"] / args.steps)
            cpu[replicas].append(sum(used.values()) / args.steps)
    time_ratios = [b / a for a, b in zip(seconds[1], seconds[2])]
    cpu_ratios = [b / a for a, b in zip(cpu[1], cpu[2])]
    time_ratio, cpu_ratio = statistics.median(time_ratios), statistics.median(cpu_ratios)
    same = len(digests) == 1 if args.mode == "sync" else None  # Elsewhere no two are.

    def spread(values, scale):
        return [round(v * scale, 3) for v in (statistics.median(values), min(values), max(values))]
    return {"what": "replicas 2 against 1", "rounds": args.rounds, "steps": args.steps,
            "step_ms_1": spread(seconds[1], 1e3), "step_ms_2": spread(seconds[2], 1e3),
            "time_ratio": spread(time_ratios, 1),
            "server_cpu_ms_per_step_1": spread(cpu[1], 1e3),
            "server_cpu_ms_per_step_2": spread(cpu[2], 1e3),
            "cpu_ratio": spread(cpu_ratios, 1), "same_bits": same}, \
        same is not False and time_ratio <= 1.3 and cpu_ratio <= 2.2


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["failover", "repair", "calm", "cost"])
    parser.add_argument("data")
    parser.add_argument("--program", default="build/release/shoal")
    parser.add_argument("--job", default="examples/flights/deepfm.yaml")
    parser.add_argument("--mode", default="sync", choices=["sync", "bounded", "async"])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--nice", type=int, default=0, help="of the busy processes")
    args = parser.parse_args()
    args.data = os.path.abspath(args.data)
    before = load()
    with tempfile.TemporaryDirectory() as folder:
        result, good = globals()[args.what](args, folder)
    result.update(mode=args.mode, load_before=round(before, 1), load_after=round(load(), 1),
                  good=good)
    print(json.dumps(result))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
