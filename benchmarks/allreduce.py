#!/usr/bin/env python3
"""Shoal's allreduce beside Open MPI's and gloo's, in turn; prints the tables of allreduce.md.

  python3 benchmarks/allreduce.py [--build build/release] [--rounds 7] [--ranks 2,4]
                                  [--min-bytes 4096] [--max-bytes 67108864] [--seconds 1800]

Every round runs, for each number of ranks, one sweep over the sizes of each: Shoal and Open MPI
in turn per size over shared memory (`--transport auto`), the same over TCP (`--transport zmq`,
`btl=tcp,self`), and gloo (TCP, it has no shared memory). Needs mpirun and `ninja gloo_allreduce`;
what is missing is left out and said so. Cells are microseconds of one allreduce, median (min to
max) over rounds; a ratio is the median of the rounds' other / Shoal: above 1 Shoal is faster.
"""
import argparse
import collections
import os
import re
import shutil
import statistics
import subprocess
import sys
import time

GLOO = ["ring", "ring_chunked", "halving_doubling", "bcube"]


def shoal_and_mpi(args, ranks, transport, times):
    """Adds a round's times to times[(bytes, system)]."""
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                       OMPI_MCA_rmaps_base_oversubscribe="1")
    if transport == "zmq":
        environment["OMPI_MCA_btl"] = "tcp,self"
    with_mpi = shutil.which("mpirun") is not None
    command = ["mpirun", "-np", str(ranks), "--bind-to", "none"] if with_mpi else []
    command += [os.path.join(args.build, "shoal"), "bench", "allreduce", "--ranks", str(ranks),
                "--transport", transport, "--rounds", "1", "--min-bytes", str(args.min_bytes),
                "--max-bytes", str(args.max_bytes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False,
                          timeout=600)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    for line in done.stdout.splitlines()[1:]:
        found = re.findall(r"(\d+) \(\d+ to \d+\)", line)
        for system, value in zip(["Shoal", "Open MPI"], found):
            times[int(line.split()[0]), system].append(float(value))


def gloo(args, ranks, times):
    command = [os.path.join(args.build, "gloo_allreduce"), str(ranks), str(args.min_bytes),
               str(args.max_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    for line in done.stdout.splitlines():
        size, name, value = line.split()
        times[int(size), "gloo " + name].append(float(value))


def cell(values):
    if not values:
        return "-"
    return (f"{statistics.median(values):,.0f} ({min(values):,.0f} to "
            f"{max(values):,.0f})")


def ratio(own, others):
    # The clock says whole microseconds, which the shortest may be below.
    ratios = [other / max(mine, 1) for mine, other in zip(own, others)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def size_name(size):
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def table(title, times, with_gloo):
    """`with_gloo`: the best of its algorithms at each size, by its median."""
    print(f"\n### {title}\n")
    print("| bytes | Shoal | Open MPI | ratio |" +
          (" best of gloo | which | ratio |" if with_gloo else ""))
    print("| --- | --- | --- | --- |" + (" --- | --- | --- |" if with_gloo else ""))
    for size in sorted({size for size, _ in times}):
        own, mpi = times[size, "Shoal"], times[size, "Open MPI"]
        row = f"| {size_name(size)} | {cell(own)} | {cell(mpi)} | {ratio(own, mpi) if mpi else '-'} |"
        if with_gloo:
            best = min(GLOO, key=lambda name: statistics.median(times[size, "gloo " + name]))
            values = times[size, "gloo " + best]
            row += f" {cell(values)} | {best} | {ratio(own, values)} |"
        print(row)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ranks", default="2,4")
    parser.add_argument("--min-bytes", type=int, default=4 << 10)
    parser.add_argument("--max-bytes", type=int, default=64 << 20)
    parser.add_argument("--seconds", type=float, default=1800, help="begins no round after that")
    args = parser.parse_args()
    with_gloo = os.path.exists(os.path.join(args.build, "gloo_allreduce"))
    if not with_gloo:
        print("SKIPPED gloo: gloo_allreduce was not built")
    if shutil.which("mpirun") is None:
        print("SKIPPED Open MPI: there is no mpirun")
    counts = [int(ranks) for ranks in args.ranks.split(",")]
    loads = []
    shm = {ranks: collections.defaultdict(list) for ranks in counts}
    tcp = {ranks: collections.defaultdict(list) for ranks in counts}
    began = time.monotonic()
    while len(loads) < args.rounds and (not loads or time.monotonic() - began < args.seconds):
        loads.append(os.getloadavg()[0])
        for ranks in counts:
            shoal_and_mpi(args, ranks, "auto", shm[ranks])
            shoal_and_mpi(args, ranks, "zmq", tcp[ranks])
            if with_gloo:
                gloo(args, ranks, tcp[ranks])
    print(f"{len(loads)} rounds, load average {min(loads):.0f} to {max(loads):.0f} "
          f"on {os.cpu_count()} cores")
    for ranks in counts:
        table(f"Shared memory, {ranks} ranks", shm[ranks], False)
        table(f"TCP, {ranks} ranks", tcp[ranks], with_gloo)


if __name__ == "__main__":
    main()
