"""Checks objects against the schemas of their kinds."""

import copy
import json
import pathlib

import jsonschema

CRDS = pathlib.Path(__file__).resolve().parent / "crds"

# The part of monitoring.coreos.com/v1 that we use; nothing else passes.
_SELECTOR = {"type": "object", "additionalProperties": False,
             "required": ["matchLabels"], "properties": {"matchLabels": {
                 "type": "object",
                 "additionalProperties": {"type": "string"}}}}
POD_MONITOR = {
    "type": "object", "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "PodMonitor"}, "metadata": {"type": "object"},
        "spec": {
            "type": "object", "additionalProperties": False,
            "required": ["selector", "podMetricsEndpoints"],
            "properties": {
                "selector": _SELECTOR,
                "podTargetLabels": {"type": "array",
                                    "items": {"type": "string"}},
                "podMetricsEndpoints": {"type": "array", "items": {
                    "type": "object", "additionalProperties": False,
                    "required": ["port"],
                    "properties": {
                        "port": {"type": "string"},
                        "path": {"type": "string"},
                        "interval": {"type": "string",
                                     "pattern": "^[0-9]+(ms|s|m|h)$"},
                    }}}}}}}


def strict(schema):
    """A CRD's schema as JSON Schema: what is not named does not pass."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: strict(value) for key, value in schema.items()
           if not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        out.pop("anyOf", None)
        out["type"] = ["integer", "string"]
    if schema.get("nullable") and "type" in out:
        out["type"] = [out["type"], "null"]
        del out["nullable"]
    if isinstance(out.get("properties"), dict) and not schema.get(
            "x-kubernetes-preserve-unknown-fields"):
        out.setdefault("additionalProperties", False)
    return out


def custom():
    """(apiVersion, kind) -> schema of the custom resources that we know."""
    schemas = {("monitoring.coreos.com/v1", "PodMonitor"): POD_MONITOR}
    for path in sorted(CRDS.glob("*.json")):
        spec = json.loads(path.read_text())["spec"]
        for version in spec["versions"]:
            schema = copy.deepcopy(version["schema"]["openAPIV3Schema"])
            # An API server fills these in; the CRD only says that they are
            # objects.
            schema["properties"]["metadata"] = {
                "type": "object", "x-kubernetes-preserve-unknown-fields": True}
            schemas[f"{spec['group']}/{version['name']}",
                    spec["names"]["kind"]] = strict(schema)
    return schemas


_CUSTOM = custom()


def check(obj, version):
    """What is wrong with an object, as a list of texts. `version`: of
    Kubernetes, as PyPI's kubernetes-validate has it."""
    name = f"{obj.get('kind')} {obj['metadata']['name']}"
    schema = _CUSTOM.get((obj["apiVersion"], obj["kind"]))
    if schema is not None:
        return [f"{name}: {'.'.join(map(str, e.path))}: {e.message}"
                for e in jsonschema.Draft7Validator(schema).iter_errors(obj)]
    import kubernetes_validate
    try:
        kubernetes_validate.validate(obj, version, strict=True)
    except kubernetes_validate.ValidationError as e:
        return [f"{name}: {'.'.join(map(str, e.path))}: {e.message}"]
    except Exception as e:  # no schema for that kind or version
        return [f"{name}: {type(e).__name__}: {e}"]
    return []
