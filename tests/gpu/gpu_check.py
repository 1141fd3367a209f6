#!/usr/bin/env python3
"""Checks Shoal on a machine with a GPU and writes one report (`./dev gpu-check`).

  python3 tests/gpu/gpu_check.py --build build/release [--report docs/gpu-report.md]
      [--flights DIR] [--stream STREAM.bin] [--scratch DIR] [--only ops,zoo,...]

Every op against the CPU (bit for bit), the zoo's models on the GPU and on the CPU (one
digest), compute-sanitizer where it is found, kernels beside cuBLASLt and the memory's
bandwidth, and DeepFM and DLRM beside PyTorch where that is installed and a stream is given
(benchmarks/whole_job/run.py). The exit status says whether all of it went well; what could
not be done is named in the report.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ZOO = {
    "lr": "{kind: lr}", "fm": "{kind: fm, dim: 8}",
    "wide_deep": "{kind: wide_deep, dim: 8, hidden: [64, 32]}",
    "deepfm": "{kind: deepfm, dim: 8, hidden: [64, 32], dropout: 0.1}",
    "dcn_v2": "{kind: dcn_v2, dim: 8, hidden: [64], cross_layers: 2}",
    "dlrm": "{kind: dlrm, dim: 8, bottom: [32, 8], hidden: [64]}",
    "mlp": "{kind: mlp, dim: 8, hidden: [64, 32], activation: tanh}",
}


class Report:
    def __init__(self, path):
        self.path, self.lines, self.failed, self.missing = path, [], [], []

    def say(self, text=""):
        print(text, flush=True)
        self.lines.append(text)
        # What there is stays, whatever ends the rest.
        with open(self.path, "w", encoding="utf-8") as file:
            file.write("\n".join(self.lines) + "\n")

    def check(self, ok, what):
        self.say(f"- {'ok' if ok else 'FAILED'}: {what}")
        if not ok:
            self.failed.append(what)

    def skip(self, what):
        self.say(f"- not done: {what}")
        self.missing.append(what)

    def block(self, text):
        self.say("```\n" + text.strip() + "\n```")


def run(command, timeout, env=None, cwd=None):
    """(exit status, output, seconds); 124 when it ran past its time."""
    start = time.perf_counter()
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=timeout, env=dict(os.environ, **(env or {})), cwd=cwd,
                              check=False)
        return done.returncode, done.stdout, time.perf_counter() - start
    except subprocess.TimeoutExpired as late:
        out = late.stdout or b""
        return 124, out.decode(errors="replace") if isinstance(out, bytes) else out, timeout


def check_machine(args, report):
    report.say("## Machine")
    _, text, _ = run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total",
                      "--format=csv,noheader"], 60) if shutil.which("nvidia-smi") else (1, "", 0)
    report.say(f"nvidia-smi: {text.strip() or 'not there'}")
    status, text, _ = run([args.shoal, "doctor", "--need-gpu"], 120)
    report.block(text)
    args.gpus = len(re.findall(r"^ *GPU \d+: ", text, flags=re.M))
    report.check(status == 0, "`shoal doctor --need-gpu`: the GPU computes with the CPU's bits")
    return status == 0


def check_ops(args, report):
    report.say("\n## Every op against the CPU")
    status, text, seconds = run([os.path.join(args.build, "cuda_tests"), "--gtest_brief=1"], 400,
                                {"SHOAL_CUDA_PLUGIN": args.plugin})
    counts = re.findall(r"\[  (?:PASSED|SKIPPED|FAILED)  ?\] .*", text)
    report.check(status == 0, f"cuda_tests on the GPU, {seconds:.0f} s: {'; '.join(counts[:3])}")
    if status != 0:
        report.block(text[-6000:])


def check_sanitizer(args, report):
    report.say("\n## compute-sanitizer")
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not os.path.exists(tool):
        report.skip("compute-sanitizer is not installed")
        return
    for kind in ("memcheck", "racecheck", "synccheck", "initcheck"):
        status, text, seconds = run(
            [tool, "--tool", kind, "--error-exitcode", "9", os.path.join(args.build, "cuda_tests"),
             "--gtest_brief=1", f"--gtest_filter={args.sanitizer_filter}"], args.sanitizer_seconds,
            {"SHOAL_CUDA_PLUGIN": args.plugin})
        summary = [line for line in text.splitlines() if "SUMMARY" in line]
        if status == 124:
            report.skip(f"{kind}: not over after {seconds:.0f} s")
            continue
        report.check(status == 0, f"{kind}, {seconds:.0f} s: {' '.join(summary)[-90:]}")
        if status != 0:
            report.block(text[:3000])


def write_flights_jobs(args, folder):
    with open(os.path.join(ROOT, "examples", "flights", "deepfm.yaml"), encoding="utf-8") as file:
        text = file.read()
    jobs = {}
    head = re.split(r"^(?:model|tables|dense|train|checkpoint):", text, maxsplit=1,
                    flags=re.M)[0]
    head = head.rstrip() + "\n    - {name: miles, column: distance, kind: numeric, standardize: true}\n"
    for name, model in ZOO.items():
        path = os.path.join(folder, f"{name}.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"{head}model: {model}\ndense: {{kind: adam, learning_rate: 0.001}}\n"
                       "train: {epochs: 1, batch_size: 512, max_steps: 200}\n")
        jobs[name] = path
    return jobs


def train(args, job, out, *settings):
    command = [args.shoal, "train", job, "--out", out, "--set", f"data.root={args.flights}"]
    for setting in settings:
        command += ["--set", setting]
    status, text, _ = run(command, 200)
    if status != 0:
        return None, text[-1500:]
    with open(os.path.join(out, "metrics.json"), encoding="utf-8") as file:
        return json.load(file), ""


def check_zoo(args, report):
    report.say("\n## Jobs on the flights: the GPU's model is the CPU's")
    if not args.flights:
        report.skip("no flights data (--flights)")
        return
    folder = os.path.join(args.scratch, "zoo")
    os.makedirs(folder, exist_ok=True)
    clusters = [(), ("cluster.workers=2", "cluster.servers=2"),
                ("cluster.workers=2", "consistency.dense=allreduce"),
                ("cluster.workers=2", "devices.workers=[cuda, cpu]"),
                ("devices.ops={gather: cpu}",), ("devices.ops={matmul: cpu}",)]
    if args.gpus > 1:
        clusters.append((f"devices.per_worker={min(args.gpus, 4)}",))
    else:
        report.skip("several GPUs in one worker: there is one GPU")
    report.say("| model | cluster | digest as on the CPU | AUC | AUC, fast math |\n"
               "| --- | --- | --- | --- | --- |")
    wrong = []
    for name, job in write_flights_jobs(args, folder).items():
        cpu, why = train(args, job, os.path.join(folder, "cpu"), "device=cpu")
        fast, why_fast = train(args, job, os.path.join(folder, "fast"), "device=cuda",
                               "devices.math=fast")
        for cluster in clusters:
            gpu, why_gpu = train(args, job, os.path.join(folder, "gpu"), "device=cuda", *cluster)
            same = bool(cpu and gpu and cpu["digest"] == gpu["digest"])
            near = bool(cpu and fast
                        and abs(cpu["test"]["auc"] - fast["test"]["auc"]) < 0.005)
            if not same or not near:
                wrong.append(f"{name} {cluster}: {why or why_gpu or why_fast}"
                             if not (cpu and gpu and fast) else
                             f"{name} {cluster}: digests differ" if not same else
                             f"{name}: AUC {cpu['test']['auc']:.5f}, with fast math "
                             f"{fast['test']['auc']:.5f}")
            auc = f"{gpu['test']['auc']:.5f}" if gpu else "-"
            fast_auc = f"{fast['test']['auc']:.5f}" if fast else "-"
            report.say(f"| {name} | {', '.join(cluster) or '1 worker'} | {'yes' if same else 'NO'} "
                       f"| {auc} | {fast_auc} |")
    report.say()
    report.check(not wrong, "all models have one digest on CPU and GPU, and train with fast math")
    for text in wrong[:4]:
        report.block(text)


def check_nccl(args, report):
    report.say("\n## Gradients summed by NCCL")
    if not args.flights:
        report.skip("no flights data (--flights)")
        return
    _, text, _ = run([args.shoal, "doctor"], 120)
    found = re.search(r"^nccl +(NCCL .*) loads$", text, re.M)
    if not found:
        report.skip("NCCL does not load")
        return
    folder = os.path.join(args.scratch, "nccl")
    os.makedirs(folder, exist_ok=True)
    job = write_flights_jobs(args, folder)["deepfm"]
    log = "train.log_every_steps=20"
    cpu, why = train(args, job, os.path.join(folder, "cpu"), "device=cpu", log)
    gpus = len(re.findall(r"^ +GPU \d+:", text, re.M))
    for workers in sorted({1, min(2, gpus), min(4, gpus)}):
        gpu, why_gpu = train(args, job, os.path.join(folder, "gpu"), "device=cuda", log,
                             f"cluster.workers={workers}", "consistency.dense=allreduce",
                             "cluster.collective=nccl")
        off = 1.0
        if cpu and gpu and len(cpu["losses"]) == len(gpu["losses"]):
            off = max(abs(a["loss"] - b["loss"]) for a, b in zip(cpu["losses"], gpu["losses"]))
        # Sums of one or two have one order.
        same = bool(cpu and gpu and cpu["digest"] == gpu["digest"])
        report.check(off < 1e-6 and (same or workers > 2),
                     f"deepfm, {workers} of {gpus} GPUs, {found[1]}: the loss is off by at most "
                     f"{off:.1e}, the model is {'the same' if same else 'another'}")
        if off >= 1e-6:
            report.block(why or why_gpu)


def check_kernels(args, report):
    report.say("\n## Kernels")
    status, text, _ = run([os.path.join(args.build, "cuda_benchmark"), "--benchmark_format=json",
                           "--benchmark_min_time=0.2"], 300, {"SHOAL_CUDA_PLUGIN": args.plugin})
    try:
        runs = json.loads(text[text.index("{\n"):])["benchmarks"]
    except ValueError:
        report.check(False, f"cuda_benchmark, status {status}")
        report.block(text[-2000:])
        return
    copy = next((r["bytes"] for r in runs if r["name"].startswith("CopyInMemory")), 0)
    report.say("A product counts 2 m n k; `exact` has the CPU's bits, `fast` is cuBLASLt. What is "
               "memory-bound is given beside a copy within the GPU (bytes read and written).\n")
    report.say("| product | exact TFLOP/s | fast TFLOP/s | ratio |\n| --- | --- | --- | --- |")
    exact = {}
    for r in runs:
        if "FLOPS" in r:
            key = re.sub(r"/fast:\d", "", r["name"])
            if "/fast:0" in r["name"]:
                exact[key] = r["FLOPS"]
            else:
                report.say(f"| {key} | {exact[key] / 1e12:.2f} | {r['FLOPS'] / 1e12:.2f} | "
                           f"{exact[key] / r['FLOPS']:.2f} |")
    report.say("\n| op | GB/s | x copy | us a call |\n| --- | --- | --- | --- |")
    for r in runs:
        if "bytes" in r:
            report.say(f"| {r['name']} | {r['bytes'] / 1e9:.0f} | {r['bytes'] / copy:.2f} | "
                       f"{r['us_per_call']:.1f} |")
    report.say()
    report.check(status == 0 and copy > 0, "cuda_benchmark ran")


def check_whole_jobs(args, report):
    report.say("\n## Whole jobs beside PyTorch on the GPU")
    if not args.stream:
        report.skip("no stream (--stream; see benchmarks/whole_job/run.py)")
        return
    python = args.python or sys.executable
    status, text, _ = run([python, "-c", "import torch, numpy; assert torch.cuda.is_available();"
                           "print(torch.__version__)"], 120)
    if status != 0:
        report.skip("PyTorch with CUDA is not installed: Shoal alone")
    folder = os.path.join(args.scratch, "whole_job")
    command = [sys.executable, os.path.join(ROOT, "benchmarks", "whole_job", "run.py"), args.stream,
               folder, "--program", args.shoal, "--gpu", "--models", "deepfm,dlrm", "--rounds",
               str(args.rounds)] + (["--python", python] if status == 0 else [])
    if status == 0:
        report.say(f"PyTorch {text.strip()}.\n")
    status, text, _ = run(command, 560)
    lines = text.splitlines()
    report.say("\n".join(line for line in lines if line.startswith("|")))
    report.say()
    report.check(status == 0, "whole jobs ran")
    if status != 0:
        report.block(text[-3000:])


CHECKS = {"ops": check_ops, "zoo": check_zoo, "nccl": check_nccl, "kernels": check_kernels,
          "sanitizer": check_sanitizer, "whole": check_whole_jobs}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--report", default="gpu-report.md")
    parser.add_argument("--flights", default="")
    parser.add_argument("--stream", default="")
    parser.add_argument("--python", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", default="out/gpu-check")
    parser.add_argument("--only", default=",".join(CHECKS))
    parser.add_argument("--sanitizer-filter", default="*")
    parser.add_argument("--sanitizer-seconds", type=int, default=300)
    args = parser.parse_args()
    args.build = os.path.abspath(args.build)
    args.shoal = os.path.join(args.build, "shoal")
    args.plugin = os.path.join(args.build, "libshoal_cuda.so")
    os.makedirs(args.scratch, exist_ok=True)
    report = Report(args.report)
    report.say("# Shoal on a GPU\n\nWritten by `./dev gpu-check` (tests/gpu/gpu_check.py).\n")
    if check_machine(args, report):
        for name in args.only.split(","):
            CHECKS[name](args, report)
    report.say(f"\n## Result\n{len(report.failed)} failed, {len(report.missing)} not done.")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
