"""Runs the pods of a FakeApi as processes of this machine.

The controllers do what Kubernetes documents of StatefulSets and Jobs (Indexed
ones, podFailurePolicy, backoffLimit, backoffLimitPerIndex), without pauses. A
pod is one process of the real program: mounts become folders, a Service's name
the address of the pod behind it, the pod's name the host's.
"""

import base64
import copy
import os
import re
import socket
import subprocess
import threading
import time
import urllib.request

from fake_api import now

CAN_NAME_HOSTS = subprocess.run(
    ["unshare", "--uts", "hostname", "pod-0"],
    capture_output=True).returncode == 0


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Pod:
    """The kubelet's side of a pod: starts its process and tells its state."""

    def __init__(self, cluster, key):
        self.cluster, self.api, self.key = cluster, cluster.api, key
        self.lines, self.ended = [], False  # the log
        self.process = None
        self.stop = False
        self.restarts = 0
        self.last = None  # its last end
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def update(self, phase, state, ready=False):
        obj = self.api.get(self.key)
        if obj is None:
            return
        container = obj["spec"]["containers"][0]
        status = {"name": container["name"], "ready": ready, "state": state,
                  "restartCount": self.restarts, "image": container["image"]}
        if self.last is not None and "terminated" not in state:
            status["lastState"] = {"terminated": self.last}
        obj["status"] = {
            "phase": phase, "containerStatuses": [status],
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "True" if ready else "False"}]}
        if obj["status"] != (self.api.get(self.key) or {}).get("status"):
            self.api.put(self.key, obj)

    def run(self):
        obj = self.api.get(self.key)
        name = self.key[3]
        stuck = self.cluster.stuck(name)
        if stuck is not None:
            obj["status"] = stuck
            self.api.put(self.key, obj)
            while not self.stop:
                time.sleep(0.02)
            self.finish()
            return
        always = obj["spec"].get("restartPolicy", "Always") == "Always"
        while not self.stop:
            code = self.run_once(obj)
            self.last = {"exitCode": code, "finishedAt": now(),
                         "reason": "Completed" if code == 0 else "Error"}
            if not always or self.stop:
                self.update("Succeeded" if code == 0 else "Failed",
                            {"terminated": self.last})
                break
            self.restarts += 1
            self.update("Running", {"waiting": {
                "reason": "CrashLoopBackOff",
                "message": "back-off 10s restarting failed container"}})
            time.sleep(0.2)
        self.finish()

    def finish(self):
        with self.api.lock:
            self.ended = True
            self.api.lock.notify_all()
        # The object stays until somebody deletes it, and a Job's until that
        # has counted it.
        while not (self.stop and self.cluster.may_go(self.key)):
            time.sleep(0.02)
        self.api.drop(self.key)

    def run_once(self, obj):
        argv, folder, environment = self.cluster.command(obj)
        self.process = subprocess.Popen(
            argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True)
        reader = threading.Thread(target=self.read, args=(self.process,))
        reader.start()
        self.port = None
        while self.process.poll() is None:
            if self.stop:
                self.process.terminate()
                try:
                    self.process.wait(10)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                break
            self.update("Running", {"running": {"startedAt": "then"}},
                        self.is_ready())
            time.sleep(0.05)
        self.process.wait()
        reader.join()
        code = self.process.returncode
        return code if code >= 0 else 128 - code

    def read(self, process):
        for line in process.stdout:
            line = line.rstrip("\n")
            if line.startswith("http: port "):
                self.port = int(line.split()[-1])
            with self.api.lock:
                self.lines.append((now(), line))
                self.api.lock.notify_all()

    def is_ready(self):
        if self.port is None:
            return False
        try:
            with urllib.request.urlopen(
                    f"http://127.0.0.1:{self.port}/readyz", timeout=2) as reply:
                return reply.status == 200
        except OSError:
            return False


