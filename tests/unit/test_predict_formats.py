"""What `predict` writes: COCO, YOLO and CSV that read back as what was found; names that mean harm; cut-outs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from bright import bright
from bright import run as run  # the fixture
from PIL import Image
from pycocotools.coco import COCO
from test_predicting import predict

from detrex_ext.cli import dispatch
from detrex_ext.cli.predict_crops import Crops, folder_names
from detrex_ext.cli.predict_files import find_images, names_of
from detrex_ext.cli.predict_formats import COLUMNS, CocoFormat, CsvFormat, JsonFormat, YoloFormat, row_of
from detrex_ext.cli.predict_options import build_parser
from detrex_ext.cli.predict_work import Work
from detrex_ext.data.folders import prepare
from detrex_ext.predicting.found import Found
from detrex_ext.predicting.sources import Frames
from detrex_ext.runtime import Boxes

HOSTILE = ["=cmd|'/c calc'!A1", "../x", "a/b", "'quoted", "+1", "@sum", "-2", "\tx", "猫", 'Straße, "A";B', "", "a\nb"]


def answer(count=None, size=(60, 90), names=HOSTILE):
    count = len(names) if count is None else count
    corner = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) * 40
    boxes = torch.cat([corner, corner + 3 + corner.flip(1) / 4], 1)
    return Found(size, names, pred_boxes=Boxes(boxes), scores=torch.linspace(0.9, 0.31, count),
                 pred_classes=torch.arange(count) % len(names))  # fmt: skip


def rows():
    film = [answer(n).of_frame(i, i / 25) for i, n in enumerate((3, 0, 2))]
    files = [(Path("=1+1.png"), "=1+1", answer()), (Path("bär/x.png"), "x", answer(0))]
    return [row_of(*one) for one in files] + [row_of(Path("film.mp4"), "film", one) for one in film]


def written(kind, folder, **more):
    one = kind(folder, HOSTILE, [7 * k + 3 for k in range(len(HOSTILE))], **more)
    for row in rows():
        one.add(row)
    return one.close()


def test_csv_reads_back_equal_and_no_cell_is_a_formula(tmp_path):
    assert written(CsvFormat, tmp_path) == [tmp_path / "predictions.csv"]
    with open(tmp_path / "predictions.csv", encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == COLUMNS
    assert not [v for line in read for v in line.values() if v[:1] in tuple("=+-@\t\r\n＝＋－＠")]
    lines = iter(read)
    for row in rows():
        for box, score, name, _ in row.objects:
            line = next(lines)
            told = {key: line[key].removeprefix("'") for key in ("file", "class")}
            assert told == {"file": str(row.file), "class": name}
            assert [float(line[key]) for key in ("score", "x1", "y1", "x2", "y2")] == [score, *box]
            assert (line["frame"], line["time"]) == tuple(str(row.about.get(key, "")) for key in ("frame", "time"))
            assert (int(line["width"]), int(line["height"])) == (90, 60)
    assert next(lines, None) is None


def test_a_name_that_is_no_unicode_ends_nothing(tmp_path):
    for kind in (CsvFormat, JsonFormat, CocoFormat, YoloFormat):
        one = kind(tmp_path, ["a\udcff"], [])
        one.add(row_of(Path("b\udcfe.png"), "b", answer(1, names=["a\udcff"])))
        assert all(path.exists() for path in one.close())


def test_yolo_reads_back_equal_and_as_a_data_set(tmp_path):
    written(YoloFormat, tmp_path)
    about = {"nc": len(HOSTILE), "names": dict(enumerate(HOSTILE))}
    assert yaml.safe_load((tmp_path / "data.yaml").read_text(encoding="utf-8")) == about
    for row in rows():
        name = f"film/{row.about['frame']:06d}" if "frame" in row.about else row.name
        lines = (tmp_path / "labels" / f"{name}.txt").read_text().splitlines()
        assert len(lines) == len(row.objects)
        for line, (box, score, _, k) in zip(lines, row.objects, strict=True):
            class_, x, y, wide, high, told = line.split()
            read = np.array([float(x) - float(wide) / 2, float(y) - float(high) / 2] * 2)
            read[2:] += float(wide), float(high)
            assert (int(class_), float(told)) == (k, score) and np.allclose(read * [90, 60, 90, 60], box, atol=1e-5)


def test_yolo_labels_are_a_data_set_beside_their_images(tmp_path):
    one = YoloFormat(tmp_path, ["猫", "dog"], [])
    for name in ("x", "y"):
        Image.new("RGB", (90, 60)).save(tmp_path / f"{name}.png")
        one.add(row_of(tmp_path / f"{name}.png", name, answer(2, names=["猫", "dog"])))
    one.close()
    found = prepare(str(tmp_path), tmp_path / "out", 0, None, True)
    data = [json.loads(Path(found.of(split)[0]).read_text(encoding="utf-8")) for split in ("train", "val")]
    assert [c["name"] for c in data[0]["categories"]] == ["猫", "dog"]
    boxes = sorted(a["bbox"] for one in data for a in one["annotations"])
    expected = answer(2).pred_boxes.tensor
    expected = torch.cat([expected[:, :2], expected[:, 2:] - expected[:, :2]], 1)
    assert np.allclose(boxes, sorted(expected.tolist() * 2), atol=0.02)


def test_coco_reads_back_equal(tmp_path, capsys):
    assert written(CocoFormat, tmp_path) == [tmp_path / "coco.json"]
    coco = COCO(str(tmp_path / "coco.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == HOSTILE and coco.getCatIds()[:3] == [3, 10, 17]
    for image, row in zip(coco.dataset["images"], rows(), strict=True):
        about = row.about
        of_frame = {"video": "film.mp4", "frame": about.get("frame"), "time": about.get("time")}
        assert of_frame.items() <= image.items() if "frame" in about else image["file_name"] == str(row.file)
        found = coco.loadAnns(coco.getAnnIds(image["id"]))
        for one, (box, score, name, _) in zip(found, row.objects, strict=True):
            x, y, wide, high = one["bbox"]
            assert np.allclose([x, y, x + wide, y + high], box, atol=1e-6) and one["score"] == score
            assert coco.cats[one["category_id"]]["name"] == name and one["area"] == pytest.approx(wide * high, abs=0.01)


def test_json_has_a_line_for_each_frame_when_it_was_found(tmp_path):
    one = JsonFormat(tmp_path, HOSTILE, [])
    for row in rows()[2:4]:
        one.add(row)
    lines = [json.loads(line) for line in (tmp_path / "film.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["time"], len(line["boxes"])) for line in lines] == [(0, 0.0, 3), (1, 0.04, 0)]
    assert lines == [row.about for row in rows()[2:4]]
    assert one.close() == [tmp_path / "film.jsonl"] and not (tmp_path / "predictions.json").exists()


@pytest.mark.parametrize(
    "names",
    [
        ["../x", "..\\x", "..", ".", "", "/", "/etc", "C:\\x", "a/b", "a_b", "A_B", "con", "COM1.txt", "x.", "x ", "x"],
        ["n" * 300, "n" * 301, "猫" * 200, "\0", "\n", "a\u2028b", "\udcff", "é", "e\u0301", "-rf", "~", "$(x)", "a:b"],
    ],
)
def test_any_class_has_a_folder_of_its_own_inside(names, tmp_path):
    folders = folder_names(names)
    assert len({name.casefold() for name in folders}) == len(names)
    for name in folders:
        made = tmp_path / "crops" / name
        made.mkdir(parents=True)
        assert made.resolve().parent == (tmp_path / "crops").resolve() and len(name.encode()) < 200
        assert not set(name) & set('<>:"/\\|?*') and name == name.strip(" .") and name.isprintable()
        assert name.split(".")[0].casefold() not in ("con", "com1")
    assert folder_names(["kangaroo", "Straße 1", "猫"]) == ["kangaroo", "Straße 1", "猫"]


def test_crops_are_the_pixels_of_the_objects(tmp_path):
    image = np.zeros((60, 90, 3), dtype=np.uint8)
    image[10:20, 30:50, 0], image[40:60, 80:90] = 200, 250
    crops = Crops(tmp_path, ["a/b", "../x"])
    found = bright(names=["a/b", "../x"]).predict(image, 0)
    assert crops.save(image, found, "photo") == 2
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")) == [
        "crops/_x/photo_2.png" if found.names[1] == "../x" else "crops/_x/photo_1.png",
        "crops/a_b/photo_1.png" if found.names[1] == "../x" else "crops/a_b/photo_2.png",
    ]
    of_class = {path.parent.name: np.array(Image.open(path)) for path in tmp_path.rglob("*.png")}
    assert np.array_equal(of_class["a_b"], image[10:20, 30:50]) and np.array_equal(of_class["_x"], image[40:, 80:])
    outside = answer(1, size=(60, 90))
    outside.pred_boxes.tensor[:] = torch.tensor([89.999, 59.9999, 90, 60])
    assert crops.save(image, outside, "edge") == 1 and Image.open(tmp_path / "crops/a_b/edge_1.png").size == (1, 1)


def test_names_of_files_that_are_alike(tmp_path):
    paths = [Path(p) for p in ("a/1.png", "b/1.jpg", "c/1.MP4", "x/..mp4", "...mp4", "A.png", "a.png", "1_2.png")]
    assert names_of(paths) == ["1", "1_2", "1_3", "frames", "frames_2", "A", "a_2", "1_2_2"]
    for name in ("2.png", "10.png", "1.JPG", "note.txt", "clip.mp4"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in find_images([str(tmp_path)])] == ["1.JPG", "2.png", "10.png"]
    assert [p.name for p in find_images([str(tmp_path / "c*")])] == ["clip.mp4"]


def test_what_is_written_of_frames_is_not_named_as_that_of_an_image(run, tmp_path):
    assert names_of([Path("a_000012.png"), Path("a.png")], [Path("A.mp4"), Path("a.TXT.mp4"), Path("a_1.mp4")]) == [
        "a_000012", "a", "A_2", "a.TXT_2", "a_1"]  # fmt: skip
    (tmp_path / "a.txt").mkdir()
    work = Work(bright(), build_parser().parse_args([str(run), "--no-draw", "--crops", "--format", "yolo"]), tmp_path,
                None)  # fmt: skip
    for name in ("0", "1"):
        (run / f"{name}.png").rename(tmp_path / "a.txt" / f"{name}.png")
    frames = Frames([tmp_path / "a.txt" / f"{name}.png" for name in "01"], 5)
    images = [tmp_path / name for name in ("a.png", "a.txt_000001.png")]
    for image in images:
        shutil.copy(run / "2.png", image)
    names = names_of(images, [tmp_path / "a.txt"])
    work.on_images(images, names[:2])
    work.on_video(frames, tmp_path / "a.txt", names[2])
    work.close()
    assert len(list((tmp_path / "crops").rglob("*.png"))) == 8 and len(list((tmp_path / "labels").rglob("*.txt"))) == 4


@pytest.mark.parametrize(
    ("there", "more"),
    [("predictions.json", ""), ("coco.json", "--format coco"), ("data.yaml", "--format yolo"),
     ("predictions.csv", "--format csv"), ("0.png", ""), ("run.jsonl", "--fps 5 --no-draw")],
)  # fmt: skip
def test_a_folder_where_a_file_is_to_be_is_told_before_anything_is_found(run, tmp_path, capsys, there, more):
    (tmp_path / "out" / there).mkdir(parents=True)
    assert predict(run, tmp_path / "out", *more.split()) == 2
    said = capsys.readouterr()
    assert f"{there} is to be a file, and a folder is there" in said.err and "threshold" not in said.out


def test_a_file_where_a_folder_is_to_be_is_told(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "crops").touch()
    assert predict(run, tmp_path / "out", "--crops") == 2
    assert "Not a directory" in capsys.readouterr().err


def test_the_ground_truth_is_not_written_over(run, tmp_path, capsys):
    (tmp_path / "coco.json").write_text("{}")
    more = ["--ground-truth", str(tmp_path / "coco.json"), "--format", "coco"]
    assert predict(run, tmp_path, *more) == 2
    assert "coco.json is an input and would be overwritten" in capsys.readouterr().err
    assert (tmp_path / "coco.json").read_text() == "{}"


def test_the_command_writes_several_formats_and_crops(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(run, out, "--format", "csv,coco", "--format", "yolo", "--crops", "--no-draw") == 0
    said = capsys.readouterr().out
    assert ", drawn in" not in said and f"all in {out}/predictions.csv, {out}/coco.json, {out}/labels, " in said
    assert sorted(p.name for p in out.iterdir()) == ["coco.json", "crops", "data.yaml", "labels", "predictions.csv"]
    coco = json.loads((out / "coco.json").read_text())
    lines = (out / "predictions.csv").read_text().splitlines()
    crops = list((out / "crops").rglob("*.png"))
    assert len(coco["annotations"]) == len(lines) - 1 == len(crops) == 6
    assert coco["categories"] == [{"id": 1, "name": "red"}, {"id": 2, "name": "white"}]
    assert sorted(path.parent.name for path in crops) == ["red"] * 3 + ["white"] * 3
    boxes = {(a["image_id"], a["category_id"]): a["bbox"] for a in coco["annotations"]}
    assert boxes[1, 2] == [10, 5, 10, 20] and boxes[3, 1] == [32, 30, 18, 20]


def test_coco_has_the_ids_of_the_ground_truth(run, tmp_path, capsys):
    truth = {
        "images": [{"id": 41, "file_name": "1.png", "width": 60, "height": 90}],
        "categories": [{"id": 4, "name": "circle"}],
        "annotations": [{"id": 1, "image_id": 41, "category_id": 4, "bbox": [10, 10, 30, 30]}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    more = ["--format", "coco", "--ground-truth", str(tmp_path / "truth.json"), "--no-draw"]
    assert predict(run, tmp_path / "out", *more) == 0
    images = json.loads((tmp_path / "out" / "coco.json").read_text())["images"]
    assert {Path(image["file_name"]).name: image["id"] for image in images} == {"0.png": 42, "1.png": 41, "2.png": 43}


@pytest.mark.parametrize(
    "line, message",
    [
        ("a.png --format xml", "--format xml: expected some of json, coco, yolo, csv"),
        ("a.png --every 2", "--every and --max-frames are of videos"),
        ("a.png --every 0", "--every 0: expected 1 or more"),
        ("a.png --fps 0", "--fps 0.0: expected frames a second"),
        ("a.png --fps nan", "--fps nan: expected"),
        ("a.png --webcam 0", "--webcam names what is looked at"),
        ("0", "no images in 0: .*\n.*\n  for a camera: --webcam 0"),
        ("a.png --tile 7", "--tile 7 --tile-overlap 0.25: .*from 16 pixels"),
        ("a.png --tile big", "--tile big"),
        ("a.png --tile 64 --tile-overlap 1", "expected sides"),
        ("a.png --tile auto", "nothing resizes images for this model, so name a side in pixels"),
        ("a.mp4 --ground-truth x.json", "--ground-truth and --data are of images"),
        ("a.mp4 a.png --fps 5", "--fps is of images that are frames"),
        ("a.png --fps 5 --ground-truth x.json", "--ground-truth is of images"),
    ],
)
def test_what_makes_no_sense_is_told(run, tmp_path, monkeypatch, capsys, line, message):
    import re

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (90, 60)).save("a.png")
    Path("a.mp4").touch()
    assert dispatch(["predict", str(run), *line.split(), "--device", "cpu", "--output", "out"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_slices_by_the_command(run, tmp_path, capsys):
    command = ["predict", str(run), str(run / "0.png"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert dispatch([*command, "--tile", "64", "--no-draw"]) == 0
    said = capsys.readouterr().out
    assert "slices: 64 x 64 pixels, 25% of them shared" in said and "2 objects" in said
