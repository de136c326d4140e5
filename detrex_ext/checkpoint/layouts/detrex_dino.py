"""detrex's DINO: the names of its two-stage Deformable-DETR, and those of content, denoising and the shared norm."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from .detrex_deformable import DETREX_DEFORMABLE


def _recognize(keys: Collection[str]) -> bool:
    known = set(keys)
    sampling = "transformer.decoder.layers.0.attentions.1.sampling_offsets.weight" in known
    return sampling and "transformer.decoder.norm.weight" in known


def _fits(keys: Collection[str]) -> bool:
    known = set(keys)
    return {"decoder.layers.0.attentions.1.sampling_offsets.weight", "decoder.norm.weight"} <= known


DETREX_DINO = replace(DETREX_DEFORMABLE, name="detrex DINO", recognize=_recognize, fits=_fits)
