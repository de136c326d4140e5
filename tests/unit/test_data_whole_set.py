"""A set looked at as a whole: `check` and a training judge alike, and `check --fix` writes what both take."""

from __future__ import annotations

import json
import logging
import math

import pytest
from data_sets import coco, write
from mutations import judged_by_check, judged_by_training, spoiled, write_json

from detrex_ext.cli.check import main
from detrex_ext.data import CocoDataset, check_before_training, check_dataset
from detrex_ext.data.coco import find_images
from detrex_ext.data.file_names import FileNames, parts_of
from detrex_ext.data.ground_truth import read_ground_truth
from detrex_ext.data.limits import Limit, limits_of
from detrex_ext.data.report import MENDED
from detrex_ext.errors import UserError
from detrex_ext.evaluation import CocoEvaluator

SIZE = (400, 600)


def many(boxes: list, images: int = 4) -> dict:
    """A faultless file of these boxes."""
    data = coco(num_images=images, size=SIZE)
    data["annotations"] = [
        {"id": i, "image_id": 5 + i % images, "category_id": 10 + 10 * (i % 2), "bbox": box, "area": box[2] * box[3]}
        for i, box in enumerate(boxes, 1)
    ]
    return data


def grid(n: int = 12) -> list:
    return [[100 + 30 * i, 50 + 20 * (i % 5), 60, 40 + i] for i in range(n)]


def as_corners(data):
    for ann in data["annotations"]:
        x, y, w, h = ann["bbox"]
        ann["bbox"] = [x, y, x + w, y + h]


def as_fractions(data, center=False):
    for ann in data["annotations"]:
        x, y, w, h = ann["bbox"]
        x, y = (x + w / 2, y + h / 2) if center else (x, y)
        ann["bbox"] = [x / SIZE[1], y / SIZE[0], w / SIZE[1], h / SIZE[0]]


def as_yolo(data):
    data["annotations"][0]["bbox"] = [0, 0, 60, 40]  # as xywh, halves would leave the image
    data["annotations"][1]["bbox"] = [540, 360, 60, 40]
    as_fractions(data, center=True)


def twice(data):
    data["annotations"] += [dict(a, id=a["id"] + 1000) for a in data["annotations"]]


def areas(data):
    for ann, area in zip(data["annotations"], [-5, math.nan, math.inf, None, 0, "7", 10**400, True], strict=False):
        ann["area"] = area
    del data["annotations"][8]["area"]


def image_ids_as_text(data):
    for ann in data["annotations"]:
        ann["image_id"] = str(ann["image_id"])


def category_ids_as_text(data):
    for entry in [*data["categories"], *data["annotations"]]:
        key = "category_id" if "bbox" in entry else "id"
        entry[key] = str(entry[key])


def float_ids(data):
    for entry in [*data["images"], *data["annotations"], *data["categories"]]:
        entry.update({key: float(value) for key, value in entry.items() if key.endswith("id")})


def same_ids(data):
    for ann in data["annotations"]:
        ann["id"] = 1


def all_crowd(data):
    for ann in data["annotations"]:
        ann["iscrowd"] = 1


def no_annotations(data):
    data["annotations"] = []


def no_list_of_annotations(data):
    del data["annotations"]


def rename(form):
    def change(data):
        for image in data["images"]:
            image["file_name"] = form.format(image["file_name"])

    change.__name__ = form
    return change


def upper(data):
    for image in data["images"]:
        image["file_name"] = image["file_name"].upper()


# fault, kind, whether it is an error, whether --fix mends it
FAULTS = [
    (as_corners, "corner_boxes", True, True),
    (as_fractions, "fractional_boxes", True, False),  # fits as corners of other boxes too: not guessed
    (as_yolo, "fractional_boxes", True, True),
    (twice, "duplicate_box", False, True),
    (areas, "unusable_area", False, True),
    (image_ids_as_text, "id_of_other_type", True, True),
    (category_ids_as_text, "text_category_id", True, True),
    (float_ids, "float_id", False, True),
    (same_ids, "duplicate_annotation_id", False, True),
    (all_crowd, "no_boxes", True, False),
    (no_annotations, "no_boxes", True, False),
    (no_list_of_annotations, "no_boxes", True, False),
    (rename("images/{}"), "misnamed_file", True, True),
    (rename("images\\{}"), "misnamed_file", True, True),
    (rename(r"C:\data\train\{}"), "misnamed_file", True, True),
    (rename("/home/someone/train/{}"), "misnamed_file", True, True),
    (rename("https://host/some%20where/{}?size=big#x"), "misnamed_file", True, True),
    (upper, "misnamed_file", True, True),
]


