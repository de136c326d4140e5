"""Large images in slices: where the slices lie, and that their objects become one answer in pixels of the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bright import bright
from contract.hosts import CLASSES, HOSTS

from detrex_ext.data.transforms import Resize, ResizeShortestEdge
from detrex_ext.errors import UserError
from detrex_ext.predicting.found import Found
from detrex_ext.predicting.tiles import AUTO, Tiling, _is_cut
from detrex_ext.predictor import Predictor
from detrex_ext.runtime import Boxes


def painted(height, width, *patches):
    """A dark image with patches of (x0, y0, x1, y1) and a color."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for (x0, y0, x1, y1), color in patches:
        image[y0:y1, x0:x1] = color
    return image


RED, WHITE = (255, 0, 0), (255, 255, 255)


def listed(found):
    rows = zip(found.pred_boxes.tensor.tolist(), found.names, strict=True)
    return sorted((tuple(box), name) for box, name in rows)


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("height, width", [(100, 100), (64, 65), (300, 1000), (1, 4000), (65, 64), (128, 700)])
def test_slices_cover_the_image_and_overlap_as_asked(height, width, overlap):
    tiling = Tiling(64, 80, overlap)
    *cut, whole = tiling.places(height, width)
    assert whole == (0, 0, width, height)
    if height <= 64 and width <= 80:
        assert not cut
        return
    covered = np.zeros((height, width), dtype=bool)
    for x0, y0, x1, y1 in cut:
        assert (x1 - x0, y1 - y0) == (min(80, width), min(64, height)) and min(x0, y0) >= 0
        covered[y0:y1, x0:x1] = True
    assert covered.all()
    for sides, side in (({(p[0], p[2]) for p in cut}, 80), ({(p[1], p[3]) for p in cut}, 64)):
        ordered = sorted(sides)
        assert all(a[1] - b[0] >= int(side * overlap) for a, b in zip(ordered, ordered[1:], strict=False))


def test_an_image_that_fits_a_slice_is_looked_at_once():
    predictor = bright()
    predictor.predict(painted(64, 60), tile=64)
    assert predictor.model.seen == [[(64, 60)]]


def test_the_size_is_the_one_that_images_are_resized_to():
    assert Tiling.of(AUTO, [ResizeShortestEdge(192, 352)]) == Tiling(192, 192)
    assert Tiling.of(AUTO, [Resize((96, 128))]) == Tiling(96, 128)
    assert Tiling.of(40, []) == Tiling(40, 40) and Tiling.of(Tiling(20, 30, 0.5), []) == Tiling(20, 30, 0.5)
    for wrong, message in (
        (AUTO, "nothing resizes"), (15, "sides from 16"), (0, "sides"), (-5, "sides"), (True, "True"), ("640", "640"),
        (0.5, "0.5"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Tiling.of(wrong, [])
    for wrong in ({"overlap": 1.0}, {"overlap": -0.1}, {"overlap": float("nan")}, {"iou": 0}, {"iou": float("nan")}):
        with pytest.raises(ValueError, match="expected sides"):
            Tiling(64, 64, **wrong)


def test_every_object_is_found_once_in_pixels_of_the_image():
    """Patches smaller than the overlap, on every edge and corner of slices, and one larger than a slice."""
    boxes = [(x, y, x + 12, y + 10) for x in range(3, 380, 29) for y in range(2, 250, 23)]
    image = painted(260, 400, *((box, RED if i % 2 else WHITE) for i, box in enumerate(boxes)))
    found = bright().predict(image, tile=Tiling(64, 64, 0.25))
    assert listed(found) == sorted((tuple(map(float, b)), "red" if i % 2 else "white") for i, b in enumerate(boxes))
    assert found.image_size == (260, 400) and found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    large = painted(260, 400, ((30, 40, 300, 200), WHITE))
    assert listed(bright().predict(large, tile=64)) == [((30.0, 40.0, 300.0, 200.0), "white")]


def test_batches_of_slices_find_the_same():
    predictor = bright([ResizeShortestEdge(48)])
    images = [painted(90, 150, ((30, 30, 40, 40), RED)), painted(30, 40), painted(120, 60, ((1, 1, 9, 9), WHITE))]
    wanted = [predictor.predict(image, tile=48) for image in images]
    predictor.model.seen.clear()
    found = predictor.predict(images, batch_size=5, tile=48)
    assert [listed(one) for one in found] == [listed(one) for one in wanted]
    assert len(predictor.model.seen[0]) == 5 and all(len(set(sizes)) == 1 for sizes in predictor.model.seen)


@torch.no_grad()
def test_what_lies_far_from_a_slices_edge_is_found_as_in_the_slice_alone():
    predictor = Predictor(HOSTS["detr"]().requires_grad_(False), [str(k) for k in range(CLASSES)])
    image = np.random.default_rng(0).integers(0, 256, (64, 150, 3), dtype=np.uint8)
    tiling = Tiling(64, 64, 0.25, iou=1.0)  # nothing suppresses anything
    found = predictor.predict(image, 0, tile=tiling)
    compared = 0
    for place in tiling.places(64, 150)[:-1]:
        x0, y0, x1, y1 = place
        alone = predictor.predict(image[y0:y1, x0:x1], 0)
        inside = alone[~_is_cut(alone.pred_boxes.tensor, place, (64, 150))]
        for box, score in zip(inside.pred_boxes.tensor + torch.tensor([x0, y0, x0, y0]), inside.scores, strict=True):
            near = (found.pred_boxes.tensor - box).abs().amax(1) + (found.scores - score).abs()
            assert near.min() < 1e-3
            compared += 1
    assert compared > 5


def answer(boxes, scores, classes, size=(100, 100)):
    return Found(size, ["a", "b"], pred_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4).float()),
                 scores=torch.tensor(scores), pred_classes=torch.tensor(classes, dtype=torch.int64))  # fmt: skip


