"""Box arithmetic against values worked out by hand."""

import math

import pytest
import torch

from detrex_ext.layers import box_ops

A = torch.tensor([0.0, 0.0, 2.0, 2.0])


def test_center_and_corners_by_hand_and_back():
    cxcywh = torch.tensor([[0.5, 0.25, 0.4, 0.1]])
    xyxy = box_ops.box_cxcywh_to_xyxy(cxcywh)
    torch.testing.assert_close(xyxy, torch.tensor([[0.3, 0.2, 0.7, 0.3]]))
    torch.testing.assert_close(box_ops.box_xyxy_to_cxcywh(xyxy), cxcywh)


@pytest.mark.parametrize(
    ("other", "inter", "union", "hull"),
    [
        ((1.0, 1.0, 3.0, 3.0), 1.0, 7.0, 9.0),
        ((3.0, 0.0, 4.0, 2.0), 0.0, 6.0, 8.0),
        ((0.5, 0.5, 1.0, 1.5), 0.5, 4.0, 4.0),
        ((3.0, 3.0, 4.0, 4.0), 0.0, 5.0, 16.0),
    ],
)
def test_iou_and_giou_by_hand(other, inter, union, hull):
    b = torch.tensor(other)
    iou = inter / (union + 1e-6)
    assert box_ops.box_iou_elementwise(A, b).item() == pytest.approx(iou, rel=1e-6)
    giou = iou - (hull - union) / (hull + 1e-6)
    assert box_ops.generalized_box_iou_elementwise(A, b).item() == pytest.approx(giou, rel=1e-6)


def test_epsilon_is_added_to_both_denominators():
    side = 1e-3
    a, b = torch.tensor([0.0, 0.0, side, side]), torch.tensor([side, 0.0, 3 * side, side])
    a, b = a.double(), b.double()
    union, hull = 3e-6, 3e-6
    assert box_ops.box_iou_elementwise(a, a).item() == pytest.approx(1e-6 / (1e-6 + 1e-6), rel=1e-6)
    expected = 0 / (union + 1e-6) - (hull - union) / (hull + 1e-6)
    assert box_ops.generalized_box_iou_elementwise(a, b).item() == pytest.approx(expected, abs=1e-7)


def test_pairwise_is_every_elementwise_pair():
    torch.manual_seed(0)
    a, b = (box_ops.box_cxcywh_to_xyxy(torch.rand(2, n, 4)) for n in (3, 5))
    found = box_ops.box_iou_pairwise(a, b)
    assert found.shape == (2, 3, 5)
    for i in range(3):
        for j in range(5):
            torch.testing.assert_close(found[:, i, j], box_ops.box_iou_elementwise(a[:, i], b[:, j]))


def test_boxes_without_area_give_finite_values_and_gradients():
    a = torch.zeros(4, requires_grad=True)
    value = box_ops.generalized_box_iou_elementwise(a, torch.zeros(4))
    value.backward()
    assert value.item() == 0 and torch.isfinite(a.grad).all()


def test_inverse_sigmoid_clamps_at_detrex_epsilon():
    x = torch.tensor([-1.0, 0.0, 5e-4, 0.2, 0.5, 1.0, 2.0])
    low, high = math.log(1e-3), math.log(1e3)
    expected = torch.tensor([low, low, math.log(1e-3 / (1 - 5e-4)), math.log(0.25), 0.0, high, high])
    torch.testing.assert_close(box_ops.inverse_sigmoid(x), expected)
    assert box_ops.inverse_sigmoid(torch.tensor(0.0), eps=1e-5).item() == pytest.approx(math.log(1e-5))
