"""Sampling of a feature pyramid at points of scale space (AdaMixer, arXiv 2203.16507, section 3.2).

Shape legend: B images, S memory tokens of all levels, T queries, G groups, P points of a group, C channels of a group,
L levels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from detrex_ext.structures.placing import placed

from .ms_deform_attn import ms_deform_attn
from .ms_deform_backends import Shapes


def level_weights(z: Tensor, strides: Sequence[int], tau: float = 2.0) -> Tensor:
    """How much each level counts at a scale: softmax over levels of -(z - log2 stride)^2 / tau.

    Args:
        z: (...) log2 of a scale in pixels.
        strides: pixels per cell of each level.
        tau: the larger, the more even the weights.

    Returns:
        (..., L).
    """
    at_L = placed([float(s) for s in strides], z).log2()
    return ((z[..., None] - at_L).square() / -tau).softmax(-1)


def sample_3d(
    value_BSGC: Tensor, shapes: Shapes, strides: Sequence[int], points_BTGP3: Tensor, backend: str = "auto"
) -> Tensor:
    """Bilinear samples of all levels, blended by the level weights of each point's scale; zero outside a map.

    This is multi-scale deformable attention with one point per level, P queries for each of ours, and the level
    weights for attention weights: one gather for all levels, whose backward pass keeps no sampled copies.

    Args:
        value_BSGC: levels side by side; each group sees channels of its own.
        shapes: (height, width) of each level.
        strides: pixels per cell of each level.
        points_BTGP3: x and y in pixels of the padded image, z = log2 of a scale in pixels.
        backend: of :func:`~detrex_ext.layers.ms_deform_attn.ms_deform_attn`.

    Returns:
        (B, T, G, P, C), in the type that :func:`~detrex_ext.layers.ms_deform_attn.ms_deform_attn` gives.
    """
    B, T, G, P, _ = points_BTGP3.shape
    points = points_BTGP3.transpose(2, 3)
    sizes = [[w * s, h * s] for (h, w), s in zip(shapes, strides, strict=True)]
    size_L2 = placed(sizes, points)
    at = (points[..., None, :2] / size_L2).reshape(B, T * P, G, len(sizes), 1, 2)
    weight = level_weights(points[..., 2], strides).reshape(B, T * P, G, len(sizes), 1)
    sampled = ms_deform_attn(value_BSGC, shapes, at, weight, backend)
    return sampled.view(B, T, P, G, value_BSGC.shape[-1]).transpose(2, 3)
