"""`shoal launch k8s` from end to end: a fake API server, real processes."""

import base64
import fcntl
import glob
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import termios
import threading
import time

import pytest
import yaml

import lints
from conftest import JOB, SOURCE, digest, kubeconfig, write_rows
from fake_api import Fault, FakeApi, error
from fake_cluster import FakeCluster


class Outcome:
    def __init__(self, process, out, err):
        self.code, self.out, self.err = process.returncode, out, err

    def __repr__(self):
        return (f"exit code {self.code}\n--- out\n{self.out[-2000:]}\n--- err"
                f"\n{self.err[-4000:]}")


class Site:
    """A namespace with a volume that has the data, and a launcher."""

    def __init__(self, program, folder, api, stuck):
        self.program, self.folder, self.api = program, folder, api
        self.cluster = FakeCluster(api, program, str(folder / "cluster"),
                                   stuck)
        self.volume = self.cluster.volume("small-job-shared")
        (folder / "cluster/volumes/small-job-shared/data").mkdir()
        write_rows(f"{self.volume}/data/rows.csv")
        self.job = folder / "job.yaml"
        self.job.write_text(JOB)
        self.config = kubeconfig(folder / "config", api.url)

    def command(self, *more):
        return [self.program, "launch", "k8s", str(self.job), "--kubeconfig",
                str(self.config), *more]

    def launch(self, *more, meanwhile=None, limit=90):
        process = subprocess.Popen(self.command(*more), text=True,
                                   stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        helper = threading.Thread(target=meanwhile, args=(process,)) \
            if meanwhile else None
        if helper:
            helper.start()
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"it hangs: {Outcome(process, out, err)}")
        finally:
            if helper:
                helper.join()
        return Outcome(process, out, err)

    def out(self):
        return f"{self.volume}/out/Small Job"

    def wait_for(self, what, within=30):
        end = time.monotonic() + within
        while not what():
            assert time.monotonic() < end, "it did not come to that"
            time.sleep(0.02)

    def trains(self, only=None):
        """Whether a coordinator, or that of pod `only`, has begun to train."""
        return any(pod.port and "coordinator" in key[3] and pod.is_ready()
                   for key, pod in list(self.cluster.pods.items())
                   if hasattr(pod, "port") and only in (None, key))

    def delete(self, key):
        # With the lock: what is appended to a list that was just taken away is
        # never seen.
        with self.api.lock:
            self.api.deleting.append((key, "Background"))


@pytest.fixture
def site(program, tmp_path):
    sites = []

    def make(stuck=lambda name: None, **api):
        sites.append(Site(program, tmp_path, FakeApi(**api), stuck))
        return sites[-1]

    yield make
    for each in sites:
        each.cluster.close()
        each.api.close()


ONLY_THE_VOLUME = [("persistentvolumeclaims", "small-job-shared")]


def test_trains_the_model_of_a_local_run_and_cleans_up(site, trained_long):
    s = site(crds=[("monitoring.coreos.com", "podmonitors")])
    # Long enough for whoever asks now and again whether pods are ready.
    run = s.launch(*LONG)
    assert run.code == 0, run
    assert digest(s.program, s.out()) == trained_long
    assert "test: auc" in run.out, run
    assert "2 servers, 2 workers" in run.err, run
    for pod in ("small-job-server-0: running, ready",
                "small-job-worker-1"):
        assert pod in run.err, run
    assert s.api.names() == ONLY_THE_VOLUME
    assert ("monitoring.coreos.com", "podmonitors", "create") in s.api.verbs


def test_live_view_of_a_terminal(site):
    s = site()
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(s.program, s.command("--set", "train.epochs=1"))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 20, 40, 0, 0))
    out = b""
    try:
        while data := os.read(terminal, 4096):
            out += data
    except OSError:  # the other end is closed
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, out
    os.close(terminal)
    text = out.decode()
    parts = re.split("\r\x1b\\[K|\r\n", text)
    lines = [p for p in parts if p.startswith("coordinator ") and "/2" in p]
    # Cut where the terminal ends, drawn below what is said, and gone at last.
    assert lines and all(len(line) <= 39 for line in lines), text
    assert any("servers 2/2" in line for line in lines), text
    assert parts[-1] == "" and "job small-job is done" in parts, text
    assert "CrashLoop" not in text, text


