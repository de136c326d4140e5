"""``--replay FILE``: a step whose loss was not finite, run again, and where it began."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from detrex_ext.checkpoint import load_state, read_checkpoint
from detrex_ext.config import build, laid_over
from detrex_ext.config.options import check_options
from detrex_ext.errors import UserError
from detrex_ext.inference import config_in
from detrex_ext.runtime import Boxes, Instances
from detrex_ext.runtime.devices import usable_device
from detrex_ext.trust import check_trusted, drop_unknown_training

from . import rng
from .batches import told
from .precision import Precision

logger = logging.getLogger(__name__)
_SHOWN = 10  # names in a line
_PLAIN = ("train", "dataset")


def replay(path: str | os.PathLike, cfg: DictConfig | None = None, overrides: Sequence[str] = ()) -> bool:
    """Runs the step that a training left in ``non_finite.pth``, and prints its losses and where it went wrong.

    In the precision of the training, and, where it is not finite in that, in fp32 too. The batch is that of one
    process: losses are divided by its own objects, not by those of all processes.

    Args:
        path: of the file.
        cfg: the training's; default: that in the file, as far as it can be trusted (``docs/security.md``).
        overrides: of that config, as on the command line.

    Returns:
        whether losses and gradients are finite, in the training's precision.

    Raises:
        UserError: a file that holds no step, or one of another model.
    """
    data = read_checkpoint(path)
    step = data.get("step")
    batch = _batch(step, os.fspath(path))
    if cfg is None:
        cfg = laid_over(_own_config(data, os.fspath(path)), (), overrides)
    check_options(cfg, ("model",))
    device = usable_device(OmegaConf.select(cfg, "train.device") or "cpu", "train.device")
    model = build(cfg.model, "model", nn.Module).to(device)
    if getattr(model, "criterion", None) is None:
        raise UserError(f"{path}: its config has no rules that can be trusted\n  name its config: --config-file FILE")
    load_state(model, data["model"], strict=True, name=os.fspath(path)).check_whole(os.fspath(path))
    files = ", ".join(str(sample.get("file_name", "?")) for sample in batch)
    print(f"iteration {step.get('iteration')} of process {step.get('rank', 0)}: {step.get('reason')}\n  batch: {files}")
    for sample in batch:
        if not _finite(sample["image"]):
            print(f"image that is not finite: {sample.get('file_name', '?')}")
    bad = [name for name, value in model.state_dict().items() if not _finite(value)]
    if bad:
        print(f"weights that are not finite: {_some(bad)}")
    name = str(data.get("precision", "fp32"))
    finite = _run(model, batch, step, Precision(device, name != "fp32", name if name != "fp32" else "bf16"))
    if not finite and name != "fp32":
        _run(model, batch, step, Precision(device))
    return finite


def _own_config(data: dict[str, Any], path: str) -> DictConfig:
    """Model and plain values; the rest would be imported where overrides are checked, and is not needed."""
    cfg = config_in(data, path)
    check_trusted(cfg, path, ("model",), plain=_PLAIN)
    cfg = OmegaConf.masked_copy(cfg, [key for key in ("model", *_PLAIN) if key in cfg])
    drop_unknown_training(cfg)
    return cfg


def _batch(step: Any, path: str) -> list[dict[str, Any]]:
    """The samples as a data loader gives them.

    Raises:
        UserError: there are none.
    """
    try:
        return [_sample(dict(plain)) for plain in step["batch"]]
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, AssertionError) as error:
        raise UserError(
            f"{path}: holds no step that can be run again ({type(error).__name__})\n"
            "  a training writes non_finite.pth into its folder where a loss is not finite"
        ) from error


def _sample(plain: dict[str, Any]) -> dict[str, Any]:
    size, fields, boxes = plain.pop("image_size"), plain.pop("fields"), plain.pop("boxes")
    if plain["image"].dim() != 3:
        raise ValueError("an image")
    objects = Instances(tuple(int(side) for side in size))
    for name, value in fields.items():
        objects.set(name, Boxes(value) if name in boxes else value)
    return {**plain, "instances": objects}


def _run(model: nn.Module, batch: list[dict[str, Any]], step: Mapping[str, Any], precision: Precision) -> bool:
    """One forward and backward pass from the step's random states."""
    print(f"{precision.name}:")
    try:
        rng.set_state(step["rng"])
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        print(f"  its random states cannot be used ({type(error).__name__}): other numbers are drawn")
    model.train()
    model.zero_grad(set_to_none=True)
    first: list[str] = []
    hooks = [module.register_forward_hook(_watch(name, first), with_kwargs=True) for name, module in _inner(model)]
    try:
        with precision.autocast():
            losses = dict(model(batch, **told(model, progress=_progress(step))))
    except FloatingPointError as error:
        print(f"  {error}")
        losses = {}
    finally:
        for hook in hooks:
            hook.remove()
    if first:
        print(f"  first: {first[0]}")
    for name, value in losses.items():
        print(f"  {name:28} {value.item():g}")
    if not losses or not all(map(_finite, losses.values())):
        return False
    sum(losses.values()).backward()
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)]
    print(f"  gradients that are not finite: {_some(bad)}" if bad else "  losses and gradients are finite")
    return not bad


def _progress(step: Mapping[str, Any]) -> float:
    """Of the training at the step, 0 where the file does not say it."""
    progress = step.get("progress", 0.0)
    return progress if isinstance(progress, float) and 0 <= progress <= 1 else 0.0


def _inner(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if name]


def _watch(name: str, first: list[str]) -> Any:
    """A hook that notes the innermost module whose output is not finite though its input is."""

    def look(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if first or all(map(_finite, _tensors(output))) or not all(map(_finite, _tensors((args, kwargs)))):
            return
        worst = next(t for t in _tensors(output) if not _finite(t))
        count = int((~torch.isfinite(worst)).sum())
        first.append(f"{name} ({type(module).__name__}) gives {count} of {worst.numel()} values that are not finite")

    return look


def _tensors(value: Any) -> Iterator[Tensor]:
    """Floating tensors in nested arguments or results."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)
    elif hasattr(value, "__dataclass_fields__"):
        yield from _tensors(list(vars(value).values()))


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def _some(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
