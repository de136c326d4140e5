"""Second values that mmcv's ``EMAHook`` puts beside all weights of a model, as ``ema_`` and the name with underscores.

At the end of an epoch, when a file is written, it has exchanged both: the averages are under the model's own names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from .base import Names

Rename = Callable[[Collection[str], Collection[str]], Names]


def without_twins(rename: Rename) -> Rename:
    """``rename`` of a layout, with these left out."""

    def renamed(keys: Collection[str], model_keys: Collection[str]) -> Names:
        twins = {f"ema_{key.replace('.', '_')}" for key in keys}
        left = {key for key in keys if key in twins}
        return {**dict.fromkeys(left), **rename(set(keys) - left, model_keys)}

    return renamed
