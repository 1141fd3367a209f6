#!/usr/bin/env python3
"""Whole jobs on a Criteo-shaped stream: Shoal and PyTorch in turn, in one run.

  python3 benchmarks/whole_job/run.py STREAM.bin FOLDER [--python PYTHON] [--rounds 3]
      [--models lr,deepfm,dlrm] [--program build/release/shoal] [--simd avx2] [--gpu]

STREAM.bin holds 264-byte records: label f32, 13 f32, 26 global ids int64. FOLDER gets the
same rows as Criteo TSV and, through `shoal data convert`, as a record file; PYTHON has torch
and numpy (without it Shoal runs alone). --simd adds runs of Shoal limited to that
instruction set: PyTorch's library for matrix products may not use the widest one. --gpu
runs both on a GPU, Shoal with the CPU's bits and with devices.math: fast. Round r has seed r. Prints one JSON line per run, then medians with their spread, and the median of
the rounds' ratios.

Shoal's rate covers every training step, PyTorch's leaves out the first tenth. `rss_bytes`
is the peak of all processes, shared pages counted once; `file_bytes` is the part of it that
maps files (the stream, libraries), which the page cache holds anyway.

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
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TRAIN, TEST = 999_424, 200_000
CLUSTERS = {"shoal 1+1": (1, 1, 2), "shoal 2+2": (2, 2, 1)}  # servers, workers, threads
SAMPLE_SECONDS = 0.25


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


def memory_of(pid):
    """Bytes of a process and its children, shared pages once: (all, mapped from files)."""
    total = from_files = 0
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
                elif line.startswith("Pss_File:"):
                    from_files += int(line.split()[1]) * 1024
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                for child in file.read().split():
                    more = memory_of(int(child))
                    total += more[0]
                    from_files += more[1]
    except (OSError, ValueError):
        pass  # it has ended
    return total, from_files


def run_watched(command, env=None):
    """Runs a command to its end: (its stdout, wall seconds, peak of memory_of)."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors, env=env)
        peak = (0, 0)
        while True:
            try:
                process.wait(SAMPLE_SECONDS)
                break
            except subprocess.TimeoutExpired:
                peak = max(peak, memory_of(process.pid))
        seconds = time.perf_counter() - start
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(f"{' '.join(command)}: exit status {process.returncode}\n{errors.read()}")
        out.seek(0)
        return out.read(), seconds, peak


def run_shoal(args, name, model, seed):
    servers, workers, threads = CLUSTERS[name[:len("shoal 1+1")]]
    variant = name[len("shoal 1+1 "):]
    simd = variant if variant and not variant.startswith("cuda") else ""
    out = os.path.join(args.folder, "out")
    command = [args.program, "train", os.path.join(HERE, f"{model}.yaml"), "--out", out]
    for setting in (f"data.root={args.folder}", f"cluster.servers={servers}",
                    f"cluster.workers={workers}", f"cluster.threads={threads}",
                    f"seed={seed}",
                    f"device={'cuda' if variant.startswith('cuda') else 'cpu'}",
                    f"devices.math={'fast' if variant == 'cuda fast' else 'exact'}"):
        command += ["--set", setting]
    env = dict(os.environ, SHOAL_SIMD=simd) if simd else None
    _, seconds, peak = run_watched(command, env)
    with open(os.path.join(out, "metrics.json"), encoding="utf-8") as file:
        metrics = json.load(file)
    return {"system": name, "model": model, "seed": seed,
            "examples_per_second": round(metrics["examples_per_second"]),
            "auc": round(metrics["test"]["auc"], 4), "wall_seconds": round(seconds, 1),
            "rss_bytes": peak[0], "file_bytes": peak[1]}


def run_torch(args, model, seed):
    out, seconds, peak = run_watched(
        [args.python, "-W", "ignore", os.path.join(HERE, "torch_peer.py"), args.stream, model,
         "2", str(seed), "cuda" if args.gpu else "cpu"])
    return {**json.loads(out), "seed": seed, "wall_seconds": round(seconds, 1),
            "rss_bytes": peak[0], "file_bytes": peak[1]}


def spread(values, form):
    values = sorted(values)
    return (f"{form % statistics.median(values)} ({form % values[0]} to {form % values[-1]})")


def print_summary(rates):
    print("| model | system | examples/s | x torch | AUC | wall s | GiB | of it files |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for (model, system), runs in rates.items():
        peer = rates.get((model, "torch"), [])
        ratios = [run["examples_per_second"] / other["examples_per_second"]
                  for run, other in zip(runs, peer)]
        print(f"| {model} | {system} |",
              spread([run["examples_per_second"] for run in runs], "%d"), "|",
              spread(ratios, "%.2f") if ratios else "", "|",
              spread([run["auc"] for run in runs], "%.4f"), "|",
              spread([run["wall_seconds"] for run in runs], "%.1f"), "|",
              "%.2f |" % (max(run["rss_bytes"] for run in runs) / 2**30),
              "%.2f |" % (max(run["file_bytes"] for run in runs) / 2**30))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stream")
    parser.add_argument("folder")
    parser.add_argument("--python", default="")
    parser.add_argument("--program", default="build/release/shoal")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", default="lr,deepfm,dlrm")
    parser.add_argument("--simd", default="")
    parser.add_argument("--gpu", action="store_true")
    args = parser.parse_args()
    os.makedirs(args.folder, exist_ok=True)
    prepare(args)
    clusters = [f"{name} {variant}" for name in CLUSTERS for variant in ("cuda", "cuda fast")]
    systems = clusters if args.gpu else list(CLUSTERS)
    systems += [f"{name} {args.simd}" for name in CLUSTERS if args.simd]
    rates = {}
    for model in args.models.split(","):
        for seed in range(1, args.rounds + 1):
            for system in systems + (["torch"] if args.python else []):
                run = (run_torch(args, model, seed) if system == "torch" else
                       run_shoal(args, system, model, seed))
                print(json.dumps(run), flush=True)
                rates.setdefault((model, system), []).append(run)
    print_summary(rates)


if __name__ == "__main__":
    main()
