"""The files of a folder, and which image a label is of."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from detrex_ext.data.file_names import parts_of, plain
from detrex_ext.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif")
DECISIONS = "decisions.txt"
# So many files are looked through at most: a folder may be a whole disk.
_MOST = 500_000
_DESCRIBING = (".json", ".xml", ".yaml", ".yml", ".data")
_STRIPPED = {*SUFFIXES, ".txt", ".xml", ".json"}
# Names of folders that say no more than what kind of file lies in them.
_NEUTRAL = set(
    "images image imgs img jpegimages photos labels label annotations annotation annots ann xml xmls txt data".split()
)
_SPLITS = {
    "train": re.compile(r"(^|[^a-z])train(ing)?([^a-z]|$)"),
    "val": re.compile(r"(^|[^a-z])val(id(ation)?)?([^a-z]|$)"),
    "test": re.compile(r"(^|[^a-z])test(ing)?([^a-z]|$)"),
}


class Listing:
    """The files below a folder, without hidden ones, linked folders, and what this program wrote.

    Args:
        root: the folder.
        images: another one that the images lie in; None for the same.
        only: the file in it that describes the data, as the only one; "" for whatever there is.

    Attributes:
        files: paths below it with "/", sorted by code points, so alike on every machine.
        images: those that end like images, below `image_root`.
        folders: all folders with a file below them.
        passed: folders that were not entered, and why.

    Raises:
        UserError: it cannot be listed, or has too many files.
    """

    def __init__(self, root: str | Path, images: str | Path | None = None, only: str = "") -> None:
        self.root = self.image_root = Path(root)
        self.files, self.passed = [], {}
        for folder, folders, files in os.walk(self.root, onerror=self._refuse):
            base = PurePosixPath(Path(os.path.relpath(folder, self.root)).as_posix())
            if str(base) != "." and (why := _why_not(files)):
                self.passed[str(base)] = why
                folders.clear()
                continue
            folders[:] = sorted(name for name in folders if not self._is_hidden(name))
            for name in [name for name in folders if os.path.islink(os.path.join(folder, name))]:
                self.passed[str(base / name)] = "a link"
            self.files += [str(base / name) for name in files if not self._is_hidden(name)]
            if len(self.files) > _MOST:
                raise UserError(f"{root}: more than {_MOST:,} files; name the folder of the data set alone")
        self.files = sorted(path for path in self.files if only in ("", path) or not path.lower().endswith(_DESCRIBING))
        self.images = [path for path in self.files if PurePosixPath(path).suffix.lower() in SUFFIXES]
        self.folders = {str(parent) for path in self.files for parent in PurePosixPath(path).parents}
        if images is not None:
            other = Listing(images)
            self.image_root, self.images = other.root, other.images
            self.folders |= other.folders
            self.passed |= other.passed
        self._by_stem = _by_stem(self.images)

    @staticmethod
    def _is_hidden(name: str) -> bool:
        return name.startswith(".") or name == "__MACOSX"

    @staticmethod
    def _refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: this folder cannot be listed: {error.strerror}")

    def ending(self, *suffixes: str) -> list[str]:
        """The files that end so, in any case."""
        return [path for path in self.files if path.lower().endswith(suffixes)]

    def find(self, name: str, near: str = "") -> str | None:
        r"""The image that a label file means by a name, such as ``C:\a\b.jpg``; None for none, or several alike.

        Args:
            name: as a stranger's file has it; nothing outside of the folder is ever looked at.
            near: the file that has it: of images with one name, that of the same split is meant.
        """
        parts = [plain(part) for part in parts_of(name)]
        if not parts:
            return None
        found = self._by_stem.get(_stem(parts[-1]), [])
        found = [path for path in found if plain(PurePosixPath(path).name) == parts[-1]] or found
        ranked = sorted(((_agreement(path, parts), _likeness(path, near), path) for path in found), reverse=True)
        if len(ranked) > 1 and ranked[0][:2] == ranked[1][:2]:
            return None
        return ranked[0][2] if ranked else None

    def pairs(self, labels: Iterable[str]) -> dict[str, str | None]:
        """The image of each label file, by their names; None where there is none, or several could be meant.

        Of files with one name in several folders, those are a pair whose folders are the same, but for such parts as
        "images" and "labels".
        """
        found: dict[str, str | None] = {}
        for stem, group in _by_stem(labels).items():
            images = self._by_stem.get(stem, [])
            for label in group:
                fitting = images
                if len(group) > 1 or len(images) > 1:
                    fitting = [image for image in images if _telling(image) == _telling(label)]
                    fitting = [i for i in fitting if sum(_telling(other) == _telling(i) for other in group) == 1]
                found[label] = fitting[0] if len(fitting) == 1 else None
        return found


def split_of(*names: str) -> str:
    """"train", "val" or "test", of the first name that says one of them alone; "" where none does."""
    for name in names:
        told = [split for split, pattern in _SPLITS.items() if pattern.search(name.casefold())]
        if len(told) == 1:
            return told[0]
    return ""


def split_of_path(path: str) -> str:
    """The split that the folders of a path say."""
    return split_of(*PurePosixPath(path).parts[:-1])


def _why_not(files: list[str]) -> str:
    """Why a folder of such files is none of a data set; "" where it may be."""
    if DECISIONS in files:
        return "written by --data"
    return "a run" if {"config.yaml", "log.txt"} <= set(files) else ""


def _by_stem(paths: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(_stem(plain(PurePosixPath(path).name)), []).append(path)
    return found


def _stem(name: str) -> str:
    """Without its ending, where that is one of an image or a label: "a.b" stands for itself."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix in _STRIPPED else name


def _telling(path: str) -> list[str]:
    """The folders of a path that tell it from others of its name."""
    return [part for part in map(plain, PurePosixPath(path).parts[:-1]) if part not in _NEUTRAL]


def _agreement(path: str, parts: list[str]) -> int:
    """How many parts agree from the end, but for the file's ending."""
    own = [plain(part) for part in PurePosixPath(path).parts[:-1]]
    pairs = zip(reversed(own), reversed(parts[:-1]), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(own), len(parts) - 1))


def _likeness(path: str, near: str) -> int:
    """How much the folders of two paths are alike."""
    one, other = set(_telling(path)), set(_telling(near))
    return 1000 * len(one & other) - len(one ^ other)
