"""Files of TSP's authors and of their backbones, by their names."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import torch

from detrex_ext.checkpoint import load_state, load_weights, to_layout
from detrex_ext.config import get_config, load_config
from detrex_ext.errors import UserError
from detrex_ext.modeling.backbones import ResNet
from detrex_ext.runtime import instantiate


def model_of(*overrides, classes=80):
    cfg = get_config("common/models/tsp_fcos_r50.py")
    cfg.model.num_classes = classes
    for key, value in overrides:
        section, name = key.split(".")
        cfg.model[section][name] = value
    with torch.device("meta"):
        return instantiate(cfg.model)


def numbered(model):
    """A model whose every tensor is of its own numbers."""
    torch.manual_seed(0)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.randn(value.shape) if value.dtype.is_floating_point else torch.tensor(5))
    return model


# all keys of a file of TSP-FCOS with a ResNet-50, by the description of its layout
def described_keys():
    parts = ["pixel_mean", "pixel_std", "pyramid_position_embedding", "scales"]
    norm = ("weight", "bias", "running_mean", "running_var")
    blocks = [f"res{stage}.{i}" for stage, count in ((2, 3), (3, 4), (4, 6), (5, 3)) for i in range(count)]
    convs = ["stem.conv1", *(f"{block}.conv{n}" for block in blocks for n in (1, 2, 3))]
    convs += [f"res{stage}.0.shortcut" for stage in (2, 3, 4, 5)]
    parts += [f"backbone.bottom_up.{c}.{k}" for c in convs for k in ("weight", *(f"norm.{n}" for n in norm))]
    pairs = [f"backbone.fpn_{kind}{level}" for kind in ("lateral", "output") for level in (3, 4, 5)]
    for level in (6, 7):
        pairs.append(f"backbone.top_block.p{level}.conv")
        parts += [f"backbone.top_block.p{level}.bn.{n}" for n in (*norm, "num_batches_tracked")]
    pairs += [f"fcos_head.{t}_tower.{3 * i + k}" for t in ("cls", "bbox") for i in range(4) for k in (0, 1)]
    pairs += ["fcos_head.cls_logits", "enc_proj", "post_enc_proj_norm", "cls_logits", "bbox_pred", "ctrness"]
    for i in range(6):
        layer = f"transformer_encoder.layers.{i}"
        parts += [f"{layer}.self_attn.in_proj_{k}" for k in ("weight", "bias")]
        pairs += [f"{layer}.{k}" for k in ("self_attn.out_proj", "linear1", "linear2", "norm1", "norm2")]
    return {*parts, *(f"{p}.{k}" for p in (*pairs, "transformer_encoder.norm") for k in ("weight", "bias"))}


def test_keys_of_a_written_file_are_those_of_the_original():
    written = to_layout(model_of(), "tsp")
    assert len(written) == 413 and set(written) == described_keys()
    assert written["cls_logits.weight"].shape == (80, 512)
    assert written["fcos_head.cls_logits.weight"].shape == (80, 256, 3, 3)
    assert written["pixel_mean"].flatten().tolist() == pytest.approx([103.53, 116.28, 123.675])


@pytest.mark.parametrize("options", [(), (("encoder.deformable", True),)], ids=["plain", "deformable"])
def test_a_written_file_is_read_back_whole(options):
    model = numbered(model_of(*options, classes=3))
    written = to_layout(model, "tsp")
    if options:
        assert "fcos_head.bbox_tower.9.conv.weight" in written and "fcos_head.bbox_tower.9.offset.bias" in written
    other = numbered(model_of(*options, classes=3))
    for value in other.state_dict().values():
        value.zero_()
    report = load_state(other, written)
    assert report.layout == "TSP-FCOS" and report.complete and not report.unexpected and not report.mismatched
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


def test_another_norm_of_the_last_levels_does_not_take_its_statistics():
    model = model_of(("neck.norm", "FrozenBN"), classes=3)
    report = load_state(numbered(model), to_layout(numbered(model_of(classes=3)), "tsp"))
    assert report.complete and not report.unexpected
    with pytest.raises(UserError, match="extra_blocks"):
        load_state(numbered(model_of(classes=3)), to_layout(numbered(model_of(("neck.norm", "GN"), classes=3)), "tsp"))


def caffe2_file(model):
    """The weights of a ResNet as Caffe2 names them: scales and shifts of norms alone, and what an optimizer left."""
    blobs, branches = {}, {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}
    for key, value in model.state_dict().items():
        name = re.sub(r"^res(\d)\.(\d+)\.(\w+)", lambda m: f"res{m[1]}_{m[2]}_branch{branches[m[3]]}", key)
        name = name.replace(".norm.weight", "_bn_s").replace(".norm.bias", "_bn_b").replace(".weight", "_w")
        name = name.replace("stem.conv1_w", "conv1_w").replace("stem.conv1_bn", "res_conv1_bn")
        if "running" not in name:
            blobs[name] = value.numpy()
            blobs[f"{name}_momentum"] = value.numpy()
    return {"blobs": {**blobs, "fc1000_w": np.zeros((1000, 8), np.float32), "fc1000_b": np.zeros(1000), "lr": 0.1}}


def test_a_backbone_of_caffes_time_is_read(tmp_path):
    torch.manual_seed(0)
    backbone = ResNet(50, freeze_at=2, stride_in_1x1=True)
    with torch.no_grad():
        for name, value in backbone.state_dict().items():
            if "running" not in name:
                value.add_(0.01 * torch.rand_like(value))
    file = tmp_path / "R-50.pkl"
    file.write_bytes(pickle.dumps(caffe2_file(backbone), protocol=2))
    model = instantiate(load_config("tsp_fcos_r50_3x", (), ["model.num_classes=3"]).model)
    report = load_weights(model, file, strict=False)
    assert report.layout == "Caffe2 ResNet" and not report.missing and not report.unexpected
    for key, value in backbone.state_dict().items():
        torch.testing.assert_close(model.backbone.state_dict()[key], value)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model.backbone.eval()(x)["res5"], backbone.eval()(x)["res5"])
