"""Boxes, ways to write them, and parameter groups: what detectron2's users call on them, for every host present."""

from __future__ import annotations

import importlib
import importlib.util
import math

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

HOSTS = ["standalone"] + (["detectron2"] if importlib.util.find_spec("detectron2") else [])
PLACES = {
    "standalone": ("detrex_ext.runtime.standalone.boxes", "detrex_ext.runtime.standalone.groups"),
    "detectron2": ("detectron2.structures.boxes", "detectron2.solver.build"),
}


@pytest.fixture(params=HOSTS)
def host(request):
    return importlib.import_module(f"detrex_ext.runtime.{request.param}")


@pytest.fixture(params=HOSTS)
def beside(request):
    """Functions on boxes and on parameter groups."""
    return [importlib.import_module(place) for place in PLACES[request.param]]


def test_rotated_boxes_become_the_upright_ones_around_them(host):
    mode = host.BoxMode
    rotated = [[50.0, 50.0, 30.0, 20.0, 0.0], [50.0, 50.0, 30.0, 20.0, 90.0], [0.0, 0.0, 2.0, 2.0, -45.0]]
    side = math.sqrt(2)
    upright = [[35.0, 40.0, 65.0, 60.0], [40.0, 35.0, 60.0, 65.0], [-side, -side, side, side]]
    for made in (np.array(rotated, dtype=np.float32), torch.tensor(rotated, dtype=torch.float64)):
        out = mode.convert(made, mode.XYWHA_ABS, mode.XYXY_ABS)
        assert type(out) is type(made) and out.dtype == made.dtype and out.shape == (3, 4)
        assert np.allclose(np.asarray(out), upright, atol=1e-5)
        assert np.asarray(made).tolist() == np.asarray(rotated, dtype=np.asarray(made).dtype).tolist()
    assert mode.convert((50, 50, 30, 20, 0), mode.XYWHA_ABS, mode.XYXY_ABS) == (35, 40, 65, 60)
    assert mode.convert([50, 50, 30, 20], mode.XYWH_ABS, mode.XYWHA_ABS) == [65, 60, 30, 20, 0]
    empty = mode.convert(np.zeros((0, 5)), mode.XYWHA_ABS, mode.XYXY_ABS)
    assert empty.shape == (0, 4)


@pytest.mark.parametrize("box", [[1, 2, 3, 4], [[1, 2, 3, 4, 5]], torch.zeros(2, 4), []])
def test_what_is_no_rotated_box_is_refused(host, box):
    with pytest.raises((ValueError, AssertionError, IndexError)):
        host.BoxMode.convert(box, host.BoxMode.XYWHA_ABS, host.BoxMode.XYXY_ABS)


def test_boxes_are_scaled_and_asked_where_they_are(host):
    boxes = host.Boxes([[0.0, 0.0, 4.0, 2.0], [-2.0, 1.0, 3.0, 5.0], [1.0, 1.0, 10.0, 6.0]])
    assert boxes.get_centers().tolist() == [[2.0, 1.0], [0.5, 3.0], [5.5, 3.5]]
    assert boxes.inside_box((7, 10)).tolist() == [True, False, False]
    assert boxes.inside_box((7, 10), boundary_threshold=2).tolist() == [True, True, True]
    boxes.scale(2, 0.5)
    assert boxes.tensor.tolist() == [[0.0, 0.0, 8.0, 1.0], [-4.0, 0.5, 6.0, 2.5], [2.0, 0.5, 20.0, 3.0]]


def test_overlaps_of_all_pairs_and_of_given_ones(host, beside):
    module, _ = beside
    boxes_of = module.Boxes
    corners = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)) * 8
    corners[:, 2:] += corners[:, :2]
    corners[4] = torch.tensor([100.0, 100.0, 101.0, 101.0])
    one, two = boxes_of(corners), boxes_of(corners.flip(0)[:3] + 1)
    iou = module.pairwise_iou(one, two)
    assert torch.allclose(iou, box_iou(one.tensor, two.tensor)) and (iou[4, 1:] == 0).all() and (iou > 0).any()
    shared = module.pairwise_intersection(one, two)
    assert torch.allclose(module.pairwise_ioa(one, two), shared / two.area())
    paired = module.matched_pairwise_iou(boxes_of(corners[:3]), two)
    assert torch.allclose(paired, box_iou(corners[:3], two.tensor).diagonal())
    with pytest.raises(AssertionError):
        module.matched_pairwise_iou(one, two)
    assert module.pairwise_iou(boxes_of([]), two).shape == (0, 3)
    flat = boxes_of([[1.0, 1.0, 1.0, 3.0]])
    assert module.pairwise_iou(flat, flat).item() == module.pairwise_ioa(flat, flat).item() == 0


def test_parameters_share_a_group_where_all_else_is_equal(beside):
    _, module = beside
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(4)]
    a, b, c, d = weights
    groups = [{"params": [a, b], "lr": 1.0}, {"params": [c], "lr": 2.0}, {"params": [d], "lr": 1.0}]
    number = {id(p): i for i, p in enumerate(weights)}
    reduced = module.reduce_param_groups(groups)
    assert [(g["lr"], [number[id(p)] for p in g["params"]]) for g in reduced] == [(1.0, [0, 1, 3]), (2.0, [2])]
    again = module.reduce_param_groups([{"params": [a], "lr": 1.0}, {"params": [a], "momentum": 0.9}])
    assert again == [{"params": [a], "lr": 1.0, "momentum": 0.9}]
    assert module.reduce_param_groups([]) == []


def test_one_process_shares_its_seed_and_sums_alone(host):
    np.random.seed(5)
    first = host.comm.shared_random_seed()
    np.random.seed(5)
    assert host.comm.shared_random_seed() == first and 0 <= first < 2**31
    values = {"loss": torch.tensor(3.0)}
    assert host.comm.reduce_dict(values) == values and host.comm.reduce_dict({}) == {}


def test_a_trace_keeps_that_sizes_and_numbers_of_boxes_vary(host):
    def clipped(boxes_N4, size_2):
        height, width = size_2
        inst = host.Instances(size_2, boxes=host.Boxes(boxes_N4))
        inst.boxes.clip((height, width))
        both = host.Instances.cat([inst, inst])
        return both.boxes.tensor, torch.as_tensor(both.__len__())

    generator = torch.Generator().manual_seed(0)
    traced = torch.jit.trace(clipped, (torch.rand(3, 4, generator=generator), torch.tensor([8, 9])))
    boxes = torch.rand(5, 4, generator=generator) * 9
    out, number = traced(boxes, torch.tensor([2, 3]))
    assert number == 10 and torch.equal(out[:5], torch.minimum(boxes, torch.tensor([3.0, 2.0, 3.0, 2.0])))