def test_keeps_the_objects_when_asked_and_makes_room_next_time(site, trained):
    s = site()
    run = s.launch("--keep", "--set", "train.epochs=1")
    assert run.code == 0, run
    assert "knows no PodMonitor" in run.err, run
    assert ("jobs", "small-job-coordinator") in s.api.names()
    again = s.launch()
    assert again.code == 0, again
    assert "removing what an earlier job small-job left" in again.err, again
    # It starts anew: the checkpoints of the other run are not its own.
    assert digest(s.program, s.out()) == trained


# Long enough that it is not done before a pod is deleted.
LONG = ["--set", "train.epochs=60", "--set", "checkpoint.every_steps=20",
        "--set", "train.eval.every_epoch=false"]


@pytest.fixture(scope="session")
def trained_long(program, tmp_path_factory):
    """The digest of a LONG run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("long")
    (folder / "data").mkdir()
    write_rows(folder / "data/rows.csv")
    (folder / "job.yaml").write_text(JOB)
    subprocess.run([program, "train", "job.yaml", "--out", "out",
                    "--in-process", *LONG], cwd=folder, check=True,
                   capture_output=True, timeout=60)
    return digest(program, folder / "out")


def test_api_faults_are_lived_through(site, trained_long):
    s = site()
    s.api.faults = [
        Fault("PATCH", "configmaps", 429, headers={"Retry-After": "1"}),
        Fault("PATCH", "services", 500, times=2),
        Fault("PATCH", "statefulsets", 409,
              body=error(409, "Conflict", "the object has been modified")),
        Fault("GET", r"/pods\?labelSelector=[^&]*$", 503, times=2),
        Fault("GET", r"/jobs\?.*watch", 500, times=2),
        Fault("GET", r"/pods\?.*watch", 429, headers={"Retry-After": "1"}),
        Fault("GET", r"/log", 500),
        Fault("DELETE", "jobs", 504),
    ]

    def forget(process):
        # Once it watches, after the faults above.
        s.wait_for(lambda: s.trains() and sum(
            "/jobs?" in r and "watch" in r for r in s.api.requests) > 2)
        s.api.forget_history()

    begin = time.monotonic()
    run = s.launch(*LONG, meanwhile=forget)
    assert run.code == 0, run
    assert time.monotonic() - begin > 1, "it asked again before Retry-After"
    assert digest(s.program, s.out()) == trained_long
    assert [f.hits for f in s.api.faults] == [1, 2, 1, 2, 2, 1, 1, 1]
    lists = [r for r in s.api.requests
             if re.match(r"GET \S*/jobs\?labelSelector=[^&]*$", r)]
    assert len(lists) >= 2, "after 410 it must list again"
    assert s.api.names() == ONLY_THE_VOLUME


def test_streams_that_break_are_taken_up_again(site, trained):
    """Watches that break in the middle of a line, logs that end too early."""
    s = site()
    s.api.cut_watches, s.api.cut_logs = 6, 3
    run = s.launch()
    assert run.code == 0, run
    assert (s.api.cut_watches, s.api.cut_logs) == (0, 0)
    assert digest(s.program, s.out()) == trained
    # Every line once, to the last.
    lines = run.out.splitlines()
    for text in ("data: ", "test: auc", "report: "):
        assert len([x for x in lines if x.startswith(text)]) == 1, run


def test_a_job_that_somebody_deletes_unseen_ends_the_launch(site):
    s = site()

    def delete(process):
        s.wait_for(s.trains)
        with s.api.lock:  # between a watch and the next list
            s.api.objects.pop(("batch", "jobs", "train",
                               "small-job-coordinator"))
            s.api.forget_history()
            for key in list(s.cluster.pods):  # as the collector of garbage does
                if "coordinator" in key[3]:
                    s.delete(key)

    begin = time.monotonic()
    run = s.launch("--set", "train.epochs=100000", meanwhile=delete)
    assert run.code == 75, run
    assert "somebody deleted the Job of the coordinator" in run.err, run
    assert time.monotonic() - begin < 60


def test_the_exit_code_outlives_the_servers_last_answer(site):
    for job, code in ((["--set", "train.epochs=1"], 0),
                      (["--set", "data.files=[none.csv]"], 1)):
        s = site()

        def fall_silent(process):
            def over():
                job = s.api.get(("batch", "jobs", "train",
                                 "small-job-coordinator")) or {}
                return job.get("status", {}).get("conditions") and \
                    {"jobs", "pods"} <= s.api.watched
            s.wait_for(over)
            s.api.faults = [Fault(m, ".", 503, times=10**6)
                            for m in ("GET", "DELETE")]

        run = s.launch("--api-within", "2", *job, meanwhile=fall_silent)
        assert run.code == code, run
        assert "--delete` tries again" in run.err, run
        s.cluster.close()
        shutil.rmtree(s.folder / "cluster")


def test_what_is_applied_after_ctrl_c_is_removed_too(site):
    s = site(stuck=lambda name: NO_NODE)
    # The client gives up, the server does not.
    s.api.faults = [Fault("PATCH", "statefulsets", 0, late=1.5)]

    def interrupt(process):
        s.wait_for(lambda: s.api.faults[0].hits)
        process.send_signal(signal.SIGINT)

    # A pod that is still there keeps the removal busy meanwhile.
    s.api.put(("", "pods", "train", "old"), {"metadata": {"labels": {
        "app.kubernetes.io/name": "shoal",
        "app.kubernetes.io/instance": "small-job"},
        "ownerReferences": [{"kind": "Job", "name": "x", "uid": "x"}]},
        "status": {"phase": "Running"}})
    threading.Timer(4, lambda: s.api.drop(("", "pods", "train", "old"))).start()
    run = s.launch(meanwhile=interrupt)
    assert run.code == 75 and "stopped by signal 2" in run.err, run
    assert s.api.names() == ONLY_THE_VOLUME


@pytest.mark.parametrize("where", [r"/pods\?labelSelector=[^&]*$",
                                   r"/jobs\?labelSelector=[^&]*$",
                                   "jobs/small-job-coordinator"])
@pytest.mark.parametrize("body", [
    [], 7, {"items": 7}, {"items": [7]}, {"items": [], "metadata": 7},
    {"items": [{"metadata": {}}], "metadata": {"resourceVersion": "1"}},
    {"metadata": {"labels": 7}}, {"metadata": {"labels": {
        "app.kubernetes.io/name": 7}}},
    {"metadata": {"labels": {"app.kubernetes.io/name": "shoal",
                             "app.kubernetes.io/instance": "small-job",
                             "app.kubernetes.io/component": "coordinator"}},
     "status": {"conditions": [7]}}], ids=str)
def test_answers_that_make_no_sense_are_no_crash(site, where, body):
    s = site(stuck=lambda name: NO_NODE)
    s.api.faults = [Fault("GET", where, 200, body=body, times=2)]
    run = s.launch("--start-within", "1")
    assert run.code in (1, 75), run
    assert s.api.faults[0].hits, run


def delete_pod(s, name):
    """Deletes a pod when the training has left a checkpoint."""
    def delete(process):
        s.wait_for(s.trains)
        s.wait_for(lambda: list(s.folder.glob(
            "cluster/volumes/*/out/*/checkpoints/step-*/manifest.json")))
        for key in list(s.cluster.pods):
            if name in key[3]:
                s.delete(key)
    return delete


def test_a_deleted_worker_is_replaced_and_the_bits_stay(site, trained_long):
    s = site()
    run = s.launch(*LONG, meanwhile=delete_pod(s, "worker-1"))
    assert run.code == 0, run
    assert "exit code 75 (worth another try)" in run.err, run
    assert len([n for n in s.cluster.created if "worker-1" in n]) == 2, run
    assert len([n for n in s.cluster.created if "coordinator" in n]) == 1, run
    assert digest(s.program, s.out()) == trained_long


def test_a_deleted_server_starts_a_new_try_from_the_checkpoint(site,
                                                               trained_long):
    s = site()
    run = s.launch(*LONG, meanwhile=delete_pod(s, "server-1"))
    assert run.code == 0, run
    assert len([n for n in s.cluster.created if "coordinator" in n]) == 2, run
    assert "note: going on from out/Small Job/checkpoints/step-" in run.out, run
    assert digest(s.program, s.out()) == trained_long


def test_a_coordinator_that_is_never_done_ends_with_its_exit_code(site):
    s = site()

    def delete_each(process):
        seen = set()
        while process.poll() is None:
            for key in list(s.cluster.pods):
                # That one: another may still be ending.
                if "coordinator" in key[3] and key not in seen \
                        and s.trains(key):
                    seen.add(key)
                    s.delete(key)
            time.sleep(0.02)

    run = s.launch("--set", "train.epochs=100000", meanwhile=delete_each)
    assert run.code == 75, run
    assert "BackoffLimitExceeded" in run.err, run
    assert len([n for n in s.cluster.created if "coordinator" in n]) == 4, run


def test_a_job_that_cannot_work_ends_with_its_exit_code(site):
    s = site()
    run = s.launch("--set", "data.files=[none.csv]")
    assert run.code == 1, run
    assert "none.csv" in run.out, run
    assert "PodFailurePolicy" in run.err, run
    assert len([n for n in s.cluster.created if "coordinator" in n]) == 1
    assert s.api.names() == ONLY_THE_VOLUME


def test_members_get_the_variables_of_the_stores_secret(site):
    s = site()
    s.api.put(("", "secrets", "train", "shoal-store"), {"data": {
        key: base64.b64encode(value.encode()).decode() for key, value in (
            ("AWS_ENDPOINT_URL", "ftp://of-the-secret"), ("AWS_REGION", "r"),
            ("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s"))}})
    run = s.launch("--set", "checkpoint.folder=s3://bucket/checkpoints")
    # That it is refused shows that it has come.
    assert run.code == 1, run
    assert "AWS_ENDPOINT_URL is 'ftp://of-the-secret'" in run.out, run


def test_a_worker_that_finds_no_gpu_ends_the_job(site):
    if glob.glob("/dev/nvidia[0-9]*"):
        pytest.skip("there is a GPU")
    s = site()
    run = s.launch("--set", "device=cuda")
    assert run.code == 1, run
    assert "set device: cpu" in run.out, run
    assert s.api.names() == ONLY_THE_VOLUME


IMAGE = {"phase": "Pending", "containerStatuses": [{
    "name": "x", "restartCount": 0, "state": {"waiting": {
        "reason": "ImagePullBackOff",
        "message": "Back-off pulling image \"shoal:0.1.0\""}}}]}
NO_NODE = {"phase": "Pending", "conditions": [{
    "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
    "message": "0/3 nodes are available: 3 Insufficient memory."}]}


def test_why_a_pod_does_not_start_is_told(site):
    s = site(stuck=lambda name: IMAGE if "server-1" in name else
             NO_NODE if "worker-0" in name else None)
    s.api.put(("", "events", "train", "e1"), {
        "reason": "FailedCreate", "message": "exceeded quota: cpu",
        "involvedObject": {"kind": "Job", "name": "small-job-worker"}})
    run = s.launch("--start-within", "3")
    assert run.code == 75, run
    last = run.err[run.err.index("shoal: members of the job are missing"):]
    for text in ("small-job-server-1: ImagePullBackOff: Back-off pulling",
                 "Unschedulable: 0/3 nodes are available: 3 Insufficient",
                 "Job small-job-worker: exceeded quota: cpu"):
        assert text in last, run
    assert s.api.names() == [("events", "e1")] + ONLY_THE_VOLUME


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_job_and_removes_it(site, stop):
    s = site()

    def interrupt(process):
        s.wait_for(s.trains)
        process.send_signal(stop)

    run = s.launch("--set", "train.epochs=100000", meanwhile=interrupt)
    assert run.code == 75, run
    assert f"stopped by signal {int(stop)}" in run.err, run
    assert s.api.names() == ONLY_THE_VOLUME
    assert not s.cluster.pods


def test_second_ctrl_c_leaves_at_once_and_says_how_to_clean_up(site):
    s = site()
    s.api.faults = [Fault("DELETE", ".", 503, times=1000)]

    def interrupt(process):
        s.wait_for(s.trains)
        process.send_signal(signal.SIGINT)
        s.wait_for(lambda: s.api.faults[0].hits > 1)
        process.send_signal(signal.SIGINT)

    begin = time.monotonic()
    run = s.launch("--set", "train.epochs=100000", meanwhile=interrupt)
    assert run.code == 75, run
    assert "--delete` tries again" in run.err, run
    s.api.faults = []
    run = s.launch("--delete")
    assert run.code == 0, run
    assert s.api.names() == ONLY_THE_VOLUME
    assert time.monotonic() - begin < 30


def test_a_running_job_is_not_disturbed_by_another_launch(site):
    s = site()
    seen = []

    def second(process):
        s.wait_for(s.trains)
        seen.append(subprocess.run(s.command(), capture_output=True, text=True,
                                   timeout=30))
        process.send_signal(signal.SIGINT)

    s.launch("--set", "train.epochs=100000", meanwhile=second)
    assert seen[0].returncode == 1
    assert "is running in namespace train already" in seen[0].stderr


def test_time_is_limited(site):
    s = site()
    run = s.launch("--set", "train.epochs=100000", "--timeout", "4")
    assert run.code == 75, run
    assert "the job is not done after 4 s (--timeout)" in run.err, run
    assert s.api.names() == ONLY_THE_VOLUME


def test_a_server_that_only_fails_is_given_up(site):
    s = site()
    s.api.faults = [Fault("GET", ".", 500, times=10**6),
                    Fault("PATCH", ".", 500, times=10**6),
                    Fault("DELETE", ".", 500, times=10**6)]
    begin = time.monotonic()
    run = s.launch("--api-within", "2")
    assert run.code == 75, run
    assert time.monotonic() - begin < 15
    assert "500 Fault: planted by the test; gave up" in run.err, run


def test_a_server_that_falls_silent_ends_the_launch(site):
    s = site()

    def fall_silent(process):
        s.wait_for(s.trains)
        s.api.faults = [Fault(m, ".", 503, times=10**6)
                        for m in ("GET", "PATCH", "DELETE")]
        s.api.forget_history()  # ends the watches

    run = s.launch("--api-within", "2", "--set", "train.epochs=100000",
                   meanwhile=fall_silent)
    assert run.code == 75, run
    assert "503" in run.err and "--delete` tries again" in run.err, run


def test_refusals_are_passed_on(site):
    s = site()
    s.api.faults = [Fault("PATCH", "statefulsets", 422, body=error(
        422, "Invalid", 'StatefulSet "x" is invalid: spec.replicas'))]
    run = s.launch()
    assert run.code == 1, run
    assert 'StatefulSet "x" is invalid: spec.replicas' in run.err, run
    assert s.api.names() == ONLY_THE_VOLUME, "what was made before is gone"
    s.api.faults = [Fault("GET", "jobs", 403, body=error(
        403, "Forbidden", "jobs.batch is forbidden"))]
    run = s.launch()
    assert run.code == 1 and "jobs.batch is forbidden" in run.err, run
    run = s.launch("--namespace", "nowhere")
    assert run.code == 1 and 'namespaces "nowhere" not found' in run.err, run


def test_fields_that_others_have_set_are_named(site):
    s = site()
    s.api.faults = [Fault("PATCH", "force=false", 409, times=100, body=error(
        409, "Conflict", "Apply failed with 1 conflict", causes=[{
            "reason": "FieldManagerConflict", "field": ".spec.replicas",
            "message": 'conflict with "kubectl"'}]))]
    run = s.launch()
    assert run.code == 1, run
    assert '.spec.replicas (conflict with "kubectl")' in run.err, run
    assert "--force takes them over" in run.err, run
    run = s.launch("--force", "--set", "train.epochs=1")
    assert run.code == 0, run


def test_objects_of_others_are_left_alone(site):
    s = site()
    s.api.put(("apps", "statefulsets", "train", "small-job-server"),
              {"kind": "StatefulSet", "metadata": {"labels": {"app": "db"}},
               "spec": {"replicas": 0}})
    run = s.launch()
    assert run.code == 1 and "belongs to no Shoal job" in run.err, run
    assert s.api.names() == [("statefulsets", "small-job-server")]


def test_the_role_of_a_launcher_is_what_it_asks_for(site):
    role = next(o for o in yaml.safe_load_all(
        (SOURCE / "k8s/launcher/rbac.yaml").read_text())
        if o["kind"] == "Role")
    s = site(crds=[("monitoring.coreos.com", "podmonitors")],
             stuck=lambda name: IMAGE if "server-1" in name else None)
    run = s.launch("--start-within", "2")
    assert run.code == 75, run
    assert lints.unused_or_missing_verbs(role, s.api.verbs) == ([], [])
    # The comparison finds what is missing and what is too much.
    role["rules"][0]["verbs"] = ["get", "update"]
    unused, missing = lints.unused_or_missing_verbs(role, s.api.verbs)
    assert unused == [("batch", "jobs", "update")]
    assert ("batch", "jobs", "delete") in missing
