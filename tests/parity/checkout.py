"""Packages of the authors' checkouts that descend from Deformable-DETR (DAC-DETR, H-DETR), imported as they are.

Stand-ins: ``MultiScaleDeformableAttention``, which is compiled for CUDA, by the function in plain torch that the
authors test it with; and imports that nothing compared uses: ``wandb``, and ``timm``, ``mmcv_custom`` and ``mmdet`` of
their Swin Transformer.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torchvision
from torch import Tensor, nn

OWN = ("models", "util", "datasets", "engine", "main", "mmcv_custom")
UNUSED = {
    "wandb": {},
    "mmdet": {},
    "mmdet.utils": {"get_root_logger": None},
    "timm": {},
    "timm.models": {},
    "timm.models.layers": {"DropPath": None, "to_2tuple": None, "trunc_normal_": None},
    "mmcv_custom": {"load_checkpoint": None},
}


def skip_without_checkout(root: Path | None, variable: str, what: str) -> None:
    """Skip the calling module, with the reason, where there is no checkout."""
    if root is None or not (root / "models/deformable_detr.py").is_file():
        pytest.skip(f"comparison with {what} needs {variable} to name a checkout of it", allow_module_level=True)


def _compiled() -> dict[str, Any]:
    @functools.cache  # a backward pass may come when the checkout's modules have gone
    def plain() -> Any:
        return sys.modules["models.ops.functions.ms_deform_attn_func"].ms_deform_attn_core_pytorch

    def forward(value: Tensor, shapes: Tensor, start: Tensor, at: Tensor, weight: Tensor, step: int) -> Tensor:
        return plain()(value, shapes, at, weight)

    def backward(
        value: Tensor, shapes: Tensor, start: Tensor, at: Tensor, weight: Tensor, grad: Tensor, step: int
    ) -> tuple[Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in (value, at, weight)]
        with torch.enable_grad():
            return torch.autograd.grad(plain()(leaves[0], shapes, *leaves[1:]), leaves, grad)

    return {"ms_deform_attn_forward": forward, "ms_deform_attn_backward": backward}


@contextmanager
def modules_of(root: Path) -> Iterator[Any]:
    """``load(name)`` imports a module of the checkout, while this is held; then ours are back in their places."""
    stand_ins = {**UNUSED, "MultiScaleDeformableAttention": _compiled()}
    before = {k: v for k, v in sys.modules.items() if k.split(".")[0] in (*OWN, *stand_ins)}
    for name in before:
        del sys.modules[name]
    for name, content in stand_ins.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
        vars(sys.modules[name]).update(content)
    try:
        with mock.patch.object(sys, "path", [str(root), *sys.path]):
            yield importlib.import_module
    finally:
        for name in [k for k in sys.modules if k.split(".")[0] in (*OWN, *stand_ins)]:
            del sys.modules[name]
        sys.modules.update(before)


def build(load: Any, flags: Sequence[str], folder: Path) -> tuple[nn.Module, nn.Module]:
    """Model and criterion by the project's own command-line flags and its own ``build``; the backbone is at random.

    Args:
        load: of ``modules_of``.
        flags: of its ``main.py``.
        folder: where it is made to find the backbone's file: it reads one, or has torchvision fetch one.
    """
    for name in ("initmodel/resnet50-19c8e357.pth", "hub/checkpoints/resnet50-0676ba61.pth"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(torchvision.models.resnet50(weights=None).state_dict(), folder / name)
    args = load("main").get_args_parser().parse_args([*flags, "--device", "cpu"])
    with pytest.MonkeyPatch.context() as where:
        where.chdir(folder)
        where.setenv("TORCH_HOME", str(folder))
        model, criterion, _ = load("models").build_model(args)
    return model.train(), criterion.train()


@torch.no_grad()
def disturb(model: nn.Module) -> None:
    """Weights away from their start, which is all zero in box heads; boxes reach the borders of the image."""
    for name, p in model.named_parameters():
        if not name.startswith("backbone"):
            p.add_(0.05 * torch.randn_like(p))
        if "class_embed" in name and name.endswith("bias"):
            p.copy_(torch.randn_like(p) - 2)
        if "bbox_embed" in name and name.endswith("layers.2.bias"):
            p.copy_(2 * torch.randn_like(p))
