"""What a table of key names is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import Tensor

State = dict[str, Tensor]
Names = dict[str, "str | None"]


@dataclass(frozen=True)
class Layout:
    """Key names of one kind of weight file against ours.

    Attributes:
        name: what reports call it.
        recognise: whether a file with these keys is of this kind.
        rename: (keys of the file, keys of the model) -> our key of each file key; None = left out on purpose.
            Several file keys may name one of ours (aliases of a shared tensor).
        write: our state dict -> a state dict of this kind, or None where it is only read.
        family: name under which it is written (``detrex``); tables of one family share it, one per host.
        fits: whether a model of ours with these keys is the host that this table writes.
        scope: prefix of our keys that such a file covers; "" = all of them.
    """

    name: str
    recognise: Callable[[Collection[str]], bool]
    rename: Callable[[Collection[str], Collection[str]], Names]
    write: Callable[[State], State] | None = None
    family: str = ""
    fits: Callable[[Collection[str]], bool] = lambda keys: False
    scope: str = ""
