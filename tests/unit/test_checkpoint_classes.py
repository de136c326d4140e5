"""A checkpoint of one list of classes into a model of another."""

import logging

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from detrex_ext.checkpoint import Checkpointer, load_state, to_layout
from detrex_ext.checkpoint.classes import class_tensors
from detrex_ext.checkpoint.coco import COCO_CATEGORIES, COCO_NAMES
from detrex_ext.engine.setup import Classes, init_weights
from detrex_ext.modeling.decoders import AdaMixerDecoder, DABDecoder, DeformableDecoder, DETRDecoder
from detrex_ext.modeling.queries import DenoisingQueries, TwoStageQueries

SIZES = {"dim": 8, "num_heads": 2, "ffn_dim": 8, "num_layers": 2}
MINE = ["dog", "Traffic_Light", "unicorn", "person"]


class Parts(nn.Module):
    """A decoder and its query source."""

    def __init__(self, classes, host="deformable", score="objectness"):
        super().__init__()
        torch.manual_seed(classes)
        if host == "detr":
            self.decoder = DETRDecoder(classes, **SIZES)
        elif host == "dab":
            self.decoder = DABDecoder(classes, **SIZES)
        elif host == "adamixer":
            self.decoder = AdaMixerDecoder(classes, **SIZES, groups=2, in_points=2, out_points=4)
        else:
            self.decoder = DeformableDecoder(classes, **SIZES, num_levels=1, refine=True)
            self.queries = DenoisingQueries(TwoStageQueries(classes, 3, 8, score=score), classes, 8)
        for value in self.parameters():
            nn.init.normal_(value)


@pytest.mark.parametrize("host", ["deformable", "detr", "dab", "adamixer"])
def test_rows_go_by_name_and_others_stay(host):
    old, new = Parts(80, host), Parts(4, host)
    before = {k: v.clone() for k, v in new.state_dict().items()}
    report = load_state(new, old.state_dict(), classes=MINE, file_classes=COCO_NAMES)
    theirs, after = old.state_dict(), new.state_dict()
    heads = [k for k in after if k.startswith("decoder.class_embed") and len(before[k]) in (4, 5)]
    rows = [COCO_NAMES.index(name) for name in ("dog", "traffic light", "person")]
    assert len(heads) == (2 if host in ("detr", "dab") else 4) and report.complete
    for key in [*heads, *(["queries.label_enc.weight"] if host == "deformable" else [])]:
        assert torch.equal(after[key][[0, 1, 3]], theirs[key][rows])
        assert torch.equal(after[key][2], before[key][2])
        assert f"{key}: {len(theirs[key])} -> {len(after[key])} rows, 3 by class name, 1 as before" in report.full()
    if host == "detr":
        assert torch.equal(after[heads[0]][4], theirs[heads[0]][80]), "no object stays no object"
    rest = set(after) - set(class_tensors(after))
    assert len(rest) > 10 and all(torch.equal(after[k], theirs[k]) for k in rest)


def test_a_head_of_objects_keeps_its_first_row():
    old, new = Parts(80), Parts(4)
    report = load_state(new, old.state_dict(), classes=MINE, file_classes=COCO_NAMES)
    key = "queries.source.class_embed.weight"
    assert torch.equal(new.state_dict()[key], old.state_dict()[key][:4])
    assert "the first 4, for row 0 is the objectness" in str(report)
    load_state(new, (other := Parts(80, score="max")).state_dict(), classes=MINE, file_classes=COCO_NAMES)
    by_class = Parts(4, score="max")
    load_state(by_class, other.state_dict(), classes=MINE, file_classes=COCO_NAMES)
    assert torch.equal(by_class.state_dict()[key][3], other.state_dict()[key][0])


def test_the_same_number_of_other_classes_is_not_the_same_classes():
    old, new = Parts(4, "dab"), Parts(4, "dab")
    with torch.no_grad():
        new.decoder.class_embed.bias.zero_()
    load_state(new, old.state_dict(), classes=["a", "b", "c", "d"], file_classes=["x", "c", "y", "z"])
    bias = new.decoder.class_embed.bias
    assert bias[2] == old.decoder.class_embed.bias[1] and bias[[0, 1, 3]].eq(0).all()
    report = load_state(new, old.state_dict(), classes=["a", "b"], file_classes=["a", "b"], strict=False)
    assert not report.sliced


def test_a_published_file_knows_cocos_classes():
    old, new = Parts(80), Parts(4)
    theirs = to_layout(old, "detrex")
    report = load_state(new, theirs, classes=MINE, strict=False)
    assert not report.mismatched and torch.equal(
        new.decoder.class_embed[1].weight[0], old.decoder.class_embed[1].weight[16]
    )
    unknown = load_state(Parts(4), old.state_dict(), classes=MINE, strict=False)
    assert len(unknown.mismatched) == 7, "a file of ours that names no classes is not COCO's by its size"


def test_training_takes_what_the_checkpoint_knows(tmp_path, caplog):
    old, new = Parts(3), Parts(2)
    Checkpointer(old, str(tmp_path), extra={"class_names": ["nut", "bolt", "gear"]}).save("model_final")
    cfg = OmegaConf.create({"train": {"init_checkpoint": str(tmp_path / "model_final.pth")}})
    with caplog.at_level(logging.INFO):
        init_weights(cfg, new, Classes(["gear", "washer"], [1, 2]))
    assert torch.equal(new.decoder.class_embed[0].weight[0], old.decoder.class_embed[0].weight[2])
    assert "decoder.class_embed.0.weight: 3 -> 2 rows, 1 by class name, 1 as before" in caplog.text


def test_the_80_classes_of_coco():
    assert len(COCO_CATEGORIES) == 80 and list(COCO_CATEGORIES)[-1] == 90
    assert [COCO_CATEGORIES[i] for i in (1, 13, 27, 46, 67, 90)] == [
        *("person", "stop sign", "backpack", "wine glass", "dining table", "toothbrush")
    ]
