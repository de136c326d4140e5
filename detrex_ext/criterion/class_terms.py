"""The class terms of a config's rules, for overlays that put another loss into them."""

from __future__ import annotations

import copy
from collections.abc import Collection

from omegaconf import DictConfig

from detrex_ext.config import parts
from detrex_ext.errors import UserError


def class_terms(rules: DictConfig, overlay: str, apart: Collection[str] = ()) -> dict[str, DictConfig]:
    """The terms ``class`` by group of queries, to be changed in place.

    Args:
        rules: ``model.rules`` of a config.
        overlay: its name, for messages.
        apart: groups that no more follow the terms of others.

    Raises:
        UserError: the host's rule has no terms, or its classes are those of a softmax.
    """
    ruled = {group: rule for group, rule in parts(rules).items() if rule and (rule.get("terms") or {}).get("class")}
    if "main" not in ruled:
        raise UserError(
            f"the overlay {overlay} needs a rule with terms to put its class loss into; model.rules.main has none"
        )
    if "SoftmaxLoss" in str(ruled["main"].terms["class"].loss._target_):
        raise UserError(
            f"the overlay {overlay} is for hosts with a sigmoid per class; this one has a softmax with 'no object'\n"
            "  use it over another, such as dab_detr_r50_50ep or dino_r50_4scale_12ep"
        )
    for group in apart:
        if group in ruled:
            ruled[group].terms = copy.deepcopy(ruled[group].terms)
    return {group: rule.terms["class"] for group, rule in ruled.items()}
