"""What an exported graph is made of: sizes, resampling and suppression without a length that depends on values."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from detrex_ext.cli import dispatch
from detrex_ext.data.transforms import RandomFlip, Resize, ResizeShortestEdge, Sample, shortest_edge_size
from detrex_ext.errors import UserError
from detrex_ext.export.compare import differences
from detrex_ext.export.fitting import Fitting
from detrex_ext.layers.suppression import best_in_graph, best_of_duplicates, kept_in_one_call
from detrex_ext.runtime import Boxes, Instances


def _resized(transform, image):
    return transform(Sample(image, np.zeros((0, 4)), np.zeros(0, dtype=np.int64)), np.random.default_rng(0)).image


@pytest.mark.parametrize("hw", [(60, 90), (90, 60), (33, 33), (1, 500), (500, 1), (7, 9), (96, 128), (301, 299)])
@pytest.mark.parametrize("transform", [ResizeShortestEdge(48, 64), ResizeShortestEdge([80], 96), Resize((40, 56))])
def test_images_come_into_the_frame_as_the_evaluation_resizes_them(hw, transform):
    image = np.random.default_rng(1).integers(0, 256, (*hw, 3), dtype=np.uint8)
    fitting = Fitting.of([transform])
    x, size = fitting(torch.from_numpy(image)[None])
    want = torch.from_numpy(_resized(transform, image).copy()).permute(2, 0, 1).float()
    h, w = want.shape[1:]
    assert size.tolist() == [h, w] and x.shape == (1, 3, *fitting.frame)
    off = (x[0, :, :h, :w] - want).abs()  # halves are rounded by the last bit of fixed point numbers there
    assert off.max() <= 1 and off.mean() < 0.3
    assert not x[0, :, h:].any() and not x[0, :, :, w:].any()


def test_sizes_are_those_of_the_evaluation():
    fitting = Fitting.of([ResizeShortestEdge(192, 256)])
    for h, w in np.random.default_rng(0).integers(1, 3000, (300, 2)).tolist():
        assert tuple(map(int, fitting.new_size(h, w))) == shortest_edge_size(h, w, 192, 256), (h, w)


def test_a_smaller_frame_holds_every_image():
    fitting = Fitting.of([ResizeShortestEdge(192, 256)], (96, 160))
    for h, w in ((1, 4000), (4000, 1), (500, 500), (1080, 1920), (1920, 1080)):
        new = tuple(map(int, fitting.new_size(h, w)))
        assert all(0 < n <= most for n, most in zip(new, (96, 160), strict=True)), new


def test_frames_are_multiples_of_what_the_model_wants():
    assert Fitting.of([ResizeShortestEdge(60, 100)]).frame == (128, 128)
    assert Fitting.of([ResizeShortestEdge(60, 100)], divisor=48).frame == (192, 192)
    assert Fitting.of([Resize((40, 56))]).frame == (40, 56)
    assert Fitting.of([Resize((40, 56))], divisor=32).frame == (64, 64)


@pytest.mark.parametrize(
    "transforms, frame, message",
    [
        ([], None, "augmentation is nothing: an exported graph knows one"),
        ([RandomFlip(0.5)], None, "augmentation is RandomFlip"),
        ([ResizeShortestEdge([30, 40], 60)], None, "of a fixed length"),
        ([ResizeShortestEdge(40, 60), RandomFlip(0.5)], None, "ResizeShortestEdge, RandomFlip"),
        ([ResizeShortestEdge(40)], None, "no longest side"),
        ([ResizeShortestEdge(40, 60)], (40, 40), "this model wants multiples of 32"),
        ([Resize((64, 64))], (32, 64), "the run's images are 64x64, no smaller"),
    ],
)
def test_what_has_no_fixed_frame_is_told(transforms, frame, message):
    with pytest.raises(UserError, match=message):
        Fitting.of(transforms, frame, 32)


def _candidates(B=3, N=60):
    generator = torch.Generator().manual_seed(0)
    corner, side = torch.rand(B, N, 2, generator=generator) * 80, torch.rand(B, N, 2, generator=generator) * 40
    scores = torch.rand(B, N, generator=generator)
    return torch.cat([corner - 20, corner - 20 + side], -1), scores, torch.randint(0, 4, (B, N), generator=generator)


def test_one_suppression_of_a_batch_is_that_of_each_image():
    boxes, scores, groups = _candidates()
    kept = kept_in_one_call(boxes, scores, groups, 0.3)
    for i in range(3):
        want = torch.zeros(60, dtype=torch.bool)
        want[batched_nms(boxes[i], scores[i], groups[i], 0.3)] = True
        assert torch.equal(kept[i], want) and 0 < want.sum() < 60
    order = scores.sort(dim=1, descending=True).indices
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    scores, groups = scores.gather(1, order), groups.gather(1, order)
    best = kept_in_one_call(boxes, scores, groups, 0.3, 7)
    assert torch.equal(best, best_of_duplicates(boxes, scores, groups, 0.3, 7))


def test_the_best_in_a_graph_leave_out_what_is_not_usable():
    boxes, scores, groups = _candidates()
    usable = torch.ones(3, 60, dtype=torch.bool)
    usable[0, ::2], usable[1] = False, False
    boxes[0, 0], scores[0, 0], boxes[1, 5] = torch.nan, torch.nan, torch.inf
    found, valid = best_in_graph(boxes, scores, usable, groups[0], 0.3, 20)
    assert found.shape == (3, 20, 4) and not valid[1].any() and not found[1].any()
    for i in (0, 2):
        own = usable[i]
        best = batched_nms(boxes[i][own], scores[i][own], groups[0][own], 0.3)[:20]
        assert torch.equal(found[i][valid[i]], boxes[i][own][best])


def _instances(boxes, scores, labels):
    found = Instances((40, 60))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
    found.scores, found.pred_classes = torch.tensor(scores), torch.tensor(labels, dtype=torch.int64)
    return found


def test_differences_are_of_the_nearest_box_of_the_class():
    a = _instances([[0, 0, 9, 9], [5, 5, 9, 9]], [0.9, 0.8], [0, 1])
    swapped = _instances([[5, 5, 9, 10], [0, 0, 9, 9]], [0.9, 0.8], [1, 0])
    assert differences(a, a) == (0.0, 0.0)
    assert differences(a, swapped) == (0.0, 1.0)
    assert differences(a, _instances([], [], [])) == (pytest.approx(0.9), 60.0)
    assert differences(_instances([], [], []), _instances([], [], [])) == (0.0, 0.0)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--size", "0x64"], "--size 0x64: expected height x width in pixels"),
        (["--size", "64x64x64"], "--size 64x64x64: expected"),
        (["--size", "99999"], "--size 99999: expected"),
        (["--output", "a.pt2"], "expected a name that ends with .onnx"),
        (["--output", "absent/a.onnx"], "there is no folder"),
        (["--format", "pt2", "--int8"], "--int8 is of ONNX"),
        (["--format", "pt2", "--opset", "20"], "--opset is of ONNX"),
        (["--opset", "17"], "--opset 17: expected 18 to"),
        (["--count", "-1"], "--count -1: expected 0 or more"),
        (["--tolerance", "nan"], "--tolerance nan: expected"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_read(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert dispatch(["export", "run.pth", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_not_installed_is_told_before_anything_is_read(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    hidden = lambda name, *more: None if name.startswith("onnx") else find(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    assert dispatch(["export", str(tmp_path)]) == 2
    assert "needs onnx, onnxscript, onnxruntime: pip install 'detrex_ext[export]'" in capsys.readouterr().err
    monkeypatch.delattr(torch.export, "draft_export", raising=False)
    assert dispatch(["export", str(tmp_path), "--format", "pt2"]) == 2
    assert "export needs torch 2.7 or newer" in capsys.readouterr().err
