"""Which overlays are training strategies, losses or matchers, and what happens when two are laid over one host.

Every pair is built, narrow and with random weights, and makes one step. What the table says is what happened: it
composes, it is refused with this reason, or the later one takes the place of what the earlier one put there.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from detrex_ext.config import apply_overlay, build, find_config, load_config
from detrex_ext.config.options import check_options
from detrex_ext.engine.distillation import Teacher
from detrex_ext.errors import UserError
from detrex_ext.matching import GivenMatcher
from detrex_ext.testing import example_batch

OVERLAYS = Path(__file__).resolve().parents[1] / "configs" / "overlays"
# two stages and denoising: it has all that an overlay may ask for
HOST = "dino_r50_4scale_12ep"
HOSTS = {
    "DETR": "detr_r50_300ep",
    "DAB": "dab_detr_r50_50ep",
    "Deformable": "deformable_detr_r50_50ep",
    "Deformable++": "deformable_detr_plus_r50_12ep",
    "DINO": HOST,
    "AdaMixer": "adamixer_r50_12ep",
    "TSP-FCOS": "tsp_fcos_r50_3x",
    "small": "quickstart",
}
CLASSES = 4
SIZES = {"dim": 32, "out_channels": 32, "ffn_dim": 32, "num_layers": 3, "dropout": 0.0, "num_queries": 12, "number": 4}
# of a training: so late that matchers which change have changed
PROGRESS = 0.76
# file and line before a reason
_PLACE = re.compile(r"^\S+\.py(:\d+)?: ")


@dataclass(frozen=True)
class Outcome:
    """What came of overlays laid one after another.

    Attributes:
        refusal: the reason; "" where they made a step.
        lost: parts of the first that are gone, and keys that it set and that are set otherwise, under the second.
        wholly: nothing of the first is left.
    """

    refusal: str = ""
    lost: tuple[str, ...] = ()
    wholly: bool = False


@cache
def narrow(host: str) -> DictConfig:
    """A host, narrow, with no strategy over it; not to be changed."""
    return load_config(find_config(host), [("tiny", SIZES)], [f"model.num_classes={CLASSES}"])


def laid(host: str, overlays: Sequence[str]) -> DictConfig:
    """A narrow host under overlays.

    Raises:
        UserError, ValueError: one of them refuses.
    """
    cfg = copy.deepcopy(narrow(host))
    for name in overlays:
        cfg = apply_overlay(cfg, name)
    return check_options(cfg)


def strategies() -> list[str]:
    """Names of the overlays that change how a host is trained, and not what is trained."""
    bare = plain(narrow(HOST))
    found = []
    for file in sorted(OVERLAYS.glob("*.py")):
        try:
            cfg = plain(laid(HOST, [file.stem]))
        except (UserError, ValueError):
            cfg = {}  # refused over this host, and so none that only swaps a backbone
        same = not cfg or cfg["model"]["backbone"] == bare["model"]["backbone"]
        if same and file.stem not in ("tiny", "from_detrex"):
            found.append(file.stem)
    return found


def reason(error: Exception) -> str:
    """The first line of a refusal, without where on this machine it was raised."""
    return _PLACE.sub("", str(error).splitlines()[0])


def attempt(host: str, overlays: Sequence[str]) -> Outcome:
    """Builds a host under overlays, makes a step, and says what happened.

    Raises:
        Exception: whatever is no refusal; a fault.
    """
    try:
        cfg = laid(host, overlays)
        step(cfg, host)
    except (UserError, ValueError) as error:
        return Outcome(refusal=reason(error))
    if len(overlays) < 2:
        return Outcome()
    bare, first, last = (plain(laid(host, names)) for names in ((), overlays[:1], overlays[-1:]))
    both = parts(plain(cfg))
    lost = sorted(name for name in parts(first) - parts(bare) if not both[name])
    before, set_by_first, now = map(numbers, (bare, first, plain(cfg)))
    lost += [key for key, value in set_by_first.items() if value != before.get(key) and now.get(key) != value]
    return Outcome("", tuple(lost), plain(cfg) == last)


def step(cfg: DictConfig, host: str) -> None:
    """A forward and a backward pass; the steps of the data are built.

    Raises:
        UserError, ValueError: a refusal.
        FloatingPointError: a loss or gradient that is not finite.
    """
    build(cfg.dataloader.train.mapper, "dataloader.train.mapper")
    torch.manual_seed(0)
    model = build(cfg.model, "model", nn.Module).train()
    if any(isinstance(r.matcher, GivenMatcher) and r.matcher.source == "targets" for r in model.rules.values()):
        other = build(narrow(host).model, "model", nn.Module)
        model.teacher = Teacher(other, other.rules["main"].matcher)
    losses = model(example_batch(CLASSES, (3, 0)), progress=PROGRESS)
    sum(losses.values()).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    if not all(x.isfinite().all() for x in (*losses.values(), *grads)):
        raise FloatingPointError("a loss or a gradient is not finite")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A config as it is written: references stay references."""
    return OmegaConf.to_container(cfg, resolve=False)


def numbers(cfg: dict[str, Any]) -> dict[str, Any]:
    """What a config says, beside its parts, of the data, the training and the suppression of duplicates."""
    sections = {"dataset": cfg["dataset"], "train": cfg["train"], "model.postprocess": cfg["model"]["postprocess"]}
    return {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}


def parts(node: Any) -> Counter[str]:
    """How often each class or function is called in a config, by its short name."""
    return Counter(str(getattr(t, "__name__", t)).rpartition(".")[2] for t in _targets(node))


def _targets(node: Any) -> Iterator[Any]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and "_target_" in node:
        yield node["_target_"]
    for child in children:
        yield from _targets(child)
