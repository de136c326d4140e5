"""Stage-wise errors during an evaluation of a model."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from contract.hosts import HOSTS, LAYERS
from data_sets import coco, write
from PIL import Image

from detrex_ext.analysis.stages import StageEvaluator
from detrex_ext.errors import UserError
from detrex_ext.evaluation import CocoEvaluator, inference_on_dataset
from detrex_ext.modeling.postprocess import Postprocess
from detrex_ext.structures import SupervisedSet

SIZE = (64, 96)


@pytest.fixture
def data(tmp_path):
    """Three images of four classes, one without an object."""
    found = coco(3, 4, SIZE)
    del found["annotations"][1]
    return write(tmp_path, found)


def batches(path, height=SIZE[0], width=SIZE[1]):
    content = json.loads(path.read_text())
    generator = torch.Generator().manual_seed(0)
    for image in content["images"]:
        pixels = torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8)
        file = str(path.parent / "images" / image["file_name"])
        yield [{"image": pixels, "image_id": image["id"], "height": height, "width": width, "file_name": file}]


@pytest.mark.parametrize("host", ["deformable, two-stage, dn", "detr", "adamixer"])
def test_metrics_of_every_stage_join_those_of_coco(data, host, caplog):
    model = HOSTS[host]()
    bare = inference_on_dataset(model, list(batches(data)), CocoEvaluator(data))
    with caplog.at_level(logging.INFO, "detrex_ext"):
        results = inference_on_dataset(model, list(batches(data)), CocoEvaluator(data, stages=True))
    np.testing.assert_equal(results["bbox"], bare["bbox"])
    stages = [f"AP_stage{i + 1}" for i in range(LAYERS)]
    assert list(results["stages"]) == [*stages, "TPF", "FPE", "recoverable", "grief", "AP_top100", "AP_oracle"]
    assert 0 <= results["stages"]["FPE"] <= 100 and "FP-E" in caplog.text


class Fixed(torch.nn.Module):
    """A model whose stages say what the test wants: (score, cxcywh box) of one query of class 0 at each stage."""

    def __init__(self, *stages):
        super().__init__()
        self.stages = stages

    def predict_sets(self, inputs):
        sets = [
            SupervisedSet(torch.tensor([[[score, 0.0, 0.0, 0.0]]]).logit(1e-6), torch.tensor([[box]]), stage)
            for stage, (score, box) in enumerate(self.stages)
        ]
        other = SupervisedSet(torch.zeros(1, 5, 4), torch.zeros(1, 5, 4), len(sets), group="dn")
        kept = [*reversed(sets), other]
        return Postprocess(1)(kept, torch.tensor([SIZE]), inputs), kept


ON = [14 / 96, 11 / 64, 20 / 96, 10 / 64]


def test_boxes_are_measured_in_the_image_and_faded_matches_drawn(data, tmp_path):
    """Class 0 has its only object in the first image, at XYWH (4, 6, 20, 10) of 64 x 96."""
    model = Fixed((0.75, ON), (0.5, ON))
    evaluator = StageEvaluator(data, (0.5, 0.75), tmp_path / "out", images=2)
    metrics = inference_on_dataset(model, list(batches(data)), evaluator)["stages"]
    assert metrics["AP_stage1"] == metrics["AP_stage2"] == 50  # one of two classes with objects
    assert (metrics["TPF"], metrics["FPE"]) == (100, 0)
    report = json.loads((tmp_path / "out" / "stages.json").read_text())
    assert [row["iou"] for row in report["rows"]] == [[0.5], [0.75]] and report["images"] == 3
    assert {k: report["rows"][1][k] for k in ("tp", "fp", "faded")} == {"tp": 1, "fp": 2, "faded": 1}
    (drawn,) = (tmp_path / "out").glob("*.png")
    assert drawn.name == "fading_01_0.png"
    with Image.open(drawn) as image:
        assert image.width > 2.9 * image.height  # objects and two stages in a row


def test_a_model_without_sets_is_refused(data):
    with pytest.raises(UserError, match=r"sets of a decoder, which Linear does not give(.|\n)*stages=false"):
        inference_on_dataset(torch.nn.Linear(1, 1), [], CocoEvaluator(data, stages=True))
    with pytest.raises(ValueError, match="between 0 and 1"):
        StageEvaluator(data, (75,))
    with pytest.raises(RuntimeError, match="inference_on_dataset gives them"):
        CocoEvaluator(data, stages=True).process([{}], [{}])


def test_classes_of_another_file_are_refused(tmp_path):
    path = write(tmp_path, coco(1, 3, SIZE))
    with pytest.raises(UserError, match="the model has 4 classes, .*set.json has 3"):
        inference_on_dataset(Fixed((0.5, ON)), list(batches(path)), StageEvaluator(path))


def test_a_file_without_annotations_gives_no_metrics(data):
    content = json.loads(data.read_text())
    del content["annotations"]
    data.write_text(json.dumps(content))
    assert inference_on_dataset(Fixed((0.5, ON)), list(batches(data)), StageEvaluator(data)) == {}
