"""Metrics with suppression of duplicates beside those without."""

from __future__ import annotations

import pytest
import torch
from data_sets import coco, write
from test_evaluation_stages import ON, SIZE, Fixed, batches

from detrex_ext.errors import UserError
from detrex_ext.evaluation import CocoEvaluator, inference_on_dataset
from detrex_ext.modeling.postprocess import Postprocess
from detrex_ext.structures import SupervisedSet


@pytest.fixture
def data(tmp_path):
    """Three images of one class, with an object each."""
    return write(tmp_path, coco(3, 1, SIZE))


class FoundTwice(torch.nn.Module):
    """Finds every object twice, in the first image with the two highest scores."""

    def __init__(self):
        super().__init__()
        self.postprocess, self.calls = Postprocess(10), 0

    def forward(self, inputs):
        return self.predict_sets(inputs)[0]

    def predict_sets(self, inputs):
        self.calls += 1
        score = torch.tensor([0.9, 0.8]) - 0.2 * (inputs[0]["image_id"] - 5)
        beside = [ON[0] + 0.01, *ON[1:]]
        sets = [SupervisedSet(score.logit()[None, :, None], torch.tensor([[ON, beside]]), 0)]
        return self.postprocess(sets, torch.tensor([SIZE]), inputs), sets


def test_both_metrics_of_one_pass_are_those_of_two(data):
    model = FoundTwice()

    def metrics(**options):
        return inference_on_dataset(model, list(batches(data)), CocoEvaluator(data, **options))

    bare = metrics()
    assert list(bare) == ["bbox", "bbox_f1"] and bare["bbox"]["AP50"] < 90
    model.calls = 0
    both = metrics(nms=0.5, stages=True)
    assert list(both) == ["bbox", "bbox_f1", "stages", "bbox_nms", "bbox_nms_f1"] and model.calls == 3
    assert model.postprocess.nms is None
    assert both["bbox"] == pytest.approx(bare["bbox"], nan_ok=True)
    assert both["bbox_nms"]["AP50"] == pytest.approx(100)
    model.postprocess.nms = 0.5
    assert both["bbox_nms"] == pytest.approx(metrics()["bbox"], nan_ok=True)


def test_a_model_without_such_a_post_processing_is_refused(data):
    with pytest.raises(UserError, match=r"sets of a decoder, which Linear does not give(.|\n)*nms=null"):
        inference_on_dataset(torch.nn.Linear(1, 1), [], CocoEvaluator(data, nms=0.8))
    with pytest.raises(UserError, match=r"which NoneType does not offer"):
        inference_on_dataset(Fixed((0.5, ON)), [], CocoEvaluator(data, nms=0.8))
    with pytest.raises(UserError, match="between 0 and 1, such as 0.8; got 80"):
        CocoEvaluator(data, nms=80)
