"""Samples of several images: boxes against painted pixels, weights by formula, chance, schedule, hostile sets."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from data_sets import coco, write
from test_data_loader import plain, take

from detrex_ext.config import build, load_config, target_name
from detrex_ext.config.compose import laid_over
from detrex_ext.data import (
    CocoDataset,
    DetrMapper,
    MixUp,
    Mosaic,
    RandomAffine,
    RandomFlip,
    Resize,
    build_test_loader,
    build_train_loader,
)
from detrex_ext.data.samplers import TrainSampler
from detrex_ext.data.transforms import Sample
from detrex_ext.errors import UserError
from detrex_ext.runtime import comm

COLORS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)])
BLACK = (0, 0, 0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def painted(number: int, height: int, width: int, box: tuple[int, int, int, int]) -> Sample:
    """A black image with one rectangle in the color of its class."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = COLORS[number]
    return Sample(image, np.array([box], dtype=np.float64), np.array([number]))


def bounds(image: np.ndarray, number: int) -> list[int] | None:
    ys, xs = np.nonzero((np.abs(image.astype(int) - COLORS[number]) < 128).all(axis=2))
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else None


def four(seed: int, alike: bool = True) -> list[Sample]:
    """Images of one size or several, a rectangle of chance on each."""
    draw, made = rng(seed), []
    for number in range(4):
        if not number or not alike:
            height, width = (int(draw.integers(30, 90)) for _ in range(2))
        x, y = int(draw.integers(0, width - 16)), int(draw.integers(0, height - 16))
        right, bottom = int(draw.integers(x + 14, width + 1)), int(draw.integers(y + 14, height + 1))
        made.append(painted(number, height, width, (x, y, right, bottom)))
    return made


def mosaic_of(images: list[Sample], step: Mosaic, seed: int) -> Sample:
    others = iter(images[1:])
    return step(images[0], rng(seed), 0.0, lambda: next(others))


