from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from detrex_ext.checkpoint.load import load_state
from detrex_ext.errors import UserError
from detrex_ext.modeling.backbones import TimmBackbone
from detrex_ext.modeling.necks import ChannelMapper

SWIN = ("swin_tiny_patch4_window7_224", {"embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4)})
NARROW = [("test_convnext", {}), ("test_resnet", {}), SWIN]


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm", reason="timm is not installed (pip install timm)")


@pytest.mark.parametrize("size", [(64, 96), (70, 100), (33, 45)])
@pytest.mark.parametrize(("name", "options"), NARROW, ids=lambda x: x if isinstance(x, str) else "")
def test_any_size_gives_maps_rounded_up_and_finite_gradients(timm, name, options, size):
    torch.manual_seed(0)
    model = TimmBackbone(name, ("res2", "res3", "res5"), options=options, out_norm=True).train()
    neck = ChannelMapper({f: s.channels for f, s in model.output_shape().items()}, 32, 3)
    features = model(torch.randn(2, 3, *size))
    assert list(features) == ["res2", "res3", "res5"]
    for feature, shape in model.output_shape().items():
        assert features[feature].shape == (2, shape.channels, *(-(-n // shape.stride) for n in size))
    sum(x.square().mean() for x in neck(features)).backward()
    for parameter, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), parameter


@pytest.mark.parametrize(("name", "options"), NARROW, ids=lambda x: x if isinstance(x, str) else "")
def test_timms_weights_give_timms_features(timm, name, options):
    torch.manual_seed(0)
    model = nn.Module()
    model.backbone = TimmBackbone(name, options=options).eval()
    report = load_state(
        model, {f"backbone.body.{k}": v for k, v in _features(timm, name, options).state_dict().items()}
    )
    assert report.complete
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        want = _features(timm, name, options).eval()(images)
        found = model.backbone(images)
        again = model.backbone(images)
    for (feature, got), x in zip(found.items(), want[-3:], strict=True):
        x = x.permute(0, 3, 1, 2) if name == SWIN[0] else x
        assert torch.allclose(got, x, atol=1e-5) and torch.equal(got, again[feature])


def _features(timm, name, options):
    torch.manual_seed(7)
    return timm.create_model(name, features_only=True, **options)


@pytest.mark.parametrize(("name", "options"), NARROW, ids=lambda x: x if isinstance(x, str) else "")
def test_a_file_of_a_classifier_loads(timm, name, options):
    model = nn.Module()
    model.backbone = TimmBackbone(name, options=options)
    classifier = timm.create_model(name, **options)
    report = load_state(model, classifier.state_dict(), strict=False)
    assert not report.missing and not report.mismatched and not report.unexpected
    theirs = [v for k, v in classifier.state_dict().items() if not k.startswith(("head.", "fc.", "norm."))]
    for ours, want in zip(model.state_dict().values(), theirs, strict=True):
        assert torch.equal(ours, want)


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3])
def test_frozen_parts_keep_weights_and_statistics(timm, freeze_at):
    model = TimmBackbone("test_resnet", freeze_at=freeze_at).train()
    before = {k: v.clone() for k, v in model.body.state_dict().items()}
    sum(x.square().mean() for x in model(torch.randn(2, 3, 64, 64)).values()).backward()
    moved = {k.split(".")[0] for k, v in model.body.state_dict().items() if not torch.equal(v, before[k])}
    trained = {k.split(".")[0] for k, p in model.body.named_parameters() if p.grad is not None}
    stages = {"layer1", "layer2", "layer3", "layer4"}
    stem = {k.split(".")[0] for k in before} - stages
    left = stages - {f"layer{n}" for n in range(1, freeze_at)}
    assert trained == (left | stem if freeze_at == 0 else left)
    assert {k for k in moved if k in stages} == left


@pytest.mark.parametrize(
    ("name", "ends"),
    [("tf_efficientnet_lite0", [1, 2, 3, 5, 7]), ("mobilenetv3_small_050", [0, 1, 2, 4, 6])],
    ids=["lite0", "mobilenetv3"],
)
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3, 4, 5])
def test_stages_in_a_list_are_frozen_one_by_one(timm, name, ends, freeze_at):
    """``ends``: number of stages up to the maps of stride 2, 4, 8, 16 and 32."""
    model = TimmBackbone(name, ("res2", "res5"), freeze_at=freeze_at).train()
    before = {k: v.clone() for k, v in model.body.state_dict().items()}
    if freeze_at < 5:
        model(torch.randn(2, 3, 75, 106))["res5"].square().mean().backward()
    parts = ["conv_stem", "bn1", *(f"blocks.{k}" for k in range(ends[-1]))]
    left = set(parts[2 + ends[freeze_at - 1] :] if freeze_at else parts)
    assert {_stage(k) for k, p in model.body.named_parameters() if p.grad is not None} == left
    moved = {_stage(k) for k, v in model.body.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == left - {"conv_stem"}


def _stage(key):
    return ".".join(key.split(".")[: 2 if key.startswith("blocks.") else 1])


@pytest.mark.parametrize("size", [(64, 96), (75, 106), (1, 1), (33, 31)])
def test_the_maps_of_the_lite_one_are_rounded_up(timm, size):
    model = TimmBackbone("tf_efficientnet_lite0", ("res2", "res3", "res4", "res5")).eval()
    assert [(f, s.channels) for f, s in model.output_shape().items()] == list(zip(
        ("res2", "res3", "res4", "res5"), (24, 40, 112, 320), strict=True
    ))  # fmt: skip
    for name, x in model(torch.randn(1, 3, *size)).items():
        assert x.shape[2:] == tuple(-(-n // model.output_shape()[name].stride) for n in size)


def test_drop_path_and_recomputation_are_passed_on(timm):
    assert torch.equal(*(_trained_twice(drop_path=0.0)))
    assert not torch.equal(*(_trained_twice(drop_path=0.9)))
    saving, plain = (TimmBackbone("test_convnext", checkpoint=c).train() for c in (True, False))
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 64, 64)
    for model in (plain, saving):
        sum(x.square().mean() for x in model(images).values()).backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-7), name


def _trained_twice(drop_path):
    torch.manual_seed(0)
    model = TimmBackbone(*SWIN[:1], options=SWIN[1], drop_path=drop_path).train()
    images = torch.randn(1, 3, 64, 64)
    return [model(images)["res5"] for _ in range(2)]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: TimmBackbone("test_resnet", ("res6",)), ValueError, "choose some of"),
        (lambda: TimmBackbone("vit_tiny_patch16_224"), ValueError, "none for res3, res5"),
        (lambda: TimmBackbone("convnext_tinny"), UserError, "no model 'convnext_tinny'"),
        (lambda: TimmBackbone("test_resnet", options={"color": 1}), UserError, "does not take these options"),
        (lambda: TimmBackbone("hrnet_w18_small", freeze_at=2), ValueError, "freeze_at=2"),
    ],
)
def test_impossible_settings_are_refused(timm, make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_without_timm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="pip install timm"):
        TimmBackbone("test_resnet")
