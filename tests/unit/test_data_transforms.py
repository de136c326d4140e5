"""Transforms: detectron2's size rule and pixels, boxes that follow the image, chance from the generator alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from detrex_ext.data import RandomCrop, RandomFlip, RandomTranspose, Resize, ResizeShortestEdge
from detrex_ext.data.affine import RandomAffine, RandomChannelGain
from detrex_ext.data.transforms import Sample, shortest_edge_size


def blank(height: int, width: int, *boxes: tuple) -> Sample:
    """A black image with a white rectangle per box."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for x0, y0, x1, y1 in boxes:
        image[y0:y1, x0:x1] = 255
    return Sample(image, np.array(boxes, dtype=np.float64).reshape(-1, 4), np.arange(len(boxes)))


def white_bounds(image: np.ndarray) -> list[int]:
    ys, xs = np.nonzero(image[:, :, 0] > 127)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("height", "width", "short", "longest", "expected"),
    [
        (480, 640, 800, 1333, (800, 1067)),  # 1066.67 rounds up
        (640, 480, 800, 1333, (1067, 800)),
        (427, 640, 800, 1333, (800, 1199)),  # 1199.06 rounds down
        (300, 1000, 800, 1333, (400, 1333)),  # limited by the long side
        (375, 500, 480, 1333, (480, 640)),
        (333, 500, 500, float("inf"), (500, 751)),
        (2, 3, 3, 1333, (3, 5)),  # 4.5: halves go up, not to even
        (3, 2, 3, 1333, (5, 3)),
        (2, 3000, 192, 256, (1, 256)),  # never 0
    ],
)
def test_size_rule(height, width, short, longest, expected):
    assert shortest_edge_size(height, width, short, longest) == expected


def test_resize_is_pillows_antialiased_bilinear_on_uint8():
    image = rng().integers(0, 256, size=(48, 64, 3), dtype=np.uint8)
    sample = Sample(image, np.array([[0.0, 0, 64, 48], [8, 12, 16, 24]]), np.array([0, 1]))
    out = Resize((24, 16))(sample, None)
    expected = np.asarray(Image.fromarray(image).resize((16, 24), Image.BILINEAR))
    assert np.array_equal(out.image, expected)
    assert np.allclose(out.boxes_G4, [[0, 0, 16, 24], [2, 6, 4, 12]])
    assert sample.boxes_G4[0, 2] == 64  # the input is untouched


def test_choice_and_range_cover_their_lengths_and_only_them():
    sample = blank(10, 20)
    chosen = {ResizeShortestEdge([7, 9, 12])(sample, rng(s)).hw[0] for s in range(60)}
    ranged = {ResizeShortestEdge((7, 9), sample_style="range")(sample, rng(s)).hw[0] for s in range(60)}
    assert chosen == {7, 9, 12}
    assert ranged == {7, 8, 9}
    with pytest.raises(ValueError, match="sample_style"):
        ResizeShortestEdge(5, sample_style="uniform")


def test_only_what_ignores_chance_is_fixed():
    assert ResizeShortestEdge(8).fixed and ResizeShortestEdge([8, 8]).fixed and Resize((3, 4)).fixed
    assert not ResizeShortestEdge([8, 9]).fixed and not RandomFlip().fixed


@pytest.mark.parametrize("direction", ["horizontal", "vertical", "transpose"])
def test_boxes_follow_mirrored_and_transposed_images(direction):
    sample = blank(20, 20, (2, 5, 9, 17))
    transform = {
        "horizontal": RandomFlip(prob=1.0),
        "vertical": RandomFlip(prob=1.0, horizontal=False, vertical=True),
        "transpose": RandomTranspose(prob=1.0),
    }[direction]
    out = transform(sample, rng())
    expected = {"horizontal": [11, 5, 18, 17], "vertical": [2, 3, 9, 15], "transpose": [5, 2, 17, 9]}[direction]
    assert out.boxes_G4.tolist() == [expected] == [white_bounds(out.image)]
    assert transform(out, rng()).boxes_G4.tolist() == [[2, 5, 9, 17]]


def test_flip_probability_and_arguments():
    flipped = sum(RandomFlip(prob=0.25)(blank(2, 8, (0, 0, 2, 2)), rng(s)).boxes_G4[0, 0] > 0 for s in range(400))
    assert 60 < flipped < 140
    with pytest.raises(ValueError, match="exactly one"):
        RandomFlip(horizontal=True, vertical=True)


def test_transpose_leaves_oblong_images_alone():
    sample = blank(10, 20, (1, 2, 3, 4))
    assert RandomTranspose(prob=1.0)(sample, rng()) is sample


def test_absolute_range_crop_draws_each_side_between_its_limits():
    sample = blank(30, 50, (0, 0, 30, 30))
    sizes = [RandomCrop("absolute_range", (20, 40))(sample, rng(s)).hw for s in range(300)]
    assert {h for h, _ in sizes} == set(range(20, 31))  # min(30, 40) is the upper limit
    assert {w for _, w in sizes} == set(range(20, 41))
    small = RandomCrop("absolute_range", (384, 600))(sample, rng())
    assert small.hw == (30, 50)
    assert np.array_equal(small.image, sample.image)


