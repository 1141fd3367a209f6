#!/usr/bin/env python3
"""run.py TOOLS [PROGRAM] [--trail BUG]: has spin search all states of the
models of the protocols (docs/model.md), then plants faults one at a time,
each of which it must find.

Works in the folder TOOLS; PROGRAM is not used (the other tests written in
Python get one). `--trail BUG_...` (or async:BUG_...) prints the shortest way to a planted fault.
Without spin or gcc it counts as skipped.
"""

import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
SECONDS_MAX = 400  # per search
MEGABYTES_MAX = 1900  # per search, of which two run at once

# What, model, its size; "cycles": that nothing goes round in circles either.
SEARCHES = [
    ("no fault: 3 replicas, 2 workers, 3 steps", "sync",
     "N=3 MEMBERS=3 S=1 W=2 T=3 FAILS=0"),
    ("3 replicas, 2 workers, a shard lost or wrongly given up", "sync",
     "N=3 MEMBERS=3 S=1 W=2 FAILS=1"),
    ("2 shards that head each other's chains, one lost", "sync",
     "N=2 MEMBERS=2 S=2 W=2 FAILS=1"),
    ("a tail joins, or a hand-over, beside a chain of 2", "sync",
     "N=3 MEMBERS=2 S=1 W=1 FAILS=0 JOINS=1"),
    ("a hand-over from a chain of 1, one lost", "sync",
     "N=2 MEMBERS=1 S=1 W=1 FAILS=1 JOINS=1"),
    ("the coordinator restarts, a shard lost", "sync",
     "N=2 MEMBERS=2 S=1 W=1 FAILS=1 RESTARTS=1"),
    ("the coordinator restarts while a tail joins", "sync",
     "N=2 MEMBERS=1 S=1 W=1 FAILS=0 JOINS=1 RESTARTS=1"),
    ("3 replicas, 2 clients, one lost or wrongly given up", "async",
     "N=3 MEMBERS=3 CLIENTS=2 PUSHES=1 FAILS=1"),
    ("2 replicas, 2 clients with 2 pushes each, one lost", "async",
     "N=2 MEMBERS=2 CLIENTS=2 PUSHES=2 FAILS=1"),
    ("a tail joins a chain of 1, which hands over", "async",
     "N=2 MEMBERS=1 CLIENTS=2 PUSHES=1 FAILS=1 JOINS=1"),
    ("a tail joins a chain of 2, one lost", "async",
     "N=3 MEMBERS=2 CLIENTS=1 PUSHES=1 FAILS=1 JOINS=1"),
    ("cycles: 2 replicas, one lost, the coordinator restarts", "sync",
     "N=2 MEMBERS=2 S=1 W=1 FAILS=1 RESTARTS=1"),
]
NIGHTLY = [
    ("3 replicas, two lost or wrongly given up", "sync",
     "N=3 MEMBERS=3 S=1 W=1 FAILS=2"),
]

# The fault, and the smallest world in which it does harm.
PAIR = "N=2 MEMBERS=2 S=1 W=1 FAILS=0"
PAIR_FAILS = "N=2 MEMBERS=2 S=1 W=1 FAILS=1"
JOIN = "N=2 MEMBERS=1 S=1 W=1 FAILS=0 JOINS=1"
THREE_FAIL = "N=3 MEMBERS=3 S=1 W=1 FAILS=1"
CLIENTS = "CLIENTS=2 PUSHES=1 FAILS=1 "
BUGS = [
    ("BUG_REPLICA_TAKES_ANY_VERSION", "sync", THREE_FAIL),
    ("BUG_ACK_OF_ANY_VERSION", "sync", THREE_FAIL),
    ("BUG_PREPARED_OF_ANY_VERSION", "sync", THREE_FAIL),
    ("BUG_ACK_BEFORE_TAIL", "sync", PAIR),
    ("BUG_COMMIT_BEFORE_ALL", "sync", PAIR),
    ("BUG_ROUTE_WITHOUT_APPLY", "sync", PAIR_FAILS),
    ("BUG_PUSH_ACKNOWLEDGED_WHEN_STAGED", "sync", PAIR_FAILS),
    ("BUG_WORKER_DOES_NOT_RESEND", "sync", PAIR_FAILS),
    ("BUG_STAGED_TWICE", "sync", "N=2 MEMBERS=2 S=1 W=2 FAILS=0"),
    ("BUG_PULL_OF_ANY_STEP", "sync", PAIR),
    ("BUG_MEMBER_BEFORE_CAUGHT_UP", "sync", JOIN),
    ("BUG_STATE_WHILE_PREPARED", "sync", JOIN),
    ("BUG_STATE_OF_ANOTHER_STEP", "sync", JOIN),
    ("BUG_JOINING_NOT_WAITED_FOR", "sync", JOIN),
    ("BUG_KEEPS_PREPARED", "sync", JOIN),
    ("BUG_JOINING_KEEPS_STATE", "sync", JOIN + " RESTARTS=1"),
    ("BUG_SEND_BEFORE_LOG", "sync", PAIR + " RESTARTS=1"),
    ("BUG_RESTART_KEEPS_VERSION", "sync", PAIR + " RESTARTS=1"),
    ("BUG_ACK_BEFORE_TAIL", "async", CLIENTS + "N=2 MEMBERS=2"),
    ("BUG_REPEAT_APPLIED", "async", CLIENTS + "N=2 MEMBERS=2"),
    ("BUG_REPLICA_TAKES_ANY_VERSION", "async", CLIENTS + "N=3 MEMBERS=3"),
    ("BUG_SEQUENCES_NOT_MIGRATED", "async",
     CLIENTS + "N=2 MEMBERS=1 JOINS=1"),
    ("BUG_JOINING_NOT_WAITED_FOR", "async",
     CLIENTS + "N=2 MEMBERS=1 JOINS=1"),
]


