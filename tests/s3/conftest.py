import contextlib
import http.client
import http.server
import logging
import os
import pathlib
import random
import re
import signal
import subprocess
import threading
import time
import urllib.request

import boto3
import botocore.config
import moto.server
import pytest

logging.getLogger("werkzeug").setLevel(logging.ERROR)
PROGRAM = os.environ["SHOAL_PROGRAM"]
KEY, SECRET = "AKIASHOALTEST", "not-to-be-seen-anywhere"
STEPS = 76  # of the job

JOB = """\
name: small
cluster: {servers: 2, workers: 2, virtual_workers: 4}
data:
  root: ROOT
  files: [rows.csv]
  label: clicked
  split: {by: mod, n: 5, test: 4}
  features:
    - {column: user, min_count: 2}
    - {column: item}
    - {column: price, kind: numeric, standardize: true}
model: {kind: deepfm, dim: 4, hidden: [16, 8], dropout: 0.2}
tables:
  linear: {optimizer: {kind: ftrl, learning_rate: 0.1}}
  embedding: {optimizer: {kind: adagrad, learning_rate: 0.1}}
dense: {kind: adam, learning_rate: 0.003}
train: {epochs: 2, batch_size: 64}
"""


class Store:
    """A store that listens on this machine, and boto3 to look into it."""

    def __init__(self, endpoint, key=KEY, secret=SECRET):
        self.endpoint, self.key, self.secret = endpoint, key, secret

    def environment(self, **changes):
        clean = {k: v for k, v in os.environ.items()
                 if not k.startswith("AWS_")}
        return {**clean, "AWS_ENDPOINT_URL": self.endpoint,
                "AWS_ACCESS_KEY_ID": self.key,
                "AWS_SECRET_ACCESS_KEY": self.secret,
                "AWS_REGION": "us-east-1",
                # mpirun as root, with more ranks than cores.
                "OMPI_ALLOW_RUN_AS_ROOT": "1",
                "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                "OMPI_MCA_rmaps_base_oversubscribe": "1", **changes}

    def client(self, service="s3"):
        return boto3.client(
            service, endpoint_url=self.endpoint, region_name="us-east-1",
            aws_access_key_id=self.key, aws_secret_access_key=self.secret,
            config=botocore.config.Config(proxies={}))

    def keys(self, bucket):
        pages = self.client().get_paginator("list_objects_v2")
        return [entry["Key"] for page in pages.paginate(Bucket=bucket)
                for entry in page.get("Contents", [])]


@pytest.fixture(scope="session")
def store():
    server = moto.server.ThreadedMotoServer(ip_address="127.0.0.1", port=0,
                                            verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    store = Store(f"http://{host}:{port}")
    yield store
    server.stop()


@pytest.fixture
def bucket(store, request):
    name = re.sub("[^a-z0-9]+", "-", request.node.name)[:60].strip("-")
    store.client().create_bucket(Bucket=name)
    return name


@pytest.fixture
def guarded(store, bucket):
    """The same store, which from here on checks signatures and permissions."""
    iam = store.client("iam")
    iam.create_user(UserName="trainer")
    made = iam.create_access_key(UserName="trainer")["AccessKey"]

    def allow(*actions):
        iam.put_user_policy(
            UserName="trainer", PolicyName="p",
            PolicyDocument='{"Version": "2012-10-17", "Statement": [{"Effect":'
            ' "Allow", "Action": [%s], "Resource": "*"}]}' %
            ", ".join(f'"{action}"' for action in actions))

    allow("s3:*")
    guarded = Store(store.endpoint, made["AccessKeyId"],
                    made["SecretAccessKey"])
    check_after(store, "0")
    # Whoever changes what is allowed needs no permission.
    def reallow(*actions):
        check_after(store, "inf")
        allow(*actions)
        check_after(store, "0")
    guarded.allow = reallow
    yield guarded
    check_after(store, "inf")
    for key in iam.list_access_keys(UserName="trainer")["AccessKeyMetadata"]:
        iam.delete_access_key(UserName="trainer",
                              AccessKeyId=key["AccessKeyId"])
    iam.delete_user_policy(UserName="trainer", PolicyName="p")
    iam.delete_user(UserName="trainer")


def check_after(store, requests):
    urllib.request.urlopen(urllib.request.Request(
        store.endpoint + "/moto-api/reset-auth", data=requests.encode(),
        headers={"Content-Type": "text/plain"}, method="POST"),
        timeout=10).read()


class Trouble(http.server.BaseHTTPRequestHandler):
    """Hands requests on, but answers some with an error, loses some before
    they get there, and cuts off the answers of others."""
    protocol_version = "HTTP/1.1"
    behind = None
    draw = random.Random(1)
    counts = {}
    share = 0.0
    outage = None  # (begins when this is asked for, seconds)
    out_until = 0.0

    def handle_one(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        trouble = "none"
        if self.outage and self.outage[0] in self.path:
            type(self).out_until = time.monotonic() + self.outage[1]
            type(self).outage = None
        if time.monotonic() < self.out_until:
            trouble = "503"
        elif self.draw.random() < self.share:
            trouble = self.draw.choice(["500", "503", "lost", "unanswered",
                                        "cut"])
        self.counts[trouble] = self.counts.get(trouble, 0) + 1
        if trouble in ("500", "503"):
            self.send_response(int(trouble))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.close_connection = trouble != "none"
        if trouble == "lost":
            return
        with contextlib.closing(http.client.HTTPConnection(
                self.behind, timeout=20)) as connection:
            connection.request(self.command, self.path, body=body,
                               headers=dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
        if trouble == "unanswered":
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "connection", "date",
                                    "server", "transfer-encoding"):
                self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:len(content) // 2]
                             if trouble == "cut" else content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

    def log_message(self, *_):
        pass


@pytest.fixture
def troubled(store):
    """The same store, behind a bad network."""
    handler = type("Handler", (Trouble,), {
        "behind": store.endpoint.removeprefix("http://"), "counts": {},
        "draw": random.Random(7), "share": 0.15, "outage": None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    troubled = Store(f"http://127.0.0.1:{server.server_port}")
    troubled.handler = handler
    yield troubled
    server.shutdown()
    server.server_close()


class Job:
    """A small job in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        draw = random.Random(1)
        with open(folder / "rows.csv", "w") as f:
            f.write("clicked,user,item,price\n")
            for _ in range(3000):
                user, item = draw.randrange(50), draw.randrange(80)
                label = (user * 7 + item * 5) % 10 < 4
                f.write(f"{int(label)},u{user},i{item},"
                        f"{draw.randrange(1000)}\n")
        (folder / "job.yaml").write_text(JOB.replace("ROOT", str(folder)))

    def command(self, out, *sets):
        return [PROGRAM, "train", "job.yaml", "--out", out,
                *(word for key in sets for word in ("--set", key))]

    def train(self, store, out, *sets, **changes):
        return self.run(store, self.command(out, *sets), **changes)

    def run(self, store, command, **changes):
        environment = dict(os.environ)
        if store is not None:
            environment = store.environment(**changes)
        done = subprocess.run(command, cwd=self.folder, env=environment,
                              stdin=subprocess.DEVNULL, timeout=240,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True)
        if store is not None:
            assert store.secret not in done.stdout
        return done

    def checkpoint(self, store, *words):
        done = self.run(store, [PROGRAM, "checkpoint", *words])
        assert done.returncode == 0, done.stdout
        return done.stdout

    def run_and_kill(self, store, bucket, command, find):
        """Runs until the first checkpoint is whole, then kills the process
        that `find` finds. Returns the exit code and what was said."""
        with open(self.folder / "killed.log", "w") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log,
                env=store.environment(), stdin=subprocess.DEVNULL)
        end = time.monotonic() + 120
        try:
            while not any(key.endswith("/manifest.json")
                          for key in store.keys(bucket)):
                assert process.poll() is None, \
                    (self.folder / "killed.log").read_text()
                assert time.monotonic() < end
                time.sleep(0.02)
            os.kill(find(process.pid), signal.SIGKILL)
            code = process.wait(120)
        finally:
            process.kill()
            process.wait()
        return code, (self.folder / "killed.log").read_text()


def children(parent, word):
    """Those whose first argument is `word`."""
    found = []
    for task in pathlib.Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text().split():
            line = pathlib.Path(f"/proc/{child}/cmdline").read_bytes()
            if line.split(b"\0")[1:2] == [word.encode()]:
                found.append(int(child))
    return found


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


@pytest.fixture(scope="session")
def digest(tmp_path_factory):
    """Of the model that the job trains with local checkpoints."""
    job = Job(tmp_path_factory.mktemp("local"))
    done = job.train(None, "out")
    assert done.returncode == 0, done.stdout
    return job.checkpoint(None, "digest", "out")
