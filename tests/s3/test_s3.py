"""Jobs whose checkpoints lie in a store with the interface of S3."""

import json
import pathlib
import signal
import subprocess
import time

import pytest

from conftest import PROGRAM, STEPS, children


def test_job_trains_with_checkpoints_in_a_store(job, store, bucket, digest):
    where = f"s3://{bucket}/runs/one"
    done = job.train(store, "out", f"checkpoint.folder={where}",
                     "checkpoint.every_steps=20", "checkpoint.keep=2")
    assert done.returncode == 0, done.stdout
    assert f"checkpoint: {where}/step-{STEPS}" in done.stdout
    assert not (job.folder / "out/checkpoints").exists()
    # Two are kept, whole; nothing else is left.
    folders = {key.split("/")[2] for key in store.keys(bucket)}
    assert folders == {"step-60", f"step-{STEPS}"}
    listed = job.checkpoint(store, "ls", where)
    assert [line.split()[0] for line in listed.splitlines()] == \
        [f"{where}/step-60", f"{where}/step-{STEPS}"]
    assert job.checkpoint(store, "verify", where) == \
        f"{where}/step-{STEPS}: good\n"
    assert job.checkpoint(store, "digest", where + "/") == digest

    # It starts from there, with the same bits.
    done = job.train(store, "again", f"checkpoint.restore={where}/step-60",
                     "cluster.servers=3")
    assert done.returncode == 0, done.stdout
    assert job.checkpoint(None, "digest", "again") == digest
    diff = job.checkpoint(store, "diff", where, "again")
    assert f"A: {where}/step-{STEPS}" in diff

    job.checkpoint(store, "export", where, "--out", "exported")
    assert json.loads((job.folder / "exported/index.json").read_text())
    job.checkpoint(store, "export", where, "--out", f"s3://{bucket}/exported")
    assert "exported/index.json" in store.keys(bucket)
    merged = f"s3://{bucket}/merged"
    said = job.checkpoint(store, "merge", where, "--out", merged, "--parts",
                          "1")
    assert f"6 files are now 3 in {merged}, with the same digest" in said
    assert job.checkpoint(store, "digest", merged) == digest
    done = job.run(store, [PROGRAM, "eval", "job.yaml", "--checkpoint", where,
                           "--out", "eval"])
    assert done.returncode == 0, done.stdout


def test_incremental_checkpoints_in_a_store(job, store, bucket, digest):
    where = f"s3://{bucket}/run"
    sets = [f"checkpoint.folder={where}", "checkpoint.every_steps=10",
            "checkpoint.full_every=3"]
    done = job.train(store, "out", *sets, "checkpoint.keep=9")
    assert done.returncode == 0, done.stdout
    listed = job.checkpoint(store, "ls", where).splitlines()
    assert listed[0].endswith("  full")
    assert listed[1].endswith("  incremental, based on step-10")
    assert job.checkpoint(store, "digest", where) == digest

    # Back to the second: those that are based on what is written anew go.
    done = job.train(store, "out", *sets, "checkpoint.keep=1",
                     f"checkpoint.restore={where}/step-20")
    assert done.returncode == 0, done.stdout
    assert job.checkpoint(store, "digest", where) == digest
    assert job.checkpoint(store, "verify", where).endswith("good\n")
    for line in job.checkpoint(store, "ls", where).splitlines():
        job.checkpoint(store, "verify", line.split()[0])


