"""Every shipped backbone, and backbones that break one thing each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detrex_ext.modeling.backbones import BasicResNet, MobileNetV2, ResNet, SwinTransformer, TimmBackbone
from detrex_ext.runtime import ShapeSpec
from detrex_ext.testing import BrokenInvariant, check_backbone

CHECKS = ["maps by name", "channels and strides", "images alone or together", "finite gradients"]


def _timm(name: str, **options: Any) -> nn.Module:
    pytest.importorskip("timm", reason="timm is not installed (pip install timm)")
    return TimmBackbone(name, ("res2", "res4"), **options)


BACKBONES = {
    "basic": lambda: BasicResNet(widths=(8, 16, 16, 24)),
    "r18": lambda: ResNet(18, out_features=("res2", "res5"), freeze_at=1),
    "r50-dc5": lambda: ResNet(50, out_features=("res4", "res5"), dilate_res5=True),
    "swin": lambda: SwinTransformer(8, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 4), window_size=4),
    "mobilenet": lambda: MobileNetV2(("res2", "res5")),
    "mobilenet-frozen": lambda: MobileNetV2(("res2", "res3"), freeze_at=2, norm="EvalBN"),
    "timm": lambda: _timm("test_resnet"),
    "lite0": lambda: _timm("tf_efficientnet_lite0", freeze_at=2),
    "timm-mobilenet": lambda: _timm("mobilenetv3_small_050", freeze_at=1),
}


@pytest.mark.parametrize("make", BACKBONES.values(), ids=list(BACKBONES))
def test_the_contract_of_backbones(make):
    torch.manual_seed(0)
    assert check_backbone(make()) == CHECKS


class Flawed(nn.Module):
    """Two maps; ``flaw`` names the check that it breaks."""

    def __init__(self, flaw: str | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.last = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.flaw = flaw
        if flaw == "finite gradients":
            self.head = nn.Linear(6, 2)

    def output_shape(self) -> dict[str, ShapeSpec]:
        name = "res4" if self.flaw == "maps by name" else "res3"
        return {"res2": ShapeSpec(channels=4, stride=4), name: ShapeSpec(channels=6, stride=8)}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.stem(images)
        if self.flaw == "images alone or together":
            x = x - x.mean(0, keepdim=True)
        y = self.last(x)
        return {"res2": x, "res3": y[..., :-1] if self.flaw == "channels and strides" else y}


def test_a_sound_one_holds():
    assert check_backbone(Flawed().double()) == CHECKS


@pytest.mark.parametrize("flaw", CHECKS)
def test_each_flaw_is_told_by_its_name(flaw):
    backbone = Flawed(flaw).eval()
    with pytest.raises(BrokenInvariant) as broken:
        check_backbone(backbone)
    assert flaw in broken.value.names
    assert not backbone.training and all(p.grad is None for p in backbone.parameters())
