"""Tables of key names of other projects, one module each; add a table to ``LAYOUTS`` to teach a new one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from torch import Tensor, nn

from detrex_ext.errors import UserError

from .base import Layout, Sliced, State
from .classifiers import SWIN, TIMM
from .detrex_dab import DETREX_DAB, DETREX_DAB_DC5
from .detrex_deformable import DETREX_DEFORMABLE
from .detrex_detr import DETREX_DETR, DETREX_DETR_DC5
from .detrex_dino import DETREX_DINO
from .mmdet_adamixer import MMDET_ADAMIXER
from .mmdet_deformable import MMDET_DEFORMABLE
from .official import OFFICIAL_DEFORMABLE, OFFICIAL_DINO, OFFICIAL_MIXED
from .official_detr import OFFICIAL_DETR
from .resnet import DETECTRON2_RESNET, TORCHVISION_RESNET
from .torchvision_swin import TORCHVISION_SWIN

OURS = Layout(
    name="detrex_ext",
    recognise=lambda keys: True,
    rename=lambda keys, model_keys: {k: k for k in keys},
    zoo=False,
)
OUR_BACKBONE = replace(
    OURS,
    name="detrex_ext backbone",
    recognise=lambda keys: all(k.startswith("backbone.") for k in keys),
    scope="backbone.",
)
LAYOUTS: tuple[Layout, ...] = (
    DETREX_DEFORMABLE,
    DETREX_DINO,
    DETREX_DAB,
    DETREX_DAB_DC5,
    DETREX_DETR,
    DETREX_DETR_DC5,
    OFFICIAL_DINO,
    OFFICIAL_MIXED,
    OFFICIAL_DEFORMABLE,
    OFFICIAL_DETR,
    MMDET_DEFORMABLE,
    MMDET_ADAMIXER,
    TORCHVISION_RESNET,
    DETECTRON2_RESNET,
    TORCHVISION_SWIN,
    SWIN,
    TIMM,
    OUR_BACKBONE,
    OURS,
)
FAMILIES = tuple(dict.fromkeys(layout.family for layout in LAYOUTS if layout.family))


def recognise(keys: Collection[str]) -> Layout:
    """The first table that knows a file with these keys; ours where none does."""
    return next(layout for layout in LAYOUTS if layout.recognise(keys))


def candidates(keys: Collection[str]) -> list[Layout]:
    """All tables that know a file with these keys, best first; ours alone where none does."""
    return [layout for layout in LAYOUTS if layout is not OURS and layout.recognise(keys)] or [OURS]


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


__all__ = ["FAMILIES", "LAYOUTS", "Layout", "OURS", "Sliced", "State", "candidates", "recognise", "to_layout"]
