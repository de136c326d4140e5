"""Reading annotation files, and what the check says about faulty ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from data_sets import BCCD, coco, write
from PIL import Image

from detrex_ext.data import CocoDataset, check_before_training, check_dataset, check_same_classes, read_classes
from detrex_ext.data.records import objects_of
from detrex_ext.errors import UserError


def test_classes_are_numbered_by_ascending_category_id(tmp_path):
    dataset = CocoDataset(write(tmp_path, coco(num_classes=3)))
    assert dataset.category_ids == [10, 20, 30]
    assert dataset.class_names == ["class10", "class20", "class30"]
    assert [r["annotations"][0]["category_id"] for r in dataset] == [0, 1, 2, 0]
    assert read_classes(dataset.json) == (dataset.class_names, dataset.category_ids)


def test_records_have_detectron2s_layout_and_are_sorted_by_image_id(tmp_path):
    data = coco()
    data["images"].reverse()
    dataset = CocoDataset(write(tmp_path, data), tmp_path / "images")
    record = dataset[0]
    assert record["image_id"] == 5 and record["file_name"] == str(tmp_path / "images" / "0.png")
    assert (record["height"], record["width"]) == (40, 60)
    assert record["annotations"] == [{"bbox": [4, 6, 20, 10], "bbox_mode": 1, "category_id": 0, "iscrowd": 0}]
    assert len(dataset) == len(dataset.records) == 4
    record["annotations"].clear()  # a caller may change its copy
    assert len(dataset.records[0]["annotations"]) == 1
    with pytest.raises(IndexError):
        dataset[4]


def test_empty_images_stay_unless_filtered(tmp_path):
    data = coco()
    data["annotations"] = data["annotations"][:2]
    data["annotations"][1]["iscrowd"] = 1
    path = write(tmp_path, data)
    assert len(CocoDataset(path)) == 4
    assert len(CocoDataset(path, filter_empty=True)) == 1


def test_sizes_absent_from_the_json_are_read_from_the_images(tmp_path):
    data = coco(size=(30, 50))
    path = write(tmp_path, data)
    for image in data["images"]:
        del image["height"], image["width"]
    path.write_text(json.dumps(data))
    dataset = CocoDataset(path)
    assert dataset.sizes_N2.tolist() == [[30, 50]] * 4
    assert "missing_size" in dataset.report.findings


@pytest.mark.parametrize("width", ["50", "wide", -50, [50], None])
def test_sizes_that_are_no_numbers_are_read_from_the_images(tmp_path, width):
    data = coco(size=(30, 50))
    path = write(tmp_path, data)
    data["images"][0]["width"] = width
    path.write_text(json.dumps(data))
    assert [(f.kind, f.count) for f in check_dataset(path).findings.values()] == [("missing_size", 1)]
    assert CocoDataset(path).sizes_N2[0].tolist() == [30, 50]


def test_what_other_tools_write_is_read(tmp_path):
    data = coco()
    data["annotations"][0]["iscrowd"] = None
    data["categories"][0]["name"] = None
    path = write(tmp_path, data)
    path.write_text(json.dumps(data), encoding="utf-8-sig")  # with a byte order mark
    dataset = CocoDataset(path)
    assert dataset[0]["annotations"][0]["iscrowd"] == 0 and dataset.class_names == ["class10", "20"]


@pytest.mark.parametrize("polygons", [[], [[]], [[1, 2]], [[4, 6, 4, 6]], "none", 7, {"counts": ""}])
def test_an_object_without_a_usable_mask_keeps_its_box(tmp_path, polygons):
    data = coco()
    data["annotations"][0]["segmentation"] = polygons
    path = write(tmp_path, data)
    assert check_dataset(path).findings == {}
    assert objects_of(CocoDataset(path)[0])[0].tolist() == [[4, 6, 24, 16]]


def test_boxes_keep_the_digits_of_the_file(tmp_path):
    data = coco()
    data["annotations"][0]["bbox"] = [0.1, 16.777217, 33.3333333333, 7.123456789012]
    x, y, w, h = data["annotations"][0]["bbox"]
    record = CocoDataset(write(tmp_path, data))[0]
    assert record["annotations"][0]["bbox"] == [x, y, w, h]
    assert objects_of(record)[0].tolist() == [[x, y, x + w, y + h]]


def test_classes_of_one_name_are_told_apart(tmp_path):
    data = coco(num_classes=3)
    for category in data["categories"][:2]:
        category["name"] = "cell"
    path = write(tmp_path, data)
    assert read_classes(path) == (["class10", "cell (id 20)", "cell (id 30)"], [10, 20, 30])
    report = check_dataset(path)
    assert [report.classes[f"cell (id {k})"]["total"] for k in (20, 30)] == [1, 1]
    assert report.findings["duplicate_category_name"].examples == ["cell"]


def drop_categories(data):
    del data["categories"]


def empty_categories(data):
    data["categories"] = []


def unknown_category(data):
    data["annotations"][1]["category_id"] = 7


def missing_category(data):
    del data["annotations"][1]["category_id"]


def duplicate_category(data):
    data["categories"].append({"id": 10, "name": "again"})


def duplicate_image(data):
    data["images"][1]["id"] = data["images"][0]["id"]


def short_box(data):
    data["annotations"][1]["bbox"] = [1, 2, 3]


def nan_box(data):
    data["annotations"][1]["bbox"] = [1, 2, float("nan"), 4]


def endless_box(data):
    data["annotations"][1]["bbox"] = [10**400, 2, 3, 4]


def id_as_text(data):
    data["annotations"][1]["category_id"] = "20"


def id_as_list(data):
    data["annotations"][1]["image_id"] = [6]


def crowd_as_text(data):
    data["annotations"][1]["iscrowd"] = "0"


def nameless_image(data):
    data["images"][0]["file_name"] = ""


def no_images(data):
    data["images"] = []


ERRORS = [
    (drop_categories, "no_categories", "the key is absent"),
    (empty_categories, "no_categories", "'categories' is []"),
    (unknown_category, "unknown_category", "annotation 101, image 1.png: category_id 7"),
    (missing_category, "missing_category", "annotation 101, image 1.png"),
    (duplicate_category, "duplicate_category_id", "category id 10"),
    (duplicate_image, "duplicate_image_id", "image id 5, 1.png"),
    (short_box, "malformed_box", "bbox [1, 2, 3]"),
    (nan_box, "malformed_box", "nan"),
    (endless_box, "malformed_box", "bbox [1000"),
    (id_as_text, "id_of_other_type", "category_id '20'"),
    (id_as_list, "malformed_annotation", "annotations[1] = {'id': 101, 'image_id': [6]"),
    (crowd_as_text, "malformed_annotation", "'iscrowd': '0'"),
    (nameless_image, "malformed_image", "images[0]: image id 5, "),
    (no_images, "no_images", "empty list"),
]


@pytest.mark.parametrize(("fault", "kind", "example"), ERRORS, ids=[f[0].__name__ for f in ERRORS])
def test_each_error_is_found_named_and_refused(tmp_path, fault, kind, example):
    data = coco()
    path = write(tmp_path, data)
    assert check_dataset(path).errors == []
    fault(data)
    path.write_text(json.dumps(data))
    report = check_dataset(path)
    assert kind in [f.kind for f in report.errors]
    assert example in report.findings[kind].examples[0]
    with pytest.raises(UserError, match="set.json") as raised:
        CocoDataset(path)
    assert example in str(raised.value) and "check" in str(raised.value)


def test_unknown_category_message_has_what_where_and_expected(tmp_path):
    data = coco()
    for ann in data["annotations"][1:3]:
        ann["category_id"] = 7
    with pytest.raises(UserError) as raised:
        CocoDataset(write(tmp_path, data))
    message = str(raised.value)
    for part in ("unknown category (2 times)", "its categories are 10, 20", "annotation 101, image 1.png: category_id"):
        assert part in message


WARNINGS = [
    ("degenerate_box", [4, 6, 0, 10]),
    ("degenerate_box", [4, 6, -3, 10]),
    ("box_outside_image", [70, 6, 5, 5]),
    ("box_over_border", [50, 6, 20, 10]),
    ("box_over_border", [-4, 6, 20, 10]),
]


@pytest.mark.parametrize(("kind", "box"), WARNINGS)
def test_odd_boxes_are_warned_of_and_do_not_stop_training(tmp_path, kind, box):
    data = coco()
    data["annotations"][2]["bbox"] = box
    path = write(tmp_path, data)
    report = check_dataset(path)
    assert [f.kind for f in report.warnings] == [kind] and report.errors == []
    assert f"bbox {box}" in report.findings[kind].examples[0]
    assert len(CocoDataset(path)) == 4


def test_rounding_at_the_border_is_no_finding(tmp_path):
    data = coco(size=(40, 60))
    data["annotations"][0]["bbox"] = [0, 0, 60.4, 40.4]
    assert check_dataset(write(tmp_path, data)).findings == {}


def test_counts_per_class_and_size(tmp_path):
    data = coco(num_images=4, num_classes=3, size=(200, 200))
    boxes = [[0, 0, 31, 31], [0, 0, 32, 32], [0, 0, 96, 96], [0, 0, 10, 10]]
    for ann, box, category in zip(data["annotations"], boxes, (10, 10, 10, 20), strict=True):
        ann.update(bbox=box, category_id=category, image_id=5, area=box[2] * box[3])
    data["annotations"][3]["iscrowd"] = 1
    report = check_dataset(write(tmp_path, data))
    assert report.classes["class10"] == {"total": 3, "small": 1, "medium": 1, "large": 1, "images": 1}
    assert (report.num_images, report.num_annotations, report.num_crowd, report.num_empty) == (4, 4, 1, 3)
    assert report.findings["class_without_boxes"].count == 2
    for part in ("class10", "3 without boxes", "1 crowd"):
        assert part in report.text()


def test_images_missing_broken_and_of_another_size(tmp_path):
    path = write(tmp_path, coco(num_images=5))
    images = tmp_path / "images"
    (images / "0.png").unlink()
    (images / "1.png").write_bytes((images / "1.png").read_bytes()[:200])
    (images / "2.png").write_text("no image")
    Image.new("RGB", (61, 40)).save(images / "3.png")
    report = check_dataset(path, images)
    assert {f.kind: f.count for f in report.errors} == {"missing_file": 1, "unreadable_file": 2, "wrong_size": 1}
    assert "61 x 40, the JSON says 60 x 40" in report.findings["wrong_size"].examples[0]
    headers = check_dataset(path, images, decode=False)
    assert headers.findings["unreadable_file"].count == 1  # a cut file has a good header


def test_twelve_bits_in_a_file_of_sixteen_are_told(tmp_path):
    path = write(tmp_path, coco(num_images=3))
    gray = np.linspace(0, 4095, 40 * 60).astype(np.uint16).reshape(40, 60)
    for number, scale in enumerate((1, 16, 0)):  # 12 bits, all 16, and what is black is what it is
        Image.fromarray(gray * scale).save(tmp_path / "images" / f"{number}.png")
    report = check_dataset(path, tmp_path / "images")
    assert not report.errors and report.findings["nearly_black"].count == 1
    assert "0.png: at most 15" in report.findings["nearly_black"].examples[0]


def test_quick_check_names_missing_images(tmp_path):
    path = write(tmp_path, coco())
    dataset = CocoDataset(path)
    assert check_before_training(dataset) is dataset.report
    (tmp_path / "images" / "2.png").unlink()
    with pytest.raises(UserError, match=r"1 of 4 images are missing[\s\S]*2\.png"):
        check_before_training(dataset)


def test_quick_check_wants_boxes(tmp_path):
    data = coco()
    for rows in (
        [],
        [a | {"iscrowd": 1} for a in data["annotations"]],
        [a | {"bbox": [3, 4, 0, 5]} for a in data["annotations"]],
        [a | {"bbox": [300, 4, 9, 5]} for a in data["annotations"]],
    ):
        dataset = CocoDataset(write(tmp_path, data | {"annotations": rows}))
        assert dataset.report.num_empty == 4
        with pytest.raises(UserError, match="4 images, and no box on any"):
            check_before_training(dataset)
        check_before_training(dataset, boxes=False)


def test_training_and_validation_must_have_the_same_classes(tmp_path):
    data = coco()
    train = CocoDataset(write(tmp_path, data, name="train.json"))
    check_same_classes(train, train)
    data["categories"][0]["name"] = "other"
    val = CocoDataset(write(tmp_path, data, images=False, name="val.json"))
    with pytest.raises(UserError, match="id 20: 'class20' in training, 'other' in validation"):
        check_same_classes(train, val)


def test_missing_files_and_folders_are_explained(tmp_path):
    path = write(tmp_path, coco())
    with pytest.raises(UserError, match=r"not found[\s\S]*set\.json"):
        CocoDataset(tmp_path / "sett.json")
    for name in ("", None):
        with pytest.raises(UserError, match="no annotation file is named"):
            CocoDataset(name)
    with pytest.raises(UserError, match="cannot be opened: .*set.json/x.json\n  Not a directory"):
        CocoDataset(path / "x.json")
    with pytest.raises(UserError, match="nearest that exists"):
        CocoDataset(tmp_path / "a" / "b" / "set.json")
    with pytest.raises(UserError, match="image folder not found"):
        CocoDataset(path, tmp_path / "nowhere")
    (tmp_path / "images" / "0.png").unlink()
    with pytest.raises(UserError, match=r"0\.png, is in none of"):
        CocoDataset(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}', '{"images": 3}'])
def test_files_that_are_no_annotation_files(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match="x.json"):
        CocoDataset(path)


@pytest.mark.skipif(not BCCD.is_dir(), reason="the BCCD data set is not beside the checkout")
@pytest.mark.parametrize(("split", "images", "boxes"), [("train", 205, 2804), ("val", 87, 1137)])
def test_a_real_data_set(split, images, boxes):
    dataset = CocoDataset(BCCD / f"instances_{split}.json")
    assert len(dataset) == images and dataset.class_names == ["Platelets", "RBC", "WBC"]
    report = check_before_training(dataset)
    assert report.num_annotations == boxes == sum(row["total"] for row in report.classes.values())
