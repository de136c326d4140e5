"""Tables of key names of other projects, one module each; add a table to ``LAYOUTS`` to teach a new one."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from detrex_ext.errors import UserError

from .base import Layout, State
from .detrex_dab import DETREX_DAB, DETREX_DAB_DC5
from .detrex_deformable import DETREX_DEFORMABLE
from .detrex_detr import DETREX_DETR, DETREX_DETR_DC5
from .mmdet_adamixer import MMDET_ADAMIXER
from .resnet import DETECTRON2_RESNET, TORCHVISION_RESNET

OURS = Layout(name="detrex_ext", recognise=lambda keys: True, rename=lambda keys, model_keys: {k: k for k in keys})
LAYOUTS: tuple[Layout, ...] = (
    DETREX_DEFORMABLE,
    DETREX_DAB,
    DETREX_DAB_DC5,
    DETREX_DETR,
    DETREX_DETR_DC5,
    MMDET_ADAMIXER,
    TORCHVISION_RESNET,
    DETECTRON2_RESNET,
    OURS,
)
FAMILIES = tuple(dict.fromkeys(layout.family for layout in LAYOUTS if layout.family))


def recognise(keys: Collection[str]) -> Layout:
    """The first table that knows a file with these keys; ours where none does."""
    return next(layout for layout in LAYOUTS if layout.recognise(keys))


def to_layout(model_or_state: nn.Module | dict[str, Tensor], name: str) -> State:
    """Our weights under the names of another project, aliases included.

    Args:
        model_or_state: a model of ours or its state dict.
        name: ``"detrex"``, ``"detrex_dc5"`` (its dilated models) or ``"mmdet"``.

    Raises:
        UserError: no such layout, or none of its tables is of this host.
    """
    if name not in FAMILIES:
        raise UserError(f"unknown checkpoint layout '{name}'; known: {', '.join(FAMILIES)}")
    state = model_or_state.state_dict() if isinstance(model_or_state, nn.Module) else model_or_state
    table = next((x for x in LAYOUTS if x.family == name and x.write and x.fits(state)), None)
    if table is None or table.write is None:
        raise UserError(f"the layout '{name}' has no names for a model of this kind")
    return table.write(dict(state))


__all__ = ["FAMILIES", "LAYOUTS", "Layout", "OURS", "State", "recognise", "to_layout"]