def search(folder, model, size, bug=None, cycles=False, shortest=False):
    """Has spin go through a model; returns what it printed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    defines = [f"-D{define}" for define in size.split() + ([bug] if bug else [])]
    subprocess.run(["spin", "-a", *defines, HERE / f"{model}.pml"], cwd=folder,
                   check=True, capture_output=True, timeout=60)
    subprocess.run(["gcc", "-O1", "-w",
                    "-DNP" if cycles else "-DSAFETY", *(["-DBFS"] if shortest else []), "-DNOREDUCE",
                    "-DCOLLAPSE", f"-DMEMLIM={MEGABYTES_MAX}",
                    "-DVECTORSZ=2048", "-o", "pan", "pan.c"], cwd=folder,
                   check=True, timeout=300)
    result = subprocess.run(["./pan", "-m100000", "-w24",
                             *(["-l"] if cycles else [])], cwd=folder,
                            capture_output=True, text=True,
                            timeout=SECONDS_MAX)
    return result.stdout + result.stderr


def verdict(printed):
    """Whether all was searched, the fault found if any, and the states."""
    states = re.search(r"(\d+) states, stored", printed)
    found = re.search(r"pan:1: (.*)", printed)
    whole = "errors: 0" in printed and "Search not completed" not in printed \
        and "max search depth too small" not in printed
    return whole, found and found[1], int(states[1]) if states else 0


def check(tools, number, what, model, size, bug):
    start = time.monotonic()
    try:
        printed = search(tools / f"search-{number}", model, size, bug,
                         cycles=what.startswith("cycles"))
    except (subprocess.SubprocessError, OSError) as error:
        return f"{what}: {error}", False
    whole, found, states = verdict(printed)
    took = f"{states} states, {time.monotonic() - start:.1f} s"
    if bug:
        return f"{what}: {'found: ' + found if found else 'NOT FOUND'}, " \
            f"{took}", bool(found)
    if found:
        return f"{what}: FAILED: {found}, {took}; see {tools}/search-{number}" \
            f" ({size})", False
    return f"{what}: {'holds' if whole else 'NOT SEARCHED TO THE END'}, " \
        f"{took}", whole


def print_trail(tools, bug):
    for name, model, size in BUGS:
        if bug not in (name, f"{model}:{name}"):
            continue
        folder = tools / "trail"
        printed = search(folder, model, size, name, shortest=True)
        print(f"{model}: {name}, {size}: {verdict(printed)[1]}")
        source = (HERE / f"{model}.pml").read_text().split("\n")
        steps = subprocess.run(
            ["spin", "-t", "-p", "-k", f"{model}.pml.trail",
             *[f"-D{define}" for define in size.split() + [name]],
             HERE / f"{model}.pml"], cwd=folder, capture_output=True, text=True,
            timeout=60).stdout
        last = None
        for line in steps.split("\n"):
            match = re.match(r"\s*(\d+):\s+proc\s+\d+ \((\w+):\d+\)"
                             r".*\.pml:(\d+) ", line)
            if not match or match[1] == last:
                continue
            last = match[1]
            at = int(match[3])
            while at and not re.match(r"(inline|proctype|init)\b",
                                      source[at - 1]):
                at -= 1
            print(f"{last:>4} {match[2]:12} {source[at - 1].rstrip(' {')}")
        return 0
    print(f"no such fault: {bug}; there are: "
          f"{' '.join(f'{model}:{name}' for name, model, _ in BUGS)}")
    return 2


def write_results(cases):
    output = os.environ.get("GTEST_OUTPUT", "").partition("xml:")[2]
    if output:
        pathlib.Path(output, "model_tests.xml").write_text(
            "<testsuites><testsuite name=\"Model\">" +
            "".join(f"<testcase classname=\"Model\" name=\"{name}\">{inner}"
                    "</testcase>" for name, inner in cases) +
            "</testsuite></testsuites>\n")


def main():
    arguments = sys.argv[1:]
    if not arguments:
        print(__doc__)
        return 2
    tools = pathlib.Path(arguments[0]).absolute()
    missing = [tool for tool in ("spin", "gcc") if not shutil.which(tool)]
    if missing:
        print(f"skipped: no {' and no '.join(missing)}; ./dev setup installs it")
        write_results([("All", f"<skipped message=\"no {missing[0]}\"/>")])
        return 0
    if "--trail" in arguments:
        return print_trail(tools, arguments[-1].replace(" ", ""))
    searches = SEARCHES + (NIGHTLY if "SHOAL_NIGHTLY" in os.environ else [])
    jobs = [(f"{model}: {what}" if not what.startswith("cycles") else what,
             model, size, None) for what, model, size in searches]
    jobs += [(f"{model}: {bug}", model, size, bug) for bug, model, size in BUGS]
    start = time.monotonic()
    cases = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(check, tools, number, *job)
                for number, job in enumerate(jobs)]
        for job, run in zip(jobs, runs):
            line, good = run.result()
            print(line, flush=True)
            name = job[0].replace("'", "")
            cases.append((name, "" if good else "<failure/>"))
    write_results(cases)
    failed = sum(1 for _, inner in cases if inner)
    print(f"{len(cases) - failed} checks passed, {failed} failed, "
          f"{time.monotonic() - start:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
