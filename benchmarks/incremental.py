#!/usr/bin/env python3
"""What incremental checkpoints write, against full ones of the same job.

  python3 benchmarks/incremental.py [--program build/release/shoal] [--rows 120000]
      [--full-every 10] [--steps 10]

Trains an `fm` on ids that are drawn by Zipf's law, once with full checkpoints and once with
`checkpoint.full_every`, and prints one line of JSON: the bytes of each kind, their ratio, and how
many rows there are. Ends with 1 if the two jobs have other bits at any checkpoint.

Sketch: a step of 256 examples has 2 ids each, of which some 60 % are distinct: 10 steps push some
3,000 distinct ids. With 120,000 examples some 60,000 rows come to be; so late increments have a
twentieth of the rows, early ones most of them, and a chain of ten is about a fifth of ten full
checkpoints by the end.
"""
import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile

JOB = """name: incremental
data:
  root: {root}
  files: [rows.csv]
  label: label
  features:
    - {{column: user}}
    - {{column: item}}
model: {{kind: fm, dim: 16}}
tables:
  linear: {{optimizer: {{kind: adagrad, learning_rate: 0.05}}}}
  embedding: {{optimizer: {{kind: adagrad, learning_rate: 0.05}}}}
train: {{epochs: 1, batch_size: 256}}
checkpoint: {{every_steps: {steps}, keep: 999}}
"""


def write_rows(path, rows):
    draw = random.Random(1)
    with open(path, "w", encoding="utf-8") as file:
        file.write("label,user,item\n")
        for _ in range(rows):
            # 1/x: as many ids of each order of magnitude.
            user, item = (int(200000 ** draw.random()) for _ in range(2))
            file.write(f"{(user * 7 + item * 3) % 10 < 4:d},u{user},i{item}\n")


def run(words):
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def train(program, folder, name, full_every):
    """The checkpoints by step: (bytes, whether incremental, digest)."""
    out = os.path.join(folder, name)
    run([program, "train", os.path.join(folder, "job.yaml"), "--out", out,
         "--set", f"checkpoint.full_every={full_every}"])
    checkpoints = {}
    for line in run([program, "checkpoint", "ls", out]).splitlines():
        found = re.match(r"(\S*step-(\d+))  \d+ files  (\d+) bytes  (\w+)", line)
        digest = run([program, "checkpoint", "digest", found[1]]).strip()
        checkpoints[int(found[2])] = (int(found[3]), found[4] == "incremental", digest)
    return checkpoints


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/release/shoal")
    parser.add_argument("--rows", type=int, default=120000)
    parser.add_argument("--full-every", type=int, default=10)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_rows(os.path.join(folder, "rows.csv"), args.rows)
        with open(os.path.join(folder, "job.yaml"), "w", encoding="utf-8") as file:
            file.write(JOB.format(root=folder, steps=args.steps))
        full = train(args.program, folder, "full", 1)
        mixed = train(args.program, folder, "incremental", args.full_every)
    full_bytes = sum(size for size, _, _ in full.values())
    mixed_bytes = sum(size for size, _, _ in mixed.values())
    last = max(step for step, (_, incremental, _) in mixed.items() if incremental)
    same = {step: c[2] for step, c in full.items()} == {step: c[2] for step, c in mixed.items()}
    print(json.dumps({
        "benchmark": "incremental", "full_every": args.full_every, "steps_between": args.steps,
        "checkpoints": len(full), "full_bytes": full_bytes, "incremental_bytes": mixed_bytes,
        "ratio": round(mixed_bytes / full_bytes, 3),
        "last_full_bytes": full[last][0], "last_incremental_bytes": mixed[last][0],
        "same_bits": same}))
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
