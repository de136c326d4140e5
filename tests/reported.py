"""A run folder that nobody trained, with names that a stranger would like a browser to run."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from unit.data_sets import coco, write

from detrex_ext.data.ground_truth import BoxTable, read_ground_truth

EVIL = "<script>document.title='run'</script>\"'&<img src=http://x onerror=alert(1)>"
VOID = {"meta", "img", "br", "line", "circle", "rect", "polyline"}


class Page(HTMLParser):
    """Refuses tags that do not close in order; keeps every tag with its attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text += data


def check_page(text: str) -> Page:
    """Well-formed, of this file alone, and nothing in it can run."""
    page = Page(text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "base", "form", "video"})
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
        for name in ("src", "href", "action", "srcset"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#s")), (tag, value)
        assert "url(" not in attrs.get("style", "")
    assert len(text) < 5_000_000
    return page


def run_folder(root: Path, name: str = EVIL) -> Path:
    """A run on a set of 4 images and 2 classes, of which one, a file and several values are called ``name``."""
    data = coco()
    data["categories"][0]["name"] = name
    write(root, data)
    file = "a<b>&'\".png"
    (root / "images" / "3.png").rename(root / "images" / file)
    data["images"][3]["file_name"] = file
    (root / "set.json").write_text(json.dumps(data))
    run = root / "run"
    run.mkdir()
    line = {f"loss_{name}": 1.0, "lr": 0.1, "bbox/AP": 2}
    lines = [{"iteration": i, "total_loss": 10 / (1 + i), **line} for i in range(9)]
    (run / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = {"bbox": {"AP": 41.5, "AP50": None, f"AP-{name}": 3.0, "AP-class10": 80.0},
               "bbox_f1": {"threshold": 0.5, "F1": 50.0, f"threshold-{name}": 0.2}, name: {name: 1.0}}  # fmt: skip
    (run / "evaluation.json").write_text(json.dumps({"iteration": 8, "key": "", "results": results}))
    config = {"train": {"output_dir": name, "max_iter": 9, "overfit": 0}, name: [name, {name: 1}],
              "dataset": {"val_json": str(root / "set.json"), "val_images": str(root / "images")}}  # fmt: skip
    (run / "config.yaml").write_text(json.dumps(config))
    table = f"Environment info:\n------  -----\ntorch   1.0{name}\nGPU     none\n------  -----\n"
    (run / "log.txt").write_text(f"{table}Command line arguments: Namespace(config_file='/any/where/small.py', x=1)\n")
    return run


def found_in(root: Path, classes=(0, 1, 0, 1), shift=(0, 0, 0, 30), score=(0.9, 0.8, 0.7, 0.6)):
    """Ground truth, and one detection an image: of these classes, shifted by so many pixels."""
    truth = read_ground_truth(root / "set.json")
    xywh = truth.boxes.xywh_P4 + np.array(shift)[:, None] * np.array([1.0, 0, 0, 0])
    return truth, BoxTable(np.arange(4), np.array(classes), xywh, np.array(score, dtype=float))
