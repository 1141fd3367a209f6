#!/usr/bin/env python3
"""Whole jobs on a Criteo-shaped stream: Shoal and PyTorch in turn, in one run.

  python3 benchmarks/whole_job/run.py STREAM.bin FOLDER [--python PYTHON] [--rounds 3]
      [--models lr,deepfm,dlrm] [--program build/release/shoal]

STREAM.bin holds 264-byte records: label f32, 13 f32, 26 global ids int64. FOLDER gets the
same rows as Criteo TSV and, through `shoal data convert`, as a record file; PYTHON has torch
and numpy (without it Shoal runs alone). Prints one JSON line per run, then medians with
their spread, and ratios.

Sketch: on 2 cores, DeepFM's matrix products alone bound a step of 2,048 examples (3.2 GFLOP
forward and backward); what lies beside them, and the second core, is what can be won.
"""
import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TRAIN, TEST = 999_424, 200_000
CLUSTERS = {"shoal 1+1": (1, 1, 2), "shoal 2+2": (2, 2, 1)}  # servers, workers, threads


def write_tsv(stream, begin, end, path):
    record = struct.Struct("<14f26q")
    with open(stream, "rb") as data, open(path, "w", encoding="ascii") as out:
        data.seek(begin * record.size)
        for _ in range(begin, end):
            values = record.unpack(data.read(record.size))
            out.write("%d\t" % values[0] + "\t".join("%.9g" % x for x in values[1:14]) + "\t" +
                      "\t".join("%x" % c for c in values[14:]) + "\n")


def prepare(args):
    target = os.path.join(args.folder, "stream.shoalrec")
    if os.path.exists(target):
        return
    rows = os.path.getsize(args.stream) // 264
    write_tsv(args.stream, 0, TRAIN, os.path.join(args.folder, "train.tsv"))
    write_tsv(args.stream, rows - TEST, rows, os.path.join(args.folder, "test.tsv"))
    subprocess.run([args.program, "data", "convert", os.path.join(HERE, "convert.yaml"), target,
                    "--set", f"data.root={args.folder}"], check=True)


def pss_bytes(pid):
    """Memory of a process and its children; shared pages count once."""
    total = 0
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                total += sum(pss_bytes(int(child)) for child in file.read().split())
    except (OSError, ValueError):
        pass
    return total


def run_shoal(args, name, model):
    servers, workers, threads = CLUSTERS[name]
    out = os.path.join(args.folder, "out")
    process = subprocess.Popen(
        [args.program, "train", os.path.join(HERE, f"{model}.yaml"), "--out", out,
         "--set", f"data.root={args.folder}", "--set", f"cluster.servers={servers}",
         "--set", f"cluster.workers={workers}", "--set", f"cluster.threads={threads}",
         "--set", f"cluster.virtual_workers={workers}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak = [0]

    def watch():
        while process.poll() is None:
            peak[0] = max(peak[0], pss_bytes(process.pid))
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    errors = process.communicate()[1]
    watcher.join()
    if process.returncode != 0:
        sys.exit(errors)
    with open(os.path.join(out, "metrics.json"), encoding="utf-8") as file:
        metrics = json.load(file)
    return {"system": name, "model": model,
            "examples_per_second": round(metrics["examples_per_second"]),
            "auc": round(metrics["test"]["auc"], 4), "rss_bytes": peak[0]}


def run_torch(args, model):
    done = subprocess.run([args.python, os.path.join(HERE, "torch_peer.py"), args.stream, model],
                          check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stream")
    parser.add_argument("folder")
    parser.add_argument("--python", default="")
    parser.add_argument("--program", default="build/release/shoal")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", default="lr,deepfm,dlrm")
    args = parser.parse_args()
    os.makedirs(args.folder, exist_ok=True)
    prepare(args)
    rates = {}
    for model in args.models.split(","):
        for _ in range(args.rounds):
            runs = [run_shoal(args, name, model) for name in CLUSTERS]
            if args.python:
                runs.append(run_torch(args, model))
            for run in runs:
                print(json.dumps(run), flush=True)
                rates.setdefault((model, run["system"]), []).append(run)
    for (model, system), runs in rates.items():
        speeds = [run["examples_per_second"] for run in runs]
        line = (f"{model:7} {system:10} {statistics.median(speeds):>9.0f} examples/s "
                f"({min(speeds)} to {max(speeds)}), AUC {runs[0]['auc']}, "
                f"{max(run['rss_bytes'] for run in runs) / 2**30:.2f} GiB")
        peer = rates.get((model, "torch"))
        if peer and system != "torch":
            base = statistics.median(run["examples_per_second"] for run in peer)
            line += f", {statistics.median(speeds) / base:.2f} x torch"
        print(line)


if __name__ == "__main__":
    main()
