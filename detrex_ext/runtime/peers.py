"""The one door to detrex: what of it is used where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable


def detrex_msda_op() -> Callable | None:
    """The multi-scale deformable attention of detrex with its compiled kernel, or None.

    Returns:
        `MultiScaleDeformableAttnFunction.apply(value_BSHC, shapes_L2, starts_L, locations_BQHLP2, weights_BQHLP,
        im2col_step) -> (B, Q, H * C)`.
    """
    if importlib.util.find_spec("detrex") is None:
        return None
    try:
        importlib.import_module("detrex._C")
        return importlib.import_module("detrex.layers.multi_scale_deform_attn").MultiScaleDeformableAttnFunction.apply
    except (ImportError, AttributeError):
        return None
