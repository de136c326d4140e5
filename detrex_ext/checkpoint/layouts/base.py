"""What a table of key names is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

State = dict[str, Tensor]
Names = dict[str, "str | None"]


class Sliced(NamedTuple):
    """Rows of a tensor that were chosen, or made, on the way from a file to a model."""

    key: str
    before: int
    after: int
    how: str

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.after} rows, {self.how}"


def _as_they_are(state: State, own: Mapping[str, Tensor]) -> list[Sliced]:
    return []


@dataclass(frozen=True)
class Layout:
    """Key names of one kind of weight file against ours.

    Attributes:
        name: what reports call it.
        recognize: whether a file with these keys is of this kind.
        rename: (keys of the file, keys of the model) -> our key of each file key; None = left out on purpose.
            Several file keys may name one of ours (aliases of a shared tensor).
        adapt: (tensors by our names, the model's or {}) -> what it did; changes rows in the first dict, such as those
            of 91 category ids into those of 80 classes.
        write: our state dict -> a state dict of this kind, or None where it is only read.
        family: name under which it is written (``detrex``); tables of one family share it, one per host.
        fits: whether a model of ours with these keys is the host that this table writes.
        scope: prefix of our keys that such a file covers; "" = all of them.
        zoo: files of this kind are published for COCO: 80 class rows, where the file names no classes, are COCO's.
    """

    name: str
    recognize: Callable[[Collection[str]], bool]
    rename: Callable[[Collection[str], Collection[str]], Names]
    adapt: Callable[[State, Mapping[str, Tensor]], list[Sliced]] = _as_they_are
    write: Callable[[State], State] | None = None
    family: str = ""
    fits: Callable[[Collection[str]], bool] = lambda keys: False
    scope: str = ""
    zoo: bool = True
