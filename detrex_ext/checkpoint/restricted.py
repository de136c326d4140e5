"""An unpickler that runs nothing of what is in a file: see ``docs/security.md``.

A pickle is a program: it names functions, calls them, and sets attributes. Here a name is looked up in a table and
never imported, and the instructions that a file of weights has no use for are taken away.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any

from .stand_ins import KNOWN, Refused, put_state

# copyreg's numbers for names, objects of old Python 2 classes, buffers beside the file, identities as text
_TAKEN_AWAY = ("EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEXT_BUFFER", "READONLY_BUFFER", "PERSID")


def _take_away(name: str) -> Callable[[Any], None]:
    def refuse(self: Any) -> None:
        raise Refused(f"a pickle instruction that no weights need ({name})")

    return refuse


class Unpickler(pickle._Unpickler):
    """Unpickles plain values; what else there may be is in ``known``.

    The class of the standard library that is written in Python: its instructions are a table, and its memo cannot be
    told to be of any length.

    Args:
        file: at the beginning of a pickle; it is left right behind it.
        size: bytes that are there at most.
        known: (module, name) -> what is taken for it.
        stored: gives what an identity of a storage stands for.
    """

    dispatch = {
        **pickle._Unpickler.dispatch,
        **{getattr(pickle, name)[0]: _take_away(name) for name in _TAKEN_AWAY},
    }

    def __init__(
        self,
        file: IO[bytes],
        size: int,
        known: Mapping[tuple[str, str], Any] = KNOWN,
        stored: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(file, encoding="latin1")
        self.size, self.known, self.stored = size, known, stored

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; a dotted one is in no table."""
        try:
            return self.known[module, name]
        except (KeyError, TypeError):
            raise Refused(f"{module}.{name}"[:200]) from None

    def persistent_load(self, pid: Any) -> Any:
        """A storage of torch."""
        if self.stored is None:
            raise Refused("a reference to what is in no file")
        return self.stored(pid)

    def load_build(self) -> None:
        """A state, for objects that take one."""
        state = self.stack.pop()
        put_state(self.stack[-1], state)

    def load_bytearray8(self) -> None:
        """Bytes, of which no more are made room for than there are."""
        (length,) = struct.unpack("<Q", self.read(8))
        if length > self.size:
            raise pickle.UnpicklingError("truncated")
        self.append(bytearray(self.read(length)))

    def _into(kind: type, load: Callable[[Any], None], place: Callable[[Any], Any]) -> Callable[[Any], None]:
        def checked(self: Any) -> None:
            if not isinstance(place(self), kind):
                raise Refused(f"items for a {type(place(self)).__name__}")
            load(self)

        return checked

    dispatch |= {
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.SETITEM[0]: _into(dict, pickle._Unpickler.load_setitem, lambda self: self.stack[-3]),
        pickle.SETITEMS[0]: _into(dict, pickle._Unpickler.load_setitems, lambda self: self.metastack[-1][-1]),
        pickle.APPEND[0]: _into(list, pickle._Unpickler.load_append, lambda self: self.stack[-2]),
        pickle.APPENDS[0]: _into(list, pickle._Unpickler.load_appends, lambda self: self.metastack[-1][-1]),
        pickle.ADDITEMS[0]: _into(set, pickle._Unpickler.load_additems, lambda self: self.metastack[-1][-1]),
    }
    del _into
