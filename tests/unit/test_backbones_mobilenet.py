"""torchvision's MobileNetV2, and the two layouts of small classifiers in files of other projects."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from detrex_ext.checkpoint.load import load_state
from detrex_ext.errors import UserError
from detrex_ext.modeling.backbones import MobileNetV2, ResNet, TimmBackbone

ALL = ("res2", "res3", "res4", "res5")
LAST = {"res2": 3, "res3": 6, "res4": 13, "res5": 17}  # the layer of `features` that gives the map


def holder(backbone):
    model = nn.Module()
    model.backbone = backbone
    return model


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    model = mobilenet_v2()
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return model.eval()


def flat(state):
    """By the names of implementations with one list of layers in a block, in which activations are counted too."""
    out = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[2] == "conv":
            first = parts[1] == "1"
            index = [".".join(parts[3:-1])] if parts[3:-1] else []
            table = {"0.0": 0, "0.1": 1, "1": 3, "2": 4} if first else {
                "0.0": 0, "0.1": 1, "1.0": 3, "1.1": 4, "2": 6, "3": 7
            }  # fmt: skip
            key = f"features.{parts[1]}.conv.{table[index[0]]}.{parts[-1]}"
        out[key] = value
    return out


@pytest.mark.parametrize("norm", ["BN", "EvalBN", "FrozenBN"])
@pytest.mark.parametrize("names", ["torchvision", "flat"])
def test_weights_of_the_classifier_give_its_maps_bit_for_bit(theirs, names, norm):
    model = holder(MobileNetV2(ALL, norm=norm)).eval()
    state = theirs.state_dict() if names == "torchvision" else flat(theirs.state_dict())
    report = load_state(model, state)
    assert report.complete and report.scope == "backbone." and len(report.matched) == report.total
    x = torch.randn(2, 3, 75, 106)
    with torch.no_grad():
        found = model.backbone(x)
        for i, layer in enumerate(theirs.features[:18]):
            x = layer(x)
            for name in (n for n in ALL if LAST[n] == i):
                want = x.clone()
                close = torch.equal if norm == "BN" else torch.allclose
                assert close(found[name], want), name


def test_parts_behind_the_last_map_are_not_built_and_not_missed(theirs):
    model = holder(MobileNetV2(("res3",)))
    assert len(model.backbone.features) == 7
    report = load_state(model, theirs.state_dict())
    assert report.complete and {k.split(".")[1] for k in report.dropped} == {"1", *(str(k) for k in range(7, 19))}


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3, 4, 5])
def test_frozen_layers_keep_weights_and_statistics(freeze_at):
    model = MobileNetV2(ALL, freeze_at=freeze_at).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    maps = model(torch.randn(2, 3, 64, 64))
    if freeze_at < 5:
        sum(x.square().mean() for x in maps.values() if x.requires_grad).backward()
    count = [0, 2, 4, 7, 14, 18][freeze_at]
    left = {str(k) for k in range(count, 18)}
    assert {k.split(".")[1] for k, p in model.named_parameters() if p.grad is not None} == left
    assert {k.split(".")[1] for k, v in model.state_dict().items() if not torch.equal(v, before[k])} == left


@pytest.mark.parametrize("names", [(), ("res6",), ("res2", "")])
def test_unknown_maps_are_refused(names):
    with pytest.raises(ValueError, match="choose some of res2, res3, res4, res5"):
        MobileNetV2(names)


class Stages(nn.Module):
    """The names of timm's EfficientNet: ``stages`` blocks in each stage, the first one without expansion."""

    def __init__(self, stages=(1, 2, 2)):
        super().__init__()
        self.body = nn.Module()
        self.body.conv_stem, self.body.bn1 = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.body.blocks = nn.ModuleList(nn.ModuleList(Block(s > 0) for _ in range(n)) for s, n in enumerate(stages))


class Block(nn.Module):
    def __init__(self, expands):
        super().__init__()
        for name in ("conv_pw", "conv_dw", "conv_pwl") if expands else ("conv_dw", "conv_pw"):
            self.add_module(name, nn.Conv2d(4, 4, 1, bias=False))
        for k in range(3 if expands else 2):
            self.add_module(f"bn{k + 1}", nn.BatchNorm2d(4))


