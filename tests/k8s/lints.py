"""What schemas miss. `lint(objects)` returns texts, one per finding; `objects`
are those that are applied together."""

import re

LABELS = ["app.kubernetes.io/name", "app.kubernetes.io/component"]
# Of the restricted Pod Security Standard.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral",
           "persistentVolumeClaim", "projected", "secret"}


def named(obj):
    return f"{obj['kind']} {obj['metadata']['name']}"


def templates(obj):
    """(what, pod template, labels that its controller adds) of an object."""
    kind, spec = obj["kind"], obj.get("spec", {})
    if kind in ("Job", "StatefulSet", "Deployment", "DaemonSet"):
        yield named(obj), spec["template"]
    elif kind == "MPIJob":
        for role, replica in spec["mpiReplicaSpecs"].items():
            yield f"{named(obj)} {role}", replica["template"]
    elif kind == "JobSet":
        for job in spec["replicatedJobs"]:
            yield (f"{named(obj)} {job['name']}",
                   job["template"]["spec"]["template"])


def all_templates(objects):
    return [t for obj in objects for t in templates(obj)]


def containers(template):
    spec = template["spec"]
    return spec.get("initContainers", []) + spec["containers"]


def matches(selector, labels):
    return all(labels.get(k) == v
               for k, v in selector.get("matchLabels", selector).items())


def lint_labels(objects):
    for obj in objects:
        labels = obj["metadata"].get("labels", {})
        needed = LABELS if obj["kind"] != "Namespace" else LABELS[:1]
        if obj["metadata"]["name"].endswith("default-deny"):
            needed = LABELS[:1]
        for label in needed:
            if label not in labels:
                yield f"{named(obj)}: has no label {label}"


def lint_images(objects):
    for what, template in all_templates(objects):
        for c in containers(template):
            tag = c["image"].rsplit("/", 1)[-1].partition("@")[0]
            if ":" not in tag and "@" not in c["image"]:
                yield f"{what}: image {c['image']} has no tag"
            elif tag.endswith(":latest"):
                yield f"{what}: image {c['image']} is whatever is newest"


def lint_resources(objects):
    for what, template in all_templates(objects):
        for c in containers(template):
            resources = c.get("resources", {})
            for where, key in (("requests", "cpu"), ("requests", "memory"),
                               ("limits", "memory")):
                if key not in resources.get(where, {}):
                    yield f"{what}: container {c['name']} has no {where}.{key}"


def lint_probes(objects):
    for what, template in all_templates(objects):
        for c in template["spec"]["containers"]:
            ports = {p["name"]: p["containerPort"] for p in c.get("ports", [])}
            probes = [k for k in ("startupProbe", "livenessProbe",
                                  "readinessProbe") if k in c]
            # Who offers nothing has nothing to probe.
            if ports and len(probes) < 3:
                yield f"{what}: container {c['name']} lacks probes"
            for probe in probes:
                for how in ("httpGet", "tcpSocket"):
                    port = c[probe].get(how, {}).get("port")
                    if port is not None and port not in ports:
                        yield f"{what}: {probe} asks port {port}, not among " \
                              f"{sorted(ports)}"


