"""Every manifest, rendered: schemas of three Kubernetes versions and of the
custom resources, lints, and `shoal launch k8s --dry-run` beside kustomize."""

import copy
import os
import re
import shutil
import subprocess

import pytest
import yaml

import lints
import schemas
from conftest import JOB, SOURCE

K8S = SOURCE / "k8s"
OVERLAYS = ["overlays/local", "overlays/gpu", "overlays/restricted", "mpijob",
            "jobset", "launcher"]
VERSIONS = ["1.31", "1.34", "1.36"]


def kubectl():
    path = os.environ.get("SHOAL_KUBECTL") or shutil.which("kubectl")
    if not path:
        pytest.skip("no kubectl: PyPI can't be reached")
    return path


def render(folder):
    run = subprocess.run([kubectl(), "kustomize", str(folder)],
                         capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return load(run.stdout)


def load(text):
    return [doc for doc in yaml.safe_load_all(text) if doc]


def by_name(objects):
    found = {(o["kind"], o["metadata"]["name"]): o for o in objects}
    assert len(found) == len(objects), "two objects of one name"
    return found


@pytest.fixture(scope="module")
def rendered():
    return {name: render(K8S / name) for name in OVERLAYS}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_objects_keep_to_their_schemas(rendered, name, version):
    pytest.importorskip("kubernetes_validate",
                        reason="no kubernetes-validate: PyPI can't be reached")
    assert [text for obj in rendered[name]
            for text in schemas.check(obj, version)] == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_lints(rendered, name):
    assert lints.lint(rendered[name]) == []


def find(objects, kind, ending):
    return next(o for o in objects if o["kind"] == kind and
                o["metadata"]["name"].endswith(ending))


def pod_of(objects, kind, ending):
    obj = find(objects, kind, ending)
    return next(iter(lints.templates(obj)))[1]["spec"]


def set_at(obj, path, value):
    *parents, last = path
    for key in parents:
        obj = obj[key]
    if value is None:
        del obj[last]
    else:
        obj[last] = value


# (overlay, kind, ending of the name, path, new value or None, what is said)
BROKEN = [
    ("restricted", "Service", "server", "metadata.labels", {}, "no label"),
    ("restricted", "Job", "worker", "pod.containers.0.image", "shoal:latest",
     "newest"),
    ("restricted", "Job", "worker", "pod.containers.0.image", "r.io:5/shoal",
     "no tag"),
    ("restricted", "Job", "worker", "pod.containers.0.resources.limits", {},
     "no limits.memory"),
    ("restricted", "Job", "worker", "pod.containers.0.readinessProbe", None,
     "lacks probes"),
    ("restricted", "Job", "worker",
     "pod.containers.0.readinessProbe.httpGet.port", "metrics", "asks port"),
    ("restricted", "Job", "worker", "pod.hostNetwork", True, "hostNetwork"),
    ("restricted", "Job", "worker", "pod.securityContext.runAsNonRoot", False,
     "root"),
    ("restricted", "Job", "worker", "pod.securityContext.seccompProfile", None,
     "seccomp"),
    ("restricted", "Job", "worker", "pod.volumes.2",
     {"name": "tmp", "hostPath": {"path": "/tmp"}}, "hostPath"),
    ("restricted", "Job", "worker",
     "pod.containers.0.securityContext.allowPrivilegeEscalation", None,
     "gain privileges"),
    ("restricted", "Job", "worker",
     "pod.containers.0.securityContext.readOnlyRootFilesystem", None,
     "write its root"),
    ("restricted", "Job", "worker",
     "pod.containers.0.securityContext.capabilities",
     {"drop": ["ALL"], "add": ["SYS_PTRACE"]}, "keeps capabilities"),
    ("restricted", "Job", "worker", "pod.containers.0.ports.0.hostPort", 9102,
     "hostPort"),
    ("restricted", "Job", "worker", "pod.automountServiceAccountToken", None,
     "token"),
    ("restricted", "StatefulSet", "server", "spec.selector.matchLabels.x", "y",
     "does not match its pods"),
    ("restricted", "PodDisruptionBudget", "server",
     "spec.selector.matchLabels.x", "y", "matches no pod"),
    ("restricted", "NetworkPolicy", "job", "spec.podSelector.matchLabels.x",
     "y", "matches no pod"),
    ("restricted", "PodMonitor", "job", "spec.selector.matchLabels.x", "y",
     "matches no pod"),
    ("restricted", "PodMonitor", "job", "spec.podMetricsEndpoints.0.port", "m",
     "no pod has port m"),
    ("restricted", "Service", "server", "spec.ports.0.targetPort", 9102,
     "no named target"),
    ("restricted", "Service", "server", "spec.ports.0.targetPort", "shoal",
     "not a port of its pods"),
    ("restricted", "Service", "server", "spec.publishNotReadyAddresses", None,
     "headless"),
    ("restricted", "StatefulSet", "server", "spec.serviceName", "other",
     "no Service other"),
    ("restricted", "Job", "worker", "pod.volumes.0.configMap.name", "other",
     "no ConfigMap other"),
    ("restricted", "Job", "worker",
     "pod.volumes.1.persistentVolumeClaim.claimName", "other",
     "no PersistentVolumeClaim other"),
    ("restricted", "Job", "worker", "pod.containers.0.volumeMounts.0.name",
     "other", "no volume other"),
    ("restricted", "Job", "worker", "pod.containers.0.env", [],
     "no variable SHOAL_COORDINATOR"),
    ("restricted", "Job", "worker", "pod.containers.0.env.0.value", "other",
     "no Service other"),
    ("restricted", "Job", "worker", "pod.restartPolicy", "OnFailure",
     "restartPolicy"),
    ("restricted", "Job", "worker", "spec.parallelism", 1, "at the same time"),
    ("mpijob", "MPIJob", "mpi", "spec.mpiReplicaSpecs.Worker.replicas", 3,
     "--expect-ranks is not 3"),
    ("mpijob", "MPIJob", "mpi", "spec.mpiReplicaSpecs.Launcher.replicas", 2,
     "Launcher.replicas"),
    ("mpijob", "MPIJob", "mpi", "spec.launcherCreationPolicy", "Sometimes",
     "launcherCreationPolicy"),
    ("mpijob", "MPIJob", "mpi", "spec.runPolicy.schedulingPolicy.minAvailable",
     5, "minAvailable"),
    ("launcher", "RoleBinding", "launcher", "roleRef.name", "other",
     "no Role other"),
    ("launcher", "RoleBinding", "launcher", "subjects.0.name", "other",
     "no ServiceAccount other"),
    ("launcher", "Job", "launcher", "pod.serviceAccountName", "other",
     "no ServiceAccount other"),
]


@pytest.mark.parametrize("broken", BROKEN,
                         ids=lambda b: f"{b[1]}-{b[3]}-{b[5]}")
def test_each_lint_finds_its_fault(rendered, broken):
    overlay, kind, ending, path, value, said = broken
    name = next(n for n in OVERLAYS if n.endswith(overlay))
    objects = copy.deepcopy(rendered[name])
    keys = [int(k) if k.isdigit() else k for k in path.split(".")]
    if keys[0] == "pod":
        set_at(pod_of(objects, kind, ending), keys[1:], value)
    else:
        set_at(find(objects, kind, ending), keys, value)
    assert any(said in text for text in lints.lint(objects)), \
        lints.lint(objects)


# (overlay, kind, ending, path, new value, what is said)
MISSPELT = [
    ("restricted", "StatefulSet", "server", "spec.replica", 2, "replica"),
    ("restricted", "Job", "worker", "spec.completions", "two", "two"),
    ("restricted", "PodMonitor", "job", "spec.endpoints", [], "endpoints"),
    ("mpijob", "MPIJob", "mpi", "spec.slotPerWorker", 1, "slotPerWorker"),
    ("jobset", "JobSet", "set", "spec.failurePolicy.maxRestart", 1,
     "maxRestart"),
]


@pytest.mark.parametrize("wrong", MISSPELT, ids=lambda w: f"{w[1]}-{w[3]}")
def test_schemas_catch_misspelt_fields(rendered, wrong):
    pytest.importorskip("kubernetes_validate",
                        reason="no kubernetes-validate: PyPI can't be reached")
    overlay, kind, ending, path, value, said = wrong
    name = next(n for n in OVERLAYS if n.endswith(overlay))
    obj = copy.deepcopy(find(rendered[name], kind, ending))
    set_at(obj, path.split("."), value)
    assert said in "\n".join(schemas.check(obj, VERSIONS[-1]))


# --- The program's rendering ------------------------------------------------

OVERLAY = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: train
namePrefix: small-job-
resources: [{base}]
configMapGenerator:
  - name: job
    behavior: replace
    files: [job.yaml]
generatorOptions: {{disableNameSuffixHash: true}}
images: [{{name: shoal, newName: registry.example/shoal, newTag: "7"}}]
replicas: [{{name: server, count: {servers}}}]
labels:
  - pairs: {{app.kubernetes.io/instance: small-job}}
    includeSelectors: true
    fields:
      - {{kind: PodMonitor, path: spec/selector/matchLabels}}
patches:
  - target: {{kind: Job, name: worker}}
    patch: |-
      - {{op: replace, path: /spec/completions, value: {workers}}}
      - {{op: replace, path: /spec/parallelism, value: {workers}}}
      - op: replace
        path: /spec/template/spec/containers/0/resources/requests/cpu
        value: "{threads}"
  - target: {{kind: StatefulSet, name: server}}
    patch: |-
      - op: replace
        path: /spec/template/spec/containers/0/resources/requests/cpu
        value: "{shards}"
"""

CLAIM = """\
  - target: {kind: PersistentVolumeClaim}
    patch: |-
      $patch: delete
      apiVersion: v1
      kind: PersistentVolumeClaim
      metadata: {name: shared}
  - target: {kind: Job|StatefulSet}
    patch: |-
      - op: replace
        path: /spec/template/spec/volumes/1/persistentVolumeClaim/claimName
        value: flights-data
"""


def launch(program, *args):
    return subprocess.run([program, "launch", "k8s", *map(str, args)],
                          capture_output=True, text=True, timeout=60)


COMPONENT = """\
components: [{component}]
"""


def render_with(tmp_path, job, component=None):
    """Writes the job file, and what kustomize makes of an overlay for it."""
    (tmp_path / "job.yaml").write_text(job)
    sizes = {"servers": 2, "shards": 1, "workers": 2, "threads": 1}
    text = OVERLAY.format(base=os.path.relpath(K8S / "base", tmp_path), **sizes)
    text = re.sub("^images: .*", "", text, flags=re.M)
    if component:
        text += COMPONENT.format(component=os.path.relpath(
            K8S / "components" / component, tmp_path))
    (tmp_path / "kustomization.yaml").write_text(text)
    return by_name(render(tmp_path))


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_gpu_is_asked_for_by_the_device_of_the_job(program, tmp_path, device):
    want = render_with(tmp_path, JOB + f"device: {device}\n",
                       "gpu" if device == "cuda" else None)
    run = launch(program, tmp_path / "job.yaml", "--dry-run", "--namespace",
                 "train")
    assert run.returncode == 0, run.stderr
    assert by_name(load(run.stdout)) == want
    assert ("nvidia.com/gpu" in run.stdout) == (device == "cuda")
    # One worker's device is enough, and an image of one's own stays.
    run = launch(program, tmp_path / "job.yaml", "--dry-run", "--image", "a:1",
                 "--set", "devices.workers=[cpu, cuda]")
    assert "nvidia.com/gpu" in run.stdout
    assert "shoal-cuda" not in run.stdout


@pytest.mark.parametrize("key", ["folder", "restore"])
def test_store_of_the_job_gets_its_secret(program, tmp_path, key):
    want = render_with(
        tmp_path, JOB + f"checkpoint: {{{key}: 's3://bucket/checkpoints'}}\n",
        "store")
    assert lints.lint(list(want.values())) == []
    run = launch(program, tmp_path / "job.yaml", "--dry-run", "--namespace",
                 "train")
    assert run.returncode == 0, run.stderr
    assert by_name(load(run.stdout)) == want
    assert run.stdout.count("shoal-store") == 3
    plain = launch(program, tmp_path / "job.yaml", "--dry-run", "--set",
                   f"checkpoint.{key}=''")
    assert "shoal-store" not in plain.stdout
    assert [text for obj in want.values() for text in
            schemas.check(obj, VERSIONS[-1])] == []


def test_gpu_overlay_does_not_fall_back_to_the_cpu(rendered):
    coordinator = pod_of(rendered["overlays/gpu"], "Job", "coordinator")
    assert "--set=device=cuda" in coordinator["containers"][0]["args"]


@pytest.mark.parametrize("claim", [False, True])
def test_dry_run_equals_an_overlay_of_the_same_job(program, tmp_path, claim):
    # Beside the base, since kustomize takes relative paths only.
    sizes = {"servers": 3, "shards": 2, "workers": 5, "threads": 4}
    job = re.sub(r"cluster: .*", "cluster: {servers: 3, shards: 2, workers: 5,"
                 " threads: 4, virtual_workers: 8}", JOB)
    job += '# Texts: "quoted", yes, 0x10, 1:30, trailing blank \n'
    (tmp_path / "job.yaml").write_text(job)
    (tmp_path / "kustomization.yaml").write_text(
        OVERLAY.format(base=os.path.relpath(K8S / "base", tmp_path), **sizes) +
        (CLAIM if claim else ""))
    want = by_name(render(tmp_path))
    run = launch(program, tmp_path / "job.yaml", "--dry-run", "--namespace",
                 "train", "--image", "registry.example/shoal:7",
                 *(["--claim", "flights-data"] if claim else []))
    assert run.returncode == 0, run.stderr
    got = by_name(load(run.stdout))
    assert got.keys() == want.keys()
    for name in want:
        assert got[name] == want[name], name
    assert got["ConfigMap", "small-job-job"]["data"]["job.yaml"] == job


def test_dry_run_equals_the_restricted_overlay_as_it_is(program, rendered):
    run = launch(program, K8S / "job/job.yaml", "--dry-run", "--name", "shoal",
                 "--namespace", "shoal")
    assert run.returncode == 0, run.stderr
    want = by_name(rendered["overlays/restricted"])
    del want["Namespace", "shoal"], want["NetworkPolicy",
                                         "shoal-default-deny"]
    assert by_name(load(run.stdout)) == want


def test_set_reaches_the_pods_by_the_job_file(program, tmp_path):
    (tmp_path / "job.yaml").write_text(JOB)
    run = launch(program, tmp_path / "job.yaml", "--dry-run", "--set",
                 "cluster.workers=3", "--set", "train.epochs=9")
    objects = by_name(load(run.stdout))
    assert objects["Job", "small-job-worker"]["spec"]["completions"] == 3
    job = yaml.safe_load(objects["ConfigMap", "small-job-job"]["data"]
                         ["job.yaml"])
    assert job["train"]["epochs"] == 9
    assert job["cluster"]["workers"] == 3
    assert all("namespace" not in o["metadata"] for o in objects.values())


@pytest.mark.parametrize("args, said", [
    (["--set", "transport=shm"], "shm does not leave a host"),
    (["--set", "transport=inproc"], "inproc does not leave a host"),
    (["--set", "cluster.servrs=1"], "did you mean"),
    (["--set", "device=cuda:1"], "a worker's pod has one GPU"),
    (["--name", "Upper"], "--name Upper"),
    (["--name", "x" * 41], "at most 40"),
    (["--set", "name=123"], "give one by --name"),
    (["--namespace", "no_good"], "no name of a namespace"),
])
def test_what_cannot_be_rendered_is_refused(program, tmp_path, args, said):
    (tmp_path / "job.yaml").write_text(JOB)
    run = launch(program, tmp_path / "job.yaml", "--dry-run", *args)
    assert run.returncode == 1 and said in run.stderr, run


def test_job_file_that_is_not_utf8_is_refused(program, tmp_path):
    (tmp_path / "job.yaml").write_bytes(JOB.encode() + b"# caf\xe9\n")
    run = launch(program, tmp_path / "job.yaml", "--dry-run")
    assert run.returncode == 1 and "not UTF-8" in run.stderr, run


def test_sample_jobs_fit_the_manifests(program, rendered):
    """The base's numbers are those of its job file; MPI's and JobSet's too."""
    assert (K8S / "job/job.yaml").read_text() == (
        K8S / "launcher/job.yaml").read_text()
    job = yaml.safe_load((K8S / "job/job.yaml").read_text())["cluster"]
    mpi = find(rendered["mpijob"], "MPIJob", "mpi")["spec"]
    assert mpi["mpiReplicaSpecs"]["Worker"]["replicas"] == (
        job["servers"] + job["workers"])
    sizes = {j["name"]: j["template"]["spec"]["completions"]
             for j in find(rendered["jobset"], "JobSet", "set")["spec"]
             ["replicatedJobs"]}
    assert sizes == {"coordinator": 1, "server": job["servers"],
                     "worker": job["workers"]}
    version = re.search(r"project\(shoal VERSION (\S+)",
                        (SOURCE / "CMakeLists.txt").read_text())[1]
    for objects in rendered.values():
        for _, template in lints.all_templates(objects):
            for c in lints.containers(template):
                assert c["image"] in (f"shoal:{version}",
                                      f"shoal-cuda:{version}")


def test_commands_of_pods_are_commands_of_the_program(program, rendered):
    """Each option that a manifest gives is one that the program knows."""
    seen = set()
    for objects in rendered.values():
        for _, template in lints.all_templates(objects):
            for c in template["spec"]["containers"]:
                words = c["command"] + c["args"]
                if "shoal" not in words:
                    continue
                words = words[words.index("shoal") + 1:]
                command = [w for w in words[:2] if re.fullmatch("[a-z0-9]+", w)]
                known = subprocess.run([program, *command, "--help"],
                                       capture_output=True, text=True).stdout
                for option in re.findall(r"--[a-z-]+", " ".join(words)):
                    assert re.search(rf"{option}\b", known), (command, option)
                    seen.add((command[0], option))
    assert ("worker", "--index") in seen and ("train", "--expect-ranks") in seen