def other_names(blocks=5):
    """A file of EfficientNet-PyTorch, each tensor filled with a number of its own, and the number of each by timm's."""
    outer = ["_conv_stem.weight", *norm("_bn0"), "_conv_head.weight", *norm("_bn1"), "_fc.weight", "_fc.bias"]
    inner = ["_depthwise_conv.weight", *norm("_bn1"), "_project_conv.weight", *norm("_bn2")]
    keys = [*outer, *(f"_blocks.0.{k}" for k in inner)]
    keys += [f"_blocks.{i}.{k}" for i in range(1, blocks) for k in ["_expand_conv.weight", *norm("_bn0"), *inner]]
    shape = {True: (4, 4, 1, 1), False: (4,)}
    state = {k: torch.full(shape["conv" in k], float(i)) for i, k in enumerate(keys)}
    return state | {"_conv_stem.weight": torch.full((4, 3, 3, 3), -1.0)}


def norm(name):
    return [f"{name}.{k}" for k in ("weight", "bias", "running_mean", "running_var")]


def test_blocks_that_are_counted_through_are_put_into_stages():
    model, file = holder(Stages()), other_names()
    report = load_state(model, file)
    assert report.complete and report.layout == "EfficientNet-PyTorch" and report.scope == "backbone."
    assert {k.split(".")[0] for k in report.dropped} == {"_conv_head", "_bn1", "_fc"}
    own = model.backbone.body.state_dict()
    for ours, name in {
        "conv_stem.weight": "_conv_stem.weight",
        "bn1.running_var": "_bn0.running_var",
        "blocks.0.0.conv_dw.weight": "_blocks.0._depthwise_conv.weight",
        "blocks.0.0.bn1.bias": "_blocks.0._bn1.bias",
        "blocks.0.0.conv_pw.weight": "_blocks.0._project_conv.weight",
        "blocks.0.0.bn2.weight": "_blocks.0._bn2.weight",
        "blocks.1.0.conv_pw.weight": "_blocks.1._expand_conv.weight",
        "blocks.1.1.bn1.running_mean": "_blocks.2._bn0.running_mean",
        "blocks.2.0.conv_dw.weight": "_blocks.3._depthwise_conv.weight",
        "blocks.2.0.bn2.weight": "_blocks.3._bn1.weight",
        "blocks.2.1.conv_pwl.weight": "_blocks.4._project_conv.weight",
        "blocks.2.1.bn3.weight": "_blocks.4._bn2.weight",
    }.items():
        assert torch.equal(own[ours], file[name]), ours


def test_blocks_behind_the_last_map_are_left_out_and_lacking_ones_told():
    assert load_state(holder(Stages((1, 2))), other_names()).complete
    with pytest.raises(UserError, match="(?s)does not fit.*missing from the file.*blocks.2.1"):
        load_state(holder(Stages()), other_names(blocks=4))


def test_more_than_nine_blocks_are_in_the_order_of_their_numbers():
    model, file = holder(Stages((1, 11))), other_names(blocks=12)
    assert load_state(model, file).complete
    assert torch.equal(model.backbone.body.blocks[1][10].bn3.bias, file["_blocks.11._bn2.bias"])


def test_a_whole_model_of_timm_comes_back_from_the_other_names():
    timm = pytest.importorskip("timm", reason="timm is not installed (pip install timm)")
    classifier = timm.create_model("efficientnet_b0")
    inner = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand", "conv_dw": "_depthwise_conv"}
    first = inner | {"conv_pw": "_project_conv", "bn1": "_bn1", "bn2": "_bn2"}
    other = inner | {"conv_pw": "_expand_conv", "conv_pwl": "_project_conv"}
    other |= {"bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    state, seen = {}, []
    for key, value in classifier.state_dict().items():
        layer, _, kind = key.rpartition(".")
        if layer.startswith("blocks."):
            _, stage, block, layer = layer.split(".", 3)
            seen += [(stage, block)] * ((stage, block) not in seen)
            layer = f"_blocks.{len(seen) - 1}.{(other if stage != '0' else first)[layer]}"
        else:
            layer = outer[layer]
        state[f"{layer}.{kind}"] = value
    model = holder(TimmBackbone("efficientnet_b0"))
    assert load_state(model, state).complete
    for key, value in model.backbone.body.state_dict().items():
        assert torch.equal(value, classifier.state_dict()[key]), key


@pytest.mark.parametrize("file", [flat(mobilenet_v2().state_dict()), other_names()], ids=["mobilenet", "efficientnet"])
def test_another_backbone_is_told_what_the_file_looks_like(file):
    with pytest.raises(UserError, match="made by another model.*it looks like (MobileNetV2|EfficientNet-PyTorch)"):
        load_state(holder(ResNet(18, out_features=("res2",))), file, strict=False)
