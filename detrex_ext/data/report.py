"""What a check of a data set found: findings, counts, and their text and JSON form."""

from __future__ import annotations

import textwrap
from collections.abc import Collection
from dataclasses import dataclass, field

from tabulate import tabulate

from detrex_ext.errors import UserError

MAX_EXAMPLES = 5
SIZES = ("small", "medium", "large")


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


@dataclass
class Report:
    """The result of checking one annotation file.

    Attributes:
        json: the file. images: the image folder, "" where images were not looked at.
        classes: per class name: boxes "total", "small", "medium", "large" (COCO's areas), and "images" with the class.
        findings: by kind, in the order found.
    """

    json: str
    images: str = ""
    num_images: int = 0
    num_annotations: int = 0
    num_crowd: int = 0
    num_empty: int = 0
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)

    def add(self, kind: str, severity: str, text: str, example: str) -> None:
        """Record one occurrence of a fault."""
        finding = self.findings.setdefault(kind, Finding(kind, severity, text))
        finding.count += 1
        if len(finding.examples) < MAX_EXAMPLES:
            finding.examples.append(example)

    @property
    def errors(self) -> list[Finding]:
        return [f for f in self.findings.values() if f.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
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
        raise UserError("\n".join(lines))

    def to_dict(self) -> dict:
        """Plain data for `--json`."""
        plain = {key: value for key, value in vars(self).items() if key != "findings"}
        return {**plain, "ok": not self.errors, "findings": [vars(f) for f in self.findings.values()]}

    def text(self) -> str:
        """The report for a terminal."""
        lines = [
            self.json,
            f"  images       {self.num_images}" + (f"  ({self.num_empty} without boxes)" if self.num_empty else ""),
            f"  annotations  {self.num_annotations}" + (f"  ({self.num_crowd} crowd)" if self.num_crowd else ""),
        ]
        if self.images:
            lines.append(f"  images in    {self.images}")
        if self.classes:
            rows = [[n if len(n) <= 30 else n[:27] + "...", *row.values()] for n, row in self.classes.items()]
            table = tabulate(rows, ["class", "boxes", *SIZES, "images"], "plain", disable_numparse=[0])
            lines += ["", textwrap.indent(table, "  ")]
        for finding in self.errors + self.warnings:
            lines += ["", f"  {finding.severity}: {finding.count} x {finding.kind}: {finding.text}"]
            lines += [f"    {example}" for example in finding.examples]
            if finding.count > len(finding.examples):
                lines.append(f"    and {finding.count - len(finding.examples)} more")
        verdict = f"{len(self.errors)} kinds of errors, {len(self.warnings)} of warnings"
        return "\n".join([*lines, "", "  " + ("no errors" if not self.errors else verdict)])
