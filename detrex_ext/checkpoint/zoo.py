"""Models of this project by name, ``zoo:small_shapes``: their files, as ``zoo.json`` states them.

A file is looked for in the folder that ``DETREX_EXT_ZOO`` names and in torch's cache, and fetched to the latter where
its entry has an address. Wherever it is from, its size and SHA-256 digest are held against the entry before it is read,
and then it is read like every other checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import urllib.request
import uuid
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import torch

from detrex_ext.config.files import near
from detrex_ext.errors import UserError

from .digests import sha256_of
from .zoo_entries import Entry, entries

SCHEME, FOLDER = "zoo", "DETREX_EXT_ZOO"
_BLOCK, _TIMEOUT = 1 << 20, 30.0


def find_zoo(name: str) -> str:
    """Path of the file of a model, checked.

    Raises:
        UserError: no such model; no such file here, and none that can be fetched; another file in its place.
    """
    asked, known = f"checkpoint {SCHEME}:{name}", entries()
    entry = known.get(name.lower())
    if entry is None:
        raise UserError(f"{asked}: unknown; {near(name.lower(), known)}\n  python -m detrex_ext zoo lists the models")
    paths = [os.path.join(folder, entry.file) for folder in folders()]
    for path in filter(os.path.lexists, paths):
        if problem := file_problem(path, entry):
            raise UserError(f"{asked}: {path} {problem}\n  delete it, and take the file of the release again")
        return path
    reason = "it is a file of the release, without an address of its own"
    if entry.where != entry.file:
        try:
            return _fetched(entry, paths[-1])
        except Exception as error:  # whatever a network does
            told = (str(error).splitlines() or [""])[0]
            reason = f"{entry.where} cannot be fetched ({type(error).__name__}: {told})"
    raise UserError(
        f"{asked}: {entry.file} is not here, and {reason}\n"
        f"  put it into {' or '.join(map(os.path.dirname, paths))} ({FOLDER}=DIR names another folder),\n"
        f"  or train one like it: python -m detrex_ext zoo build {entry.name} --output DIR"
    )


def folders() -> list[str]:
    """Where files are looked for: the folder that ``DETREX_EXT_ZOO`` names, then torch's cache, which is fetched to.

    Raises:
        UserError: there is no such folder.
    """
    named = os.path.expanduser(os.environ.get(FOLDER, ""))
    if named and not os.path.isdir(named):
        raise UserError(f"{FOLDER}={named}: expected a folder with files of the zoo")
    return [*([named] if named else []), os.path.join(torch.hub.get_dir(), "checkpoints")]


def file_problem(path: str | os.PathLike, entry: Entry) -> str:
    """Why a file is not the one of an entry; "" = it is."""
    real = os.path.realpath(path)
    if os.path.dirname(real) != os.path.realpath(os.path.dirname(os.path.abspath(path))):
        return f"is a link that leads out of its folder, to {real}"
    if not os.path.isfile(real):
        return "is no file"
    if (size := os.path.getsize(real)) != entry.size:
        return f"has {size:,} bytes, expected {entry.size:,}: it is truncated, or another file"
    if (digest := sha256_of(real)) != entry.sha256:
        return f"is another file, or damaged: SHA-256 {digest[:16]}..., expected {entry.sha256[:16]}..."
    return ""


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https://"):
            raise HTTPError(newurl, code, "redirected to what is not https", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def opener() -> urllib.request.OpenerDirector:
    """What opens addresses."""
    return urllib.request.build_opener(_HttpsOnly)


def _fetched(entry: Entry, path: str) -> str:
    """Fetches the file of an entry, which gets its name when it is known to be that file."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temp, left = Path(f"{path}.{uuid.uuid4().hex}.partial"), entry.size
    try:
        with open(temp, "xb") as file, opener().open(entry.where, timeout=_TIMEOUT) as answer:
            while block := answer.read(_BLOCK):
                left -= len(block)
                if left < 0:
                    raise OSError(f"it has more than {entry.size:,} bytes")
                file.write(block)
        if problem := file_problem(temp, entry):
            raise OSError(f"what is there {problem}")
        os.replace(temp, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temp.unlink()
    return path
