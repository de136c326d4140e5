"""Loaders: the same batches whatever the workers, the cache, the ranks and the start; images that cannot be read."""

from __future__ import annotations

import logging
import multiprocessing
import random
from itertools import islice

import numpy as np
import pytest
import torch
from data_sets import coco, write

from detrex_ext.data import (
    CocoDataset,
    DetrMapper,
    RandomAffine,
    RandomChannelGain,
    RandomCrop,
    RandomFlip,
    Resize,
    ResizeShortestEdge,
    build_test_loader,
    build_train_loader,
)
from detrex_ext.data.mapper import SampleCache
from detrex_ext.data.records import PackedRecords
from detrex_ext.data.transforms import Sample
from detrex_ext.errors import UserError
from detrex_ext.runtime import comm


def mapper() -> DetrMapper:
    return DetrMapper([Resize((24, 32)), RandomFlip(), RandomChannelGain(), RandomAffine()])


@pytest.fixture
def dataset(tmp_path):
    data = coco(num_images=9)
    for image in data["images"][6:]:
        image["height"], image["width"] = 60, 40
    return CocoDataset(write(tmp_path, data))


def take(loader, count: int) -> list:
    iterator = iter(loader)
    return list(islice(iterator, count))


def plain(batches: list) -> list:
    """Batches as values that compare with ==."""
    return [
        [
            (
                s["image_id"],
                s["image"].numpy().tobytes(),
                s["instances"].gt_boxes.tensor.tolist(),
                s["instances"].gt_classes.tolist(),
            )
            for s in batch
        ]
        for batch in batches
    ]


def test_a_sample_is_detectron2s_dict(dataset):
    batch = take(build_train_loader(dataset, mapper(), total_batch_size=3, num_workers=0), 1)[0]
    assert len(batch) == 3
    sample = batch[0]
    assert set(sample) == {"image", "height", "width", "file_name", "image_id", "instances"}
    assert sample["image"].dtype == torch.uint8 and sample["image"].shape == (3, 24, 32)
    assert sample["image"].is_contiguous()
    record = dataset[sample["image_id"] - 5]
    assert (sample["height"], sample["width"], sample["file_name"]) == (
        record["height"], record["width"], record["file_name"])  # fmt: skip
    instances = sample["instances"]
    assert instances.image_size == (24, 32)
    assert instances.gt_boxes.tensor.dtype == torch.float32 and instances.gt_classes.dtype == torch.int64


def test_mapper_drops_crowd_and_degenerate_boxes_and_keeps_types_when_none_is_left(dataset):
    record = dataset[0]
    box = record["annotations"][0]
    record["annotations"] = [{**box, "iscrowd": 1}, {**box, "bbox": [9, 9, -4, 5]}, {**box, "bbox": [90, 9, 5, 5]}]
    out = DetrMapper([RandomFlip(prob=1.0)])(record, np.random.default_rng(0))["instances"]
    assert out.gt_boxes.tensor.shape == (0, 4) and out.gt_classes.shape == (0,)
    record["annotations"].append({**box, "bbox": [-10, 6, 20, 10]})
    out = DetrMapper([])(record, np.random.default_rng(0))["instances"]
    assert out.gt_boxes.tensor.tolist() == [[0, 6, 10, 16]]


def test_evaluation_mapper_has_no_annotations(dataset):
    sample = DetrMapper([ResizeShortestEdge(20)], is_train=False)(dataset[0], np.random.default_rng(0))
    assert "instances" not in sample and sample["image"].shape == (3, 20, 30)


def test_two_pipelines_are_taken_half_of_the_time_each(dataset):
    both = DetrMapper([Resize((10, 10))], [RandomCrop("absolute", (5, 5))])
    sides = [both(dataset[0], np.random.default_rng(s))["image"].shape[1] for s in range(200)]
    assert set(sides) == {5, 10} and 70 < sides.count(5) < 130


def test_batches_do_not_depend_on_workers_cache_or_start(dataset):
    def build(**changes):
        return build_train_loader(dataset, mapper(), **{"total_batch_size": 2, "num_workers": 0, "seed": 4, **changes})

    reference = plain(take(build(), 14))
    assert reference != plain(take(build(seed=5), 14))
    assert reference == plain(take(build(cache=True), 14))
    assert reference == plain(take(build(num_workers=2, cache=True), 14))
    late = build(num_workers=2)
    late.set_start(9)
    assert reference[9:] == plain(take(late, 5))


def test_workers_end_with_the_loader_or_with_an_error(dataset):
    loader = build_train_loader(dataset, mapper(), total_batch_size=2, num_workers=2)
    iterator = iter(loader)
    next(iterator)
    others = len(multiprocessing.active_children()) - 2
    loader.close()
    assert len(multiprocessing.active_children()) == others
    with pytest.raises(StopIteration):
        next(iterator)
    loader.set_start(3)
    assert plain(take(loader, 1)) == plain(take(build_train_loader(dataset, mapper(), 2, num_workers=0), 4))[3:]
    with open(dataset[3]["file_name"], "wb") as file:
        file.write(b"broken")
    with pytest.raises(UserError) as raised:
        take(loader, 9)
    assert raised.tb is not None  # the traceback still holds the frames
    assert len(multiprocessing.active_children()) == others


def test_an_image_is_augmented_anew_in_each_epoch(dataset):
    loader = build_train_loader(dataset, mapper(), total_batch_size=9, aspect_ratio_grouping=False, num_workers=0)
    by_image: dict = {}
    for batch in plain(take(loader, 3)):
        for image_id, pixels, *_ in batch:
            by_image.setdefault(image_id, set()).add(pixels)
    assert {len(versions) for versions in by_image.values()} == {3}