class FakeCluster:
    """`stuck(pod name)` may return the status of a pod that never starts."""

    def __init__(self, api, program, root, stuck=lambda name: None):
        self.api, self.program, self.root = api, program, root
        self.stuck = stuck
        self.pods = {}  # key -> Pod
        self.ports = {}  # of Services
        self.counted = {}  # uid of a Job -> uids of pods that it has counted
        self.closed = False
        self.created = []  # names of all pods there ever were
        api.logs = self.log
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def close(self):
        self.closed = True
        self.thread.join()
        for pod in list(self.pods.values()):
            pod.stop = True
        for pod in list(self.pods.values()):
            pod.thread.join()

    def may_go(self, key):
        pod = self.api.get(key)
        if pod is None or self.closed:
            return True
        owner = pod["metadata"]["ownerReferences"][0]
        job = self.api.get(("batch", "jobs", key[2], owner["name"]))
        return (owner["kind"] != "Job" or job is None or
                bool(job.get("status", {}).get("conditions")) or
                job["metadata"]["uid"] != owner["uid"] or
                pod["status"]["phase"] not in ("Succeeded", "Failed") or
                pod["metadata"]["uid"] in
                self.counted.get(owner["uid"], {}).get("seen", ()))

    def log(self, namespace, name):
        pod = self.pods.get(("", "pods", namespace, name))
        return pod if pod is not None and pod.lines else None

    def volume(self, claim):
        path = os.path.join(self.root, "volumes", claim)
        os.makedirs(path, exist_ok=True)
        return path

    # --- What a container is started with ----------------------------------

    def command(self, obj):
        meta, spec = obj["metadata"], obj["spec"]
        container = spec["containers"][0]
        namespace = meta["namespace"]
        folders = {}  # mount path -> folder here
        for volume in spec.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                folder = self.volume(volume["persistentVolumeClaim"]
                                     ["claimName"])
            elif "configMap" in volume:
                name = volume["configMap"]["name"]
                folder = os.path.join(self.root, "configmaps", name)
                os.makedirs(folder, exist_ok=True)
                data = self.api.get(("", "configmaps", namespace, name))["data"]
                for file, text in data.items():
                    path = os.path.join(folder, file)
                    with open(f"{path}.{meta['uid']}", "w") as f:
                        f.write(text)
                    os.rename(f.name, path)  # others may be reading it
            else:
                continue
            for mount in container["volumeMounts"]:
                if mount["name"] == volume["name"]:
                    folders[mount["mountPath"]] = folder
        values = {}
        for source in container.get("envFrom", []):
            secret = self.api.get(("", "secrets", namespace,
                                   source["secretRef"]["name"]))
            for key, text in secret["data"].items():
                values[key] = base64.b64decode(text).decode()
        for variable in container.get("env", []):
            value = variable.get("value", "")
            path = variable.get("valueFrom", {}).get("fieldRef", {}).get(
                "fieldPath", "")
            label = re.fullmatch(r"metadata\.(labels|annotations)\['(.*)'\]",
                                 path)
            if label:
                value = meta[label[1]][label[2]]
            values[variable["name"]] = value
        argv = []
        for arg in container["command"] + container["args"]:
            arg = re.sub(r"\$\(([A-Z_]+)\)", lambda m: values[m[1]], arg)
            for path, folder in folders.items():
                arg = re.sub(rf"(^|=){re.escape(path)}(?=/|$)",
                             lambda m: m[1] + folder, arg)
            address = re.search(r"tcp://([^:]+):(\d+)", arg)
            if address and self.resolves(namespace, address[1]):
                arg = arg.replace(
                    address[0], f"tcp://127.0.0.1:"
                    f"{self.port(namespace, address[1])}")
            arg = re.sub(r"^--http=\d+$", "--http=0", arg)
            arg = arg.replace("cluster.listen=auto", "cluster.listen=lo")
            if arg.startswith("--set=cluster.port="):
                service = meta["labels"]["job-name"]
                arg = f"--set=cluster.port={self.port(namespace, service)}"
            argv.append(arg)
        assert argv[0] == "shoal", argv
        argv[0] = self.program
        if CAN_NAME_HOSTS:
            argv = ["unshare", "--uts", "sh", "-c",
                    'hostname "$1"; shift; exec "$@"', "sh",
                    meta["name"]] + argv
        elif argv[1] == "server":
            argv.append(f"--index={meta['name'].rsplit('-', 1)[1]}")
        return argv, folders[container["workingDir"]], dict(
            os.environ, **values)

    def resolves(self, namespace, name):
        return self.api.get(("", "services", namespace, name)) is not None

    def port(self, namespace, service):
        return self.ports.setdefault((namespace, service), free_port())

    # --- Controllers -------------------------------------------------------

    def run(self):
        while not self.closed:
            self.delete_what_is_deleted()
            with self.api.lock:
                objects = {k: copy.deepcopy(o)
                           for k, o in self.api.objects.items()}
            for key, obj in objects.items():
                if key[:2] == ("apps", "statefulsets"):
                    self.run_stateful_set(key, obj)
                elif key[:2] == ("batch", "jobs"):
                    self.run_job(key, obj)
            for key in [k for k, p in self.pods.items()
                        if not p.thread.is_alive()]:
                self.pods.pop(key)
            time.sleep(0.02)

    def delete_what_is_deleted(self):
        with self.api.lock:
            deleting, self.api.deleting = self.api.deleting, []
        for key, policy in deleting:
            if key[:2] == ("", "pods"):
                self.stop_pod(key)
                continue
            uid = (self.api.get(key) or {"metadata": {"uid": ""}}
                   )["metadata"]["uid"]
            self.api.drop(key)
            if policy == "Orphan":
                continue
            for pod in list(self.pods):
                obj = self.api.get(pod)
                if obj and obj["metadata"]["ownerReferences"][0]["uid"] == uid:
                    self.stop_pod(pod)

    def stop_pod(self, key):
        obj = self.api.get(key)
        pod = self.pods.get(key)
        if obj is None or pod is None:
            return
        if "deletionTimestamp" not in obj["metadata"]:
            obj["metadata"]["deletionTimestamp"] = now()
            self.api.put(key, obj)
        pod.stop = True

    def create_pod(self, owner_key, owner, name, labels, environment=None):
        template = copy.deepcopy(owner["spec"]["template"])
        obj = {"apiVersion": "v1", "kind": "Pod",
               "metadata": template["metadata"], "spec": template["spec"]}
        obj["metadata"]["labels"].update(labels)
        obj["metadata"]["ownerReferences"] = [
            {"kind": owner["kind"], "name": owner_key[3],
             "uid": owner["metadata"]["uid"]}]
        obj["status"] = {"phase": "Pending"}
        for variable, value in (environment or {}).items():
            obj["spec"]["containers"][0].setdefault("env", []).append(
                {"name": variable, "value": value})
        key = ("", "pods", owner_key[2], name)
        self.api.put(key, obj)
        self.created.append(name)
        self.pods[key] = Pod(self, key)

    def run_stateful_set(self, key, obj):
        for ordinal in range(obj["spec"]["replicas"]):
            name = f"{key[3]}-{ordinal}"
            if ("", "pods", key[2], name) not in self.pods:
                self.create_pod(key, obj, name,
                                {"apps.kubernetes.io/pod-index": str(ordinal)})

    def pods_of(self, job):
        with self.api.lock:
            return [copy.deepcopy(o) for k, o in self.api.objects.items()
                    if k[1] == "pods" and
                    o["metadata"]["ownerReferences"][0]["uid"] ==
                    job["metadata"]["uid"]]

    def run_job(self, key, job):
        if any(c["type"] in ("Complete", "Failed")
               for c in job.get("status", {}).get("conditions", [])):
            return
        spec = job["spec"]
        uid = job["metadata"]["uid"]
        indexed = spec.get("completionMode") == "Indexed"
        wanted = spec.get("completions", 1)
        state = self.counted.setdefault(
            uid, {"failed": {}, "done": set(), "seen": set(), "made": 0})
        active = set()
        for pod in self.pods_of(job):
            index = pod["metadata"]["labels"].get(
                "batch.kubernetes.io/job-completion-index", "0")
            phase = pod.get("status", {}).get("phase")
            if phase not in ("Succeeded", "Failed"):
                active.add(index)
                continue
            if pod["metadata"]["uid"] in state["seen"]:
                continue
            state["seen"].add(pod["metadata"]["uid"])
            if phase == "Succeeded":
                state["done"].add(index)
                continue
            code = pod["status"]["containerStatuses"][0]["state"][
                "terminated"]["exitCode"]
            state["failed"][index] = state["failed"].get(index, 0) + 1
            if self.is_fatal(spec, code):
                return self.end_job(key, "Failed", "PodFailurePolicy",
                                    f"pod {pod['metadata']['name']} failed "
                                    f"with exit code {code}")
            limit = spec.get("backoffLimitPerIndex" if indexed
                             else "backoffLimit", 6)
            if state["failed"][index] > limit:
                return self.end_job(
                    key, "Failed",
                    "FailedIndexes" if indexed else "BackoffLimitExceeded",
                    "Job has reached the specified backoff limit")
        if len(state["done"]) == wanted:
            return self.end_job(key, "Complete", "CompletionsReached",
                                "Reached expected number of succeeded pods")
        for index in map(str, range(wanted)):
            if index in active or index in state["done"]:
                continue
            state["made"] += 1
            labels = {"job-name": key[3],
                      "batch.kubernetes.io/job-name": key[3],
                      "batch.kubernetes.io/controller-uid": uid}
            environment = {}
            name = f"{key[3]}-{state['made']:05x}"
            if indexed:
                labels["batch.kubernetes.io/job-completion-index"] = index
                environment["JOB_COMPLETION_INDEX"] = index
                name = f"{key[3]}-{index}-{state['made']:05x}"
            self.create_pod(key, job, name, labels, environment)

    @staticmethod
    def is_fatal(spec, code):
        for rule in spec.get("podFailurePolicy", {}).get("rules", []):
            on = rule.get("onExitCodes")
            if on is None:
                continue
            listed = code in on["values"]
            if listed == (on["operator"] == "In"):
                return rule["action"] == "FailJob"
        return False

    def end_job(self, key, condition, reason, message):
        job = self.api.get(key)
        if job is None:
            return
        job.setdefault("status", {})["conditions"] = [
            {"type": condition, "status": "True", "reason": reason,
             "message": message}]
        self.api.put(key, job)
        if condition == "Failed":  # its pods are ended
            for pod in self.pods_of(job):
                if pod["status"]["phase"] not in ("Succeeded", "Failed"):
                    self.stop_pod(("", "pods", key[2],
                                   pod["metadata"]["name"]))
