"""The CPU image: built by buildah upon a Debian that debootstrap makes, run by
podman as a user, with a read-only root, without a network's help.

The program is that of this build, put where the image's first stage would leave
it: compiling it again takes ten minutes. Nightly (SHOAL_NIGHTLY), since making
the base takes a minute; needs root, as debootstrap does.
"""

import os
import re
import shutil
import subprocess

import pytest

from conftest import JOB, SOURCE, digest, write_rows

TOOLS = ["debootstrap", "buildah", "podman", "runc"]
BASE = "localhost/shoal-test-debian:12"
IMAGE = "localhost/shoal-test:1"
USER = ["--user", "10001:10001", "--read-only", "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges"]
PODMAN = ["podman", "run", "--rm", "--runtime", "runc", "--cgroup-manager",
          "cgroupfs", "--network", "none", "--ulimit", "nofile=20000:20000",
          "--ulimit", "nproc=1000:1000", "--no-healthcheck", *USER]

pytestmark = [
    pytest.mark.skipif("SHOAL_NIGHTLY" not in os.environ,
                       reason="nightly: makes a Debian and an image"),
    pytest.mark.skipif(any(shutil.which(t) is None for t in TOOLS),
                       reason=f"needs {', '.join(TOOLS)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap needs root"),
    pytest.mark.xdist_group("images"),
]


def run(*args, **more):
    done = subprocess.run(args, capture_output=True, text=True, timeout=600,
                          **more)
    assert done.returncode == 0, (args, done.stdout[-3000:],
                                  done.stderr[-3000:])
    return done.stdout


@pytest.fixture(scope="module")
def image(program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("image")
    root = folder / "debian"
    run("debootstrap", "--variant=minbase", "bookworm", str(root))
    tar = subprocess.Popen(["tar", "-C", str(root), "-c", "."],
                           stdout=subprocess.PIPE)
    subprocess.run(["podman", "import", "-", BASE], stdin=tar.stdout,
                   check=True, capture_output=True, timeout=300)
    assert tar.wait() == 0
    shutil.rmtree(root)
    context = folder / "context"
    (context / "built").mkdir(parents=True)
    shutil.copytree(SOURCE / "docker", context / "docker")
    for file in ("shoal", "libshoal_mpi.so"):
        shutil.copy(os.path.join(os.path.dirname(program), file),
                    context / "built")
    text = (SOURCE / "docker/cpu.Dockerfile").read_text()
    stage = re.search(r"^FROM \$\{BASE\} AS build\n.*?(?=^FROM )", text,
                      re.M | re.S)
    text = text.replace(stage[0], "").replace(
        "--from=build /src/build/release/shoal \\\n"
        "  /src/build/release/libshoal_mpi.so",
        "built/shoal built/libshoal_mpi.so")
    assert "from=build" not in text
    (context / "Dockerfile").write_text(text)
    run("buildah", "bud", "--isolation", "chroot", "--network", "host",
        "--build-arg", f"BASE={BASE}", "-t", IMAGE, str(context))
    yield IMAGE
    run("podman", "rmi", "--force", IMAGE, BASE)


def volume(folder):
    (folder / "data").mkdir()
    write_rows(folder / "data/rows.csv")
    (folder / "job.yaml").write_text(JOB)
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 10001, 10001)
    for parent in [folder, *folder.parents][:3]:
        parent.chmod(0o755)
    return ["--volume", f"{folder}:/shoal"]


def test_it_trains_as_a_user_with_a_read_only_root(image, program, tmp_path,
                                                   trained):
    out = run(*PODMAN, *volume(tmp_path), image, "shoal", "train", "job.yaml",
              "--out", "out")
    assert "test: auc" in out
    assert digest(program, tmp_path / "out") == trained


def test_ranks_reach_each_other_by_its_sshd(image, program, tmp_path, trained):
    """sshd as a plain user on 2222, mpirun over ssh, all in one container."""
    mounts = volume(tmp_path)
    keys = tmp_path / "keys"
    keys.mkdir()
    run("ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", str(keys / "id_rsa")) \
        if shutil.which("ssh-keygen") else run(
            *PODMAN[:-len(USER)], "--volume", f"{keys}:/keys", "--user", "0",
            image, "ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f",
            "/keys/id_rsa")
    shutil.copy(keys / "id_rsa.pub", keys / "authorized_keys")
    for path in keys.iterdir():  # as a mounted secret is with fsGroup
        os.chown(path, 0, 10001)
        path.chmod(0o640)
    keys.chmod(0o755)
    script = (
        "set -e; /usr/sbin/sshd -De -f /etc/ssh/shoal_sshd_config 2>&1 & "
        "for i in $(seq 100); do ssh localhost true && break; sleep 0.1; done; "
        # Another name than the host's, so that mpirun takes ssh.
        "mpirun --bind-to none --mca plm_rsh_no_tree_spawn 1 -np 4 "
        "--host rank-0:4 shoal train job.yaml --out out --expect-ranks=4")
    out = run(*PODMAN, *mounts, "--volume", f"{keys}:/home/shoal/.ssh",
              "--tmpfs", "/tmp", "--add-host", "rank-0:127.0.0.2", image,
              "bash", "-c", script)
    assert "test: auc" in out
    # That of the loop, and mpirun's.
    assert out.count("Accepted publickey for shoal") >= 2, out
    assert digest(program, tmp_path / "out") == trained
