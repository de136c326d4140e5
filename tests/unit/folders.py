"""One small data set in the forms that folders of images and labels come in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 60, 40
CLASSES = ["bolt", "screw nut"]
Box = tuple[str, float, float, float, float]
# name -> boxes by class and corners; one image is background
TRAIN: dict[str, list[Box]] = {
    "a.png": [("bolt", 3, 6, 15, 22)],
    "b c.JPG": [("screw nut", 0, 0, 60, 40), ("bolt", 30, 10, 48, 26)],
    "d.e.png": [("screw nut", 6, 8, 12, 20)],
    "ünder.png": [],
}
VAL: dict[str, list[Box]] = {"f.png": [("bolt", 9, 2, 21, 38)], "g.png": [("screw nut", 12, 4, 54, 36)]}
ALL = TRAIN | VAL
SPLITS = {"train": TRAIN, "val": VAL}
MAKERS: dict[str, tuple[str, bool, Callable[[Path], None]]] = {}


def layout(form: str, splits: bool) -> Callable:
    """Registers a maker: the name that its form is recognised by, and whether it has splits."""

    def register(make: Callable[[Path], None]) -> Callable[[Path], None]:
        MAKERS[make.__name__] = (form, splits, make)
        return make

    return register


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(path)


def text(path: Path, content: str, end: str = "\n", coding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.replace("\n", end).encode(coding))


def coco_of(pictures: dict[str, list[Box]], prefix: str = "", first: int = 1) -> dict:
    size = {"width": WIDTH, "height": HEIGHT}
    images = [{"id": i, "file_name": prefix + name, **size} for i, name in enumerate(pictures)]
    annotations = [
        {"id": 0, "image_id": i, "category_id": CLASSES.index(c) + first, "iscrowd": 0, "area": (x1 - x0) * (y1 - y0),
         "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for i, boxes in enumerate(pictures.values()) for c, x0, y0, x1, y1 in boxes
    ]  # fmt: skip
    for number, annotation in enumerate(annotations):
        annotation["id"] = number
    categories = [{"id": k + first, "name": name, "supercategory": ""} for k, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def yolo_of(boxes: list[Box]) -> str:
    lines = [
        f"{CLASSES.index(c)} {(x0 + x1) / 2 / WIDTH:.9f} {(y0 + y1) / 2 / HEIGHT:.9f} {(x1 - x0) / WIDTH:.9f} "
        f"{(y1 - y0) / HEIGHT:.9f}\n"
        for c, x0, y0, x1, y1 in boxes
    ]
    return "".join(lines)


def voc_of(name: str, boxes: list[Box]) -> str:
    objects = "".join(
        f"<object><name>{c}</name><difficult>0</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
        f"<ymax>{y1}</ymax></bndbox></object>\n"
        for c, x0, y0, x1, y1 in boxes
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    return f"{head}<annotation><filename>{name}</filename>{size}\n{objects}</annotation>"


def stem(name: str) -> str:
    return name.rpartition(".")[0]


@layout("COCO", True)
def coco(root: Path) -> None:
    for split, pictures in SPLITS.items():
        text(root / f"{split}.json", json.dumps(coco_of(pictures)))
        for name in pictures:
            image(root / "images" / name)


@layout("COCO", False)
def coco_of_cvat(root: Path) -> None:
    text(root / "annotations" / "instances_default.json", json.dumps(coco_of(ALL)))
    for name in ALL:
        image(root / "images" / "default" / name)


@layout("COCO", False)
def coco_of_label_studio(root: Path) -> None:
    text(root / "result.json", json.dumps(coco_of(ALL, "images\\", 0)), coding="utf-8-sig")
    for name in ALL:
        image(root / "images" / name)


@layout("COCO", True)
def coco_of_roboflow(root: Path) -> None:
    for split, pictures in SPLITS.items():
        folder, data = root / {"val": "valid"}.get(split, split), coco_of(pictures)
        over = [{"id": 0, "name": "objects", "supercategory": "none"}]
        data["categories"] = over + [{**c, "supercategory": "objects"} for c in data["categories"]]
        text(folder / "_annotations.coco.json", json.dumps(data))
        for name in pictures:
            image(folder / name)
    text(root / "README.roboflow.txt", "exported\n")


def _yolo(root: Path, where: str, labels: str, end: str = "\n") -> None:
    for split, pictures in SPLITS.items():
        for name, boxes in pictures.items():
            image(root / where.format(split) / name)
            if boxes:
                text(root / labels.format(split) / f"{stem(name)}.txt", yolo_of(boxes), end)


@layout("YOLO", True)
def yolo_images_then_split(root: Path) -> None:
    _yolo(root, "images/{}", "labels/{}")
    about = "path: ../datasets/mine  # of another machine\ntrain: images/train\nval: images/val\ntest:  # none\n"
    text(root / "data.yaml", about + "names:\n  0: bolt\n  1: screw nut\n")


@layout("YOLO", True)
def yolo_of_roboflow(root: Path) -> None:
    _yolo(root, "{}/images", "{}/labels")
    (root / "val").rename(root / "valid")
    names = "nc: 2\nnames: ['bolt', 'screw nut']\n"
    text(root / "data.yaml", f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\n{names}", "\r\n")


@layout("YOLO", True)
def yolo_side_by_side(root: Path) -> None:
    _yolo(root, "{}", "{}", "\r\n")
    text(root / "dataset.yml", "train: /home/someone/set/train\nval: /home/someone/set/val\nnames: [bolt, screw nut]\n")


@layout("YOLO", True)
def yolo_lists(root: Path) -> None:
    _yolo(root, "images", "labels")
    for split, pictures in SPLITS.items():
        text(root / f"{split}.txt", "".join(f"./images/{name}\n" for name in pictures))
    text(root / "data.yaml", "train: train.txt\nval: [val.txt]\nnames: [bolt, screw nut]\n")


@layout("YOLO", False)
def yolo_of_label_studio(root: Path) -> None:
    _yolo(root, "images", "labels")
    text(root / "classes.txt", "bolt\nscrew nut\n", coding="utf-8-sig")
    text(root / "notes.json", json.dumps({"categories": [{"id": 0, "name": "bolt"}], "info": {"year": 2024}}))


@layout("YOLO", False)
def yolo_of_cvat(root: Path) -> None:
    _yolo(root, "obj_train_data", "obj_train_data")
    text(root / "obj.names", "bolt\nscrew nut\n")
    text(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    text(root / "train.txt", "".join(f"data/obj_train_data/{name}\n" for name in ALL))


@layout("Pascal VOC", True)
def voc(root: Path) -> None:
    for split, pictures in SPLITS.items():
        for name, boxes in pictures.items():
            image(root / "VOC2007" / "JPEGImages" / name)
            text(root / "VOC2007" / "Annotations" / f"{stem(name)}.xml", voc_of(name, boxes))
        names = "".join(f"{stem(name)}\n" for name in pictures).replace("b c\n", "b c.JPG\n")
        text(root / "VOC2007" / "ImageSets" / "Main" / f"{split}.txt", names)


@layout("Pascal VOC", True)
def voc_of_roboflow(root: Path) -> None:
    for split, pictures in SPLITS.items():
        for name, boxes in pictures.items():
            image(root / split / name)
            text(root / split / f"{stem(name)}.xml", voc_of(name, boxes), "\r\n")


@layout("Pascal VOC", False)
def voc_beside_images(root: Path) -> None:
    """The folder itself has labels alone; images are beside it, of other names than the files say."""
    for name, boxes in ALL.items():
        image(root.parent / "images" / name)
        text(root / f"{stem(name)}.xml", voc_of("IMG_0001.jpg", boxes))


@layout("CVAT for images", False)
def cvat(root: Path) -> None:
    labels = "".join(f"<label><name>{name}</name></label>" for name in CLASSES)
    shapes = '<box label="{}" occluded="0" xtl="{}" ytl="{}" xbr="{}" ybr="{}" z_order="0"></box>'
    size = f'width="{WIDTH}" height="{HEIGHT}"'
    images = "".join(
        f'<image id="{i}" name="{name}" {size}>{"".join(shapes.format(*b) for b in boxes)}</image>'
        for i, (name, boxes) in enumerate(ALL.items())
    )
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    text(root / "annotations.xml", f'<?xml version="1.0" encoding="utf-8"?><annotations>{meta}{images}</annotations>')
    for name in ALL:
        image(root / "images" / name)


def _percent(box: Box) -> dict:
    c, x0, y0, x1, y1 = box
    sides = {"x": x0 / WIDTH, "y": y0 / HEIGHT, "width": (x1 - x0) / WIDTH, "height": (y1 - y0) / HEIGHT}
    return {**{key: 100 * value for key, value in sides.items()}, "rotation": 0, "rectanglelabels": [c]}


@layout("Label Studio", False)
def label_studio(root: Path) -> None:
    tasks = [
        {"id": i, "file_upload": f"0123abcd-{name}", "data": {"image": f"/data/upload/1/0123abcd-{name}"},
         "annotations": [{"was_cancelled": False, "result": [
             {"type": "rectanglelabels", "original_width": WIDTH, "original_height": HEIGHT, "value": _percent(box)}
             for box in boxes]}]}
        for i, (name, boxes) in enumerate(ALL.items())
    ]  # fmt: skip
    tasks.append({"id": 99, "data": {"image": "/data/upload/1/a.png"}, "annotations": []})  # not labeled yet
    text(root / "project.json", json.dumps(tasks))
    for name in ALL:
        image(root / name)


@layout("Label Studio", False)
def label_studio_min(root: Path) -> None:
    tasks = [
        {"image": f"/data/local-files/?d=photos/{name}", "id": i, "annotator": 1, "annotation_id": i,
         "label": [_percent(box) for box in boxes]}
        for i, (name, boxes) in enumerate(ALL.items())
    ]  # fmt: skip
    text(root / "min.json", json.dumps(tasks))
    for name in ALL:
        image(root / "photos" / name)


def make(name: str, root: Path) -> Path:
    """Writes a layout to a new folder."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    MAKERS[name][2](root)
    return root
