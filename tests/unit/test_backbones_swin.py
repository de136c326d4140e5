from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import swin_transformer

from detrex_ext.checkpoint.load import load_state
from detrex_ext.config import find_config, load_config
from detrex_ext.modeling.backbones import SwinTransformer
from detrex_ext.modeling.necks import ChannelMapper
from detrex_ext.runtime import instantiate

STAGES = ("res2", "res3", "res4", "res5")
NARROW = {"dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": 3, "drop_path": 0.0}


def _perturb(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def test_features_equal_torchvision_at_a_size_of_no_whole_windows():
    reference = swin_transformer.SwinTransformer(
        [4, 4], NARROW["dim"], NARROW["depths"], NARROW["num_heads"], [3, 3], num_classes=2
    )
    _perturb(reference.double().eval())
    model = nn.Module()
    model.backbone = SwinTransformer(**NARROW, out_features=STAGES).double().eval()
    report = load_state(model, reference.state_dict(), strict=False)
    assert report.layout == "torchvision Swin" and not report.unexpected and not report.mismatched
    assert {k.split(".")[1] for k in report.missing if "position_index" not in k} == {
        "norm0",
        "norm1",
        "norm2",
        "norm3",
    }
    images = torch.randn(2, 3, 132, 196, dtype=torch.float64)  # cells 33x49, 17x25, 9x13, 5x7
    with torch.no_grad():
        x = images
        maps = []
        for part in reference.features:
            x = part(x)
            maps.append(x)
        features = model.backbone(images)
    for got, want, i in zip(features.values(), maps[1::2], range(4), strict=True):
        want = getattr(model.backbone, f"norm{i}")(want).permute(0, 3, 1, 2)
        assert got.shape == want.shape and torch.allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("size", [(64, 64), (70, 100), (33, 45), (16, 20)])
def test_any_size_gives_maps_rounded_up_and_finite_gradients(size):
    model = SwinTransformer(**NARROW, out_features=STAGES).train()
    features = model(torch.randn(2, 3, *size))
    for name, shape in model.output_shape().items():
        assert features[name].shape == (2, shape.channels, *(-(-n // shape.stride) for n in size))
    sum(x.square().mean() for x in features.values()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), name


def test_images_of_a_batch_do_not_see_each_other():
    model = _perturb(SwinTransformer(**NARROW)).eval()
    images = torch.randn(2, 3, 52, 40)
    with torch.no_grad():
        together, alone = model(images), model(images[1:])
    for name in together:
        assert torch.allclose(together[name][1:], alone[name], atol=1e-5)


@pytest.mark.parametrize("freeze_at", [0, 1, 2])
def test_freeze_at_stops_training_of_the_first_parts(freeze_at):
    model = SwinTransformer(**{**NARROW, "drop_path": 0.5}, freeze_at=freeze_at)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    first = ("patch_embed.", "layers.0.")[:freeze_at]
    assert frozen == {name for name, _ in model.named_parameters() if first and name.startswith(first)}
    rates = [block.rate for stage in model.layers for block in stage.blocks]
    skipped = 2 if freeze_at == 2 else 0
    assert rates == pytest.approx([0.0] * skipped + [0.5 * k / 7 for k in range(skipped, 8)])


def test_dropped_branches_act_in_training_only():
    model = _perturb(SwinTransformer(**{**NARROW, "drop_path": 0.9}))
    images = torch.randn(1, 3, 64, 64)
    evaluated = [model.eval()(images)["res5"] for _ in range(2)]
    assert torch.equal(*evaluated)
    torch.manual_seed(0)
    trained = [model.train()(images)["res5"] for _ in range(2)]
    assert not torch.equal(*trained)


def test_recomputation_changes_no_gradient():
    plain = _perturb(SwinTransformer(**{**NARROW, "drop_path": 0.5})).train()
    saving = SwinTransformer(**{**NARROW, "drop_path": 0.5}, checkpoint=True).train()
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 64, 48)
    for model in (plain, saving):
        torch.manual_seed(3)
        sum(x.square().mean() for x in model(images).values()).backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


def test_mixed_precision_trains_behind_a_neck():
    model = SwinTransformer(**NARROW).train()
    neck = ChannelMapper({f: s.channels for f, s in model.output_shape().items()}, 32, 4)
    with torch.autocast("cpu", torch.bfloat16):
        levels = neck(model(torch.randn(2, 3, 64, 64)))
        loss = sum(x.float().square().mean() for x in levels)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "millions", "channels"),
    [
        ({}, 27.5, 96),
        ({"depths": (2, 2, 18, 2)}, 48.8, 96),
        ({"dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48), "window_size": 12}, 195.2, 192),
    ],
    ids=["tiny", "small", "large"],
)
def test_sizes_of_the_published_models(options, millions, channels):
    with torch.device("meta"):
        model = SwinTransformer(**options, out_features=STAGES)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    assert [s.channels for s in model.output_shape().values()] == [channels * 2**i for i in range(4)]


def test_stages_after_the_last_output_are_not_built():
    model = SwinTransformer(**NARROW, out_features=("res3",))
    assert len(model.layers) == 2 and model.layers[1].downsample is None
    assert list(model(torch.randn(1, 3, 32, 32))) == ["res3"]


@pytest.mark.parametrize("wrong", [{"out_features": ("res6",)}, {"out_features": ()}, {"depths": (2, 2)}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        SwinTransformer(**{**NARROW, **wrong})


def test_size_of_adamixer_on_the_small_one():
    """159.56 M are published, 1,200 of them in a table of first boxes that never changes."""
    cfg = load_config(find_config("adamixer_swin_s_300q_36ep"), overrides=["model.num_classes=80"])
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert sum(p.numel() for p in model.backbone.parameters()) == 48_838_602
    assert sum(p.numel() for p in model.parameters()) == 159_557_874
    decay = {len(g["params"]): g.get("weight_decay") for g in _groups(cfg, model)}
    tables = sum("relative_position_bias_table" in name for name, _ in model.named_parameters())
    norms = sum(isinstance(m, nn.LayerNorm | nn.GroupNorm) and m.weight is not None for m in model.modules())
    assert decay.pop(tables + 2 * norms) == 0.0 and set(decay.values()) == {None}


def _groups(cfg, model):
    cfg.optimizer.params.model = model
    return instantiate(cfg.optimizer.params)
