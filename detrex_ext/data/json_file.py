"""The outer form of a COCO annotation file."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path

from detrex_ext.errors import UserError


def read_json(path: str | Path) -> dict:
    """What is in an annotation file, of which "images" is a list of dicts, and "annotations" a list where it is there.

    Raises:
        UserError: the file is missing, no JSON, or not shaped as COCO's.
    """
    if not path:
        raise UserError("no annotation file is named\n  set dataset.train_json and dataset.val_json to COCO JSON files "
                        "(and dataset.train_images, dataset.val_images to their image folders)")  # fmt: skip
    path = Path(path)
    if path.exists() and not path.is_file():  # a device or a pipe may never end
        raise UserError(f"annotation file cannot be opened: {path}\n  expected a file, found a folder, device or pipe")
    try:
        with open(path, encoding="utf-8-sig") as file:  # with or without a byte order mark
            data = jsonlib.load(file)
    except FileNotFoundError:
        raise UserError(_missing(path)) from None
    except OSError as error:
        raise UserError(f"annotation file cannot be opened: {path}\n  {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path} is no COCO annotation file: it is nested too deeply") from None
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise UserError(f"{path} is no valid JSON: {error}\n  expected a COCO annotation file") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: found a JSON {type(data).__name__}; expected COCO's object with "
                        "'images', 'annotations' and 'categories'")  # fmt: skip
    if not isinstance(data.get("images"), list) or not all(isinstance(i, dict) for i in data["images"]):
        raise UserError(f"{path}: no list of images under 'images'; found the keys {sorted(data)}\n"
                        "  expected a COCO annotation file")  # fmt: skip
    if not isinstance(data.get("annotations", []), list):
        raise UserError(f"{path}: 'annotations' is no list")
    return data


def _missing(path: Path) -> str:
    folder = next(p for p in (*path.parents, Path("/")) if p.is_dir())
    if folder == path.parent:
        found = sorted(p.name for p in folder.glob("*.json"))[:8]
        hint = f"JSON files in {folder}: {', '.join(found) or 'none'}"
    else:
        hint = f"there is no folder {path.parent}; the nearest that exists is {folder}"
    return (f"annotation file not found: {path}\n  {hint}\n"
            "  set dataset.train_json / dataset.val_json (with dataset.train_images / dataset.val_images)")  # fmt: skip