def test_large_files_and_long_lists(job, store, bucket):
    # 67 MB of dense variables are in one file: two parts of an upload.
    sets = ["cluster.servers=1", "cluster.workers=1", "dense.kind=sgd",
            "model.hidden=[4096, 4096]", "train.max_steps=2",
            "train.eval.every_epoch=false"]
    where = f"s3://{bucket}/run"
    done = job.train(store, "out", f"checkpoint.folder={where}", *sets)
    assert done.returncode == 0, done.stdout
    done = job.train(None, "local", *sets)
    assert done.returncode == 0, done.stdout
    head = store.client().head_object(
        Bucket=bucket, Key="run/step-2/part-0-0.safetensors")
    assert head["ContentLength"] > 64 << 20
    assert head["ETag"].endswith('-2"')  # of two parts
    assert not store.client().list_multipart_uploads(Bucket=bucket).get(
        "Uploads")
    # What else is in the folder takes all of the first page.
    client = store.client()
    for i in range(1000):
        client.put_object(Bucket=bucket, Key=f"run/a-{i}", Body=b"")
    assert job.checkpoint(store, "digest", where) == \
        job.checkpoint(None, "digest", "local")


def test_killed_server_and_restore_from_the_store(job, store, bucket, digest):
    where = f"s3://{bucket}/run"
    code, said = job.run_and_kill(
        store, bucket, job.command("out", f"checkpoint.folder={where}",
                                   "checkpoint.every_steps=5"),
        lambda launcher: children(launcher, "server")[0])
    assert code != 0 and "server" in said
    newest = job.checkpoint(store, "ls", where).splitlines()[-1].split()[0]
    assert newest != f"{where}/step-{STEPS}", "it was killed too late"
    done = job.train(store, "out", f"checkpoint.folder={where}",
                     f"checkpoint.restore={where}")
    assert done.returncode == 0, done.stdout
    assert job.checkpoint(store, "digest", where) == digest


@pytest.mark.skipif(not (pathlib.Path(PROGRAM).parent /
                         "libshoal_mpi.so").exists(), reason="no plug-in")
def test_mpirun_starts_again_from_the_store(job, store, bucket, digest):
    where = f"s3://{bucket}/run"
    command = [PROGRAM, "launch", "mpi", *job.command(
        "out", f"checkpoint.folder={where}", "checkpoint.every_steps=5")[2:]]
    done = job.run(store, [*command, "--dry-run"])
    # By name alone: run() looks for the secret.
    assert "-x AWS_SECRET_ACCESS_KEY" in done.stdout
    code, said = job.run_and_kill(
        store, bucket, [*command, "--restarts", "2"],
        lambda launcher: children(children(launcher, "-np")[0], "train")[-1])
    assert code == 0, said
    assert f"restart 1 of 2, from {where}/step-" in said
    assert job.checkpoint(store, "digest", where) == digest


def test_earlier_checkpoints_make_way_inside_the_store(job, store, bucket):
    where = f"s3://{bucket}/run"
    for _ in range(3):
        done = job.train(store, "out", f"checkpoint.folder={where}",
                         "train.max_steps=10")
        assert done.returncode == 0, done.stdout
    assert f"now in {where}.old-2" in done.stdout
    assert {key.split("/")[0] for key in store.keys(bucket)} == \
        {"run", "run.old", "run.old-2"}
    for folder in (where, f"{where}.old", f"{where}.old-2"):
        job.checkpoint(store, "verify", folder)


def test_bad_network_changes_nothing(job, troubled, bucket, digest):
    where = f"s3://{bucket}/run"
    done = job.train(troubled, "out", f"checkpoint.folder={where}",
                     "checkpoint.every_steps=20")
    assert done.returncode == 0, done.stdout
    assert "trying again for up to 120 s" in done.stdout
    assert job.checkpoint(troubled, "digest", where).endswith(digest)
    assert set(troubled.handler.counts) == {"none", "500", "503", "lost",
                                    "unanswered", "cut"}


def test_store_that_is_away_is_waited_for(job, troubled, bucket, digest):
    where = f"s3://{bucket}/run"
    troubled.handler.share = 0
    troubled.handler.outage = ("step-40/part", 8)
    done = job.train(troubled, "out", f"checkpoint.folder={where}",
                     "checkpoint.every_steps=20", "cluster.timeout_seconds=3")
    assert done.returncode == 0, done.stdout
    assert troubled.handler.outage is None
    assert job.checkpoint(troubled, "digest", where) == digest


