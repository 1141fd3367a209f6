#!/usr/bin/env python3
"""run.py TOOLS PROGRAM [ARGS]: the tests of this folder, by pytest.

Puts PyPI's moto, a store with the interface of S3, into the folder TOOLS. Where
it can't be fetched, the tests count as one that was skipped.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
STORE = ["moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check",
       "--no-input"]


def fetch(tools):
    folder = tools / "python"
    if not (folder / "moto").is_dir():
        with tempfile.TemporaryDirectory(dir=tools) as part:
            subprocess.run([*PIP, "install", "--no-warn-script-location",
                            "--root-user-action=ignore", "--target", part,
                            *STORE], check=True, timeout=300)
            os.chmod(part, 0o755)
            os.rename(part, folder)
            os.mkdir(part)  # for the context manager to remove
    return folder


def skip(why, output):
    print(f"skipped: {why}")
    if output:
        pathlib.Path(output, "s3_tests.xml").write_text(
            '<testsuites><testsuite name="S3"><testcase classname="S3" '
            'name="All"><skipped message="no moto"/></testcase></testsuite>'
            '</testsuites>\n')
    return 0


def main():
    tools, program, *args = sys.argv[1:]
    tools = pathlib.Path(tools)
    tools.mkdir(parents=True, exist_ok=True)
    # Where ctest's other programs put their results.
    output = os.environ.get("GTEST_OUTPUT", "").partition("xml:")[2]
    try:
        folder = fetch(tools)
    except (subprocess.SubprocessError, OSError) as error:
        return skip(f"moto can't be fetched: {error}", output)
    if output:
        args.append(f"--junitxml={output}/s3_tests.xml")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "-o", "junit_family=xunit1", str(HERE), *args],
        env=dict(os.environ, SHOAL_PROGRAM=program,
                 PYTHONPATH=str(folder))).returncode


if __name__ == "__main__":
    sys.exit(main())
