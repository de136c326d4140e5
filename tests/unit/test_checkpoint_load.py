"""Weights under other projects' names."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from detrex_ext.checkpoint import load_state, load_weights, to_layout
from detrex_ext.checkpoint.layouts import recognize
from detrex_ext.errors import UserError

KEYS = Path(__file__).parents[1] / "data" / "keys"
KINDS = ("deformable_detr_r50", "deformable_detr_r50_box_refine", "deformable_detr_r50_two_stage")


class Named(nn.Module):
    """A model that is nothing but tensors under given dotted names."""

    def __init__(self, shapes):
        super().__init__()
        for name, shape in shapes.items():
            self._put(name.split("."), torch.zeros(shape))

    def _put(self, path, value):
        node = self
        for part in path[:-1]:
            if part not in node._modules:
                node.add_module(part, nn.Module())
            node = node._modules[part]
        node.register_parameter(path[-1], nn.Parameter(value))


def linear(name, out, inp):
    return {f"{name}.weight": (out, inp), f"{name}.bias": (out,)}


def our_shapes(kind, layers=2, classes=3, c=4):
    """Names of our Deformable-DETR in small; the decoder and encoder stand for themselves by one tensor a layer."""
    shapes = {"backbone.stem.conv1.weight": (2, 2), "neck.convs.0.conv.weight": (c, 2)}
    shapes["encoder.level_embeds"] = (2, c)
    for i in range(layers):
        shapes[f"encoder.layers.{i}.norms.0.weight"] = (c,)
        shapes |= linear(f"decoder.layers.{i}.attentions.1.sampling_offsets", c, c)
    refine, two_stage = kind != KINDS[0], kind == KINDS[2]
    for i in range(layers if refine else 1):
        shapes |= linear(f"decoder.class_embed.{i}", classes, c) | linear(f"decoder.bbox_embed.{i}.layers.0", 4, c)
    if two_stage:
        for name in ("enc_output", "enc_output_norm", "pos_trans", "pos_trans_norm", "class_embed"):
            shapes |= linear(f"queries.{name}", c, c)
        shapes |= linear("queries.bbox_embed.layers.0", 4, c)
    else:
        shapes |= {"queries.query_embedding.weight": (5, 2 * c)} | linear("queries.reference_points", 2, c)
    return shapes


def filled(kind):
    torch.manual_seed(1)
    model = Named(our_shapes(kind))
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    return model


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("kind", KINDS)
def test_detrex_layout_there_and_back(kind):
    model = filled(kind)
    theirs = to_layout(model, "detrex")
    assert recognize(theirs).name == "detrex Deformable-DETR"
    other = Named(our_shapes(kind))
    report = load_state(other, theirs)
    assert report.complete and equal(model, other)


@pytest.mark.parametrize("kind", KINDS)
def test_written_names_and_aliases_are_those_of_detrex(kind):
    """The aliases per head, as dumped from instantiated detrex models (6 layers)."""
    dump = json.loads((KEYS / f"{kind}_heads.json").read_text())
    theirs = to_layout(Named(our_shapes(kind, layers=6)).state_dict(), "detrex")
    assert sorted(k for k in theirs if "_embed." in k) == [k for k in dump["keys"] if ".layers.0" in k or "class_" in k]
    groups = {}
    for key, value in theirs.items():
        groups.setdefault(id(value), []).append(key)
    written = sorted(sorted(g) for g in groups.values() if len(g) > 1)
    assert written == [g for g in dump["aliases"] if ".layers.0" in g[0] or "class_" in g[0]]
    outside = {k for k in theirs if "_embed." not in k}
    assert {k.split(".")[0] for k in outside} <= {"backbone", "neck", "transformer", "query_embedding"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", ["inside", "outside"])
def test_either_alias_alone_is_enough(kind, keep):
    """``ema_state`` of detrex names each shared tensor once."""
    model = filled(kind)
    theirs = to_layout(model, "detrex")
    inside = "transformer.decoder."
    for key in list(theirs):
        head = key.removeprefix(inside)
        if head.startswith(("class_embed", "bbox_embed")) and inside + head in theirs and head in theirs:
            theirs.pop(head if keep == "inside" else inside + head)
    if kind == KINDS[0] and keep == "inside":
        theirs = {k: v for k, v in theirs.items() if "_embed.1" not in k}
    other = Named(our_shapes(kind))
    assert load_state(other, {f"module.{k}": v for k, v in theirs.items()}).complete
    assert equal(model, other)


def test_ema_weights_of_a_file(tmp_path):
    model = filled(KINDS[1])
    other = Named(our_shapes(KINDS[1]))
    torch.save({"model": other.state_dict(), "ema_state": to_layout(model, "detrex")}, tmp_path / "x.pth")
    load_weights(other, tmp_path / "x.pth", source="ema_state")
    assert equal(model, other)
    torch.save({"model": other.state_dict()}, tmp_path / "y.pth")
    with pytest.raises(UserError, match="holds no 'ema_state'; it has model"):
        load_weights(other, tmp_path / "y.pth", source="ema_state")


def test_heads_that_differ_do_not_fit_one_shared_head():
    with pytest.raises(UserError, match="not in the model"):
        load_state(Named(our_shapes(KINDS[0])), to_layout(filled(KINDS[1]), "detrex"))


def test_a_bare_source_fits_a_wrapped_one_and_back():
    bare = filled(KINDS[0])
    shapes = {k.replace("queries.", "queries.source."): v for k, v in our_shapes(KINDS[0]).items()}
    wrapped = Named(shapes)
    assert load_state(wrapped, bare.state_dict()).complete
    assert load_state(Named(our_shapes(KINDS[0])), wrapped.state_dict()).complete


@pytest.fixture(scope="module")
def theirs():
    torchvision = pytest.importorskip("torchvision")
    return torchvision.models.resnet18(weights=None).state_dict()


def test_own_names_that_look_like_those_of_another_project_are_own():
    names = ["conv1.weight", *(f"layer{i}.0.conv1.weight" for i in range(1, 5))]
    shapes = {f"backbone.body.{name}": (2, 2) for name in names} | {"neck.conv.weight": (2, 2)}
    state = {key: torch.rand(value) for key, value in shapes.items()}
    model = Named(shapes)
    assert recognize(state).name == "torchvision ResNet"
    assert load_state(model, state).layout == "detrex_ext"
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


class TestResNet:
    @staticmethod
    def ours(theirs):
        shapes = {"backbone.stem.conv1.weight": (64, 3, 7, 7), "queries.query_embedding.weight": (5, 8)}
        shapes |= {f"backbone.stem.conv1.norm.{n}": (64,) for n in ("weight", "bias", "running_mean", "running_var")}
        for stage in range(1, 5):
            width = 32 * 2**stage
            for block in range(2):
                first, name = stage > 1 and block == 0, f"backbone.res{stage + 1}.{block}"
                convs = {"conv1": (width, width // 2 if first else width, 3, 3), "conv2": (width, width, 3, 3)}
                convs |= {"shortcut": (width, width // 2, 1, 1)} if first else {}
                for conv, shape in convs.items():
                    shapes[f"{name}.{conv}.weight"] = shape
                    for n in ("weight", "bias", "running_mean", "running_var"):
                        shapes[f"{name}.{conv}.norm.{n}"] = (width,)
        return Named(shapes)

    @pytest.mark.parametrize("prefix", ["", "backbone.body."])
    def test_torchvision_names_fill_the_whole_backbone(self, theirs, prefix):
        model = self.ours(theirs)
        report = load_state(model, {prefix + k: v for k, v in theirs.items()})
        assert report.complete and len(report.matched) == 100
        loaded = model.state_dict()
        assert torch.equal(loaded["backbone.res3.0.shortcut.weight"], theirs["layer2.0.downsample.0.weight"])
        assert torch.equal(loaded["backbone.res5.1.conv2.norm.bias"], theirs["layer4.1.bn2.bias"])
        assert torch.equal(loaded["backbone.stem.conv1.norm.weight"], theirs["bn1.weight"])

    def test_detectron2_arrays_without_prefix(self, theirs):
        model = self.ours(theirs)
        filled = {k: np.random.rand(*v.shape).astype(np.float32) for k, v in model.state_dict().items()}
        arrays = {k.removeprefix("backbone."): v for k, v in filled.items() if k.startswith("backbone.")}
        report = load_state(model, arrays | {"stem.fc.weight": np.ones((1000, 512)), "stem.fc.bias": np.ones(1000)})
        assert report.complete and report.layout == "detectron2 ResNet"
        name = "backbone.res2.0.conv1.weight"
        assert np.array_equal(model.state_dict()[name].numpy(), filled[name])

    def test_another_depth_is_another_model(self, theirs):
        shallow = {k: v for k, v in theirs.items() if not k.startswith(("layer3", "layer4", "layer2.1"))}
        with pytest.raises(UserError, match="(?s)less than half.*missing from the file.*backbone.res3.1"):
            load_state(self.ours(theirs), shallow, strict=False)


class TestFit:
    def test_other_classes_load_the_rest_when_not_strict(self):
        model, other = filled(KINDS[1]), Named(our_shapes(KINDS[1], classes=7))
        with pytest.raises(UserError, match=r"class_embed.0.weight: \(3, 4\) in the file, \(7, 4\) in the model"):
            load_state(other, model.state_dict())
        assert not any(p.any() for p in other.parameters()), "a refused file leaves the model as it was"
        report = load_state(other, model.state_dict(), strict=False)
        assert [k for k, _, _ in report.mismatched] == [
            f"decoder.class_embed.{i}.{n}" for i in (0, 1) for n in ("weight", "bias")
        ]
        assert not report.missing and other.state_dict()["decoder.bbox_embed.1.layers.0.weight"].any()

    def test_another_model_is_refused_with_three_lists(self):
        state = {"a": torch.ones(2), "b": torch.ones(3), "z": torch.ones(1)}
        with pytest.raises(UserError) as error:
            load_state(Named({"a": (2,), "b": (2,), "c": (1,), "d": (1,)}), state, strict=False, name="x.pth")
        text = str(error.value)
        assert "x.pth: made by another model" in text and "matched 1 of 4" in text
        assert "b: (3,) in the file, (2,) in the model" in text and "\n    c\n" in text and "\n    z" in text

    def test_a_tensor_with_two_names_is_found_under_either(self):
        model = nn.Module()
        model.a = nn.Linear(2, 2)
        model.b = model.a
        state = {"a.weight": torch.ones(2, 2), "a.bias": torch.ones(2)}
        assert load_state(model, state).complete

    def test_entries_that_are_no_tensors(self):
        with pytest.raises(UserError, match=r"holds no tensors; found w \(str\)\n  looked .*there and in model, "):
            load_state(Named({"w": (1,)}), {"w": "hello"})

    def test_unknown_layout(self):
        with pytest.raises(UserError, match="unknown checkpoint layout 'keras'; known: detrex"):
            to_layout({}, "keras")
