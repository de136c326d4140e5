"""Tables of key names of other projects, one module each; add a table to ``LAYOUTS`` to teach a new one."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from torch import Tensor, nn

from detrex_ext.errors import UserError
from detrex_ext.structures import without_training_only

from .base import Layout, Names, Sliced, State
from .classifiers import EFFICIENTNET, SWIN, TIMM
from .detrex_dab import DETREX_DAB, DETREX_DAB_DC5
from .detrex_deformable import DETREX_DEFORMABLE
from .detrex_detr import DETREX_DETR, DETREX_DETR_DC5
from .detrex_dino import DETREX_DINO
from .mmdet_adamixer import MMDET_ADAMIXER
from .mmdet_co_detr import MMDET_CO_DETR
from .mmdet_deformable import MMDET_DEFORMABLE
from .mobilenet import FLAT_MOBILENET, TORCHVISION_MOBILENET
from .mr_detr import MR_DETR
from .official import OFFICIAL_DEFORMABLE, OFFICIAL_DINO, OFFICIAL_MIXED
from .official_detr import OFFICIAL_DETR
from .resnet import CAFFE2_RESNET, DETECTRON2_RESNET, TORCHVISION_RESNET
from .torchvision_swin import TORCHVISION_SWIN
from .tsp import TSP_FCOS
from .tsp_rcnn import TSP_RCNN

# hybrid and group queries, which only training has
_FURTHER = re.compile(r"^queries\.(?:source\.)*(?:extra|others)\.")


def _our_names(keys: Collection[str], model_keys: Collection[str]) -> Names:
    """A model without further queries leaves them out."""
    bare = any(k.startswith("decoder.") for k in model_keys) and not any(map(_FURTHER.match, model_keys))
    return {k: None if bare and _FURTHER.match(k) else k for k in keys}


def _of_host(state: State) -> State:
    """The state of the model that is the same at inference, without further queries and what only training has."""
    state = without_training_only(state)
    source = "queries.source." if "queries.label_enc.weight" in state else "queries."
    return {re.sub(r"^queries\.(?:source\.)+", source, k): v for k, v in state.items() if not _FURTHER.match(k)}


OURS = Layout(
    name="detrex_ext",
    recognize=lambda keys: True,
    rename=_our_names,
    zoo=False,
)
OUR_BACKBONE = replace(
    OURS,
    name="detrex_ext backbone",
    recognize=lambda keys: all(k.startswith("backbone.") for k in keys),
    scope="backbone.",
)
LAYOUTS: list[Layout] = [
    MR_DETR,
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
    MMDET_CO_DETR,
    MMDET_DEFORMABLE,
    MMDET_ADAMIXER,
    TSP_FCOS,
    TSP_RCNN,
    TORCHVISION_RESNET,
    DETECTRON2_RESNET,
    CAFFE2_RESNET,
    TORCHVISION_SWIN,
    TORCHVISION_MOBILENET,
    FLAT_MOBILENET,
    EFFICIENTNET,
    SWIN,
    TIMM,
    OUR_BACKBONE,
    OURS,
]


def families() -> tuple[str, ...]:
    """Names of the projects whose layouts can be written."""
    return tuple(dict.fromkeys(layout.family for layout in LAYOUTS if layout.family))


def recognize(keys: Collection[str]) -> Layout:
    """The first table that knows a file with these keys; ours where none does."""
    return next(layout for layout in LAYOUTS if layout.recognize(keys))


def candidates(keys: Collection[str], own: Collection[str] = ()) -> list[Layout]:
    """All tables that know a file with these keys, best first; ours where none does, and where a model's own are there.

    Args:
        keys: of the file.
        own: of the model; some of them may look like those of another project, as of a backbone taken from there.
    """
    found = [layout for layout in LAYOUTS if layout is not OURS and layout.recognize(keys)]
    return [*found, OURS] if not found or (own and set(own) <= set(keys)) else found


def to_layout(model_or_state: nn.Module | dict[str, Tensor], name: str) -> State:
    """Our weights under the names of another project, aliases included and further queries of training left out.

    Args:
        model_or_state: a model of ours or its state dict.
        name: ``"detrex"``, ``"detrex_dc5"`` (its dilated models), ``"official"`` (the authors' deformable hosts),
            ``"mmdet"`` or ``"tsp"``.

    Raises:
        UserError: no such layout, or none of its tables is of this host.
    """
    if name not in families():
        raise UserError(f"unknown checkpoint layout '{name}'; known: {', '.join(families())}")
    state = model_or_state.state_dict() if isinstance(model_or_state, nn.Module) else model_or_state
    state = _of_host(dict(state))
    tables = {layout.family: layout for layout in reversed(LAYOUTS) if layout.write and layout.fits(state)}
    if name not in tables:
        others = f"layouts that have: {', '.join(sorted(tables)) or 'none'}"
        raise UserError(f"the layout '{name}' has no names for a model of this kind\n  {others}")
    return tables[name].write(state)


__all__ = ["LAYOUTS", "Layout", "OURS", "Sliced", "State", "candidates", "families", "recognize", "to_layout"]