def lint_restricted(objects):
    """The restricted Pod Security Standard, and a read-only root."""
    for what, template in all_templates(objects):
        spec = template["spec"]
        pod = spec.get("securityContext", {})
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(key):
                yield f"{what}: {key}"
        if not pod.get("runAsNonRoot") or pod.get("runAsUser", 1) == 0:
            yield f"{what}: may run as root"
        if pod.get("seccompProfile", {}).get("type") not in (
                "RuntimeDefault", "Localhost"):
            yield f"{what}: no seccompProfile"
        for volume in spec.get("volumes", []):
            kinds = set(volume) - {"name"}
            if not kinds <= VOLUMES:
                yield f"{what}: volume {volume['name']} is {kinds - VOLUMES}"
        for c in containers(template):
            context = c.get("securityContext", {})
            if context.get("allowPrivilegeEscalation") is not False:
                yield f"{what}: container {c['name']} may gain privileges"
            if context.get("readOnlyRootFilesystem") is not True:
                yield f"{what}: container {c['name']} can write its root"
            if context.get("privileged"):
                yield f"{what}: container {c['name']} is privileged"
            capabilities = context.get("capabilities", {})
            if "ALL" not in capabilities.get("drop", []) or set(
                    capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
                yield f"{what}: container {c['name']} keeps capabilities"
            if context.get("runAsUser") == 0 or (
                    context.get("runAsNonRoot") is False):
                yield f"{what}: container {c['name']} may run as root"
            for port in c.get("ports", []):
                if "hostPort" in port:
                    yield f"{what}: container {c['name']} has a hostPort"
        if spec.get("automountServiceAccountToken") is not False and (
                "serviceAccountName" not in spec):
            yield f"{what}: gets a token that it has no use for"


def lint_selectors(objects):
    """Selectors that nothing matches, or that a label of a version is in."""
    pods = [t["metadata"].get("labels", {}) for _, t in all_templates(objects)]
    for obj in objects:
        spec = obj.get("spec", {})
        if obj["kind"] == "StatefulSet":
            if not matches(spec["selector"],
                           spec["template"]["metadata"]["labels"]):
                yield f"{named(obj)}: its selector does not match its pods"
        selectors = []
        if obj["kind"] == "Service":
            selectors = [spec["selector"]]
        elif obj["kind"] in ("PodDisruptionBudget", "PodMonitor"):
            selectors = [spec["selector"]]
        elif obj["kind"] == "NetworkPolicy":
            selectors = [spec["podSelector"]]
            for rule in spec.get("ingress", []) + spec.get("egress", []):
                for peer in rule.get("from", []) + rule.get("to", []):
                    if "podSelector" in peer:
                        selectors.append(peer["podSelector"])
        for selector in selectors:
            if "app.kubernetes.io/version" in selector.get("matchLabels",
                                                           selector):
                yield f"{named(obj)}: selects a version"
            if not any(matches(selector, labels) for labels in pods):
                yield f"{named(obj)}: its selector matches no pod"


def lint_services(objects):
    """Ports by name that the pods have; names that StatefulSets refer to."""
    services = {o["metadata"]["name"]: o for o in objects
                if o["kind"] == "Service"}
    for service in services.values():
        selected = [t for _, t in all_templates(objects)
                    if matches(service["spec"]["selector"],
                               t["metadata"].get("labels", {}))]
        for port in service["spec"]["ports"]:
            if not isinstance(port.get("targetPort"), str):
                yield f"{named(service)}: port {port['port']} has no named " \
                      "target"
                continue
            for template in selected:
                known = {p["name"]: p["containerPort"]
                         for c in template["spec"]["containers"]
                         for p in c.get("ports", [])}
                if known.get(port["targetPort"]) != port["port"]:
                    yield f"{named(service)}: {port['targetPort']} is not a " \
                          f"port of its pods, or another: {known}"
    for obj in objects:
        if obj["kind"] == "StatefulSet":
            service = services.get(obj["spec"]["serviceName"])
            if service is None:
                yield f"{named(obj)}: no Service {obj['spec']['serviceName']}"
            elif (service["spec"].get("clusterIP") != "None" or
                  not service["spec"].get("publishNotReadyAddresses")):
                yield f"{named(service)}: must be headless and publish pods " \
                      "that are not ready"
        if obj["kind"] == "PodMonitor":
            ports = {p["name"] for _, t in all_templates(objects)
                     if matches(obj["spec"]["selector"],
                                t["metadata"].get("labels", {}))
                     for c in t["spec"]["containers"]
                     for p in c.get("ports", [])}
            for endpoint in obj["spec"]["podMetricsEndpoints"]:
                if endpoint["port"] not in ports:
                    yield f"{named(obj)}: no pod has port {endpoint['port']}"


def lint_references(objects):
    """What pods refer to is there: volumes, ConfigMaps, claims, variables."""
    names = {(o["kind"], o["metadata"]["name"]) for o in objects}
    for what, template in all_templates(objects):
        spec = template["spec"]
        volumes = {v["name"] for v in spec.get("volumes", [])}
        for volume in spec.get("volumes", []):
            for kind, key, name in (
                    ("ConfigMap", "configMap", "name"),
                    ("PersistentVolumeClaim", "persistentVolumeClaim",
                     "claimName")):
                if key in volume and (kind, volume[key][name]) not in names:
                    yield f"{what}: no {kind} {volume[key][name]}"
        account = spec.get("serviceAccountName")
        if account and ("ServiceAccount", account) not in names:
            yield f"{what}: no ServiceAccount {account}"
        for c in containers(template):
            for mount in c.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield f"{what}: no volume {mount['name']}"
            known = {v["name"] for v in c.get("env", [])}
            known.add("JOB_COMPLETION_INDEX")  # of Indexed Jobs
            for arg in c.get("command", []) + c.get("args", []):
                for name in re.findall(r"\$\((\w+)\)", arg):
                    if name not in known:
                        yield f"{what}: {arg}: no variable {name}"
            for variable in c.get("env", []):
                if variable["name"] == "SHOAL_COORDINATOR" and (
                        "Service", variable["value"]) not in names:
                    yield f"{what}: no Service {variable['value']}"


def lint_jobs(objects):
    """Rules of the API that the schemas do not have."""
    for obj in objects:
        spec = obj.get("spec", {})
        if obj["kind"] == "Job":
            if "podFailurePolicy" in spec and (
                    spec["template"]["spec"].get("restartPolicy") != "Never"):
                yield f"{named(obj)}: podFailurePolicy needs restartPolicy " \
                      "Never"
            if spec.get("completionMode") == "Indexed" and (
                    spec.get("completions") != spec.get("parallelism")):
                yield f"{named(obj)}: its pods must run at the same time"
        if obj["kind"] == "MPIJob":
            replicas = spec["mpiReplicaSpecs"]
            if replicas["Launcher"].get("replicas") != 1:
                yield f"{named(obj)}: Launcher.replicas must be 1"
            if spec.get("launcherCreationPolicy") not in (
                    None, "AtStartup", "WaitForWorkersReady"):
                yield f"{named(obj)}: launcherCreationPolicy"
            ranks = (replicas["Worker"]["replicas"] *
                     spec.get("slotsPerWorker", 1))
            args = replicas["Launcher"]["template"]["spec"]["containers"][0][
                "args"]
            if f"--expect-ranks={ranks}" not in args:
                yield f"{named(obj)}: --expect-ranks is not {ranks}"
            available = spec["runPolicy"].get("schedulingPolicy", {}).get(
                "minAvailable")
            if available not in (None, replicas["Worker"]["replicas"]):
                yield f"{named(obj)}: minAvailable counts the launcher, who " \
                      "waits for the workers"


def lint_bindings(objects):
    names = {(o["kind"], o["metadata"]["name"]) for o in objects}
    for obj in objects:
        if obj["kind"] != "RoleBinding":
            continue
        role = obj["roleRef"]
        if (role["kind"], role["name"]) not in names:
            yield f"{named(obj)}: no {role['kind']} {role['name']}"
        for subject in obj["subjects"]:
            if (subject["kind"], subject["name"]) not in names:
                yield f"{named(obj)}: no {subject['kind']} {subject['name']}"


LINTS = [lint_labels, lint_images, lint_resources, lint_probes,
         lint_restricted, lint_selectors, lint_services, lint_references,
         lint_jobs, lint_bindings]


def lint(objects):
    return [text for check in LINTS for text in check(objects)]


def unused_or_missing_verbs(role, used):
    """Compares a Role with the (group, resource, verb) that were asked for."""
    granted = {(group, resource, verb) for rule in role["rules"]
               for group in rule["apiGroups"]
               for resource in rule["resources"] for verb in rule["verbs"]}
    return sorted(granted - used), sorted(used - granted)