class TestMosaic:
    def test_boxes_are_those_of_the_painted_pixels(self):
        kept = Counter()
        for seed in range(300):
            images = four(seed)
            out = mosaic_of(images, Mosaic(prob=1.0, scale=(1.0, 1.0), min_visible=0.0, fill=BLACK), seed)
            assert out.image.shape == images[0].image.shape and out.image.dtype == np.uint8
            boxes = dict(zip(out.classes_G.tolist(), out.boxes_G4.tolist(), strict=True))
            for number in range(4):
                found = bounds(out.image, number)
                box = boxes.get(number)
                if found is None:  # nothing of it is seen: no box, or one without area
                    assert box is None or (box[2] - box[0]) * (box[3] - box[1]) == 0
                else:
                    assert box == found
                    kept[number] += 1
        assert min(kept[number] for number in range(4)) > 100

    def test_boxes_follow_the_scale(self):
        for seed in range(200):
            images = four(seed, alike=False)
            out = mosaic_of(images, Mosaic(prob=1.0, scale=(0.5, 0.9), min_visible=0.2, fill=BLACK), seed)
            for number, box in zip(out.classes_G.tolist(), out.boxes_G4.tolist(), strict=True):
                assert np.abs(np.array(box) - bounds(out.image, number)).max() <= 1

    def test_a_box_stays_where_enough_of_its_area_is_seen(self):
        dropped = 0
        for seed in range(300):
            images = four(seed)
            out = mosaic_of(images, Mosaic(prob=1.0, scale=(1.0, 1.0), min_visible=0.35, fill=BLACK), seed)
            for number, image in enumerate(images):
                found = bounds(out.image, number) or [0, 0, 0, 0]
                seen = (found[2] - found[0]) * (found[3] - found[1])
                whole = (image.boxes_G4[0, 2:] - image.boxes_G4[0, :2]).prod()
                assert (number in out.classes_G) == (seen >= 0.35 * whole)
                dropped += number not in out.classes_G
        assert 50 < dropped < 1000

    def test_each_image_has_its_quarter_around_a_center_of_chance(self):
        full = [painted(k, 40, 60, (0, 0, 60, 40)) for k in range(4)]
        centers = set()
        for seed in range(50):
            out = mosaic_of(full, Mosaic(prob=1.0, scale=(1.0, 1.0), center=(0.3, 0.7), min_visible=0.0), seed)
            (x0, y0), (x1, y1) = out.boxes_G4[0, 2:], out.boxes_G4[3, :2]
            assert (x0, y0) == (x1, y1) and 18 <= x0 <= 42 and 12 <= y0 <= 28
            assert out.boxes_G4.tolist() == [[0, 0, x0, y0], [x0, 0, 60, y0], [0, y0, x0, 40], [x0, y0, 60, 40]]
            centers.add((x0, y0))
        assert len(centers) > 30

    def test_what_no_image_covers_is_filled(self):
        small = [painted(k, 40, 60, (0, 0, 60, 40)) for k in range(4)]
        out = mosaic_of(small, Mosaic(prob=1.0, scale=(0.2, 0.2), fill=(9, 8.6, 7)), 3)
        gray = (out.image == (9, 9, 7)).all(axis=2).sum()
        assert gray == 40 * 60 - 4 * 8 * 12  # no quarter is smaller than an image at this scale

    @pytest.mark.parametrize("kind", [Mosaic, MixUp])
    def test_a_far_larger_image_is_seen_as_large_as_the_others(self, kind):
        small, large = painted(0, 30, 40, (0, 0, 40, 30)), painted(1, 600, 800, (0, 0, 800, 600))
        for seed in range(20):
            out = kind(prob=1.0, scale=(0.5, 0.5))(small, rng(seed), 0.0, lambda: large)
            sides = (out.boxes_G4[1:, 2:] - out.boxes_G4[1:, :2]).tolist()
            assert all(12 <= w <= 20 and 9 <= h <= 15 for w, h in sides) and sides

    @pytest.mark.parametrize("hw", [(1, 1), (1, 7), (2, 1), (3, 300)])
    def test_images_of_a_pixel(self, hw):
        sample = painted(0, *hw, (0, 0, hw[1], hw[0]))
        for seed in range(20):
            out = Mosaic(prob=1.0)(sample, rng(seed), 0.0, lambda: sample)
            assert out.image.shape == (*hw, 3) and np.isfinite(out.boxes_G4).all()
            out = MixUp(prob=1.0)(sample, rng(seed), 0.0, lambda: sample)
            assert out.image.shape == (*hw, 3)


class TestMixUp:
    def test_pixels_are_weighted_and_the_objects_of_both_stay(self):
        a, b = (Sample(rng(k).integers(0, 256, (20, 30, 3), dtype=np.uint8), np.array([[1.0 + k, 2, 9, 8]]),
                       np.array([k])) for k in range(2))  # fmt: skip
        before = a.image.copy(), b.image.copy()
        out = MixUp(prob=1.0, share=(0.3, 0.3), scale=(1.0, 1.0))(a, rng(), 0.0, lambda: b)
        expected = np.floor(0.3 * a.image.astype(float) + 0.7 * b.image.astype(float) + 0.5)
        assert np.abs(out.image - expected).max() <= 1 and (out.image == expected).mean() > 0.95  # halves go to even
        assert out.boxes_G4.tolist() == [[1, 2, 9, 8], [2, 2, 9, 8]] and out.classes_G.tolist() == [0, 1]
        assert (a.image == before[0]).all() and (b.image == before[1]).all()

    def test_the_share_is_of_its_range(self):
        a, b = (Sample(np.full((4, 4, 3), level, dtype=np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64))
                for level in (200, 0))  # fmt: skip
        step = MixUp(prob=1.0, share=(0.4, 0.6), scale=(1.0, 1.0))
        levels = [int(step(a, rng(seed), 0.0, lambda: b).image[0, 0, 0]) for seed in range(200)]
        assert min(levels) in range(80, 84) and max(levels) in range(117, 121)

    def test_where_the_other_does_not_lie_the_image_stays(self):
        a = Sample(np.full((40, 60, 3), 100, dtype=np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64))
        step = MixUp(prob=1.0, share=(0.5, 0.5), scale=(1.0, 1.0), min_visible=0.0)
        for seed in range(50):
            b = painted(3, 20, 120, (0, 0, 120, 20))  # lower and wider
            out = step(a, rng(seed), 0.0, lambda b=b: b)
            top = int(out.boxes_G4[0, 1])
            assert out.boxes_G4.tolist() == [[0, top, 60, top + 20]]
            changed = out.image[..., 0] == 178  # the even one of 177.5's neighbors
            assert changed[top : top + 20].all() and changed.sum() == 20 * 60
            assert (out.image[~changed] == 100).all()


