"""`python -m detrex_ext convert`."""

import pytest
import torch
from test_checkpoint_official import KINDS, equal, model_of, official
from torch import nn

from detrex_ext import load
from detrex_ext.checkpoint import convert, load_weights, read_checkpoint, to_layout
from detrex_ext.checkpoint.coco import COCO_NAMES
from detrex_ext.cli import dispatch
from detrex_ext.errors import UserError

CONFIG = """
from detrex_ext.modeling.backbones import BasicResNet
from detrex_ext.modeling.decoders import DeformableDecoder
from detrex_ext.modeling.detector import Detector
from detrex_ext.modeling.encoders import FlattenEncoder
from detrex_ext.modeling.necks import ChannelMapper
from detrex_ext.modeling.postprocess import Postprocess
from detrex_ext.modeling.preprocess import Preprocess
from detrex_ext.modeling.queries import LearnedQueries
from detrex_ext.runtime import LazyCall as L

sizes = dict(dim=32, num_heads=2, num_levels=1, num_points=1)
model = L(Detector)(
    preprocess=L(Preprocess)(),
    backbone=L(BasicResNet)(stem=(4, 8), widths=(8, 8, 8, 8)),
    neck=L(ChannelMapper)(in_channels=dict(res5=8), out_channels=32),
    encoder=L(FlattenEncoder)(),
    queries=L(LearnedQueries)(num_queries=5, dim=32),
    decoder=L(DeformableDecoder)(num_classes="${model.num_classes}", **sizes, ffn_dim=32, num_layers=2, refine=True),
    postprocess=L(Postprocess)(top_k=5),
    num_classes=None,
)
"""


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "dac"])
def test_to_ours_and_to_detrex_and_back_without_a_model(kind, tmp_path):
    model, paths = model_of(kind), [tmp_path / f"{i}.pth" for i in range(4)]
    torch.save({"model": official(model, kind)}, paths[0])
    convert(paths[0], paths[1])
    ours = read_checkpoint(paths[1])
    assert ours["class_names"] == list(COCO_NAMES) and ours["category_ids"][-1] == 90
    assert set(ours["model"]) == set(model.state_dict())
    if kind == "mixed":  # a model that detrex does not have
        return
    convert(paths[1], paths[2], to="detrex")
    convert(paths[2], paths[3])
    assert read_checkpoint(paths[3])["class_names"] == list(COCO_NAMES), "detrex's zoo is of COCO"
    other = model_of(kind)
    nn.init.zeros_(next(other.decoder.parameters()))
    assert load_weights(other, paths[3]).complete and equal(model, other)


def test_a_backbone_alone(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(theirs, tmp_path / "resnet.pth")
    report = convert(tmp_path / "resnet.pth", tmp_path / "ours.pth")
    state = read_checkpoint(tmp_path / "ours.pth")["model"]
    assert len(report.dropped) == 22 and all(k.startswith("backbone.") for k in state)
    model = model_of("plain")
    load_weights(model, tmp_path / "ours.pth")
    assert torch.equal(model.backbone.res4[0].shortcut.weight, theirs["layer3.0.downsample.0.weight"])


def run(*argv):
    return dispatch(["convert", *map(str, argv)])


def test_with_a_config_the_file_can_predict(tmp_path, capsys):
    (tmp_path / "config.py").write_text(CONFIG)
    from detrex_ext.config import load_config
    from detrex_ext.inference import build_for_inference

    model = build_for_inference(load_config(tmp_path / "config.py"), 3)
    average = {k: v + 1.0 for k, v in model.state_dict().items()}
    torch.save({"model": to_layout(model, "detrex"), "ema_state": average}, tmp_path / "theirs.pth")
    files = (tmp_path / "theirs.pth", tmp_path / "ours.pth")
    assert run(*files, "--config-file", tmp_path / "config.py", "--ema", "--report") == 0
    text = capsys.readouterr().out
    assert "ours.pth: " in text and "tensors by the names of detrex_ext" in text
    predictor = load(tmp_path / "ours.pth", trust=True)
    assert torch.equal(predictor.model.decoder.class_embed[0].bias, average["decoder.class_embed.0.bias"])
    assert predictor.model.num_classes == 3


def test_errors_are_one_message(tmp_path, capsys):
    torch.save({"blocks.0.weight": torch.ones(1)}, tmp_path / "x.pth")
    for argv, message in (
        ((tmp_path / "x.pth", tmp_path / "x.pth"), "is the file to convert"),
        ((tmp_path / "x.pth", tmp_path / "no" / "y.pth"), f"there is no folder {tmp_path}/no\n"),
        ((tmp_path / "x.pth", tmp_path), "it is a folder, not a file"),
        ((tmp_path / "x.pth", tmp_path / "y.pth"), "it looks like no layout that is known; 0 of its 1"),
        ((tmp_path / "x.pth", tmp_path / "y.pth", "--ema"), "holds no averaged weights ('ema_state')\n  the trained"),
        ((tmp_path / "nowhere.pth", tmp_path / "y.pth"), "not found"),
    ):
        assert run(*argv) == 2 and message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.pth"]
    with pytest.raises(UserError, match="unknown checkpoint layout 'mmdet3'; known: detrex_ext, detrex"):
        convert(tmp_path / "x.pth", tmp_path / "y.pth", to="mmdet3")


def test_detrex_has_no_names_for_every_model(tmp_path):
    torch.save({"model": model_of("plain").backbone.state_dict()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="has no names for a model of this kind"):
        convert(tmp_path / "x.pth", tmp_path / "y.pth", to="detrex")
    with pytest.raises(UserError, match="'mmdet' has no names .*\n  layouts that have: detrex, official"):
        to_layout(model_of("refine"), "mmdet")
    assert not (tmp_path / "y.pth").exists()
