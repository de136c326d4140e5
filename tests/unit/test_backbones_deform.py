from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from detrex_ext.checkpoint.layouts.resnet import TORCHVISION_RESNET, torchvision_name
from detrex_ext.checkpoint.load import load_state
from detrex_ext.modeling.backbones import ResNet
from detrex_ext.modeling.backbones.blocks import Bottleneck, DeformConvNorm
from detrex_ext.modeling.necks import ChannelMapper

STAGES = ("res2", "res3", "res4", "res5")
X101 = {"depth": 101, "groups": 32, "width_per_group": 4}


def _bilinear(map_CHW, y, x):
    """One value per channel at a point; what lies outside is zero."""
    height, width = map_CHW.shape[1:]
    total = 0.0
    for row in (int(y // 1), int(y // 1) + 1):
        for column in (int(x // 1), int(x // 1) + 1):
            if 0 <= row < height and 0 <= column < width:
                total = total + map_CHW[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def test_deformable_convolution_equals_sampling_every_tap_by_hand():
    torch.manual_seed(0)
    conv = DeformConvNorm(4, 6, 3, stride=2, norm=None, groups=2).double()
    x = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    offset = 2 * torch.randn(1, 18, 3, 3, dtype=torch.float64)
    got = conv(x, offset)[0]
    for i in range(3):
        for j in range(3):
            taps = [
                _bilinear(
                    x[0],
                    2 * i - 1 + k // 3 + offset[0, 2 * k, i, j].item(),
                    2 * j - 1 + k % 3 + offset[0, 2 * k + 1, i, j].item(),
                )
                * torch.ones(4, dtype=torch.float64)
                for k in range(9)
            ]
            taps_CK = torch.stack(taps, 1)
            want = torch.cat([
                torch.einsum("ock,ck->o", conv.weight[:3].flatten(2), taps_CK[:2]),
                torch.einsum("ock,ck->o", conv.weight[3:].flatten(2), taps_CK[2:]),
            ])  # fmt: skip
            assert torch.allclose(got[:, i, j], want, atol=1e-12)


@pytest.mark.parametrize("norm", ["FrozenBN", "EvalBN"])
def test_a_deformable_block_starts_as_the_plain_one_and_its_offsets_learn(norm):
    torch.manual_seed(0)
    plain, deform = (Bottleneck(32, 8, 1, 2, norm, None, 2, 32, deform=d).double() for d in (False, True))
    missing = deform.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["conv2_offset.weight", "conv2_offset.bias"]
    x = torch.randn(2, 32, 7, 6, dtype=torch.float64)
    assert torch.allclose(deform(x), plain(x), atol=1e-12)
    deform(x).square().sum().backward()
    assert deform.conv2_offset.weight.grad.abs().max() > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(deform.float()(x.float())).all()


def test_resnext_equals_torchvision_bit_for_bit():
    reference = torchvision.models.resnext50_32x4d(weights=None).eval()
    model = nn.Module()
    model.backbone = ResNet(50, STAGES, groups=32, width_per_group=4).eval()
    assert load_state(model, reference.state_dict()).complete
    images = torch.randn(1, 3, 52, 70)
    with torch.no_grad():
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
        for n, got in enumerate(model.backbone(images).values()):
            x = getattr(reference, f"layer{n + 1}")(x)
            assert torch.equal(got, x)


def test_size_and_names_of_the_deformable_resnext_101():
    with torch.device("meta"):
        model = ResNet(**X101, out_features=STAGES, norm="EvalBN", deform_stages=STAGES[1:])
    offsets = {k: p for k, p in model.named_parameters() if "offset" in k}
    assert sum(p.numel() for p in offsets.values()) == 2_571_804
    assert sum(p.numel() for p in model.parameters()) == 42_128_704 + 2_571_804
    assert len(offsets) == 2 * (4 + 23 + 3) and "res3.0.conv2_offset.weight" in offsets
    ours = {f"backbone.{k}" for k in model.state_dict()}
    theirs = [torchvision_name(k) for k in ours]
    assert "backbone.layer2.0.conv2.conv_offset.bias" in theirs
    assert set(TORCHVISION_RESNET.rename(theirs, ours).values()) == ours


def test_deformable_backbone_with_a_neck_trains_under_recomputation():
    torch.manual_seed(0)
    saving = ResNet(
        50, STAGES, freeze_at=2, norm="EvalBN", checkpoint=True, groups=2, width_per_group=4, deform_stages=("res5",)
    )
    neck = ChannelMapper({f: s.channels for f, s in saving.output_shape().items()}, 32)
    levels = neck(saving.train()(torch.randn(1, 3, 64, 64)))
    assert [tuple(x.shape[1:]) for x in levels] == [(32, n, n) for n in (16, 8, 4, 2)]
    sum(x.square().mean() for x in levels).backward()
    for name, p in saving.named_parameters():
        assert (p.grad is not None) == p.requires_grad == (not name.startswith(("stem", "res2"))), name


@pytest.mark.parametrize("wrong", [{"groups": 32}, {"width_per_group": 4}, {"deform_stages": ("res5",)}])
def test_shallow_networks_have_no_groups_and_no_offsets(wrong):
    with pytest.raises(ValueError, match="depth 50 or more"):
        ResNet(18, **wrong)


def test_an_unknown_stage_is_refused():
    with pytest.raises(ValueError, match="deform_stages"):
        ResNet(50, deform_stages=("layer2",))
