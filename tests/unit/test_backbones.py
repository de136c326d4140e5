from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from detrex_ext.checkpoint.layouts.resnet import TORCHVISION_RESNET
from detrex_ext.checkpoint.load import load_state
from detrex_ext.modeling.backbones import BasicResNet, ConvNorm, FrozenBatchNorm2d, ResNet


def _random_stats(model):
    torch.manual_seed(1)
    for name, value in model.state_dict().items():
        if "running_var" in name:
            value.uniform_(0.5, 2.0)
        elif value.ndim == 1 and value.is_floating_point():
            value.uniform_(-0.5, 1.0)


@pytest.mark.parametrize("norm", ["FrozenBN", "EvalBN"])
@pytest.mark.parametrize(
    ("depth", "dilate"),
    [
        (18, False), (34, False), (50, False), (50, True),
        pytest.param(101, False, marks=pytest.mark.slow), pytest.param(101, True, marks=pytest.mark.slow),
    ],
    ids=["r18", "r34", "r50", "r50-dc5", "r101", "r101-dc5"],
)  # fmt: skip
def test_features_equal_torchvision_bit_for_bit(depth, dilate, norm):
    kwargs = {"replace_stride_with_dilation": [False, False, True]} if dilate else {}
    reference = getattr(torchvision.models, f"resnet{depth}")(weights=None, **kwargs).eval()
    _random_stats(reference)
    model = ResNet(depth, out_features=("res2", "res3", "res4", "res5"), dilate_res5=dilate, norm=norm).eval()
    names = TORCHVISION_RESNET.rename(reference.state_dict(), {f"backbone.{k}" for k in model.state_dict()})
    assert {k for k, ours in names.items() if ours is None} >= {"fc.weight", "fc.bias"}
    model.load_state_dict(
        {ours.removeprefix("backbone."): reference.state_dict()[k] for k, ours in names.items() if ours}
    )
    images = torch.randn(1, 3, 52, 70)
    with torch.no_grad():
        features = model(images)
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
        for n in (1, 2, 3, 4):
            x = getattr(reference, f"layer{n}")(x)
            assert torch.equal(features[f"res{n + 1}"], x)
    for name, shape in model.output_shape().items():
        assert features[name].shape[1] == shape.channels
        assert features[name].shape[2] == -(-52 // shape.stride)


def test_state_dict_has_detectron2_keys():
    keys = set(ResNet(50).state_dict())
    assert len(keys) == 265
    norm = {"weight", "bias", "running_mean", "running_var"}
    for conv in ("stem.conv1", "res2.0.conv1", "res2.0.shortcut", "res4.5.conv3", "res5.2.conv2"):
        assert {k for k in keys if k.startswith(conv + ".")} == {f"{conv}.weight", *(f"{conv}.norm.{n}" for n in norm)}
    assert ResNet(101, ("res4",)).state_dict().keys() == {
        k for k in ResNet(101).state_dict() if not k.startswith("res5.")
    }


def test_initial_frozen_norm_is_the_identity_and_convolutions_are_msra():
    torch.manual_seed(0)
    conv = ConvNorm(64, 256, 3)
    assert conv.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    x = torch.randn(1, 256, 4, 4)
    assert torch.allclose(conv.norm(x), x, atol=1e-6)
    assert conv.norm.running_var[0].item() == pytest.approx(1 - 1e-5, abs=1e-7)


@pytest.mark.parametrize("norm", ["FrozenBN", "EvalBN"])
def test_folded_norm_gives_the_values_and_gradients_of_the_plain_formula(norm):
    conv = ConvNorm(5, 7, 3, stride=2, norm=norm).double()
    _random_stats(conv)
    x = torch.randn(2, 5, 9, 8, dtype=torch.float64, requires_grad=True)
    probe = torch.randn(2, 7, 5, 4, dtype=torch.float64)
    got = conv(x)
    n = conv.norm
    wanted = (x, conv.weight, *n.parameters())
    grads = torch.autograd.grad((got * probe).sum(), wanted)
    raw = torch.nn.functional.conv2d(x, conv.weight, stride=2, padding=1)
    scale = n.weight / (n.running_var + n.eps).sqrt()
    want = raw * scale[:, None, None] + (n.bias - n.running_mean * scale)[:, None, None]
    assert len(grads) == (2 if norm == "FrozenBN" else 4)
    for a, b in zip((got, *grads), (want, *torch.autograd.grad((want * probe).sum(), wanted)), strict=True):
        assert torch.allclose(a, b, atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(conv(x), want, atol=1e-12)


@pytest.mark.parametrize("freeze_at", [0, 1, 2])
def test_freeze_at_stops_training_of_the_first_parts(freeze_at):
    model = ResNet(18, freeze_at=freeze_at).train()
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == set(("stem", "res2")[:freeze_at])
    sum(v.mean() for v in model(torch.randn(1, 3, 64, 64)).values()).backward()
    for name, p in model.named_parameters():
        assert (p.grad is None) == (name.split(".")[0] in frozen), name


def test_frozen_parts_of_a_batch_norm_model_keep_their_statistics():
    model = ResNet(18, norm="BN", freeze_at=2).train()
    before = {k: v.clone() for k, v in model.state_dict().items() if "running_mean" in k}
    model(torch.randn(2, 3, 64, 64))
    moved = {k.split(".")[0] for k, v in model.state_dict().items() if k in before and not torch.equal(v, before[k])}
    assert moved == {"res3", "res4", "res5"}
    assert isinstance(model.stem.conv1.norm, FrozenBatchNorm2d)


def test_trained_affine_terms_leave_the_statistics_alone():
    model = ResNet(18, ("res3",), freeze_at=2, norm="EvalBN").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(torch.randn(1, 3, 64, 64))["res3"].square().mean().backward()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    trained = {name.split(".")[0] for name, p in model.named_parameters() if "norm" in name and p.grad is not None}
    assert trained == {"res3"}


@pytest.mark.parametrize("norm", ["EvalBN", "BN"])
def test_files_without_counters_of_batches_are_complete(norm):
    model = nn.Module()
    model.backbone = ResNet(18, ("res3",), norm=norm)
    report = load_state(model, ResNet(18, ("res3",)).state_dict())
    assert report.layout == "detectron2 ResNet" and len(report.matched) == len(ResNet(18, ("res3",)).state_dict())


def test_activation_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    plain = ResNet(18, freeze_at=1).train()
    saving = ResNet(18, freeze_at=1, checkpoint=True).train()
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 64, 64)
    for model in (plain, saving):
        sum(v.square().mean() for v in model(images).values()).backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad), name


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResNet(51),
        lambda: ResNet(50, ("res6",)),
        lambda: ResNet(18, norm="BN", checkpoint=True),
        lambda: ResNet(18, stride_in_1x1=True),
        lambda: BasicResNet(widths=(8, 8), blocks=(1, 1), out_features=("res5",)),
        lambda: BasicResNet(widths=(8, 8), blocks=(1,)),
        lambda: ConvNorm(3, 8, 1, norm="LN2"),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ValueError):
        make()


