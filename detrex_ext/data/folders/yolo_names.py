"""What a YOLO folder says of its classes and splits: data.yaml, obj.data, classes.txt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml

from detrex_ext.config.yaml_text import read_texts
from detrex_ext.data.file_names import parts_of
from detrex_ext.data.folders.files import Unreadable, read_lines, read_text
from detrex_ext.data.folders.listing import Listing, split_of_path
from detrex_ext.data.folders.notes import Notes, shortened
from detrex_ext.errors import UserError

_SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_NAMES = ("classes.txt", "obj.names", "predefined_classes.txt", "_darknet.labels", "classes.names", "data.names")
_NOTHING = ("", "null", "none", "~")


class Description:
    """What the files of a YOLO folder say beside its labels.

    Attributes:
        names: class index -> name; empty where none are named.
        origin: the file that names them.
        splits: split of each image that a file assigns.
        keypoints: labels have points behind the box.
    """

    def __init__(self, listing: Listing, notes: Notes, path: str = "") -> None:
        self.listing, self.notes = listing, notes
        self.names: dict[int, str] = {}
        self.origin, self.keypoints = "", False
        self.splits: dict[str, str] = {}
        self.doubled: list[str] = []
        if path.lower().endswith((".yaml", ".yml")):
            self._take(path, _mapping(listing, path))
        elif path:
            self._take(path, _pairs(listing, path))
        if not self.names:
            self._take_list()

    def _take(self, path: str, found: dict) -> None:
        """Names and splits of data.yaml or obj.data."""
        names = found.get("names")
        if isinstance(names, str) and names not in _NOTHING and (file := _resolve(self.listing, names, path, "")):
            self._take_names(file, _lines(self.listing, file))
        elif isinstance(names, list | dict):
            self._take_names(path, names)
        self.keypoints = bool(found.get("kpt_shape"))
        base = found.get("path")
        for key, split in _SPLIT_KEYS.items():
            values = found.get(key)
            for value in values if isinstance(values, list) else [values]:
                if isinstance(value, str) and value.strip().lower() not in _NOTHING:
                    self._assign(value.strip(), split, path, base if isinstance(base, str) else "")
        if self.splits:
            self.notes.say(f"splits by {path}")
        if self.doubled:
            what = f"{len(self.doubled)} images are in several splits, the first of train, val, test counts"
            self.notes.say(f"{what}: {shortened(sorted(self.doubled), 3)}")

    def _assign(self, value: str, split: str, path: str, base: str) -> None:
        found = _resolve(self.listing, value, path, base)
        if found is None:
            self.notes.say(f"{path} names {value} for {split}, which is not below the folder")
            return
        if found in self.listing.folders:
            images = [i for i in self.listing.images if found == "." or i.startswith(f"{found}/")]
        else:
            images = [self.listing.find(line, found) for line in _lines(self.listing, found)]
            if missing := images.count(None):
                self.notes.say(f"{missing} images of {found} are not there")
        for image in filter(None, images):
            if self.splits.setdefault(image, split) != split:
                self.doubled.append(image)

    def _take_names(self, path: str, names: Sequence[Any] | dict) -> None:
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        for index, name in pairs:
            number = int(index) if str(index).isdecimal() and len(str(index)) < 7 else None
            if number is None or not isinstance(name, str) or not name.strip():
                raise UserError(f"{path}: names has {str(index)[:80]}: {str(name)[:80]}\n"
                                "  expected a list of names, or an index from 0 and a name for each class")  # fmt: skip
            self.names[number] = name.strip()
        self.origin = path

    def _take_list(self) -> None:
        for name in _NAMES:
            found = [path for path in self.listing.files if PurePosixPath(path).name == name]
            lists = {tuple(_lines(self.listing, path)) for path in found}
            if len(lists) > 1:
                raise UserError(f"{shortened(found)}: they name different classes\n  keep the right one")
            if found:
                return self._take_names(found[0], list(lists.pop()))

    def split_of(self, image: str) -> str | None:
        """The split of an image; None where others are assigned and this one is not."""
        return self.splits.get(image) if self.splits else split_of_path(image)


def is_description(listing: Listing, path: str) -> bool:
    """Whether a YAML file describes a YOLO data set."""
    try:
        found = _mapping(listing, path)
    except UserError:
        return PurePosixPath(path).name.lower() in ("data.yaml", "data.yml", "dataset.yaml")
    return "names" in found and bool({"train", "val", "path", "nc", "test"} & set(found))


def _mapping(listing: Listing, path: str) -> dict:
    try:
        found = read_texts(read_text(listing.root / path))
    except (Unreadable, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: {reason}\n  expected YOLO's description of a data set: names, train, val") from None
    return found if isinstance(found, dict) else {}


def _pairs(listing: Listing, path: str) -> dict[str, str]:
    """``key = value`` lines, as Darknet has them; a `names` there is a file."""
    lines = [line.partition("=") for line in _lines(listing, path)]
    return {key.strip(): value.strip() for key, sign, value in lines if sign}


def _lines(listing: Listing, path: str) -> list[str]:
    try:
        return read_lines(listing.root / path, 64 << 20)
    except Unreadable as error:
        raise UserError(f"{path}: {error}") from None


def _resolve(listing: Listing, value: str, path: str, base: str) -> str | None:
    """What a path of a description is below the folder, as it may be of another machine or a folder too high.

    Roboflow's ``../train/images`` is ``train/images`` beside the file; nothing outside of the folder is looked at.
    """
    home, parts = PurePosixPath(path).parent, parts_of(value)
    known = listing.folders | set(listing.files)
    places = [home.joinpath(*parts_of(base)[start:]) for start in range(len(parts_of(base)) + 1)] + [PurePosixPath()]
    for place in places:
        for start in range(len(parts) or 1):
            found = str(place.joinpath(*parts[start:]))
            if found in known:
                return found
    return None
