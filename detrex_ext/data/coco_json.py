"""COCO annotation files: reading them, and finding what is wrong inside them."""

from __future__ import annotations

import json as jsonlib
from collections import Counter
from pathlib import Path

from detrex_ext.data.annotation_checks import check_annotations, is_box, is_size
from detrex_ext.data.report import SIZES, Report
from detrex_ext.errors import UserError

__all__ = ["check_categories", "check_json", "class_table", "is_box", "is_size", "read_classes", "read_json"]


def read_json(path: str | Path) -> dict:
    """Read an annotation file.

    Raises:
        UserError: it is missing, no JSON, or not shaped as COCO's ({"images", "annotations", "categories"}).
    """
    if not path:
        raise UserError("no annotation file is named\n  set dataset.train_json and dataset.val_json to COCO JSON files "
                        "(and dataset.train_images, dataset.val_images to their picture folders)")  # fmt: skip
    path = Path(path)
    try:
        with open(path, encoding="utf-8-sig") as file:  # with or without a byte order mark
            data = jsonlib.load(file)
    except FileNotFoundError:
        raise UserError(_missing(path)) from None
    except OSError as error:
        raise UserError(f"annotation file cannot be opened: {path}\n  {error.strerror}") from None
    except (jsonlib.JSONDecodeError, UnicodeDecodeError) as error:
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
    lines = [f"annotation file not found: {path}"]
    folder = path.parent
    if not folder.is_dir():
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        lines.append(f"  there is no folder {path.parent}; the nearest that exists is {folder}")
    else:
        found = sorted(p.name for p in folder.glob("*.json"))[:8]
        lines.append(f"  JSON files in {folder}: {', '.join(found) if found else 'none'}")
    lines.append("  set dataset.train_json / dataset.val_json (with dataset.train_images / dataset.val_images)")
    return "\n".join(lines)


def read_classes(path: str | Path) -> tuple[list[str], list[int]]:
    """Class names and category ids of an annotation file, by ascending id (the model's class order).

    Raises:
        UserError: the file cannot be read or has no usable categories.
    """
    data = read_json(path)
    report = Report(json=str(path))
    check_categories(data, report)
    report.raise_errors()
    return class_table(data)


def class_table(data: dict) -> tuple[list[str], list[int]]:
    """Names and ids by ascending id; names that are there twice get their id. `data` has passed `check_categories`."""
    names = {c["id"]: _name(c) for c in sorted(data["categories"], key=lambda c: c["id"])}
    times = Counter(names.values())
    return [f"{name} (id {k})" if times[name] > 1 else name for k, name in names.items()], list(names)


def _name(category: dict) -> str:
    name = category.get("name")
    return str(category["id"] if name is None else name)


def check_categories(data: dict, report: Report) -> None:
    """Add what is wrong with "categories" to the report."""
    categories = data.get("categories")
    if not isinstance(categories, list) or not categories:
        found = f"'categories' is {categories!r:.80}" if "categories" in data else "the key is absent"
        text = 'the class names come from "categories": [{"id": 1, "name": "bolt"}, ...]; add it to the file'
        report.add("no_categories", "error", text, found)
        return
    seen_ids: Counter = Counter()
    seen_names: Counter = Counter()
    for position, category in enumerate(categories):
        if not isinstance(category, dict) or not _is_id(category.get("id")):
            report.add("malformed_category", "error", "a category needs an integer id and a name",
                       f"categories[{position}] = {category!r}")  # fmt: skip
            continue
        seen_ids[category["id"]] += 1
        seen_names[_name(category)] += 1
    for value in (v for v, n in seen_ids.items() if n > 1):
        report.add("duplicate_category_id", "error", "ids must be unique; renumber them", f"category id {value}")
    for value in (v for v, n in seen_names.items() if n > 1):
        report.add("duplicate_category_name", "warning", "they are called NAME (id N) here, to tell them apart", value)


def check_json(data: dict, report: Report) -> None:
    """Check the inside of an annotation file, without looking at pictures; fills counts and findings of `report`."""
    check_categories(data, report)
    report.num_images = len(data["images"])
    report.num_annotations = len(data.get("annotations", []))
    if not data["images"]:
        report.add("no_images", "error", "there is nothing to read", "'images' is an empty list")
    images = _check_images(data["images"], report)
    if report.errors and "categories" not in data:
        return
    names, ids = class_table(data) if not _bad_categories(report) else ([], [])
    by_id = dict(zip(ids, names, strict=True))
    report.classes = {name: dict.fromkeys(("total", *SIZES, "images"), 0) for name in names}
    check_annotations(data.get("annotations", []), images, by_id, report)
    for name, row in report.classes.items():
        if row["total"] == 0 and report.num_annotations:
            report.add("class_without_boxes", "warning", "nothing can be learnt of it here", name)


def _bad_categories(report: Report) -> bool:
    return bool({"no_categories", "malformed_category"} & set(report.findings))


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_images(images: list[dict], report: Report) -> dict:
    by_id: dict = {}
    files: set[str] = set()
    for position, image in enumerate(images):
        name = image.get("file_name")
        label = f"image id {image.get('id')}, {name}"
        if not isinstance(image.get("id"), (int, str)) or not isinstance(name, str) or not name:
            text = "an image needs an id and a file_name"
            report.add("malformed_image", "error", text, f"images[{position}]: {label}")
            continue
        if image["id"] in by_id:
            report.add("duplicate_image_id", "error", "boxes cannot be told apart; give every image its own id", label)
        if name in files:
            report.add("duplicate_file_name", "warning", "the same picture stands in the list twice", label)
        by_id[image["id"]] = image
        files.add(name)
        if not (is_size(image.get("width")) and is_size(image.get("height"))):
            report.add("missing_size", "warning", "no width or height as a number; the picture's are read", label)
    return by_id
