"""Another backbone in a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detrex_ext.errors import UserError


def swap_backbone(cfg: Any, backbone: Any, channels: Mapping[str, int]) -> Any:
    """Puts a backbone into a config and tells the neck its channels; the maps that the neck takes stay the same.

    Args:
        cfg: a config with ``model.backbone`` and ``model.neck``; changed in place.
        backbone: a ``LazyCall`` of a backbone that takes ``out_features``.
        channels: channels of its maps by name, ``res2`` .. ``res5``.

    Returns:
        ``cfg``.

    Raises:
        UserError: a neck that does not say which maps it takes.
    """
    neck = cfg.model.neck
    before = neck.get("in_channels")
    if isinstance(before, int):
        names = [neck.get("in_feature", "res5")]
    elif isinstance(before, Mapping):
        names = list(before)
    else:
        raise UserError("model.neck has no in_channels (a number, or numbers by name): set backbone and neck by hand")
    backbone.out_features = names
    cfg.model.backbone = backbone
    neck.in_channels = channels[names[0]] if isinstance(before, int) else {name: channels[name] for name in names}
    return cfg
