"""How often samples that are mixed of several images hold more objects than a model has queries.

Shape legend: N images, M + 1 numbers of objects, from 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detrex_ext.data.copy_blend import CopyBlend
from detrex_ext.data.mixing import Mixing, MixUp, Mosaic

_KNOWN = {kind.__name__: kind for kind in (Mosaic, MixUp, CopyBlend)}
_PLACE = "dataloader.train.mapper"
# Of the samples that are mixed most: below this share it is not told.
_RARE = 1e-3


class Crowding(NamedTuple):
    """Of the samples on which every mixing part is done.

    Attributes:
        share: of them that have more objects than asked about, at most, as parts of images are cut off.
        most: objects on one of them, at most.
        enough: so many are exceeded by less than one of a thousand.
        images: that they are made of.
    """

    share: float
    most: int
    enough: int
    images: int


def mixing_parts(cfg: Any) -> list[list[Mixing]]:
    """The parts of each pipeline of a training's config that mix images and are ever on; [] where it has none."""
    mapper = OmegaConf.select(cfg, _PLACE) if OmegaConf.is_config(cfg) else None
    lists = [mapper.get(name) for name in ("augmentation", "augmentation_with_crop")] if _is_section(mapper) else []
    found = [list(_built(steps)) for steps in lists if OmegaConf.is_list(steps)]
    return [parts for parts in ([part for part in parts if part.on] for parts in found) if parts]


def crowding(counts_N: np.ndarray, parts: Sequence[Mixing], number: int) -> Crowding:
    """What mixing makes of a set.

    Args:
        counts_N: objects of the images that are drawn from.
        parts: done on a sample.
        number: that is asked about.
    """
    single = np.bincount(counts_N).astype(np.float64)
    single /= single.sum()
    most, images, total = len(single) - 1, 1, single
    for part in parts:
        if isinstance(part, CopyBlend):
            total = np.convolve(total, _at_most(single, part.objects))
        else:
            for _ in range(part.images - 1):
                total = np.convolve(total, single)
        images += part.images - 1
    above = np.append(np.cumsum(total[::-1])[::-1][1:], 0.0)  # [m]: share of samples with more than m
    reached = most + sum(part.most_added(most) for part in parts)
    share = float(above[number]) if number < len(above) else 0.0
    return Crowding(share, reached, int(np.argmax(above < _RARE)), images)


def too_crowded(counts_N: np.ndarray, pipelines: Sequence[Sequence[Mixing]], number: int) -> Crowding | None:
    """Of the pipeline with most objects; None where samples with more than `number` are rare."""
    found = [crowding(counts_N, parts, number) for parts in pipelines] if len(counts_N) else []
    worst = max(found, key=lambda one: one.share, default=None)
    return worst if worst is not None and worst.share >= _RARE else None


def _at_most(single: np.ndarray, number: int) -> np.ndarray:
    """The shares where no more than `number` are taken."""
    if number >= len(single):
        return single
    return np.append(single[:number], single[number:].sum())


def _built(steps: Any) -> Iterator[Mixing]:
    """The mixing parts among nodes of a config; nothing else of it is imported or built."""
    for node in steps:
        target = node.get("_target_") if _is_section(node) else None
        package, _, name = str(target).rpartition(".")
        kind = _KNOWN.get(name) if isinstance(target, str) and package.startswith("detrex_ext.data") else target
        if isinstance(kind, type) and issubclass(kind, Mixing):
            try:
                values = OmegaConf.to_container(node, resolve=True)
                yield kind(**{key: value for key, value in values.items() if key != "_target_"})
            except (ValueError, TypeError, OmegaConfBaseException):
                continue  # told where the mapper itself is built


def _is_section(node: Any) -> bool:
    return isinstance(node, DictConfig | Mapping) and not (OmegaConf.is_config(node) and node._is_none())
