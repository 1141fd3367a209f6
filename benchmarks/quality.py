#!/usr/bin/env python3
"""Trains the example jobs in every consistency mode and prints how good they are.

  python3 benchmarks/quality.py DATA [--program build/release/shoal] [--seeds 3] [--only NAME]

DATA is a folder with nycflights13/, adult/ and movielens-small/. One line per job,
mode and number of workers: the mean over the seeds, the spread, and the bar.
Runs as threads of one process; ends with 1 if a bar is missed.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

# Job, data folder, metric, bar, whether greater is better.
JOBS = [
    ("flights/lr", "nycflights13", "auc", 0.764, True),
    ("flights/fm", "nycflights13", "auc", 0.799, True),
    ("flights/deepfm", "nycflights13", "auc", 0.812, True),
    ("adult/wide_deep", "adult", "auc", 0.908, True),
    ("movielens/fm", "movielens-small", "rmse", 0.840, False),
]
MODES = [("sync", 1), ("sync", 4), ("bounded", 1), ("bounded", 4), ("async", 1), ("async", 4)]


def train(program, job, data, mode, workers, seed):
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(
            [program, "train", f"examples/{job}.yaml", "--in-process", "--out", out,
             "--set", f"data.root={data}", "--set", f"consistency.mode={mode}",
             *(["--set", "consistency.staleness=4"] if mode == "bounded" else []),
             "--set", f"cluster.workers={workers}",
             "--set", f"seed={seed}"],
            check=True, capture_output=True, text=True, timeout=900)
        with open(os.path.join(out, "metrics.json"), encoding="utf-8") as file:
            return json.load(file)["test"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--program", default="build/release/shoal")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    missed = 0
    print("| job | mode | workers | metric | mean | min | max | bar | |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for job, folder, metric, bar, greater in JOBS:
        if args.only not in job:
            continue
        for mode, workers in MODES:
            values = [train(args.program, job, os.path.join(args.data, folder), mode, workers,
                            seed)[metric] for seed in range(1, args.seeds + 1)]
            mean = sum(values) / len(values)
            good = mean >= bar if greater else mean <= bar
            missed += not good
            print(f"| {job} | {mode} | {workers} | {metric} | {mean:.4f} | {min(values):.4f} | "
                  f"{max(values):.4f} | {bar} | {'reached' if good else 'MISSED'} |", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