def test_crop_moves_boxes_with_the_image_and_clips_at_the_end():
    sample = blank(40, 40, (15, 15, 25, 25))
    cut = 0
    for seed in range(60):
        out = RandomCrop("absolute", (18, 18))(sample, rng(seed)).clipped()
        if out.image.any():
            assert out.boxes_G4.tolist() == [white_bounds(out.image)]
            cut += out.boxes_G4.tolist()[0][2] == 18
        else:
            assert len(out.boxes_G4) == 0
    assert cut > 5


def test_clipping_drops_what_has_no_side_left():
    sample = Sample(
        np.zeros((10, 10, 3), np.uint8),
        np.array([[-5.0, 2, 3, 4], [-5, 2, 0, 4], [10, 0, 12, 4], [1, 1, 1.000001, 5], [4, 4, 30, 30]]),
        np.arange(5),
    )
    out = sample.clipped()
    assert out.classes_G.tolist() == [0, 4]
    assert out.boxes_G4.tolist() == [[0, 2, 3, 4], [4, 4, 10, 10]]


def test_affine_boxes_lie_on_the_moved_rectangle():
    sample = blank(96, 128, (40, 30, 80, 60))
    for seed in range(40):
        out = RandomAffine(scale=(0.7, 1.4), aspect=0.3, translate=0.05, fill=(0, 0, 0))(sample, rng(seed))
        assert out.hw == (96, 128)
        assert np.abs(out.boxes_G4[0] - white_bounds(out.image)).max() <= 1.0


def test_affine_scale_aspect_and_fill_keep_to_their_limits():
    sample = blank(100, 100, (45, 45, 55, 55))
    ratios, areas = [], []
    for seed in range(300):
        out = RandomAffine(scale=(0.5, 0.8), aspect=0.2, translate=0.0, fill=(9, 8, 7))(sample, rng(seed))
        width, height = out.boxes_G4[0, 2:] - out.boxes_G4[0, :2]
        ratios.append(np.log(width / height))
        areas.append(np.sqrt(width * height) / 10)
        assert (out.image.reshape(-1, 3) == (9, 8, 7)).all(axis=1).any()
    assert -0.2 <= min(ratios) < -0.17 and 0.17 < max(ratios) <= 0.2
    assert 0.5 <= min(areas) < 0.52 and 0.78 < max(areas) <= 0.8


def test_affine_drops_boxes_of_which_too_little_stays():
    sample = blank(100, 100, (0, 40, 20, 60))
    seen = {True: 0, False: 0}
    for seed in range(200):
        affine = dict(scale=(1.5, 1.5), aspect=0.0, translate=0.0)
        whole = RandomAffine(**affine, min_visible=0.0)(sample, rng(seed))
        out = RandomAffine(**affine, min_visible=0.35)(sample, rng(seed))
        sides = whole.boxes_G4[0, 2:] - whole.boxes_G4[0, :2]
        visible = sides.prod() / 30.0**2
        if abs(visible - 0.35) > 1e-6:
            assert (len(out.boxes_G4) == 1) == (visible > 0.35)
            seen[visible > 0.35] += 1
    assert min(seen.values()) > 20


def test_channel_gain_is_a_table_on_normalized_values():
    levels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    sample = Sample(levels, np.zeros((0, 4)), np.zeros(0, int))
    transform = RandomChannelGain(gain=0.15, shift=0.2, mean=(100, 100, 100), std=(50, 50, 50))
    out = transform(sample, rng(3)).image[0].astype(float)
    same = rng(3)
    factor, shift = same.uniform(0.85, 1.15, (3, 1)), same.uniform(-0.2, 0.2, (3, 1)) * 50
    expected = np.clip((np.arange(256) - 100) * factor + 100 + shift, 0, 255)
    assert np.abs(out.T - expected).max() <= 0.5
    assert len({tuple(column) for column in out.T}) == 3  # each channel for itself


def test_same_generator_state_gives_the_same_sample():
    sample = Sample(rng().integers(0, 256, (32, 32, 3), dtype=np.uint8), np.array([[4.0, 4, 20, 20]]), np.zeros(1, int))
    pipeline = [RandomFlip(), RandomTranspose(), RandomChannelGain(), RandomAffine(), RandomCrop("absolute", (20, 20))]
    before = np.random.get_state()[1].copy()
    results = []
    for seed in (7, 7, 8):
        generator, current = rng(seed), sample
        for transform in pipeline:
            current = transform(current, generator)
        results.append(current.image.copy())
    assert np.array_equal(results[0], results[1]) and not np.array_equal(results[0], results[2])
    assert np.array_equal(before, np.random.get_state()[1])  # no global state is used
