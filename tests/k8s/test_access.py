"""How `shoal launch k8s` finds a cluster, and whom it trusts and tells."""

import base64
import json
import os
import signal
import ssl
import subprocess
import time

import pytest

from conftest import JOB, kubeconfig
from fake_api import FakeApi, Fault


def openssl(folder, *args):
    subprocess.run(["openssl", *args], cwd=folder, check=True,
                   capture_output=True, timeout=60)


class Authority:
    """A certificate authority with what it has signed."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes",
                "-keyout", "ca.key", "-out", "ca.crt", "-days", "2",
                "-subj", "/CN=test authority")

    def sign(self, name, subject_alt_name):
        (self.folder / "ext").write_text(f"subjectAltName={subject_alt_name}")
        openssl(self.folder, "req", "-newkey", "rsa:2048", "-nodes", "-keyout",
                f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(self.folder, "x509", "-req", "-in", f"{name}.csr", "-CA",
                "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                "-extfile", "ext", "-out", f"{name}.crt")

    def server(self, name="server", clients=False):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{name}.crt",
                                self.folder / f"{name}.key")
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.folder / "ca.crt")
        return context

    def data(self, file):
        return base64.b64encode((self.folder / file).read_bytes()).decode()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    a = Authority(tmp_path_factory.mktemp("tls") / "ours")
    a.sign("server", "IP:127.0.0.1,DNS:localhost")
    a.sign("elsewhere", "DNS:kubernetes.example")
    a.sign("me", "DNS:me")
    return a


@pytest.fixture
def api():
    started = []

    def make(**args):
        started.append(FakeApi(**args))
        return started[-1]

    yield make
    for each in started:
        each.close()


@pytest.fixture
def delete(program, tmp_path):
    """`shoal launch k8s --delete`: the shortest talk with an API server."""
    (tmp_path / "job.yaml").write_text(JOB)

    def run(*args, env=None):
        return subprocess.run(
            [program, "launch", "k8s", "job.yaml", "--delete", "--api-within",
             "2", *map(str, args)], cwd=tmp_path, capture_output=True,
            text=True, timeout=30, env=env or os.environ)
    return run


def test_tls_with_a_token(api, authority, delete, tmp_path):
    a = api(tls=authority.server(), token="s3cret")
    ca = f", certificate-authority-data: {authority.data('ca.crt')}"
    run = delete("--kubeconfig", kubeconfig(tmp_path / "c", a.url,
                                            "token: s3cret", ca))
    assert run.returncode == 0, run
    assert "removed from namespace train" in run.stderr
    # The token is read anew from its file, which may change.
    (tmp_path / "token").write_text("s3cret\n")
    run = delete("--kubeconfig", kubeconfig(tmp_path / "c", a.url,
                                            "tokenFile: token", ca))
    assert run.returncode == 0, run
    run = delete("--kubeconfig", kubeconfig(tmp_path / "c", a.url,
                                            "token: wrong", ca))
    assert run.returncode == 1, run
    assert "401 Unauthorized" in run.stderr and "not accepted" in run.stderr


def test_a_token_file_that_is_renewed_is_read_again(api, authority, program,
                                                    tmp_path):
    a = api(tls=authority.server(), token="old")
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "token").write_text("old\n")
    config = kubeconfig(tmp_path / "c", a.url, "tokenFile: token",
                        f", certificate-authority: {authority.folder}/ca.crt")
    # Busy with a server that fails, the launcher lives through the change.
    a.faults = [Fault("GET", "jobs", 503, times=10**6)]
    with subprocess.Popen(
            [program, "launch", "k8s", "job.yaml", "--kubeconfig", str(config),
             "--start-within", "1"], cwd=tmp_path, stderr=subprocess.PIPE,
            text=True) as process:
        end = time.monotonic() + 10
        while not a.faults[0].hits:
            assert time.monotonic() < end
            time.sleep(0.02)
        a.token = "new"
        (tmp_path / "token").write_text("new\n")
        a.faults = []
        _, err = process.communicate(timeout=30)
    assert "401" not in err, err
    assert "members of the job are missing" in err, err


def test_a_server_that_is_not_trusted_gets_nothing(api, authority, delete,
                                                   tmp_path,
                                                   tmp_path_factory):
    other = Authority(tmp_path_factory.mktemp("tls") / "other")
    a = api(tls=authority.server())
    for ca, said in [(f", certificate-authority: {other.folder}/ca.crt",
                      "certificate is not trusted"),
                     ("", "certificate is not trusted")]:
        run = delete("--kubeconfig", kubeconfig(tmp_path / "c", a.url,
                                                "token: s3cret", ca))
        assert run.returncode == 1 and said in run.stderr, run
    assert a.requests == []


def test_a_certificate_of_another_name_is_refused(api, authority, delete,
                                                  tmp_path):
    a = api(tls=authority.server("elsewhere"))
    run = delete("--kubeconfig", kubeconfig(
        tmp_path / "c", a.url, "token: s3cret",
        f", certificate-authority: {authority.folder}/ca.crt"))
    assert run.returncode == 1, run
    assert "not trusted: it is for another name" in run.stderr
    assert a.requests == []


def test_client_certificates(api, authority, delete, tmp_path):
    a = api(tls=authority.server(clients=True))
    ca = f", certificate-authority: {authority.folder}/ca.crt"
    run = delete("--kubeconfig", kubeconfig(
        tmp_path / "c", a.url,
        f"client-certificate-data: {authority.data('me.crt')}, "
        f"client-key-data: {authority.data('me.key')}", ca))
    assert run.returncode == 0, run
    run = delete("--kubeconfig", kubeconfig(tmp_path / "c", a.url, "", ca))
    assert run.returncode == 75, run  # the server hangs up
    run = delete("--kubeconfig", kubeconfig(
        tmp_path / "c", a.url,
        f"client-certificate: {authority.folder}/me.crt, "
        f"client-key: {authority.folder}/server.key", ca))
    assert run.returncode == 1 and "no pair" in run.stderr, run


@pytest.mark.parametrize("user, cluster, said", [
    ("exec: {command: aws}", "", "apiVersion '' is none of"),
    ("exec: {command: aws, apiVersion: client.authentication.k8s.io/v1alpha1}",
     "", "a newer aws writes such a kubeconfig"),
    ("exec: {apiVersion: client.authentication.k8s.io/v1}", "",
     "has no command"),
    ("exec: {command: aws, apiVersion: client.authentication.k8s.io/v1,"
     " interactiveMode: Always}", "", "aws wants a terminal"),
    ("exec: {command: aws, apiVersion: client.authentication.k8s.io/v1,"
     " env: [{value: x}]}", "", "has no valid name"),
    ("exec: {command: aws, apiVersion: client.authentication.k8s.io/v1}", "",
     "is not https: no token is sent there"),
    ("auth-provider: {name: gcp}", "", "signs in by 'auth-provider'"),
    ("username: me, password: x", "", "signs in by 'username'"),
    ("", ", insecure-skip-tls-verify: true", "insecure-skip-tls-verify"),
    ("", ", proxy-url: 'http://p'", "proxy-url is not supported"),
    ("client-certificate: /none", "", "'/none' can't be read"),
    ("client-key-data: '***'", "", "client-key-data is not base64"),
    ("token: x", "", "is not https: no token is sent there"),
])
def test_what_is_not_done_is_said(delete, tmp_path, user, cluster, said):
    run = delete("--kubeconfig", kubeconfig(tmp_path / "c",
                                            "http://127.0.0.1:1", user,
                                            cluster))
    assert run.returncode == 1 and said in run.stderr, run


def test_contexts_and_files(api, delete, tmp_path):
    a = api()
    good = kubeconfig(tmp_path / "good", a.url)
    run = delete("--kubeconfig", good, "--context", "there")
    assert run.returncode == 1, run
    assert "no context 'there'; there are: here" in run.stderr
    run = delete("--kubeconfig", tmp_path / "none")
    assert run.returncode == 1 and "none' can't be read" in run.stderr, run
    (tmp_path / "bad").write_text("a: [\n")
    run = delete("--kubeconfig", tmp_path / "bad")
    assert run.returncode == 1 and "bad:" in run.stderr, run
    # The first file that has a name wins, and files that are not there are
    # passed over.
    env = {**os.environ, "KUBECONFIG": f"{tmp_path}/none:{good}"}
    assert delete(env=env).returncode == 0
    env = {k: v for k, v in os.environ.items()
           if not k.startswith("KUBE")} | {"HOME": str(tmp_path)}
    run = delete(env=env)
    assert run.returncode == 1 and "no Kubernetes cluster is known" in \
        run.stderr, run
    (tmp_path / ".kube").mkdir()
    kubeconfig(tmp_path / ".kube/config", a.url)
    assert delete(env=env).returncode == 0


def test_nobody_there(delete, tmp_path):
    run = delete("--kubeconfig", kubeconfig(tmp_path / "c",
                                            "http://127.0.0.1:1"))
    assert run.returncode == 75, run
    assert "http://127.0.0.1:1 does not answer" in run.stderr


# --- Sign-in programs --------------------------------------------------------

PROGRAM = """\
#!/usr/bin/python3
import datetime, json, os, sys, time
here = os.path.dirname(os.path.abspath(__file__))
with open(here + "/runs", "a") as f:
    f.write(json.dumps({"info": json.loads(os.environ["KUBERNETES_EXEC_INFO"]),
                        "args": sys.argv[1:], "more": os.environ.get("MORE"),
                        "terminal": sys.stdin.isatty()}) + "\\n")
