"""An API server in this process, as far as `shoal launch k8s` needs one.

It keeps objects, answers get, list, watch, apply and delete, and fails on
demand. Who runs the pods is fake_cluster.py. It checks no schema: what is
rendered is validated elsewhere.
"""

import copy
import datetime
import http.server
import json
import re
import ssl
import threading
import time
import urllib.parse
import uuid

# Group and plural of what the server knows; a cluster may know more (CRDs).
BUILT_IN = {
    ("", "configmaps"), ("", "services"), ("", "pods"), ("", "events"),
    ("", "persistentvolumeclaims"), ("apps", "statefulsets"),
    ("batch", "jobs"), ("networking.k8s.io", "networkpolicies"),
    ("policy", "poddisruptionbudgets"),
}


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime(
        "%Y-%m-%dT%H:%M:%S.%fZ")


def error(code, reason, message, causes=None):
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure",
              "code": code, "reason": reason, "message": message}
    if causes:
        status["details"] = {"causes": causes}
    return status


class Fault:
    """Answers requests that match, `times` times, instead of the server."""

    def __init__(self, method, pattern, code, times=1, headers=None, body=None,
                 skip=0, late=0):
        self.method, self.pattern = method, re.compile(pattern)
        self.code, self.times, self.skip = code, times, skip
        self.headers = headers or {}
        self.body = body or error(code, "Fault", "planted by the test")
        self.late = late  # seconds until it is carried out all the same
        self.hits = 0