class TestSchedule:
    @pytest.mark.parametrize("kind", [Mosaic, MixUp])
    def test_where_it_is_off_nothing_is_drawn(self, kind):
        sample = painted(0, 20, 30, (2, 3, 9, 9))
        off = [(kind(prob=0.0), 0.0), (kind(prob=1.0, until=0.8), 0.8), (kind(prob=1.0, since=0.1), 0.099),
               (kind(prob=1.0, until=0.0), 0.0)]  # fmt: skip
        for step, progress in off:
            generator = rng(1)
            assert step(sample, generator, progress, None) is sample
            assert generator.random() == rng(1).random()

    def test_it_is_on_from_since_on_and_before_until(self):
        step, sample = Mosaic(prob=1.0, since=0.25, until=0.75), painted(0, 20, 30, (2, 3, 9, 9))
        on = [step(sample, rng(1), i / 100, lambda: sample) is not sample for i in range(101)]
        assert [i for i in range(101) if on[i]] == list(range(25, 75))

    def test_a_share_of_the_samples_is_mixed(self):
        step, sample = MixUp(prob=0.3), painted(0, 20, 30, (2, 3, 9, 9))
        mixed = sum(step(sample, rng(s), 0.0, lambda: sample) is not sample for s in range(1000))
        assert 250 < mixed < 350

    @pytest.mark.parametrize("kind", [Mosaic, MixUp])
    @pytest.mark.parametrize(
        "wrong",
        [dict(prob=2), dict(prob=-0.1), dict(prob=math.nan), dict(until=-1), dict(until=math.nan), dict(until=1.1),
         dict(since=-1), dict(since=0.9, until=0.5), dict(since=math.nan)],
    )  # fmt: skip
    def test_values_that_are_none_are_refused(self, kind, wrong):
        with pytest.raises(ValueError, match=f"{kind.__name__}: .*expected"):
            kind(**wrong)

    @pytest.mark.parametrize("key", ["mosaic", "mixup", "plain_from"])
    @pytest.mark.parametrize("value", ["2", "-1", "nan", "inf", "null", "true", "often", "[0.5]"])
    def test_a_config_with_them_is_refused(self, key, value):
        with pytest.raises(UserError, match=rf"dataset\.{key}(=| \(override 1).*expected"):
            load_config("photos", (), [f"dataset.{key}={value}"])

    def test_a_scale_that_would_fill_the_memory_is_refused(self):
        with pytest.raises(UserError, match="scale"):
            load_config("photos", (), ["dataloader.train.mapper.augmentation.1.scale=[1,100]"])

    def test_keys_carry_the_progress_of_their_step(self):
        sampler = TrainSampler(10, 4, seed=1)
        before = list(islice(sampler, 10))
        sampler.progress = lambda step: step / 10
        timed = list(islice(sampler, 10))
        assert [[key[:2] for key in batch] for batch in timed] == before
        assert [{key[2] for key in batch} for batch in timed] == [{step / 10} for step in range(10)]
        sampler.set_start(7)
        assert list(islice(sampler, 3)) == timed[7:]


def mapper(**options) -> DetrMapper:
    mosaic = Mosaic(**{"prob": 0.7, "until": 0.6, **options})
    return DetrMapper([Resize((24, 32)), mosaic, MixUp(prob=0.5, until=0.8), RandomFlip(), RandomAffine()])


