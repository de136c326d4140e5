"""The contract of backbones."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .invariants import held, hold


def check_backbone(backbone: nn.Module, size: tuple[int, int] = (75, 106), seed: int = 0) -> list[str]:
    """Hold a backbone against its contract (``docs/backbones.md``) on random images.

    Args:
        backbone: takes normalized images (B, 3, H, W) and returns maps (B, C, h, w) by name; on
            the CPU. It is not changed.
        size: H and W in pixels; no stride should divide them.
        seed: of the images.

    Returns:
        Names of the checks that held.

    Raises:
        BrokenInvariant: one does not hold.
    """
    backbone = copy.deepcopy(backbone)
    dtype = next((p.dtype for p in backbone.parameters()), torch.get_default_dtype())
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed)).to(dtype)
    shapes, tolerance = backbone.output_shape(), 1e-10 if dtype == torch.float64 else 1e-4

    def maps(x: Tensor = images, training: bool = False) -> dict[str, Tensor]:
        return backbone.train(training)(x)

    def names() -> None:
        hold(set(maps()) == set(shapes), f"the maps are {sorted(maps())}, output_shape() tells {sorted(shapes)}")

    def sizes() -> None:
        for name, x in maps().items():
            told = shapes[name]
            found, wanted = x.shape[1:], (told.channels, *(-(-side // told.stride) for side in size))
            hold(found == wanted, f"{name} of an image of {size} is {tuple(found)}, by output_shape() {wanted}")

    @torch.no_grad()
    def alone() -> None:
        both, one = maps(), maps(images[:1])
        far = max(float((both[name][:1] - x).abs().max() / x.abs().max().clamp_min(1e-12)) for name, x in one.items())
        hold(far <= tolerance, f"another image of the batch changes the maps by {far:.2e}")

    def gradients() -> None:
        backbone.zero_grad()
        sum(x.square().mean() for x in maps(training=True).values()).backward()
        named = [(n, p.grad) for n, p in backbone.named_parameters() if p.requires_grad]
        missing = [n for n, g in named if g is None]
        bad = [n for n, g in named if g is not None and not g.isfinite().all()]
        hold(not missing, f"no gradient reaches {missing[:5]}: build no part that no map needs")
        hold(not bad, f"the gradient is not finite at {bad[:5]}")

    checks = {"maps by name": names, "channels and strides": sizes, "images alone or together": alone}
    return held(checks | {"finite gradients": gradients})
