"""COCO JSON files in a folder, as they come from any tool: one for each split, or one for all."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

from detrex_ext.data.folders.documents import Reading
from detrex_ext.data.folders.listing import Listing, split_of
from detrex_ext.data.folders.notes import Notes, shortened
from detrex_ext.data.json_file import read_json
from detrex_ext.errors import UserError

_WORDS = (b'"images"', b'"annotations"')
_OTHERS = (b'"images"', b'"categories"')


def looks_coco(path: Path) -> bool:
    """Whether a file begins as a JSON object and has COCO's words; nothing is read into memory."""
    missing = {*_WORDS, *_OTHERS}
    if not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            before = file.read(1 << 16)
            if not before.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
                return False
            while before:
                missing -= {word for word in missing if word in before}
                if not missing & set(_WORDS) or not missing & set(_OTHERS):
                    return True
                data = file.read(1 << 20)
                before = before[-20:] + data if data else b""
    except OSError:
        pass
    return False


def read_coco(listing: Listing, paths: list[str], notes: Notes) -> Reading:
    """The documents of a folder's COCO files.

    Names of images become paths below the folder where they are of another one; all else stays as it is, with its
    faults, which the check of the file tells of. A file that needs no change is used where it lies.

    Args:
        listing: of the folder.
        paths: of the files.
        notes: takes the decisions.

    Raises:
        UserError: several files for one split, one that is no COCO, or none of its images is there.
    """
    documents, files = {}, {}
    for split, path in _by_split(paths, notes).items():
        data = read_json(listing.root / path)
        base, renamed, missing = _place_images(data["images"], listing, path)
        if data["images"] and missing == len(data["images"]):
            raise UserError(f"{path}: none of its {missing} images is below the folder; first: "
                            f"{str(data['images'][0].get('file_name'))[:200]}\n"
                            "  name the folder of the images: --data-images DIR")  # fmt: skip
        if renamed:
            notes.say(f"{renamed} images of {path} are named otherwise than they lie there")
        documents[split] = data
        if base is not None:
            files[split] = (listing.root / path, listing.image_root / base)
        notes.say(f"{split or 'all'}: {path}")
    dropped = _drop_parent(list(documents.values()), notes)
    names = [c.get("name") for c in _categories(next(iter(documents.values()))) if isinstance(c, dict)]
    notes.classes([str(name) for name in names], "by ascending id")
    return Reading(documents, listing.image_root, notes, {} if dropped else files)


def _by_split(paths: list[str], notes: Notes) -> dict[str, str]:
    """The file of each split."""
    found: dict[str, list[str]] = {}
    for path in paths:
        name = PurePosixPath(path)
        found.setdefault(split_of(name.stem, *reversed(name.parts[:-1])), []).append(path)
    chosen = {}
    for split, group in found.items():
        best = [path for path in group if PurePosixPath(path).name.startswith("instances")] or group
        if len(best) > 1:
            raise UserError(f"several COCO files for {split or 'one set'}: {shortened(best)}\n"
                            "  name one: --data FILE; or both by dataset.train_json and dataset.val_json")  # fmt: skip
        chosen[split] = best[0]
        for path in sorted(set(group) - set(best)):
            notes.leave_out(f"file beside {best[0]}, not read", path)
    if "train" in chosen and "" in chosen:
        notes.leave_out("file of no split, beside such of splits, not read", chosen.pop(""))
    elif "val" in chosen and "" in chosen:  # instances.json beside instances_val.json
        chosen["train"] = chosen.pop("")
    return dict(sorted(chosen.items()))


def _place_images(images: list[dict], listing: Listing, path: str) -> tuple[str | None, int, int]:
    """Gives each image its path below the folder, in place.

    Returns:
        the one folder that all names are right in as they are (None: there is none), how many names were of no usual
        folder, how many images are not there.
    """
    bases: set[str | None] = set()
    renamed = missing = 0
    home = PurePosixPath(path).parent
    for image in images:
        name = image.get("file_name")
        found = listing.find(name, path) if isinstance(name, str) else None
        if found is None:
            missing += 1
            continue
        tail = os.path.normpath(name)
        base = found[: -len(tail)].rstrip("/") or "." if found == tail or found.endswith(f"/{tail}") else None
        bases.add(base)
        renamed += base is None
        image["file_name"] = found
    alone = bases.pop() if len(bases) == 1 and not missing else None
    if missing and len(bases) == 1 and (base := bases.pop()) is not None:
        _keep_missing(images, listing, base)
    elif missing:
        _keep_missing(images, listing, str(home))
    return alone, renamed, missing


def _keep_missing(images: list[dict], listing: Listing, base: str) -> None:
    """Names that are not there, as they would be beside the others: the check tells of them."""
    there = set(listing.images)
    for image in images:
        name = image.get("file_name")
        if isinstance(name, str) and name and name not in there:
            image["file_name"] = os.path.join(base, name) if base != "." else name


def _categories(document: dict[str, Any]) -> list[Any]:
    found = document.get("categories")
    return found if isinstance(found, list) else []


def _drop_parent(documents: list[dict[str, Any]], notes: Notes) -> bool:
    """Takes away the class that Roboflow puts over all others, if no box is of it."""
    used = {
        ann.get("category_id")
        for document in documents
        for ann in document.get("annotations", [])
        if isinstance(ann, dict) and isinstance(ann.get("category_id"), int | float | str)
    }
    parents = None
    for document in documents:
        entries = [c for c in _categories(document) if isinstance(c, dict)]
        over = {str(c.get("supercategory")) for c in entries}
        own = {
            str(c.get("name"))
            for c in entries
            if c.get("supercategory") == "none" and isinstance(c.get("id"), int) and c.get("id") not in used
        }
        found = {name for name in own if over == {"none", name}}
        parents = found if parents is None else parents & found
    for document in documents if parents else ():
        document["categories"] = [
            c for c in _categories(document) if not (isinstance(c, dict) and str(c.get("name")) in parents
                                                     and c.get("supercategory") == "none")
        ]  # fmt: skip
    if parents:
        notes.say(f"class {', '.join(sorted(parents))} is the one over all others and has no box: left out")
    return bool(parents)