@pytest.fixture
def dataset(tmp_path):
    data = coco(num_images=9)
    for image in data["images"][6:]:
        image["height"], image["width"] = 60, 40
    return CocoDataset(write(tmp_path, data))


class TestLoader:
    def build(self, dataset, steps=14, **changes):
        options = {"total_batch_size": 2, "num_workers": 0, "seed": 4, "mapper": mapper(), **changes}
        loader = build_train_loader(dataset, **options)
        loader.set_progress(lambda step: step / steps)
        return loader

    def test_batches_do_not_depend_on_workers_cache_or_start(self, dataset):
        reference = plain(take(self.build(dataset), 14))
        assert reference == plain(take(self.build(dataset, cache=True), 14))
        assert reference == plain(take(self.build(dataset, num_workers=2, cache=True, prefetch_factor=5), 14))
        late = self.build(dataset, num_workers=2)
        late.set_start(9)  # 9 / 14 is in the second part of three
        assert reference[9:] == plain(take(late, 5))
        assert reference[:9] != plain(take(self.build(dataset, steps=5), 14))[:9]

    def test_ranks_share_the_global_batch(self, dataset, monkeypatch):
        reference = plain(take(self.build(dataset, total_batch_size=4), 10))
        monkeypatch.setattr(comm, "get_world_size", lambda: 2)
        parts = []
        for rank in range(2):
            monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
            parts.append(plain(take(self.build(dataset, total_batch_size=4), 10)))
        assert [a + b for a, b in zip(*parts, strict=True)] == reference

    def test_the_stream_of_a_recipe_without_them_is_what_it_was(self, dataset):
        bare = DetrMapper([Resize((24, 32)), RandomFlip(), RandomAffine()])
        reference = plain(take(build_train_loader(dataset, bare, 2, num_workers=0, seed=4), 14))
        off = DetrMapper([Resize((24, 32)), Mosaic(prob=0.0), MixUp(prob=1.0, until=0.0), RandomFlip(), RandomAffine()])
        assert plain(take(self.build(dataset, mapper=off), 14)) == reference
        # and from where they end, that of the recipe without them
        late = self.build(dataset)
        late.set_start(12)
        assert plain(take(late, 2)) == reference[12:]

    def test_a_sample_holds_objects_of_others(self, dataset):
        classes = [len(s[3]) for batch in plain(take(self.build(dataset), 8)) for s in batch]
        assert max(classes) > 1  # each image has one
        assert (mapper().most_mixed, mapper(prob=0.0).most_mixed, mapper(until=0.0).most_mixed) == (5, 2, 2)

    def test_without_others_and_without_objects(self, tmp_path):
        data = coco(1)
        data["annotations"] = []
        lone = CocoDataset(write(tmp_path, data))
        for batch in plain(take(self.build(lone, total_batch_size=1), 14)):
            assert [s[2:] for s in batch] == [([], [])]
        assert mapper(prob=1.0)(lone[0], rng())["image"].shape == (3, 24, 32)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_another_that_cannot_be_read_ends_the_run_with_its_name(self, dataset, workers):
        bad = dataset[3]["file_name"]
        with open(bad, "wb") as file:
            file.write(b"broken")
        loader = self.build(dataset, num_workers=workers, mapper=mapper(prob=1.0))
        key = next((0, i, 0.0) for i in range(9) if i != 3 and loader.samples[0, i, 0.0].unreadable)
        assert loader.samples[key].unreadable[0][0] == bad and loader.samples[key].sample is None
        with pytest.raises(UserError) as raised:
            take(loader, 9)
        message = str(raised.value)
        assert bad in message and "dataloader.train.max_unreadable" in message and "Traceback" not in message

    def test_a_budget_skips_them_names_them_and_stays_deterministic(self, tmp_path, caplog):
        dataset = CocoDataset(write(tmp_path, coco(3)))
        bad = [dataset[i]["file_name"] for i in (0, 1)]
        for path in bad:
            with open(path, "wb") as file:
                file.write(b"broken")
        options = dict(mapper=mapper(prob=1.0), max_unreadable=2)
        batches = plain(take(self.build(dataset, **options), 14))
        assert {s[0] for batch in batches for s in batch} == {dataset[2]["image_id"]}
        assert len([r for r in caplog.records if "is skipped" in r.getMessage()]) == 2
        assert all(path in caplog.text for path in bad)
        assert plain(take(self.build(dataset, num_workers=2, cache=True, **options), 14)) == batches
        with pytest.raises(UserError, match="such images found, dataloader.train.max_unreadable allows 1"):
            take(self.build(dataset, mapper=mapper(prob=1.0), max_unreadable=1), 14)

    def test_an_evaluation_mixes_nothing(self, dataset):
        with pytest.raises(ValueError, match="for training only"):
            DetrMapper([Mosaic()], is_train=False)
        loader = build_test_loader(dataset, DetrMapper([Mosaic(prob=0.0)], is_train=False), num_workers=0)
        assert [s["image"].shape[1] for batch in loader for s in batch] == [40] * 6 + [60] * 3
        cfg = load_config("small", (), ["dataset.mosaic=0.5"])
        cfg.dataloader.test.mapper.augmentation = cfg.dataloader.train.mapper.augmentation
        with pytest.raises(UserError, match="for training only"):
            build(cfg.dataloader.test.mapper, "dataloader.test.mapper")


