"""What a check of a data set found: findings, counts, and their text and JSON form."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from tabulate import tabulate

from detrex_ext.errors import UserError

MAX_EXAMPLES = 5
_LONGEST = 400
SIZES = ("small", "medium", "large")
_ERROR, _WARNING = "error", "warning"
# Kind of fault -> severity, and what it is and what is done about it, or what to do.
_KINDS = {  # fmt: skip
    "no_categories": (
        _ERROR, 'the class names come from "categories": [{"id": 1, "name": "bolt"}, ...]; add it to the file',
    ),
    "malformed_category": (_ERROR, "a category needs an integer id and a name"),
    "text_category_id": (_ERROR, 'a category id is a number, without quotes'),
    "duplicate_category_id": (_ERROR, "ids must be unique; renumber them"),
    "duplicate_category_name": (_WARNING, "they are called NAME (id N) here, to tell them apart"),
    "no_images": (_ERROR, "there is nothing to read"),
    "malformed_image": (_ERROR, "an image needs an id and a file_name"),
    "duplicate_image_id": (_ERROR, "boxes cannot be told apart; give every image its own id"),
    "alike_image_ids": (_WARNING, "they differ in type only; two images here, other COCO tools may take them for one"),
    "float_id": (_WARNING, "ids are whole numbers or texts; 1.0 is taken for 1"),
    "id_of_other_type": (_ERROR, 'a text in one place and a number in the other, as "1" and 1; make them the same'),
    "duplicate_file_name": (_WARNING, "the same image stands in the list twice"),
    "missing_size": (_WARNING, "no width or height as a number; the image file's are read"),
    "malformed_annotation": (_ERROR, "an annotation is an object with plain ids, and iscrowd 0 or 1"),
    "missing_annotation_id": (_WARNING, "harmless here; other COCO tools need ids"),
    "duplicate_annotation_id": (_WARNING, "harmless here; other COCO tools need ids of their own"),
    "unknown_image": (_WARNING, "the image is not in the list; these boxes are left out"),
    "missing_category": (_ERROR, "every box needs a category_id; add it or remove the box"),
    "unknown_category": (_ERROR, "its categories are {}; add the missing ones to 'categories', or remove these "
        "annotations"),
    "no_boxes": (_ERROR, "nothing to learn or measure; images alone are for train --eval-only and predict"),
    "malformed_box": (_ERROR, "a box is [x, y, width, height], four finite numbers in pixels"),
    "fractional_boxes": (
        _ERROR, "{} of {} boxes lie within 0 and 1, as fractions of the image do; a box is [x, y, width, height] in "
        "pixels: multiply x and width by the image's width, y and height by its height",
    ),
    "few_fractional_boxes": (_WARNING, "{} of {} boxes lie within 0 and 1: are they fractions of the image?"),
    "corner_boxes": (
        _ERROR, "{} % of the boxes leave the image as [x, y, width, height], and {} % fit as [x1, y1, x2, y2]; "
        "write x2 - x1 for the width and y2 - y1 for the height",
    ),
    "duplicate_box": (_WARNING, "the same box and class once more, learned and measured as an object of its own"),
    "unusable_area": (_WARNING, "no positive number as area; width x height is used (it decides of APs, APm and APl)"),
    "degenerate_box": (_WARNING, "no width or height; left out of training"),
    "box_outside_image": (_WARNING, "nothing of it is on the image; left out of training"),
    "box_over_border": (_WARNING, "it passes the image's border; cut there in training"),
    "class_without_boxes": (_WARNING, "nothing can be learned of it here"),
    "more_objects_than_queries": (
        _WARNING, "{} queries ({}): {} objects of these images are never learned, take {} or more",
    ),
    "mixed_more_than_queries": (_WARNING, "{} queries ({}): up to {} of the samples that are mixed of {} images have "
        "more objects, and those beyond are not learned there; take {} or more, or mix fewer"),
    "more_objects_than_top_k": (_WARNING, "{} predictions an image ({}): {} objects are never found, take {} or more"),
    "more_objects_than_max_dets": (_WARNING, "{} detections an image and class are counted ({}): {} objects are never "
        "found, take {} or more"),
    "misnamed_file": (_ERROR, "the folder holds it under another name"),
    "missing_file": (_ERROR, "{} of {} images are missing in {}; name the right folder or remove the entries"),
    "outside_file": (_ERROR, "outside of the folder; allowed by dataset.outside_images=true, check --outside-images"),
    "unreadable_file": (_ERROR, "the image cannot be used: replace it or remove the entry; "
        "dataloader.train.max_unreadable=N skips up to N of them"),
    "wrong_size": (_ERROR, "the boxes may belong to another version of the image (sizes are after EXIF rotation)"),
    "nearly_black": (_WARNING, "no value is above 15 of 255, as where 12 bits lie in a file of 16, of which the upper "
        "8 are read: multiply its values by 16 when it is written"),
}
# What `check --fix` can mend, some of it not always.
MENDED = frozenset(
    "missing_size float_id id_of_other_type missing_annotation_id duplicate_annotation_id unknown_image "
    "text_category_id fractional_boxes corner_boxes duplicate_box unusable_area degenerate_box box_outside_image "
    "box_over_border misnamed_file".split()
)


@dataclass
class Finding:
    """One kind of fault, with how often it occurs.

    Attributes:
        kind: stable name, e.g. "unknown_category".
        severity: "error" (training would fail or learn nonsense) or "warning" (handled, but look).
        text: what it is and what is done about it, or what to do.
        count: occurrences.
        examples: the first few, each naming the annotation or image.
    """

    kind: str
    severity: str
    text: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def shown(self) -> list[str]:
        """The examples as lines, and how many more there are."""
        more = self.count - len(self.examples)
        return [f"    {example}" for example in self.examples] + ([f"    and {more} more"] if more else [])


@dataclass
class Report:
    """The result of checking one annotation file.

    Attributes:
        json: the file. images: the image folder, "" where images were not looked at.
        most_objects: on one image, of those that are learned.
        classes: per class name: boxes "total", "small", "medium", "large" (COCO's areas), and "images" with the class.
        findings: by kind, in the order found.
        mended: what was changed in another file to make this one.
    """

    json: str
    images: str = ""
    num_images: int = 0
    num_annotations: int = 0
    num_crowd: int = 0
    num_empty: int = 0
    most_objects: int = 0
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    mended: list[Finding] = field(default_factory=list)

    def add(self, kind: str, example: str, *known: str) -> None:
        """Record one occurrence of a fault of a known kind; `known` fills the gaps of its text."""
        if kind not in self.findings:
            severity, text = _KINDS[kind]
            self.findings[kind] = Finding(kind, severity, text.format(*known) if known else text)
        finding = self.findings[kind]
        finding.count += 1
        example = example[:_LONGEST].encode("utf-8", "backslashreplace").decode()  # any name can be shown
        if len(finding.examples) < MAX_EXAMPLES and example not in finding.examples:
            finding.examples.append(example)

    def add_all(self, kind: str, places: Sequence[int], example: Callable[[int], str], *known: str) -> None:
        """As `add` at every place; an example is made of the first few alone."""
        for place in places[:MAX_EXAMPLES]:
            self.add(kind, example(place), *known)
        if len(places) > MAX_EXAMPLES:
            self.findings[kind].count += len(places) - MAX_EXAMPLES

    @property
    def errors(self) -> list[Finding]:
        """Findings with which a training would fail or learn nonsense."""
        return [f for f in self.findings.values() if f.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """Findings that are dealt with, but worth a look."""
        return [f for f in self.findings.values() if f.severity == "warning"]

    def raise_errors(self, kinds: Collection[str] | None = None) -> None:
        """Raise one UserError that names every kind of error, or of those `kinds`; or do nothing."""
        errors = [f for f in self.errors if kinds is None or f.kind in kinds]
        if not errors:
            return
        labels = [f.kind.replace("_", " ") + (f" ({f.count} times)" if f.count > 1 else "") for f in errors]
        lines = [f"{self.json}: " + "; ".join(labels)]
        for finding in errors:
            lines += [f"  {finding.text}", f"  first: {finding.examples[0]}"]
        lines.append(f"  the whole list: python -m detrex_ext check {self.json}")
        if any(f.kind in MENDED for f in errors):
            lines[-1] += "; with --fix OUT.json it writes a mended one"
        raise UserError("\n".join(lines))

    def to_dict(self) -> dict:
        """Plain data for `--json`."""
        plain = {key: value for key, value in vars(self).items() if key not in ("findings", "mended")}
        found = {"findings": [vars(f) for f in self.findings.values()], "mended": [vars(f) for f in self.mended]}
        return {**plain, "ok": not self.errors, **found}

    def text(self) -> str:
        """The report for a terminal."""
        lines = [
            self.json,
            f"  images       {self.num_images}" + (f"  ({self.num_empty} without boxes)" if self.num_empty else ""),
            f"  annotations  {self.num_annotations}" + (f"  ({self.num_crowd} crowd)" if self.num_crowd else ""),
        ]
        if self.most_objects:
            lines.append(f"  most objects {self.most_objects} on an image")
        lines += [f"  images in    {self.images}"] if self.images else []
        if self.classes:
            rows = [[n if len(n) <= 30 else n[:27] + "...", *row.values()] for n, row in self.classes.items()]
            table = tabulate(rows, ["class", "boxes", *SIZES, "images"], "plain", disable_numparse=[0])
            lines += ["", textwrap.indent(table, "  ")]
        for finding in self.mended:
            lines += ["", f"  mended: {finding.count} x {finding.kind}", *finding.shown()]
        for finding in self.errors + self.warnings:
            lines += ["", f"  {finding.severity}: {finding.count} x {finding.kind}: {finding.text}", *finding.shown()]
        if os.path.isfile(self.json) and not self.mended and any(kind in MENDED for kind in self.findings):
            lines += ["", f"  python -m detrex_ext check {self.json} --fix OUT.json writes a mended file"]
        verdict = f"{len(self.errors)} kinds of errors, {len(self.warnings)} of warnings"
        return "\n".join([*lines, "", "  " + ("no errors" if not self.errors else verdict)])