PLACES = [(0, 0, 60, 100), (40, 0, 100, 100), (0, 0, 100, 100)]


def merged(left, right, whole=((), (), ())):
    left, right = (answer(*one, size=(100, 60)) for one in (left, right))
    return Tiling(100, 60).merged([left, right, answer(*whole)], PLACES)


def test_a_cut_box_gives_way_to_a_whole_one_that_is_about_as_sure():
    cut, whole = [[50, 10, 60, 20]], [[10, 10, 30, 20]]  # both at x = 50, of the image
    assert merged((cut, [0.8], [0]), (whole, [0.5], [0])).scores.tolist() == [0.5]
    assert merged((cut, [0.8], [0]), (whole, [0.3], [0])).scores.tolist() == pytest.approx([0.8, 0.3])
    assert len(merged((cut, [0.8], [0]), (whole, [0.5], [1]))) == 2, "of another class"
    assert len(merged((cut, [0.8], [0]), ([[18, 10, 30, 20]], [0.5], [0]))) == 2, "covers a fifth of it"
    assert len(merged((cut, [0.8], [0]), ([], [], []))) == 1, "nothing else is there"
    edge = [[0, 10, 10, 20]]  # at the border of the image nothing is cut
    assert len(merged((edge, [0.8], [0]), ([], [], []), ([[0, 8, 40, 30]], [0.9], [0]))) == 2


def test_boxes_of_two_slices_become_the_surer_one():
    left, right = [[40, 10, 55, 20]], [[1.5, 10, 15, 20]]
    found = merged((left, [0.6], [0]), (right, [0.7], [0]))
    assert found.pred_boxes.tensor.tolist() == [[41.5, 10, 55, 20]] and found.scores.tolist() == pytest.approx([0.7])
    assert len(merged((left, [0.6], [0]), (right, [0.7], [1]))) == 2


def test_what_is_told_does_not_turn_on_the_threshold():
    predictor, image = bright(), painted(80, 200, ((55, 10, 75, 20), RED), ((20, 20, 90, 70), WHITE))
    every = predictor.predict(image, 0, tile=48)
    for least in (0.3, 0.8, 0.8993, 0.95):
        assert listed(predictor.predict(image, least, tile=48)) == listed(every[every.scores >= least])
    assert len(every) > 0 and len(predictor.predict(painted(80, 200), 0, tile=48)) == 0


def test_an_image_that_cannot_be_read_comes_in_its_turn(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG broken")
    image = painted(80, 200, ((55, 10, 75, 20), RED))
    for batch in (1, 4):
        seen = list(bright().examine([image, tmp_path / "bad.png", image], 0, batch, tile=48))
        assert [one.error is None for one in seen] == [True, False, True]
        assert seen[0].rgb.shape == (80, 200, 3) and seen[1].rgb is None and len(seen[2].instances) == 1
    found = bright().stream([image, tmp_path / "bad.png"], 0, tile=48)
    assert len(next(found)) == 1
    with pytest.raises(UserError, match="bad.png"):
        next(found)


@pytest.mark.slow
def test_thousands_of_boxes_need_little_memory():
    g = torch.Generator().manual_seed(0)
    left, right = (torch.rand(9000, 4, generator=g) * 20 for _ in range(2))
    boxes = [torch.cat([x[:, :2], x[:, :2] + x[:, 2:] + 1], 1) + torch.tensor([40.0, 0, 40, 0]) for x in (left, right)]
    left, right = ((x.clamp(max=60).tolist(), [0.5] * 9000, [0] * 9000) for x in boxes)
    found = merged(left, right)
    assert 0 < len(found) < 18000
