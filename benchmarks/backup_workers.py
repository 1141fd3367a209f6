#!/usr/bin/env python3
"""What a backup worker is worth where one worker is slow.

Trains the same job with 2 workers, with 2 of which one is slow, and with a
third one as backup of these, in turn. A worker is slow by being stopped
(SIGSTOP) for three quarters of every 200 ms. Prints examples/s of each run,
their medians and spread, and fails if digests differ.

  benchmarks/backup_workers.py build/release/shoal JOB.yaml [--set KEY=VALUE]
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

VARIANTS = {
    "2 workers": (["cluster.workers=2"], False),
    "2 workers, one slow": (["cluster.workers=2"], True),
    "2 workers, one slow, and a backup": (
        ["cluster.workers=3", "cluster.backup_workers=1"],
        True,
    ),
}


def worker_of(launcher, index):
    """The process id of a worker that `launcher` has started, or None."""
    try:
        task = pathlib.Path(f"/proc/{launcher}/task/{launcher}/children")
        for child in task.read_text().split():
            line = pathlib.Path(f"/proc/{child}/cmdline").read_bytes()
            words = line.decode(errors="replace").split("\0")
            if words[1:4] == ["worker", "--index", str(index)]:
                return int(child)
    except OSError:
        pass
    return None


def run(arguments, out, sets, slow):
    command = [arguments.shoal, "train", arguments.job, "--out", str(out)]
    for text in arguments.set + sets:
        command += ["--set", text]
    with open(f"{out}.log", "wb") as log:
        launcher = subprocess.Popen(command, stdout=log, stderr=log)
    while launcher.poll() is None:
        victim = worker_of(launcher.pid, 0) if slow else None
        if victim is None:
            time.sleep(0.02)
            continue
        try:
            os.kill(victim, signal.SIGSTOP)
            time.sleep(0.15)
            os.kill(victim, signal.SIGCONT)
            time.sleep(0.05)
        except ProcessLookupError:
            pass
    if launcher.returncode != 0:
        sys.exit(pathlib.Path(f"{out}.log").read_text())
    metrics = json.loads((out / "metrics.json").read_text())
    return metrics["examples_per_second"], metrics["digest"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("shoal")
    parser.add_argument("job")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    speeds = {name: [] for name in VARIANTS}
    digests = set()
    with tempfile.TemporaryDirectory() as folder:
        for i in range(arguments.runs):
            for j, (name, (sets, slow)) in enumerate(VARIANTS.items()):
                out = pathlib.Path(folder) / f"run-{i}-{j}"
                speed, digest = run(arguments, out, sets, slow)
                speeds[name].append(speed)
                digests.add(digest)
                print(f"{name}: {speed:,.0f} examples/s", flush=True)
    base = statistics.median(speeds["2 workers"])
    print("\n| | examples/s, median (least to most) | of the first |")
    print("|---|---:|---:|")
    for name, found in speeds.items():
        middle = statistics.median(found)
        print(
            f"| {name} | {middle:,.0f} ({min(found):,.0f} to "
            f"{max(found):,.0f}) | {middle / base:.2f} |"
        )
    if len(digests) != 1:
        sys.exit(f"digests differ: {sorted(digests)}")
    print(f"\none digest: {digests.pop()}")


if __name__ == "__main__":
    main()
