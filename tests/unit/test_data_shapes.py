"""The generated data set: reproducible to the byte, boxes tight, nothing overwritten."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import numpy as np
import pytest

from detrex_ext.data import CocoDataset, check_dataset, hard_shapes, shapes
from detrex_ext.data import draw_shapes as draw
from detrex_ext.data.read import read_image
from detrex_ext.errors import UserError

# the first image of the default set
PLAIN, PIXELS = [(4, [68.31, 51.55, 14.6, 14.77]), (3, [115.77, 29.34, 10.84, 11.7])], 4341011


def digest(root) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_equal_arguments_give_equal_bytes(tmp_path):
    first = digest(shapes.write(tmp_path / "a", 5, 3, size=64, seed=1))
    assert first == digest(shapes.write(tmp_path / "b", 5, 3, size=64, seed=1))
    assert set(first) == {"train.json", "val.json", *(f"images/train_{i:05d}.png" for i in range(5)),
                          *(f"images/val_{i:05d}.png" for i in range(3))}  # fmt: skip
    assert len(set(first.values())) == len(first)
    other = digest(shapes.write(tmp_path / "c", 5, 3, size=64, seed=2))
    assert not set(other.values()) & set(first.values())


def test_a_larger_set_begins_with_the_smaller(tmp_path):
    small, large = (digest(shapes.write(tmp_path / str(n), n, 1, size=48, seed=0)) for n in (2, 4))
    assert all(large[name] == value for name, value in small.items() if name.startswith("images"))


def test_the_set_passes_its_own_check_and_reads_as_coco(tmp_path):
    root = shapes.write(tmp_path, 30, 10, size=128, seed=0)
    report = check_dataset(root / "train.json")
    assert report.errors == [] and report.warnings == []
    dataset = CocoDataset(root / "train.json", root / "images")
    assert dataset.class_names == ["circle", "rectangle", "triangle", "star"]
    assert set(report.classes) == set(dataset.class_names)
    assert min(row["total"] for row in report.classes.values()) >= 10
    counts = Counter(len(r["annotations"]) for r in dataset)
    assert min(counts) >= 1 and max(counts) <= 8
    assert read_image(dataset[0]["file_name"]).shape == (128, 128, 3)


def test_boxes_keep_inside_and_overlap_little():
    for index in range(40):
        _, objects = shapes.one_image(np.random.default_rng(index), 128)
        boxes = np.array([box for _, box in objects])
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        assert corners.min() >= -0.01 and corners.max() <= 128.01
        for i, a in enumerate(corners):
            for b in corners[:i]:
                assert shapes._overlap(tuple(a), tuple(b)) <= 0.36


@pytest.mark.parametrize("kind", draw.CLASSES)
@pytest.mark.parametrize("stroke", [None, 2.0])
def test_boxes_are_tight_around_what_is_drawn(kind, stroke):
    rng = np.random.default_rng(0)
    for _ in range(10):
        radius, angle = rng.uniform(8, 25), rng.uniform(0, 6.3)
        points = draw.outline_points(kind, radius, angle, aspect=0.7)
        center = rng.uniform(30, 34, 2)
        image = np.zeros((64, 64, 3))
        draw.draw_shape(image, tuple(center), radius, points, np.ones(3), stroke)
        assert 0 <= image.min() and image.max() <= 1
        ys, xs = np.nonzero(image[:, :, 0] > 0.05)
        drawn = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert np.abs(drawn - (np.array(draw.bounds(points, radius)) + np.tile(center, 2))).max() <= 1.6


def test_drawn_area_is_the_shapes_area():
    image = np.zeros((64, 64, 3))
    draw.draw_shape(image, (31.3, 32.8), 20.0, None, np.ones(3), None)
    assert image[:, :, 0].sum() == pytest.approx(np.pi * 400, rel=0.005)
    image = np.zeros((64, 64, 3))
    points = draw.outline_points("rectangle", 20.0, 0.4, aspect=0.5)
    draw.draw_shape(image, (31.3, 32.8), 20.0, points, np.ones(3), None)
    assert image[:, :, 0].sum() == pytest.approx(2 * 400 * np.sin(2 * np.arctan(0.5)), rel=0.01)


def test_a_complete_set_is_left_alone_a_cut_off_one_is_written_anew(tmp_path):
    root = shapes.write(tmp_path, 2, 1, size=48, seed=0)
    before = digest(root)
    times = {p: p.stat().st_mtime_ns for p in root.rglob("*.png")}
    shapes.write(root, 2, 1, size=48, seed=0)
    assert times == {p: p.stat().st_mtime_ns for p in root.rglob("*.png")}
    (root / "train.json").unlink()
    (root / "images" / "train_00001.png").write_bytes(b"")
    shapes.write(root, 2, 1, size=48, seed=0)
    assert digest(root) == before


def test_nothing_else_is_overwritten(tmp_path):
    root = shapes.write(tmp_path / "shapes", 2, 1, size=48, seed=0)
    before = digest(root)
    with pytest.raises(UserError, match="nothing was overwritten"):
        shapes.write(root, 2, 1, size=48, seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.json").write_text(json.dumps({"images": []}))
    with pytest.raises(UserError, match="not the generated shapes"):
        shapes.write(tmp_path / "mine", 2, 1, size=48, seed=0)
    assert digest(root) == before
    with pytest.raises(UserError, match="size >= 48"):
        shapes.write(tmp_path / "x", 2, 1, size=8, seed=0)


def test_bad_arguments_are_one_message(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    for arguments, message in (
        ([str(tmp_path / "a"), "--size", "3"], "shapes: num_train=600"),
        ([str(tmp_path / "file")], f"Not a directory: '{tmp_path}/file/images'"),
    ):
        assert shapes.main(arguments) == 2
        assert message in capsys.readouterr().err


def test_command_line(tmp_path, capsys):
    arguments = [str(tmp_path / "s"), "--num-train", "1", "--num-val", "1", "--size", "48"]
    assert shapes.main(arguments) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "s")
    assert (tmp_path / "s" / "val.json").is_file()


def test_the_plain_set_stays_what_it_was():
    image, objects = shapes.one_image(np.random.default_rng((0, 0, 0, 128)), 128)
    assert objects == PLAIN
    assert int(image.sum()) == pytest.approx(PIXELS, rel=1e-4)


class TestHard:
    def test_it_repeats_to_the_byte_begins_with_the_smaller_and_is_no_plain_one(self, tmp_path):
        small, again, large = (digest(shapes.write(tmp_path / str(i), n, 1, size=64, seed=0, hard=True))
                               for i, n in enumerate((2, 2, 3)))  # fmt: skip
        assert small == again and set(small) < set(large)
        assert all(large[name] == value for name, value in small.items() if name.startswith("images"))
        with pytest.raises(UserError, match="nothing was overwritten"):
            shapes.write(tmp_path / "0", 2, 1, size=64, seed=0)
        plain = digest(shapes.write(tmp_path / "plain", 2, 1, size=64, seed=0))
        assert not set(plain.values()) & set(small.values())

    def test_it_is_crowded_of_many_sizes_and_passes_its_own_check(self, tmp_path, capsys):
        arguments = ["--num-train", "16", "--num-val", "1", "--size", "128", "--hard"]
        assert shapes.main([str(tmp_path / "h"), *arguments]) == 0
        report = check_dataset(tmp_path / "h" / "train.json")
        assert report.errors == [] and report.warnings == []
        assert tuple(report.classes) == hard_shapes.CLASSES and len(hard_shapes.CLASSES) == 20
        assert 20 <= report.most_objects <= 32
        boxes = [np.array([a["bbox"] for a in r["annotations"]]) for r in CocoDataset(tmp_path / "h" / "train.json")]
        sides = np.concatenate(boxes)[:, 2:]
        assert sides.min() < 8 and sides.max() > 60
        most = [max(shapes._overlap((*a[:2], *(a[:2] + a[2:])), (*b[:2], *(b[:2] + b[2:])))
                    for i, a in enumerate(one) for b in one[:i]) for one in boxes if len(one) > 1]  # fmt: skip
        assert np.median(most) > 0.6

    def test_boxes_are_tight_around_what_is_seen(self, monkeypatch):
        """Every object in a color of its own, without noise."""
        colors = iter(np.arange(1, 10**6))
        monkeypatch.setattr(draw, "background", lambda rng, size: np.zeros((size, size, 3)))
        monkeypatch.setattr(draw, "distract", lambda image, rng, scale: None)
        monkeypatch.setattr(draw, "contrasting", lambda rng, under, least: np.full(3, float(next(colors))))
        monkeypatch.setattr(draw, "finished", lambda image, rng: image[..., 0])
        monkeypatch.setattr(draw, "paint", lambda image, cover, color, top, left: image[
            top : top + cover.shape[0], left : left + cover.shape[1]].__setitem__(cover > 0.5, color))  # fmt: skip
        number, covered, cut = 0, 0, 0
        for seed in range(12):
            image, objects = hard_shapes.one_image(np.random.default_rng(seed), 128)
            for _, (x, y, w, h) in objects:
                number += 1
                ys, xs = np.nonzero(image == number)
                assert len(xs) > 0
                found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
                slack = np.array([x, y, x + w, y + h]) - found
                assert np.abs(slack).max() <= 2.5  # a thin tip has no pixel of which it is the half
                covered += np.abs(slack).max() <= 1.5
                cut += x == 0 or y == 0 or x + w == 128 or y + h == 128
                assert -0.01 <= min(x, y) and max(x + w, y + h) <= 128.01
        assert covered > 0.6 * number and cut > 0.1 * number

    @pytest.mark.parametrize("kind", hard_shapes.CLASSES)
    def test_outlines_fit_their_circle_and_bound_what_is_drawn(self, kind):
        for angle in (0.0, 0.7, 2.9):
            points = hard_shapes.outline(kind, 22.0, angle, 0.9)
            image = np.zeros((64, 64, 3))
            draw.draw_shape(image, (31.0, 32.0), 22.0, points, np.ones(3), None)
            ys, xs = np.nonzero(image[..., 0] > 0.05)
            drawn = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            assert np.abs(drawn - (np.array(draw.bounds(points, 22.0)) + [31, 32, 31, 32])).max() <= 3
            assert 0.15 * 22**2 < image[..., 0].sum() <= np.pi * 22.5**2
            assert points is None or np.hypot(*points.T).max() == pytest.approx(22.0)
