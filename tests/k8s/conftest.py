import os
import pathlib
import random
import subprocess
import textwrap

import pytest

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parent.parent
PROGRAM = os.environ.get("SHOAL_PROGRAM",
                         str(SOURCE / "build/release/shoal"))

JOB = """\
name: Small Job
cluster: {servers: 2, workers: 2, virtual_workers: 4}
data:
  root: data
  files: [rows.csv]
  label: clicked
  split: {by: mod, n: 5, test: 4}
  features:
    - {column: user, min_count: 2}
    - {column: item}
    - {name: user_x_place, cross: [user, place]}
    - {column: price, kind: numeric, standardize: true}
model: {kind: deepfm, dim: 4, hidden: [16, 8], dropout: 0.2}
tables:
  linear: {optimizer: {kind: ftrl, learning_rate: 0.1}}
  embedding: {optimizer: {kind: adagrad, learning_rate: 0.1}}
dense: {kind: adam, learning_rate: 0.003}
train: {epochs: 2, batch_size: 64}
"""


def write_rows(path, rows=3000):
    draw = random.Random(1)
    with open(path, "w") as f:
        f.write("clicked,user,item,place,price\n")
        for _ in range(rows):
            user, item = draw.randrange(50), draw.randrange(80)
            label = (user * 7 + item * 5) % 10 < 4 or draw.randrange(10) == 0
            f.write(f"{int(label)},u{user},i{item},p{draw.randrange(4)},"
                    f"{draw.randrange(1000)}\n")


@pytest.fixture(scope="session")
def program():
    if not os.access(PROGRAM, os.X_OK):
        pytest.fail(f"{PROGRAM} is not there; build it")
    return PROGRAM


@pytest.fixture(scope="session")
def trained(program, tmp_path_factory):
    """What a local run of the job trains: the digest of its model."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "data").mkdir()
    write_rows(folder / "data/rows.csv")
    (folder / "job.yaml").write_text(JOB)
    subprocess.run([program, "train", "job.yaml", "--out", "out",
                    "--in-process"], cwd=folder, check=True,
                   capture_output=True, timeout=60)
    return digest(program, folder / "out")


def digest(program, folder):
    return subprocess.run([program, "checkpoint", "digest", str(folder)],
                          check=True, capture_output=True, text=True,
                          timeout=60).stdout.strip()


def kubeconfig(path, server, user="", cluster="", context=""):
    path.write_text(textwrap.dedent(f"""\
        apiVersion: v1
        kind: Config
        current-context: here
        contexts:
          - name: here
            context: {{cluster: fake, user: me, namespace: train{context}}}
        clusters:
          - name: fake
            cluster: {{server: "{server}"{cluster}}}
        users:
          - name: me
            user: {{{user}}}
        """))
    return path