@pytest.mark.parametrize(("fault", "kind", "error", "mended"), FAULTS, ids=[f[0].__name__ for f in FAULTS])
def test_check_and_training_agree_and_fix_mends(tmp_path, capsys, fault, kind, error, mended):
    data = many(grid())
    path, images, out = write(tmp_path, data), tmp_path / "images", tmp_path / "out.json"
    assert judged_by_check(path, images) == set() and judged_by_training(path, images) == ""
    fault(data)
    write_json(path, data)
    before = path.read_bytes()

    report = check_dataset(path, images)
    assert report.findings[kind].severity == ("error" if error else "warning")
    assert {f.kind for f in report.errors} <= {kind, "id_of_other_type", "unknown_category"}
    assert main([str(path), "--images", str(images)]) == int(error)
    message = judged_by_training(path, images)
    assert bool(message) == error and (not error or kind.replace("_", " ") in message)

    capsys.readouterr()
    assert main([str(path), "--images", str(images), "--fix", str(out)]) == int(error and not mended)
    told = capsys.readouterr().out
    assert path.read_bytes() == before
    if mended:
        assert f" x {kind}\n" in told and "no errors" in told
        assert kind in MENDED and not check_dataset(out, images).findings
        assert judged_by_training(out, images) == ""
        kept = {"twice": 12}.get(fault.__name__, len(data["annotations"]))
        assert len(json.loads(out.read_text())["annotations"]) == kept


def test_mended_boxes_are_those_of_before(tmp_path):
    for fault in (as_corners, as_yolo):
        data = many(grid())
        if fault is as_yolo:
            data["annotations"][0]["bbox"], data["annotations"][1]["bbox"] = [0, 0, 60, 40], [540, 360, 60, 40]
        want = [a["bbox"] for a in data["annotations"]]
        path = write(tmp_path, data)
        fault(data)
        write_json(path, data)
        main([str(path), "--fix", str(tmp_path / "out.json"), "--overwrite"])
        found = json.loads((tmp_path / "out.json").read_text())["annotations"]
        assert [a["bbox"] for a in found] == [pytest.approx(box, abs=0.01) for box in want]
        assert [a["area"] for a in found] == [pytest.approx(w * h, rel=0.01) for _, _, w, h in want]


def test_fix_writes_over_nothing(tmp_path):
    path, out = write(tmp_path, many(grid())), tmp_path / "out.json"
    out.write_text("mine")
    (tmp_path / "link.json").symlink_to(path)
    for target, more, reason in (
        (path, ["--overwrite"], "never written over"),
        (tmp_path / "link.json", ["--overwrite"], "never written over"),
        (out, [], "there is such a file"),
        (tmp_path, [], "it is a folder"),
        (tmp_path / "none" / "x.json", [], "there is no folder"),
    ):
        before = path.read_bytes()
        with pytest.raises(UserError, match=reason):
            main([str(path), "--fix", str(target), *more])
        assert path.read_bytes() == before and out.read_text() == "mine"
    with pytest.raises(UserError, match="mends one file"):
        main([str(path), str(path), "--fix", str(tmp_path / "x.json")])
    assert main([str(path), "--fix", str(out), "--overwrite"]) == 0 and json.loads(out.read_text())


def test_more_objects_than_queries(tmp_path, caplog, capsys):
    data = many(grid(11), images=4)
    for ann in data["annotations"][:10]:
        ann["image_id"] = 5
    path = write(tmp_path, data)
    limits = [Limit("more_objects_than_queries", 6, "model.queries.num_queries")]
    (warning,) = check_dataset(path, limits=limits).warnings
    assert warning.count == 1 and warning.examples == ["image 0.png: 10 objects"]
    assert "6 queries (model.queries.num_queries): 4 objects" in warning.text and "take 10 or more" in warning.text
    with caplog.at_level(logging.WARNING):
        check_before_training(CocoDataset(path), limits=limits)
    assert warning.text in caplog.text
    assert main([str(path)]) == 0
    assert "most objects 10 on an image" in capsys.readouterr().out
    per_class = [Limit("more_objects_than_max_dets", 4, "dataloader.evaluator.max_dets")]
    assert check_dataset(path, limits=per_class).findings["more_objects_than_max_dets"].examples == [
        "image 0.png: 5 objects of class10",
        "image 0.png: 5 objects of class20",
    ]


