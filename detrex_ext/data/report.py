"""What a check of a data set found: findings, counts, and their text and JSON form."""

from __future__ import annotations

from dataclasses import dataclass, field

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

    @property
    def label(self) -> str:
        """The kind in words, with its count."""
        return self.kind.replace("_", " ") + (f" ({self.count} times)" if self.count > 1 else "")

    def add(self, example: str) -> None:
        """Count one more occurrence."""
        self.count += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(example)


@dataclass
class Report:
    """The result of checking one annotation file.

    Attributes:
        json: the file. images: the picture folder, "" where pictures were not looked at.
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
        self.findings.setdefault(kind, Finding(kind, severity, text)).add(example)

    @property
    def errors(self) -> list[Finding]:
        return [f for f in self.findings.values() if f.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [f for f in self.findings.values() if f.severity == "warning"]

    def raise_errors(self) -> None:
        """Raise one UserError that names every kind of error, or do nothing."""
        if not self.errors:
            return
        lines = [f"{self.json}: " + "; ".join(finding.label for finding in self.errors)]
        for finding in self.errors:
            lines.append(f"  {finding.text}")
            lines.append(f"  first: {finding.examples[0]}")
        lines.append(f"  the whole list: python -m detrex_ext check {self.json}")
        raise UserError("\n".join(lines))

    def to_dict(self) -> dict:
        """Plain data for `--json`."""
        findings = [vars(f) for f in self.findings.values()]
        plain = {k: v for k, v in vars(self).items() if k != "findings"}
        return {**plain, "ok": not self.errors, "findings": findings}

    def text(self) -> str:
        """The report for a terminal."""
        lines = [
            self.json,
            f"  images       {self.num_images}" + (f"  ({self.num_empty} without boxes)" if self.num_empty else ""),
            f"  annotations  {self.num_annotations}" + (f"  ({self.num_crowd} crowd)" if self.num_crowd else ""),
        ]
        if self.images:
            lines.append(f"  pictures in  {self.images}")
        if self.classes:
            lines += ["", *self._class_table()]
        for severity in ("error", "warning"):
            for finding in self.findings.values():
                if finding.severity == severity:
                    lines += ["", f"  {severity}: {finding.count} x {finding.kind}: {finding.text}"]
                    lines += [f"    {example}" for example in finding.examples]
                    if finding.count > len(finding.examples):
                        lines.append(f"    and {finding.count - len(finding.examples)} more")
        verdict = f"{len(self.errors)} kinds of errors, {len(self.warnings)} of warnings"
        lines += ["", "  " + ("no errors" if not self.errors else verdict)]
        return "\n".join(lines)

    def _class_table(self) -> list[str]:
        names = [name if len(name) <= 30 else name[:27] + "..." for name in self.classes]
        wide = max(len(n) for n in [*names, "class"])
        head = f"  {'class':{wide}}" + "".join(f"{c:>9}" for c in ("boxes", *SIZES, "images"))
        rows = [
            f"  {name:{wide}}" + "".join(f"{row[c]:>9}" for c in ("total", *SIZES, "images"))
            for name, row in zip(names, self.classes.values(), strict=True)
        ]
        return [head, *rows]
