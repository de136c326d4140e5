"""Packages that the project needs and another machine lacks, as wheels for it, unpacked."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path, PurePosixPath

from detrex_ext.errors import UserError

_GLIBC = (17, 24, 27, 28, 31, 34)


def needed(have: Sequence[str], python: str) -> dict[str, str]:
    """Packages that the project needs and a machine lacks, with the versions that are installed here.

    Args:
        have: what the machine has; what torch asks for is there too.
        python: version of the machine's Python, such as "3.12".

    Raises:
        UserError: a package is not installed here, so that no version of it was tried.
    """
    there = {_plain(name) for name in have} | set(_asked_by("torch", python))
    found: dict[str, str] = {}
    waiting = list(_asked_by("detrex_ext", python))
    while waiting:
        name = waiting.pop()
        if name in there or name in found:
            continue
        try:
            found[name] = version(name)
            waiting += _asked_by(name, python)
        except PackageNotFoundError as error:
            raise UserError(f"gpu bundle: {name} is not installed here: make install") from error
    return dict(sorted(found.items()))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _asked_by(package: str, python: str) -> Iterator[str]:
    from packaging.requirements import Requirement  # of pip's own family, there where packages are installed

    target = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux",
              "platform_system": "Linux", "os_name": "posix", "extra": ""}  # fmt: skip
    try:
        asked = requires(package) or ()
    except PackageNotFoundError as error:
        raise UserError(f"gpu bundle: {package} is not installed here: make install") from error
    for requirement in map(Requirement, asked):
        if requirement.marker is None or requirement.marker.evaluate(target):
            yield _plain(requirement.name)


def wheel(name: str, number: str, python: str, machine: str, folder: Path) -> Path:
    """The wheel of a package for a Python and a machine, from the index that pip knows, or built where it is pure.

    Raises:
        UserError: there is none, or no network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    platforms = [f"manylinux_2_{n}_{machine}" for n in reversed(_GLIBC)] + [f"manylinux2014_{machine}"]
    target = ["--python-version", python, "--implementation", "cp", "--only-binary", ":all:",
              *(word for name in platforms for word in ("--platform", name))]  # fmt: skip
    asked = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    exact = f"{name}=={number}"
    done = subprocess.run([*asked, "download", "--no-deps", *target, "-d", str(folder), exact], capture_output=True)
    if done.returncode:  # no wheel is published; a pure one can be built anywhere
        built = [*asked, "wheel", "--no-deps", "-w", str(folder), exact]
        done = subprocess.run(built, capture_output=True, text=True)
    made = list(folder.glob("*.whl"))
    if done.returncode or len(made) != 1:
        raise UserError(f"gpu bundle: no wheel of {exact} for Python {python}: {(done.stderr or '')[-300:]}")
    if not made[0].name.endswith("-none-any.whl") and machine not in made[0].name:
        raise UserError(f"gpu bundle: {exact} has no wheel for Python {python} on {machine}, found {made[0].name}")
    return made[0]


def unpack(path: Path, folder: Path) -> None:
    """A wheel's files as an installer lays them; scripts are left out."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            parts = PurePosixPath(member.filename).parts
            if parts and parts[0].endswith(".data"):
                if parts[1] not in ("purelib", "platlib"):
                    continue
                member.filename = "/".join(parts[2:])
            if member.filename and not member.is_dir():
                archive.extract(member, folder)
