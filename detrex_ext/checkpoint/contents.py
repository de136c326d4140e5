"""What a checkpoint says of its model beside the tensors, held against what a training writes there."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from detrex_ext.errors import UserError

from .foreign import AVERAGED

TRAINED, AVERAGE = "model", "ema_state"
EVALUATED = "evaluated"
"""Key of a checkpoint that says which of its parts the training evaluated."""


def _list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(type(one) is kind for one in value)


# key -> (what it is, in words; whether a value is that). One of None is as good as none.
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "class_names": ("a list of texts", _list_of(str)),
    "category_ids": ("a list of whole numbers", _list_of(int)),
    "seed": ("a whole number", lambda value: type(value) is int and abs(value) < 2**63),
    EVALUATED: (f"{TRAINED} or {AVERAGE}", lambda value: isinstance(value, str) and value in (TRAINED, AVERAGE)),
    AVERAGE: ("tensors by name", lambda value: isinstance(value, Mapping)),
}


def _shown(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 200:
        return f"of {value.bit_length():,} bits"  # its digits may be more than Python writes
    return reprlib.repr(value) if isinstance(value, dict | list | tuple | set) else str(value)


def checked(data: dict[str, Any], name: str) -> dict[str, Any]:
    """The contents of a checkpoint, of which what is empty is taken out, in place.

    Args:
        data: by our names.
        name: of the file, for messages.

    Raises:
        UserError: a value of another kind than a training writes.
    """
    for key, (words, fits) in _KINDS.items():
        value = data.get(key)
        if value is not None and not fits(value):
            raise UserError(
                f"checkpoint {name}: its '{key}' is {type(value).__name__} {_shown(value)[:60]!r}, expected {words}\n"
                "  it was changed after the training, or is of another project: convert it, or take another file"
            )
    if not isinstance(data.get(TRAINED), Mapping):
        found = _shown(data.get(TRAINED))[:60]
        raise UserError(f"checkpoint {name}: its '{TRAINED}' is {found!r}, expected tensors by name")
    names, ids = data.get("class_names"), data.get("category_ids")
    if names and ids and len(names) != len(ids):
        raise UserError(f"checkpoint {name}: it has {len(names)} class_names, but {len(ids)} category_ids")
    empty = {key for key in _KINDS if data.get(key, 0) is None}
    empty |= {key for key in AVERAGED if key in data and not (isinstance(data[key], Mapping) and data[key])}
    for key in empty:
        del data[key]
    return data
