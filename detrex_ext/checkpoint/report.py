"""What became of the tensors of a file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from detrex_ext.errors import UserError

from .layouts import Sliced

_SHOWN = 10


@dataclass
class LoadReport:
    """What of a file went into a model.

    Attributes:
        matched: our keys that were loaded.
        missing: keys of the model that the file lacks.
        unexpected: keys of the file that the model lacks.
        mismatched: (our key, shape in the file, shape in the model).
        renamed: (key of the file, our key) where they differ.
        sliced: tensors of which some rows were taken, or that were made, with the reason.
        dropped: keys of the file that are left out on purpose.
        layout: name of the table that was used.
        others: what the file holds that is no tensor.
        prefixes: of wrapped models, taken off the names of the file; "" = none.
        scope: prefix of our keys that files of this kind cover; "" = all of them.
        weights: which file and which of its weights these are, in words; "" = not said.
    """

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    sliced: list[Sliced] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    prefixes: str = ""
    layout: str = ""
    scope: str = ""
    weights: str = ""

    @property
    def complete(self) -> bool:
        """Nothing missing, nothing left over, nothing of another shape."""
        return not (self.missing or self.unexpected or self.mismatched)

    @property
    def total(self) -> int:
        """Tensors of the model that such a file is about."""
        return len(self.matched) + len(self.missing) + len(self.mismatched)

    def check_whole(self, name: str | os.PathLike) -> None:
        """Raises a ``UserError`` where a file of this kind, called ``name``, has only a part of a detector."""
        if self.scope:
            raise UserError(
                f"checkpoint {name}: holds only {self.scope.rstrip('.')} weights ({self.layout} names), the rest of "
                "the detector would be random\n  name the checkpoint of a training: train.init_checkpoint=PATH"
            )

    def _names(self) -> str:
        return f"{self.layout} names" + (f" without {self.prefixes}" if self.prefixes else "")

    def tried(self) -> str:
        """The names that were looked for, and how many tensors of the model they gave."""
        return f"{self._names()} ({len(self.matched)} of {self.total})"

    def __str__(self) -> str:
        return self._text(_SHOWN)

    def full(self) -> str:
        """Every key of every kind, also those that were taken, renamed or left out on purpose."""
        return self._text(None)

    def _text(self, shown: int | None) -> str:
        lines = [f"matched {len(self.matched)} of {self.total} tensors ({self._names()})"]
        lines += _listed("rows chosen", self.sliced, shown)
        lines += _listed("missing from the file", self.missing, shown)
        shapes = [f"{key}: {a} in the file, {b} in the model" for key, a, b in self.mismatched]
        lines += _listed("of another shape", shapes, shown)
        lines += _listed("not in the model", self.unexpected, shown)
        lines += _listed("no tensors, left out", self.others, shown)
        if shown is None:
            lines += _listed("left out on purpose", self.dropped, shown)
            lines += _listed("renamed", [f"{old} -> {new}" for old, new in self.renamed], shown)
            new = {new for _, new in self.renamed}
            lines += _listed("taken under their names", [key for key in self.matched if key not in new], shown)
        return "\n".join(lines)


def _listed(title: str, items: Iterable[object], shown: int | None) -> list[str]:
    items = [str(item) for item in items]
    if not items:
        return []
    more = [] if shown is None or len(items) <= shown else [f"  ... and {len(items) - shown} more"]
    return [f"{title} ({len(items)}):", *(f"  {item}" for item in items[:shown]), *more]