@pytest.mark.parametrize(
    ("config", "queries", "top_k"),
    [("small", 60, 100), ("configs/quickstart.py", 40, 100), ("common/models/dab_detr_r50.py", 300, 300)],
)
def test_limits_are_those_of_the_config(config, queries, top_k):
    from detrex_ext.config import get_config, load_config

    cfg = get_config(config) if config.startswith("common") else load_config(config)
    found = {limit.kind.rsplit("than_")[1]: limit.number for limit in limits_of(cfg)}
    assert found["queries"] == queries and found["top_k"] == top_k
    if not config.startswith("common"):
        assert found["max_dets"] == 100


def test_sound_boxes_are_not_taken_for_others(tmp_path):
    large = [[10, 8, 580 - i, 380 - i] for i in range(8)]  # as corners they would fit too
    sloppy = [[x, y, w, h] if i % 2 else [x, y, 700, h] for i, (x, y, w, h) in enumerate(grid())]
    corner = [[0, 0, 1, 1], *grid()]
    for boxes in (large, sloppy, corner, grid(1)):
        assert judged_by_check(write(tmp_path, many(boxes))) == set()
    few = check_dataset(write(tmp_path, many([[0.2, 0.3, 0.4, 0.4], *grid()])))
    assert not few.errors and few.findings["few_fractional_boxes"].count == 1


def test_ap_is_finite_whatever_the_areas(tmp_path):
    data = many(grid())
    areas(data)
    path = write(tmp_path, data)
    truth = read_ground_truth(path)
    assert truth.boxes.area_P.tolist() == [a["bbox"][2] * a["bbox"][3] if i < 9 else a["area"]
                                           for i, a in enumerate(data["annotations"])]  # fmt: skip
    import torch

    from detrex_ext.runtime import Boxes, Instances

    evaluator = CocoEvaluator(path)
    for i, image_id in enumerate(truth.image_ids):
        xywh, classes, _ = (torch.tensor(x) for x in truth.objects_of(i))
        found = Instances(SIZE, pred_boxes=Boxes(torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1).float()))
        found.scores, found.pred_classes = torch.ones(len(xywh)), classes
        evaluator.process([{"image_id": image_id}], [{"instances": found}])
    result = evaluator.evaluate()["bbox"]
    assert result["AP"] == pytest.approx(100) and result["APm"] == pytest.approx(100)
    assert math.isnan(result["APs"]) and math.isnan(result["APl"])


def test_names_are_found_once_and_in_the_folder_alone(tmp_path):
    for name in ("a/x.jpg", "b/x.jpg", "b/Y.JPG", "É.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"")
    (tmp_path / "secret.png").write_bytes(b"")
    files = FileNames(tmp_path / "set", taken=["b/Y.JPG"])
    assert files.find("x.jpg") is None  # two of them
    assert files.find("z\\b\\X.jpg") == "b/x.jpg"
    assert files.find("y.jpg") is None  # another image's
    assert files.find("E\u0301.PNG") == "É.png"
    assert files.find("../secret.png") is None and files.find("") is None and files.find("///") is None
    assert parts_of("file:///d/a%20b.png") == ["d", "a b.png"]


def test_the_folder_is_found_by_a_misnamed_image(tmp_path):
    data = many(grid())
    write(tmp_path, data)
    rename("..\\old\\images\\{}")(data)
    path = write(tmp_path, data, images=False)
    assert find_images(read_ground_truth(path), None) == tmp_path / "images"


@pytest.mark.parametrize("seed", range(60))
def test_spoiled_files_are_judged_alike(tmp_path, seed):
    data = coco()
    path = write(tmp_path, data)
    write_json(path, spoiled(data, seed))
    for images in (None, tmp_path / "images"):
        assert bool(judged_by_check(path, images)) == bool(judged_by_training(path, images))
    try:
        code = main([str(path), "--images", str(tmp_path / "images"), "--fix", str(tmp_path / "out.json")])
    except UserError:
        return
    assert code == bool(judged_by_check(tmp_path / "out.json", tmp_path / "images"))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' + "1" * 5000 + "}", '{"a": "\xff"}'])
def test_hostile_json_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="x.json"):
        check_dataset(path)