@pytest.mark.parametrize("file", ["part", "manifest"])
def test_store_that_is_away_keeps_nobody(job, store, troubled, bucket, file):
    troubled.handler.share = 0
    troubled.handler.outage = (f"step-40/{file}", 300)
    with open(job.folder / "log", "w") as log:
        process = subprocess.Popen(
            job.command("out", f"checkpoint.folder=s3://{bucket}/run",
                        "checkpoint.every_steps=20"),
            cwd=job.folder, env=troubled.environment(), stdout=log,
            stderr=log, stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while troubled.handler.outage and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) != 0
    finally:
        process.kill()
        process.wait()
    assert "Ctrl-C" in (job.folder / "log").read_text()
    assert (job.folder / "out/metrics.json").exists()
    # The one before is whole.
    assert job.checkpoint(store, "verify", f"s3://{bucket}/run").endswith(
        "/step-20: good\n")


def test_missing_bucket_is_said_before_any_training(job, store):
    done = job.train(store, "out", "checkpoint.folder=s3://nobodys/run")
    assert done.returncode == 1
    assert ("checkpoint.folder: PUT s3://nobodys/run/.shoal-writes-here at "
            f"{store.endpoint}: HTTP 404 NoSuchBucket") in done.stdout
    assert "make the bucket" in done.stdout
    assert "data:" not in done.stdout
    done = job.train(store, "out", "checkpoint.restore=s3://nobodys/run")
    assert done.returncode == 1
    assert "NoSuchBucket" in done.stdout


def test_missing_checkpoint_and_credentials(job, store, bucket):
    done = job.run(store, [PROGRAM, "checkpoint", "ls", f"s3://{bucket}/none"])
    assert done.returncode == 1
    assert f"there is no checkpoint in s3://{bucket}/none" in done.stdout
    done = job.run(store, [PROGRAM, "checkpoint", "ls", f"s3:/{bucket}/none"])
    assert "expected s3://BUCKET/PATH" in done.stdout
    done = job.run(store, [PROGRAM, "checkpoint", "ls", f"s3://{bucket}/none"],
                   AWS_SECRET_ACCESS_KEY="")
    assert done.returncode == 1
    assert "set AWS_SECRET_ACCESS_KEY" in done.stdout
    for command in (job.command(f"s3://{bucket}/out"),
                    [PROGRAM, "launch", "mpi", "job.yaml", "--out",
                     f"s3://{bucket}/out"]):
        done = job.run(store, command)
        assert done.returncode == 1
        assert "set checkpoint.folder" in done.stdout
        assert not (job.folder / "s3:").exists()


def test_signatures_and_permissions_are_those_of_s3(job, guarded, bucket,
                                                    digest):
    """moto computes signatures by botocore, which knows nothing of ours."""
    where = f"s3://{bucket}/a b+c/run"
    done = job.train(guarded, "out", f"checkpoint.folder={where}",
                     "checkpoint.every_steps=40")
    assert done.returncode == 0, done.stdout
    assert job.checkpoint(guarded, "digest", where) == digest
    ls = [PROGRAM, "checkpoint", "ls", where]

    done = job.run(guarded, ls, AWS_SECRET_ACCESS_KEY="wrong")
    assert done.returncode == 1
    assert "SignatureDoesNotMatch" in done.stdout
    assert "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" in done.stdout
    done = job.run(guarded, ls, AWS_ACCESS_KEY_ID="AKIANOBODY")
    assert done.returncode == 1
    assert "InvalidAccessKeyId" in done.stdout

    guarded.allow("s3:Get*", "s3:List*")
    done = job.train(guarded, "more", f"checkpoint.restore={where}",
                     f"checkpoint.folder={where}-2")
    assert done.returncode == 1
    assert "checkpoint.folder: PUT" in done.stdout
    assert "AccessDenied" in done.stdout and "s3:PutObject" in done.stdout