class TestOverlay:
    """Any config can have them."""

    def steps(self, name, *overlays, overrides=()):
        train = load_config(name, overlays, overrides).dataloader.train.mapper
        lists = [train[key] for key in ("augmentation", "augmentation_with_crop") if train.get(key)]
        names = [[target_name(s) for s in one] for one in lists]
        return names, train

    def test_a_published_recipe_gets_the_parts_in_both_lists(self):
        bare, _ = self.steps("dino_r50_4scale_12ep")
        found, mapper = self.steps("dino_r50_4scale_12ep", "mosaic", overrides=["dataset.mosaic=0.25"])
        assert len(found) == 2 and found == [["Mosaic", "MixUp", *one] for one in bare]
        built = build(mapper, "mapper")
        assert [step.prob for step in built.pipelines[1][:2]] == [0.25, 0.5] and built.most_mixed == 5

    @pytest.mark.parametrize("name", ["small", "photos", "quickstart"])
    def test_a_recipe_that_has_the_parts_gets_the_numbers(self, name):
        (found,), mapper = self.steps(name, ("mosaic", dict(mosaic=0.75, plain_from=0.9)))
        assert found[:3] == ["ResizeShortestEdge", "Mosaic", "MixUp"] and found.count("Mosaic") == 1
        step = mapper.augmentation[1]
        assert (step.prob, step.until, mapper.augmentation[2].prob) == (0.75, 0.9, 0.5)

    def test_they_follow_a_resize_that_comes_first(self):
        cfg = load_config("dino_r50_4scale_12ep")
        cfg.dataloader.train.mapper.augmentation.pop(0)
        cfg = laid_over(cfg, ["mosaic"])
        assert [type(s) for s in build(cfg.dataloader.train.mapper, "mapper").pipelines[0]][1:] == [Mosaic, MixUp]

    @pytest.mark.parametrize("name", ["photos", "dino_r50_4scale_12ep", "small"])
    def test_images_without_an_up_are_turned_too(self, name):
        bare, _ = self.steps(name)
        found, mapper = self.steps(name, ("any_orientation", dict(prob=0.3)))
        (again, _), has = self.steps(name, "any_orientation", "any_orientation"), name == "small"
        for one, before, twice in zip(found, bare, again, strict=True):
            behind = before.index("RandomFlip") + 1
            assert one == (before if has else [*before[:behind], "RandomFlip", "RandomTranspose", *before[behind:]])
            assert twice == one
        flips = [step for step, of in zip(mapper.augmentation, found[0], strict=True) if of == "RandomFlip"]
        kinds = [(bool(step.get("vertical")), step.get("prob", 0.5)) for step in flips]
        assert kinds == [(False, 0.5), (True, 0.5 if has else 0.3)]