def test_a_batch_holds_one_aspect(dataset):
    aspects = set()
    for batch in take(build_train_loader(dataset, DetrMapper([]), total_batch_size=2, num_workers=0), 20):
        assert len({s["image"].shape for s in batch}) == 1
        aspects.add(batch[0]["image"].shape)
    assert len(aspects) == 2


def test_ranks_share_the_global_batch(dataset, monkeypatch):
    reference = plain(take(build_train_loader(dataset, mapper(), total_batch_size=4, num_workers=0), 5))
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        parts.append(plain(take(build_train_loader(dataset, mapper(), total_batch_size=4, num_workers=0), 5)))
    assert [a + b for a, b in zip(*parts, strict=True)] == reference
    with pytest.raises(UserError, match="total_batch_size=5 does not divide over 2"):
        build_train_loader(dataset, mapper(), total_batch_size=5)


def test_loading_leaves_global_randomness_alone(dataset):
    torch.manual_seed(0)
    before = torch.get_rng_state().clone(), np.random.get_state()[1].copy()
    take(build_train_loader(dataset, mapper(), total_batch_size=2, num_workers=0), 3)
    list(build_test_loader(dataset, DetrMapper([], is_train=False), num_workers=0))
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])


def test_loader_processes_of_two_ranks_or_starts_draw_other_numbers(dataset, monkeypatch):
    """Ours draw from (seed, epoch, index); a transform of one's own may draw from the generators of its process."""

    def drawn(rank: int, start: int = 0) -> tuple:
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        loader = build_train_loader(dataset, DetrMapper([foreign]), total_batch_size=2, num_workers=1, seed=4)
        loader.set_start(start)
        return tuple(take(loader, 1)[0][0]["image"][:, 0, 0].tolist())

    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    numbers = [drawn(0), drawn(1), drawn(0, start=1)]
    for of_one_generator in zip(*numbers, strict=True):
        assert len(set(of_one_generator)) == 3
    assert drawn(0) == numbers[0]


def foreign(sample: Sample, rng: np.random.Generator) -> Sample:
    """An image of what the three global generators give."""
    values = random.random(), np.random.rand(), torch.rand(1).item()
    return sample.with_(np.full_like(sample.image, [int(256 * value) for value in values]))


def test_evaluation_visits_every_image_once_in_order(dataset, monkeypatch):
    plain_mapper = DetrMapper([], is_train=False)
    loader = build_test_loader(dataset, plain_mapper, num_workers=0, batch_size=4)
    assert [[s["image_id"] for s in batch] for batch in loader] == [[5, 6, 7, 8], [9, 10, 11, 12], [13]]
    assert len(loader) == 3
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    second = build_test_loader(dataset, plain_mapper, num_workers=2, batch_size=4)
    assert [s["image_id"] for batch in second for s in batch] == [10, 11, 12, 13]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_undecodable_image_ends_the_run_with_its_name(dataset, workers):
    bad = dataset[3]["file_name"]
    with open(bad, "wb") as file:
        file.write(b"broken")
    loader = build_train_loader(dataset, mapper(), total_batch_size=3, num_workers=workers)
    with pytest.raises(UserError) as raised:
        take(loader, 9)
    message = str(raised.value)
    assert bad in message and "cannot be decoded" in message and "dataloader.train.max_unreadable" in message
    assert "Traceback" not in message
    with pytest.raises(UserError, match="broken|cannot be decoded"):
        list(build_test_loader(dataset, DetrMapper([], is_train=False), num_workers=workers))


def test_a_budget_skips_so_many_images_names_them_and_stays_deterministic(dataset, caplog):
    bad = [dataset[i]["file_name"] for i in (1, 4)]
    for path in bad:
        with open(path, "wb") as file:
            file.write(b"broken")

    def run(workers: int, budget: int) -> list:
        options = dict(total_batch_size=3, num_workers=workers, max_unreadable=budget, cache=True)
        return plain(take(build_train_loader(dataset, mapper(), **options), 9))

    with caplog.at_level(logging.WARNING, logger="detrex_ext.data"):
        batches = run(0, 2)
    assert all(len(batch) == 3 for batch in batches)
    assert not {6, 9} & {image_id for batch in batches for image_id, *_ in batch}
    skipped = [r.getMessage() for r in caplog.records if "is skipped" in r.getMessage()]
    assert len(skipped) == 2 and all(any(path in text for text in skipped) for path in bad)
    assert run(2, 2) == batches
    with pytest.raises(UserError, match="2 such images found, dataloader.train.max_unreadable allows 1"):
        run(0, 1)


def test_an_image_of_another_size_than_the_json_says_is_refused(dataset):
    record = dataset[0]
    record["width"] += 1
    with pytest.raises(UserError, match=r"60 x 40 \(after EXIF rotation\), its JSON says 61 x 40"):
        mapper().prepare(record)


def test_cache_keeps_what_is_fixed_and_stops_at_its_limit(dataset, caplog):
    sample_mapper = mapper()
    samples = [sample_mapper.prepare(dataset[i]) for i in range(3)]
    assert samples[0].hw == (24, 32)  # resized once, before the cache
    cache = SampleCache(limit=2 * samples[0].image.nbytes)
    made = []
    for index in (0, 1, 2, 0, 1, 2):
        assert cache.get(index, lambda i=index: made.append(i) or samples[i]) is samples[index]
    assert made == [0, 1, 2, 2] and len(cache) == 2
    assert "cache is full" in caplog.text


def test_packed_records_read_like_a_list():
    items = [{"a": i, "b": "x" * i} for i in range(6)]
    packed = PackedRecords(items)
    assert list(packed) == items and packed[-1] == items[-1] and packed[1:4] == items[1:4]
    assert len(PackedRecords([])) == 0
    with pytest.raises(IndexError):
        packed[6]
