"""A split into training and validation where a folder has none."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from typing import Any

from detrex_ext.data.folders.notes import Notes
from detrex_ext.data.values import is_id
from detrex_ext.errors import UserError

_PART = 5
"""One image of so many is for validation."""


def split(documents: dict[str, dict[str, Any]], seed: int, notes: Notes) -> dict[str, dict[str, Any]]:
    """The documents with "train" and "val" where the folder has one set, or a training set alone.

    An image is chosen by a hash of the seed and its name, so the choice is the same on every machine, and an image that
    is added later moves few others. Images with boxes and those without are split alike.

    Args:
        documents: by split.
        seed: of the choice.
        notes: takes the decision.

    Raises:
        UserError: there are fewer than two images with boxes.
    """
    whole = next((name for name in ("", "train") if name in documents), None)
    if whole is None or "val" in documents:
        return documents
    document, rest = documents[whole], {name: d for name, d in documents.items() if name not in ("", "train")}
    with_boxes = {a.get("image_id") for a in _annotations(document) if is_id(a.get("image_id"))}
    named = [i for i in document["images"] if is_id(i.get("id")) and isinstance(i.get("file_name"), str)]
    full = [image for image in named if image["id"] in with_boxes]
    empty = [image for image in named if image["id"] not in with_boxes]
    if len(full) < 2:
        raise UserError(f"{len(full)} images with boxes: too few to set some apart for validation\n"
                        "  label more images, or set dataset.train_json and dataset.val_json")  # fmt: skip
    chosen = {image["id"] for image in [*_chosen(full, seed, 1), *_chosen(empty, seed, 0)]}
    why = "only a training set" if whole else "no splits"
    notes.say(f"the folder has {why}: {len(chosen)} of {len(document['images'])} images, one of {_PART}, are for "
              f"validation, chosen by their names and seed {seed} (--data-seed)")  # fmt: skip
    return {"train": _part(document, chosen, False), "val": _part(document, chosen, True), **rest}


def _chosen(images: list[dict], seed: int, least: int) -> list[dict]:
    return sorted(images, key=lambda image: _draw(image["file_name"], seed))[: max(round(len(images) / _PART), least)]


def _draw(name: str, seed: int) -> bytes:
    """One form of an accented letter for all file systems."""
    text = f"{seed}:{unicodedata.normalize('NFC', name)}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _part(document: dict[str, Any], chosen: set, inside: bool) -> dict[str, Any]:
    """The images that are chosen, or the others, with their annotations; what belongs to no image stays with these."""

    def kept(image_id: Any) -> bool:
        return (is_id(image_id) and image_id in chosen) == inside

    images = [image for image in document["images"] if kept(image.get("id"))]
    found = document.get("annotations", [])
    annotations = [a for a in found if kept(a.get("image_id") if isinstance(a, dict) else None)]
    return {**document, "images": images, "annotations": annotations}


def _annotations(document: dict[str, Any]) -> Iterable[dict]:
    return (a for a in document.get("annotations", []) if isinstance(a, dict))
