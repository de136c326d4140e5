"""`--data DIR`: folders of any form are read as the same boxes, and what is wrong with one is named."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import folders
import pytest
from folders import ALL, CLASSES, HEIGHT, MAKERS, SPLITS, WIDTH, image, make, text, voc_of, yolo_of

from detrex_ext.cli import dispatch
from detrex_ext.cli.predict_files import SUFFIXES
from detrex_ext.data import CocoDataset, check_dataset
from detrex_ext.data.folders import listing, prepare
from detrex_ext.errors import UserError


def boxes_of(found, split: str) -> dict:
    """Boxes by the name of the image, as a training reads them."""
    dataset = CocoDataset(*found.of(split))
    assert dataset.class_names == CLASSES
    corners = {}
    for record in dataset:
        assert (record["height"], record["width"]) == (HEIGHT, WIDTH)
        corners[Path(record["file_name"]).name] = [
            (CLASSES[a["category_id"]], x, y, x + w, y + h) for a in record["annotations"] for x, y, w, h in [a["bbox"]]
        ]
    return corners


def same(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for name, boxes in expected.items():
        assert [box[0] for box in found[name]] == [box[0] for box in boxes]
        for one, other in zip(found[name], boxes, strict=True):
            assert one[1:] == pytest.approx(other[1:], abs=2e-3)


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_boxes_are_read_of_every_form(name, tmp_path):
    form, has_splits, _ = MAKERS[name]
    found = prepare(make(name, tmp_path / "set"), tmp_path / "run")
    assert found.decisions.startswith(f"layout: {form}\n")
    assert f"2 class{'es'}" in found.decisions and "bolt, screw nut" in found.decisions
    train, val = boxes_of(found, "train"), boxes_of(found, "val")
    if has_splits:
        same(train, SPLITS["train"])
        same(val, SPLITS["val"])
    else:
        same(train | val, ALL)
        assert len(val) == 1 and "seed 0" in found.decisions
    assert (found.folder / "decisions.txt").read_text("utf-8").endswith(found.decisions + "\n")
    for split in ("train", "val"):
        report = check_dataset(*found.of(split))
        assert not report.errors and set(report.findings) <= {"class_without_boxes"}


def test_equal_folders_give_equal_files_and_others_are_not_written_over(tmp_path):
    one, other = (make("yolo_of_cvat", tmp_path / name) for name in ("one", "other"))
    first, second = prepare(one, tmp_path / "a"), prepare(other, tmp_path / "b")
    assert first.folder.name == second.folder.name
    assert all(Path(first.json[s]).read_bytes() == Path(second.json[s]).read_bytes() for s in ("train", "val"))
    seeded = prepare(one, tmp_path / "a", seed=5)
    assert seeded.folder != first.folder and Path(first.json["val"]).is_file()
    assert len({Path(prepare(one, tmp_path / "a", seed).json["val"]).read_bytes() for seed in range(6)}) > 2
    before = os.stat(first.json["val"]).st_mtime_ns
    assert prepare(one, tmp_path / "a").folder == first.folder
    assert os.stat(first.json["val"]).st_mtime_ns == before


def test_an_image_that_is_added_moves_few_others_between_the_splits(tmp_path):
    def val(count: int) -> set[str]:
        for i in range(count):
            image(tmp_path / "set" / f"{i}.png")
            text(tmp_path / "set" / f"{i}.txt", "0 0.5 0.5 0.2 0.2")
        found = prepare(tmp_path / "set", tmp_path / "run")
        return {i["file_name"] for i in json.loads(Path(found.json["val"]).read_text())["images"]}

    before, after = val(20), val(23)
    assert len(before) == 4 and len(after) == 5 and len(before & after) >= 3


def test_what_is_left_out_is_told_with_names(tmp_path):
    root = make("voc_of_roboflow", tmp_path / "set")
    text(root / "train" / "lost.xml", voc_of("lost.png", [("bolt", 1, 2, 3, 4)]))
    text(root / "train" / "a.xml", voc_of("a.png", [("bolt", 15, 22, 3, 6)]))
    text(root / "train" / "d.e.xml", voc_of("d.e.png", [("bolt", "nan", 1, 2, 3), ("screw nut", 6, 8, 12, 20)]))
    (root / "train" / "ünder.xml").unlink()
    (root / "deep").mkdir()
    os.symlink("/", root / "deep" / "everything")
    found = prepare(root, tmp_path / "run")
    same(boxes_of(found, "train"), SPLITS["train"])
    for line in (
        "1 x label file without an image, or with several that could be meant: train/lost.xml",
        "1 x box with its corners swapped, put in order: train/a.xml",
        "1 x object without a name or four numbers: train/d.e.xml",
        "1 x folder that was not entered (a link): deep/everything",
        "1 images without a label file are background",
    ):
        assert line in found.decisions


def test_shapes_that_are_no_boxes_have_one_around_them(tmp_path):
    """Turned ones too; expected are the corners by hand."""
    image(tmp_path / "cvat" / "a.png")
    image(tmp_path / "cvat" / "b.png")
    shapes = (
        '<polygon label="x" points="10,5;20,5;15,25"/>'
        '<box label="x" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"/>'
        '<ellipse label="x" cx="20" cy="20" rx="10" ry="5" rotation="90"/>'
        '<mask label="x" rle="1" left="3" top="4" width="5" height="6"/><points label="x" points="1,1"/>'
    )
    images = "".join(f'<image name="{n}.png" width="60" height="40">{shapes}</image>' for n in "ab")
    text(tmp_path / "cvat" / "x.xml", f"<annotations>{images}</annotations>")
    found = prepare(tmp_path / "cvat", tmp_path / "run")
    boxes = [a["bbox"] for a in CocoDataset(*found.of("val"))[0]["annotations"]]
    expected = [[10, 5, 10, 20], [15, 5, 10, 20], [15, 10, 10, 20], [3, 4, 5, 6]]
    assert len(boxes) == 4
    for box, wanted in zip(boxes, expected, strict=True):
        assert box == pytest.approx(wanted, abs=1e-3)
    assert "2 x points without a label or a box: a.png, b.png" in found.decisions

    for n in "ab":
        image(tmp_path / "yolo" / f"{n}.png")
        text(tmp_path / "yolo" / f"{n}.txt", "1 0.1 0.1 0.5 0.2 0.3 0.6\n1 .5 .5 .2 .2 0.9\n")
    found = prepare(tmp_path / "yolo", tmp_path / "run")
    boxes = [a["bbox"] for a in CocoDataset(*found.of("val"))[0]["annotations"]]
    assert boxes[0] == pytest.approx([6, 4, 24, 20]) and boxes[1] == pytest.approx([24, 16, 12, 8])
    assert "polygon or turned box" in found.decisions and "class 1" in found.decisions


def test_names_of_classes_are_texts_whatever_yaml_takes_them_for(tmp_path):
    root = make("yolo_side_by_side", tmp_path / "set")
    text(root / "dataset.yml", "train: train\nval: val\nnames: [no, 01, !!python/name:os.system ]\n")
    with pytest.raises(UserError, match="names has 2: "):
        prepare(root, tmp_path / "run")
    text(root / "dataset.yml", "train: train\nval: val\nnames: [no, 01]\n")
    assert CocoDataset(*prepare(root, tmp_path / "run").of("val")).class_names == ["no", "01"]


def test_the_images_may_lie_elsewhere_and_the_file_may_be_named(tmp_path):
    root = make("coco_of_cvat", tmp_path / "set")
    os.rename(root / "images", tmp_path / "photographs")
    with pytest.raises(UserError, match="COCO, and no image below it\n  found 1 .json.*\n.*--data-images DIR"):
        prepare(root, tmp_path / "run")
    found = prepare(root / "annotations" / "instances_default.json", tmp_path / "run", images=tmp_path / "photographs")
    same(boxes_of(found, "train") | boxes_of(found, "val"), ALL)


def test_files_of_runs_and_of_data_inside_of_the_folder_are_no_data(tmp_path):
    root = make("yolo_images_then_split", tmp_path / "set")
    first = prepare(root, root / "output" / "run")
    text(root / "output" / "run" / "config.yaml", "names: [x]\nval: y")
    text(root / "output" / "run" / "log.txt", "")
    image(root / "output" / "run" / "predictions" / "a.png")
    again = prepare(root, tmp_path / "elsewhere")
    assert Path(first.json["train"]).read_bytes() == Path(again.json["train"]).read_bytes()
    assert "folder that was not entered (a run): output/run" in again.decisions


BROKEN = {
    "class that is not named": (
        "yolo_of_roboflow", lambda r: text(r / "train/labels/a.txt", "7 .5 .5 .2 .2"),
        r"data.yaml does not name: 7 \(1 boxes\)\n  first: train/labels/a.txt line 1; it names 0 to 1: bolt",
    ),
    "boxes in pixels": (
        "yolo_of_cvat", lambda r: [text(p, "0 30 20 12 8") for p in r.glob("obj_train_data/*.txt")],
        "5 of 5 YOLO boxes are no fractions of the image, so perhaps pixels\n  first: obj_train_data/a.txt line 1",
    ),
    "yaml bomb": (
        "yolo_of_roboflow",
        lambda r: text(r / "data.yaml", "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))),
        "data.yaml: more than 100,000 values",
    ),
    "billion laughs": (
        "cvat", lambda r: text(r / "annotations.xml", '<!DOCTYPE a [<!ENTITY b "h"><!ENTITY c "&b;">]><annotations>'),
        "annotations.xml cannot be read: it declares entities",
    ),
    "no XML": (
        "cvat", lambda r: text(r / "annotations.xml", "<annotations>" + (r / "annotations.xml").read_text("utf-8")),
        "annotations.xml: it is no valid XML",
    ),
    "video": ("cvat", lambda r: text(r / "annotations.xml", "<annotations><track/></annotations>"), "tracks of a"),
    "no image": (
        "cvat", lambda r: [p.rename(p.with_name(f"other_{p.name}")) for p in (r / "images").iterdir()],
        "it names 6 images, and none is below the folder\n  export it with 'Save images'",
    ),
    "two files for one split": (
        "coco", lambda r: text(r / "train_2.json", (r / "train.json").read_text()),
        "several COCO files for train: train.json, train_2.json\n  name one: --data FILE",
    ),
    "labels of nothing": (
        "yolo_of_label_studio", lambda r: [p.unlink() for p in (r / "labels").iterdir()],
        "no data set is recognised",
    ),
    "LabelMe": (
        "label_studio", lambda r: text(r / "project.json", '{"shapes": [], "imagePath": "a.png"}'),
        "project.json looks like LabelMe: export the set as COCO",
    ),
    "packed": ("coco", lambda r: [p.unlink() for p in r.glob("*.json")] + [text(r / "x.zip", "")], "unpack it first"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_cannot_be_used_is_named_in_one_message(name, tmp_path):
    maker, breaks, message = BROKEN[name]
    root = make(maker, tmp_path / "set")
    breaks(root)
    with pytest.raises(UserError, match=message):
        prepare(root, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "head", ['<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>', '<!DOCTYPE a [<!ENTITY % b "x">]>']
)
def test_a_label_file_with_entities_is_left_out_with_its_image(head, tmp_path):
    root = make("voc_of_roboflow", tmp_path / "set")
    text(root / "train" / "a.xml", f"{head}<annotation><object><name>&b;</name></object></annotation>")
    found = prepare(root, tmp_path / "run")
    assert "1 x label file that cannot be read, with its image (it declares entities" in found.decisions
    text(root / "train" / "a.xml", "\0")
    assert "with its image (it is no valid XML" in prepare(root, tmp_path / "run").decisions
    assert "a.png" not in boxes_of(found, "train")


def test_nothing_outside_of_the_folder_is_looked_at(tmp_path):
    image(tmp_path / "secret" / "s.png")
    root = make("yolo_lists", tmp_path / "set")
    text(root / "train.txt", "./images/a.png\n../secret/s.png\n/etc/passwd\n")
    found = prepare(root, tmp_path / "run")
    assert set(boxes_of(found, "train")) == {"a.png"} and "2 images of train.txt are not there" in found.decisions
    os.mkfifo(root / "labels" / "pipe.txt")
    os.symlink("/dev/zero", root / "labels" / "zero.txt")
    assert prepare(root, tmp_path / "run").folder.is_dir()


def test_faults_of_boxes_are_those_that_the_check_of_a_coco_file_names(tmp_path, capsys):
    root = make("voc", tmp_path / "set")
    for path in root.rglob("*.xml"):
        path.write_text(re.sub(r"<(x|y)(min|max)>(\d+)<", lambda m: f"<{m[1]}{m[2]}>{int(m[3]) / 100}<",
                               path.read_text("utf-8")), encoding="utf-8")  # fmt: skip
    assert dispatch(["check", "--data", str(root)]) == 1
    said = capsys.readouterr()
    assert "fractional_boxes" in said.out and f"{root} (train)\n" in said.out and "--fix" not in said.out
    assert "layout: Pascal VOC" in said.err


def test_check_writes_coco_files_where_it_is_told(tmp_path, capsys):
    root = make("label_studio", tmp_path / "set")
    assert dispatch(["check", "--data", str(root), "--output", str(tmp_path / "coco")]) == 0
    assert {p.name for p in (tmp_path / "coco").iterdir()} == {"train.json", "val.json", "decisions.txt"}
    assert "image that nobody has labeled yet" in capsys.readouterr().err
    text(tmp_path / "full" / "x.txt", "")
    assert dispatch(["check", "--data", str(root), "--output", str(tmp_path / "full")]) == 2
    assert "the folder holds other files" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line, message",
    [
        ("train --config-file small --data nowhere", "--data nowhere: no such folder\n"),
        ("train --config-file small --data x.zip", "--data x.zip: unpack it, and name the folder"),
        ("train --config-file small --data http://x/y", "an address; download and unpack it"),
        ("train --config-file small --data set dataset.val_json=x", "names the data, and so does dataset.val_json=x"),
        ("train --config-file small --data-seed 3", "--data-images and --data-seed go with --data DIR"),
        ("train --config-file small --data set --data-images no", "--data-images no: expected a folder of images"),
        ("train --config-file small --data empty", "--data .*empty: no data set is recognised\n  found no files"),
        ("train --config-file small --data alone", "images alone have no boxes; predict RUN DIR draws"),
        ("predict run.pth", "predict: name images, videos, a folder of them, or a data set by --data DIR"),
        ("predict run.pth a.png --data set", "without INPUT and --ground-truth"),
        ("check x.json --data set", "check --data DIR is without JSON and --fix"),
    ],
)
def test_mistakes_of_the_command_line(line, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make("voc", tmp_path / "set")
    (tmp_path / "empty").mkdir()
    image(tmp_path / "alone" / "a.png")
    assert dispatch(line.split()) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "output").exists()


def test_predict_reads_the_images_that_it_reads_by_itself():
    assert listing.SUFFIXES == SUFFIXES
    assert yolo_of(folders.TRAIN["ünder.png"]) == ""
