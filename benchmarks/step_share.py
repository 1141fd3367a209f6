#!/usr/bin/env python3
"""Where the time of a training step goes, reckoned from a timeline.

  python3 benchmarks/step_share.py OUT/trace.json

OUT is the folder of a run with --trace. Looks at whole steps only: from the second quarter of
the pushes of each worker to its last push. Prints, as shares of the workers' wall time, what
their compute threads did (matrix products, other kernels, between kernels, waiting), and how
busy every other thread was in the same time: on fewer cores than busy threads, waiting is
mostly for the processor that another of them has.
"""
import argparse
import collections
import json
import statistics


def own_times(spans):
    """(name, time not in a span inside it), for properly nested spans of one thread."""
    stack = []
    times = []
    for begin, end, name in sorted(spans, key=lambda span: (span[0], -span[1])):
        while stack and stack[-1][1] <= begin:
            top = stack.pop()
            times.append((top[2], top[1] - top[0] - top[3]))
        if stack:
            stack[-1][3] += end - begin
        stack.append([begin, end, name, 0.0])
    times.extend((top[2], top[1] - top[0] - top[3]) for top in stack)
    return times


def overlap(spans, others):
    """Time in which a span and one of `others` with another step run at once."""
    total = 0.0
    for begin, end, number in spans:
        total += max((min(end, e) - max(begin, b) for b, e, n in others
                      if n != number and b < end and e > begin), default=0.0)
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace")
    with open(parser.parse_args().trace, encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events
               if e["name"] == "thread_name"}
    spans = collections.defaultdict(list)
    for e in events:
        if e["ph"] == "X":
            spans[e["pid"], e["tid"]].append(
                (e["ts"], e["ts"] + e["dur"], e["name"], e.get("args", {}).get("number", -1)))

    workers = sorted(p for p in processes if processes[p].startswith("worker"))
    windows = {}
    for pid in workers:
        pushes = sorted(s for key in spans if key[0] == pid for s in spans[key] if s[2] == "push")
        windows[pid] = (pushes[len(pushes) // 4][1], pushes[-1][1], len(pushes) * 3 // 4)
    begin = max(w[0] for w in windows.values())
    end = min(w[1] for w in windows.values())
    print(f"{(end - begin) / 1e6:.2f} s of training, "
          f"{statistics.median(w[2] for w in windows.values()):.0f} steps\n")

    print("| worker | matrix products | other kernels | between kernels | waiting | "
          "matrix products of computing |")
    print("| --- | --- | --- | --- | --- | --- |")
    for pid in workers:
        wall = end - begin
        matmul = kernels = between = 0.0
        for (p, _), found in spans.items():
            if p != pid or not any(s[2] == "compute" for s in found):
                continue
            inside = [(b, e, n) for b, e, n, _ in found if b >= begin and e <= end]
            for name, time in own_times(inside):
                if name == "compute":
                    between += time
                elif name == "MatMul":
                    matmul += time
                else:
                    kernels += time
        computing = matmul + kernels + between
        print(f"| {processes[pid]} | {matmul / wall:.1%} | {kernels / wall:.1%} | "
              f"{between / wall:.1%} | {1 - computing / wall:.1%} | {matmul / computing:.1%} |")

    print("\n| thread | busy |")
    print("| --- | --- |")
    for key, found in sorted(spans.items()):
        if any(s[2] in ("compute", "pull", "push") for s in found):
            continue
        busy = collections.Counter()
        for name, time in own_times([(b, e, n) for b, e, n, _ in found if b >= begin and e <= end]):
            busy[name] += time
        parts = ", ".join(f"{name} {time / (end - begin):.1%}" for name, time in busy.most_common())
        print(f"| {processes[key[0]]}, {threads.get(key, '')} | {parts} |")

    print("\n| worker | while it computed a step: reading, pulling, pushing of others |")
    print("| --- | --- |")
    for pid in workers:
        by_name = collections.defaultdict(list)
        for (p, _), found in spans.items():
            if p == pid:
                for b, e, name, number in found:
                    if b >= begin and e <= end:
                        by_name[name].append((b, e, number))
        total = sum(e - b for b, e, _ in by_name["compute"])
        shares = ", ".join(f"{name} {overlap(by_name['compute'], by_name[name]) / total:.1%}"
                           for name in ("read", "pull", "push"))
        print(f"| {processes[pid]} | {shares} |")


if __name__ == "__main__":
    main()