runs = len(open(here + "/runs").readlines())
later = lambda seconds: (datetime.datetime.now(datetime.timezone.utc) +
                         datetime.timedelta(seconds=seconds)).isoformat()
status = {}
"""


@pytest.fixture
def sign_in(tmp_path, authority):
    """A kubeconfig whose user signs in by a script of these lines."""
    def make(server, lines, more="", command="./prog/sign-in", cluster=""):
        folder = tmp_path / "prog"
        folder.mkdir(exist_ok=True)
        (folder / "runs").unlink(missing_ok=True)
        script = folder / "sign-in"
        script.write_text(PROGRAM + lines + """
print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1",
                  "kind": "ExecCredential", "status": status}))
""")
        script.chmod(0o755)
        ca = f", certificate-authority-data: {authority.data('ca.crt')}"
        return kubeconfig(
            tmp_path / "c", server,
            f"exec: {{command: {command}, "
            f"apiVersion: client.authentication.k8s.io/v1, "
            f"installHint: get it at example.com{more}}}", ca + cluster)

    make.runs = lambda: [json.loads(line) for line in
                         (tmp_path / "prog/runs").read_text().splitlines()]
    return make


def test_sign_in_program_gives_a_token(api, authority, delete, sign_in):
    a = api(tls=authority.server(), token="s3cret")
    run = delete("--kubeconfig", sign_in(
        a.url, "status = {'token': 's3cret'}",
        ", args: [get, 1], env: [{name: MORE, value: x}], "
        "provideClusterInfo: true, interactiveMode: IfAvailable",
        cluster=", extensions: [{name: client.authentication.k8s.io/exec, "
                "extension: {audience: me}}]"))
    assert run.returncode == 0, run
    # Once for all requests, with what it may know.
    (only,) = sign_in.runs()
    assert only["args"] == ["get", "1"] and only["more"] == "x"
    assert not only["terminal"]
    assert only["info"] == {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential", "spec": {
            "interactive": False, "cluster": {
                "server": a.url, "config": {"audience": "me"},
                "certificate-authority-data": authority.data("ca.crt")}}}


def test_sign_in_program_runs_again_when_its_token_ends(api, authority, delete,
                                                        sign_in):
    a = api(tls=authority.server(), token="s3cret")
    # Expired at once: for each request.
    run = delete("--kubeconfig", sign_in(
        a.url, "status = {'token': 's3cret', 'expirationTimestamp': later(5)}"))
    assert run.returncode == 0, run
    assert len(sign_in.runs()) >= len(a.requests) > 2
    run = delete("--kubeconfig", sign_in(
        a.url, "status = {'token': 's3cret', "
               "'expirationTimestamp': later(600)}"))
    assert run.returncode == 0 and len(sign_in.runs()) == 1, run
    # Refused before that: once more.
    run = delete("--kubeconfig", sign_in(
        a.url, "status = {'token': 's3cret' if runs > 1 else 'old'}"))
    assert run.returncode == 0 and len(sign_in.runs()) == 2, run
    run = delete("--kubeconfig", sign_in(a.url, "status = {'token': 'bad'}"))
    assert run.returncode == 1 and "401 Unauthorized" in run.stderr, run
    assert len(sign_in.runs()) == 2, "the program asked for ever"


def test_sign_in_program_gives_a_certificate(api, authority, delete, sign_in):
    a = api(tls=authority.server(clients=True))
    folder = authority.folder
    certificate = (f"status = {{'clientCertificateData': "
                   f"open('{folder}/me.crt').read(), 'clientKeyData': "
                   f"open('{folder}/me.key').read()}}\n")
    run = delete("--kubeconfig", sign_in(a.url, certificate))
    assert run.returncode == 0, run
    # A new one for each request, as one that ends has.
    authority.sign("you", "DNS:you")
    run = delete("--kubeconfig", sign_in(
        a.url, certificate + "if runs % 2:\n    status = " +
        certificate.replace("me.", "you.").partition("= ")[2] +
        "status['expirationTimestamp'] = later(0)"))
    assert run.returncode == 0 and len(sign_in.runs()) > 2, run


@pytest.mark.parametrize("lines, said", [
    ("sys.exit(print('not logged in\\nrun login', file=sys.stderr) or 3)",
     "ended with exit code 3: not logged in run login"),
    ("os.kill(os.getpid(), 9)", "was ended by signal 9"),
    ("print('hello')", "prints no ExecCredential"),
    ("pass", "gives neither a token nor a certificate"),
    ("status = 7", "gives no status"),
    ("status = {'clientKeyData': 'x'}", "without the other"),
    ("status = {'token': 'a\\nb'}", "a token with blanks in it"),
    ("status = {'token': 'a', 'expirationTimestamp': 'soon'}",
     "that is no time: soon"),
    ("print('x' * 2000000)", "prints more than 1 MiB"),
    ("print(json.dumps({'kind': 'ExecCredential', 'apiVersion': 'v9'}))\n"
     "sys.exit()", "answers by v9, not by the client.authentication"),
])
def test_sign_in_program_that_fails_is_named(delete, sign_in, lines, said):
    run = delete("--kubeconfig", sign_in("https://127.0.0.1:1", lines))
    assert run.returncode in (1, 75) and said in run.stderr, run
    assert "user me: the sign-in program" in run.stderr, run
    assert "get it at example.com" in run.stderr, run


def test_sign_in_program_that_is_not_there_says_how_to_get_it(delete, sign_in):
    for command in ("no-such-sign-in", "./prog/none"):
        run = delete("--kubeconfig", sign_in("https://127.0.0.1:1", "",
                                             command=command))
        assert run.returncode == 1, run
        assert "can't be run: No such file" in run.stderr, run
        assert command.strip("./") in run.stderr, run
        assert "get it at example.com" in run.stderr, run


def test_sign_in_program_that_hangs_ends_by_ctrl_c(program, tmp_path, sign_in):
    (tmp_path / "job.yaml").write_text(JOB)
    config = sign_in("https://127.0.0.1:1", "time.sleep(1000)")
    with subprocess.Popen(
            [program, "launch", "k8s", "job.yaml", "--delete", "--kubeconfig",
             str(config)], cwd=tmp_path, stderr=subprocess.PIPE,
            text=True) as process:
        end = time.monotonic() + 10
        while not (tmp_path / "prog/runs").exists():
            assert time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 75 and "stopped by signal 2" in err, err