class FakeApi:
    def __init__(self, namespaces=("train",), crds=(), token=None, tls=None):
        self.lock = threading.Condition(threading.RLock())
        self.objects = {}  # (group, plural, namespace, name) -> object
        self.history = []  # (version, event type, key, object)
        self.version = 100
        self.oldest = 0  # versions before it are forgotten: 410
        self.namespaces = set(namespaces)
        self.known = BUILT_IN | set(crds)
        self.token = token
        self.faults = []
        self.verbs = set()  # (group, resource, verb) that were needed
        self.requests = []  # "METHOD path"
        self.watched = set()  # resources of which somebody has begun a watch
        self.logs = lambda namespace, name: None
        self.deleting = []  # keys whose deletion somebody must carry out
        self.closed = False
        self.cut_watches = 0  # events after which the connection breaks
        self.cut_logs = 0  # lines after which a log ends, its pod does not
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 0

            def log_message(self, *args):
                pass

            def handle_one_request(self):
                try:
                    super().handle_one_request()
                except (ConnectionError, ssl.SSLError, TimeoutError):
                    self.close_connection = True

            def do(self):
                api.handle(self)

            do_GET = do_PATCH = do_POST = do_DELETE = do_PUT = do

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *args: None
        self.scheme = "http"
        if tls is not None:
            self.scheme = "https"
            self.http.socket = tls.wrap_socket(
                self.http.socket, server_side=True,
                do_handshake_on_connect=False)
        self.port = self.http.server_address[1]
        self.thread = threading.Thread(target=self.http.serve_forever,
                                       kwargs={"poll_interval": 0.05})
        self.thread.start()

    def close(self):
        with self.lock:
            self.closed = True
            self.lock.notify_all()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.port}"

    # --- The store ---------------------------------------------------------

    def put(self, key, obj):
        """Makes or changes an object, and tells the watchers."""
        with self.lock:
            self.version += 1
            kind = "MODIFIED" if key in self.objects else "ADDED"
            meta = obj.setdefault("metadata", {})
            meta.setdefault("uid", str(uuid.uuid4()))
            meta.setdefault("creationTimestamp", now())
            meta.update(name=key[3], namespace=key[2],
                        resourceVersion=str(self.version))
            self.objects[key] = copy.deepcopy(obj)
            self.history.append((self.version, kind, key, copy.deepcopy(obj)))
            self.lock.notify_all()

    def drop(self, key):
        with self.lock:
            obj = self.objects.pop(key, None)
            if obj is None:
                return
            self.version += 1
            obj["metadata"]["resourceVersion"] = str(self.version)
            self.history.append((self.version, "DELETED", key, obj))
            self.lock.notify_all()

    def get(self, key):
        with self.lock:
            return copy.deepcopy(self.objects.get(key))

    def forget_history(self):
        """All watches from before now end with 410."""
        with self.lock:
            self.version += 1
            self.oldest = self.version
            self.lock.notify_all()

    def names(self):
        with self.lock:
            return sorted((key[1], key[3]) for key in self.objects)

    # --- HTTP --------------------------------------------------------------

    def reply(self, h, code, body, headers=None):
        data = (json.dumps(body) + "\n").encode()
        h.send_response(code)
        h.send_header("Content-Type", "application/json")
        h.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            h.send_header(name, value)
        h.end_headers()
        h.wfile.write(data)

    def handle(self, h):
        length = int(h.headers.get("Content-Length") or 0)
        body = h.rfile.read(length) if length else b""
        url = urllib.parse.urlsplit(h.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        with self.lock:
            self.requests.append(f"{h.command} {h.path}")
            for fault in self.faults:
                if (fault.method == h.command and fault.pattern.search(h.path)
                        and fault.times > 0):
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    fault.hits += 1
                    break
            else:
                fault = None
        if fault is not None and fault.late:
            time.sleep(fault.late)
        elif fault is not None:
            return self.reply(h, fault.code, fault.body, fault.headers)
        if (self.token is not None and
                h.headers.get("Authorization") != f"Bearer {self.token}"):
            return self.reply(h, 401, error(401, "Unauthorized",
                                            "Unauthorized"))
        match = re.fullmatch(
            r"/(?:api/v1|apis/(?P<group>[^/]+)/[^/]+)/namespaces/"
            r"(?P<namespace>[^/]+)/(?P<plural>[^/]+)"
            r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?", url.path)
        if match is None or (match["group"] or "",
                             match["plural"]) not in self.known:
            return self.reply(h, 404, error(
                404, "NotFound",
                "the server could not find the requested resource"))
        if match["namespace"] not in self.namespaces:
            return self.reply(h, 404, error(
                404, "NotFound",
                f'namespaces "{match["namespace"]}" not found'))
        key = (match["group"] or "", match["plural"], match["namespace"],
               match["name"])
        self.route(h, key, match["sub"], query, body)

    def need(self, key, verb, sub=None):
        with self.lock:
            self.verbs.add((key[0], key[1] + (f"/{sub}" if sub else ""), verb))

    def route(self, h, key, sub, query, body):
        if sub == "log":
            self.need(key, "get", "log")
            return self.send_log(h, key, query)
        if h.command == "GET" and key[3] is None:
            if query.get("watch") == "true":
                self.need(key, "watch")
                return self.send_watch(h, key, query)
            self.need(key, "list")
            with self.lock:
                items = [copy.deepcopy(obj)
                         for k, obj in sorted(self.objects.items())
                         if k[:3] == key[:3] and selected(obj, query)]
                version = str(self.version)
            return self.reply(h, 200, {
                "kind": "List", "apiVersion": "v1",
                "metadata": {"resourceVersion": version}, "items": items})
        if h.command == "GET":
            self.need(key, "get")
            obj = self.get(key)
            return (self.reply(h, 200, obj) if obj else
                    self.reply(h, 404, self.missing(key)))
        if h.command == "PATCH":
            return self.apply(h, key, query, body)
        if h.command == "DELETE":
            self.need(key, "delete")
            if self.get(key) is None:
                return self.reply(h, 404, self.missing(key))
            policy = json.loads(body or b"{}").get("propagationPolicy")
            with self.lock:
                self.deleting.append((key, policy))
                self.lock.notify_all()
            return self.reply(h, 200, {"kind": "Status", "status": "Success"})
        return self.reply(h, 405, error(405, "MethodNotAllowed", h.command))

    @staticmethod
    def missing(key):
        return error(404, "NotFound", f'{key[1]} "{key[3]}" not found')

    def apply(self, h, key, query, body):
        if (h.headers.get("Content-Type") != "application/apply-patch+yaml" or
                not query.get("fieldManager")):
            return self.reply(h, 415, error(
                415, "UnsupportedMediaType", "only server-side apply"))
        obj = json.loads(body)
        self.need(key, "patch")
        with self.lock:
            there = self.objects.get(key)
            if there is None:
                self.need(key, "create")
            else:  # what others have set stays
                obj["metadata"] = {**there["metadata"], **obj["metadata"]}
                if "status" in there:
                    obj["status"] = there["status"]
            self.put(key, obj)
            return self.reply(h, 200 if there else 201, self.objects[key])

    def start_stream(self, h, content_type="application/json"):
        h.send_response(200)
        h.send_header("Content-Type", content_type)
        h.send_header("Transfer-Encoding", "chunked")
        h.end_headers()

    @staticmethod
    def send_chunk(h, data):
        h.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def send_watch(self, h, key, query):
        version = int(query.get("resourceVersion") or 0)
        gone = error(410, "Expired", f"too old resource version: {version}")
        with self.lock:
            if version < self.oldest:
                return self.reply(h, 410, gone)
        self.start_stream(h)
        with self.lock:
            self.watched.add(key[1])
        end = time.monotonic() + float(query.get("timeoutSeconds", 60))
        while time.monotonic() < end:
            with self.lock:
                if self.closed:
                    h.close_connection = True
                    return
                lost = version < self.oldest
                events = [(v, t, o) for v, t, k, o in self.history
                          if v > version and k[:3] == key[:3]
                          and selected(o, query)]
                if not events and not lost:
                    self.lock.wait(0.2)
                    continue
            if lost:  # said inside the stream, as servers do
                self.send_chunk(h, json.dumps(
                    {"type": "ERROR", "object": gone}).encode() + b"\n")
                break
            for v, event, obj in events:
                version = v
                line = json.dumps({"type": event, "object": obj}).encode()
                if self.cut_watches > 0:
                    self.cut_watches -= 1
                    self.send_chunk(h, line[:len(line) // 2])
                    h.close_connection = True
                    return
                self.send_chunk(h, line + b"\n")
        self.send_chunk(h, b"")

    def send_log(self, h, key, query):
        log = self.logs(key[2], key[3])
        if log is None:
            return self.reply(h, 400, error(
                400, "BadRequest", "the container has not started yet"))
        self.start_stream(h, "text/plain")
        # sinceTime is in whole seconds
        since = query.get("sinceTime", "")[:19]
        sent = 0
        while True:
            with self.lock:
                lines = log.lines[sent:]
                ended = log.ended or self.closed
            sent += len(lines)
            for stamp, line in lines:
                if stamp[:19] >= since:
                    self.send_chunk(h, f"{stamp} {line}\n".encode())
                    if self.cut_logs > 0:
                        self.cut_logs -= 1
                        return self.send_chunk(h, b"")
            if ended and not lines:
                break
            with self.lock:
                self.lock.wait(0.05)
        self.send_chunk(h, b"")


def selected(obj, query):
    labels = obj["metadata"].get("labels", {})
    for term in filter(None, query.get("labelSelector", "").split(",")):
        name, value = term.split("=")
        if labels.get(name) != value:
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        name, value = term.split("=")
        if obj.get(name) != value:
            return False
    return True
