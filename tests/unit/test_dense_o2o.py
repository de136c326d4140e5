"""Dense one-to-one: objects blended in against painted pixels, parts of a training, the overlay, too few queries."""

from __future__ import annotations

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from data_sets import coco, write
from test_data_loader import plain, take
from test_data_mixing import bounds, painted, rng

from detrex_ext.cli import dispatch
from detrex_ext.config import build, load_config, save_config
from detrex_ext.data import CocoDataset, CopyBlend, DetrMapper, During, MixUp, Mosaic, RandomFlip, build_train_loader
from detrex_ext.data.limits import limits_of
from detrex_ext.data.mixed_limits import crowding, mixing_parts, too_crowded
from detrex_ext.data.shapes import write as write_shapes
from detrex_ext.data.transforms import Sample
from detrex_ext.engine import setup
from detrex_ext.engine.schedule import constant_then_cosine
from detrex_ext.errors import UserError


def objects(seed: int, number: int, height: int = 50, width: int = 70) -> Sample:
    """Black, with rectangles of one color each that do not touch."""
    draw, image, boxes = rng(seed), np.zeros((height, width, 3), np.uint8), []
    for k in range(number):
        x, y = 2 + k * (width // number), int(draw.integers(0, height - 20))
        w, h = int(draw.integers(6, width // number - 4)), int(draw.integers(6, 18))
        image[y : y + h, x : x + w] = ((255, 0, 0), (0, 255, 0), (0, 0, 255))[k]
        boxes.append((x, y, x + w, y + h))
    return Sample(image, np.array(boxes, dtype=np.float64), np.arange(number))


class TestCopyBlend:
    def opaque(self, **options):
        exact = dict(prob=1.0, objects=1, share=(1.0, 1.0), margin=(0.0, 0.0), scale=(1.0, 1.0), min_area=0.0)
        return CopyBlend(**{**exact, **options})

    def test_boxes_are_those_of_the_painted_pixels(self):
        empty, places = Sample(np.zeros((50, 70, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64)), set()
        for seed in range(100):
            other = objects(seed, 3)
            out = self.opaque()(empty, rng(seed), 0.0, lambda other=other: other)
            (box,), (number,) = out.boxes_G4.tolist(), out.classes_G.tolist()
            assert box == bounds(out.image, number)
            was = other.boxes_G4[number]
            assert (box[2] - box[0], box[3] - box[1]) == (was[2] - was[0], was[3] - was[1])
            places.add((box[0], box[1]))
        assert len(places) > 80 and not empty.image.any()

    def test_boxes_follow_the_scale_and_a_margin(self):
        empty = Sample(np.zeros((50, 70, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64))
        for seed in range(60):
            other = objects(seed, 1, 40, 60)
            out = self.opaque(scale=(0.7, 1.2), margin=(0.1, 0.3))(empty, rng(seed), 0.0, lambda other=other: other)
            for box in out.boxes_G4:
                assert np.abs(box - bounds(out.image, 0)).max() <= 1.5

    def test_the_blend_is_by_its_share_inside_and_falls_to_the_border_of_the_margin(self):
        under = Sample(np.full((60, 60, 3), 100, np.uint8), np.array([[1.0, 2, 9, 8]]), np.array([3]))
        over = Sample(np.full((60, 60, 3), 200, np.uint8), np.array([[20.0, 20, 40, 40]]), np.array([1]))
        out = self.opaque(share=(0.5, 0.5), margin=(0.25, 0.25))(under, rng(2), 0.0, lambda: over)
        x0, y0, x1, y1 = map(int, out.boxes_G4[1])
        level = out.image[..., 0].astype(int)
        assert (level[y0:y1, x0:x1] == 150).all() and out.classes_G.tolist() == [3, 1]
        changed = level != 100
        ys, xs = np.nonzero(changed)
        assert x0 - 5 <= xs.min() < x0 and y0 - 5 <= ys.min() < y0 and x1 < xs.max() + 1 <= x1 + 5
        row = level[(y0 + y1) // 2, xs.min() : x0 + 1]
        assert (np.diff(row) > 0).all() and out.boxes_G4[0].tolist() == [1, 2, 9, 8]
        assert (under.image == 100).all() and (over.image == 200).all()

    def test_no_more_than_asked_none_too_small_none_that_does_not_fit(self):
        base, other = painted(0, 50, 70, (2, 3, 30, 30)), objects(1, 3)
        counts = {len(self.opaque(objects=2)(base, rng(s), 0.0, lambda: other).boxes_G4) for s in range(40)}
        assert counts == {2, 3}
        assert self.opaque(min_area=1e6)(base, rng(), 0.0, lambda: other) is base
        assert self.opaque(scale=(4.0, 4.0))(base, rng(), 0.0, lambda: painted(1, 50, 70, (0, 0, 70, 50))) is base
        none = Sample(base.image, np.zeros((0, 4)), np.zeros(0, np.int64))
        assert self.opaque()(base, rng(), 0.0, lambda: none) is base

    @pytest.mark.parametrize("hw", [(1, 1), (1, 7), (3, 300)])
    def test_images_of_a_pixel_and_boxes_beyond_the_border(self, hw):
        sample = Sample(np.zeros((*hw, 3), np.uint8), np.array([[-5.0, -1, 400, 9]]), np.array([0]))
        for seed in range(20):
            out = CopyBlend(prob=1.0, min_area=0.0)(sample, rng(seed), 0.0, lambda: sample)
            assert out.image.shape == sample.image.shape and np.isfinite(out.boxes_G4).all()


class TestDuring:
    def test_where_it_is_off_nothing_is_drawn(self):
        sample, step = painted(0, 20, 30, (2, 3, 9, 9)), During([RandomFlip(prob=1.0)], 0.25, 0.75)
        on = []
        for i in range(101):
            generator = rng(1)
            out = step(sample, generator, i / 100, False)
            on += [i] if out is not sample else []
            assert (generator.random() == rng(1).random()) == (out is sample)
        assert on == list(range(25, 75))
        assert During([RandomFlip(prob=1.0)])(sample, rng(), 1.0, False) is not sample

    def test_mosaics_are_left_as_they_are_mixups_are_not(self):
        mirrored = During([RandomFlip(prob=1.0)], on_mosaics=False)
        record = {"file_name": "x", "height": 20, "width": 30}
        sample = painted(0, 20, 30, (0, 0, 10, 20))
        for first, x0 in ((Mosaic(prob=1.0, scale=(1.0, 1.0), center=(0.5, 0.5), min_visible=0.0), 0),
                          (MixUp(prob=1.0, scale=(1.0, 1.0)), 20), (Mosaic(prob=0.0), 20)):  # fmt: skip
            out = DetrMapper([first, mirrored]).finish(record, sample, rng(), 0.0)
            assert out["instances"].gt_boxes.tensor[0, 0] == x0

    @pytest.mark.parametrize("wrong", [dict(since=0.5, until=0.4), dict(until=1.5), dict(since=math.nan),
                                       dict(steps=[Mosaic()]), dict(steps=[3])])  # fmt: skip
    def test_what_makes_no_sense_is_refused(self, wrong):
        with pytest.raises(ValueError, match="During: .*expected"):
            During(**{"steps": [RandomFlip()], **wrong})


class TestOverlay:
    @pytest.mark.parametrize("name", ["dino_r50_4scale_12ep", "photos", "tsp_fcos_r50_3x"])
    def test_it_lies_over_any_config_once(self, name):
        cfg = load_config(name, ["dense_o2o", "dense_o2o"], ["dataset.mosaic=0.25", "dataset.mixed_from=0.1"])
        cfg.dataset.update(short_edge=64, long_edge=64)
        mapper = build(cfg.dataloader.train.mapper, "mapper")
        for steps in mapper.pipelines:
            kinds = [type(step) for step in steps]
            assert [kinds.count(kind) for kind in (Mosaic, MixUp, CopyBlend)] == [1, 1, 1]
            mosaic = steps[kinds.index(Mosaic)]
            assert (mosaic.prob, mosaic.since, mosaic.until) == (0.25, 0.1, 0.5)
        assert mapper.most_mixed == 6 and mapper.most_objects(10) == 53 and mapper.most_objects(2) == 12
        inner = [step for steps in mapper.pipelines for step in steps if isinstance(step, During)]
        assert all((step.since, step.until) == (0.1, 0.86) for step in inner) and bool(inner) == (name[0] != "t")
        assert cfg.lr_multiplier.scheduler.tail == 0.14
        assert cfg.lr_multiplier.warmup_iters == load_config(name).lr_multiplier.warmup_iters

    def test_outside_of_its_part_a_recipe_with_crops_is_the_one_without(self):
        mapper = build(load_config("dino_r50_4scale_12ep", ["dense_o2o"]).dataloader.train.mapper, "mapper")
        plain_list, crop_list = ([step for step in steps if not isinstance(step, During)] for steps in mapper.pipelines)
        assert [type(s) for s in plain_list] == [type(s) for s in crop_list]
        (crop,) = [step for step in mapper.pipelines[1] if isinstance(step, During)]
        assert [type(s).__name__ for s in crop.steps] == ["ResizeShortestEdge", "RandomCrop"] and not crop.on_mosaics

    @pytest.mark.parametrize("key", ["copy_blend", "mixed_from", "bare_from"])
    @pytest.mark.parametrize("value", ["-1", "nan", "often"])
    def test_values_that_are_none_are_refused(self, key, value):
        with pytest.raises(UserError, match=rf"dataset\.{key}.*expected"):
            load_config("quickstart", ["dense_o2o"], [f"dataset.{key}={value}"])

    def test_batches_do_not_depend_on_workers_or_start_in_any_part(self, tmp_path):
        dataset = CocoDataset(write(tmp_path, coco(num_images=6)))
        cfg = load_config("quickstart", ["dense_o2o"], ["dataset.mixed_from=0.2", "dataset.short_edge=40"])
        mapper = build(cfg.dataloader.train.mapper, "mapper")

        def batches(start, **options):
            loader = build_train_loader(dataset, mapper, 2, seed=4, **{"num_workers": 0, **options})
            loader.set_progress(lambda step: step / 15)
            loader.set_start(start)
            return plain(take(loader, 15 - start))

        whole = batches(0)
        assert whole == batches(0, num_workers=2, cache=True)
        for start in (1, 5, 9, 14):  # one in each of the four parts
            assert batches(start) == whole[start:]
        most = [max(len(sample[3]) for sample in batch) for batch in whole]
        assert max(most[:3] + most[8:]) == 1 < max(most[3:8])  # an image has one object


def test_the_schedule_is_flat_falls_and_is_flat_again():
    schedule = constant_then_cosine(0.5, 0.2, tail=0.25)
    values = [schedule(i / 1000) for i in range(1000)]
    assert values[:500] == [1.0] * 500 and values[751:] == [0.2] * 249
    assert all(a >= b for a, b in itertools.pairwise(values))
    assert values[625] == pytest.approx(0.6, abs=1e-6)  # half way down
    assert [constant_then_cosine(0.7)(i / 9) for i in range(9)] == [constant_then_cosine(0.7, 0.01, 0)(i / 9)
                                                                    for i in range(9)]  # fmt: skip
    for wrong in (dict(tail=0.5), dict(tail=-0.1), dict(tail=math.nan), dict(constant=1.2)):
        with pytest.raises(UserError, match="constant_then_cosine"):
            constant_then_cosine(**{"constant": 0.5, **wrong})


class TestTooFewQueries:
    def test_shares_are_those_of_all_combinations(self):
        counts = np.array([1, 1, 2, 5])
        parts = [MixUp(), CopyBlend(objects=2)]
        sums = [a + b + min(c, 2) for a, b, c in itertools.product(counts.tolist(), repeat=3)]
        for number in range(16):
            found = crowding(counts, parts, number)
            assert found.share == pytest.approx(np.mean([s > number for s in sums]), abs=1e-12)
            assert (found.most, found.images) == (12, 3)
        assert too_crowded(counts, [parts], 11).share == pytest.approx(1 / 32)
        assert too_crowded(counts, [parts], 12) is None and too_crowded(counts[:0], [parts], 0) is None

    def test_parts_that_are_off_or_unknown_do_not_count(self):
        cfg = load_config("quickstart", ["dense_o2o"], ["dataset.mixup=0", "dataset.mixed_from=0.5"])
        assert mixing_parts(cfg) == []  # mixed_from is plain_from: never
        cfg.dataset.mixed_from = 0.0
        assert [type(p) for p in mixing_parts(cfg)[0]] == [Mosaic, CopyBlend]
        step = cfg.dataloader.train.mapper.augmentation[1]
        step._target_ = "os.Mosaic"  # of a stranger's file: nothing of it is imported
        assert [type(p) for p in mixing_parts(cfg)[0]] == [CopyBlend]
        assert mixing_parts({}) == [] and not [x for x in limits_of(cfg, train=False) if x.mixing]

    def test_the_config_of_a_run_says_the_same(self, tmp_path):
        cfg = load_config("quickstart", ["dense_o2o"])
        save_config(cfg, tmp_path / "config.yaml")
        (tmp_path / "metrics.json").touch()
        again = load_config(tmp_path)
        parts, same = mixing_parts(cfg)[0], mixing_parts(again)[0]
        assert [vars(part) for part in parts] == [vars(part) for part in same] and len(parts) == 3
        assert [type(step) for step in build(again.dataloader.train.mapper, "mapper").pipelines[0]][-1] is During

    def test_check_tells_and_a_training_too(self, tmp_path, capsys, caplog):
        data = coco(num_images=4)
        first = data["annotations"][0]
        data["annotations"] += [{**first, "id": 100 + i, "bbox": [i, 2, 7, 7]} for i in range(20)]
        path = write(tmp_path, data)
        words = ["check", str(path), "--config-file", "quickstart"]
        assert dispatch(words) == 0
        assert "mixed" not in capsys.readouterr().out
        assert dispatch([*words, "--overlay", "dense_o2o", "--json", "-"]) == 0
        findings = {found["kind"]: found for found in json.loads(capsys.readouterr().out)["findings"]}
        found = findings["mixed_more_than_queries"]
        assert found["severity"] == "warning" and "more_objects_than_queries" not in findings
        assert "40 queries (model.queries.source.num_queries of quickstart --overlay dense_o2o)" in found["text"]
        assert "made of 6 images: up to 108 objects" in found["examples"][0]

        cfg = load_config("quickstart", ["dense_o2o"], [f"dataset.train_json={path}", "dataset.train_images="])
        setup.build_train_loader(cfg)
        assert "mixed_more_than_queries" in caplog.text


def test_analyze_samples_draws_what_a_training_sees(tmp_path, capsys, monkeypatch):
    path, image = write(tmp_path, coco(num_images=3)), tmp_path / "s.png"
    words = ["analyze", "samples", "quickstart", f"dataset.train_json={path}", "dataset.train_images=", "--overlay",
             "dense_o2o", "dataset.mosaic=1", "--output", str(image), "--number", "2"]  # fmt: skip
    assert dispatch([*words, "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["progress"] == 0.3 and "2 samples" in captured.err and image.stat().st_size > 1000
    for wrong in (["--number", "0"], ["--progress", "nan"], ["--progress", "2"], ["--output", str(tmp_path / "x.txt")],
                  ["--output", str(tmp_path / "no" / "x.png")]):  # fmt: skip
        assert dispatch([*words, *wrong]) == 2
        assert "expected" in capsys.readouterr().err
    write_shapes(tmp_path / "my", 3, 1, 64, 0)
    ours = ["analyze", "samples", "quickstart", "--data", str(tmp_path / "my"), "--output", str(image)]
    assert dispatch([*ours, f"train.output_dir={tmp_path / 'out'}"]) == 0
    assert "3 samples" in capsys.readouterr().out
    for name in ("dataset", "samples"):  # a loader of one's own
        monkeypatch.setattr(setup, "build_train_loader", lambda cfg, name=name: SimpleNamespace(**{name: []}))
        assert dispatch(words) == 2
        assert "gives SimpleNamespace" in capsys.readouterr().err
