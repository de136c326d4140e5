"""Image files that are named otherwise than they are: by a URL, another folder, a backslash or other case."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

# So many files are looked through at most: a folder may be a whole disk.
_MOST = 500_000
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/]*")


def parts_of(name: str) -> list[str]:
    r"""``["a", "b.jpg"]`` of ``a/b.jpg``, ``.\a\b.jpg``, ``C:\a\b.jpg`` or ``https://host/a/b.jpg?size=big``."""
    url = _URL.match(name)
    if url:
        name = unquote(re.split(r"[?#]", name[url.end() :])[0])
    name = re.sub(r"^[A-Za-z]:", "", name.replace("\\", "/"))
    return [part for part in name.strip().split("/") if part not in ("", ".", "..")]


def leads_out(folder: str | Path, name: str) -> bool:
    """Whether a name, as a stranger's list has it, leads out of its folder; links are not followed."""
    root = os.path.join(os.path.abspath(folder), "")
    return not os.path.normpath(os.path.join(root, name)).startswith(root)


def plain(part: str) -> str:
    """Equal for names that differ in case, or in how an accent is written."""
    return unicodedata.normalize("NFC", part).casefold()


class FileNames:
    """The files of an image folder, to be found by what is left of their name.

    Args:
        folder: image folder.
        taken: names, as an annotation file has them, of files that are there: another image is not found in them.
        deep: look into its folders too.
    """

    def __init__(self, folder: str | Path, taken: Collection[str] = (), deep: bool = True) -> None:
        self.folder, self.deep = str(folder), deep
        self.taken = {os.path.normpath(name) for name in taken}

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Paths below the folder, by the plain form of the file's own name."""
        found: dict[str, list[str]] = {}
        seen = 0
        for root, folders, files in os.walk(self.folder):
            folders[:] = sorted(folders) if self.deep else []
            for file in sorted(files):
                found.setdefault(plain(file), []).append(os.path.relpath(os.path.join(root, file), self.folder))
            seen += len(files)
            if seen > _MOST:
                break
        return found

    def find(self, name: str) -> str | None:
        """The path below the folder of the one file that is meant, with "/"; None where there is none, or several."""
        parts = parts_of(name)
        if not parts:
            return None
        there = [path for path in self._by_name.get(plain(parts[-1]), ()) if path not in self.taken]
        there = [path for path in there if os.path.isfile(os.path.join(self.folder, path))]  # no pipe, no dead link
        ranked = sorted(there, key=lambda path: self._likeness(path, parts), reverse=True)
        if not ranked:
            return None
        if len(ranked) > 1 and self._likeness(ranked[0], parts) == self._likeness(ranked[1], parts):
            return None
        return Path(ranked[0]).as_posix()

    @staticmethod
    def _likeness(path: str, parts: list[str]) -> tuple[int, int]:
        """How many parts agree from the end, but for the case; and with it."""
        pairs = list(zip(reversed(Path(path).parts), reversed(parts), strict=False))
        alike, exact = ([i for i, (a, b) in enumerate(pairs) if f(a) != f(b)] for f in (plain, str))
        return (alike or [len(pairs)])[0], (exact or [len(pairs)])[0]
