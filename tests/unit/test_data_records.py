"""Detectron2's dicts, as lists, functions, catalog entries and data sets of one's own: read as they say, or refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from data_sets import coco, write
from PIL import Image

from detrex_ext import data
from detrex_ext.data import CocoDataset, DetrMapper, RandomFlip, build_test_loader, build_train_loader
from detrex_ext.errors import UserError
from detrex_ext.evaluation import CocoEvaluator
from detrex_ext.runtime import BoxMode, DatasetCatalog, MetadataCatalog


@pytest.fixture
def record(tmp_path):
    """One record with one object, at (4, 6) to (24, 16) of 60 x 40 pixels."""
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    annotation = {"bbox": [4, 6, 20, 10], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, "iscrowd": 0}
    return {"file_name": str(tmp_path / "a.png"), "height": 40, "width": 60, "image_id": 3, "annotations": [annotation]}


def changed(record: dict, **changes) -> dict:
    """The record with another annotation; None takes a key away."""
    annotation = {k: v for k, v in {**record["annotations"][0], **changes}.items() if v is not None}
    return {**record, "annotations": [annotation]}


def mapped(record: dict, **options) -> dict:
    return DetrMapper([], **options)(record, np.random.default_rng(0))


def objects(record: dict) -> tuple[list, list]:
    found = mapped(record)["instances"]
    return found.gt_boxes.tensor.tolist(), found.gt_classes.tolist()


@pytest.mark.parametrize("mode", [BoxMode.XYXY_ABS, 0, np.int64(0)], ids=["enum", "int", "numpy"])
def test_corners_are_read_as_corners(record, mode):
    assert objects(changed(record, bbox=[4, 6, 24, 16], bbox_mode=mode)) == ([[4, 6, 24, 16]], [1])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"iscrowd": None},
        {"bbox_mode": 1},
        {"bbox_mode": np.int64(1)},
        {"bbox": (4.0, 6.0, 20.0, 10.0)},
        {"bbox": np.array([4, 6, 20, 10], dtype=np.float32)},
        {"category_id": np.int32(1)},
        {"segmentation": [[4, 6, 24, 6, 24, 16]], "keypoints": [1, 2, 2], "id": 9},
    ],
    ids=str,
)
def test_what_annotations_may_lack_and_have(record, changes):
    assert objects({**changed(record, **changes), "sem_seg_file_name": "none.png"}) == ([[4, 6, 24, 16]], [1])


def test_both_modes_in_one_record(record):
    first = record["annotations"][0]
    second = {"bbox": [1, 2, 3, 4], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    empty = {**second, "bbox": [5, 5, 5, 9]}
    crowd = {"iscrowd": 1, "bbox": [0, 0, 9, 9], "bbox_mode": BoxMode.XYXY_ABS}
    assert objects({**record, "annotations": [first, empty, crowd, second]}) == ([[4, 6, 24, 16], [1, 2, 3, 4]], [1, 0])


def test_records_without_annotations_size_or_id(record):
    bare = {"file_name": record["file_name"]}
    sample = mapped(bare, is_train=False)
    assert (sample["height"], sample["width"]) == (40, 60) and "image_id" not in sample
    assert objects(bare) == ([], [])
    resized = DetrMapper([data.Resize((20, 20))])({**bare, "height": None, "width": None}, np.random.default_rng(0))
    assert (resized["height"], resized["width"]) == (40, 60) and resized["image"].shape == (3, 20, 20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox_mode": BoxMode.XYXY_REL}, "bbox_mode XYXY_REL is not supported; expected BoxMode.XYXY_ABS or XYWH_ABS"),
        ({"bbox_mode": 3}, "bbox_mode XYWH_REL is not"),
        ({"bbox_mode": BoxMode.XYWHA_ABS, "bbox": [1, 2, 3, 4, 5]}, "bbox_mode XYWHA_ABS is not"),
        ({"bbox_mode": None}, "bbox_mode None is not"),
        ({"bbox_mode": "XYXY_ABS"}, "bbox_mode 'XYXY_ABS' is not"),
        ({"bbox": None}, "bbox None; expected four finite numbers"),
        ({"bbox": [1, 2, 3]}, r"bbox \[1, 2, 3\]; expected four"),
        ({"bbox": [1, 2, float("nan"), 4]}, ".*nan, 4]; expected four"),
        ({"bbox": ["a", 2, 3, 4]}, ".*; expected four"),
        ({"category_id": None}, "category_id None; expected the index of a class"),
        ({"category_id": 1.5}, "category_id 1.5; expected"),
        ({"category_id": -1}, "category_id -1; expected"),
    ],
)
def test_what_is_not_understood_is_refused(record, changes, message):
    with pytest.raises(UserError, match=f"a.png\n  annotation 0 of its record: {message}"):
        mapped(changed(record, **changes))
    assert "instances" not in mapped(changed(record, **changes), is_train=False)


def test_a_record_names_its_file():
    for wrong in ({}, {"file_name": ""}, 3):
        with pytest.raises(UserError, match="a record of a data set is a dict with file_name; found"):
            mapped(wrong)


def test_a_list_of_records_is_a_data_set(record):
    bare = {key: record[key] for key in ("file_name", "annotations")}
    loader = build_train_loader([record, bare, record], DetrMapper([RandomFlip()]), 3, num_workers=2)
    batch = next(iter(loader))
    assert [s["instances"].gt_classes.tolist() for s in batch] == [[1]] * 3
    loader.close()
    test = build_test_loader([record, bare], DetrMapper([], is_train=False), num_workers=0, batch_size=2)
    assert [s["image"].shape for batch in test for s in batch] == [(3, 40, 60)] * 2
    with pytest.raises(UserError, match="the training set has no images"):
        build_train_loader([], DetrMapper([]), 1)
    with pytest.raises(UserError, match="annotation 0 of its record: bbox_mode XYWHA_ABS"):
        build_train_loader([record, changed(record, bbox_mode=4)], DetrMapper([]), 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_of_ones_own_that_gives_a_bad_record_ends_in_one_message(record, workers):
    class Own(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return changed(record, bbox_mode=BoxMode.XYWH_REL)

    with pytest.raises(UserError, match="annotation 0 of its record: bbox_mode XYWH_REL") as raised:
        next(iter(build_train_loader(Own(), DetrMapper([]), 1, workers, aspect_ratio_grouping=False)))
    assert "Traceback" not in str(raised.value)


def test_a_registered_data_set_with_its_names(record, monkeypatch):
    name = "detrex_ext_test_records"
    DatasetCatalog.register(name, lambda: [record, record])
    try:
        MetadataCatalog.get(name).set(thing_classes=["bolt", "nut"])
        dataset = data.RecordDataset(name)
        assert len(dataset) == 2 and dataset[1] == record and dataset.sizes_N2.tolist() == [[40, 60]] * 2
        assert data.Classes.of(dataset) == (["bolt", "nut"], [])
        with pytest.raises(UserError, match=f"{name}: record 0, .*a.png: category_id 1; expected an index into its 1 "):
            data.RecordDataset(name, ["bolt"])
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    with pytest.raises(UserError, match=f"no data set '{name}' is registered"):
        data.RecordDataset(name)


def test_a_function_is_a_data_set_and_classes_have_to_be_named(record):
    def mine():
        return [record]

    assert data.RecordDataset(mine, ["a", "b"]).class_names == ["a", "b"]
    with pytest.raises(UserError, match="RecordDataset names no classes"):
        data.Classes.of(data.RecordDataset(mine))


def test_an_evaluation_needs_image_ids(tmp_path):
    evaluator = CocoEvaluator(write(tmp_path, coco(), images=False))
    with pytest.raises(UserError, match="image id None .*a.png.* is not in .*set.json"):
        evaluator.process([{"file_name": "a.png"}], [{"instances": None}])


def test_a_box_without_an_image_is_left_out(tmp_path):
    content = coco()
    del content["annotations"][1]["image_id"]
    dataset = CocoDataset(write(tmp_path, content))
    assert dataset.report.findings["unknown_image"].count == 1
    assert [len(r["annotations"]) for r in dataset] == [1, 0, 1, 1]


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    path = write(tmp_path, coco())
    read = []
    monkeypatch.setattr(json, "load", lambda file, load=json.load: read.append(file.name) or load(file))
    dataset, evaluator = CocoDataset(path), CocoEvaluator(path)
    assert read == [str(path)]
    path.write_text(json.dumps(coco(num_images=3)))
    assert len(CocoDataset(path)) == 3 and len(evaluator.image_ids) == 4 == len(dataset)
    assert len(read) == 2


def test_what_is_shared_is_not_changed_by_its_holders(tmp_path):
    path = write(tmp_path, coco())
    dataset, other = CocoDataset(path), CocoDataset(path)
    dataset.class_names.clear(), dataset.report.findings.clear(), dataset.report.classes.clear()
    (tmp_path / "images" / "2.png").unlink()
    assert [f.kind for f in data.check_dataset(path).errors] == ["missing_file"]
    assert other.class_names == ["class10", "class20"] == CocoDataset(path).class_names
    assert other.report.classes and CocoDataset(path).report.errors == [] == other.report.errors
