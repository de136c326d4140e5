"""What a value of an annotation file is."""

from __future__ import annotations

import re
import sys

_WHOLE = re.compile(r"(-?[0-9]{1,18})(\.0+)?")


def is_size(value: object) -> bool:
    """Whether `value` is a number of pixels, 1 or more, of an image that can be."""
    return is_finite(value) and 1 <= value < 2**31


def is_id(value: object) -> bool:
    """Whether `value` can tell an image from others."""
    return isinstance(value, int | str) or is_finite(value)


def whole(value: object) -> object:
    """1 for 1.0; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def other_type(value: object) -> object:
    """1 for "1", and "1" for 1; None where there is no such thing."""
    if isinstance(value, str):
        match = _WHOLE.fullmatch(value)
        return int(match[1]) if match else None
    return str(whole(value)) if is_finite(value) and abs(value) < 10**18 else None


def is_box(value: object) -> bool:
    """Whether `value` is a list of four finite numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_finite, value))


def is_finite(value: object) -> bool:
    """Whether `value` is a number that a float can hold."""
    # Compared and not converted: an integer may be too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
