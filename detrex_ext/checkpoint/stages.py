"""The decoder stages that inference runs, as a model of their own.

A decoder that loops one stage (``model.decoder.eval_order=[5,5,5,5,5]``) needs the weights of no other.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence

from omegaconf import DictConfig, open_dict
from torch import Tensor, nn

from detrex_ext.errors import UserError


def inference_stages(cfg: DictConfig, run: Sequence[int]) -> tuple[DictConfig, list[int]]:
    """A config whose decoder has only the stages that inference runs, in the same order, and no strategies.

    Args:
        cfg: with ``model.decoder``; not changed.
        run: stages that its inference runs, in order.

    Returns:
        The config, and which stages (0-based) of the old decoder are its 0, 1, ...
    """
    cfg = copy.deepcopy(cfg)
    decoder = cfg.model.decoder
    kept = sorted(set(run))
    with open_dict(cfg):
        decoder.pop("order", None)
        decoder.num_layers, decoder.eval_order = len(kept), [kept.index(i) for i in run]
        cfg.model.strategies = {}
    return cfg, kept


def keep_stages(state: Mapping[str, Tensor], decoder: nn.Module, kept: Sequence[int]) -> dict[str, Tensor]:
    """Weights without those of the other stages, the kept ones renumbered from 0.

    Args:
        state: of the whole model, by our names.
        decoder: the whole decoder; its lists of ``num_layers`` modules are by stage.
        kept: stages, ascending.

    Raises:
        UserError: a kept stage would take the place of one that is built otherwise, as DAB-DETR's first.
    """
    lists = [n for n, m in decoder.named_children() if isinstance(m, nn.ModuleList) and len(m) == decoder.num_layers]
    by_stage = re.compile(rf"decoder\.({'|'.join(lists) or '$^'})\.(\d+)\.(.*)")
    parts: dict[int, dict[tuple[str, str], Tensor]] = {i: {} for i in range(decoder.num_layers)}
    found = {}
    for key, value in state.items():
        match = by_stage.fullmatch(key)
        if match:
            parts[int(match[2])][match[1], match[3]] = value
        else:
            found[key] = value
    for new, old in enumerate(kept):
        other = {"decoder." + ".".join((name, str(new), rest)) for name, rest in parts[new].keys() ^ parts[old].keys()}
        if other:
            raise UserError(
                f"stage {old} cannot become stage {new} of a smaller decoder: they are built differently\n"
                f"  only one of them has {', '.join(sorted(other))}"
            )
        found |= {f"decoder.{name}.{new}.{rest}": value for (name, rest), value in parts[old].items()}
    return found