def test_basic_resnet_strides_shapes_and_size():
    model = BasicResNet()
    images = torch.randn(2, 3, 75, 101)
    features = model(images)
    assert list(features) == ["res3", "res4", "res5"]
    for (name, shape), channels in zip(model.output_shape().items(), (64, 128, 192), strict=True):
        h, w = (-(-n // shape.stride) for n in (75, 101))
        assert features[name].shape == (2, channels, h, w)
    assert model.res2[0].shortcut is None
    assert len(BasicResNet(blocks=(2, 3, 1, 1)).res3) == 3


def test_basic_resnet_shortcut_sees_every_pixel():
    block = BasicResNet(stem=(4, 4), widths=(4, 4), blocks=(1, 1), out_features=("res3",)).eval().res3[0]
    x = torch.zeros(1, 4, 5, 5, requires_grad=True)
    block.shortcut(x).sum().backward()
    assert (x.grad.abs().sum(1) > 0).all()


def test_the_stride_may_be_in_the_first_convolution_of_a_block():
    torch.manual_seed(0)
    first, second = ResNet(50, stride_in_1x1=True).eval(), ResNet(50).eval()
    second.load_state_dict(first.state_dict())
    for name in ("res3", "res4", "res5"):
        for i, block in enumerate(getattr(first, name)):
            stride = 1 if i else 2
            assert (block.conv1.stride[0], block.conv2.stride[0], block.conv3.stride[0]) == (stride, 1, 1)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        a, b = first(x), second(x)
    assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}
    assert not torch.allclose(a["res3"], b["res3"])
